//! What a peer, or another thread, cannot do to a layer: stalls, spins, pongs without end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::ws;
use qio::transport::Socket;
use qio::watch::{PollSet, Waiter, waiter};
use qio::{Channel, ChannelExt, Interest, Mode};
use qio_testkit::pairs::{tight_memory, unix, ws_over};
use qio_testkit::tls::Local;
use qio_testkit::{Job, Pair, count_waits, finished, soon};

/// The client on the left, the server on the right.
fn tls_pair(pair: Pair) -> Pair {
    Local::default().over(pair)
}

/// Over a wire that holds next to nothing, a server cannot leave tickets for later.
fn tls_pair_without_tickets(pair: Pair) -> Pair {
    Local { tickets: 0, ..Local::default() }.over(pair)
}

/// Every kind of stack that the tests here look at.
fn stacks() -> Vec<(&'static str, Pair)> {
    vec![
        ("ws, from the client", ws_over(unix())),
        ("ws, from the server", ws_over(unix()).swapped()),
        ("tls", tls_pair(unix())),
        ("tls over ws", tls_pair(ws_over(unix()))),
        ("ws over tls", ws_over(tls_pair(unix())).swapped()),
    ]
}

/// Stops a thread right before it would sleep, with what it waits for decided.
struct Gate {
    parked: Sender<()>,
    go: Receiver<()>,
}

impl Waiter for Gate {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> std::io::Result<()> {
        // After the first time nobody listens, and nobody holds it up.
        let _ = self.parked.send(());
        let _ = self.go.recv();
        set.poll(until)
    }
}

/// A reader that has decided what to wait for, and sleeps when the sender is dropped.
fn reader_about_to_sleep(channel: &Arc<dyn Channel>) -> (Job<()>, Sender<()>) {
    let channel = Arc::clone(channel);
    let (parked, is_parked) = std::sync::mpsc::channel();
    let (goes, go) = std::sync::mpsc::channel();
    let job = Job::start(move || {
        let gate: Rc<dyn Waiter> = Rc::new(Gate { parked, go });
        waiter::scoped(gate, || channel.read_exact(&mut [0])).unwrap();
    });
    is_parked.recv().unwrap();
    (job, goes)
}

/// Writes until nothing fits any more, so that something of it waits in the layer.
fn fill(channel: &dyn Channel) -> usize {
    channel.set_mode(Mode::NonBlocking).unwrap();
    let block = vec![7; 48 * 1024];
    let mut sent = 0;
    loop {
        match channel.write(&block) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_writers_drive_leaves_the_bytes_that_a_sleeping_reader_waits_for() {
    for (name, pair) in stacks() {
        println!("{name}");
        let (reader, go) = reader_about_to_sleep(&pair.right);
        pair.left.write_all(b"x").unwrap();
        // As a writer does that woke up.
        pair.right.drive(Instant::now()).unwrap();
        pair.right.watch(Interest::WRITE, &mut PollSet::new());
        drop(go);
        reader.finish();
    }
}

#[test]
fn a_sleeping_reader_sends_what_a_writer_left_behind() {
    for (name, pair) in stacks() {
        println!("{name}");
        let (reader, go) = reader_about_to_sleep(&pair.left);
        let left = fill(&*pair.left);
        drop(go);
        let right = Arc::clone(&pair.right);
        // The writer has no more to write, and waits for the answer to everything.
        let peer = Job::start(move || {
            right.read_exact(&mut vec![0; left]).unwrap();
            right.write_all(b"x").unwrap();
        });
        peer.finish();
        reader.finish();
    }
}

#[test]
fn a_sleeping_writer_goes_on_when_the_reader_has_sent_what_waited() {
    for (name, pair) in stacks() {
        println!("{name}");
        let left = Arc::clone(&pair.left);
        let sent = fill(&*pair.left);
        let writer = Job::start(move || left.write_all(b"more").unwrap());
        writer.wait_until_asleep();
        // The reader of the same channel drives it, while the peer makes room.
        let right = Arc::clone(&pair.right);
        let peer = Job::start(move || right.read_exact(&mut vec![0; sent + 4]).unwrap());
        while writer.is_running() {
            pair.left.drive(Instant::now()).unwrap();
            pair.left.watch(Interest::READ, &mut PollSet::new());
            thread::yield_now();
        }
        writer.finish();
        peer.finish();
    }
}

/// The server's side of a WebSocket, and the socket of a client that says what it likes.
fn server_of_a_raw_client(options: ws::WsOptions) -> (Socket, Arc<dyn Channel>) {
    let (client, server) = Socket::pair().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut server_options = ws::ServerOptions::default();
    server_options.ws = options;
    let server = finished(ws::server(server, server_options, soon())).into_layer(ws::NAME);
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    (client, Arc::new(server))
}

/// A masked frame with a key of zeros.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

const BINARY: u8 = 2;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The next frame of a server.
fn frame(from: &Socket) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    from.read_exact(&mut head).unwrap();
    let mut len = u64::from(head[1]);
    if len == 126 {
        let mut bytes = [0; 2];
        from.read_exact(&mut bytes).unwrap();
        len = u16::from_be_bytes(bytes).into();
    }
    let mut payload = vec![0; usize::try_from(len).unwrap()];
    from.read_exact(&mut payload).unwrap();
    (head[0] & 15, payload)
}

#[test]
fn a_flood_of_pings_while_output_is_blocked_leaves_one_pong() {
    let (client, server) = server_of_a_raw_client(ws::WsOptions::default());
    let sent = fill(&*server);
    for round in 0..1_000_u32 {
        let pings: Vec<u8> =
            (0..100).flat_map(|ping| masked(PING, &(round * 100 + ping).to_be_bytes())).collect();
        client.write_all(&pings).unwrap();
        let error = server.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let reader = Arc::clone(&server);
    // Who waits sends what waits.
    let reader = Job::start(move || reader.read_exact(&mut [0]).unwrap());
    let mut received = 0;
    let mut pongs = Vec::new();
    while received < sent || pongs.is_empty() {
        match frame(&client) {
            (BINARY, payload) => received += payload.len(),
            (PONG, payload) => pongs.push(payload),
            other => panic!("{other:?}"),
        }
    }
    client.write_all(&masked(BINARY, b"x")).unwrap();
    reader.finish();
    server.write_all(b"the end").unwrap();
    assert_eq!(frame(&client), (BINARY, b"the end".to_vec()));
    assert_eq!(pongs, [99_999_u32.to_be_bytes()]);
}

#[test]
fn a_reader_that_owes_an_answer_reads_on_while_nothing_can_go_out() {
    // Both sides write until nothing fits, and neither has read.
    let (client, server) = server_of_a_raw_client(ws::WsOptions::default());
    fill(&*server);
    server.set_mode(Mode::Blocking).unwrap();
    client.write_all(&[masked(PING, b"there?"), masked(BINARY, b"data")].concat()).unwrap();
    let reader = Arc::clone(&server);
    let reader = Job::start(move || {
        let mut data = [0; 4];
        reader.read_exact(&mut data).unwrap();
        data
    });
    assert_eq!(&reader.finish(), b"data");
}

#[test]
fn two_peers_that_write_before_they_read_get_through() {
    for (name, pair) in stacks() {
        println!("{name}");
        let (left, right) = (pair.left, pair.right);
        let blocks = [fill(&*left), fill(&*right)];
        // From here on each side reads while its own output is stuck behind the other's.
        let both = [(left, blocks[1]), (right, blocks[0])].map(|(channel, expected)| {
            Job::start(move || {
                channel.read_exact(&mut vec![0; expected]).unwrap();
                channel.flush_all(soon()).unwrap();
            })
        });
        for job in both {
            job.finish();
        }
    }
}

#[test]
fn a_handshake_reads_while_it_cannot_write() {
    // Both sides of TLS 1.3 talk at once after the first answer, and a byte fits in each direction.
    let pair = tls_pair_without_tickets(ws_over(tls_pair_without_tickets(tight_memory())));
    let left = Arc::clone(&pair.left);
    let writer = Job::start(move || {
        left.write_all(b"through").unwrap();
        left.flush_all(None).unwrap();
    });
    let mut text = [0; 7];
    pair.right.read_exact(&mut text).unwrap();
    writer.finish();
    assert_eq!(&text, b"through");
}

#[test]
fn a_wait_wakes_up_no_more_often_than_bytes_come() {
    const PLAIN: usize = 2_000;
    type Wrap = fn(Pair) -> Pair;
    let tls_over_ws: Wrap = |pair| tls_pair_without_tickets(ws_over(pair));
    // What the wire has besides: a header of WebSocket for each piece, a record of TLS.
    let stacks = [
        ("ws", ws_over as Wrap, 16),
        ("tls", tls_pair_without_tickets as Wrap, 64),
        ("tls over ws", tls_over_ws, 1_000),
    ];
    for (name, wrap, besides) in stacks {
        let pair = wrap(tight_memory());
        let (left, right) = (pair.left, pair.right);
        let writer = Job::start(move || {
            left.write_all(&[7; PLAIN]).unwrap();
            left.flush_all(None).unwrap();
            left
        });
        let ((), waits) = count_waits(|| right.read_exact(&mut [0; PLAIN]).unwrap());
        println!("{name}: {waits} waits for {PLAIN} bytes");
        assert!(waits <= (PLAIN + besides) as u64, "{name}: {waits} waits");
        drop(writer.finish());
    }
}

#[test]
fn a_wait_sleeps_while_output_is_blocked() {
    for (name, pair) in stacks() {
        fill(&*pair.left);
        let until = Some(Instant::now() + Duration::from_millis(100));
        let (result, waits) = count_waits(|| pair.left.wait(Interest::WRITE, until));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut, "{name}");
        assert!(waits <= 3, "{name}: {waits} waits");
        let until = Some(Instant::now() + Duration::from_millis(100));
        let both = Interest::READ | Interest::WRITE;
        let (result, waits) = count_waits(|| pair.left.wait(both, until));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut, "{name}");
        assert!(waits <= 3, "{name}: {waits} waits");
    }
}

#[test]
fn a_wait_ends_at_once_when_the_wire_has_ended() {
    for (name, pair) in stacks() {
        let socket = pair.left.find::<Socket>().unwrap();
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        let (result, waits) = count_waits(|| pair.right.wait(Interest::READ, soon()));
        assert!(!result.unwrap().is_empty(), "{name}");
        assert!(waits <= 2, "{name}: {waits} waits");
        assert_eq!(pair.right.read(&mut [0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_wait_wakes_up_for_its_timers_alone() {
    let options = ws::WsOptions::default()
        .ping_interval(Some(Duration::from_millis(20)))
        .pong_deadline(Duration::from_millis(50));
    let (client, server) = server_of_a_raw_client(options);
    let (result, waits) = count_waits(|| server.wait(Interest::READ, soon()));
    // A ping, and then the end of patience.
    assert!(!result.unwrap().is_empty());
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(waits <= 6, "{waits} waits");
    assert_eq!(frame(&client), (PING, vec![]));
}

#[test]
fn a_user_that_does_not_read_makes_no_silent_peer() {
    let options = ws::WsOptions::default()
        .ping_interval(Some(Duration::from_millis(10)))
        .pong_deadline(Duration::from_millis(10));
    let (client, server) = server_of_a_raw_client(options);
    // More than the layer takes at once, so that what answers the pings stays in the socket.
    let block = masked(BINARY, &[7; 125]).repeat(200);
    client.write_all(&block).unwrap();
    fill(&*server);
    // The relay behind it is stuck: it waits for anything but the next bytes.
    let until = Some(Instant::now() + Duration::from_millis(100));
    let result = server.wait(Interest::WRITE, until);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    server.read_exact(&mut vec![0; 125 * 200]).unwrap();
}

#[test]
fn frames_and_records_of_one_byte_are_read_together() {
    for (name, pair) in stacks() {
        let (left, right) = (pair.left, pair.right);
        let writer = Job::start(move || {
            for byte in 0..20_000_u32 {
                left.write_all(&[byte as u8]).unwrap();
            }
            left.flush_all(None).unwrap();
            left
        });
        let mut all = vec![0; 20_000];
        right.read_exact(&mut all).unwrap();
        assert!(all.iter().enumerate().all(|(at, byte)| *byte == at as u8), "{name}");
        drop(writer.finish());
    }
}

/// A layer takes more than there is room for. What it holds is not out, and nobody may come back.
#[test]
fn a_farewell_that_a_layer_below_holds_is_not_out_yet() {
    let pair = ws_over(ws_over(tight_memory()));
    assert_eq!(pair.left.finish().unwrap_err().kind(), ErrorKind::WouldBlock);
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || right.read(&mut [0; 1]));
    pair.left.finish_all(soon()).unwrap();
    assert_eq!(reader.finish().unwrap(), 0);
}

/// The same of what was written whole.
#[test]
fn what_was_written_whole_does_not_rest_in_a_layer_below() {
    let pair = ws_over(ws_over(tight_memory()));
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || {
        let mut got = [0; 100];
        right.read_exact(&mut got).map(|()| got)
    });
    pair.left.write_all(&[7; 100]).unwrap();
    // The writer does nothing more, and keeps the channel.
    assert_eq!(reader.finish().unwrap(), [7; 100]);
}
