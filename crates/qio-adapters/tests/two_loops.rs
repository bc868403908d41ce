//! One TLS channel in two loops: reads in one thread, writes in another, at both ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::io::{ErrorKind, IoSliceMut};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use qio::channel::Watch;
use qio::layer::tls;
use qio::transport::Socket;
use qio::{Channel, ChannelExt, Interest, Mode, ReadFlags, Readiness};
use qio_adapters::coroutine::{Coroutine, yield_until};
use qio_testkit::digest::{Noise, Sum};
use qio_testkit::scope;
use qio_testkit::tls::Local;
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt as _;

/// How long the ordinary run lasts, for each pair of loops.
const SHORT: Duration = Duration::from_millis(500);

/// How long the long one does, all pairs together.
const LONG: Duration = Duration::from_secs(60);

/// What a run may take longer, before it counts as a stall.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest that nothing may arrive while the other side sends.
const STALL: Duration = Duration::from_secs(5);

/// Who reads and who writes, at either end.
const PAIRS: [[(Loop, Loop); 2]; 4] = [
    [(Loop::Calloop, Loop::Glib), (Loop::Glib, Loop::Poll)],
    [(Loop::Poll, Loop::Calloop), (Loop::Calloop, Loop::Calloop)],
    [(Loop::Tokio, Loop::Poll), (Loop::AsyncIo, Loop::Tokio)],
    [(Loop::Glib, Loop::AsyncIo), (Loop::Poll, Loop::Glib)],
];

#[test]
fn reading_and_writing_in_two_loops_loses_nothing() {
    warm_up();
    for pair in PAIRS {
        scope(LIMIT, |_| streams(pair, SHORT));
    }
}

#[test]
#[ignore = "takes a minute: `.ci/run full` runs it"]
fn a_minute_in_two_loops_loses_nothing() {
    warm_up();
    for pair in PAIRS {
        scope(LIMIT + LONG, |_| streams(pair, LONG / PAIRS.len() as u32));
    }
}

#[test]
fn what_a_loop_that_was_left_has_not_sent_goes_out_from_that_of_the_reader() {
    warm_up();
    for pair in PAIRS {
        scope(LIMIT, |_| turns(pair, 20));
    }
}

/// tokio tells of changes only. The room that it tells of is gone to what was left behind, and
/// there is more when that is sent, of which it tells nothing: somebody else has sent it.
#[test]
fn room_is_told_when_another_thread_has_sent_what_was_in_the_way() {
    warm_up();
    let mut untold = Vec::new();
    for waits in [Waits::Watch, Waits::Write, Waits::Coroutine] {
        scope(LIMIT, |_| {
            let [client, server] = ends(None).map(|end| end.channel);
            while client.write(&[7; 50_000]).is_ok() {}
            let waiting = waits.for_room(Arc::clone(&client));
            let told = runtime().block_on(async move {
                let mut waiting = std::pin::pin!(waiting);
                let until = Instant::now() + Duration::from_millis(20);
                let early = tokio::time::timeout_at(until.into(), &mut waiting).await;
                assert!(early.is_err(), "{waits:?}: there was no room");
                take_all(&*server);
                client.flush().unwrap();
                take_all(&*server);
                tokio::time::timeout(STALL, waiting).await.is_ok()
            });
            if !told {
                untold.push(waits);
            }
        });
    }
    assert!(untold.is_empty(), "nothing is told to {untold:?}");
}

fn take_all(channel: &dyn Channel) {
    let mut space = vec![0; 1 << 16];
    let mut taken = 0;
    loop {
        match channel.read(&mut space) {
            Ok(count) => taken += count,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(taken > 0);
}

/// Who waits for room in a loop of tokio.
#[derive(Clone, Copy, Debug)]
enum Waits {
    Watch,
    Write,
    Coroutine,
}

impl Waits {
    async fn for_room(self, channel: Arc<dyn Channel>) {
        match self {
            Self::Watch => {
                let once = |_: Readiness, _: &mut _| ControlFlow::Break(());
                qio_adapters::tokio::watch(channel, Interest::WRITE, once).await.unwrap();
            }
            Self::Write => {
                let mut channel = qio_adapters::tokio::AsyncChannel::new(channel).unwrap();
                channel.write_all(b"x").await.unwrap();
            }
            Self::Coroutine => {
                let waits = move || yield_until(&*channel, Interest::WRITE).unwrap();
                let waits = Coroutine::new(waits).unwrap();
                qio_adapters::tokio::run(waits).await.unwrap().unwrap();
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Loop {
    Poll,
    Calloop,
    Glib,
    Tokio,
    AsyncIo,
}

/// What a callback makes of a readiness.
type Callback<'a> = &'a mut dyn FnMut(Readiness) -> ControlFlow<()>;

impl Loop {
    /// Runs a loop of its own with one watch, until the callback gives `Break`.
    fn run(self, channel: &Arc<dyn Channel>, interest: Interest, callback: Callback<'_>) {
        let channel = Arc::clone(channel);
        match self {
            Self::Poll => {
                let mut watch = Watch::new(channel, interest);
                loop {
                    let ControlFlow::Break(ready) = qio::watch::run(&mut watch, None).unwrap()
                    else {
                        unreachable!("there is no deadline here")
                    };
                    if callback(ready.unwrap()).is_break() {
                        return;
                    }
                }
            }
            Self::Calloop => {
                let mut events = calloop::EventLoop::<Called<'_>>::try_new().unwrap();
                let source = qio_adapters::calloop::watch(channel, interest);
                let called = |ready: std::io::Result<Readiness>, _: &mut _, to: &mut Called<'_>| {
                    if (to.callback)(ready.unwrap()).is_continue() {
                        return calloop::PostAction::Continue;
                    }
                    to.is_done = true;
                    calloop::PostAction::Remove
                };
                events.handle().insert_source(source, called).unwrap();
                let mut called = Called { callback, is_done: false };
                while !called.is_done {
                    events.dispatch(None, &mut called).unwrap();
                }
            }
            Self::Glib => {
                // The callback of a source outlives this call: it leaves what it got.
                let ready = Rc::new(Cell::new(None));
                let gets = Rc::clone(&ready);
                let context = glib::MainContext::new();
                let source = qio_adapters::glib::watch_local(
                    channel,
                    interest,
                    glib::Priority::DEFAULT,
                    move |ready, _| {
                        gets.set(Some(ready.unwrap()));
                        ControlFlow::Continue(())
                    },
                );
                source.attach(Some(&context));
                loop {
                    context.iteration(true);
                    if ready.take().is_some_and(|ready| callback(ready).is_break()) {
                        return source.destroy();
                    }
                }
            }
            Self::Tokio => {
                let runtime = runtime();
                let watch =
                    qio_adapters::tokio::watch(channel, interest, |ready, _| callback(ready));
                runtime.block_on(watch).unwrap();
            }
            Self::AsyncIo => {
                let called = |ready, _: &mut _| callback(ready);
                let watch = qio_adapters::async_io::watch(channel, interest, called);
                async_io::block_on(watch).unwrap();
            }
        }
    }
}

struct Called<'a> {
    callback: Callback<'a>,
    is_done: bool,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a loop makes once and keeps is made before anything is counted.
fn warm_up() {
    drop(runtime());
    async_io::block_on(async_io::Timer::after(Duration::from_millis(1)));
}

/// One side of a connection: the channel, and how its keys are renewed.
struct End {
    channel: Arc<dyn Channel>,
    renew: Box<dyn Fn() + Send + Sync>,
}

impl End {
    fn new<S: tls::Side>(layer: qio::layer::Layer<Socket, tls::Tls<S>>) -> Self
    where
        qio::layer::Layer<Socket, tls::Tls<S>>: Channel,
    {
        layer.set_mode(Mode::NonBlocking).unwrap();
        let layer = Arc::new(layer);
        let renewed = Arc::clone(&layer);
        let renew = move || renewed.with_engine(tls::Tls::refresh_keys).unwrap();
        Self { channel: layer, renew: Box::new(renew) }
    }
}

/// Both sides, with little room below so that much has to wait, or with what the kernel gives.
fn ends(room: Option<usize>) -> [End; 2] {
    // Not TCP: with so little room it waits for late acknowledgements.
    let (left, right) = Socket::pair().unwrap();
    for (socket, room) in [&left, &right].into_iter().zip(room.into_iter().cycle()) {
        sockopt::set_socket_send_buffer_size(socket.descriptor().unwrap(), room).unwrap();
    }
    let (client, server) = Local::default().layers(left, right);
    [End::new(client), End::new(server)]
}

/// Both ends send until the time has passed, renew their keys in between, and receive.
fn streams([left, right]: [(Loop, Loop); 2], time: Duration) {
    let ends = ends(Some(4096));
    let [client, server] = &ends;
    let until = Instant::now() + time;
    let sums = thread::scope(|scope| {
        [
            scope.spawn(|| send(left.1, client, until)),
            scope.spawn(|| receive(right.0, server)),
            scope.spawn(|| send(right.1, server, until)),
            scope.spawn(|| receive(left.0, client)),
        ]
        .map(|thread| thread.join().unwrap())
    });
    println!("{left:?} and {right:?}: {} and {} bytes", sums[0].bytes, sums[2].bytes);
    assert!(sums[0].bytes > 0 && sums[2].bytes > 0);
    assert_eq!((sums[0], sums[2]), (sums[1], sums[3]), "{left:?} and {right:?}");
}

fn send(on: Loop, end: &End, until: Instant) -> Sum {
    let mut sum = Sum::new();
    let mut noise = Noise::new(7);
    let mut left = Vec::new();
    let mut rounds = 0_u32;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    on.run(&end.channel, Interest::WRITE, &mut |_| {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        // Some rounds write until there is no room, others leave it to the next call.
        for _ in 0..=noise.below(3) {
            let is_over = Instant::now() >= until;
            let result = match (left.is_empty(), is_over) {
                (true, true) => match end.channel.finish() {
                    Ok(()) => return ControlFlow::Break(()),
                    Err(error) => Err(error),
                },
                (true, false) => {
                    left = noise.block(1..=40_000);
                    end.channel.write(&left)
                }
                (false, _) => end.channel.write(&left),
            };
            match result {
                Ok(count) => {
                    sum.add(&left[..count]);
                    left.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{on:?}: {error}"),
            }
        }
        rounds += 1;
        if rounds.is_multiple_of(16) && Instant::now() < until {
            (end.renew)();
        }
        ControlFlow::Continue(())
    });
    assert!(longest < STALL, "{on:?}: no room for {longest:?}");
    // The farewell is taken; it goes out with what the reader's loop, or we, do next.
    end.channel.flush_all(Some(Instant::now() + LIMIT)).unwrap();
    sum
}

fn receive(on: Loop, end: &End) -> Sum {
    let mut sum = Sum::new();
    let mut noise = Noise::new(11);
    let mut space = vec![0; 40_000];
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    on.run(&end.channel, Interest::READ, &mut |_| {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        for _ in 0..=noise.below(3) {
            let len = 1 + noise.below(space.len());
            let buf = &mut [IoSliceMut::new(&mut space[..len])];
            match end.channel.read_with(buf, ReadFlags::NONBLOCK, None) {
                Ok(0) => return ControlFlow::Break(()),
                Ok(count) => sum.add(&space[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{on:?}: {error}"),
            }
        }
        ControlFlow::Continue(())
    });
    assert!(longest < STALL, "{on:?}: nothing arrived for {longest:?}");
    sum
}

/// Both ends write a message, leave the loop in which they wrote it, and sleep until the reader of
/// this side has the whole of the other's: nobody but the readers' loops can send the rest.
fn turns([left, right]: [(Loop, Loop); 2], rounds: u32) {
    let ends = ends(Some(4096));
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for ((reads, writes), end) in [left, right].into_iter().zip(&ends) {
            let (has_read, arrives) = mpsc::channel();
            scope.spawn(move || take_messages(reads, end, rounds, &has_read));
            let both = &both;
            scope.spawn(move || {
                let mut noise = Noise::new(13);
                for round in 0..rounds {
                    let message = noise.block(1..=60_000);
                    let mut at = 0;
                    writes.run(&end.channel, Interest::WRITE, &mut |_| {
                        match end.channel.write(&message[at..]) {
                            Ok(count) => at += count,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                        }
                        if at == message.len() {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    });
                    let arrived = arrives.recv_timeout(STALL);
                    assert_eq!(arrived, Ok(round), "{reads:?} beside {writes:?}");
                    both.wait();
                }
                end.channel.finish_all(Some(Instant::now() + LIMIT)).unwrap();
            });
        }
    });
}

fn take_messages(on: Loop, end: &End, rounds: u32, has_read: &mpsc::Sender<u32>) {
    let mut noise = Noise::new(13);
    let mut round = 0;
    let mut expected = noise.block(1..=60_000);
    let mut got = Vec::new();
    let mut space = vec![0; 7_000];
    on.run(&end.channel, Interest::READ, &mut |_| {
        match end.channel.read_with(&mut [IoSliceMut::new(&mut space)], ReadFlags::NONBLOCK, None) {
            Ok(0) => return ControlFlow::Break(()),
            Ok(count) => got.extend_from_slice(&space[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if got.len() < expected.len() {
            return ControlFlow::Continue(());
        }
        assert!(got == expected, "{on:?}: other bytes than were sent");
        has_read.send(round).unwrap();
        got.clear();
        expected = noise.block(1..=60_000);
        round += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((round, got.len()), (rounds, 0), "{on:?}");
}
