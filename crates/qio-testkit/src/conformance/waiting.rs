//! Who waits, for what, how long, and how often it is woken.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Interest, Mode, ReadFlags, Readiness, WriteFlags};

use super::Subject;
use super::data::{MODES, a_moment, close, drain, fill, pattern, read_soon};
use crate::soon;
use crate::{Chaos, Job, Plan, count_waits};

/// Nothing there, in non-blocking mode or with the flag for one call: would-block, again and again.
pub fn a_read_of_nothing_would_block(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        for _ in 0..4 {
            let mut buf = [0; 4];
            let mut into = [IoSliceMut::new(&mut buf)];
            let error = pair.right.read_with(&mut into, ReadFlags::NONBLOCK, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            if mode == Mode::NonBlocking {
                let error = pair.right.read(&mut [0; 4]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
        }
        let full = fill(&*pair.left);
        if mode == Mode::NonBlocking {
            let error = pair.left.write(b"x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        let out = [IoSlice::new(b"x")];
        let error = pair.left.write_with(&out, WriteFlags::NONBLOCK, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drain(&pair, full);
    }
}

/// One reader and one writer wait at a time; who comes second is told, and does not sleep.
pub fn a_second_waiter_is_refused(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    let right = Arc::clone(&pair.right);
    let first = Job::start(move || right.wait(Interest::READ, None));
    first.wait_until_asleep();
    let error = pair.right.wait(Interest::READ, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("another reader waits"), "{error}");
    let error = pair.right.wait(Interest::READ | Interest::WRITE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    if subject.is_duplex() {
        pair.right.wait(Interest::WRITE, soon()).unwrap();
    }
    assert!(first.is_running());
    pair.left.write_all(b"x").unwrap();
    assert!(first.finish().unwrap().contains(Readiness::READ));
    pair.right.wait(Interest::READ, soon()).unwrap();

    let pair = subject.make();
    fill(&*pair.left);
    let left = Arc::clone(&pair.left);
    let first = Job::start(move || left.wait(Interest::WRITE, None));
    first.wait_until_asleep();
    let error = pair.left.wait(Interest::WRITE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("another writer waits"), "{error}");
    close(&*pair.right);
    first.finish().unwrap();
}

/// A deadline is kept, and a passed one still looks.
pub fn a_wait_ends_at_its_deadline(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    let wait = |channel: &dyn Channel, interest| {
        let time = Duration::from_millis(20);
        let start = Instant::now();
        let (result, waits) = count_waits(|| channel.wait(interest, Some(start + time)));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() >= time, "{:?}", start.elapsed());
        assert!(waits <= 2, "{waits} waits");
        let error = channel.wait(interest, Some(start)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    };
    wait(&*pair.right, Interest::READ);
    fill(&*pair.left);
    wait(&*pair.left, Interest::WRITE);
    // What was written is there when the kernel has handed it on.
    pair.right.wait(Interest::READ, soon()).unwrap();
    let passed = Instant::now();
    let ready = pair.right.wait(Interest::READ, Some(passed)).unwrap();
    assert!(ready.contains(Readiness::READ));
}

/// Who waits for both is told which of them holds.
pub fn a_wait_for_both_tells_which(subject: &Subject) {
    if !subject.is_duplex() {
        return;
    }
    let both = Interest::READ | Interest::WRITE;
    let pair = subject.make();
    assert_eq!(pair.left.wait(both, soon()).unwrap(), Readiness::WRITE);
    // TCP finds more room for a while, as the kernel of the peer takes the data over.
    let mut rounds = 0;
    let error = loop {
        fill(&*pair.left);
        match pair.left.wait(both, a_moment()) {
            Ok(ready) => assert_eq!(ready, Readiness::WRITE),
            Err(error) => break error,
        }
        rounds += 1;
        assert!(rounds < 100, "a full channel is writable without end");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    pair.right.write_all(b"x").unwrap();
    let ready = pair.left.wait(both, soon()).unwrap();
    assert!(ready.contains(Readiness::READ), "{ready:?}");
    if ready.contains(Readiness::WRITE) {
        pair.left.write_with(&[IoSlice::new(b"y")], WriteFlags::NONBLOCK, &[]).unwrap();
    }

    let pair = subject.make();
    pair.right.write_all(b"x").unwrap();
    pair.left.wait(Interest::READ, soon()).unwrap();
    // What a layer holds is ready without a look at the channel below.
    let ready = pair.left.wait(both, soon()).unwrap();
    assert!(ready.contains(Readiness::READ), "{ready:?}");
    assert_eq!(pair.left.wait(Interest::WRITE, soon()).unwrap(), Readiness::WRITE);
}

/// A wait that timed out leaves the place free, and loses no byte.
pub fn a_wait_that_was_given_up_can_be_made_again(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    for _ in 0..3 {
        let error = pair.right.wait(Interest::READ, a_moment()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    pair.left.write_all(b"x").unwrap();
    let mut byte = [0];
    pair.right.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

/// A reader that waits for a message is woken once by it.
pub fn waiting_for_data_wakes_once(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make().in_mode(Mode::NonBlocking);
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || {
        let mut byte = [0];
        let ((), waits) = count_waits(|| right.read_exact(&mut byte).unwrap());
        (byte, waits)
    });
    reader.wait_until_asleep();
    assert!(reader.is_running());
    pair.left.write_all(b"x").unwrap();
    let (byte, waits) = reader.finish();
    assert_eq!(&byte, b"x");
    // In chaos, one more for each would-block that is not true.
    let budget = if subject.is_chaotic() { 3 } else { 1 };
    assert!((1..=budget).contains(&waits), "{waits} waits for one byte");
}

/// A leg that the channel says stands is what it would ask for now, at any time from before the first
/// byte to after the close.
pub fn a_leg_that_stands_is_what_would_be_asked_for(subject: &Subject) {
    let pair = subject.make().in_mode(Mode::NonBlocking);
    let channel = &pair.right;
    let interests = [Interest::READ, Interest::WRITE, Interest::all()];
    let mut fds = Vec::new();
    let mut look = || {
        for (fd, interest) in fds.iter().flat_map(|fd| interests.map(|interest| (fd, interest))) {
            if channel.watch_stands(interest, fd) {
                let mut now = PollSet::new();
                let ready = channel.watch(interest, &mut now);
                assert!(ready.is_empty() && now.deadline().is_none(), "{interest:?}: {ready:?}");
                let [leg] = now.legs() else { panic!("{interest:?}: {now:?}") };
                assert!(Arc::ptr_eq(leg.fd(), fd), "{interest:?}: another descriptor");
                assert_eq!((leg.on(), leg.grants()), (interest, interest));
            }
        }
        for interest in interests {
            let mut set = PollSet::new();
            let _ = channel.watch(interest, &mut set);
            fds.extend(set.legs().iter().map(|leg| Arc::clone(leg.fd())));
        }
    };
    look();
    // One byte fits everywhere.
    pair.left.write_all(b"a").unwrap();
    look();
    let _ = read_soon(&**channel, &mut [0]);
    look();
    let _ = pair.left.finish();
    look();
    close(channel);
    look();
    look();
}

/// Data that a read left behind wakes the next wait with no further traffic, until it is gone.
pub fn data_that_stays_is_reported_again(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    // As much of 64 bytes as the channel holds at once.
    let mut held = 0;
    while held < 64 {
        let block = pattern(held, 64 - held);
        match pair.left.write_with(&[IoSlice::new(&block)], WriteFlags::NONBLOCK, &[]) {
            Ok(n) => held += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if pair.left.wait(Interest::WRITE, a_moment()).is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(held > 0);
    let mut got: Vec<u8> = Vec::new();
    while got.len() < held {
        let ready = pair.right.wait(Interest::READ, soon()).unwrap();
        assert!(ready.contains(Readiness::READ));
        let mut some = [0; 16];
        let n = read_soon(&*pair.right, &mut some).unwrap();
        got.extend(&some[..n]);
    }
    assert!(got == pattern(0, held), "other bytes than were sent");
    let error = pair.right.wait(Interest::READ, a_moment()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// A peer that goes is noticed by who only waits.
pub fn the_end_wakes_whoever_waits(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    let pair = subject.make();
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || right.wait(Interest::READ, None));
    reader.wait_until_asleep();
    close(&*pair.left);
    assert!(reader.finish().unwrap().contains(Readiness::READ));

    let pair = subject.make();
    fill(&*pair.left);
    let left = Arc::clone(&pair.left);
    let writer = Job::start(move || left.wait(Interest::WRITE, None));
    writer.wait_until_asleep();
    close(&*pair.right);
    assert!(writer.finish().unwrap().contains(Readiness::WRITE));
}

/// Told that there is something when there is not, a read says so at once and a wait goes on.
pub fn spurious_readiness_would_blocks_at_once(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make().in_mode(Mode::NonBlocking);
    let right: Arc<dyn Channel> =
        Arc::new(Chaos::new(Arc::clone(&pair.right), Plan::new(0).spurious_every(2)));
    let attempt = || {
        let _ = right.wait(Interest::READ, a_moment());
        right.read(&mut [0; 4]).unwrap_err().kind()
    };
    assert_eq!([attempt(), attempt(), attempt()], [ErrorKind::WouldBlock; 3]);
    let reader = Job::start(move || {
        let mut byte = [0];
        let ((), waits) = count_waits(|| right.read_exact(&mut byte).unwrap());
        (byte, waits)
    });
    reader.wait_until_asleep();
    pair.left.write_all(b"x").unwrap();
    let (byte, waits) = reader.finish();
    assert_eq!(&byte, b"x");
    assert!(waits <= 4, "{waits} waits for one byte");
}
