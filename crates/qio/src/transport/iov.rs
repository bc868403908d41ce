//! Lists of buffers, cut to what one system call takes.

use std::io::{IoSlice, IoSliceMut};

/// How many buffers one system call takes (`UIO_MAXIOV`, readv(2)).
pub(super) const IOV_MAX: usize = 1024;

/// The buffers that fit into one call.
#[inline]
pub(super) fn one_call<'a, 'b>(bufs: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    &bufs[..bufs.len().min(IOV_MAX)]
}

/// The buffers that fit into one call.
#[inline]
pub(super) fn one_call_mut<'a, 'b>(bufs: &'a mut [IoSliceMut<'b>]) -> &'a mut [IoSliceMut<'b>] {
    let count = bufs.len().min(IOV_MAX);
    &mut bufs[..count]
}
