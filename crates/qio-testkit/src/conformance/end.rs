//! How a stream ends.

use std::io::{ErrorKind, IoSliceMut};
use std::sync::Arc;

use qio::{ChannelExt, Features, Interest, Readiness};

use super::Subject;
use super::data::{MODES, close, is_gone, pattern, read_soon, write_until_error};
use crate::Job;
use crate::soon;

/// An end between two messages is no error, one inside a message is and tells how much came.
pub fn a_clean_end_and_a_truncation_differ(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let left = Arc::clone(&pair.left);
        let writer = Job::start(move || {
            left.write_all(b"whole").unwrap();
            left.finish_all(soon()).unwrap();
        });
        let mut buf = [0; 5];
        assert!(pair.right.read_exact_or_eof(&mut buf).unwrap());
        assert_eq!(&buf, b"whole");
        assert!(!pair.right.read_exact_or_eof(&mut buf).unwrap());
        let error = pair.right.read_exact(&mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains(&pair.right.name()), "{error}");
        writer.finish();

        let pair = subject.make().in_mode(mode);
        let left = Arc::clone(&pair.left);
        let writer = Job::start(move || {
            left.write_all(b"hal").unwrap();
            left.finish_all(soon()).unwrap();
        });
        let error = pair.right.read_exact_or_eof(&mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("after 3 bytes"), "{error}");
        assert_eq!(&buf[..3], b"hal");
        writer.finish();
    }
}

/// Once seen, the end is seen by every later read, peek and wait, also after the peer is gone.
pub fn the_end_is_sticky(subject: &Subject) {
    if subject.is_store() {
        return;
    }
    let pair = subject.make();
    pair.left.finish_all(soon()).unwrap();
    let check = || {
        for _ in 0..3 {
            assert_eq!(read_soon(&*pair.right, &mut [0; 4]).unwrap(), 0);
        }
        assert!(!pair.right.read_exact_or_eof(&mut [0]).unwrap());
        let mut buf = [0; 4];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        assert!(!pair.right.read_vectored_exact_or_eof(&mut bufs).unwrap());
        let ready = pair.right.wait(Interest::READ, soon()).unwrap();
        assert!(ready.contains(Readiness::READ), "{ready:?}");
        if pair.right.features().contains(Features::PEEK) {
            assert_eq!(pair.right.peek(&mut [0]).unwrap(), 0);
        }
    };
    check();
    if subject.has_peer() {
        close(&*pair.left);
        check();
    }
}

/// Half-close: the peer reads the end, and its whole answer arrives.
pub fn finish_leaves_reading_open(subject: &Subject) {
    if !subject.is_duplex() {
        return;
    }
    let answer_len = 200_000.min(subject.megabyte());
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let right = Arc::clone(&pair.right);
        let subject = *subject;
        let peer = Job::start(move || {
            let mut request = [0; 7];
            right.read_exact(&mut request).unwrap();
            assert!(!right.read_exact_or_eof(&mut [0]).unwrap());
            right.write_all(&pattern(0, answer_len)).unwrap();
            subject.end(&*right);
            request
        });
        pair.left.write_all(b"request").unwrap();
        pair.left.finish_all(soon()).unwrap();
        let mut answer = vec![0; answer_len];
        pair.left.read_exact(&mut answer).unwrap();
        assert!(answer == pattern(0, answer_len), "other bytes than were sent");
        assert!(!pair.left.read_exact_or_eof(&mut [0]).unwrap());
        assert_eq!(&peer.finish(), b"request");
    }
}

/// The farewell is said once, and what comes after it is refused.
pub fn finishing_again_changes_nothing(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    for _ in 0..3 {
        pair.left.finish_all(soon()).unwrap();
    }
    assert_eq!(write_until_error(&*pair.left), ErrorKind::BrokenPipe);
    pair.left.finish_all(soon()).unwrap();
    pair.left.flush_all(soon()).unwrap();
    assert!(!pair.right.read_exact_or_eof(&mut [0]).unwrap());
}

/// A peer that writes and closes at once loses nothing of what it wrote.
pub fn all_data_comes_before_the_end(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let total = 30_000.min(subject.megabyte());
        let left = Arc::clone(&pair.left);
        let subject = *subject;
        let writer = Job::start(move || {
            left.write_all(&pattern(0, total)).unwrap();
            subject.end(&*left);
        });
        // Woken by data and hang-up at once, the reader still gets the data.
        let mut got: Vec<u8> = Vec::new();
        let mut buf = [0; 700];
        loop {
            pair.right.wait(Interest::READ, soon()).unwrap();
            match read_soon(&*pair.right, &mut buf).unwrap() {
                0 => break,
                n => got.extend(&buf[..n]),
            }
        }
        assert!(got == pattern(0, total), "{} of {total} bytes", got.len());
        writer.finish();
    }
}

/// Nobody reads any more: an error, at the first write or soon after, and at every later one.
pub fn writing_to_a_peer_that_is_gone_is_an_error(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        drop(pair.right);
        let kind = write_until_error(&*pair.left);
        assert!(is_gone(kind), "{kind}");
        for _ in 0..4 {
            let kind = write_until_error(&*pair.left);
            assert_eq!(kind, ErrorKind::BrokenPipe);
        }
        if subject.is_duplex() {
            let end = read_soon(&*pair.left, &mut [0; 8]);
            assert!(subject.is_cut_off(&end, &0) || is_gone(end.unwrap_err().kind()));
            let end = read_soon(&*pair.left, &mut [0; 8]);
            assert!(subject.is_cut_off(&end, &0), "{end:?}");
        }
    }
}

/// Dropping the last owner is as good as closing, for the peer.
pub fn dropping_a_channel_ends_the_stream(subject: &Subject) {
    if !subject.has_peer() {
        return;
    }
    let pair = subject.make();
    let right = Arc::clone(&pair.right);
    let reader = Job::start(move || right.read_exact_or_eof(&mut [0]));
    reader.wait_until_asleep();
    drop(pair.left);
    let end = reader.finish();
    assert!(subject.is_cut_off(&end, &false), "{end:?}");
}
