//! Shutdown: quick, abortive, from any thread.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::Arc;

use qio::{ChannelExt, Features, Interest};

use super::Subject;
use super::data::{MODES, fill, read_soon, write_until_error};
use crate::Job;
use crate::soon;

/// A reader that sleeps in another thread reads the end, in the kernel and in poll(2).
pub fn shutdown_wakes_a_blocked_reader(subject: &Subject) {
    if !subject.is_stream() || !subject.has(Features::SHUTDOWN) {
        return;
    }
    for mode in MODES {
        for how in [Shutdown::Read, Shutdown::Both] {
            let pair = subject.make().in_mode(mode);
            let right = Arc::clone(&pair.right);
            let reader = Job::start(move || right.read_exact_or_eof(&mut [0; 8]));
            reader.wait_until_asleep();
            assert!(reader.is_running());
            pair.right.shutdown(how).unwrap();
            assert!(!reader.finish().unwrap(), "{mode:?}, {how:?}");
            assert_eq!(read_soon(&*pair.right, &mut [0]).unwrap(), 0);
        }
    }
}

/// A writer that sleeps in another thread fails, in the kernel and in poll(2).
pub fn shutdown_wakes_a_blocked_writer(subject: &Subject) {
    if !subject.is_stream() || !subject.has(Features::SHUTDOWN) {
        return;
    }
    for mode in MODES {
        for how in [Shutdown::Write, Shutdown::Both] {
            let pair = subject.make().in_mode(mode);
            fill(&*pair.left);
            let left = Arc::clone(&pair.left);
            let writer = Job::start(move || left.write_all(&vec![0; 32 << 20]));
            writer.wait_until_asleep();
            assert!(writer.is_running());
            pair.left.shutdown(how).unwrap();
            let error = writer.finish().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{mode:?}, {how:?}");
            assert_eq!(write_until_error(&*pair.left), ErrorKind::BrokenPipe);
        }
    }
}

/// Ending one direction says nothing about the other.
pub fn shutting_down_one_direction_keeps_the_other(subject: &Subject) {
    if !subject.is_duplex() || !subject.has(Features::SHUTDOWN) {
        return;
    }
    let pair = subject.make();
    pair.left.shutdown(Shutdown::Write).unwrap();
    pair.left.shutdown(Shutdown::Write).unwrap();
    assert_eq!(write_until_error(&*pair.left), ErrorKind::BrokenPipe);
    let end = pair.right.read_exact_or_eof(&mut [0]);
    assert!(subject.is_cut_off(&end, &false), "{end:?}");
    pair.right.write_all(b"r").unwrap();
    let mut byte = [0];
    pair.left.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"r");

    let pair = subject.make();
    pair.left.shutdown(Shutdown::Read).unwrap();
    assert!(!pair.left.read_exact_or_eof(&mut byte).unwrap());
    pair.left.wait(Interest::READ, soon()).unwrap();
    // What comes all the same (TCP does not tell the peer) is not delivered.
    let _ = pair.right.write(b"late");
    for _ in 0..2 {
        assert!(!pair.left.read_exact_or_eof(&mut byte).unwrap());
    }
    pair.left.write_all(b"w").unwrap();
    pair.right.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"w");
    pair.left.shutdown(Shutdown::Both).unwrap();
    let end = pair.right.read_exact_or_eof(&mut byte);
    assert!(subject.is_cut_off(&end, &false), "{end:?}");
}
