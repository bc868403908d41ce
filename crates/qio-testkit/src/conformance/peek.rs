//! Looking at data without taking it.

use std::io::{ErrorKind, IoSliceMut};
use std::sync::Arc;

use qio::{ChannelExt, FdSink, Features, Interest, ReadFlags};

use super::Subject;
use super::data::soon;
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
    }
}
