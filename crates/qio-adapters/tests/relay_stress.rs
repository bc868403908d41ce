//! Relays between channels of every kind, with ends that behave at random: what arrives is what
//! was sent, what does not is counted, and nothing hangs.
//!
//! `QIO_STRESS_SEED` repeats one case, `QIO_STRESS_CASES` says how many there are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Result};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qio::channel::Base;
use qio::relay::{Record, Relay, RelayOptions};
use qio::transport::{Duplex, Pipe, Socket};
use qio::watch::{self, PollSet, SharedFd};
use qio::{
    Channel, ChannelExt, Direction, FdSink, Features, Interest, Mode, ReadFlags, ReadOp, Readiness,
    WriteFlags, WriteOp,
};
use qio_adapters::tokio::run_until;
use qio_testkit::pairs::tcp_sockets;
use qio_testkit::{Chaos, Plan};

/// A case that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many cases a run has: some seconds.
const CASES: u64 = 100;

#[test]
fn relays_on_a_thread_deliver_or_count_every_byte() {
    all_cases(|relay| match watch::run(relay, Some(Instant::now() + PATIENCE)).unwrap() {
        ControlFlow::Break(record) => Some(record),
        ControlFlow::Continue(_) => None,
    });
}

#[test]
fn relays_on_tokio_deliver_or_count_every_byte() {
    all_cases(|relay| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let until = Instant::now() + PATIENCE;
        match runtime.block_on(async { run_until(relay, until).await }).unwrap() {
            ControlFlow::Break(record) => Some(record),
            ControlFlow::Continue(_) => None,
        }
    });
}

fn all_cases(run: fn(Relay) -> Option<Record>) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let seeds = match number("QIO_STRESS_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("QIO_STRESS_CASES").unwrap_or(CASES),
    };
    for seed in seeds {
        let case = move || one_case(seed, run);
        if let Err(panic) = thread::Builder::new().spawn(case).unwrap().join() {
            eprintln!("QIO_STRESS_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn one_case(seed: u64, run: fn(Relay) -> Option<Record>) {
    let mut random = Random(seed);
    let (client, left, left_kind) = random.pair();
    let (server, right, right_kind) = random.pair();
    for channel in [&left, &right] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let pass_fds = random.one_in(2);
    let passes = pass_fds && [&left, &right].iter().all(|end| end.features().contains(FDS));
    let options = RelayOptions::default().splice(!random.one_in(4)).pass_fds(pass_fds);
    let text = format!("seed {seed}: {left_kind} to {right_kind}, {options:?}");
    let relay = Relay::new(left, right, options);

    let graceful = !random.one_in(3);
    let there = Stream::start(&mut random, &client, &server, graceful);
    let back = Stream::start(&mut random, &server, &client, graceful);
    drop((client, server));
    let Some(record) = run(relay) else { panic!("{text}: hangs") };

    for (stream, flow) in [(there, &record.left_to_right), (back, &record.right_to_left)] {
        let sent = stream.writer.join().unwrap();
        let received = stream.reader.join().unwrap();
        let text = format!("{text}\nsent {sent:?}, received {received:?}, {record:?}");
        assert!(received.bytes <= flow.bytes && flow.bytes + flow.lost <= sent.tried, "{text}");
        if graceful {
            assert_eq!(
                (received.bytes, flow.bytes, flow.lost),
                (sent.done, sent.done, 0),
                "{text}"
            );
            assert!(flow.error.is_none(), "{text}");
            let expected = if passes { (sent.fds, sent.fds, 0) } else { (0, 0, sent.fds) };
            assert_eq!((received.fds, flow.fds_passed, flow.fds_dropped), expected, "{text}");
        }
    }
}

const FDS: Features = Features::FD_PASS;

/// One direction: who writes, and who reads.
struct Stream {
    writer: JoinHandle<Count>,
    reader: JoinHandle<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// Bytes that were moved for sure, and that perhaps were.
    done: u64,
    tried: u64,
    bytes: u64,
    fds: u64,
}

impl Stream {
    fn start(
        random: &mut Random,
        from: &Arc<dyn Channel>,
        to: &Arc<dyn Channel>,
        graceful: bool,
    ) -> Self {
        let salt = random.next();
        let (mut own, channel) = (Random(random.next()), Arc::clone(from));
        let writer = thread::spawn(move || write(&mut own, &*channel, salt, graceful));
        let (mut own, channel) = (Random(random.next()), Arc::clone(to));
        let reader = thread::spawn(move || read(&mut own, &*channel, salt, graceful));
        Self { writer, reader }
    }
}

/// The byte at a position of a stream.
fn byte(salt: u64, at: u64) -> u8 {
    (Random(salt ^ (at / 8)).next() >> (at % 8 * 8)) as u8
}

fn write(random: &mut Random, channel: &dyn Channel, salt: u64, graceful: bool) -> Count {
    let mut count = Count::default();
    let total = match random.below(4) {
        0 => random.below(100),
        1 => random.below(100_000),
        _ => random.below(3_000_000),
    };
    let longest = *random.pick(&[10, 5_000, 70_000, 1_000_000]);
    let longest = longest.max(total / 200);
    let has_fds = channel.features().contains(FDS) && random.one_in(2);
    let null = File::open("/dev/null").unwrap();
    while count.done < total {
        let len = (1 + random.below(longest)).min(total - count.done);
        let data: Vec<u8> = (count.done..count.done + len).map(|at| byte(salt, at)).collect();
        let fds = if has_fds { random.below(4) } else { 0 };
        let fds = vec![null.as_fd(); usize::try_from(fds).unwrap()];
        count.tried += len;
        let sent = channel.write_all_with(&mut [IoSlice::new(&data)], WriteFlags::empty(), &fds);
        if let Err(error) = sent {
            assert!(!graceful, "write: {error}");
            return count;
        }
        count.done += len;
        count.fds += fds.len() as u64;
        random.pause();
    }
    match if graceful { 0 } else { random.below(4) } {
        0 => drop(channel.finish()),
        1 => drop(channel.close()),
        2 => drop(channel.shutdown(Shutdown::Both)),
        _ => {
            if let Some(socket) = channel.find::<Socket>()
                && let Ok(fd) = socket.descriptor()
            {
                let at_once = Some(Duration::ZERO);
                let _ = rustix::net::sockopt::set_socket_linger(fd, at_once);
            }
            drop(channel.close());
        }
    }
    count
}

fn read(random: &mut Random, channel: &dyn Channel, salt: u64, graceful: bool) -> Count {
    let mut count = Count::default();
    let enough = if graceful || random.one_in(2) { u64::MAX } else { random.below(1_000_000) };
    let longest = *random.pick(&[4_000, 70_000, 400_000]);
    let mut fds = channel.features().contains(FDS).then(|| FdSink::new(16));
    while count.bytes < enough {
        let mut buf = vec![0; usize::try_from(1 + random.below(longest)).unwrap()];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        match channel.read_with(&mut bufs, ReadFlags::empty(), fds.as_mut()) {
            Ok(0) => return count,
            Ok(n) => {
                let right =
                    buf[..n].iter().zip(count.bytes..).all(|(got, at)| *got == byte(salt, at));
                assert!(right, "wrong bytes after {}", count.bytes);
                count.bytes += n as u64;
            }
            Err(error) => {
                assert!(!graceful, "read: {error}");
                return count;
            }
        }
        if let Some(fds) = &mut fds {
            count.fds += fds.drain().count() as u64;
        }
        random.pause();
    }
    // poll(2) does not tell a full Unix socket that its peer reads no more (unix_poll): who waits
    // for room there learns of it only when the peer is gone altogether.
    let unix = channel.features().contains(FDS);
    let _ = channel.shutdown(if unix { Shutdown::Both } else { Shutdown::Read });
    count
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn pause(&mut self) {
        match self.below(60) {
            0 => thread::sleep(Duration::from_micros(1 + self.below(2000))),
            1..10 => thread::yield_now(),
            _ => {}
        }
    }

    /// Two connected channels: one for a person, one for the relay.
    fn pair(&mut self) -> (Arc<dyn Channel>, Arc<dyn Channel>, String) {
        let (outer, inner, kind): (Arc<dyn Channel>, Arc<dyn Channel>, _) = match self.below(4) {
            0 => {
                let (a, b) = tcp_sockets();
                (Arc::new(a), Arc::new(b), "tcp")
            }
            1 => {
                let (a, b) = Socket::pair().unwrap();
                (Arc::new(a), Arc::new(b), "unix")
            }
            2 => {
                let limit = usize::try_from(100 + self.below(100_000)).unwrap();
                let (a, b) = Duplex::pair_with_limit(limit);
                (Arc::new(a), Arc::new(b), "memory")
            }
            _ => {
                let (a, b) = Pipes::pair();
                (Arc::new(a), Arc::new(b), "pipes")
            }
        };
        // A short read of a channel that says that it drains would lie.
        if inner.features().contains(Features::DRAINS) || self.one_in(2) {
            return (outer, inner, kind.to_owned());
        }
        let plan = Plan::new(self.next()).short(20_000).would_block_every(3).for_edges();
        (outer, Arc::new(Chaos::new(inner, plan)), format!("chaos before {kind}"))
    }
}

/// Two pipes as one channel, like those of a child.
#[derive(Debug)]
struct Pipes {
    base: Base,
    input: Pipe,
    output: Pipe,
}

impl Pipes {
    fn pair() -> (Self, Self) {
        let new = |input, output| {
            let features = Features::DUPLEX | Features::SHUTDOWN;
            Self { base: Base::new("pipes", features), input, output }
        };
        let ((from_b, to_a), (from_a, to_b)) = (Pipe::pair().unwrap(), Pipe::pair().unwrap());
        (new(from_b, to_b), new(from_a, to_a))
    }
}

impl Channel for Pipes {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.input.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.output.try_write(op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let mut ready = Readiness::empty();
        if interest.contains(Interest::READ) {
            ready |= self.input.watch(Interest::READ, set);
        }
        if interest.contains(Interest::WRITE) || interest.is_empty() {
            ready |= self.output.watch(interest - Interest::READ, set);
        }
        ready
    }

    fn close(&self) -> Result<()> {
        self.output.close().and(self.input.close())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let end = |wanted: bool, pipe: &Pipe| match wanted {
            true => pipe.shutdown(Shutdown::Both),
            false => Ok(()),
        };
        let done =
            end(how != Shutdown::Write, &self.input).and(end(how != Shutdown::Read, &self.output));
        match done {
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    fn finish(&self) -> Result<()> {
        self.output.finish()
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        match direction {
            Direction::Read => self.input.splice_fd(direction),
            Direction::Write => self.output.splice_fd(direction),
        }
    }
}
