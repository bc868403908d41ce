//! The conformance suite over the layers, plain and in chaos. `stacks.rs` has WebSocket over further
//! transports and stacks with TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::tap::{Entry, Reader, Recorder, RecorderOptions, Tap};
use qio::layer::throttle::{Rate, Throttle, ThrottleOptions};
#[cfg(feature = "zstd")]
use qio::layer::zstd::{self, ZstdOptions};
use qio::transport::{Duplex, Pipe, Socket};
use qio::watch::run;
use qio::{Channel, ChannelExt};
use qio_testkit::pairs::{memory, pipes, tcp, unix, ws_over};
use qio_testkit::{Pair, Subject, conformance, finished, soon};

conformance!(
    ws_over_unix,
    Subject::pair::<Socket>("ws over unix", || ws_over(unix())).with_farewell()
);
conformance!(
    ws_over_ws,
    Subject::pair::<Socket>("ws over ws", || ws_over(ws_over(unix()))).with_farewell()
);

conformance!(
    throttle_over_unix,
    Subject::pair::<Socket>("throttle over unix", || throttled(unix()))
);
conformance!(
    throttle_over_pipes,
    Subject::pair::<Pipe>("throttle over pipes", || throttled(pipes()))
);
conformance!(
    throttle_over_memory,
    Subject::pair::<Duplex>("throttle over memory", || throttled(memory()))
);
conformance!(
    ws_over_throttle,
    Subject::pair::<Socket>("ws over throttle", || ws_over(throttled(tcp()))).with_farewell()
);

conformance!(tap_over_unix, Subject::pair::<Socket>("tap over unix", || tapped(unix())));
conformance!(tap_over_pipes, Subject::pair::<Pipe>("tap over pipes", || tapped(pipes())));
conformance!(tap_over_memory, Subject::pair::<Duplex>("tap over memory", || tapped(memory())));
conformance!(
    tap_over_ws_over_tap,
    Subject::pair::<Socket>("tap over ws over tap", || tapped(ws_over(tapped(unix()))))
        .with_farewell()
);

#[cfg(feature = "zstd")]
conformance!(
    zstd_over_unix,
    Subject::pair::<Socket>("zstd over unix", || zstd_pair(unix())).with_farewell()
);
#[cfg(feature = "zstd")]
conformance!(
    zstd_over_pipes,
    Subject::pair::<Pipe>("zstd over pipes", || zstd_pair(pipes())).with_farewell()
);
#[cfg(feature = "zstd")]
conformance!(
    zstd_over_memory,
    Subject::pair::<Duplex>("zstd over memory", || zstd_pair(memory())).with_farewell()
);
#[cfg(feature = "zstd")]
conformance!(
    zstd_over_ws_over_zstd,
    Subject::pair::<Socket>("zstd over ws over zstd", || zstd_pair(ws_over(zstd_pair(tcp()))))
        .with_farewell()
);

/// Slow enough that the suite meets an empty bucket all the time.
fn throttled(pair: Pair) -> Pair {
    let rate = Rate::new(NonZero::new(32 << 20).unwrap()).burst(NonZero::new(64 << 10).unwrap());
    let options = ThrottleOptions::new().read(rate).write(rate);
    Pair::new(Throttle::new(pair.left, options), Throttle::new(pair.right, options))
}

fn tapped(pair: Pair) -> Pair {
    let recorder = Recorder::new(std::io::sink(), RecorderOptions::new()).unwrap();
    Pair::new(Tap::new(pair.left, &recorder), Tap::new(pair.right, &recorder))
}

#[cfg(feature = "zstd")]
fn zstd_pair(pair: Pair) -> Pair {
    let layer = |below| zstd::layer(below, ZstdOptions::new()).unwrap();
    Pair::new(layer(pair.left), layer(pair.right))
}

#[test]
fn the_socket_below_is_found() {
    let pair = ws_over(ws_over(unix()));
    let left: Arc<dyn Channel> = pair.left;
    assert!(left.find::<Socket>().is_some());
    assert_eq!(left.name(), "ws over ws over unix socket");
}

#[test]
fn a_throttled_transfer_takes_its_time_and_one_that_is_not_does_not() {
    const RATE: u64 = 10 << 20;
    let took = |rate: Option<u64>| {
        let (left, right) = Socket::pair().unwrap();
        let mut options = ThrottleOptions::new();
        if let Some(rate) = rate {
            let burst = NonZero::new(64 << 10).unwrap();
            options = options.write(Rate::new(NonZero::new(rate).unwrap()).burst(burst));
        }
        let left = Throttle::new(left, options);
        let reader = thread::spawn(move || right.read_exact(&mut vec![0; 1 << 20]).unwrap());
        let start = Instant::now();
        left.write_all(&vec![1; 1 << 20]).unwrap();
        reader.join().unwrap();
        start.elapsed()
    };
    let due = Duration::from_millis(1000 * ((1 << 20) - (64 << 10)) / RATE);
    let free = took(None);
    let limited = took(Some(RATE));
    assert!(limited >= due, "{limited:?} is too quick for {due:?}");
    // Whatever the machine is busy with, it was not with waiting for the bucket.
    assert!(limited > free, "{limited:?} and {free:?}");
}

#[test]
fn closing_wakes_who_waits_for_the_bucket() {
    let (left, _right) = Socket::pair().unwrap();
    let rate = Rate::new(NonZero::new(1).unwrap());
    let left = Arc::new(Throttle::new(left, ThrottleOptions::new().write(rate).read(rate)));
    left.write_all(b"x").unwrap();
    let writer = Arc::clone(&left);
    let start = Instant::now();
    // It takes a minute, unless it is woken.
    let writer = qio_testkit::Job::start(move || writer.write_all(&[0; 60]));
    writer.wait_until_asleep();
    left.close().unwrap();
    assert!(writer.finish().is_err());
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_loop_that_waits_for_edges_hears_of_data_that_was_there_before_the_bucket_was_full() {
    use qio::watch::PollSet;
    use qio::{Interest, Mode, Readiness};
    let (left, right) = Socket::pair().unwrap();
    right.write_all(&[1; 100]).unwrap();
    let rate = Rate::new(NonZero::new(1000).unwrap()).burst(NonZero::new(10).unwrap());
    let left = Throttle::new(left, ThrottleOptions::new().read(rate));
    left.set_mode(Mode::NonBlocking).unwrap();
    let mut got = left.read(&mut [0; 100]).unwrap();
    assert_eq!(got, 10);
    while got < 100 {
        match left.read(&mut [0; 100]) {
            Ok(count) => got += count,
            Err(_) => {
                let mut set = PollSet::new();
                while left.watch(Interest::READ, &mut set).is_empty() {
                    let only_time = set.legs().iter().all(|leg| leg.grants().is_empty());
                    assert!(only_time, "no edge comes from below");
                    set.poll(None).unwrap();
                    set.clear();
                }
                assert_eq!(left.watch(Interest::READ, &mut set), Readiness::READ);
            }
        }
    }
}

#[test]
fn a_tap_records_both_directions_and_how_they_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = Recorder::new(file.reopen().unwrap(), RecorderOptions::new()).unwrap();
    let (left, right) = Duplex::pair();
    let left = Tap::new(left, &recorder);
    left.write_vectored(&[std::io::IoSlice::new(b"que"), std::io::IoSlice::new(b"stion")]).unwrap();
    right.write_all(b"answer").unwrap();
    left.read_with(&mut [std::io::IoSliceMut::new(&mut [0; 9])], qio::ReadFlags::PEEK, None)
        .unwrap();
    left.read_exact(&mut [0; 6]).unwrap();
    left.finish().unwrap();
    right.finish().unwrap();
    assert_eq!(left.read(&mut [0]).unwrap(), 0);
    assert_eq!(left.read(&mut [0]).unwrap(), 0);
    assert!(left.write(b"more").is_err());
    left.close().unwrap();
    drop(left);
    finished(recorder.draining());
    let records: Vec<_> =
        Reader::new(file.reopen().unwrap()).unwrap().map(Result::unwrap).collect();
    assert!(records.is_sorted_by_key(|record| record.time));
    let entries: Vec<Entry> = records.into_iter().map(|record| record.entry).collect();
    let [Entry::Opened(_), data @ .., Entry::WriteFailed(_), Entry::Closed] = &entries[..] else {
        panic!("{entries:?}")
    };
    let expected = [
        Entry::Written(b"question".to_vec()),
        Entry::Read(b"answer".to_vec()),
        Entry::Finished,
        Entry::End,
    ];
    assert_eq!(data, expected);
}

#[test]
fn a_tap_that_cannot_write_does_not_hurt_the_stream() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let recorder = Recorder::new(full, RecorderOptions::new()).unwrap();
    let (left, right) = Duplex::pair();
    let left = Tap::new(left, &recorder);
    for _ in 0..100 {
        left.write_all(&[1; 10_000]).unwrap();
        right.read_exact(&mut [0; 10_000]).unwrap();
    }
    let ControlFlow::Break(result) = run(recorder.draining(), soon()).unwrap() else { panic!() };
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(recorder.status().stopped.is_some());
}
