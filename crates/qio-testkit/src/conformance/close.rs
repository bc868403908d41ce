//! Close: from any thread, at once, for good.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Interest, Readiness};

use super::Subject;
use super::data::{MODES, close, fill, is_gone, read_soon, write_until_error};
use crate::Job;
use crate::soon;

/// A reader that sleeps in another thread learns that its channel is closed.
pub fn close_wakes_a_blocked_reader(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let right = Arc::clone(&pair.right);
        let reader = Job::start(move || right.read_exact_or_eof(&mut [0; 8]));
        reader.wait_until_asleep();
        assert!(reader.is_running());
        close(&*pair.right);
        let error = reader.finish().expect_err("closed is not the end of the stream");
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{mode:?}");
    }
}

/// A writer that sleeps in another thread learns that its channel is closed.
pub fn close_wakes_a_blocked_writer(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        fill(&*pair.left);
        let left = Arc::clone(&pair.left);
        let writer = Job::start(move || left.write_all(&vec![0; 32 << 20]));
        writer.wait_until_asleep();
        assert!(writer.is_running());
        close(&*pair.left);
        assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::NotConnected, "{mode:?}");
    }
}

/// Whoever only waits is woken too.
pub fn close_wakes_a_waiter(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    fill(&*pair.left);
    let left = Arc::clone(&pair.left);
    let writer = Job::start(move || left.wait(Interest::WRITE, None));
    writer.wait_until_asleep();
    close(&*pair.left);
    writer.finish().unwrap();
    assert_eq!(write_until_error(&*pair.left), ErrorKind::NotConnected);

    let pair = subject.make();
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || right.wait(Interest::READ, None));
    reader.wait_until_asleep();
    close(&*pair.right);
    reader.finish().unwrap();
    let error = read_soon(&*pair.right, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    // And who comes later does not sleep at all.
    pair.right.wait(Interest::READ, None).unwrap();
}

/// A forgotten watch owns the descriptor, and yet the peer sees the end now.
pub fn the_peer_sees_the_end_although_a_watch_lives(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    // The reading side goes, with a watch that somebody is parked on and one that is forgotten.
    let pair = subject.make();
    let mut forgotten = PollSet::new();
    assert!(pair.right.watch(Interest::READ, &mut forgotten).is_empty());
    assert!(!forgotten.legs().is_empty());
    let mut parked = forgotten.clone();
    let waiter = Job::start(move || parked.poll(soon()).map(|()| has_fired(&parked)));
    waiter.wait_until_asleep();
    close(&*pair.right);
    assert!(waiter.finish().unwrap(), "the parked watch fires");
    let kind = write_until_error(&*pair.left);
    assert!(is_gone(kind), "{kind}");
    if subject.is_duplex() {
        let end = read_soon(&*pair.left, &mut [0]);
        assert!(subject.is_cut_off(&end, &0) || is_gone(end.unwrap_err().kind()));
    }
    forgotten.poll(soon()).unwrap();
    assert!(has_fired(&forgotten), "the forgotten watch would fire");

    // The writing side goes.
    let pair = subject.make();
    fill(&*pair.left);
    let mut forgotten = PollSet::new();
    assert!(pair.left.watch(Interest::WRITE, &mut forgotten).is_empty());
    close(&*pair.left);
    loop {
        match read_soon(&*pair.right, &mut [0; 4096]) {
            end if subject.is_cut_off(&end, &0) => break,
            Ok(_) => {}
            Err(error) => panic!("what was sent before is not lost: {error}"),
        }
    }
    forgotten.poll(soon()).unwrap();
    assert!(has_fired(&forgotten), "the forgotten watch would fire");
}

/// The second close, and the drop after it, do not reach whoever got the number since.
pub fn closing_again_changes_nothing(subject: &Subject) {
    let pair = subject.make();
    close(&*pair.left);
    let others: Vec<File> = (0..4).map(|_| File::create("/dev/null").unwrap()).collect();
    for _ in 0..3 {
        close(&*pair.left);
    }
    close(&*pair.right);
    close(&*pair.right);
    drop(pair);
    for mut other in others {
        other.write_all(b"still ours").unwrap();
    }
}

/// After close, every call fails with the same error, and no wait sleeps.
pub fn a_closed_channel_refuses_everything(subject: &Subject) {
    let pair = subject.make();
    close(&*pair.left);
    close(&*pair.right);
    for _ in 0..3 {
        assert_eq!(write_until_error(&*pair.left), ErrorKind::NotConnected);
        assert_eq!(read_soon(&*pair.right, &mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
        let error = pair.right.read_exact_or_eof(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert_eq!(pair.left.write_all(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(pair.left.finish().unwrap_err().kind(), ErrorKind::NotConnected);
    }
    let mut set = PollSet::new();
    assert!(pair.right.watch(Interest::READ, &mut set).contains(Readiness::READ));
    assert!(pair.left.watch(Interest::WRITE, &mut set).contains(Readiness::WRITE));
    assert!(set.legs().is_empty());
    assert_eq!(pair.left.splice_fd(qio::Direction::Write).map(drop), None);
    assert_eq!(pair.right.splice_fd(qio::Direction::Read).map(drop), None);
}

/// The number of a descriptor that a leg holds is given to nobody else.
pub fn a_forgotten_leg_never_polls_a_reused_number(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    fill(&*pair.left);
    let mut writing = PollSet::new();
    let _ = pair.left.watch(Interest::WRITE, &mut writing);
    let target = |fd: &OwnedFd| {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::read_link(link).unwrap()
    };
    let before: Vec<_> = writing.legs().iter().map(|leg| target(leg.fd())).collect();
    assert!(!before.is_empty());
    close(&*pair.left);
    drop(pair);
    let others: Vec<File> = (0..8).map(|_| File::open("/dev/zero").unwrap()).collect();
    for (leg, before) in writing.legs().iter().zip(before) {
        assert_eq!(target(leg.fd()), before);
        assert!(others.iter().all(|other| other.as_raw_fd() != leg.as_fd().as_raw_fd()));
    }
}

/// Readers and writers of both sides, and a close from the middle of nowhere.
pub fn closing_while_others_read_and_write_ends_them(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    for round in 0..8 {
        let pair = subject.make().in_mode(MODES[round % 2]);
        let write = |channel: &Arc<dyn Channel>| {
            let channel = Arc::clone(channel);
            Job::start(move || {
                loop {
                    if let Err(error) = channel.write_all(&[5; 3000]) {
                        return error.kind();
                    }
                }
            })
        };
        let read = |channel: &Arc<dyn Channel>| {
            let channel = Arc::clone(channel);
            Job::start(move || {
                loop {
                    if let Err(error) = channel.read_exact(&mut [0; 2000]) {
                        return error.kind();
                    }
                }
            })
        };
        let (left_writer, right_reader) = (write(&pair.left), read(&pair.right));
        let back = subject.is_duplex().then(|| (write(&pair.right), read(&pair.left)));
        for _ in 0..round * 3 {
            std::thread::yield_now();
        }
        close(&*pair.left);
        assert_eq!(left_writer.finish(), ErrorKind::NotConnected);
        let end = right_reader.finish();
        assert!(end == ErrorKind::UnexpectedEof || is_gone(end), "{end}");
        if let Some((right_writer, left_reader)) = back {
            assert_eq!(left_reader.finish(), ErrorKind::NotConnected);
            let end = right_writer.finish();
            assert!(is_gone(end), "{end}");
        }
    }
}

/// Whether a leg fired, be it one of a layer, which means nothing to the user.
fn has_fired(set: &PollSet) -> bool {
    set.legs().iter().any(|leg| !leg.fired().is_empty())
}
