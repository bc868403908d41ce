//! Channels and steps on tokio.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake};
use std::time::{Duration, Instant};

use qio::channel::Base;
use qio::layer::{Framed, Framing};
use qio::relay::{Relay, RelayOptions};
use qio::transport::{Duplex, MessageKind, Messages, Pipe, Socket};
use qio::watch::{PollSet, SharedFd, Steps};
use qio::{
    Channel, ChannelExt, FdSink, Features, Interest, Mode, ReadFlags, ReadOp, Readiness,
    WriteFlags, WriteOp,
};
use qio_adapters::tokio::{AsyncChannel, run, run_until};
use qio_testkit::pairs::tcp_sockets;
use qio_testkit::{Chaos, Plan};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// No test waits longer.
const LIMIT: Duration = Duration::from_secs(20);

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    current_thread().block_on(bounded(future))
}

async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("done in time")
}

fn tcp_pair() -> (Socket, Socket) {
    let (left, right) = tcp_sockets();
    left.set_delay(false);
    right.set_delay(false);
    (left, right)
}

fn async_pair() -> (AsyncChannel<Socket>, AsyncChannel<Socket>) {
    let (left, right) = Socket::pair().unwrap();
    (AsyncChannel::new(left).unwrap(), AsyncChannel::new(right).unwrap())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A future that counts how often it is polled.
async fn counted<F: Future>(polls: &AtomicU32, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(cx)
    })
    .await
}

/// Runs every task that can run, and looks at the descriptors, some rounds long.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// What a set asks for, as a step's answer.
fn also(channel: &impl Channel, interest: Interest, set: &mut PollSet) {
    if !channel.watch(interest, set).is_empty() {
        set.wake_at(Instant::now());
    }
}

/// Steps made of two closures.
struct Made<F, W>(F, W);

impl<T, F: FnMut(Instant) -> Poll<T>, W: FnMut(&mut PollSet)> Steps for Made<F, W> {
    type Output = T;

    fn step(&mut self, now: Instant) -> Poll<T> {
        (self.0)(now)
    }

    fn watch(&mut self, set: &mut PollSet) {
        (self.1)(set);
    }
}

/// Reads all, over a buffer of its own: nothing of it is known to the kernel.
struct Buffered {
    base: Base,
    inner: Socket,
    buffer: Mutex<VecDeque<u8>>,
    ended: AtomicBool,
}

impl Buffered {
    fn new(inner: Socket) -> Self {
        let base = Base::new("buffered", Features::DUPLEX);
        Self { base, inner, buffer: Mutex::default(), ended: AtomicBool::new(false) }
    }

    /// Both halves get here; whoever looks for bytes must find those that the other one took.
    fn fill(&self, buffer: &mut VecDeque<u8>) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.inner.read(&mut bytes)?;
        buffer.extend(&bytes[..n]);
        self.ended.store(n == 0, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffered")
    }
}

impl Channel for Buffered {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> io::Result<usize> {
        let mut buffer = self.buffer.lock().unwrap();
        if buffer.is_empty() {
            self.fill(&mut buffer)?;
        }
        buffer.read(&mut op.bufs()[0])
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> io::Result<usize> {
        // Looks at what has come in first, as protocols do that may owe an answer.
        self.drive(Instant::now())?;
        self.inner.write_vectored(op.bufs())
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if interest.contains(Interest::READ) {
            let buffer = self.buffer.lock().unwrap();
            if !buffer.is_empty() || self.ended.load(Ordering::Relaxed) {
                return Readiness::READ;
            }
            set.internally(|set| self.inner.watch(Interest::READ, set));
        }
        if interest.contains(Interest::WRITE) {
            return self.inner.watch(Interest::WRITE, set);
        }
        Readiness::empty()
    }

    fn drive(&self, _now: Instant) -> io::Result<()> {
        match self.fill(&mut self.buffer.lock().unwrap()) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        self.base.set_mode(mode);
        self.inner.set_mode(mode)
    }

    fn finish(&self) -> io::Result<()> {
        self.inner.finish()
    }
}

#[test]
fn bytes_buffered_in_a_layer_wake_the_reader_once_per_read() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        let mut channel = AsyncChannel::new(Buffered::new(socket)).unwrap();
        let polls = AtomicU32::new(0);
        let reader = counted(&polls, async {
            let mut served = Vec::new();
            for _ in 0..4 {
                let ready = channel.ready(Interest::READ).await.unwrap();
                assert!(ready.contains(Readiness::READ));
                let mut buf = [0; 5];
                served.push(channel.get_ref().read(&mut buf).unwrap());
            }
            served
        });
        let sending = tokio::spawn(async move {
            settle().await;
            peer.write_all(&[7; 20]).unwrap();
            peer
        });
        let served = reader.await;
        let _peer = sending.await.unwrap();
        assert_eq!(served, [5, 5, 5, 5]);
        // The start and the one message; no further traffic was needed.
        assert!(polls.load(Ordering::Relaxed) <= 3, "{polls:?} polls");
        // And it does not say so a fifth time.
        let mut fifth = pin!(channel.ready(Interest::READ));
        assert!(poll_once(&mut fifth).is_none());
    });
}

/// Polls once, with a waker that does nothing.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn buffered_bytes_are_read_through_the_stream_too() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        let mut channel = AsyncChannel::new(Buffered::new(socket)).unwrap();
        let data = pattern(20);
        peer.write_all(&data).unwrap();
        let mut got: Vec<u8> = Vec::new();
        for _ in 0..4 {
            let mut buf = [0; 5];
            channel.read_exact(&mut buf).await.unwrap();
            got.extend(buf);
        }
        assert_eq!(got, data);
    });
}

#[test]
fn bytes_that_the_writer_took_for_the_reader_wake_it() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        let channel = AsyncChannel::new(Buffered::new(socket)).unwrap();
        let (mut reader, mut writer) = channel.into_split();
        let reading = tokio::spawn(async move { reader.read_u8().await });
        settle().await;
        peer.write_all(b"!").unwrap();
        // The socket is empty again before the runtime looks.
        assert_eq!(poll_once(&mut pin!(writer.write(b"x"))).unwrap().unwrap(), 1);
        assert_eq!(reading.await.unwrap().unwrap(), b'!');
    });
}

/// A channel whose read first has to get an answer out: it waits for room, as a writer does.
#[derive(Debug)]
struct Owing {
    base: Base,
    inner: Socket,
    owed: AtomicUsize,
}

impl Owing {
    fn pay(&self) -> io::Result<()> {
        while self.owed.load(Ordering::Relaxed) > 0 {
            self.inner.write(b"p")?;
            self.owed.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Channel for Owing {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> io::Result<usize> {
        self.pay()?;
        self.inner.read_vectored(op.bufs())
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> io::Result<usize> {
        self.inner.write_vectored(op.bufs())
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let mut interest = interest;
        if interest.contains(Interest::READ) && self.owed.load(Ordering::Relaxed) > 0 {
            set.internally(|set| self.inner.watch(Interest::WRITE, set));
            interest.remove(Interest::READ);
        }
        if interest.is_empty() {
            return Readiness::empty();
        }
        self.inner.watch(interest, set)
    }

    fn drive(&self, _now: Instant) -> io::Result<()> {
        match self.pay() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        self.base.set_mode(mode);
        self.inner.set_mode(mode)
    }

    fn finish(&self) -> io::Result<()> {
        self.inner.finish()
    }
}

fn fill(channel: &impl Channel) -> usize {
    let block = [0; 4096];
    let mut sent = 0;
    loop {
        match channel.write_with(&[IoSlice::new(&block)], WriteFlags::NONBLOCK, &[]) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return sent;
            }
        }
    }
}

fn drain(channel: &impl Channel, mut bytes: usize) {
    let mut buf = vec![0; 65536];
    while bytes > 0 {
        let part = bytes.min(buf.len());
        channel.read_exact(&mut buf[..part]).unwrap();
        bytes -= part;
    }
}

#[test]
fn two_halves_wait_for_the_same_direction_and_both_wake() {
    for runtime in [current_thread(), multi_thread()] {
        for _ in 0..50 {
            runtime.block_on(bounded(async {
                let (peer, inner) = Socket::pair().unwrap();
                let base = Base::new("owing", Features::DUPLEX);
                let owing = Owing { base, inner, owed: AtomicUsize::new(1) };
                let (mut reader, mut writer) = AsyncChannel::new(owing).unwrap().into_split();
                let filled = fill(reader.get_ref());

                let reading = tokio::spawn(async move {
                    let mut byte = [0];
                    reader.read_exact(&mut byte).await.map(|_| byte[0])
                });
                let writing = tokio::spawn(async move { writer.write(b"w").await });
                settle().await;
                assert!(!reading.is_finished() && !writing.is_finished());
                let answer = tokio::task::spawn_blocking(move || {
                    drain(&peer, filled);
                    // The answer of the reader and the byte of the writer, in either order.
                    let mut both = [0; 2];
                    peer.read_exact(&mut both).unwrap();
                    peer.write_all(b"!").unwrap();
                    both.sort();
                    both
                });
                assert_eq!(answer.await.unwrap(), *b"pw");
                assert_eq!(reading.await.unwrap().unwrap(), b'!');
                assert_eq!(writing.await.unwrap().unwrap(), 1);
            }));
        }
    }
}

#[test]
fn a_cancelled_read_or_write_loses_and_repeats_nothing() {
    for (left, right) in [Socket::pair().unwrap(), tcp_pair()] {
        block_on(async {
            let data = pattern(1 << 20);
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            let writer = async {
                let mut sent = 0;
                while sent < data.len() {
                    let part = &data[sent..data.len().min(sent + 7001)];
                    tokio::select! {
                        biased;
                        n = left.write(part) => sent += n.unwrap(),
                        () = tokio::task::yield_now() => {}
                    }
                }
                left.shutdown().await.unwrap();
            };
            let reader = async {
                let mut got: Vec<u8> = Vec::new();
                let mut buf = vec![0; 5003];
                loop {
                    tokio::select! {
                        biased;
                        n = right.read(&mut buf) => match n.unwrap() {
                            0 => return got,
                            n => got.extend_from_slice(&buf[..n]),
                        },
                        () = tokio::task::yield_now() => {}
                    }
                }
            };
            let ((), got) = tokio::join!(writer, reader);
            assert!(got == data, "{} of {} bytes, or other ones", got.len(), data.len());
        });
    }
}

#[test]
fn a_close_from_another_thread_ends_a_pending_read_write_and_ready() {
    for (peer, socket) in [Socket::pair().unwrap(), tcp_pair()] {
        let runtime = multi_thread();
        runtime.block_on(bounded(async move {
            let channel = Arc::new(socket);
            let (mut reader, mut writer) =
                AsyncChannel::new(Arc::clone(&channel)).unwrap().into_split();
            let mut waiting = AsyncChannel::new(Arc::clone(&channel)).unwrap();
            fill(&channel);
            let reading = tokio::spawn(async move { reader.read(&mut [0; 8]).await });
            let writing = tokio::spawn(async move { writer.write(b"x").await });
            let ready = tokio::spawn(async move { waiting.ready(Interest::READ).await });
            settle().await;
            assert!(!reading.is_finished() && !writing.is_finished() && !ready.is_finished());
            std::thread::spawn(move || channel.close().unwrap()).join().unwrap();
            let error = reading.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            let error = writing.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            assert!(ready.await.unwrap().unwrap().contains(Readiness::READ));
            drop(peer);
        }));
    }
}

#[test]
fn a_closed_pipe_ends_a_pending_read() {
    block_on(async {
        let (input, _output) = Pipe::pair().unwrap();
        let input = Arc::new(input);
        let mut channel = AsyncChannel::new(Arc::clone(&input)).unwrap();
        let reading = tokio::spawn(async move { channel.read(&mut [0; 8]).await });
        settle().await;
        assert!(!reading.is_finished());
        std::thread::spawn(move || input.close().unwrap()).join().unwrap();
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    });
}

/// Reads once per step, and takes a short read for all there is.
fn once_per_step(socket: &Socket, got: &mut Vec<u8>) -> impl Steps<Output = io::Result<()>> {
    Made(
        move |_| {
            let mut buf = [0; 4096];
            match socket.read(&mut buf) {
                Ok(0) => Poll::Ready(Ok(())),
                Ok(n) => {
                    got.extend_from_slice(&buf[..n]);
                    Poll::Pending
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        },
        |set: &mut PollSet| also(socket, Interest::READ, set),
    )
}

#[test]
fn an_end_that_came_together_with_data_is_not_lost() {
    for (peer, socket) in [Socket::pair().unwrap(), tcp_pair()] {
        socket.set_mode(Mode::NonBlocking).unwrap();
        block_on(async {
            let mut got: Vec<u8> = Vec::new();
            let running = run(once_per_step(&socket, &mut got));
            let ending = async {
                settle().await;
                peer.write_all(b"last words").unwrap();
                drop(peer);
            };
            let (end, ()) = tokio::join!(running, ending);
            end.unwrap().unwrap();
            assert_eq!(got, b"last words");
        });
    }
}

#[test]
fn a_message_that_is_reported_while_the_step_runs_is_not_lost() {
    let runtime = multi_thread();
    runtime.block_on(bounded(async {
        let (peer, socket) = Socket::pair().unwrap();
        let (observed_peer, observed) = Socket::pair().unwrap();
        let (seen, is_seen) = std::sync::mpsc::channel();
        let observer = tokio::spawn(async move {
            let mut observed = AsyncChannel::new(observed).unwrap();
            observed.read_u8().await.unwrap();
            seen.send(()).unwrap();
        });
        socket.set_mode(Mode::NonBlocking).unwrap();
        let socket = Arc::new(socket);
        let watched = Arc::clone(&socket);
        let mut got: Vec<u8> = Vec::new();
        let mut steps = 0;
        let steps = Made(
            move |_| {
                steps += 1;
                loop {
                    let mut buf = [0; 64];
                    match socket.read(&mut buf) {
                        Ok(n) => got.extend_from_slice(&buf[..n]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                if got == b"firstsecond" {
                    return Poll::Ready(());
                }
                if steps == 1 {
                    peer.write_all(b"first").unwrap();
                } else if steps == 2 {
                    // A worker sees both, in this order, before this step ends.
                    peer.write_all(b"second").unwrap();
                    observed_peer.write_all(b"x").unwrap();
                    is_seen.recv_timeout(LIMIT).unwrap();
                }
                Poll::Pending
            },
            move |set: &mut PollSet| also(&*watched, Interest::READ, set),
        );
        // On this thread: the workers have nothing to do but to look at the descriptors.
        run(steps).await.unwrap();
        observer.await.unwrap();
    }));
}

#[test]
fn descriptors_that_epoll_refuses_are_always_ready() {
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    for fd in [null, file] {
        let fd = SharedFd::new(fd);
        let mut steps = 0;
        let counting = Made(
            |_| {
                steps += 1;
                if steps == 1000 { Poll::Ready(()) } else { Poll::Pending }
            },
            |set: &mut PollSet| set.add(&fd, Interest::READ, Interest::READ),
        );
        block_on(async {
            // Another task gets its turns meanwhile.
            let turns = AtomicU32::new(0);
            tokio::select! {
                result = run(counting) => result.unwrap(),
                () = async {
                    loop {
                        turns.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                } => {}
            }
            assert!(turns.load(Ordering::Relaxed) > 10, "{turns:?} turns");
        });
        assert_eq!(steps, 1000);
    }
}

/// Writes down which legs fired.
struct Noting {
    sockets: [Socket; 2],
    woken: Arc<Mutex<Vec<Vec<usize>>>>,
}

impl Steps for Noting {
    type Output = ();

    fn step(&mut self, _now: Instant) -> Poll<()> {
        let mut ended = 0;
        for socket in &self.sockets {
            while let Ok(n) = socket.read(&mut [0; 8]) {
                if n == 0 {
                    ended += 1;
                    break;
                }
            }
        }
        if ended == 2 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn watch(&mut self, set: &mut PollSet) {
        for socket in &self.sockets {
            also(socket, Interest::READ, set);
        }
    }

    fn woken(&mut self, set: &PollSet) {
        let legs = set.legs().iter().enumerate();
        let fired = legs.filter(|(_, leg)| leg.granted().contains(Readiness::READ));
        self.woken.lock().unwrap().push(fired.map(|(index, _)| index).collect());
    }
}

#[test]
fn steps_learn_which_legs_fired_and_only_those() {
    block_on(async {
        let (first_peer, first) = Socket::pair().unwrap();
        let (second_peer, second) = Socket::pair().unwrap();
        for socket in [&first, &second] {
            socket.set_mode(Mode::NonBlocking).unwrap();
        }
        let woken: Arc<Mutex<Vec<Vec<usize>>>> = Arc::default();
        let noting = Noting { sockets: [first, second], woken: Arc::clone(&woken) };
        let sending = async {
            settle().await;
            assert_eq!(woken.lock().unwrap().len(), 0, "nobody is woken before the first step");
            first_peer.write_all(b"x").unwrap();
            settle().await;
            second_peer.write_all(b"x").unwrap();
            settle().await;
            first_peer.write_all(b"x").unwrap();
            second_peer.write_all(b"x").unwrap();
            settle().await;
            assert_eq!(*woken.lock().unwrap(), [vec![0], vec![1], vec![0, 1]]);
            first_peer.close().unwrap();
            second_peer.close().unwrap();
        };
        tokio::join!(async { run(noting).await.unwrap() }, sending);
    });
}

#[test]
fn a_relay_does_not_try_the_direction_whose_leg_did_not_fire() {
    block_on(async {
        let (client, left) = Socket::pair().unwrap();
        let (right, server) = Socket::pair().unwrap();
        let without_splicing = |socket: Socket| {
            socket.set_mode(Mode::NonBlocking).unwrap();
            Arc::new(Chaos::new(socket, Plan::new(0)))
        };
        let (left, right) = (without_splicing(left), without_splicing(right));
        let relay = Relay::new(
            Arc::clone(&left) as Arc<dyn Channel>,
            Arc::clone(&right) as Arc<dyn Channel>,
            RelayOptions::default(),
        );
        let relaying = tokio::spawn(run(relay));
        settle().await;
        let (mut client, mut server) =
            (AsyncChannel::new(client).unwrap(), AsyncChannel::new(server).unwrap());
        let (left_before, right_before) = (left.reads(), right.reads());
        for _ in 0..20 {
            client.write_all(b"x").await.unwrap();
            server.read_u8().await.unwrap();
            settle().await;
        }
        assert!(left.reads() >= left_before + 20);
        assert_eq!(right.reads(), right_before, "nothing came from there");
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        assert!(relaying.await.unwrap().unwrap().error().is_none());
    });
}

#[test]
fn a_deadline_makes_a_step_and_one_that_moves_away_does_not() {
    block_on(async {
        let start = Instant::now();
        let mut deadline = start + Duration::from_millis(20);
        let mut steps = 0;
        let ticking = Made(
            |now| {
                steps += 1;
                if now >= start + Duration::from_millis(60) {
                    Poll::Ready(now)
                } else {
                    Poll::Pending
                }
            },
            |set: &mut PollSet| {
                deadline = deadline.max(Instant::now() + Duration::from_millis(20));
                set.wake_at(deadline);
            },
        );
        let ended = run(ticking).await.unwrap();
        assert!(ended >= start + Duration::from_millis(60));
        assert!(steps <= 5, "{steps} steps");
    });
}

#[test]
fn an_idle_timeout_that_moves_with_every_message_fires_when_they_stop() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        socket.set_mode(Mode::NonBlocking).unwrap();
        let idle = Duration::from_millis(50);
        let mut deadline = Instant::now() + idle;
        let deadline_cell = std::cell::Cell::new(deadline);
        let mut messages = 0;
        let steps = Made(
            |now| {
                let mut buf = [0; 8];
                while socket.read(&mut buf).is_ok() {
                    messages += 1;
                    deadline = now + idle;
                }
                deadline_cell.set(deadline);
                if now >= deadline { Poll::Ready(()) } else { Poll::Pending }
            },
            |set: &mut PollSet| {
                also(&socket, Interest::READ, set);
                set.wake_at(deadline_cell.get());
            },
        );
        let polls = AtomicU32::new(0);
        let sending = tokio::spawn(async move {
            for _ in 0..20 {
                peer.write_all(b"m").unwrap();
                settle().await;
            }
            (Instant::now(), peer)
        });
        counted(&polls, run(steps)).await.unwrap();
        let ended = Instant::now();
        let (last, _peer) = sending.await.unwrap();
        assert_eq!(messages, 20);
        assert!(ended >= last + idle / 2, "ended {:?} after the last message", ended - last);
        // The start, a wake-up per message, and a few firings.
        assert!(polls.load(Ordering::Relaxed) <= 30, "{polls:?} polls");
    });
}

#[test]
fn run_until_gives_the_steps_back_and_they_go_on() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        socket.set_mode(Mode::NonBlocking).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let steps = once_per_step(&socket, &mut got);
        let soon = Instant::now() + Duration::from_millis(10);
        let ControlFlow::Continue(steps) = run_until(steps, soon).await.unwrap() else {
            panic!("nothing was sent")
        };
        peer.write_all(b"late").unwrap();
        drop(peer);
        let later = Instant::now() + LIMIT;
        let ControlFlow::Break(result) = run_until(steps, later).await.unwrap() else {
            panic!("it ended")
        };
        result.unwrap();
        assert_eq!(got, b"late");
    });
}

#[test]
fn a_leg_set_may_change_at_every_step() {
    block_on(async {
        let pairs: Vec<_> = (0..6).map(|_| Socket::pair().unwrap()).collect();
        let at = std::cell::Cell::new(0);
        for (_, socket) in &pairs {
            socket.set_mode(Mode::NonBlocking).unwrap();
        }
        // One socket after the other, and at every third the room of the one before as well.
        let steps = Made(
            |_| {
                while at.get() < 18 {
                    let mut byte = [0];
                    match pairs[at.get() % 6].1.read(&mut byte) {
                        Ok(1) => at.set(at.get() + 1),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Poll::Pending;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                Poll::Ready(())
            },
            |set: &mut PollSet| also(&pairs[at.get() % 6].1, Interest::READ, set),
        );
        let sending = async {
            for i in 0..18 {
                while at.get() < i {
                    tokio::task::yield_now().await;
                }
                pairs[i % 6].0.write_all(b"x").unwrap();
            }
        };
        let (end, ()) = tokio::join!(run(steps), sending);
        end.unwrap();
    });
}

#[test]
fn a_descriptor_may_be_in_a_set_twice() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        socket.set_mode(Mode::NonBlocking).unwrap();
        let filled = fill(&socket);
        let (mut read, mut written) = (false, false);
        let state = std::cell::Cell::new((read, written));
        let steps = Made(
            |_| {
                read = read || socket.read(&mut [0; 1]).is_ok();
                written = written || socket.write(b"x").is_ok();
                state.set((read, written));
                if read && written { Poll::Ready(()) } else { Poll::Pending }
            },
            |set: &mut PollSet| {
                also(&socket, Interest::READ, set);
                also(&socket, Interest::READ, set);
                also(&socket, Interest::WRITE, set);
            },
        );
        let traffic = async {
            settle().await;
            peer.write_all(b"y").unwrap();
            settle().await;
            assert_eq!(state.get(), (true, false));
            drain(&peer, filled);
        };
        let (end, ()) = tokio::join!(run(steps), traffic);
        end.unwrap();
    });
}

#[test]
fn several_futures_may_wait_for_one_descriptor() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        let socket = Arc::new(socket);
        let mut a = AsyncChannel::new(Arc::clone(&socket)).unwrap();
        let mut b = AsyncChannel::new(Arc::clone(&socket)).unwrap();
        let sending = async {
            settle().await;
            peer.write_all(b"x").unwrap();
        };
        let (a, b, ()) = tokio::join!(a.ready(Interest::READ), b.ready(Interest::READ), sending);
        assert!(a.unwrap().contains(Readiness::READ));
        assert!(b.unwrap().contains(Readiness::READ));
    });
}

/// How a step finds out that there is no more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// It reads until it would block.
    UntilEmpty,
    /// A short read is the last one: true of a stream of bytes.
    UntilShort,
}

/// Answers `rounds` messages of one byte, or sends them and waits for the answers.
fn ping_pong(
    socket: Socket,
    begins: bool,
    reads: Reads,
    steps_made: Arc<AtomicU32>,
) -> impl Steps<Output = ()> + Send {
    socket.set_mode(Mode::NonBlocking).unwrap();
    let socket = Arc::new(socket);
    let watched = Arc::clone(&socket);
    let mut started = !begins;
    let mut done = 0;
    Made(
        move |_| {
            steps_made.fetch_add(1, Ordering::Relaxed);
            if !started {
                started = true;
                assert_eq!(socket.write(b"x").unwrap(), 1);
            }
            loop {
                match socket.read(&mut [0; 8]) {
                    Ok(1) => done += 1,
                    Ok(_) => return Poll::Ready(()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                    Err(error) => panic!("{error}"),
                }
                if begins && done == ROUNDS {
                    return Poll::Ready(());
                }
                assert_eq!(socket.write(b"x").unwrap(), 1);
                if done == ROUNDS {
                    return Poll::Ready(());
                }
                if reads == Reads::UntilShort {
                    return Poll::Pending;
                }
            }
        },
        move |set: &mut PollSet| also(&*watched, Interest::READ, set),
    )
}

const ROUNDS: u32 = 1000;

#[test]
fn a_message_costs_one_wake_up_and_one_step() {
    for (left, right) in [Socket::pair().unwrap(), tcp_pair()] {
        block_on(async {
            let polls = Arc::new(AtomicU32::new(0));
            let steps = Arc::new(AtomicU32::new(0));
            let [a, b] = [(left, true), (right, false)].map(|(socket, begins)| {
                let steps = run(ping_pong(socket, begins, Reads::UntilEmpty, Arc::clone(&steps)));
                let polls = Arc::clone(&polls);
                tokio::spawn(async move { counted(&polls, steps).await })
            });
            a.await.unwrap().unwrap();
            b.await.unwrap().unwrap();
            let (polls, steps) = (polls.load(Ordering::Relaxed), steps.load(Ordering::Relaxed));
            assert!(polls <= 2 * ROUNDS + 10, "{polls} polls for {} messages", 2 * ROUNDS);
            assert!(steps <= 2 * ROUNDS + 10, "{steps} steps for {} messages", 2 * ROUNDS);
        });
    }
}

#[test]
fn streams_stay_within_the_same_budget() {
    for (left, right) in [Socket::pair().unwrap(), tcp_pair()] {
        block_on(async {
            let polls = Arc::new(AtomicU32::new(0));
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            let counter = Arc::clone(&polls);
            let echo = tokio::spawn(async move {
                counted(&counter, async {
                    for _ in 0..ROUNDS {
                        let byte = right.read_u8().await.unwrap();
                        right.write_u8(byte).await.unwrap();
                    }
                })
                .await;
            });
            for i in 0..ROUNDS {
                left.write_u8(i as u8).await.unwrap();
                assert_eq!(left.read_u8().await.unwrap(), i as u8);
            }
            echo.await.unwrap();
            let polls = polls.load(Ordering::Relaxed);
            assert!(polls <= ROUNDS + 10, "{polls} polls for {ROUNDS} messages");
        });
    }
}

/// A read ends at the mark of urgent data, short though there is more behind it.
#[test]
fn urgent_data_stalls_no_stream() {
    block_on(async {
        let (left, right) = tcp_pair();
        let mut right = AsyncChannel::new(right).unwrap();
        let mut buf = [0; 64];
        for _ in 0..3 {
            // The first one is waited for: from then on all is done as in a stream that flows.
            let (first, ()) = tokio::join!(right.read(&mut buf), async {
                settle().await;
                left.write_all(b"first").unwrap();
            });
            assert_eq!(first.unwrap(), 5);
            left.write_all(b"before").unwrap();
            let fd = left.descriptor().unwrap();
            rustix::net::send(&fd, b"!", rustix::net::SendFlags::OOB).unwrap();
            left.write_all(b"behind").unwrap();
            assert_eq!(right.read(&mut buf).await.unwrap(), 6);
            assert_eq!(right.read(&mut buf).await.unwrap(), 6);
            assert_eq!(&buf[..6], b"behind");
        }
    });
}

/// A reader waits on the registration that a writer needs for another direction.
#[test]
fn a_reader_is_woken_after_a_writer_had_to_wait_for_room() {
    for (left, right) in [Socket::pair().unwrap(), tcp_pair()] {
        block_on(async {
            let (mut reader, mut writer) = AsyncChannel::new(left).unwrap().into_split();
            // Read once with a wait, so that the next wait is not the first.
            let (first, ()) = tokio::join!(reader.read_u8(), async {
                settle().await;
                right.write_all(b"1").unwrap();
            });
            assert_eq!(first.unwrap(), b'1');
            let reads = tokio::spawn(async move { reader.read_u8().await });
            settle().await;
            let filled = fill(writer.get_ref());
            let writes = tokio::spawn(async move { writer.write_all(b"more").await });
            settle().await;
            assert!(!reads.is_finished() && !writes.is_finished());
            right.write_all(b"2").unwrap();
            assert_eq!(reads.await.unwrap().unwrap(), b'2');
            drain(&right, filled);
            writes.await.unwrap().unwrap();
        });
    }
}

/// What [`a_message_costs_one_wait_one_receive_and_one_send`] runs under strace.
#[test]
#[ignore = "run by another test"]
fn ping_pong_for_the_tracer() {
    block_on(async {
        let (left, right) = tcp_pair();
        let steps = Arc::new(AtomicU32::new(0));
        let echo =
            tokio::spawn(run(ping_pong(right, false, Reads::UntilShort, Arc::clone(&steps))));
        run(ping_pong(left, true, Reads::UntilShort, steps)).await.unwrap();
        echo.await.unwrap().unwrap();
    });
}

/// The same with streams: both kinds of sockets, one after the other.
#[test]
#[ignore = "run by another test"]
fn streams_for_the_tracer() {
    block_on(async {
        for (left, right) in [tcp_pair(), Socket::pair().unwrap()] {
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            let echo = tokio::spawn(async move {
                for _ in 0..ROUNDS / 2 {
                    assert_eq!(right.read(&mut [0; 8]).await.unwrap(), 1);
                    right.write_u8(1).await.unwrap();
                }
            });
            for _ in 0..ROUNDS / 2 {
                left.write_u8(1).await.unwrap();
                assert_eq!(left.read(&mut [0; 8]).await.unwrap(), 1);
            }
            echo.await.unwrap();
        }
    });
}

#[test]
fn a_message_costs_one_wait_one_receive_and_one_send() {
    count_calls("ping_pong_for_the_tracer");
}

/// Who reads less than there was room for has taken all there was.
#[test]
fn a_message_costs_a_stream_no_more() {
    count_calls("streams_for_the_tracer");
}

fn count_calls(test: &str) {
    let program = std::env::current_exe().unwrap();
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none"])
        .arg(program)
        .args(["--exact", test, "--ignored", "--test-threads=1"])
        .output();
    let Ok(traced) = traced else { return eprintln!("no strace here: nothing counted") };
    let log = String::from_utf8_lossy(&traced.stderr);
    let count = |name: &str| {
        let call = format!(" {name}(");
        log.lines().filter(|line| line.contains(&call) || line.starts_with(&call[1..])).count()
    };
    let received = log.lines().filter(|l| l.contains("recvfrom(") && !l.contains("EAGAIN")).count();
    if received == 0 {
        return eprintln!("strace may not trace here: nothing counted");
    }
    let messages = 2 * ROUNDS as usize;
    assert_eq!(received, messages);
    assert_eq!(count("sendto"), messages);
    // The first looks of each end, before there was anything.
    let looks = count("recvfrom") - received;
    assert!(looks <= 8, "{looks} looks");
    assert!(count("epoll_wait") <= messages + 10, "{} waits", count("epoll_wait"));
    assert!(count("epoll_ctl") <= 12, "{} registrations", count("epoll_ctl"));
    assert!(count("write") <= 60 && count("poll") <= 10 && count("futex") <= 60);
}

#[test]
fn nothing_happens_while_idle() {
    block_on(async {
        let (_peer, socket) = Socket::pair().unwrap();
        let (left, mut right) = async_pair();
        socket.set_mode(Mode::NonBlocking).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let polls = Arc::new(AtomicU32::new(0));
        let mut running = pin!(counted(&polls, run(once_per_step(&socket, &mut got))));
        let mut reading = pin!(counted(&polls, async { right.read(&mut [0; 8]).await }));
        let idle = tokio::time::timeout(Duration::from_millis(100), async {
            tokio::select! {
                result = &mut running => drop(result),
                result = &mut reading => drop(result),
            }
        });
        assert!(idle.await.is_err());
        let polls = polls.load(Ordering::Relaxed);
        assert!(polls <= 6, "{polls} polls");
        drop(left);
    });
}

#[test]
fn steps_that_make_nothing_of_a_hang_up_do_not_spin() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        drop(peer);
        let mut steps = 0;
        let stubborn = Made(
            |_| -> Poll<()> {
                steps += 1;
                Poll::Pending
            },
            |set: &mut PollSet| also(&socket, Interest::READ, set),
        );
        let until = Instant::now() + Duration::from_millis(200);
        assert!(run_until(stubborn, until).await.unwrap().is_continue());
        assert!(steps <= 200, "{steps} steps");
    });
}

#[test]
fn a_leg_for_nothing_fires_when_the_peer_hangs_up() {
    block_on(async {
        let (peer, socket) = Socket::pair().unwrap();
        let fd = socket.descriptor().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let (mut steps, is_gone) = (0, Arc::clone(&gone));
        let waiting = Made(
            |_| {
                steps += 1;
                if is_gone.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
            },
            |set: &mut PollSet| set.add(&fd, Interest::empty(), Interest::empty()),
        );
        let leaving = tokio::spawn(async move {
            settle().await;
            gone.store(true, Ordering::Relaxed);
            drop(peer);
        });
        run(waiting).await.unwrap();
        leaving.await.unwrap();
        assert!(steps <= 3, "{steps} steps");
    });
}

/// Runs one test in a process of its own, and gives what it says.
fn alone(test: &str) -> String {
    // Other tests open descriptors meanwhile: count in a process of one test.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn dropped_futures_leave_no_descriptor_behind() {
    assert!(alone("dropped_futures_counted").contains("1 passed"));
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn dropped_futures_counted() {
    let runtime = current_thread();
    runtime.block_on(bounded(async {
        tokio::time::sleep(Duration::ZERO).await;
        let before = open_fds();
        for _ in 0..50 {
            let (peer, socket) = Socket::pair().unwrap();
            socket.set_mode(Mode::NonBlocking).unwrap();
            let mut got: Vec<u8> = Vec::new();
            {
                // Two of them, so that one registers a duplicate.
                let a = run(once_per_step(&socket, &mut got));
                let mut more = Vec::new();
                let b = run(once_per_step(&socket, &mut more));
                let both = async { tokio::join!(a, b) };
                let dropped = tokio::select! {
                    biased;
                    _ = both => false,
                    () = settle() => true,
                };
                assert!(dropped);
            }
            let mut channel = AsyncChannel::new(socket).unwrap();
            let mut buf = [0; 8];
            let cancelled = tokio::select! {
                biased;
                _ = channel.read(&mut buf) => false,
                () = settle() => true,
            };
            assert!(cancelled);
            // Closed through a reference: the registration lets go when it is told.
            channel.get_ref().close().unwrap();
            assert!(channel.read(&mut [0; 8]).await.is_err());
            assert_eq!(open_fds(), before + 1);
            drop(peer);
        }
        assert_eq!(open_fds(), before);
    }));
}

#[test]
fn vectors_are_written_in_one_call() {
    block_on(async {
        let (mut left, mut right) = async_pair();
        assert!(left.is_write_vectored());
        let bufs = [&b"one "[..], b"", b"two ", b"three"].map(IoSlice::new);
        assert_eq!(left.write_vectored(&bufs).await.unwrap(), 13);
        let mut buf = [0; 13];
        right.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"one two three");
    });
}

#[test]
fn an_empty_read_or_write_does_nothing() {
    block_on(async {
        let (mut left, mut right) = async_pair();
        assert_eq!(left.write(&[]).await.unwrap(), 0);
        assert_eq!(right.read(&mut []).await.unwrap(), 0);
        left.get_ref().close().unwrap();
        assert_eq!(left.read(&mut []).await.unwrap(), 0);
    });
}

#[test]
fn descriptors_travel_with_the_bytes() {
    block_on(async {
        let (mut left, mut right) = async_pair();
        let (passed, witness) = Socket::pair().unwrap();
        let fd = passed.descriptor().unwrap();
        let mut sink = FdSink::new(4);
        let mut buf = [0; 8];
        let sending = async {
            settle().await;
            let bufs = [IoSlice::new(b"with fd")];
            left.write_with(&bufs, WriteFlags::empty(), &[fd.as_fd()]).await.unwrap()
        };
        let receiving = async {
            let mut bufs = [IoSliceMut::new(&mut buf)];
            right.read_with(&mut bufs, ReadFlags::empty(), Some(&mut sink)).await.unwrap()
        };
        let (sent, received) = tokio::join!(sending, receiving);
        assert_eq!((sent, received), (7, 7));
        let received = sink.drain().next().unwrap();
        std::fs::File::from(received).write_all(b"same").unwrap();
        let mut same = [0; 4];
        witness.read_exact(&mut same).unwrap();
        assert_eq!(&same, b"same");
        // A refusal comes at once, without a wait.
        let nothing = left.write_with(&[], WriteFlags::empty(), &[fd.as_fd()]).await;
        assert_eq!(nothing.unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_peeked_byte_is_still_there() {
    block_on(async {
        let (mut left, mut right) = async_pair();
        left.write_all(b"abc").await.unwrap();
        let mut buf = [0; 2];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        assert_eq!(right.read_with(&mut bufs, ReadFlags::PEEK, None).await.unwrap(), 2);
        let mut all = [0; 3];
        right.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"abc");
    });
}

#[test]
fn a_half_closed_channel_still_reads() {
    block_on(async {
        for (left, right) in [Socket::pair().unwrap(), tcp_pair()] {
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            left.write_all(b"request").await.unwrap();
            left.shutdown().await.unwrap();
            let mut request = String::new();
            right.read_to_string(&mut request).await.unwrap();
            right.write_all(b"reply").await.unwrap();
            right.shutdown().await.unwrap();
            let mut reply = String::new();
            left.read_to_string(&mut reply).await.unwrap();
            assert_eq!((&*request, &*reply), ("request", "reply"));
            // The end is sticky.
            assert_eq!(left.read(&mut [0; 1]).await.unwrap(), 0);
        }
    });
}

#[test]
fn a_shutdown_does_not_wait_for_a_write_that_was_given_up() {
    block_on(async {
        let (mut left, _right) = async_pair();
        fill(left.get_ref());
        let given_up = tokio::select! {
            biased;
            _ = left.write(b"more") => false,
            () = settle() => true,
        };
        assert!(given_up);
        left.shutdown().await.unwrap();
    });
}

#[test]
fn ready_tells_the_truth_after_the_data_was_taken_behind_its_back() {
    block_on(async {
        let (mut left, mut right) = async_pair();
        for _ in 0..3 {
            left.write_all(b"x").await.unwrap();
            assert!(right.ready(Interest::READ).await.unwrap().contains(Readiness::READ));
            assert_eq!(right.get_ref().read(&mut [0; 1]).unwrap(), 1);
            assert!(poll_once(&mut pin!(right.ready(Interest::READ))).is_none());
        }
    });
}

fn exchange_on(runtime: &Runtime, left: Arc<dyn Channel>, right: Arc<dyn Channel>) {
    runtime.block_on(bounded(async {
        let data = Arc::new(pattern(1 << 20));
        let mut tasks = Vec::new();
        for channel in [left, right] {
            let (mut reader, mut writer) = AsyncChannel::new(channel).unwrap().into_split();
            let (sent, expected) = (Arc::clone(&data), Arc::clone(&data));
            tasks.push(tokio::spawn(async move {
                writer.write_all(&sent).await.unwrap();
                writer.flush().await.unwrap();
                writer.shutdown().await.unwrap();
            }));
            tasks.push(tokio::spawn(async move {
                let mut got: Vec<u8> = Vec::new();
                reader.read_to_end(&mut got).await.unwrap();
                assert!(got == *expected, "{} bytes", got.len());
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }));
}

#[test]
fn a_megabyte_goes_both_ways_on_both_runtimes() {
    for runtime in [current_thread(), multi_thread()] {
        let (left, right) = Socket::pair().unwrap();
        exchange_on(&runtime, Arc::new(left), Arc::new(right));
        let (left, right) = tcp_pair();
        exchange_on(&runtime, Arc::new(left), Arc::new(right));
        let (left, right) = Duplex::pair();
        exchange_on(&runtime, Arc::new(left), Arc::new(right));
        let (left, right) = Socket::pair().unwrap();
        exchange_on(&runtime, Arc::new(Buffered::new(left)), Arc::new(Buffered::new(right)));
        let ends = || {
            let (input, output) = io::pipe().unwrap();
            (OwnedFd::from(input), OwnedFd::from(output))
        };
        let ((in_a, out_b), (in_b, out_a)) = (ends(), ends());
        let left = Pipe::from_fds(Some(in_a), Some(out_a)).unwrap();
        let right = Pipe::from_fds(Some(in_b), Some(out_b)).unwrap();
        exchange_on(&runtime, Arc::new(left), Arc::new(right));
    }
}

#[test]
fn halves_come_together_again_and_give_the_channel_back() {
    block_on(async {
        let (left, other) = async_pair();
        let (reader, writer) = left.into_split();
        let (other_reader, other_writer) = other.into_split();
        let (reader, other_writer) = reader.reunite(other_writer).unwrap_err().into_halves();
        let left = reader.reunite(writer).unwrap();
        let other = other_reader.reunite(other_writer).unwrap();
        left.into_inner().unwrap().write_all(b"x").unwrap();
        assert_eq!(other.into_inner().unwrap().read(&mut [0; 2]).unwrap(), 1);
    });
}

/// A regular file, and how many operations run in it.
#[derive(Debug)]
struct Disk {
    base: Base,
    file: Arc<Mutex<std::fs::File>>,
    threads: Mutex<Vec<std::thread::ThreadId>>,
}

impl Disk {
    fn new() -> Self {
        let name = format!("/dev/shm/qio-adapters-{}-{:?}", std::process::id(), Instant::now());
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create_new(true).open(&name).unwrap();
        std::fs::remove_file(&name).unwrap();
        let features = Features::DUPLEX | Features::STORAGE | Features::SEEK;
        let base = Base::new("disk", features);
        Self { base, file: Arc::new(Mutex::new(file)), threads: Mutex::default() }
    }

    fn note(&self) {
        self.threads.lock().unwrap().push(std::thread::current().id());
    }
}

impl Channel for Disk {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> io::Result<usize> {
        self.note();
        self.file.lock().unwrap().read_vectored(op.bufs())
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> io::Result<usize> {
        self.note();
        self.file.lock().unwrap().write_vectored(op.bufs())
    }

    fn watch(&self, interest: Interest, _set: &mut PollSet) -> Readiness {
        interest.into()
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }

    fn seek(&self, to: SeekFrom) -> io::Result<u64> {
        self.file.lock().unwrap().seek(to)
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_is_read_and_written_in_other_threads() {
    block_on(async {
        let data = pattern(300_000);
        let mut disk = AsyncChannel::new(Disk::new()).unwrap();
        disk.write_all(&data).await.unwrap();
        disk.flush().await.unwrap();
        disk.get_ref().seek(SeekFrom::Start(0)).unwrap();
        let mut got: Vec<u8> = Vec::new();
        disk.read_to_end(&mut got).await.unwrap();
        assert!(got == data);
        let disk = disk.into_inner().unwrap();
        let here = std::thread::current().id();
        assert!(!disk.threads.lock().unwrap().contains(&here));
    });
}

#[test]
fn a_cancelled_file_read_keeps_its_bytes() {
    block_on(async {
        let data = pattern(300_000);
        let disk = Disk::new();
        disk.write_all(&data).unwrap();
        disk.seek(SeekFrom::Start(0)).unwrap();
        let mut disk = AsyncChannel::new(disk).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let mut given_up = 0;
        let mut buf = vec![0; 7001];
        loop {
            // The lock keeps the other thread from being faster than the poll.
            let file = Arc::clone(&disk.get_ref().file);
            let held = file.lock().unwrap();
            let polled = poll_once(&mut pin!(disk.read(&mut buf)));
            drop(held);
            match polled {
                Some(Ok(0)) => break,
                Some(n) => got.extend_from_slice(&buf[..n.unwrap()]),
                None => {
                    given_up += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(got == data);
        assert!(given_up > 0);
    });
}

#[test]
fn a_write_after_a_cancelled_file_read_goes_where_the_reader_stood() {
    block_on(async {
        let disk = Disk::new();
        disk.write_all(b"0123456789").unwrap();
        disk.seek(SeekFrom::Start(0)).unwrap();
        let mut disk = AsyncChannel::new(disk).unwrap();
        let mut two = [0; 2];
        disk.read_exact(&mut two).await.unwrap();
        let file = Arc::clone(&disk.get_ref().file);
        let held = file.lock().unwrap();
        assert!(poll_once(&mut pin!(disk.read(&mut [0; 4]))).is_none());
        drop(held);
        disk.write_all(b"ab").await.unwrap();
        disk.flush().await.unwrap();
        let disk = disk.into_inner().unwrap();
        let mut all = [0; 10];
        disk.file.lock().unwrap().rewind().unwrap();
        disk.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"01ab456789");
    });
}

/// A channel whose timer is all that ends a wait.
#[derive(Debug)]
struct Timed {
    base: Base,
    ripe: Instant,
    driven: AtomicU32,
}

impl Channel for Timed {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, _op: &mut ReadOp<'_, '_>) -> io::Result<usize> {
        if self.driven.load(Ordering::Relaxed) > 0 {
            Ok(0)
        } else {
            Err(ErrorKind::WouldBlock.into())
        }
    }

    fn try_write(&self, _op: &mut WriteOp<'_, '_>) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if self.driven.load(Ordering::Relaxed) > 0 {
            return interest.into();
        }
        set.wake_at(self.ripe);
        Readiness::empty()
    }

    fn drive(&self, now: Instant) -> io::Result<()> {
        if now >= self.ripe {
            self.driven.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_channel_is_driven_when_its_deadline_passes() {
    block_on(async {
        let ripe = Instant::now() + Duration::from_millis(20);
        let base = Base::new("timed", Features::DUPLEX);
        let mut channel =
            AsyncChannel::new(Timed { base, ripe, driven: AtomicU32::new(0) }).unwrap();
        let polls = AtomicU32::new(0);
        let read = counted(&polls, channel.read(&mut [0; 1])).await.unwrap();
        assert_eq!(read, 0);
        assert!(Instant::now() >= ripe);
        assert_eq!(channel.get_ref().driven.load(Ordering::Relaxed), 1);
        assert!(polls.load(Ordering::Relaxed) <= 4, "{polls:?} polls");
    });
}

#[test]
fn a_waker_that_changed_between_two_polls_is_the_one_that_is_woken() {
    struct Flag(oneshot::Sender<()>);
    struct Once(Mutex<Option<Flag>>);
    impl Wake for Once {
        fn wake(self: Arc<Self>) {
            if let Some(Flag(sender)) = self.0.lock().unwrap().take() {
                let _ = sender.send(());
            }
        }
    }
    block_on(async {
        let (mut left, mut right) = async_pair();
        let mut buf = [0; 1];
        let mut reading = Box::pin(right.read(&mut buf));
        let waker = || {
            let (sender, woken) = oneshot::channel();
            (Arc::new(Once(Mutex::new(Some(Flag(sender))))).into(), woken)
        };
        let (first, mut first_woken) = waker();
        let (second, second_woken) = waker();
        for waker in [&first, &second] {
            let mut cx = std::task::Context::from_waker(waker);
            assert!(reading.as_mut().poll(&mut cx).is_pending());
        }
        left.write_all(b"x").await.unwrap();
        second_woken.await.unwrap();
        assert!(first_woken.try_recv().is_err());
        assert_eq!(reading.await.unwrap(), 1);
    });
}

#[test]
fn messages_arrive_one_by_one_and_an_empty_one_is_not_the_end() {
    for kind in [MessageKind::Datagram, MessageKind::SeqPacket] {
        block_on(async {
            let (left, right) = Messages::pair(kind).unwrap();
            let left = Arc::new(left);
            let mut sender = AsyncChannel::new(Arc::clone(&left)).unwrap();
            let mut receiver = AsyncChannel::new(right).unwrap();
            let mut buf = [0; 16];
            let sending = async {
                for message in [&b"one"[..], b"", b"three"] {
                    tokio::task::yield_now().await;
                    sender.send(message).await.unwrap();
                }
            };
            let receiving = async {
                assert_eq!(receiver.receive(&mut buf).await.unwrap(), Some(3));
                assert_eq!(receiver.receive(&mut buf).await.unwrap(), Some(0));
                assert_eq!(receiver.receive(&mut buf).await.unwrap(), Some(5));
            };
            tokio::join!(sending, receiving);
            // As a stream: empty messages are skipped, and not taken for the end.
            let sending = async {
                for message in [&b""[..], b"", b"four"] {
                    tokio::task::yield_now().await;
                    sender.send(message).await.unwrap();
                }
                sender.write_all(b"whole").await.unwrap();
            };
            let receiving = async {
                assert_eq!(receiver.read(&mut buf).await.unwrap(), 4);
                assert_eq!(receiver.read(&mut buf).await.unwrap(), 5);
            };
            tokio::join!(sending, receiving);
            let refused = receiver.get_ref().read_exact(&mut buf).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            // A full socket is waited for.
            let sending = async {
                for _ in 0..1000 {
                    sender.send(&[7; 1000]).await.unwrap();
                }
                sender.shutdown().await.unwrap();
            };
            let receiving = async {
                let mut buf = [0; 1000];
                for _ in 0..1000 {
                    assert_eq!(receiver.receive(&mut buf).await.unwrap(), Some(1000));
                }
                if kind == MessageKind::SeqPacket {
                    assert_eq!(receiver.receive(&mut buf).await.unwrap(), None);
                    assert_eq!(receiver.read(&mut buf).await.unwrap(), 0);
                }
            };
            tokio::join!(sending, receiving);
        });
    }
}

#[test]
fn frames_go_through_a_stream_that_takes_little_at_a_time() {
    for (name, plan) in Plan::each(3) {
        println!("{name}");
        block_on(async {
            let (left, right) = Duplex::pair();
            let chaos = |end| Framed::new(Chaos::new(end, plan.for_edges()), Framing::U32);
            let mut sender = AsyncChannel::new(chaos(left)).unwrap();
            let mut receiver = AsyncChannel::new(chaos(right)).unwrap();
            let sending = async {
                for size in 0..60 {
                    sender.send(&pattern(size * size)).await.unwrap();
                }
                sender.shutdown().await.unwrap();
            };
            let receiving = async {
                let mut buf = [0; 4000];
                for size in 0..60 {
                    let length = receiver.receive(&mut buf).await.unwrap().unwrap();
                    assert_eq!(buf[..length], pattern(size * size));
                }
                assert_eq!(receiver.receive(&mut buf).await.unwrap(), None);
            };
            tokio::join!(sending, receiving);
        });
    }
}
