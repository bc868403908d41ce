//! The relay, over real sockets, pipes and memory.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qio::channel::{Base, ReadOp, WriteOp};
use qio::relay::{BUFFER_BYTES, End, HalfClose, Record, Relay, RelayOptions, Side};
use qio::transport::{Duplex, Null, Pipe, Socket};
use qio::watch::{self, PollSet, SharedFd, Steps};
use qio::{
    Channel, ChannelExt, Direction, FdSink, Features, Interest, Io, Mode, ReadFlags, Readiness,
    WriteFlags,
};
use qio_testkit::pairs::tcp_sockets;

/// Long enough for a slow machine, short enough for a hang to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

fn tcp_pair() -> (Socket, Socket) {
    let (client, server) = tcp_sockets();
    client.set_delay(false);
    server.set_delay(false);
    (client, server)
}

fn unix_pair() -> (Socket, Socket) {
    Socket::pair().unwrap()
}

/// A relay between `left` and `right`, on a thread of its own.
fn relay(left: impl Channel, right: impl Channel, options: RelayOptions) -> JoinHandle<Record> {
    for channel in [&left as &dyn Channel, &right] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let relay = Relay::new(Arc::new(left), Arc::new(right), options);
    thread::spawn(move || match watch::run(relay, Some(Instant::now() + PATIENCE)).unwrap() {
        ControlFlow::Break(record) => record,
        ControlFlow::Continue(relay) => panic!("the relay hangs: {:?}", relay.cut()),
    })
}

/// Bytes without a pattern that a misplaced block would fit into.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn read_to_end(channel: &dyn Channel) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut Io(channel), &mut bytes).unwrap();
    bytes
}

/// Sends `data` through a relay from `client` to `server` and checks that it arrives.
fn send_through(client: &dyn Channel, server: Socket, data: &[u8], what: &str) {
    let received = thread::spawn(move || read_to_end(&server));
    client.write_all(data).unwrap();
    client.finish().unwrap();
    assert!(received.join().unwrap() == data, "{what}: the bytes differ");
}

#[test]
fn the_whole_reply_arrives_after_the_clients_fin() {
    for make in [tcp_pair, unix_pair] {
        let (client, left) = tcp_pair();
        let (right, server) = make();
        let relay = relay(left, right, RelayOptions::default());
        let answer = noise(300_000);
        let server = thread::spawn({
            let answer = answer.clone();
            move || {
                // Answers only after it has seen the end of the question.
                assert_eq!(read_to_end(&server), b"question");
                server.write_all(&answer).unwrap();
                server.finish().unwrap();
            }
        });
        client.write_all(b"question").unwrap();
        client.finish().unwrap();
        assert!(read_to_end(&client) == answer);
        server.join().unwrap();
        let record = relay.join().unwrap();
        assert_eq!(record.left_to_right.bytes, 8);
        assert_eq!(record.right_to_left.bytes, 300_000);
        assert_eq!(record.end, End::Finished);
        assert_eq!(record.ended_by, Some(Side::Left));
        assert!(record.error().is_none(), "{record:?}");
        assert!(record.left_to_right.first_byte.is_some());
    }
}

#[test]
fn bulk_data_is_spliced_and_arrives_unchanged() {
    let (client, left) = tcp_pair();
    let (right, server) = tcp_pair();
    let relay = relay(left, right, RelayOptions::default());
    let data = noise(48 * 1024 * 1024);
    send_through(&client, server, &data, "tcp to tcp");
    drop(client);
    let record = relay.join().unwrap();
    assert_eq!(record.left_to_right.bytes, data.len() as u64);
    // The first buffers are copied until traffic has proved to be bulk.
    assert!(record.left_to_right.spliced > record.left_to_right.bytes / 2, "{record:?}");
    assert_eq!(record.lost(), 0);
}

#[test]
fn splicing_goes_into_unix_sockets_and_can_be_switched_off() {
    let data = noise(16 * 1024 * 1024);
    for splice in [true, false] {
        let (client, left) = tcp_pair();
        let (right, server) = unix_pair();
        let relay = relay(left, right, RelayOptions::default().splice(splice));
        send_through(&client, server, &data, "tcp to unix");
        drop(client);
        let record = relay.join().unwrap();
        assert_eq!(record.left_to_right.spliced > 0, splice, "{record:?}");
    }
}

#[test]
fn splicing_goes_from_pipes() {
    let data = noise(16 * 1024 * 1024);
    let (from, into) = Pipe::pair().unwrap();
    let (right, server) = tcp_pair();
    let relay = relay(from, right, RelayOptions::default());
    send_through(&into, server, &data, "pipe to tcp");
    let record = relay.join().unwrap();
    assert!(record.left_to_right.spliced > 0, "{record:?}");
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    let (client, left) = Duplex::pair_with_limit(1000);
    let (right, server) = Duplex::pair_with_limit(7);
    let relay = relay(left, right, RelayOptions::default());
    let data = noise(200_000);
    // Nobody reads yet: what is accepted is bounded by the two pairs and one buffer.
    client.set_mode(Mode::NonBlocking).unwrap();
    let mut accepted = 0;
    loop {
        match client.write(&data[accepted..]) {
            Ok(n) => accepted += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let soon = Some(Instant::now() + Duration::from_millis(200));
                if client.wait(Interest::WRITE, soon).is_err() {
                    break;
                }
            }
        }
    }
    assert!(accepted <= 1000 + 7 + BUFFER_BYTES, "{accepted} bytes were taken in");
    let received = thread::spawn(move || {
        let bytes = read_to_end(&server);
        server.finish().unwrap();
        bytes
    });
    client.write_all(&data[accepted..]).unwrap();
    client.finish().unwrap();
    assert!(received.join().unwrap() == data);
    client.set_mode(Mode::Blocking).unwrap();
    assert_eq!(read_to_end(&client), b"");
    assert_eq!(relay.join().unwrap().left_to_right.bytes, data.len() as u64);
}

#[test]
fn silence_ends_at_the_idle_timeout() {
    let (client, left) = tcp_pair();
    let (right, _server) = tcp_pair();
    let limit = Duration::from_millis(50);
    let options = RelayOptions::default().idle_timeout(Some(limit));
    let record = relay(left, right, options).join().unwrap();
    assert_eq!((record.end, record.ended_by), (End::Idle, None));
    assert!(record.duration >= limit);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn half_closed_silence_ends_at_its_own_limit() {
    let limit = Duration::from_millis(50);
    let policies = [HalfClose::Propagate { limit: Some(limit) }, HalfClose::Close { grace: limit }];
    for half_close in policies {
        let (client, left) = tcp_pair();
        let (right, _server) = tcp_pair();
        client.finish().unwrap();
        let options = RelayOptions::default().half_close(half_close);
        let record = relay(left, right, options).join().unwrap();
        assert_eq!((record.end, record.ended_by), (End::HalfClosed, Some(Side::Left)));
    }
}

#[test]
fn data_after_the_clients_fin_prolongs_the_half_closed_time() {
    let (client, left) = tcp_pair();
    let (right, server) = tcp_pair();
    let limit = Duration::from_millis(500);
    let half_close = HalfClose::Propagate { limit: Some(limit) };
    let relay = relay(left, right, RelayOptions::default().half_close(half_close));
    client.finish().unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < 2 * limit {
        server.write_all(&[1]).unwrap();
        sent += 1;
        client.read_exact(&mut [0]).unwrap();
        // A wait for what cannot come gives the pace.
        let pace = Some(Instant::now() + limit / 10);
        assert_eq!(client.wait(Interest::READ, pace).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    server.finish().unwrap();
    let record = relay.join().unwrap();
    assert_eq!((record.end, record.right_to_left.bytes), (End::Finished, sent));
}

#[test]
fn a_reset_ends_both_directions_and_is_reported() {
    let (client, left) = tcp_pair();
    let (right, server) = tcp_pair();
    let relay = relay(left, right, RelayOptions::default());
    {
        // With a linger time of zero, the last close sends a reset.
        let fd = client.descriptor().unwrap();
        rustix::net::sockopt::set_socket_linger(&fd, Some(Duration::ZERO)).unwrap();
    }
    drop(client);
    let record = relay.join().unwrap();
    assert_eq!(record.left_to_right.error.as_ref().unwrap().kind(), ErrorKind::ConnectionReset);
    assert_eq!(record.ended_by, Some(Side::Left));
    assert_eq!(read_to_end(&server), b"");
}

#[test]
fn a_reader_that_leaves_stops_the_writer_behind_it() {
    let (from, into) = Pipe::pair().unwrap();
    let (right, server) = unix_pair();
    let relay = relay(from, right, RelayOptions::default());
    server.shutdown(Shutdown::Both).unwrap();
    // The writer of the pipe learns of it, instead of waiting for ever.
    let error = loop {
        if let Err(error) = into.write_all(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let record = relay.join().unwrap();
    assert_eq!(record.left_to_right.error.as_ref().unwrap().kind(), ErrorKind::BrokenPipe);
    assert!(record.lost() > 0, "what was read and not delivered is counted: {record:?}");
}

#[test]
fn descriptors_travel_when_asked_and_are_counted_when_not() {
    for pass in [true, false] {
        let (client, left) = unix_pair();
        let (right, server) = unix_pair();
        let relay = relay(left, right, RelayOptions::default().pass_fds(pass));
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let fds = [file.as_fd(), file.as_fd(), file.as_fd()];
        let mut message = [IoSlice::new(b"three")];
        client.write_all_with(&mut message, WriteFlags::empty(), &fds).unwrap();
        client.finish().unwrap();
        let mut sink = FdSink::new(16);
        let mut buf = [0; 5];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        server.read_exact_with(&mut bufs, ReadFlags::empty(), Some(&mut sink)).unwrap();
        assert_eq!(&buf, b"three");
        assert_eq!(sink.fds().len(), if pass { 3 } else { 0 });
        for fd in sink.drain() {
            let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
            assert_eq!(inode(&fd), inode(&file));
        }
        server.finish().unwrap();
        let record = relay.join().unwrap().left_to_right;
        let expected = if pass { (3, 0) } else { (0, 3) };
        assert_eq!((record.fds_passed, record.fds_dropped), expected);
    }
}

#[test]
fn a_side_that_cannot_be_written_is_an_error_only_when_there_is_something_to_write() {
    let (from, into) = Pipe::pair().unwrap();
    into.write_all(b"to the socket").unwrap();
    into.close().unwrap();
    let (right, server) = unix_pair();
    let silent = relay(from, right, RelayOptions::default());
    assert_eq!(read_to_end(&server), b"to the socket");
    server.finish().unwrap();
    let record = silent.join().unwrap();
    assert!(record.error().is_none(), "{record:?}");

    let (from, into) = Pipe::pair().unwrap();
    let (right, server) = unix_pair();
    let talking = relay(from, right, RelayOptions::default());
    server.write_all(b"nowhere to go").unwrap();
    server.finish().unwrap();
    into.close().unwrap();
    let record = talking.join().unwrap();
    assert_eq!(record.right_to_left.error.as_ref().unwrap().kind(), ErrorKind::Unsupported);
    assert_eq!(record.right_to_left.lost, 13);
}

#[test]
fn an_idle_relay_has_one_leg_for_each_socket_and_no_timer() {
    let (client, left) = tcp_pair();
    let (right, server) = tcp_pair();
    for channel in [&left, &right] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let mut relay = Relay::new(Arc::new(left), Arc::new(right), RelayOptions::default());
    client.write_all(&[7; 100]).unwrap();
    let mut set = PollSet::new();
    let until = Instant::now() + PATIENCE;
    // Some steps until the data is through, one more for the second look at the source.
    while relay.progress().left_to_right() < 100 || set.deadline().is_some() {
        assert!(Instant::now() < until, "the relay never comes to rest");
        assert!(relay.step(Instant::now()).is_pending());
        set.clear();
        relay.watch(&mut set);
        if relay.progress().left_to_right() == 100 && set.deadline().is_none() {
            break;
        }
        set.poll(Some(until)).unwrap();
        relay.woken(&set);
    }
    assert_eq!(set.legs().len(), 2);
    server.read_exact(&mut [0; 100]).unwrap();
}

#[test]
fn urgent_data_does_not_stall_the_stream() {
    let (client, left) = tcp_pair();
    let (right, server) = tcp_pair();
    let relay = relay(left, right, RelayOptions::default());
    let fd = client.descriptor().unwrap();
    client.write_all(b"before").unwrap();
    rustix::net::send(&fd, b"!", rustix::net::SendFlags::OOB).unwrap();
    client.write_all(b"after").unwrap();
    drop(fd);
    let mut got = [0; 11];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"beforeafter");
    client.finish().unwrap();
    server.finish().unwrap();
    assert!(relay.join().unwrap().error().is_none());
}

#[test]
fn null_swallows_everything() {
    let (client, left) = tcp_pair();
    let relay = relay(left, Null::new(), RelayOptions::default());
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "null reads as ended");
    client.write_all(&noise(1_000_000)).unwrap();
    client.finish().unwrap();
    assert_eq!(relay.join().unwrap().left_to_right.bytes, 1_000_000);
}

#[test]
fn cutting_a_relay_closes_both_sides_and_counts_what_is_lost() {
    let (client, left) = Duplex::pair();
    let (right, server) = Duplex::pair_with_limit(10);
    let mut relay = Relay::new(Arc::new(left), Arc::new(right), RelayOptions::default());
    client.write_all(&[1; 1000]).unwrap();
    assert!(relay.step(Instant::now()).is_pending());
    let record = relay.cut();
    assert_eq!((record.left_to_right.bytes, record.left_to_right.lost), (10, 990));
    assert_eq!(record.end, End::Cut);
    assert_eq!(read_to_end(&server), [1; 10]);
    assert_eq!(client.write(&[1]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_sink_that_goes_while_its_source_is_silent_ends_the_direction() {
    let (client, left) = unix_pair();
    let (child_input, output) = Pipe::pair().unwrap();
    let relay = relay(left, output, RelayOptions::default());

    client.write_all(b"last words").unwrap();
    let mut words = [0; 10];
    child_input.read_exact(&mut words).unwrap();
    child_input.close().unwrap();

    // The client has said nothing more, and learns that nobody would hear it.
    assert_eq!(read_to_end(&client), b"");
    let error = client.write_all(b"more").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let record = relay.join().unwrap();
    assert_eq!(record.end, End::Finished);
    assert_eq!(record.ended_by, Some(Side::Right));
    assert_eq!((record.left_to_right.bytes, record.lost()), (10, 0));
    assert!(record.error().is_none(), "{:?}", record.error());
}

#[test]
fn a_sink_that_went_before_the_start_is_noticed_without_being_told() {
    /// A loop that never says which legs fired.
    struct Untold(Relay);
    impl Steps for Untold {
        type Output = Record;
        fn step(&mut self, now: Instant) -> std::task::Poll<Record> {
            self.0.step(now)
        }
        fn watch(&mut self, set: &mut PollSet) {
            self.0.watch(set);
        }
    }
    let (_client, left) = unix_pair();
    let (child_input, output) = Pipe::pair().unwrap();
    drop(child_input);
    let relay = Untold(Relay::new(Arc::new(left), Arc::new(output), RelayOptions::default()));
    let ended = watch::run(relay, Some(Instant::now() + PATIENCE)).unwrap();
    assert!(matches!(ended, ControlFlow::Break(record) if record.ended_by == Some(Side::Right)));
}

#[test]
fn what_comes_with_a_hang_up_still_arrives_from_the_other_direction() {
    let (client, left) = unix_pair();
    let (input, child_output) = Pipe::pair().unwrap();
    let (child_input, output) = Pipe::pair().unwrap();
    let both = Both { base: Base::new("both", Features::DUPLEX), input, output };
    let relay = relay(left, both, RelayOptions::default());
    drop(child_input);
    let data = noise(300_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            child_output.write_all(&data).unwrap();
            child_output.close().unwrap();
        });
        assert!(read_to_end(&client) == data);
    });
    assert_eq!(relay.join().unwrap().right_to_left.bytes, 300_000);
}

/// Sends a short message, some full buffers, and then nothing more for the time being.
#[derive(Debug)]
struct Bursts {
    base: Base,
    reads: AtomicU64,
    /// What is spliced from, and waited for.
    silent: Pipe,
}

impl Channel for Bursts {
    fn base(&self) -> &Base {
        &self.base
    }
    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> std::io::Result<usize> {
        match self.reads.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(10),
            1..=4 => Ok(op.bufs()[0].len()),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }
    fn try_write(&self, _op: &mut WriteOp<'_, '_>) -> std::io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.silent.watch(interest & Interest::READ, set)
    }
    fn close(&self) -> std::io::Result<()> {
        self.silent.close()
    }
    fn finish(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        self.silent.splice_fd(direction)
    }
}

#[test]
fn a_pause_in_a_spliced_stream_is_waited_for_without_spinning() {
    let (silent, _writer) = Pipe::pair().unwrap();
    let features = Features::READ | Features::SHUTDOWN | Features::DRAINS;
    let base = Base::new("bursts", features);
    let source = Bursts { base, reads: AtomicU64::new(0), silent };
    let (from, into) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&into, 8 * BUFFER_BYTES).unwrap();
    let sink = Pipe::from_fds(None, Some(into)).unwrap();
    let mut relay = Relay::new(Arc::new(source), Arc::new(sink), RelayOptions::default());
    let start = Instant::now();
    assert!(relay.step(start).is_pending());
    assert_eq!(relay.progress().left_to_right(), 10);
    let later = start + Duration::from_secs(10);
    assert!(relay.step(later).is_pending());
    assert_eq!(relay.progress().left_to_right(), 10 + 4 * BUFFER_BYTES as u64);
    // Whatever is looked at once more, and when: it comes to an end.
    let mut now = later;
    for _ in 0..3 {
        let mut set = PollSet::new();
        relay.watch(&mut set);
        let Some(deadline) = set.deadline() else { return drop(from) };
        assert!(deadline > now, "the wait is over before it has begun");
        now = deadline;
        relay.woken(&set);
        assert!(relay.step(now).is_pending());
    }
    panic!("the relay never comes to rest");
}

#[test]
fn urgent_data_within_bulk_ends_or_stalls_nothing() {
    for farewell in [true, false] {
        let (client, left) = tcp_pair();
        let (right, server) = tcp_pair();
        let relay = relay(left, right, RelayOptions::default());
        let data = noise(8 * 1024 * 1024);
        let received = thread::spawn({
            let len = data.len();
            move || {
                let mut bytes = vec![0; len + 5];
                server.read_exact(&mut bytes).unwrap();
                server.finish().unwrap();
                bytes
            }
        });
        client.write_all(&data).unwrap();
        let fd = client.descriptor().unwrap();
        rustix::net::send(&fd, b"!", rustix::net::SendFlags::OOB).unwrap();
        drop(fd);
        client.write_all(b"after").unwrap();
        if farewell {
            client.finish().unwrap();
        }
        let bytes = received.join().unwrap();
        client.finish().unwrap();
        assert!(bytes[..data.len()] == data && &bytes[data.len()..] == b"after");
        let record = relay.join().unwrap();
        assert!(record.left_to_right.spliced > 0 && record.error().is_none(), "{record:?}");
    }
}

#[test]
fn what_a_sink_did_not_take_at_once_does_not_wait_for_the_source() {
    let (client, left) = unix_pair();
    let (right, server) = Duplex::pair_with_limit(1000);
    let relay = relay(left, right, RelayOptions::default());
    let started = Instant::now();
    for _ in 0..20 {
        // Comes with one read, which is a short one, and goes in ten writes.
        client.write_all(&[7; 10_000]).unwrap();
        server.read_exact(&mut [0; 10_000]).unwrap();
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "20 messages took {took:?}");
    client.finish().unwrap();
    server.finish().unwrap();
    assert_eq!(relay.join().unwrap().left_to_right.bytes, 200_000);
}

/// Two pipes as one channel, like those of a child.
#[derive(Debug)]
struct Both {
    base: Base,
    input: Pipe,
    output: Pipe,
}

impl Channel for Both {
    fn base(&self) -> &Base {
        &self.base
    }
    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> std::io::Result<usize> {
        self.input.try_read(op)
    }
    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> std::io::Result<usize> {
        self.output.try_write(op)
    }
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let reading = match interest.contains(Interest::READ) {
            true => self.input.watch(Interest::READ, set),
            false => Readiness::empty(),
        };
        let writing = interest - Interest::READ;
        match interest.is_empty() || !writing.is_empty() {
            true => reading | self.output.watch(writing, set),
            false => reading,
        }
    }
    fn close(&self) -> std::io::Result<()> {
        self.output.close().and(self.input.close())
    }
    fn finish(&self) -> std::io::Result<()> {
        self.output.finish()
    }
}
