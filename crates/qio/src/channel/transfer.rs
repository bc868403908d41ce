//! Moving bytes with as many attempts as it takes.

use std::cell::Cell;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::BorrowedFd;

use super::check::invalid;
use super::wait::{until_done, wait_for_attempt};
use super::{Channel, FdSink, MessageError, Mode, ReadFlags, ReadOp, WriteFlags, WriteOp};
use crate::interest::Interest;

/// One read; waits for it in blocking mode when the channel's own attempt does not. Empty messages
/// are skipped.
#[inline]
pub(super) fn read_op<C: Channel + ?Sized>(channel: &C, op: &mut ReadOp<'_, '_>) -> Result<usize> {
    match channel.try_read(op) {
        Err(error) => read_otherwise(channel, op, error),
        result => result,
    }
}

#[cold]
#[inline(never)]
fn read_otherwise<C: Channel + ?Sized>(
    channel: &C,
    op: &mut ReadOp<'_, '_>,
    mut error: Error,
) -> Result<usize> {
    let channel = channel.as_channel();
    loop {
        let result = if error.kind() == ErrorKind::WouldBlock {
            read_blocking(channel, op, error)
        } else if !is_empty_message(&error) {
            return Err(error);
        } else if op.flags().contains(ReadFlags::PEEK) {
            // Looked at for ever, it would hide what is behind it.
            let flags = op.flags() - ReadFlags::PEEK;
            match receive_op(channel, &mut ReadOp::new(op.bufs()).with(flags, None)) {
                Err(error) => Err(error),
                Ok(_) => channel.try_read(op),
            }
        } else {
            channel.try_read(op)
        };
        match result {
            Err(next) if is_empty_message(&next) => error = next,
            Err(next) if next.kind() == ErrorKind::WouldBlock && may_wait(channel, op) => {
                error = next;
            }
            result => return result,
        }
    }
}

fn read_blocking(channel: &dyn Channel, op: &mut ReadOp<'_, '_>, error: Error) -> Result<usize> {
    if !may_wait(channel, op) {
        return Err(error);
    }
    wait_and_repeat(channel, Interest::READ, 0, |channel| channel.try_read(op))
}

fn may_wait(channel: &dyn Channel, op: &ReadOp<'_, '_>) -> bool {
    // Who moves several parts waits between them, and says for how much that may be interrupted.
    !op.is_part()
        && !op.flags().contains(ReadFlags::NONBLOCK)
        && channel.base().mode() == Mode::Blocking
}

/// One message: its length, or `None` at the end.
pub(super) fn receive_op(channel: &dyn Channel, op: &mut ReadOp<'_, '_>) -> Result<Option<usize>> {
    let result = match channel.try_read(op) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => read_blocking(channel, op, error),
        result => result,
    };
    match result {
        Ok(0) => Ok(None),
        Err(error) if is_empty_message(&error) => Ok(Some(0)),
        result => result.map(Some),
    }
}

fn is_empty_message(error: &Error) -> bool {
    MessageError::of(error) == Some(&MessageError::Empty)
}

/// One write; waits for it in blocking mode when the channel's own attempt does not.
#[inline]
pub(super) fn write_op<C: Channel + ?Sized>(
    channel: &C,
    op: &mut WriteOp<'_, '_>,
) -> Result<usize> {
    match channel.try_write(op) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => write_blocking(channel, op, error),
        result => result,
    }
}

#[cold]
#[inline(never)]
fn write_blocking<C: Channel + ?Sized>(
    channel: &C,
    op: &mut WriteOp<'_, '_>,
    error: Error,
) -> Result<usize> {
    let may_wait = !op.is_part()
        && !op.flags().contains(WriteFlags::NONBLOCK)
        && channel.base().mode() == Mode::Blocking;
    if !may_wait {
        return Err(error);
    }
    wait_and_repeat(channel.as_channel(), Interest::WRITE, 0, |channel| channel.try_write(op))
}

/// What is left to do after a first attempt that did not bring everything.
#[cold]
pub(super) fn read_more(
    channel: &dyn Channel,
    buf: &mut [u8],
    first: Result<usize>,
) -> Result<bool> {
    let done = progress(channel, Interest::READ, first)?;
    read_rest(channel, &mut [IoSliceMut::new(&mut buf[done..])], done, ReadFlags::empty(), None)
}

pub(super) fn read_rest(
    channel: &dyn Channel,
    bufs: &mut [IoSliceMut<'_>],
    mut done: usize,
    flags: ReadFlags,
    mut fds: Option<&mut FdSink>,
) -> Result<bool> {
    let mut bufs = filled_mut(bufs);
    while !bufs.is_empty() {
        let n = progress_or_wait(channel, Interest::READ, done, |channel| {
            let op = ReadOp::new(bufs).with(flags, fds.as_deref_mut());
            read_op(channel, &mut op.part())
        })?;
        match n {
            0 if done == 0 => return Ok(false),
            0 => return Err(early_eof(channel, done)),
            n => {
                done += n;
                IoSliceMut::advance_slices(&mut bufs, n);
                bufs = filled_mut(bufs);
            }
        }
    }
    Ok(true)
}

/// What is left to do after a first attempt that did not take everything.
#[cold]
pub(super) fn write_more(channel: &dyn Channel, buf: &[u8], first: Result<usize>) -> Result<()> {
    let done = progress(channel, Interest::WRITE, first)?;
    if done == buf.len() {
        // All was taken, and something of it rests.
        return settle(channel);
    }
    write_rest(channel, &mut [IoSlice::new(&buf[done..])], done, WriteFlags::empty(), &[])
}

pub(super) fn write_rest(
    channel: &dyn Channel,
    bufs: &mut [IoSlice<'_>],
    mut done: usize,
    flags: WriteFlags,
    mut fds: &[BorrowedFd<'_>],
) -> Result<()> {
    let mut bufs = bufs;
    IoSlice::advance_slices(&mut bufs, 0);
    let held = Cell::new(false);
    while !bufs.is_empty() {
        held.set(false);
        let n = progress_or_wait(channel, Interest::WRITE, done, |channel| {
            write_op(channel, &mut WriteOp::new(bufs).with(flags, fds).part(&held))
        })?;
        if n == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        fds = &[];
        done += n;
        IoSlice::advance_slices(&mut bufs, n);
    }
    if held.get() { settle(channel) } else { Ok(()) }
}

/// Waits until layers are rid of what they have taken: who has written all may have nothing more to
/// do with the channel for a long time.
#[cold]
fn settle(channel: &dyn Channel) -> Result<()> {
    until_done(channel, None, |channel| channel.flush())
}

/// Makes one attempt, and repeats it until it is anything but would-block, waiting in between.
///
/// `done` bytes of what belongs together have moved already.
pub(super) fn progress_or_wait(
    channel: &dyn Channel,
    interest: Interest,
    done: usize,
    mut attempt: impl FnMut(&dyn Channel) -> Result<usize>,
) -> Result<usize> {
    match attempt(channel) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            wait_and_repeat(channel, interest, done, attempt)
        }
        result => result,
    }
}

/// The same after an attempt that would have blocked.
#[cold]
#[inline(never)]
pub(super) fn wait_and_repeat(
    channel: &dyn Channel,
    interest: Interest,
    done: usize,
    mut attempt: impl FnMut(&dyn Channel) -> Result<usize>,
) -> Result<usize> {
    loop {
        wait_for_attempt(channel, interest, done)?;
        match attempt(channel) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// The bytes of a first attempt; one that would have blocked is worth repeating afterwards.
fn progress(channel: &dyn Channel, interest: Interest, first: Result<usize>) -> Result<usize> {
    match first {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            wait_for_attempt(channel, interest, 0)?;
            Ok(0)
        }
        result => result,
    }
}

/// The buffers from the first that has room on: an operation starts with a byte, because the
/// kernel would answer 0, the end of the stream, to one without.
pub(super) fn filled_mut<'a, 'b>(bufs: &'a mut [IoSliceMut<'b>]) -> &'a mut [IoSliceMut<'b>] {
    let first = bufs.iter().position(|buf| !buf.is_empty()).unwrap_or(bufs.len());
    &mut bufs[first..]
}

pub(super) fn filled<'a, 'b>(bufs: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    let first = bufs.iter().position(|buf| !buf.is_empty()).unwrap_or(bufs.len());
    &bufs[first..]
}

#[cold]
pub(super) fn early_eof(channel: &dyn Channel, done: usize) -> Error {
    let name = channel.base().name();
    let text = match done {
        0 => format!("{name}: the stream ended"),
        done => format!("{name}: the stream ended after {done} bytes of a longer message"),
    };
    Error::new(ErrorKind::UnexpectedEof, text)
}

pub(super) fn advanced(channel: &dyn Channel, offset: u64, done: usize) -> Result<u64> {
    offset
        .checked_add(done as u64)
        .ok_or_else(|| invalid(channel, "the offset is past the largest position of a file"))
}
