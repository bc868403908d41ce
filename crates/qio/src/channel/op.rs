//! Operations: a read or a write with all that belongs to it.

use std::cell::Cell;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::BorrowedFd;

use bitflags::bitflags;
use smallvec::SmallVec;

use super::{Base, FdSink};

bitflags! {
    /// How one read behaves.
    #[doc(alias = "QIO_CHANNEL_READ_FLAG")]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ReadFlags: u8 {
        /// Do not wait in this call, whatever the channel's mode.
        const NONBLOCK = 1 << 0;
        /// Look at the data without taking it. Needs [`Features::PEEK`](super::Features::PEEK).
        const PEEK = 1 << 1;
        /// Take an end of stream without the protocol's farewell for a clean one.
        const RELAXED_EOF = 1 << 2;
        /// Clear `O_NONBLOCK` on received descriptors. The flag lives in the open file, so this
        /// changes the sender's copy too; the default is to leave it alone.
        const BLOCKING_FDS = 1 << 3;
    }
}

bitflags! {
    /// How one write behaves.
    #[doc(alias = "QIO_CHANNEL_WRITE_FLAG")]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct WriteFlags: u8 {
        /// Do not wait in this call, whatever the channel's mode.
        const NONBLOCK = 1 << 0;
        /// Send who we are with the bytes: process, effective user and group, checked by the
        /// kernel (`SCM_CREDENTIALS`, unix(7)). Needs
        /// [`Features::FD_PASS`](super::Features::FD_PASS).
        ///
        /// A receiver that asks for credentials gets the real user and group of every sender
        /// anyway; this is for bytes that are sent before it asks, and for programs that act as
        /// another user than the one who started them.
        const CREDENTIALS = 1 << 1;
    }
}

/// The mark of an operation that is one of several for the same buffers. It stands beside the flags,
/// where setting it costs nothing.
const PART: u8 = 1 << 7;

/// One read: buffers, flags, offset, and where descriptors go.
///
/// Only [`ChannelExt`](super::ChannelExt) makes one, after it has checked that the channel can do
/// what it asks for. A layer forwards it, or makes its own reads on what it wraps.
#[derive(Debug)]
pub struct ReadOp<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    fds: Option<&'a mut FdSink>,
    offset: Option<u64>,
    flags: ReadFlags,
}

impl<'a, 'b> ReadOp<'a, 'b> {
    #[inline]
    pub(super) fn new(bufs: &'a mut [IoSliceMut<'b>]) -> Self {
        Self { bufs, fds: None, offset: None, flags: ReadFlags::empty() }
    }

    #[inline]
    pub(super) fn with(mut self, flags: ReadFlags, fds: Option<&'a mut FdSink>) -> Self {
        self.flags = flags;
        self.fds = fds;
        self
    }

    /// One of several that move the same buffers.
    #[inline]
    pub(super) fn part(mut self) -> Self {
        self.flags |= ReadFlags::from_bits_retain(PART);
        self
    }

    #[inline]
    pub(super) fn is_part(&self) -> bool {
        self.flags.bits() & PART != 0
    }

    pub(super) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The buffers to fill; the first is not empty.
    #[inline]
    pub fn bufs(&mut self) -> &mut [IoSliceMut<'b>] {
        self.bufs
    }

    /// How to read.
    #[inline]
    pub fn flags(&self) -> ReadFlags {
        self.flags & ReadFlags::all()
    }

    /// Refuses an operation that is one of several for the same buffers. For channels with
    /// [`Features::MESSAGES`](super::Features::MESSAGES), which cannot serve it; no other channel
    /// needs to ask.
    ///
    /// # Errors
    ///
    /// `Unsupported`, with the name of the channel.
    #[inline]
    pub fn require_whole(&self, base: &Base) -> Result<()> {
        if !self.is_part() {
            Ok(())
        } else {
            Err(no_parts(base, "exact reads put messages together", "receive"))
        }
    }

    /// Where to read; `None` is the current position, or a stream.
    #[inline]
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Where received descriptors go, if they are wanted.
    #[inline]
    pub fn fds(&mut self) -> Option<&mut FdSink> {
        self.fds.as_deref_mut()
    }

    /// The buffers and the sink at the same time.
    #[inline]
    pub fn parts(&mut self) -> (&mut [IoSliceMut<'b>], Option<&mut FdSink>) {
        (self.bufs, self.fds.as_deref_mut())
    }

    /// The same read into other buffers, for a layer that forwards a part of it.
    pub fn forward<'c, 'd>(&'c mut self, bufs: &'c mut [IoSliceMut<'d>]) -> ReadOp<'c, 'd> {
        ReadOp { bufs, fds: self.fds.as_deref_mut(), offset: self.offset, flags: self.flags }
    }

    /// Gives `read` the same read of at most `len` bytes, for a layer that lets only so many pass.
    pub fn up_to<R>(&mut self, len: usize, read: impl FnOnce(&mut ReadOp<'_, '_>) -> R) -> R {
        let mut left = len;
        let mut bufs: SmallVec<[IoSliceMut<'_>; 8]> = SmallVec::new();
        for buf in self.bufs.iter_mut() {
            let part = left.min(buf.len());
            bufs.push(IoSliceMut::new(&mut buf[..part]));
            left -= part;
            if left == 0 {
                break;
            }
        }
        let fds = self.fds.as_deref_mut();
        read(&mut ReadOp { bufs: &mut bufs, fds, offset: self.offset, flags: self.flags })
    }
}

/// One write: buffers, flags, offset, and descriptors to send.
///
/// Made and checked like a [`ReadOp`].
#[derive(Debug)]
pub struct WriteOp<'a, 'b> {
    bufs: &'a [IoSlice<'b>],
    fds: &'a [BorrowedFd<'a>],
    offset: Option<u64>,
    flags: WriteFlags,
    /// Where it is told that something rests in a layer, by who writes all.
    held: Option<&'a Cell<bool>>,
}

impl<'a, 'b> WriteOp<'a, 'b> {
    #[inline]
    pub(super) fn new(bufs: &'a [IoSlice<'b>]) -> Self {
        Self { bufs, fds: &[], offset: None, flags: WriteFlags::empty(), held: None }
    }

    #[inline]
    pub(super) fn with(mut self, flags: WriteFlags, fds: &'a [BorrowedFd<'a>]) -> Self {
        self.flags = flags;
        self.fds = fds;
        self
    }

    /// One of several that move the same buffers; tells in `held` whether something rests.
    #[inline]
    pub(super) fn part(mut self, held: &'a Cell<bool>) -> Self {
        self.flags |= WriteFlags::from_bits_retain(PART);
        self.held = Some(held);
        self
    }

    /// Tells who writes all that something of it, or of what came before, rests in this channel or
    /// below until there is room: it waits for [`flush`](super::Channel::flush) in the end.
    pub fn note_held(&self) {
        if let Some(held) = self.held {
            held.set(true);
        }
    }

    #[inline]
    pub(super) fn is_part(&self) -> bool {
        self.flags.bits() & PART != 0
    }

    pub(super) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The buffers to send; the first is not empty.
    #[inline]
    pub fn bufs(&self) -> &'a [IoSlice<'b>] {
        self.bufs
    }

    /// How to write.
    #[inline]
    pub fn flags(&self) -> WriteFlags {
        self.flags & WriteFlags::all()
    }

    /// Refuses an operation that is one of several for the same buffers. For channels with
    /// [`Features::MESSAGES`](super::Features::MESSAGES), which cannot serve it; no other channel
    /// needs to ask.
    ///
    /// # Errors
    ///
    /// `Unsupported`, with the name of the channel.
    #[inline]
    pub fn require_whole(&self, base: &Base) -> Result<()> {
        if !self.is_part() {
            Ok(())
        } else {
            Err(no_parts(base, "writing all may take a message apart", "send"))
        }
    }

    /// Where to write; `None` is the current position, or a stream.
    #[inline]
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The descriptors to send with the first byte.
    #[inline]
    pub fn fds(&self) -> &'a [BorrowedFd<'a>] {
        self.fds
    }

    /// The same write from other buffers, for a layer that forwards a part of it.
    pub fn forward<'c, 'd>(&self, bufs: &'c [IoSlice<'d>]) -> WriteOp<'c, 'd>
    where
        'a: 'c,
    {
        WriteOp { bufs, fds: self.fds, offset: self.offset, flags: self.flags, held: self.held }
    }

    /// Gives `write` the same write of at most `len` bytes, for a layer that lets only so many
    /// pass.
    pub fn up_to<R>(&self, len: usize, write: impl FnOnce(&mut WriteOp<'_, '_>) -> R) -> R {
        let mut left = len;
        let mut bufs: SmallVec<[IoSlice<'_>; 8]> = SmallVec::new();
        for buf in self.bufs {
            let part = left.min(buf.len());
            bufs.push(IoSlice::new(&buf[..part]));
            left -= part;
            if left == 0 {
                break;
            }
        }
        write(&mut self.forward(&bufs))
    }
}

#[cold]
fn no_parts(base: &Base, why: &str, instead: &str) -> Error {
    let text = format!("{}: {why}, and this channel keeps them whole: use {instead}", base.name());
    Error::new(ErrorKind::Unsupported, text)
}
