//! Descriptors travel with their byte: all of them, once, owned.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use qio::channel::MAX_FDS_PER_MESSAGE;
use qio::{ChannelExt, FdSink, Features, ReadFlags, WriteFlags};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::FdFlags;

use super::Subject;
use super::data::{MODES, drain, fill};
use crate::soon;
use crate::{Chaos, Job, Plan};

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| rustix::fs::memfd_create("passed", MemfdFlags::CLOEXEC).unwrap()).collect()
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

fn inodes(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_ino).collect()
}

/// From one to as many as the kernel takes: the same files, in order, closed on exec.
pub fn descriptors_arrive_with_their_byte(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    for mode in MODES {
        let pair = subject.make().in_mode(mode);
        assert!(pair.right.features().contains(Features::FD_PASS));
        for count in [1, 2, 15, 16, 17, MAX_FDS_PER_MESSAGE - 1, MAX_FDS_PER_MESSAGE] {
            let sent = files(count);
            let mut out = [IoSlice::new(b"by"), IoSlice::new(b"te")];
            pair.left.write_all_with(&mut out, WriteFlags::empty(), &borrowed(&sent)).unwrap();
            let mut sink = FdSink::new(count);
            let mut first = [0; 1];
            let mut into = [IoSliceMut::new(&mut first)];
            pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
            assert_eq!(inodes(sink.fds()), inodes(&sent), "{count} descriptors");
            for fd in sink.fds() {
                let flags = rustix::io::fcntl_getfd(fd).unwrap();
                assert!(flags.contains(FdFlags::CLOEXEC));
            }
            let mut rest = [0; 3];
            pair.right.read_exact(&mut rest).unwrap();
            assert_eq!([first[0], rest[0], rest[1], rest[2]], *b"byte");
        }
        // In pieces, they go with the first and not again.
        let sent = files(2);
        let pieces = Chaos::new(Arc::clone(&pair.left), Plan::new(0).one_byte());
        let mut out = [IoSlice::new(b"byte")];
        pieces.write_all_with(&mut out, WriteFlags::empty(), &borrowed(&sent)).unwrap();
        let mut sink = FdSink::new(16);
        let mut into = [0; 4];
        let mut into = [IoSliceMut::new(&mut into)];
        pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
        assert_eq!(inodes(sink.fds()), inodes(&sent));
    }
}

/// A header in two pieces, with the descriptor on the second.
pub fn descriptors_with_a_later_segment_are_kept(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let sent = files(3);
    pair.left.write_all(b"he").unwrap();
    let fds = borrowed(&sent[..1]);
    pair.left.write_all_with(&mut [IoSlice::new(b"ad")], WriteFlags::empty(), &fds).unwrap();
    let fds = borrowed(&sent[1..]);
    pair.left.write_all_with(&mut [IoSlice::new(b"er")], WriteFlags::empty(), &fds).unwrap();
    let mut header = [0; 6];
    let mut sink = FdSink::new(16);
    let mut into = [IoSliceMut::new(&mut header)];
    pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
    assert_eq!(&header, b"header");
    assert_eq!(inodes(sink.fds()), inodes(&sent));
    assert_eq!(sink.drain().count(), 3);
    assert_eq!(sink.room(), 16);

    // More than one message carries, with two.
    let sent = files(MAX_FDS_PER_MESSAGE + 1);
    let (first, second) = sent.split_at(MAX_FDS_PER_MESSAGE);
    for (byte, fds) in [(b"x", first), (b"y", second)] {
        let out = &mut [IoSlice::new(byte)];
        pair.left.write_all_with(out, WriteFlags::empty(), &borrowed(fds)).unwrap();
    }
    let mut sink = FdSink::new(sent.len());
    let mut both = [0; 2];
    let mut into = [IoSliceMut::new(&mut both)];
    pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
    assert_eq!(inodes(sink.fds()), inodes(&sent));
}

/// Truncation is an error, and what was cut off is closed, not leaked.
pub fn more_descriptors_than_fit_are_an_error(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    // 15 and 16 need the same space in a control message, for its alignment.
    for (count, room) in [(20, 16), (16, 15), (17, 16), (1, 0), (253, 252)] {
        let pair = subject.make();
        let sent = files(count);
        let mut out = [IoSlice::new(b"x")];
        pair.left.write_all_with(&mut out, WriteFlags::empty(), &borrowed(&sent)).unwrap();
        let mut sink = FdSink::new(room);
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        let error = pair
            .right
            .read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink))
            .expect_err("descriptors were lost");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{count} where {room} fit");
        assert!(sink.fds().len() <= room);
    }
}

/// More than the kernel takes in one message is refused before anything moves.
pub fn more_descriptors_than_a_message_takes_are_refused(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let sent = files(1);
    let fds = vec![sent[0].as_fd(); MAX_FDS_PER_MESSAGE + 1];
    let error = pair.left.write_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    pair.left.finish_all(soon()).unwrap();
    assert!(!pair.right.read_exact_or_eof(&mut [0]).unwrap());
}

/// Without a byte that carries them, descriptors would vanish.
pub fn descriptors_need_a_byte(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let sent = files(1);
    let fds = borrowed(&sent);
    let none = WriteFlags::empty();
    let errors = [
        pair.left.write_with(&[], none, &fds).unwrap_err(),
        pair.left.write_with(&[IoSlice::new(&[])], none, &fds).unwrap_err(),
        pair.left.write_all_with(&mut [], none, &fds).unwrap_err(),
        pair.left.write_all_with(&mut [IoSlice::new(&[])], none, &fds).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    // An empty buffer in front of the byte is none.
    let mut out = [IoSlice::new(&[]), IoSlice::new(b"x")];
    pair.left.write_all_with(&mut out, none, &fds).unwrap();
    let mut sink = FdSink::new(1);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut []), IoSliceMut::new(&mut byte)];
    pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
    assert_eq!(inodes(sink.fds()), inodes(&sent));
}

/// Refused by a full channel, descriptors are sent by the retry, and only by that.
pub fn descriptors_go_once_after_would_block(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let full = fill(&*pair.left);
    let sent = files(2);
    for _ in 0..2 {
        let fds = borrowed(&sent);
        let out = [IoSlice::new(b"xyz")];
        let error = pair.left.write_with(&out, WriteFlags::NONBLOCK, &fds).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let left = Arc::clone(&pair.left);
    let numbers = inodes(&sent);
    let writer = Job::start(move || {
        let mut out = [IoSlice::new(b"xyz")];
        left.write_all_with(&mut out, WriteFlags::empty(), &borrowed(&sent))
    });
    writer.wait_until_asleep();
    drain(&pair, full);
    let mut sink = FdSink::new(16);
    let mut got = [0; 3];
    let mut into = [IoSliceMut::new(&mut got)];
    pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
    writer.finish().unwrap();
    assert_eq!(&got, b"xyz");
    assert_eq!(inodes(sink.fds()), numbers);
}

/// A plain read takes the data and leaves no descriptor behind; a discarding sink counts them.
pub fn descriptors_that_nobody_asked_for_are_closed(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let sent = files(3);
    for _ in 0..2 {
        let mut out = [IoSlice::new(b"xyz")];
        pair.left.write_all_with(&mut out, WriteFlags::empty(), &borrowed(&sent)).unwrap();
    }
    let mut got = [0; 3];
    pair.right.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"xyz");
    let mut sink = FdSink::discarding();
    let mut into = [IoSliceMut::new(&mut got)];
    pair.right.read_exact_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap();
    assert_eq!((sink.dropped(), sink.fds().len()), (3, 0));
}

/// `O_NONBLOCK` belongs to the open file, so to the sender too: it changes only when asked for.
pub fn descriptors_keep_their_mode_unless_told(subject: &Subject) {
    if !subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    for (flags, stays) in [(ReadFlags::empty(), true), (ReadFlags::BLOCKING_FDS, false)] {
        let mut out = [IoSlice::new(b"x")];
        let fds = [reader.as_fd()];
        pair.left.write_all_with(&mut out, WriteFlags::empty(), &fds).unwrap();
        let mut sink = FdSink::new(1);
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        pair.right.read_exact_with(&mut into, flags, Some(&mut sink)).unwrap();
        let mode = |fd| rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK);
        assert_eq!(mode(sink.fds()[0].as_fd()), stays, "{flags:?}");
        assert_eq!(mode(reader.as_fd()), stays, "{flags:?}");
    }
}

/// Where descriptors cannot travel, the call says so before a byte moves.
pub fn descriptors_are_refused_without_the_feature(subject: &Subject) {
    if subject.has(Features::FD_PASS) {
        return;
    }
    let pair = subject.make();
    let sent = files(1);
    let fds = borrowed(&sent);
    let none = WriteFlags::empty();
    let refusals = [
        pair.left.write_with(&[IoSlice::new(b"x")], none, &fds).unwrap_err(),
        pair.left.write_all_with(&mut [IoSlice::new(b"x")], none, &fds).unwrap_err(),
        pair.left.write_all_with(&mut [], none, &fds).unwrap_err(),
    ];
    let mut sink = FdSink::new(1);
    let mut buf = [0];
    let mut into = [IoSliceMut::new(&mut buf)];
    let read = pair.right.read_with(&mut into, ReadFlags::empty(), Some(&mut sink)).unwrap_err();
    for error in refusals.into_iter().chain([read]) {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("descriptors is not supported"), "{error}");
    }
    if subject.is_stream() {
        pair.left.finish_all(soon()).unwrap();
        assert!(!pair.right.read_exact_or_eof(&mut [0]).unwrap(), "a byte moved");
    }
}
