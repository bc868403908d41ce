//! Looking at data without taking it.

use std::io::{ErrorKind, IoSliceMut};
use std::sync::Arc;

use qio::{ChannelExt, FdSink, Features, Interest, ReadFlags};

use super::Subject;
use super::data::{MODES, a_moment, fill};
use crate::soon;
use crate::{Job, count_waits};

/// A peek gives what is there, as often as it is asked, and the read after it gives the same.
pub fn a_peek_takes_nothing(subject: &Subject) {
    if !subject.is_stream() || !subject.has(Features::PEEK) {
        return;
    }
    let pair = subject.make();
    let left = Arc::clone(&pair.left);
    let writer = Job::start(move || left.write_all(b"abc").unwrap());
    pair.right.wait(Interest::READ, soon()).unwrap();
    let mut four = [0; 4];
    // Four wanted, at most three there: no wait for the fourth, and no spin.
    let (n, waits) = count_waits(|| pair.right.peek(&mut four).unwrap());
    assert!((1..=3).contains(&n) && waits <= 2, "{n} bytes after {waits} waits");
    assert_eq!(&four[..n], &b"abc"[..n]);
    let mut again = [0; 1];
    assert_eq!(pair.right.peek(&mut again).unwrap(), 1);
    assert_eq!(&again, b"a");
    let mut three = [0; 3];
    pair.right.read_exact(&mut three).unwrap();
    assert_eq!(&three, b"abc");
    writer.finish();

    let right = Arc::clone(&pair.right);
    let sleeper = Job::start(move || {
        let mut one = [0];
        let (n, waits) = count_waits(|| right.peek(&mut one).unwrap());
        (n, one, waits)
    });
    sleeper.wait_until_asleep();
    pair.left.write_all(b"d").unwrap();
    let (n, one, waits) = sleeper.finish();
    assert_eq!((n, &one), (1, b"d"));
    assert!(waits <= if subject.is_chaotic() { 3 } else { 1 }, "{waits} waits");
}

/// Three bytes there and four wanted: what is there wakes nobody, what comes wakes once.
pub fn a_peek_for_a_number_wakes_for_arrivals_alone(subject: &Subject) {
    if !subject.is_stream() || !subject.has(Features::PEEK) {
        return;
    }
    if fill(&*subject.make().left) < 16 {
        // Holds too little to be looked at: a channel that is made tight on purpose.
        return;
    }
    // A would-block for no reason is answered by a wait that ends at once.
    let each = if subject.is_chaotic() { 6 } else { 2 };
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        let peek = |min: usize| {
            let right = Arc::clone(&pair.right);
            Job::start(move || {
                let mut buf = [0; 16];
                let peek = || right.peek_at_least(&mut buf, min, soon()).unwrap();
                let (n, waits) = count_waits(peek);
                (buf[..n].to_vec(), waits)
            })
        };
        pair.left.write_all(b"abc").unwrap();
        let peeker = peek(4);
        peeker.wait_until_asleep();
        pair.left.write_all(b"d").unwrap();
        let (bytes, waits) = peeker.finish();
        assert_eq!(bytes, b"abcd", "{mode:?}");
        assert!(waits <= 2 * each, "{waits} waits for one arrival");

        let peeker = peek(8);
        for byte in b"efgh" {
            peeker.wait_until_asleep();
            pair.left.write_all(&[*byte]).unwrap();
        }
        let (bytes, waits) = peeker.finish();
        assert_eq!(bytes, b"abcdefgh", "{mode:?}");
        assert!(waits <= 5 * each, "{waits} waits for four arrivals");

        let (bytes, waits) = peek(8).finish();
        assert_eq!(bytes, b"abcdefgh");
        assert!(waits <= u64::from(subject.is_chaotic()), "{waits} waits for what was there");
        let mut taken = [0; 8];
        pair.right.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"abcdefgh");
    }
}

/// Each of them ends the wait, and leaves the bytes where they are.
pub fn a_peek_for_a_number_ends_with_the_stream_the_deadline_and_the_channel(subject: &Subject) {
    if !subject.is_stream() || !subject.has(Features::PEEK) {
        return;
    }
    if fill(&*subject.make().left) < 16 {
        return;
    }
    let mut buf = [0; 4];
    let pair = subject.make();
    pair.left.write_all(b"ab").unwrap();
    let error = pair.right.peek_at_least(&mut buf, 3, a_moment()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let error = pair.right.peek_at_least(&mut buf, 5, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(pair.right.peek_at_least(&mut [], 0, soon()).unwrap(), 0);
    assert_eq!(pair.right.peek_at_least(&mut buf, 0, soon()).unwrap(), 2);

    let start = || {
        let right = Arc::clone(&pair.right);
        Job::start(move || right.peek_at_least(&mut [0; 4], 3, soon()))
    };
    let peeker = start();
    peeker.wait_until_asleep();
    pair.left.finish_all(soon()).unwrap();
    assert_eq!(peeker.finish().unwrap(), 2, "the stream has ended after two");
    let (n, waits) = count_waits(|| pair.right.peek_at_least(&mut buf, 3, soon()).unwrap());
    assert_eq!((n, &buf[..2]), (2, &b"ab"[..]));
    assert!(waits <= u64::from(subject.is_chaotic()), "{waits} waits after the end");
    let mut taken = [0; 2];
    pair.right.read_exact(&mut taken).unwrap();
    assert_eq!(pair.right.peek_at_least(&mut buf, 1, soon()).unwrap(), 0);

    let pair = subject.make();
    pair.left.write_all(b"ab").unwrap();
    let right = Arc::clone(&pair.right);
    let peeker = Job::start(move || right.peek_at_least(&mut [0; 4], 3, soon()));
    peeker.wait_until_asleep();
    pair.right.close().unwrap();
    assert_eq!(peeker.finish().unwrap_err().kind(), ErrorKind::NotConnected);
}

/// A peek has no exact form and takes no descriptors; without the feature there is none.
pub fn a_peek_is_refused_where_it_cannot_be(subject: &Subject) {
    let pair = subject.make();
    let mut buf = [0; 4];
    let mut into = [IoSliceMut::new(&mut buf)];
    let exact = pair.right.read_exact_with(&mut into, ReadFlags::PEEK, None).unwrap_err();
    assert_eq!(exact.kind(), ErrorKind::InvalidInput);
    let features = pair.right.features();
    if features.contains(Features::PEEK) {
        let mut sink = FdSink::new(1);
        let error = pair.right.read_with(&mut into, ReadFlags::PEEK, Some(&mut sink)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    } else {
        assert_eq!(pair.right.peek(&mut buf).unwrap_err().kind(), ErrorKind::Unsupported);
        let error = pair.right.peek_at_least(&mut buf, 2, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
