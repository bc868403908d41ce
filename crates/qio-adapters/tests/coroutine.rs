//! Coroutines: the same source code blocks a thread or yields.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Result};
use std::ops::ControlFlow;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::tls;
use qio::net::{ConnectOptions, ListenOptions, connect, listen};
use qio::transport::{Duplex, Socket};
use qio::watch::run;
use qio::{Channel, ChannelExt, Direction, Interest, Mode};
use qio_adapters::coroutine::{
    Coroutine, CoroutineOptions, JoinError, park, spawn, waker, yield_now, yield_until,
};
use qio_adapters::tokio::{run as run_in_tokio, run_until};
use qio_testkit::tls::{Local, name};
use qio_testkit::{Job, finished, soon};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A scope in which a runtime leaves nothing behind: what tokio makes once and keeps is made before.
fn scope(limit: Duration, body: impl FnOnce(&qio_testkit::Ledger)) {
    drop(runtime());
    qio_testkit::scope(limit, body);
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs both to their ends in one thread.
fn together<A: 'static, B: 'static>(
    one: impl FnOnce() -> A + 'static,
    other: impl FnOnce() -> B + 'static,
) -> (A, B) {
    let (one, other) = (Coroutine::new(one).unwrap(), Coroutine::new(other).unwrap());
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let one = tokio::task::spawn_local(run_in_tokio(one));
        let other = tokio::task::spawn_local(run_in_tokio(other));
        (one.await.unwrap().unwrap().unwrap(), other.await.unwrap().unwrap().unwrap())
    })
}

/// Answers a request: code that knows nothing of coroutines.
fn serve(channel: &dyn Channel) -> Result<()> {
    let mut request = [0; 1024];
    while channel.read_exact_or_eof(&mut request)? {
        channel.write_all(&request)?;
    }
    channel.finish_all(None)
}

fn ask(channel: &dyn Channel, times: u8) -> Result<()> {
    for time in 0..times {
        channel.write_all(&[time; 1024])?;
        let mut answer = [0; 1024];
        channel.read_exact(&mut answer)?;
        assert_eq!(answer, [time; 1024]);
    }
    channel.finish_all(None)
}

#[test]
fn the_same_code_blocks_a_thread_and_yields_in_a_coroutine() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        let server = Job::start(move || serve(&right));
        ask(&left, 10).unwrap();
        server.finish().unwrap();

        for mode in [Mode::Blocking, Mode::NonBlocking] {
            let (asked, served) = {
                let (left, right) = Duplex::pair_with_limit(7);
                left.set_mode(mode).unwrap();
                right.set_mode(mode).unwrap();
                together(move || ask(&left, 10), move || serve(&right))
            };
            asked.and(served).unwrap();
        }
        // Sockets that are made inside of a coroutine do not block in the kernel.
        let (asked, served) = {
            let place: Rc<RefCell<Option<Socket>>> = Rc::default();
            let theirs = Rc::clone(&place);
            together(
                move || {
                    let (left, right) = Socket::pair().unwrap();
                    *place.borrow_mut() = Some(right);
                    ask(&left, 10)
                },
                move || {
                    while theirs.borrow().is_none() {
                        yield_now().unwrap();
                    }
                    let right = theirs.borrow_mut().take().unwrap();
                    serve(&right)
                },
            )
        };
        asked.and(served).unwrap();
    });
}

#[test]
fn connecting_accepting_and_handshakes_yield_too() {
    scope(LIMIT, |_| {
        let (client, server) = (Local::default().client(), Local::default().server());
        let listener =
            listen(&"listen:tcp://127.0.0.1:0".parse().unwrap(), &ListenOptions::new()).unwrap();
        let address = listener.local_addresses()[0].clone();
        let (asked, served) = together(
            move || {
                let below = connect(&address, &ConnectOptions::new()).unwrap();
                let shaking = tls::client(below, client, name(), soon()).unwrap();
                ask(&finished(shaking).into_layer(tls::NAME), 10)
            },
            move || {
                let below = listener.accept(soon()).unwrap().channel;
                let shaking = tls::server(below, server, soon()).unwrap();
                serve(&finished(shaking).into_layer(tls::NAME))
            },
        );
        asked.and(served).unwrap();
    });
}

#[test]
fn what_stays_is_reported_again_in_a_loop_of_edges() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        left.write_all(b"x").unwrap();
        let waits = Coroutine::new(move || {
            for _ in 0..100 {
                yield_until(&right, Interest::READ).unwrap();
            }
            right.read_exact(&mut [0]).unwrap();
            right.wait(Interest::READ, Some(Instant::now())).unwrap_err().kind()
        });
        let result = runtime().block_on(run_in_tokio(waits.unwrap())).unwrap().unwrap();
        assert_eq!(result, ErrorKind::TimedOut);
        drop(left);
    });
}

#[test]
fn a_coroutine_changes_loops_between_two_waits() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        right.set_mode(Mode::NonBlocking).unwrap();
        let mut reads = Coroutine::new(move || {
            let mut got = [0; 3];
            right.read_exact(&mut got).map(|()| got)
        })
        .unwrap();
        let at_once = Some(Instant::now());
        assert!(run(&mut reads, at_once).unwrap().is_continue());
        left.write_all(b"a").unwrap();
        let ControlFlow::Continue(_) = run(&mut reads, Some(Instant::now())).unwrap() else {
            panic!("it has one byte of three")
        };
        left.write_all(b"b").unwrap();
        let runtime = runtime();
        let at_once = || Instant::now() + Duration::from_millis(5);
        let result = runtime.block_on(run_until(&mut reads, at_once())).unwrap();
        assert!(result.is_continue());
        left.write_all(b"c").unwrap();
        let result = runtime.block_on(run_until(&mut reads, soon().unwrap())).unwrap();
        let ControlFlow::Break(got) = result else { panic!("everything is there") };
        assert_eq!(&got.unwrap().unwrap(), b"abc");
    });
}

#[test]
fn dropping_unwinds_the_stack_and_loses_no_byte() {
    struct Tells(Rc<Cell<u32>>, Arc<Socket>);
    impl Drop for Tells {
        fn drop(&mut self) {
            // Nobody waits for what is being dropped.
            let error = self.1.read_exact(&mut [0; 9]).unwrap_err();
            assert!(error.to_string().contains("cancelled"), "{error}");
            self.0.set(self.0.get() + 1);
        }
    }
    scope(LIMIT, |_| {
        let dropped = Rc::new(Cell::new(0));
        let (left, right) = Socket::pair().unwrap();
        right.set_mode(Mode::NonBlocking).unwrap();
        let right = Arc::new(right);
        let (tells, reader) = (Tells(Rc::clone(&dropped), Arc::clone(&right)), Arc::clone(&right));
        let (mut reads, join) = spawn(move || {
            let _tells = tells;
            let mut first = [0];
            reader.read_exact(&mut first).unwrap();
            reader.read_exact(&mut [0; 5]).unwrap();
        })
        .unwrap();
        left.write_all(b"a").unwrap();
        assert!(run(&mut reads, Some(Instant::now())).unwrap().is_continue());
        assert_eq!(dropped.get(), 0);
        drop(reads);
        assert_eq!(dropped.get(), 1);
        assert!(matches!(join.join().unwrap(), Err(JoinError::Cancelled)));
        left.write_all(b"b").unwrap();
        let mut next = [0];
        right.read_exact(&mut next).unwrap();
        assert_eq!(&next, b"b", "what was not read is there, and there is no other reader");

        // One that has not begun, and one that has ended.
        let (never, join) = spawn(|| unreachable!("it is not entered")).unwrap();
        drop(never);
        assert!(matches!(join.join().unwrap(), Err::<(), _>(JoinError::Cancelled)));
        let (mut ended, join) = spawn(|| 7).unwrap();
        assert!(run(&mut ended, None).unwrap().is_break());
        drop(ended);
        assert_eq!(join.join().unwrap().unwrap(), 7);
    });
}

#[test]
fn a_panic_reaches_who_joins_and_nobody_else() {
    scope(LIMIT, |_| {
        let (bad, join) = spawn(|| -> u32 { panic!("on purpose") }).unwrap();
        let (good, other) = spawn(|| yield_now().unwrap()).unwrap();
        let runtime = runtime();
        let result = LocalSet::new().block_on(&runtime, async {
            let bad = tokio::task::spawn_local(run_in_tokio(bad));
            let good = tokio::task::spawn_local(run_in_tokio(good));
            bad.await.unwrap().unwrap();
            good.await.unwrap().unwrap();
            run_in_tokio(join).await.unwrap()
        });
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "the coroutine panicked: on purpose");
        assert!(matches!(error, JoinError::Panicked(_)));
        other.join().unwrap().unwrap();
        // And one that waits for another.
        let outer = Coroutine::new(|| {
            let (inner, join) = spawn(|| -> u32 { panic!("inside") }).unwrap();
            let _ = run(inner, None).unwrap();
            join.join().unwrap().unwrap_err().to_string()
        });
        let ControlFlow::Break(text) = run(outer.unwrap(), None).unwrap() else { panic!() };
        assert_eq!(text.unwrap(), "the coroutine panicked: inside");
    });
}

#[test]
fn a_wake_from_any_thread_ends_a_park_and_is_not_lost() {
    scope(LIMIT, |_| {
        assert!(waker().is_none());
        assert_eq!(park().unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(yield_now().unwrap_err().kind(), ErrorKind::Unsupported);
        let parks = Coroutine::new(|| {
            // Before.
            waker().unwrap().wake();
            waker().unwrap().wake();
            park().unwrap();
            // While.
            let waker = waker().unwrap();
            let waking = thread::spawn(move || waker.wake());
            park().unwrap();
            waking.join().unwrap();
        });
        let mut parks = parks.unwrap();
        runtime().block_on(run_in_tokio(&mut parks)).unwrap().unwrap();

        // From outside, with a loop that waits for nothing else.
        let parks = Coroutine::new(|| park().unwrap()).unwrap();
        let waker = parks.waker();
        let waking = thread::spawn(move || waker.wake());
        assert!(run(parks, soon()).unwrap().is_break());
        waking.join().unwrap();
    });
}

#[test]
fn an_interrupter_reaches_a_coroutine() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        let interrupter = right.interrupter(Direction::Read);
        let reads = Coroutine::new(move || right.read_exact(&mut [0]).unwrap_err().kind());
        let waking = thread::spawn(move || interrupter.wake());
        let kind = runtime().block_on(run_in_tokio(reads.unwrap())).unwrap().unwrap();
        assert_eq!(kind, ErrorKind::Interrupted);
        waking.join().unwrap();
        drop(left);
    });
}

#[test]
fn a_second_reader_is_told_that_there_is_one() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        right.set_mode(Mode::NonBlocking).unwrap();
        let right = Arc::new(right);
        let other = Arc::clone(&right);
        let mut first = Coroutine::new(move || right.read_exact(&mut [0])).unwrap();
        assert!(run(&mut first, Some(Instant::now())).unwrap().is_continue());
        let second = Coroutine::new(move || other.read_exact(&mut [0])).unwrap();
        let ControlFlow::Break(result) = run(second, None).unwrap() else { panic!() };
        assert_eq!(result.unwrap().unwrap_err().kind(), ErrorKind::ResourceBusy);
        left.write_all(b"x").unwrap();
        let ControlFlow::Break(result) = run(first, None).unwrap() else { panic!() };
        result.unwrap().unwrap();
    });
}

/// In a process of its own: one byte too far ends it, and writes nothing elsewhere.
#[test]
fn a_stack_that_overflows_hits_its_guard_page() {
    const ROLE: &str = "QIO_COROUTINE_OVERFLOW";
    #[expect(unconditional_recursion, reason = "that is the point")]
    fn deeper(depth: u64) -> u64 {
        std::hint::black_box(deeper(std::hint::black_box(depth + 1))) + 1
    }
    if std::env::var_os(ROLE).is_some() {
        let mut options = CoroutineOptions::default();
        options.stack_bytes = 32 * 1024;
        let overflows = Coroutine::with_options(options, || deeper(0)).unwrap();
        let _ = run(overflows, None);
        println!("it came back");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_stack_that_overflows_hits_its_guard_page", "--nocapture"])
        .env(ROLE, "1")
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(matches!(output.status.signal(), Some(6 | 11)), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("it came back"));
}
