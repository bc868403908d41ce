//! Waits that are ended from elsewhere.

use std::io::ErrorKind;
use std::sync::Arc;

use qio::{ChannelExt, Direction, Interest};

use super::Subject;
use super::data::{MODES, close, fill, is_gone, noise, read_soon};
use crate::{Job, soon};

/// One wake ends one wait, before it or in its middle; nothing that comes is lost by it.
pub fn an_interrupter_ends_one_wait_of_a_reader(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let interrupter = pair.right.interrupter(Direction::Read);
        let error = |result: std::io::Result<()>| result.unwrap_err().kind();

        let right = Arc::clone(&pair.right);
        let sleeper = Job::start(move || right.read_exact(&mut [0; 2]));
        sleeper.wait_until_asleep();
        interrupter.wake();
        assert_eq!(error(sleeper.finish()), ErrorKind::Interrupted);

        // Just before: two count as one.
        interrupter.wake();
        interrupter.clone().wake();
        let before = pair.right.wait(Interest::READ, soon()).map(drop);
        assert_eq!(error(before), ErrorKind::Interrupted);
        let right = Arc::clone(&pair.right);
        let sleeper = Job::start(move || right.wait(Interest::READ, soon()).map(drop));
        sleeper.wait_until_asleep();
        assert!(sleeper.is_running(), "a wake ended two waits");

        // A writer is nobody that this one wakes.
        if subject.is_duplex() {
            pair.right.wait(Interest::WRITE, soon()).unwrap();
        }
        pair.left.write_all(b"a").unwrap();
        sleeper.finish().unwrap();
        let mut got = [0];
        pair.right.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a");

        // What ends all waits for good.
        close(&*pair.right);
        interrupter.wake();
        assert!(pair.right.read_exact(&mut got).is_err());
    }
}

/// The same for a writer, with the interrupter of its own direction.
pub fn an_interrupter_ends_one_wait_of_a_writer(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let [reading, writing] =
            [Direction::Read, Direction::Write].map(|way| pair.left.interrupter(way));
        fill(&*pair.left);
        let left = Arc::clone(&pair.left);
        let sleeper = Job::start(move || left.wait(Interest::WRITE, None).map(drop));
        sleeper.wait_until_asleep();
        reading.wake();
        sleeper.wait_until_asleep();
        assert!(sleeper.is_running(), "the wake of a reader ended the wait of a writer");
        writing.wake();
        assert_eq!(sleeper.finish().unwrap_err().kind(), ErrorKind::Interrupted);
        if subject.has_peer() {
            let left = Arc::clone(&pair.left);
            // More than there is room for, also where it is compressed.
            let sleeper = Job::start(move || left.write_all(&noise(1 << 20)));
            sleeper.wait_until_asleep();
            close(&*pair.right);
            let error = sleeper.finish().unwrap_err();
            assert!(is_gone(error.kind()), "{error}");
        }
    }
}

/// A read of several bytes that has some goes on to its end, and the next wait is ended instead.
pub fn an_interruption_cuts_no_message(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let interrupter = pair.right.interrupter(Direction::Read);
        pair.left.write_all(b"a").unwrap();
        pair.right.wait(Interest::READ, soon()).unwrap();
        let right = Arc::clone(&pair.right);
        let reader = Job::start(move || {
            let mut got = [0; 4];
            right.read_exact(&mut got).map(|()| got)
        });
        reader.wait_until_asleep();
        interrupter.wake();
        reader.wait_until_asleep();
        assert!(reader.is_running(), "a message was cut");
        pair.left.write_all(b"bcd").unwrap();
        assert_eq!(&reader.finish().unwrap(), b"abcd");
        let next = pair.right.wait(Interest::READ, soon());
        assert_eq!(next.unwrap_err().kind(), ErrorKind::Interrupted);
        pair.left.write_all(b"e").unwrap();
        let mut got = [0];
        assert_eq!(read_soon(&*pair.right, &mut got).unwrap(), 1);
        assert_eq!(&got, b"e");
    }
}
