//! Watches, without an event loop: what each of them is told, and how often.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qio::channel::Watch;
use qio::transport::Socket;
use qio::watch::{PollSet, run};
use qio::{Channel, ChannelExt, Interest, Readiness};
use qio_testkit::pairs::{memory, pipes, tcp, unix, ws_over};
use qio_testkit::{Pair, soon};

type Watched = Watch<Arc<dyn Channel>>;

/// What a loop does for one event.
fn next(watch: &mut Watched, until: Option<Instant>) -> Readiness {
    let mut set = PollSet::new();
    let mut ready = watch.look(&mut set);
    while ready.is_empty() {
        assert!(until.is_none_or(|until| Instant::now() < until), "nothing is reported");
        set.poll(until).unwrap();
        ready = watch.settle(&mut set).unwrap();
    }
    ready
}

fn kinds() -> Vec<(&'static str, Pair)> {
    vec![
        ("unix", unix()),
        ("tcp", tcp()),
        ("pipes", pipes()),
        ("memory", memory()),
        ("ws", ws_over(unix())),
        ("ws over ws", ws_over(ws_over(tcp()))),
    ]
}

#[test]
fn what_is_read_in_parts_is_reported_for_each() {
    for (name, pair) in kinds() {
        pair.left.write_all(&[7; 20]).unwrap();
        let mut watch = Watch::new(Arc::clone(&pair.right), Interest::READ);
        let mut got = 0;
        while got < 20 {
            assert_eq!(next(&mut watch, soon()), Readiness::READ, "{name}");
            let mut buf = [0; 5];
            let result = pair.right.read_with(
                &mut [std::io::IoSliceMut::new(&mut buf)],
                qio::ReadFlags::NONBLOCK,
                None,
            );
            got += result.unwrap_or(0);
        }
        let mut set = PollSet::new();
        assert_eq!(watch.look(&mut set), Readiness::empty(), "{name}: it is empty");
        assert!(!set.is_empty(), "{name}: it waits for more");
    }
}

#[test]
fn two_watches_of_one_channel_learn_the_same() {
    for (name, pair) in kinds() {
        let both = [(); 2].map(|()| Watch::new(Arc::clone(&pair.right), Interest::READ));
        pair.left.write_all(b"x").unwrap();
        for mut watch in both {
            assert_eq!(next(&mut watch, soon()), Readiness::READ, "{name}");
        }
    }
}

#[test]
fn a_hang_up_alone_is_told_once() {
    for (name, pair) in [("unix", unix()), ("tcp", tcp()), ("ws", ws_over(unix()))] {
        let mut watch = Watch::new(Arc::clone(&pair.right), Interest::empty());
        let mut set = PollSet::new();
        assert_eq!(watch.look(&mut set), Readiness::empty(), "{name}");
        drop(pair.left);
        // A peer that is gone is noticed by TCP when something is sent to it.
        let _ = pair.right.write(b"x");
        let _ = pair.right.write(b"y");
        assert!(next(&mut watch, soon()).contains(Readiness::HANGUP), "{name}");
        set.clear();
        assert_eq!(watch.look(&mut set), Readiness::empty(), "{name}");
        assert!(set.is_empty(), "{name}: a watch that has told everything polls something");

        // As steps it waits for what never comes.
        let ControlFlow::Continue(mut watch) =
            run(watch, Some(Instant::now() + Duration::from_millis(5))).unwrap()
        else {
            panic!("{name}: it was told twice")
        };
        watch.set_interest(Interest::READ);
        assert!(next(&mut watch, soon()).contains(Readiness::READ), "{name}");
    }
}

#[test]
fn a_watch_is_steps_for_any_number_of_events() {
    let (left, right) = Socket::pair().unwrap();
    let right: Arc<dyn Channel> = Arc::new(right);
    let mut watch = Watch::new(Arc::clone(&right), Interest::READ);
    for _ in 0..3 {
        left.write_all(b"x").unwrap();
        let ControlFlow::Break(ready) = run(&mut watch, soon()).unwrap() else { panic!() };
        assert_eq!(ready.unwrap(), Readiness::READ);
        right.read_exact(&mut [0]).unwrap();
    }
    let moment = Some(Instant::now() + Duration::from_millis(5));
    assert!(run(&mut watch, moment).unwrap().is_continue());
}

#[test]
fn a_watch_of_a_channel_that_was_closed_reports_nothing() {
    for (name, pair) in kinds() {
        let watches = [Interest::READ, Interest::WRITE, Interest::empty()]
            .map(|interest| Watch::new(Arc::clone(&pair.right), interest));
        pair.left.write_all(b"x").unwrap();
        let closed = pair.right.close();
        assert!(closed.is_ok(), "{name}: {closed:?}");
        for mut watch in watches {
            let mut set = PollSet::new();
            assert_eq!(watch.look(&mut set), Readiness::empty(), "{name}");
            assert!(set.is_empty() && watch.is_over(), "{name}");
            assert!(run(&mut watch, Some(Instant::now())).unwrap().is_continue(), "{name}");
        }
    }
}

/// The reader's loop and the writer's are two: what the writer leaves behind for want of room goes
/// out by the reader's, which watches for input only.
#[test]
fn what_a_writer_leaves_behind_goes_out_by_the_loop_that_reads() {
    let pair = ws_over(unix());
    let mut reads = Watch::new(Arc::clone(&pair.left), Interest::READ);
    let mut set = PollSet::new();
    assert_eq!(reads.look(&mut set), Readiness::empty());
    // Begun before there was anything to leave.
    let full = fill(&*pair.left);
    let mut got = 0;
    while got < full {
        let mut buf = [0; 65536];
        got += pair.right.read(&mut buf).unwrap();
        if got == full {
            break;
        }
        set.poll(Some(Instant::now())).unwrap();
        assert_eq!(reads.settle(&mut set).unwrap(), Readiness::empty());
    }
}

/// Writes until nothing is taken, and gives how much was.
fn fill(channel: &dyn Channel) -> usize {
    let mut total = 0;
    loop {
        let block = [std::io::IoSlice::new(&[7; 5000])];
        match channel.write_with(&block, qio::WriteFlags::NONBLOCK, &[]) {
            Ok(count) => total += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return total;
            }
        }
    }
}
