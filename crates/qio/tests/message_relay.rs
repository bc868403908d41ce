//! The relay between channels of messages, and between one of them and a stream.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{impatiently, patience};
use qio::channel::MessageError;
use qio::layer::{Framed, Framing, LONGEST_FRAME_BYTES};
use qio::relay::{End, HalfClose, Record, Relay, RelayOptions};
use qio::transport::{Duplex, MessageKind, Messages, Socket, from_fd};
use qio::{Channel, ChannelExt, FdSink, Features, Mode, ReadFlags, WriteFlags, watch};
use qio_testkit::{Chaos, Plan};

type Shared = Arc<dyn Channel>;

/// Two ends of one kind: ours, and that of the relay.
type Pair = fn() -> (Shared, Shared);

fn unix(kind: MessageKind) -> (Shared, Shared) {
    let (left, right) = Messages::pair(kind).unwrap();
    (Arc::new(left), Arc::new(right))
}

fn udp() -> (Shared, Shared) {
    let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (left, right) = (bind(), bind());
    left.connect(right.local_addr().unwrap()).unwrap();
    right.connect(left.local_addr().unwrap()).unwrap();
    (from_fd(left.into()).unwrap(), from_fd(right.into()).unwrap())
}

const PAIRS: &[(&str, Pair)] = &[
    ("unix datagram", || unix(MessageKind::Datagram)),
    ("unix seqpacket", || unix(MessageKind::SeqPacket)),
    ("udp", udp),
    ("chaos", || {
        let (left, right) = unix(MessageKind::SeqPacket);
        let plan = Plan::new(1).would_block_every(2).spurious_every(3);
        (left, Arc::new(Chaos::new(right, plan)))
    }),
];

fn relay(left: Shared, right: Shared, options: RelayOptions) -> JoinHandle<Record> {
    for channel in [&left, &right] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let relay = Relay::new(left, right, options);
    thread::spawn(move || match watch::run(relay, patience()).unwrap() {
        ControlFlow::Break(record) => record,
        ControlFlow::Continue(relay) => panic!("the relay hangs: {:?}", relay.cut()),
    })
}

fn receive(channel: &dyn Channel) -> Option<Vec<u8>> {
    let mut buf = vec![0; LONGEST_FRAME_BYTES];
    let length = impatiently(|| channel.receive(&mut buf)).unwrap()?;
    buf.truncate(length);
    Some(buf)
}

/// Ends a relay of which no side has an end.
fn brief() -> RelayOptions {
    RelayOptions::default().idle_timeout(Some(Duration::from_millis(300)))
}

#[test]
fn messages_keep_their_boundaries_between_any_two_channels_of_them() {
    for (left_name, left) in PAIRS {
        for (right_name, right) in PAIRS {
            println!("{left_name} to {right_name}");
            let ((client, left), (right, server)) = (left(), right());
            // The relay has the end that makes difficulties.
            let (server, right) = (right, server);
            let relay = relay(left, right, brief());
            let messages: [&[u8]; 5] = [b"one", b"", b"three", &[7; 30_000], b""];
            for message in messages {
                client.send(message).unwrap();
                assert_eq!(receive(&*server).unwrap(), message);
            }
            server.send(b"answer").unwrap();
            server.send(b"").unwrap();
            assert_eq!(receive(&*client).unwrap(), b"answer");
            assert_eq!(receive(&*client).unwrap(), b"");
            client.close().unwrap();
            server.close().unwrap();
            let record = relay.join().unwrap();
            assert_eq!(record.left_to_right.messages, 5);
            assert_eq!(record.left_to_right.bytes, 30_008);
            assert_eq!(record.right_to_left.messages, 2);
            assert_eq!((record.lost(), record.messages_lost()), (0, 0));
            assert_eq!(record.left_to_right.spliced, 0);
        }
    }
}

#[test]
fn the_end_of_a_connection_is_passed_on() {
    let ((client, left), (right, server)) =
        (unix(MessageKind::SeqPacket), unix(MessageKind::SeqPacket));
    let relay = relay(left, right, RelayOptions::default());
    client.send(b"last").unwrap();
    client.finish().unwrap();
    assert_eq!(receive(&*server).unwrap(), b"last");
    assert_eq!(receive(&*server), None);
    server.send(b"reply").unwrap();
    server.finish().unwrap();
    assert_eq!(receive(&*client).unwrap(), b"reply");
    assert_eq!(receive(&*client), None);
    let record = relay.join().unwrap();
    assert_eq!((record.end, record.error().is_some()), (End::Finished, false));
}

#[test]
fn a_full_sink_holds_one_message_and_loses_none() {
    let ((client, left), (right, server)) =
        (unix(MessageKind::SeqPacket), unix(MessageKind::Datagram));
    let relay = relay(left, right, brief().half_close(HalfClose::Close { grace: Duration::ZERO }));
    let sender = thread::spawn(move || {
        for number in 0..2000_u32 {
            client.send(&number.to_be_bytes()).unwrap();
        }
        client.finish().unwrap();
    });
    for number in 0..2000_u32 {
        assert_eq!(receive(&*server).unwrap(), number.to_be_bytes());
    }
    sender.join().unwrap();
    assert_eq!(relay.join().unwrap().left_to_right.messages, 2000);
}

/// Some empty messages count as life.
#[test]
fn an_idle_relay_of_datagrams_ends_when_nothing_comes() {
    let ((_client, left), (right, _server)) = (udp(), udp());
    let record = relay(left, right, brief()).join().unwrap();
    assert_eq!(record.end, End::Idle);
}

#[test]
fn a_message_that_the_sink_refuses_is_counted_and_the_next_one_goes_on() {
    let ((client, left), (right, server)) = (unix(MessageKind::SeqPacket), udp());
    let relay = relay(left, right, brief());
    client.send(&[1; 70_000]).unwrap();
    client.send(b"next").unwrap();
    assert_eq!(receive(&*server).unwrap(), b"next");
    drop(client);
    let record = relay.join().unwrap();
    let there = &record.left_to_right;
    assert_eq!((there.messages, there.messages_lost, there.lost), (1, 1, 70_000));
    let loss = there.loss.as_ref().unwrap();
    assert_eq!(MessageError::of(loss), Some(&MessageError::TooLong { length_bytes: 70_000 }));
    assert!(there.error.is_none());
}

#[test]
fn a_message_that_the_relay_has_no_room_for_is_counted_with_its_length() {
    let ((client, left), (right, server)) = (unix(MessageKind::SeqPacket), udp());
    let fd = {
        // Larger messages than the default allows.
        let (ours, theirs) = Messages::pair(MessageKind::SeqPacket).unwrap();
        let fd = ours.descriptor().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&fd, 2_000_000).unwrap();
        let _ = (client, left);
        (ours, theirs)
    };
    let (client, left) = fd;
    let relay = relay(Arc::new(left), right, brief());
    if client.send(&[1; 300_000]).is_err() {
        println!("skipped: wmem_max is too small for such a message");
        return;
    }
    client.send(b"next").unwrap();
    assert_eq!(receive(&*server).unwrap(), b"next");
    drop(client);
    let there = relay.join().unwrap().left_to_right;
    assert_eq!((there.messages, there.messages_lost, there.lost), (1, 1, 300_000));
}

#[test]
fn nobody_at_the_other_end_of_udp_does_not_end_the_relay() {
    let (client, left) = unix(MessageKind::SeqPacket);
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = nobody.local_addr().unwrap();
    near.connect(far).unwrap();
    drop(nobody);
    let udp = from_fd(near.into()).unwrap();
    for channel in [&left, &udp] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let udp_end = Arc::clone(&udp);
    let mut relay = Relay::new(left, udp, RelayOptions::default());
    // What comes back (ICMP) is there as soon as this is sent: the loopback is quick. It is told by
    // the write of the next message, which is not to blame.
    for _ in 0..3 {
        client.send(b"is anybody there?").unwrap();
    }
    let until = Some(Instant::now() + Duration::from_millis(200));
    relay = match watch::run(relay, until).unwrap() {
        ControlFlow::Continue(relay) => relay,
        ControlFlow::Break(record) => panic!("the relay has ended: {record:?}"),
    };
    client.send(b"and now?").unwrap();
    let running = thread::spawn(move || match watch::run(relay, None).unwrap() {
        ControlFlow::Break(record) => record,
        ControlFlow::Continue(_) => unreachable!("no deadline"),
    });
    // Now there is.
    let server = UdpSocket::bind(far).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buf = [0; 64];
    let mut tries = 0;
    let (length, sender) = loop {
        client.send(b"hello").unwrap();
        match server.recv_from(&mut buf) {
            Ok(got) if &buf[..got.0] == b"hello" => break got,
            _ => tries += 1,
        }
        assert!(tries < 100);
    };
    assert_eq!(length, 5);
    server.send_to(b"yes", sender).unwrap();
    assert_eq!(receive(&*client).unwrap(), b"yes");
    client.finish().unwrap();
    udp_end.close().unwrap();
    let record = running.join().unwrap();
    let refusals = record.left_to_right.refusals + record.right_to_left.refusals;
    assert!(refusals > 0);
    assert_eq!(record.messages_lost(), 0, "{record:?}");
    assert!(record.left_to_right.error.is_none(), "{record:?}");
}

#[test]
fn descriptors_travel_with_messages_when_asked_and_are_counted_when_not() {
    for pass in [true, false] {
        let ((client, left), (right, server)) =
            (unix(MessageKind::SeqPacket), unix(MessageKind::Datagram));
        let relay = relay(left, right, brief().pass_fds(pass));
        let file = File::open("/dev/null").unwrap();
        let fds = [file.as_fd(), file.as_fd()];
        for message in [&b"two"[..], b""] {
            client.send_with(&[IoSlice::new(message)], WriteFlags::empty(), &fds).unwrap();
            let mut sink = FdSink::new(4);
            let mut buf = [0; 8];
            let bufs = &mut [IoSliceMut::new(&mut buf)];
            let got =
                impatiently(|| server.receive_with(bufs, ReadFlags::empty(), Some(&mut sink)));
            assert_eq!(got.unwrap(), Some(message.len()));
            assert_eq!(sink.fds().len(), if pass { 2 } else { 0 });
        }
        drop(client);
        let there = relay.join().unwrap().left_to_right;
        let expected = if pass { (4, 0) } else { (0, 4) };
        assert_eq!((there.fds_passed, there.fds_dropped), expected);
    }
}

#[test]
fn messages_and_a_stream_are_not_joined_without_a_framing() {
    for swapped in [false, true] {
        let ((_client, messages), (stream, server)) = (udp(), Socket::pair().unwrap());
        let stream: Shared = Arc::new(stream);
        let (left, right) = if swapped { (stream, messages) } else { (messages, stream) };
        let record = relay(left, right, RelayOptions::default()).join().unwrap();
        let error = record.error().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text == "udp socket keeps messages apart and unix socket does not: a framing is needed",
            "{text}"
        );
        // Both are closed, nothing has moved.
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_framing_joins_messages_and_a_stream() {
    let cases: [(Framing, &[u8]); 3] = [
        (Framing::U16, b"\0\x03one\0\0\0\x05three"),
        (Framing::U32, b"\0\0\0\x03one\0\0\0\0\0\0\0\x05three"),
        (Framing::Line, b"one\n\nthree\n"),
    ];
    for (framing, wire) in cases {
        for swapped in [false, true] {
            let ((client, messages), (stream, server)) =
                (unix(MessageKind::SeqPacket), Socket::pair().unwrap());
            let stream: Shared = Arc::new(stream);
            let (left, right) = if swapped { (stream, messages) } else { (messages, stream) };
            let relay = relay(left, right, RelayOptions::default().framing(Some(framing)));
            for message in [&b"one"[..], b"", b"three"] {
                client.send(message).unwrap();
            }
            client.finish().unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut qio::Io(&server), &mut bytes).unwrap();
            assert_eq!(bytes, wire, "{framing}");
            server.write_all(wire).unwrap();
            server.close().unwrap();
            for message in [&b"one"[..], b"", b"three"] {
                assert_eq!(receive(&*client).unwrap(), message);
            }
            assert_eq!(receive(&*client), None);
            let record = relay.join().unwrap();
            assert!(record.error().is_none(), "{record:?}");
            let total = record.left_to_right.messages + record.right_to_left.messages;
            assert_eq!(total, 6);
        }
    }
}

#[test]
fn frames_survive_every_difficulty_of_the_stream() {
    let messages: Vec<Vec<u8>> =
        (0..40_usize).map(|n| (0..n * n / 2).map(|i| b'a' + (i % 26) as u8).collect()).collect();
    for framing in [Framing::U16, Framing::U32, Framing::Line] {
        for (name, plan) in Plan::each(5) {
            println!("{framing}, {name}");
            let (left, right) = Duplex::pair();
            let left = Arc::new(Framed::new(Chaos::new(left, plan), framing));
            let right = Framed::new(Chaos::new(right, plan), framing);
            let sender = thread::spawn({
                let (left, messages) = (Arc::clone(&left), messages.clone());
                move || {
                    for message in &messages {
                        left.send(message).unwrap();
                    }
                    left.finish_all(patience()).unwrap();
                }
            });
            for message in &messages {
                assert_eq!(&receive(&right).unwrap(), message);
            }
            assert_eq!(receive(&right), None);
            assert_eq!(receive(&right), None, "the end is sticky");
            sender.join().unwrap();
        }
    }
}

#[test]
fn a_frame_that_does_not_end_is_an_error_for_ever() {
    for (framing, bytes, kind) in [
        (Framing::U16, &b"\0\x03on"[..], ErrorKind::UnexpectedEof),
        (Framing::U16, b"\0", ErrorKind::UnexpectedEof),
        (Framing::U32, b"\0\0\0\x03", ErrorKind::UnexpectedEof),
        (Framing::U32, b"GET / HTTP/1.1\r\n", ErrorKind::InvalidData),
    ] {
        let (left, right) = Duplex::pair();
        let right = Framed::new(right, framing);
        left.write_all(bytes).unwrap();
        left.close().unwrap();
        for _ in 0..2 {
            assert_eq!(right.receive(&mut [0; 64]).unwrap_err().kind(), kind, "{bytes:?}");
        }
    }
    let (left, right) = Duplex::pair();
    let right = Framed::new(right, Framing::Line);
    left.write_all(b"a\nlast").unwrap();
    left.close().unwrap();
    assert_eq!(receive(&right).unwrap(), b"a");
    assert_eq!(receive(&right).unwrap(), b"last");
    assert_eq!(receive(&right), None);
}

#[test]
fn a_frame_keeps_the_contract_of_messages() {
    let (left, right) = Duplex::pair();
    let (left, right) = (Framed::new(left, Framing::U16), Framed::new(right, Framing::U16));
    assert!(left.features().contains(Features::MESSAGES));
    assert!(!left.features().intersects(Features::FD_PASS | Features::PEEK | Features::DRAINS));
    left.send(b"much too long").unwrap();
    left.send(b"next").unwrap();
    let error = right.receive(&mut [0; 4]).unwrap_err();
    let truncated = MessageError::Truncated { length_bytes: 13, room_bytes: 4 };
    assert_eq!(MessageError::of(&error), Some(&truncated));
    assert_eq!(receive(&right).unwrap(), b"next");
    let error = left.send(&[0; 65_536]).unwrap_err();
    assert_eq!(MessageError::of(&error), Some(&MessageError::TooLong { length_bytes: 65_536 }));
    assert_eq!(left.write_all(b"x").unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(right.read_exact(&mut [0]).unwrap_err().kind(), ErrorKind::Unsupported);
    right.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(right.receive(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let line = Framed::new(left, Framing::Line);
    assert_eq!(line.send(b"two\nlines").unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// One message waits in the layer, not two.
#[test]
fn a_stream_that_takes_no_more_stops_the_messages() {
    let (left, right) = Duplex::pair();
    let left = Framed::new(left, Framing::U16);
    left.set_mode(Mode::NonBlocking).unwrap();
    let message = [1; 10_000];
    let mut sent = 0;
    while left.send(&message).is_ok() {
        sent += 1;
        assert!(sent < 1000, "nothing stops it");
    }
    let error = left.close().unwrap_err();
    assert!(error.to_string().contains("unsent"), "{error}");
    drop(right);
}

/// No further message pushes out what the stream has not taken of the last one.
#[test]
fn the_rest_of_a_message_goes_out_as_soon_as_the_stream_takes_it() {
    let ((client, left), (right, server)) = (unix(MessageKind::SeqPacket), Duplex::pair());
    let options = RelayOptions::default().framing(Some(Framing::U32));
    // Nobody waits for the stream to be read from then.
    server.finish().unwrap();
    let relay = relay(left, Arc::new(right), options);
    let sender = thread::spawn(move || {
        for _ in 0..10 {
            client.send(&[5; 30_000]).unwrap();
        }
        client
    });
    let mut frame = vec![0; 30_004];
    for _ in 0..10 {
        impatiently(|| server.read_exact(&mut frame)).unwrap();
        assert_eq!(frame[..4], 30_000_u32.to_be_bytes());
    }
    sender.join().unwrap().close().unwrap();
    server.close().unwrap();
    assert_eq!(relay.join().unwrap().left_to_right.messages, 10);
}

#[test]
fn a_message_never_overtakes_the_rest_of_the_one_before() {
    let (left, right) = Duplex::pair();
    let (left, right) = (Framed::new(left, Framing::U16), Framed::new(right, Framing::U16));
    left.set_mode(Mode::NonBlocking).unwrap();
    let message = |number: usize| vec![number as u8; 7_000 + number];
    let mut received = 0;
    for number in 0..200 {
        while let Err(error) = left.send(&message(number)) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert_eq!(receive(&right).unwrap(), message(received));
            received += 1;
        }
    }
    left.set_mode(Mode::Blocking).unwrap();
    let flushing = thread::spawn(move || left.finish_all(patience()));
    for number in received..200 {
        assert_eq!(receive(&right).unwrap(), message(number));
    }
    flushing.join().unwrap().unwrap();
}
