//! Writes of buffers that the channel may keep.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, Result};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::transfer::wait_and_repeat;
use super::{Channel, Features, Mode, WriteFlags, WriteOp};
use crate::interest::Interest;

/// What has become of the owned buffers that were written.
///
/// QEMU's `qio_channel_flush` answers 1 for [`copied`](Confirmed::copied), else 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confirmed {
    /// Some of the bytes were copied, by the channel or by the kernel: sending without a copy did
    /// not pay. The kernel always copies on the loopback device.
    pub copied: bool,
    /// How many sends without a copy were asked of the kernel and confirmed by it.
    pub sends: u64,
}

/// The buffers from the first that has bytes on.
fn filled(bufs: &[Bytes]) -> &[Bytes] {
    let first = bufs.iter().position(|buf| !buf.is_empty()).unwrap_or(bufs.len());
    &bufs[first..]
}

/// One owned write; waits for it in blocking mode when the channel's own attempt does not.
pub(super) fn write(channel: &dyn Channel, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
    let bufs = filled(bufs);
    if bufs.is_empty() {
        return Ok(0);
    }
    match channel.try_write_owned(bufs, flags) {
        Err(error)
            if error.kind() == ErrorKind::WouldBlock
                && !flags.contains(WriteFlags::NONBLOCK)
                && channel.base().mode() == Mode::Blocking =>
        {
            wait_and_repeat(channel, Interest::WRITE, 0, |channel| {
                channel.try_write_owned(bufs, flags)
            })
        }
        result => result,
    }
}

/// All of the buffers, waiting in either mode.
pub(super) fn write_all(channel: &dyn Channel, bufs: &[Bytes]) -> Result<()> {
    if keeps_messages(channel) {
        // The text is that of every other form which may take a message apart.
        WriteOp::new(&[]).part(&Cell::new(false)).require_whole(channel.base())?;
    }
    let mut rest: SmallVec<[Bytes; INLINE_BUFS]> = filled(bufs).iter().cloned().collect();
    let mut bufs = &mut rest[..];
    let mut done = 0;
    while !bufs.is_empty() {
        let mut n = match channel.try_write_owned(bufs, WriteFlags::empty()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_and_repeat(channel, Interest::WRITE, done, |channel| {
                    channel.try_write_owned(bufs, WriteFlags::empty())
                })?
            }
            result => result?,
        };
        if n == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        done += n;
        // Past what was taken, and past what is empty.
        while let Some(first) = bufs.first_mut() {
            let part = n.min(first.len());
            first.advance(part);
            n -= part;
            if !first.is_empty() {
                break;
            }
            // Not held any longer than the channel does.
            *first = Bytes::new();
            bufs = &mut bufs[1..];
        }
    }
    Ok(())
}

/// Writes what the buffers hold, and notes that it was copied.
pub(crate) fn copy(channel: &dyn Channel, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
    // Those that are left are written by the next attempt, but a message has none.
    let most = if keeps_messages(channel) { bufs.len() } else { MAX_COPIED_BUFS };
    let slices: SmallVec<[IoSlice<'_>; INLINE_BUFS]> =
        bufs.iter().take(most).map(|buf| IoSlice::new(buf)).collect();
    let written = channel.try_write(&mut WriteOp::new(&slices).with(flags, &[]))?;
    if written > 0 {
        channel.base().note_copied();
    }
    Ok(written)
}

fn keeps_messages(channel: &dyn Channel) -> bool {
    channel.base().features().contains(Features::MESSAGES)
}

/// The answer of a channel that does not keep buffers itself.
pub(super) fn confirm(channel: &dyn Channel) -> Result<Confirmed> {
    channel.flush()?;
    let mut confirmed = match channel.inner() {
        Some(inner) => inner.confirm()?,
        None => Confirmed::default(),
    };
    confirmed.copied |= channel.base().take_copied();
    Ok(confirmed)
}

/// How many buffers a write handles without allocation.
const INLINE_BUFS: usize = 8;

/// How many buffers one attempt on a stream looks at: as many as a system call takes (`UIO_MAXIOV`).
const MAX_COPIED_BUFS: usize = 1024;
