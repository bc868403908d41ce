//! Empty buffers, and channels that keep what they get.

use std::io::{IoSlice, IoSliceMut, SeekFrom};
use std::sync::Arc;

use qio::{Channel, ChannelExt, Features, ReadFlags, WriteFlags};

use super::Subject;
use super::data::{close, drain, fill, pattern, read_soon, write_until_error};
use crate::soon;

/// No byte wanted is no error, whatever happened before, and moves nothing.
pub fn an_empty_buffer_is_a_no_op_in_every_state(subject: &Subject) {
    let pair = subject.make();
    let check = |state: &str| {
        for channel in [&pair.left, &pair.right] {
            assert_no_op(&**channel, state);
        }
    };
    check("fresh");
    if subject.is_stream() {
        let full = fill(&*pair.left);
        check("full");
        drain(&pair, full);
        check("drained");
        pair.left.finish_all(soon()).unwrap();
        assert_eq!(read_soon(&*pair.right, &mut [0; 8]).unwrap(), 0);
        check("ended");
        write_until_error(&*pair.left);
        check("failed");
    }
    close(&*pair.left);
    check("closed on one side");
    close(&*pair.right);
    check("closed");
}

fn assert_no_op(channel: &dyn Channel, state: &str) {
    let none = &mut [][..];
    let empties = || [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])];
    let empty = [IoSlice::new(&[]), IoSlice::new(&[])];
    let flags = ReadFlags::empty();
    assert_eq!(channel.read(none).unwrap(), 0, "{state}");
    assert_eq!(channel.read_vectored(&mut []).unwrap(), 0, "{state}");
    assert_eq!(channel.read_vectored(&mut empties()).unwrap(), 0, "{state}");
    assert_eq!(channel.read_with(&mut empties(), flags, None).unwrap(), 0, "{state}");
    channel.read_exact(none).unwrap();
    channel.read_vectored_exact(&mut empties()).unwrap();
    channel.read_exact_with(&mut empties(), flags, None).unwrap();
    assert!(channel.read_exact_or_eof(none).unwrap(), "{state}");
    assert!(channel.read_vectored_exact_or_eof(&mut empties()).unwrap(), "{state}");
    assert_eq!(channel.write(&[]).unwrap(), 0, "{state}");
    assert_eq!(channel.write_vectored(&[]).unwrap(), 0, "{state}");
    assert_eq!(channel.write_vectored(&empty).unwrap(), 0, "{state}");
    assert_eq!(channel.write_with(&empty, WriteFlags::empty(), &[]).unwrap(), 0, "{state}");
    channel.write_all(&[]).unwrap();
    channel.write_vectored_all(&mut empty.clone()).unwrap();
    channel.write_all_with(&mut empty.clone(), WriteFlags::empty(), &[]).unwrap();
    if channel.features().contains(Features::PEEK) {
        assert_eq!(channel.peek(none).unwrap(), 0, "{state}");
    }
    if channel.features().contains(Features::SEEK) {
        assert_eq!(channel.read_at(none, 5).unwrap(), 0, "{state}");
        assert_eq!(channel.write_at(&[], 5).unwrap(), 0, "{state}");
        channel.read_exact_at(none, 5).unwrap();
        channel.write_all_at(&[], 5).unwrap();
    }
}

/// A file or a buffer gives back what was written, at the position and at an offset, from many
/// vectors into many.
pub fn a_store_gives_back_what_was_written(subject: &Subject) {
    if !subject.is_store() {
        return;
    }
    let store = Arc::clone(&subject.make().left);
    let bytes = pattern(0, 2000);
    let mut out: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    store.write_vectored_all(&mut out).unwrap();
    assert_eq!(store.seek(SeekFrom::Current(0)).unwrap(), 2000);
    assert!(!store.read_exact_or_eof(&mut [0]).unwrap());
    assert_eq!(store.seek(SeekFrom::Start(0)).unwrap(), 0);
    let mut got = vec![0; 2000];
    let mut into: Vec<IoSliceMut<'_>> = got.chunks_mut(1).map(IoSliceMut::new).collect();
    store.read_vectored_exact(&mut into).unwrap();
    assert!(got == bytes, "other bytes than were written");
    // At an offset, and the position stays.
    store.write_all_at(b"abc", 10).unwrap();
    let mut three = [0; 3];
    store.read_exact_at(&mut three, 10).unwrap();
    assert_eq!(&three, b"abc");
    assert_eq!(store.seek(SeekFrom::Current(0)).unwrap(), 2000);
    assert_eq!(store.seek(SeekFrom::End(-1990)).unwrap(), 10);
    store.read_exact(&mut three).unwrap();
    assert_eq!(&three, b"abc");
    let error = store.seek(SeekFrom::Start(0)).and_then(|_| store.seek(SeekFrom::Current(-1)));
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    let truncated = store.read_exact_at(&mut [0; 10], 1995).unwrap_err();
    assert_eq!(truncated.kind(), std::io::ErrorKind::UnexpectedEof);
}
