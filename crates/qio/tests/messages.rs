//! Channels of messages: what [`Features::MESSAGES`] promises.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{Shutdown, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use bytes::Bytes;
use common::{impatiently, in_own_process, patience};
use qio::channel::MessageError;
use qio::transport::{Endpoint, MessageKind, Messages, Socket, from_fd};
use qio::{
    Channel, ChannelExt, FdSink, Features, Interest, Mode, ReadFlags, Readiness, WriteFlags,
};
use qio_testkit::{Chaos, Job, Plan, scope};

type End = Arc<dyn Channel>;

/// Two ends that talk to each other.
struct Subject {
    name: &'static str,
    pair: fn() -> (End, End),
    /// The second end learns that the first has ended its side.
    has_end: bool,
}

const SUBJECTS: &[Subject] = &[
    Subject { name: "unix datagram", pair: || unix(MessageKind::Datagram), has_end: false },
    Subject { name: "unix seqpacket", pair: || unix(MessageKind::SeqPacket), has_end: true },
    Subject { name: "udp over IPv4", pair: || udp("127.0.0.1:0"), has_end: false },
    Subject { name: "udp over IPv6", pair: || udp("[::1]:0"), has_end: false },
    Subject {
        name: "unix seqpacket, would-block and spurious readiness",
        pair: || {
            let (left, right) = Messages::pair(MessageKind::SeqPacket).unwrap();
            let plan = Plan::new(1).would_block_every(2).spurious_every(3);
            (Arc::new(Chaos::new(left, plan)), Arc::new(Chaos::new(right, plan)))
        },
        has_end: true,
    },
];

fn unix(kind: MessageKind) -> (End, End) {
    let (left, right) = Messages::pair(kind).unwrap();
    (Arc::new(left), Arc::new(right))
}

fn udp(address: &str) -> (End, End) {
    let (left, right) = udp_sockets(address);
    (from_fd(left.into()).unwrap(), from_fd(right.into()).unwrap())
}

fn udp_sockets(address: &str) -> (UdpSocket, UdpSocket) {
    let (left, right) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
    left.connect(right.local_addr().unwrap()).unwrap();
    right.connect(left.local_addr().unwrap()).unwrap();
    (left, right)
}

/// Runs `test` with every pair; what waits for too long fails.
fn for_each(test: impl Fn(&Subject, End, End)) {
    for subject in SUBJECTS {
        if subject.name.contains("IPv6") && UdpSocket::bind("[::1]:0").is_err() {
            println!("skipped: {}: no IPv6 loopback", subject.name);
            continue;
        }
        println!("{}", subject.name);
        let (left, right) = (subject.pair)();
        impatiently(|| test(subject, left, right));
    }
}

fn error_of(result: std::io::Result<impl std::fmt::Debug>) -> (ErrorKind, Option<MessageError>) {
    let error = result.unwrap_err();
    (error.kind(), MessageError::of(&error).copied())
}

#[test]
fn one_call_is_one_message_with_one_buffer_and_with_several() {
    for_each(|_, left, right| {
        let mut buf = [0; 100];
        left.send(b"one").unwrap();
        assert_eq!(left.write(b"three").unwrap(), 5);
        let parts = [IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"bc")];
        assert_eq!(left.write_vectored(&parts).unwrap(), 3);
        left.send_with(&parts, WriteFlags::empty(), &[]).unwrap();
        assert_eq!(right.receive(&mut buf).unwrap(), Some(3));
        assert_eq!(&buf[..3], b"one");
        assert_eq!(right.read(&mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"three");
        let (mut head, mut tail) = ([0; 2], [0; 50]);
        let mut bufs = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
        assert_eq!(right.read_vectored(&mut bufs).unwrap(), 3);
        assert_eq!((&head, tail[0]), (b"ab", b'c'));
        assert_eq!(right.read(&mut buf).unwrap(), 3);
    });
}

#[test]
fn a_message_of_more_buffers_than_a_call_takes_is_one() {
    for_each(|_, left, right| {
        let bytes: Vec<u8> = (0..2000).map(|i| i as u8).collect();
        let bufs: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
        assert_eq!(left.write_vectored(&bufs).unwrap(), 2000);
        let mut got = vec![0; 2500];
        let mut bufs: Vec<_> = got.chunks_mut(1).map(IoSliceMut::new).collect();
        assert_eq!(right.read_vectored(&mut bufs).unwrap(), 2000);
        assert_eq!(got[..2000], bytes);
    });
}

#[test]
fn a_message_that_does_not_fit_is_an_error_with_its_length_and_gone() {
    for_each(|_, left, right| {
        left.send(b"much too long").unwrap();
        left.send(b"next").unwrap();
        let truncated = MessageError::Truncated { length_bytes: 13, room_bytes: 4 };
        let result = right.receive(&mut [0; 4]);
        assert_eq!(error_of(result), (ErrorKind::InvalidData, Some(truncated)));
        let mut buf = [0; 4];
        assert_eq!(right.read(&mut buf).unwrap(), 4);
        assert_eq!(&buf, b"next");
        left.send(&[7; 2000]).unwrap();
        let mut small = [0; 1500];
        let mut bufs: Vec<_> = small.chunks_mut(1).map(IoSliceMut::new).collect();
        let truncated = MessageError::Truncated { length_bytes: 2000, room_bytes: 1500 };
        let result = right.read_vectored(&mut bufs);
        assert_eq!(error_of(result), (ErrorKind::InvalidData, Some(truncated)));
    });
}

#[test]
fn a_message_that_is_too_long_to_send_is_refused_whole() {
    for_each(|_, left, right| {
        let huge = vec![0; 8 << 20];
        let too_long = MessageError::TooLong { length_bytes: huge.len() };
        assert_eq!(error_of(left.send(&huge)), (ErrorKind::InvalidInput, Some(too_long)));
        assert_eq!(error_of(left.write(&huge)), (ErrorKind::InvalidInput, Some(too_long)));
        left.send(b"small").unwrap();
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), Some(5));
    });
}

#[test]
fn an_empty_message_is_not_the_end() {
    for_each(|_, left, right| {
        let mut buf = [0; 10];
        for message in [&b""[..], b"", b"x", b""] {
            left.send(message).unwrap();
        }
        for length in [0, 0, 1, 0] {
            assert_eq!(right.receive(&mut buf).unwrap(), Some(length));
        }
        // `read` has no way to say so, and goes on to the next.
        left.send(b"").unwrap();
        left.send(b"").unwrap();
        left.send(b"after").unwrap();
        assert_eq!(right.read(&mut buf).unwrap(), 5);
        left.send(b"").unwrap();
        left.send(b"looked at").unwrap();
        assert_eq!(right.peek(&mut buf).unwrap(), 9);
        assert_eq!(right.receive(&mut buf).unwrap(), Some(9));
        left.send(b"").unwrap();
        right.set_mode(Mode::NonBlocking).unwrap();
        assert_eq!(right.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn an_empty_read_or_write_does_nothing() {
    for_each(|_, left, right| {
        left.send(b"stays").unwrap();
        assert_eq!(left.write(b"").unwrap(), 0);
        assert_eq!(left.write_vectored(&[IoSlice::new(b"")]).unwrap(), 0);
        left.write_all(b"").unwrap();
        assert_eq!(right.read(&mut []).unwrap(), 0);
        assert_eq!(right.read_vectored(&mut []).unwrap(), 0);
        right.read_exact(&mut []).unwrap();
        assert_eq!(right.receive(&mut []).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), Some(5));
        right.set_mode(Mode::NonBlocking).unwrap();
        let nothing = right.receive(&mut [0; 10]).unwrap_err().kind();
        assert_eq!(nothing, ErrorKind::WouldBlock, "an empty write has sent something");
    });
}

#[test]
fn what_would_put_messages_together_or_take_them_apart_is_refused() {
    for_each(|_, left, right| {
        left.send(b"whole").unwrap();
        let buf = &mut [0; 5];
        let refused = |result: std::io::Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains("socket: ") && text.contains("use "), "{text}");
        };
        refused(right.read_exact(buf));
        refused(right.read_exact_or_eof(buf).map(drop));
        refused(right.read_vectored_exact_or_eof(&mut [IoSliceMut::new(buf)]).map(drop));
        refused(right.read_vectored_exact(&mut [IoSliceMut::new(buf)]));
        refused(right.read_exact_with(&mut [IoSliceMut::new(buf)], ReadFlags::empty(), None));
        refused(left.write_all(b"x"));
        refused(left.write_vectored_all(&mut [IoSlice::new(b"x")]));
        refused(left.write_all_with(&mut [IoSlice::new(b"x")], WriteFlags::empty(), &[]));
        // None of them has moved anything.
        assert_eq!(right.receive(buf).unwrap(), Some(5));
        left.send(b"y").unwrap();
        assert_eq!(right.receive(buf).unwrap(), Some(1));
        assert_eq!(buf[0], b'y');
    });
    // And a stream has no messages.
    let (left, right) = Socket::pair().unwrap();
    assert_eq!(left.send(b"x").unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(right.receive(&mut [0]).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_full_socket_would_block_and_a_reader_makes_room() {
    for_each(|subject, left, right| {
        left.set_mode(Mode::NonBlocking).unwrap();
        let message = [3; 1000];
        if subject.name.contains("udp") {
            // The kernel throws away what does not fit.
            return;
        }
        let mut sent = 0;
        let mut refused = 0;
        while refused < 2 {
            match left.send(&message) {
                Ok(()) => (sent, refused) = (sent + 1, 0),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
        }
        left.set_mode(Mode::Blocking).unwrap();
        let job = Job::start({
            let left = Arc::clone(&left);
            move || left.send(&message)
        });
        let mut buf = [0; 2000];
        for _ in 0..=sent {
            assert_eq!(right.receive(&mut buf).unwrap(), Some(1000));
        }
        job.finish().unwrap();
    });
}

#[test]
fn a_reader_waits_for_a_message_and_close_wakes_it() {
    for_each(|_, left, right| {
        let receive = |right: &End| {
            let right = Arc::clone(right);
            move || right.receive(&mut [0; 10])
        };
        let job = Job::start(receive(&right));
        job.wait_until_asleep();
        left.send(b"hello").unwrap();
        assert_eq!(job.finish().unwrap(), Some(5));
        // Also while somebody forgot a watch.
        let mut watch = qio::watch::PollSet::new();
        let _ = right.watch(Interest::READ, &mut watch);
        let job = Job::start(receive(&right));
        job.wait_until_asleep();
        right.close().unwrap();
        assert_eq!(job.finish().unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(right.receive(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(right.send(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
        right.close().unwrap();
    });
}

#[test]
fn shutdown_wakes_a_reader_with_the_end_and_stops_a_writer() {
    for_each(|_, left, right| {
        left.send(b"never read").unwrap();
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), Some(10));
        let job = Job::start({
            let right = Arc::clone(&right);
            move || right.receive(&mut [0; 10])
        });
        job.wait_until_asleep();
        right.shutdown(Shutdown::Read).unwrap();
        assert_eq!(job.finish().unwrap(), None);
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), None, "the end is sticky");
        assert_eq!(right.read(&mut [0; 10]).unwrap(), 0);
        right.shutdown(Shutdown::Write).unwrap();
        assert_eq!(right.send(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn shutdown_wakes_a_writer_that_waits_for_room() {
    for kind in [MessageKind::Datagram, MessageKind::SeqPacket] {
        impatiently(|| {
            let (left, _right) = unix(kind);
            left.set_mode(Mode::NonBlocking).unwrap();
            while left.send(&[0; 1000]).is_ok() {}
            left.set_mode(Mode::Blocking).unwrap();
            let job = Job::start({
                let left = Arc::clone(&left);
                move || left.send(&[0; 1000])
            });
            job.wait_until_asleep();
            left.shutdown(Shutdown::Write).unwrap();
            assert_eq!(job.finish().unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
    }
}

#[test]
fn finish_is_seen_by_the_peer_of_a_connection_and_by_nobody_else() {
    for_each(|subject, left, right| {
        left.send(b"last").unwrap();
        left.finish_all(patience()).unwrap();
        left.finish_all(patience()).unwrap();
        assert_eq!(left.send(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut buf = [0; 10];
        assert_eq!(right.receive(&mut buf).unwrap(), Some(4));
        if subject.has_end {
            assert_eq!(right.receive(&mut buf).unwrap(), None);
            assert_eq!(right.read(&mut buf).unwrap(), 0);
        } else {
            right.set_mode(Mode::NonBlocking).unwrap();
            let error = right.receive(&mut buf).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        // Reading stays open.
        right.send(b"reply").unwrap();
        assert_eq!(left.receive(&mut buf).unwrap(), Some(5));
    });
}

/// The kernel says 0 bytes to both, an empty message and the end.
#[test]
fn an_empty_message_in_front_of_others_and_the_end_is_one() {
    let (left, right) = Messages::pair(MessageKind::SeqPacket).unwrap();
    for message in [&b""[..], b"", b"abc"] {
        left.send(message).unwrap();
    }
    left.close().unwrap();
    let mut buf = [0; 10];
    for length in [Some(0), Some(0), Some(3), None, None] {
        assert_eq!(right.receive(&mut buf).unwrap(), length);
    }
}

#[test]
fn a_peek_looks_at_the_start_of_a_message_and_leaves_it() {
    for_each(|_, left, right| {
        left.send(b"message").unwrap();
        let mut buf = [0; 3];
        assert_eq!(right.peek(&mut buf).unwrap(), 3);
        let bufs = &mut [IoSliceMut::new(&mut buf)];
        assert_eq!(right.receive_with(bufs, ReadFlags::PEEK, None).unwrap(), Some(3));
        assert_eq!(&buf, b"mes");
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), Some(7));
        left.send(b"").unwrap();
        let bufs = &mut [IoSliceMut::new(&mut buf)];
        assert_eq!(right.receive_with(bufs, ReadFlags::PEEK, None).unwrap(), Some(0));
        assert_eq!(right.receive(&mut [0; 10]).unwrap(), Some(0));
    });
}

#[test]
fn descriptors_travel_with_messages_where_they_can() {
    for_each(|_, left, right| {
        let file = File::open("/dev/null").unwrap();
        let fds = [file.as_fd(), file.as_fd()];
        if !left.features().contains(Features::FD_PASS) {
            let sent = left.send_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds);
            assert_eq!(sent.unwrap_err().kind(), ErrorKind::Unsupported);
            return;
        }
        let mut sink = FdSink::new(4);
        let mut buf = [0; 10];
        // Also with a message of no bytes, which is not the end therefore.
        for message in [&b"two"[..], b""] {
            left.send_with(&[IoSlice::new(message)], WriteFlags::empty(), &fds).unwrap();
            let bufs = &mut [IoSliceMut::new(&mut buf)];
            let got = right.receive_with(bufs, ReadFlags::empty(), Some(&mut sink)).unwrap();
            assert_eq!(got, Some(message.len()));
            assert_eq!(sink.drain().count(), 2);
        }
        let mut small = FdSink::new(1);
        left.send_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &[fds[0]; 9]).unwrap();
        let bufs = &mut [IoSliceMut::new(&mut buf)];
        let got = right.receive_with(bufs, ReadFlags::empty(), Some(&mut small));
        assert_eq!(got.unwrap_err().kind(), ErrorKind::InvalidData);
        // Those of a message that is lost are lost with it.
        left.send_with(&[IoSlice::new(&[0; 20])], WriteFlags::empty(), &fds).unwrap();
        let bufs = &mut [IoSliceMut::new(&mut buf)];
        let got = right.receive_with(bufs, ReadFlags::empty(), Some(&mut sink));
        assert!(matches!(error_of(got).1, Some(MessageError::Truncated { .. })));
        assert!(sink.fds().is_empty());
        // And those that nobody asks for are closed.
        left.send_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds).unwrap();
        assert_eq!(right.receive(&mut buf).unwrap(), Some(1));
    });
}

#[test]
fn nothing_is_left_open() {
    in_own_process("nothing_is_left_open", || {
        scope(common::PATIENCE, |_| {
            for subject in SUBJECTS {
                let (left, right) = (subject.pair)();
                left.send(b"x").unwrap();
                right.receive(&mut [0]).unwrap();
                let file = File::open("/dev/null").unwrap();
                if left.features().contains(Features::FD_PASS) {
                    let fds = [file.as_fd()];
                    left.send_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds).unwrap();
                    right.receive(&mut [0]).unwrap();
                }
            }
        });
    });
}

#[test]
fn a_watch_tells_a_message_and_a_writer_that_may_go_on() {
    for kind in [MessageKind::Datagram, MessageKind::SeqPacket] {
        let (left, right) = Messages::pair(kind).unwrap();
        let ready = left.wait(Interest::READ | Interest::WRITE, patience()).unwrap();
        assert_eq!(ready, Readiness::WRITE);
        right.send(b"").unwrap();
        let ready = left.wait(Interest::READ | Interest::WRITE, patience()).unwrap();
        assert_eq!(ready, Readiness::READ | Readiness::WRITE);
    }
}

/// Two calls with swapped addresses would cancel each other out if they were the same.
#[test]
fn the_local_and_the_remote_port_of_a_datagram_socket_are_two() {
    let (left, right) = udp_sockets("127.0.0.1:0");
    let (near, far) = (left.local_addr().unwrap(), right.local_addr().unwrap());
    assert_ne!(near, far);
    let left = Messages::from_fd(left.into()).unwrap();
    let right = Messages::from_fd(right.into()).unwrap();
    assert_eq!(left.local_address().unwrap(), Endpoint::Inet(near));
    assert_eq!(left.peer_address().unwrap(), Endpoint::Inet(far));
    assert_eq!(right.local_address().unwrap(), Endpoint::Inet(far));
    assert_eq!(right.peer_address().unwrap(), Endpoint::Inet(near));
    assert_eq!(left.kind(), MessageKind::Datagram);
    assert_eq!(left.peer_credentials().unwrap_err().kind(), ErrorKind::Unsupported);
}

/// A plan that is right for a stream, to write a part and the rest later, would make two of one.
#[test]
fn an_owned_write_is_one_message_whole() {
    for subject in SUBJECTS {
        let (left, right) = (subject.pair)();
        let parts: Vec<_> = (0..1500).map(|n| Bytes::from(vec![n as u8])).collect();
        let sent = impatiently(|| left.write_owned(&parts)).unwrap();
        assert_eq!(sent, parts.len(), "{}", subject.name);
        assert!(left.confirm_all(patience()).unwrap().copied, "{}", subject.name);
        let mut buf = [0; 2000];
        let got = impatiently(|| right.receive(&mut buf)).unwrap();
        assert_eq!(got, Some(parts.len()), "{}", subject.name);
        assert_eq!(buf[..1500], parts.concat(), "{}", subject.name);
        // All of them, with as many writes as it takes, may be several messages.
        let error = left.write_all_owned(&parts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", subject.name);
        assert!(error.to_string().contains("use send"), "{error}");
    }
}

#[test]
fn a_peek_for_a_number_of_bytes_is_refused_because_no_message_grows() {
    for subject in SUBJECTS {
        let (left, right) = (subject.pair)();
        left.send(b"short").unwrap();
        let error = right.peek_at_least(&mut [0; 100], 1, patience()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", subject.name);
        assert!(error.to_string().contains("use receive"), "{error}");
        let mut buf = [0; 100];
        assert_eq!(impatiently(|| right.receive(&mut buf)).unwrap(), Some(5), "{}", subject.name);
    }
}

#[test]
fn messages_tell_their_sender_when_asked_or_when_they_say_so() {
    for kind in [MessageKind::Datagram, MessageKind::SeqPacket] {
        let (left, right) = Messages::pair(kind).unwrap();
        let sender = |right: &Messages| {
            let mut sink = FdSink::new(0);
            let mut buf = [0; 10];
            let bufs = &mut [IoSliceMut::new(&mut buf)];
            right.receive_with(bufs, ReadFlags::empty(), Some(&mut sink)).unwrap().unwrap();
            sink.sender().map(|sender| sender.pid.unsigned_abs())
        };
        right.set_receive_credentials(true).unwrap();
        left.send(b"asked").unwrap();
        assert_eq!(sender(&right), Some(std::process::id()));
        left.send(b"").unwrap();
        assert_eq!(sender(&right), Some(std::process::id()), "an empty one has a sender, too");
        right.set_receive_credentials(false).unwrap();
        left.send_with(&[IoSlice::new(b"says so")], WriteFlags::CREDENTIALS, &[]).unwrap();
        right.set_receive_credentials(true).unwrap();
        assert_eq!(sender(&right), Some(std::process::id()));
    }
    let (left, _right) = udp_sockets("127.0.0.1:0");
    let left = Messages::from_fd(left.into()).unwrap();
    let error = left.set_receive_credentials(true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn the_peer_of_a_pair_is_known() {
    for kind in [MessageKind::Datagram, MessageKind::SeqPacket] {
        let (left, _right) = Messages::pair(kind).unwrap();
        let peer = left.peer_credentials().unwrap();
        assert_eq!(peer.pid.unsigned_abs(), std::process::id());
    }
}

/// What ICMP says of an earlier datagram is told once, and the socket goes on.
#[test]
fn nobody_at_the_other_end_of_udp_is_told_once() {
    let (left, right) = udp_sockets("127.0.0.1:0");
    let far = right.local_addr().unwrap();
    drop(right);
    let left = Messages::from_fd(left.into()).unwrap();
    left.send(b"nobody hears it").unwrap();
    let error = left.receive(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    left.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(left.receive(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let back = UdpSocket::bind(far).unwrap();
    left.send(b"heard").unwrap();
    back.set_read_timeout(Some(common::PATIENCE)).unwrap();
    assert_eq!(back.recv(&mut [0; 10]).unwrap(), 5);
}

/// The kernel undoes the connection of a Unix datagram socket whose peer has gone.
#[test]
fn a_unix_datagram_peer_that_has_gone_is_told_to_the_writer() {
    let (left, right) = Messages::pair(MessageKind::Datagram).unwrap();
    right.close().unwrap();
    drop(right);
    assert_eq!(left.send(b"x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(left.send(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn a_socket_without_messages_or_without_a_peer_is_given_back() {
    let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    for (fd, why) in [
        (OwnedFd::from(stream), "not one for messages"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "not connected"),
        (UnixDatagram::unbound().unwrap().into(), "not connected"),
        (File::open("/dev/null").unwrap().into(), "not a socket"),
    ] {
        let (error, _fd) = Messages::from_fd(fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(why), "{error}");
    }
    let (error, _fd) = from_fd(UdpSocket::bind("127.0.0.1:0").unwrap().into()).unwrap_err();
    assert_eq!(error.to_string(), "the socket is not connected");
}

/// The flag belongs to everybody who has the socket.
#[test]
fn no_mode_touches_the_flags_of_the_socket() {
    let (left, _right) = udp_sockets("127.0.0.1:0");
    let copy = left.try_clone().unwrap();
    let before = rustix::fs::fcntl_getfl(&copy).unwrap();
    let left = Messages::from_fd(left.into()).unwrap();
    for mode in [Mode::NonBlocking, Mode::Blocking] {
        left.set_mode(mode).unwrap();
        assert_eq!(rustix::fs::fcntl_getfl(&copy).unwrap(), before);
    }
}
