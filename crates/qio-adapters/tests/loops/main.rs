//! One suite over every loop: what a watch promises holds in all of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSliceMut};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::{Framed, Framing};
use qio::net::{ConnectOptions, ListenOptions, connect, listen};
use qio::transport::{Command, Duplex, File, Null, Socket};
use qio::{Channel, ChannelExt, Features, Interest, Mode, ReadFlags, Readiness};
use qio_adapters::coroutine::spawn;
use qio_testkit::pairs::{memory, pipes, tcp, unix, ws_over};
use qio_testkit::tls::Local;
use qio_testkit::{Chaos, Pair, Plan, scope, soon};

use host::{AsyncIo, Calloop, Glib, Host, PollByHand, Tokio, turn_a_moment, turn_until};

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

macro_rules! suite {
    ($($check:ident,)*) => {
        suite! { @ on_poll: PollByHand; $($check,)* }
        suite! { @ on_calloop: Calloop; $($check,)* }
        suite! { @ on_glib: Glib; $($check,)* }
        suite! { @ on_tokio: Tokio; $($check,)* }
        suite! { @ on_async_io: AsyncIo; $($check,)* }
    };
    (@ $loop:ident: $host:ident; $($check:ident,)*) => {
        mod $loop {
            use super::*;

            $(#[test]
            fn $check() {
                make_what_is_kept();
                scope(LIMIT, |_| super::$check($host::new()));
            })*
        }
    };
}

suite! {
    what_is_read_in_parts_is_reported_for_each,
    what_somebody_else_has_left_is_reported,
    a_hang_up_is_noticed_without_reading_and_told_once,
    a_callback_removes_its_watch,
    a_watch_that_was_removed_is_not_called,
    two_watches_learn_the_same,
    a_close_from_another_thread_ends_a_watch_without_a_call,
    the_number_of_a_closed_channel_may_come_back_as_another,
    spurious_readiness_is_borne,
    an_idle_watch_costs_nothing,
    files_and_devices_are_always_ready,
    a_writer_is_told_of_room,
    watches_for_both_directions_may_be_two,
    steps_of_every_kind_come_to_their_ends,
    a_callback_may_add_watches,
}

fn kinds() -> Vec<(&'static str, Pair)> {
    let kinds = vec![
        ("unix", unix()),
        ("tcp", tcp()),
        ("pipes", pipes()),
        ("memory", memory()),
        ("child", child()),
        ("ws", ws_over(unix())),
        ("tls", tls_over(unix())),
        ("tls over ws", tls_over(ws_over(tcp()))),
    ];
    for (_, pair) in &kinds {
        pair.left.set_mode(Mode::NonBlocking).unwrap();
        pair.right.set_mode(Mode::NonBlocking).unwrap();
    }
    kinds
}

/// Messages over a stream.
fn messages() -> Vec<(&'static str, Pair)> {
    let pair = unix();
    let framed = |below| Framed::new(below, Framing::U16);
    let pair = Pair::new(framed(pair.left), framed(pair.right));
    pair.left.set_mode(Mode::NonBlocking).unwrap();
    pair.right.set_mode(Mode::NonBlocking).unwrap();
    vec![("messages", pair)]
}

/// A program that gives back what it gets, and is both ends.
fn child() -> Pair {
    Pair::same(Command::new("cat").spawn().unwrap())
}

/// Makes what the loops make once and keep, before the first test counts descriptors. Children that
/// are dropped are waited for by a thread, whose event stays, too.
fn make_what_is_kept() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        Tokio::warm_up();
        AsyncIo::warm_up();
        drop(Command::new("sleep").arg("0.1").spawn().unwrap());
    });
}

fn tls_over(pair: Pair) -> Pair {
    Local::default().over(pair)
}

/// What comes without waiting.
fn take(channel: &dyn Channel, buf: &mut [u8]) -> std::io::Result<usize> {
    channel.read_with(&mut [IoSliceMut::new(buf)], ReadFlags::NONBLOCK, None)
}

type Seen = Rc<RefCell<Vec<Readiness>>>;

fn what_is_read_in_parts_is_reported_for_each<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let seen: Seen = Rc::default();
        let got = Rc::new(Cell::new(0));
        let (sees, gets) = (Rc::clone(&seen), Rc::clone(&got));
        let id = host.watch(
            Arc::clone(&pair.right),
            Interest::READ,
            Box::new(move |ready, watch| {
                sees.borrow_mut().push(ready);
                gets.set(gets.get() + take(watch.channel(), &mut [0; 5]).unwrap_or(0));
                ControlFlow::Continue(())
            }),
        );
        pair.left.write_all(&[7; 20]).unwrap();
        turn_until(&mut host, name, &|| got.get() == 20);
        turn_a_moment(&mut host);
        let seen = seen.take();
        assert!(seen.iter().all(|ready| ready.contains(Readiness::READ)), "{name}: {seen:?}");
        // Each part, and now and then a wake-up for less than a part.
        assert!((4..=8).contains(&seen.len()), "{name}: {} calls", seen.len());
        host.remove(id);
    }
}

/// Somebody reads a part of what came, outside of the loop, which finds the descriptors as they were.
fn what_somebody_else_has_left_is_reported<H: Host>(mut host: H) {
    for (name, pair) in kinds().into_iter().chain(messages()) {
        let got = Rc::new(Cell::new(0));
        let gets = Rc::clone(&got);
        let id = host.watch(
            Arc::clone(&pair.right),
            Interest::READ,
            Box::new(move |_, watch| {
                gets.set(gets.get() + take(watch.channel(), &mut [0; 64]).unwrap_or(0));
                ControlFlow::Continue(())
            }),
        );
        turn_a_moment(&mut host);
        if pair.right.features().contains(Features::MESSAGES) {
            // They come together.
            pair.left.send(&[7; 5]).unwrap();
            pair.left.send(&[7; 15]).unwrap();
        } else {
            pair.left.write_all(&[7; 20]).unwrap();
        }
        let mut buf = [0; 5];
        let mut taken = 0;
        while taken < buf.len() {
            assert!(!pair.right.wait(Interest::READ, soon()).unwrap().is_empty(), "{name}");
            taken += take(&*pair.right, &mut buf[taken..]).unwrap_or(0);
        }
        turn_until(&mut host, name, &|| got.get() == 15);
        host.remove(id);
    }
}

fn a_hang_up_is_noticed_without_reading_and_told_once<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        // A TCP peer that ends is not gone before something is sent to it.
        if matches!(name, "tcp" | "child" | "tls over ws") {
            continue;
        }
        let seen: Seen = Rc::default();
        let sees = Rc::clone(&seen);
        let id = host.watch(
            Arc::clone(&pair.right),
            Interest::empty(),
            Box::new(move |ready, _| {
                sees.borrow_mut().push(ready);
                ControlFlow::Continue(())
            }),
        );
        pair.left.write_all(b"unread").unwrap();
        turn_a_moment(&mut host);
        assert!(seen.borrow().is_empty(), "{name}: {seen:?}");
        drop(pair.left);
        turn_until(&mut host, name, &|| !seen.borrow().is_empty());
        turn_a_moment(&mut host);
        assert_eq!(seen.borrow().len(), 1, "{name}: {seen:?}");
        assert!(seen.borrow()[0].contains(Readiness::HANGUP), "{name}: {seen:?}");
        host.remove(id);
    }
}

fn a_callback_removes_its_watch<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let calls = Rc::new(Cell::new(0));
        let counts = Rc::clone(&calls);
        host.watch(
            Arc::clone(&pair.right),
            Interest::READ,
            Box::new(move |_, _| {
                counts.set(counts.get() + 1);
                ControlFlow::Break(())
            }),
        );
        pair.left.write_all(b"stays").unwrap();
        turn_until(&mut host, name, &|| calls.get() > 0);
        turn_a_moment(&mut host);
        assert_eq!(calls.get(), 1, "{name}");
        assert_eq!(Rc::strong_count(&calls), 1, "{name}: the callback is kept");
    }
}

fn a_watch_that_was_removed_is_not_called<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let alive = Rc::new(());
        let held = Rc::clone(&alive);
        let id = host.watch(
            Arc::clone(&pair.right),
            Interest::READ,
            Box::new(move |_, _| {
                let _held = &held;
                panic!("it was removed")
            }),
        );
        turn_a_moment(&mut host);
        pair.left.write_all(b"x").unwrap();
        host.remove(id);
        turn_a_moment(&mut host);
        assert_eq!(Rc::strong_count(&alive), 1, "{name}: the callback is kept");
    }
}

fn two_watches_learn_the_same<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let calls = Rc::new(Cell::new([0; 2]));
        let ids = [0, 1].map(|index| {
            let counts = Rc::clone(&calls);
            host.watch(
                Arc::clone(&pair.right),
                Interest::READ,
                Box::new(move |_, _| {
                    let mut all = counts.get();
                    all[index] += 1;
                    counts.set(all);
                    ControlFlow::Break(())
                }),
            )
        });
        pair.left.write_all(b"x").unwrap();
        turn_until(&mut host, name, &|| calls.get() == [1, 1]);
        drop(ids);
    }
}

fn a_close_from_another_thread_ends_a_watch_without_a_call<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let calls = Rc::new(Cell::new(0));
        for interest in [Interest::READ, Interest::empty()] {
            let counts = Rc::clone(&calls);
            host.watch(
                Arc::clone(&pair.right),
                interest,
                Box::new(move |_, _| {
                    counts.set(counts.get() + 1);
                    ControlFlow::Continue(())
                }),
            );
        }
        turn_a_moment(&mut host);
        let right = Arc::clone(&pair.right);
        thread::spawn(move || drop(right.close())).join().unwrap();
        turn_a_moment(&mut host);
        assert_eq!(calls.get(), 0, "{name}");
    }
}

fn the_number_of_a_closed_channel_may_come_back_as_another<H: Host>(mut host: H) {
    for close in [true, false] {
        let (left, right) = Socket::pair().unwrap();
        let right: Arc<dyn Channel> = Arc::new(right);
        let calls = Rc::new(Cell::new(0));
        let counts = Rc::clone(&calls);
        let id = host.watch(
            Arc::clone(&right),
            Interest::READ,
            Box::new(move |_, _| {
                counts.set(counts.get() + 1);
                ControlFlow::Continue(())
            }),
        );
        turn_a_moment(&mut host);
        if close {
            right.close().unwrap();
        } else {
            host.remove(id);
            drop(right);
        }
        turn_a_moment(&mut host);
        // Whatever numbers are free now are these, and they are readable.
        let others: Vec<_> = (0..8).map(|_| Socket::pair().unwrap()).collect();
        for (one, other) in &others {
            one.write_all(b"x").unwrap();
            other.write_all(b"x").unwrap();
        }
        turn_a_moment(&mut host);
        assert_eq!(calls.get(), 0);
        drop(left);
    }
}

fn spurious_readiness_is_borne<H: Host>(mut host: H) {
    let (left, right) = Duplex::pair();
    let plan = Plan::new(7).short(3).would_block_every(2).spurious_every(2);
    let right: Arc<dyn Channel> = Arc::new(Chaos::new(right, plan));
    right.set_mode(Mode::NonBlocking).unwrap();
    let got = Rc::new(Cell::new(0));
    let gets = Rc::clone(&got);
    host.watch(
        right,
        Interest::READ,
        Box::new(move |_, watch| {
            match take(watch.channel(), &mut [0; 5]) {
                Ok(count) => gets.set(gets.get() + count),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            ControlFlow::Continue(())
        }),
    );
    for _ in 0..10 {
        let before = got.get();
        left.write_all(&[7; 10]).unwrap();
        turn_until(&mut host, "ten more bytes", &|| got.get() == before + 10);
    }
}

/// A loop that spins uses its thread up.
fn an_idle_watch_costs_nothing<H: Host>(mut host: H) {
    let kinds = kinds();
    for (_, pair) in &kinds {
        let never: host::Callback = Box::new(|ready, _| {
            assert!(ready.is_empty(), "nothing has come: {ready:?}");
            ControlFlow::Break(())
        });
        host.watch(Arc::clone(&pair.right), Interest::READ, never);
    }
    turn_a_moment(&mut host);
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    host.turn(&|| false, Instant::now() + Duration::from_millis(300));
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let used = Duration::from_secs((after.tv_sec - before.tv_sec) as u64)
        .saturating_add(Duration::from_nanos(after.tv_nsec as u64))
        .saturating_sub(Duration::from_nanos(before.tv_nsec as u64));
    // The suite's own tick of tokio needs a part of it.
    assert!(used < Duration::from_millis(150), "{used:?} of 300 ms for nothing");
}

fn files_and_devices_are_always_ready<H: Host>(mut host: H) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = File::from_fd(file.reopen().unwrap().into()).unwrap();
    let channels: [Arc<dyn Channel>; 2] = [Arc::new(file), Arc::new(Null::new())];
    for channel in channels {
        let calls = Rc::new(Cell::new(0));
        let counts = Rc::clone(&calls);
        let id = host.watch(
            channel,
            Interest::READ,
            Box::new(move |_, _| {
                counts.set(counts.get() + 1);
                ControlFlow::Continue(())
            }),
        );
        turn_until(&mut host, "three calls", &|| calls.get() >= 3);
        host.remove(id);
    }
}

fn a_writer_is_told_of_room<H: Host>(mut host: H) {
    const VOLUME: usize = 1 << 20;
    for (name, pair) in kinds() {
        if name == "child" {
            continue;
        }
        let (sent, got) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (sends, gets) = (Rc::clone(&sent), Rc::clone(&got));
        host.watch(
            Arc::clone(&pair.left),
            Interest::WRITE,
            Box::new(move |_, watch| {
                let left = (VOLUME - sends.get()).min(10_000);
                match watch.channel().write(&vec![7; left]) {
                    Ok(count) => sends.set(sends.get() + count),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                match sends.get() == VOLUME {
                    false => ControlFlow::Continue(()),
                    true => match watch.channel().finish() {
                        Ok(()) => ControlFlow::Break(()),
                        Err(_) => ControlFlow::Continue(()),
                    },
                }
            }),
        );
        host.watch(
            Arc::clone(&pair.right),
            Interest::READ,
            Box::new(move |_, watch| match take(watch.channel(), &mut [0; 7000]) {
                Ok(0) => ControlFlow::Break(()),
                Ok(count) => {
                    gets.set(gets.get() + count);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    ControlFlow::Continue(())
                }
            }),
        );
        turn_until(&mut host, name, &|| got.get() == VOLUME);
    }
}

fn watches_for_both_directions_may_be_two<H: Host>(mut host: H) {
    for (name, pair) in kinds() {
        let seen: Seen = Rc::default();
        for interest in [Interest::READ, Interest::WRITE] {
            let sees = Rc::clone(&seen);
            host.watch(
                Arc::clone(&pair.right),
                interest,
                Box::new(move |ready, _| {
                    sees.borrow_mut().push(ready);
                    ControlFlow::Break(())
                }),
            );
        }
        turn_until(&mut host, name, &|| seen.borrow().len() == 1);
        assert_eq!(seen.borrow()[0], Readiness::WRITE, "{name}");
        pair.left.write_all(b"x").unwrap();
        turn_until(&mut host, name, &|| seen.borrow().len() == 2);
        assert_eq!(seen.borrow()[1], Readiness::READ, "{name}");
    }
}

/// A listener, a connect, handshakes, a relay and coroutines, all in one loop and one thread.
fn steps_of_every_kind_come_to_their_ends<H: Host>(mut host: H) {
    let listener = Arc::new(
        listen(&"listen:tcp://127.0.0.1:0".parse().unwrap(), &ListenOptions::new()).unwrap(),
    );
    let address = listener.local_addresses()[0].clone();
    let answer: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();

    // A server that echoes, behind a relay.
    let (inside, outside) = Duplex::pair();
    let accepting = Arc::clone(&listener);
    let (relays, relayed) = spawn(move || {
        let client = accepting.accept(soon()).unwrap().channel;
        client.set_mode(Mode::NonBlocking).unwrap();
        let outside: Arc<dyn Channel> = Arc::new(outside);
        outside.set_mode(Mode::NonBlocking).unwrap();
        let relay = qio::Relay::new(client, outside, qio::relay::RelayOptions::default());
        qio::watch::run(relay, None).unwrap().is_break()
    })
    .unwrap();
    let (echoes, echoed) = spawn(move || -> std::io::Result<()> {
        let mut buf = [0; 5];
        inside.read_exact(&mut buf)?;
        inside.write_all(&buf)?;
        inside.finish_all(None)
    })
    .unwrap();
    let gives = Rc::clone(&answer);
    let asks = qio_adapters::coroutine::Coroutine::new(move || -> std::io::Result<Vec<u8>> {
        let channel = connect(&address, &ConnectOptions::new()).unwrap();
        channel.write_all(b"hello")?;
        channel.finish_all(None)?;
        let mut got = vec![0; 5];
        channel.read_exact(&mut got)?;
        assert_eq!(channel.read(&mut [0])?, 0);
        Ok(got)
    })
    .unwrap();
    host.run(relays, Box::new(drop));
    host.run(echoes, Box::new(drop));
    host.run(asks, Box::new(move |got| *gives.borrow_mut() = Some(got.unwrap().unwrap())));
    turn_until(&mut host, "an answer", &|| answer.borrow().is_some());
    assert_eq!(answer.take().unwrap(), b"hello");
    turn_until(&mut host, "the end of the relay", &|| relayed.is_done() && echoed.is_done());
    assert!(relayed.join().unwrap().unwrap());
    echoed.join().unwrap().unwrap().unwrap();
}

fn a_callback_may_add_watches<H: Host>(host: H) {
    let host = Rc::new(RefCell::new(host));
    let (left, right) = Duplex::pair();
    left.write_all(b"x").unwrap();
    // What a callback asks for is added when the loop has come back: not all loops can be asked in
    // the middle of a turn through the same reference.
    let wishes: Rc<RefCell<Vec<Arc<dyn Channel>>>> = Rc::default();
    let (wish, calls) = (Rc::clone(&wishes), Rc::new(Cell::new(0)));
    let counts = Rc::clone(&calls);
    let right: Arc<dyn Channel> = Arc::new(right);
    host.borrow_mut().watch(
        right,
        Interest::READ,
        Box::new(move |_, watch| {
            wish.borrow_mut().push(Arc::clone(watch.channel()));
            counts.set(counts.get() + 1);
            ControlFlow::Break(())
        }),
    );
    turn_until(&mut *host.borrow_mut(), "the first call", &|| calls.get() == 1);
    for channel in wishes.take() {
        let counts = Rc::clone(&calls);
        host.borrow_mut().watch(
            channel,
            Interest::READ,
            Box::new(move |_, _| {
                counts.set(counts.get() + 1);
                ControlFlow::Break(())
            }),
        );
    }
    turn_until(&mut *host.borrow_mut(), "the second call", &|| calls.get() == 2);
}

#[test]
fn a_watch_is_added_to_calloop_from_another_thread() {
    make_what_is_kept();
    scope(LIMIT, |_| {
        let mut events = calloop::EventLoop::<Vec<u8>>::try_new().unwrap();
        let remote = qio_adapters::calloop::remote(&events.handle()).unwrap();
        let (left, right) = Socket::pair().unwrap();
        let sender = remote.clone();
        let other = thread::spawn(move || {
            sender
                .call(move |handle, _| {
                    let source = qio_adapters::calloop::watch(Arc::new(right), Interest::READ);
                    let inserted =
                        handle.insert_source(source, |ready, watch, got: &mut Vec<u8>| {
                            ready.unwrap();
                            let mut buf = [0];
                            assert_eq!(watch.channel().read(&mut buf).unwrap(), 1);
                            got.push(buf[0]);
                            calloop::PostAction::Remove
                        });
                    inserted.unwrap();
                })
                .unwrap();
            left.write_all(b"x").unwrap();
            left
        });
        let mut got = Vec::new();
        while got.is_empty() {
            events.dispatch(Duration::from_secs(10), &mut got).unwrap();
        }
        assert_eq!(got, b"x");
        other.join().unwrap();
        drop(events);
        let error = remote.call(|_, _| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    });
}

/// calloop 0.14 remembers a source that asks to be called before the loop sleeps once more for each
/// time it is registered anew, and calls it as often.
#[test]
fn a_source_of_calloop_costs_a_turn_the_same_however_often_it_was_registered() {
    make_what_is_kept();
    scope(LIMIT, |_| {
        let mut events = calloop::EventLoop::<u32>::try_new().unwrap();
        let (left, right) = Socket::pair().unwrap();
        let counted = Arc::new(Chaos::new(right, Plan::new(1)));
        let source = qio_adapters::calloop::watch(Arc::clone(&counted), Interest::READ);
        let token = events
            .handle()
            .insert_source(source, |ready, watch, called| {
                ready.unwrap();
                watch.channel().read(&mut [0]).unwrap();
                *called += 1;
                calloop::PostAction::Continue
            })
            .unwrap();
        let mut called = 0;
        let mut asked_by_a_turn = |events: &mut calloop::EventLoop<'_, u32>| {
            let before = counted.watch_count();
            left.write_all(b"x").unwrap();
            events.dispatch(Duration::from_secs(10), &mut called).unwrap();
            events.dispatch(Duration::ZERO, &mut called).unwrap();
            counted.watch_count() - before
        };
        asked_by_a_turn(&mut events);
        let few = asked_by_a_turn(&mut events);
        for _ in 0..100 {
            events.handle().update(&token).unwrap();
        }
        assert_eq!(asked_by_a_turn(&mut events), few);
        assert_eq!(called, 3);
    });
}

#[test]
fn a_source_of_glib_has_name_and_priority_and_goes_to_the_context_of_another_thread() {
    make_what_is_kept();
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        right.set_name("the other end");
        let (tell, told) = std::sync::mpsc::channel();
        let priority = glib::Priority::HIGH;
        let source = qio_adapters::glib::watch(
            Arc::new(right),
            Interest::READ,
            priority,
            move |ready, watch| {
                let mut buf = [0];
                ready.and_then(|_| watch.channel().read(&mut buf)).unwrap();
                tell.send((thread::current().id(), buf)).unwrap();
                ControlFlow::Break(())
            },
        );
        assert_eq!(source.name().as_deref(), Some("the other end"));
        assert_eq!(source.priority(), -100, "G_PRIORITY_HIGH");
        let context = glib::MainContext::new();
        source.attach(Some(&context));
        let (looping, looping_source) = (context.clone(), source.clone());
        let other = thread::spawn(move || {
            while !looping_source.is_destroyed() {
                looping.iteration(true);
            }
            thread::current().id()
        });
        left.write_all(b"x").unwrap();
        let (id, buf) = told.recv_timeout(LIMIT).unwrap();
        assert_eq!((id, buf), (other.join().unwrap(), *b"x"));
        assert!(source.is_destroyed());
    });
}
