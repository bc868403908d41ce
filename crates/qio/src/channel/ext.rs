//! What users call.

use std::any::Any;
use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::check::{check_read, check_write, invalid, require};
use super::peek::peek_at_least;
use super::transfer::{
    advanced, early_eof, filled, filled_mut, progress_or_wait, read_more, read_op, read_rest,
    receive_op, write_more, write_op, write_rest,
};
use super::wait::{Legs, until_done, wait};
use super::{
    Channel, Confirmed, Corked, FdSink, Features, Mode, ReadFlags, ReadOp, WriteFlags, WriteOp,
    owned,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::Interrupter;

/// Reading, writing and waiting in all their forms, for every [`Channel`].
///
/// Four families:
///
/// - `read…`, `write…`: once, with partial progress. They wait for the first byte in
///   [`Mode::Blocking`](super::Mode::Blocking) and return `WouldBlock` in [`Mode::NonBlocking`](super::Mode::NonBlocking).
/// - `…_exact`, `…_all`, `finish_all`, `flush_all`: until everything has moved. They wait in
///   either mode.
/// - `receive…`, `send…`: one message of a channel with [`Features::MESSAGES`], which has no
///   `…_exact` and no `…_all`.
/// - [`wait`](ChannelExt::wait): until a condition holds.
///
/// Whoever waits does so through the current [`Waiter`](crate::watch::Waiter): the thread, unless
/// a coroutine or the host program waits in its place.
///
/// An empty read or write is a no-op that returns 0, whatever happened before. What a channel cannot do
/// (see [`Features`]) is `Unsupported`, before any byte moves.
pub trait ChannelExt: Channel {
    /// The name that appears in errors and events.
    fn name(&self) -> String {
        self.base().name()
    }

    /// Gives the channel a name.
    #[doc(alias = "qio_channel_set_name")]
    fn set_name(&self, name: impl Into<String>) {
        self.base().set_name(name);
    }

    /// What the channel can do.
    #[doc(alias = "qio_channel_has_feature")]
    fn features(&self) -> Features {
        self.base().features()
    }

    /// Finds a channel of type `T` at or below this one: the socket under the layers.
    fn find<T: Channel>(&self) -> Option<&T> {
        let mut channel = Some(self.as_channel());
        while let Some(candidate) = channel {
            if let Some(found) = (candidate as &dyn Any).downcast_ref() {
                return Some(found);
            }
            channel = candidate.inner();
        }
        None
    }

    /// Reads some bytes; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock` in non-blocking mode, `NotConnected` once closed, and those of the transport.
    #[doc(alias = "qio_channel_read")]
    #[inline]
    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        read_op(self, &mut ReadOp::new(&mut [IoSliceMut::new(buf)]))
    }

    /// Reads some bytes, filling each buffer before the next.
    ///
    /// # Errors
    ///
    /// As [`read`](ChannelExt::read).
    #[doc(alias = "qio_channel_readv")]
    #[inline]
    fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        match filled_mut(bufs) {
            [] => Ok(0),
            bufs => read_op(self, &mut ReadOp::new(bufs)),
        }
    }

    /// Reads some bytes, with flags, and with the descriptors that arrive with them.
    ///
    /// # Errors
    ///
    /// As [`read`](ChannelExt::read). `Unsupported` for a sink without [`Features::FD_PASS`] or
    /// [`ReadFlags::PEEK`] without [`Features::PEEK`]; `InvalidInput` for both together;
    /// `InvalidData` when more descriptors arrived than the sink has room for (those are closed,
    /// the data is lost to this message, and the connection should be given up).
    #[doc(alias = "qio_channel_readv_full")]
    fn read_with(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        fds: Option<&mut FdSink>,
    ) -> Result<usize> {
        check_read(self, flags, fds.is_some())?;
        match filled_mut(bufs) {
            [] => Ok(0),
            bufs => read_op(self, &mut ReadOp::new(bufs).with(flags, fds)),
        }
    }

    /// Looks at the next bytes without taking them.
    ///
    /// # Errors
    ///
    /// As [`read_with`](ChannelExt::read_with).
    fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.read_with(&mut [IoSliceMut::new(buf)], ReadFlags::PEEK, None)
    }

    /// Looks at the next bytes without taking them, as soon as there are `min` (at least one),
    /// waiting in either mode. Fewer mean that the stream ends after them.
    ///
    /// For telling by its first bytes what a connection wants. Wakes up once for each arrival, not
    /// all the time because of the bytes that are there. `min` must be less than what the channel
    /// takes from its peer unread: the receive buffer of a socket.
    ///
    /// # Errors
    ///
    /// `TimedOut` when the deadline passes first: the bytes are left for the next look.
    /// `InvalidInput` for a buffer of less than `min` bytes, `Unsupported` without
    /// [`Features::PEEK`]. `InvalidData` when no look can show that many: on a Unix socket it ends
    /// at bytes that carry descriptors. Others as [`read`](ChannelExt::read), but never
    /// `WouldBlock`.
    fn peek_at_least(
        &self,
        buf: &mut [u8],
        min: usize,
        deadline: Option<Instant>,
    ) -> Result<usize> {
        peek_at_least(self.as_channel(), buf, min, deadline)
    }

    /// Reads some bytes at `offset`, without moving the position.
    ///
    /// # Errors
    ///
    /// As [`read`](ChannelExt::read); `Unsupported` without [`Features::SEEK`].
    #[doc(alias = "qio_channel_pread")]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_vectored_at(&mut [IoSliceMut::new(buf)], offset)
    }

    /// Reads some bytes at `offset` into several buffers.
    ///
    /// # Errors
    ///
    /// As [`read_at`](ChannelExt::read_at).
    #[doc(alias = "qio_channel_preadv")]
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        require(self.as_channel(), Features::SEEK, "reading at an offset")?;
        match filled_mut(bufs) {
            [] => Ok(0),
            bufs => read_op(self, &mut ReadOp::new(bufs).at(offset)),
        }
    }

    /// Fills the whole buffer, waiting in either mode.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the stream ends before; the error says how many bytes came. They are
    /// in the buffer. Others as [`read`](ChannelExt::read), but never `WouldBlock`.
    #[doc(alias = "qio_channel_read_all")]
    #[inline]
    fn read_exact(&self, buf: &mut [u8]) -> Result<()> {
        if self.read_exact_or_eof(buf)? { Ok(()) } else { Err(early_eof(self.as_channel(), 0)) }
    }

    /// Fills the whole buffer, or gives `false` when the stream ends before the first byte.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](ChannelExt::read_exact) for an end after the first byte.
    #[doc(alias = "qio_channel_read_all_eof")]
    #[inline]
    fn read_exact_or_eof(&self, buf: &mut [u8]) -> Result<bool> {
        if buf.is_empty() {
            return Ok(true);
        }
        match read_op(self, &mut ReadOp::new(&mut [IoSliceMut::new(buf)]).part()) {
            Ok(n) if n == buf.len() => Ok(true),
            Ok(0) => Ok(false),
            first => read_more(self.as_channel(), buf, first),
        }
    }

    /// Fills all buffers, waiting in either mode. The slices are used up.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](ChannelExt::read_exact).
    #[doc(alias = "qio_channel_readv_all")]
    fn read_vectored_exact(&self, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.read_exact_with(bufs, ReadFlags::empty(), None)
    }

    /// Fills all buffers, or gives `false` when the stream ends before the first byte.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](ChannelExt::read_exact).
    #[doc(alias = "qio_channel_readv_all_eof")]
    fn read_vectored_exact_or_eof(&self, bufs: &mut [IoSliceMut<'_>]) -> Result<bool> {
        self.read_exact_or_eof_with(bufs, ReadFlags::empty(), None)
    }

    /// Fills all buffers, and collects descriptors from every segment of the data.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](ChannelExt::read_exact) and [`read_with`](ChannelExt::read_with);
    /// `InvalidInput` for [`ReadFlags::PEEK`], which would give the same bytes again.
    #[doc(alias = "qio_channel_readv_full_all")]
    fn read_exact_with(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        fds: Option<&mut FdSink>,
    ) -> Result<()> {
        if self.read_exact_or_eof_with(bufs, flags, fds)? {
            Ok(())
        } else {
            Err(early_eof(self.as_channel(), 0))
        }
    }

    /// [`read_exact_with`](ChannelExt::read_exact_with), or `false` when the stream ends before
    /// the first byte.
    ///
    /// # Errors
    ///
    /// As [`read_exact_with`](ChannelExt::read_exact_with).
    #[doc(alias = "qio_channel_readv_full_all_eof")]
    fn read_exact_or_eof_with(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        fds: Option<&mut FdSink>,
    ) -> Result<bool> {
        let channel = self.as_channel();
        if flags.contains(ReadFlags::PEEK) {
            return Err(invalid(
                channel,
                "a peek gives the same bytes again, so it has no exact form",
            ));
        }
        check_read(channel, flags, fds.is_some())?;
        read_rest(channel, bufs, 0, flags, fds)
    }

    /// Fills the whole buffer from `offset`, without moving the position.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](ChannelExt::read_exact) and [`read_at`](ChannelExt::read_at).
    #[doc(alias = "qio_channel_pread_all")]
    #[doc(alias = "qio_channel_preadv_all")]
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = advanced(self.as_channel(), offset, done)?;
            match progress_or_wait(self.as_channel(), Interest::READ, done, |channel| {
                channel.read_at(&mut buf[done..], at)
            })? {
                0 => return Err(early_eof(self.as_channel(), done)),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Writes some of the bytes, at least one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` in non-blocking mode, `BrokenPipe` when the peer is gone (never a signal),
    /// `NotConnected` once closed, and those of the transport.
    #[doc(alias = "qio_channel_write")]
    #[inline]
    fn write(&self, buf: &[u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        write_op(self, &mut WriteOp::new(&[IoSlice::new(buf)]))
    }

    /// Writes some of the bytes, sending each buffer before the next.
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write).
    #[doc(alias = "qio_channel_writev")]
    #[inline]
    fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        match filled(bufs) {
            [] => Ok(0),
            bufs => write_op(self, &mut WriteOp::new(bufs)),
        }
    }

    /// Writes some of the bytes, and the descriptors with the first of them.
    ///
    /// When this returns a number, the descriptors are sent; when it returns an error, also
    /// `WouldBlock`, none is.
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write). `Unsupported` for descriptors, or
    /// [`WriteFlags::CREDENTIALS`], without [`Features::FD_PASS`]; `InvalidInput` for more than [`MAX_FDS_PER_MESSAGE`](super::MAX_FDS_PER_MESSAGE), or without a
    /// byte to carry them.
    #[doc(alias = "qio_channel_writev_full")]
    fn write_with(
        &self,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Result<usize> {
        check_write(self, flags, fds)?;
        match filled(bufs) {
            [] if fds.is_empty() => Ok(0),
            [] => Err(invalid(self.as_channel(), "descriptors need a byte that carries them")),
            bufs => write_op(self, &mut WriteOp::new(bufs).with(flags, fds)),
        }
    }

    /// Writes some of the bytes at `offset`, without moving the position.
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write); `Unsupported` without [`Features::SEEK`].
    #[doc(alias = "qio_channel_pwrite")]
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.write_vectored_at(&[IoSlice::new(buf)], offset)
    }

    /// Writes some of the bytes of several buffers at `offset`.
    ///
    /// # Errors
    ///
    /// As [`write_at`](ChannelExt::write_at).
    #[doc(alias = "qio_channel_pwritev")]
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        require(self.as_channel(), Features::SEEK, "writing at an offset")?;
        match filled(bufs) {
            [] => Ok(0),
            bufs => write_op(self, &mut WriteOp::new(bufs).at(offset)),
        }
    }

    /// Writes the whole buffer, waiting in either mode.
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write), but never `WouldBlock`. How much was sent before is not
    /// known then; the connection should be given up.
    #[doc(alias = "qio_channel_write_all")]
    // As a call it costs more than what it does itself (`benches/instructions.rs`).
    #[inline(always)]
    fn write_all(&self, buf: &[u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let held = Cell::new(false);
        match write_op(self, &mut WriteOp::new(&[IoSlice::new(buf)]).part(&held)) {
            Ok(n) if n == buf.len() && !held.get() => Ok(()),
            first => write_more(self.as_channel(), buf, first),
        }
    }

    /// Writes all buffers, waiting in either mode. The slices are used up.
    ///
    /// # Errors
    ///
    /// As [`write_all`](ChannelExt::write_all).
    #[doc(alias = "qio_channel_writev_all")]
    fn write_vectored_all(&self, bufs: &mut [IoSlice<'_>]) -> Result<()> {
        write_rest(self.as_channel(), bufs, 0, WriteFlags::empty(), &[])
    }

    /// Writes all buffers, and the descriptors with the first byte.
    ///
    /// # Errors
    ///
    /// As [`write_all`](ChannelExt::write_all) and [`write_with`](ChannelExt::write_with).
    #[doc(alias = "qio_channel_writev_full_all")]
    fn write_all_with(
        &self,
        bufs: &mut [IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let channel = self.as_channel();
        check_write(channel, flags, fds)?;
        if !fds.is_empty() && filled(bufs).is_empty() {
            return Err(invalid(channel, "descriptors need a byte that carries them"));
        }
        write_rest(channel, bufs, 0, flags, fds)
    }

    /// Writes the whole buffer from `offset`, without moving the position.
    ///
    /// # Errors
    ///
    /// As [`write_all`](ChannelExt::write_all) and [`write_at`](ChannelExt::write_at).
    #[doc(alias = "qio_channel_pwrite_all")]
    #[doc(alias = "qio_channel_pwritev_all")]
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = advanced(self.as_channel(), offset, done)?;
            match progress_or_wait(self.as_channel(), Interest::WRITE, done, |channel| {
                channel.write_at(&buf[done..], at)
            })? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Writes some of the bytes of buffers that the channel may keep, at least one.
    ///
    /// On a channel with [`Features::ZERO_COPY`] the kernel sends from the buffers themselves. The
    /// channel holds a share of each until the kernel has confirmed the send: since nobody can
    /// change a [`Bytes`], what goes out is what was written, and memory that is lent with
    /// [`Bytes::from_owner`] is given back exactly then. Everywhere else, and when the kernel
    /// refuses, the bytes are copied. [`confirm_all`](ChannelExt::confirm_all) waits for the
    /// confirmations and says what happened.
    ///
    /// Pays at best for large buffers (Linux says: above some 10 KiB) on a network device that
    /// sends from scattered memory; on the loopback device the kernel copies in any case, at a
    /// higher price. Descriptors cannot travel with an owned write.
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write). `WouldBlock` also when too much is unconfirmed (see
    /// [`Socket`](crate::transport::Socket)).
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::Bytes;
    /// use qio::{ChannelExt, transport::Socket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (left, right) = Socket::pair()?;
    /// let page = Bytes::from(vec![7; 4096]);
    /// left.write_all_owned(&[page.clone()])?;
    /// // A Unix socket cannot send without a copy, and says so.
    /// assert!(left.confirm_all(None)?.copied);
    ///
    /// let mut buf = [0; 4096];
    /// right.read_exact(&mut buf)?;
    /// assert_eq!(page, buf[..]);
    /// # Ok(())
    /// # }
    /// ```
    fn write_owned(&self, bufs: &[Bytes]) -> Result<usize> {
        owned::write(self.as_channel(), bufs, WriteFlags::empty())
    }

    /// Writes some of the bytes of buffers that the channel may keep, with flags.
    ///
    /// # Errors
    ///
    /// As [`write_owned`](ChannelExt::write_owned).
    fn write_owned_with(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
        owned::write(self.as_channel(), bufs, flags)
    }

    /// Writes all of the buffers, which the channel may keep, waiting in either mode: also for
    /// confirmations, when too much is unconfirmed.
    ///
    /// # Errors
    ///
    /// As [`write_all`](ChannelExt::write_all).
    fn write_all_owned(&self, bufs: &[Bytes]) -> Result<()> {
        owned::write_all(self.as_channel(), bufs)
    }

    /// Holds partial packets back for as long as the guard lives, so that a header and its data
    /// leave together: a hint, like [`Channel::set_cork`].
    ///
    /// Guards of one channel are counted, and the last one uncorks, also when it goes by an early
    /// return or a panic. TCP holds back for 200 ms at the most.
    ///
    /// ```
    /// use qio::{ChannelExt, transport::Socket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (left, right) = Socket::pair()?;
    /// {
    ///     let _corked = left.corked();
    ///     left.write_all(b"header ")?;
    ///     left.write_all(b"data")?;
    /// }
    /// let mut message = [0; 11];
    /// right.read_exact(&mut message)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "qio_channel_set_cork")]
    fn corked(&self) -> Corked<'_> {
        Corked::new(self.as_channel())
    }

    /// Receives one message, and gives its length, which may be 0; `None` is the end.
    ///
    /// Waits for it in [`Mode::Blocking`](super::Mode::Blocking).
    ///
    /// # Errors
    ///
    /// As [`read`](ChannelExt::read). `InvalidData` for a message that is longer than the buffer
    /// and lost ([`MessageError`](super::MessageError) has its length), `InvalidInput` for an empty
    /// buffer, which would lose every message; `Unsupported` without [`Features::MESSAGES`].
    fn receive(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.receive_with(&mut [IoSliceMut::new(buf)], ReadFlags::empty(), None)
    }

    /// Receives one message into several buffers, with flags, and with the descriptors that
    /// arrive with it.
    ///
    /// With [`ReadFlags::PEEK`] the message stays, and only what fits of it is looked at.
    ///
    /// # Errors
    ///
    /// As [`receive`](ChannelExt::receive) and [`read_with`](ChannelExt::read_with).
    fn receive_with(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        fds: Option<&mut FdSink>,
    ) -> Result<Option<usize>> {
        let channel = self.as_channel();
        require(channel, Features::MESSAGES, "receiving messages")?;
        check_read(channel, flags, fds.is_some())?;
        match filled_mut(bufs) {
            [] => Err(invalid(channel, "a message needs room")),
            bufs => receive_op(channel, &mut ReadOp::new(bufs).with(flags, fds)),
        }
    }

    /// Sends one message, which may be empty.
    ///
    /// Waits for room in [`Mode::Blocking`](super::Mode::Blocking).
    ///
    /// # Errors
    ///
    /// As [`write`](ChannelExt::write). `InvalidInput` for a message that is too long to be sent
    /// as one ([`MessageError`](super::MessageError) has its length); `Unsupported` without
    /// [`Features::MESSAGES`].
    fn send(&self, message: &[u8]) -> Result<()> {
        self.send_with(&[IoSlice::new(message)], WriteFlags::empty(), &[])
    }

    /// Sends several buffers as one message, with descriptors. An empty message can carry some,
    /// too.
    ///
    /// # Errors
    ///
    /// As [`send`](ChannelExt::send); `Unsupported` for descriptors without
    /// [`Features::FD_PASS`], `InvalidInput` for more than
    /// [`MAX_FDS_PER_MESSAGE`](super::MAX_FDS_PER_MESSAGE).
    fn send_with(
        &self,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let channel = self.as_channel();
        require(channel, Features::MESSAGES, "sending messages")?;
        check_write(channel, flags, fds)?;
        write_op(channel, &mut WriteOp::new(filled(bufs)).with(flags, fds))?;
        let may_wait =
            !flags.contains(WriteFlags::NONBLOCK) && channel.base().mode() == Mode::Blocking;
        // A layer may have taken the message, and the channel below it only a part.
        if may_wait { self.flush_all(None) } else { Ok(()) }
    }

    /// Waits until one of the wanted conditions, a hang-up or an error is there.
    ///
    /// # Errors
    ///
    /// `TimedOut` when the deadline passes first; `Interrupted` by an
    /// [`interrupter`](ChannelExt::interrupter); `ResourceBusy` when another thread or coroutine
    /// waits for the same direction of this channel.
    #[doc(alias = "qio_channel_wait")]
    #[doc(alias = "qio_channel_yield")]
    #[doc(alias = "qio_channel_wait_cond")]
    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> Result<Readiness> {
        wait(self.as_channel(), interest, deadline, Legs::Untried)
    }

    /// Makes waits of one direction of this channel interruptible, from any thread.
    ///
    /// [`wake`](Interrupter::wake) ends with `Interrupted` what waits for that direction, or is
    /// about to: [`wait`](ChannelExt::wait), reads and writes in blocking mode, and the `…_exact`
    /// and `…_all` forms before their first byte. Behind it they go on to the end of what was asked
    /// for, and the wake ends the next wait: nothing is cut in its middle, nothing is lost. Who has
    /// to end also that calls [`shutdown`](Channel::shutdown).
    ///
    /// Holds for waits that begin after this call. A socket in blocking mode waits in poll(2) from
    /// now on, and not in the system call that reads or writes.
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use std::thread;
    ///
    /// use qio::{ChannelExt, Direction, transport::Socket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (left, right) = Socket::pair()?;
    /// let interrupter = left.interrupter(Direction::Read);
    /// let waker = thread::spawn(move || interrupter.wake());
    /// let mut buf = [0; 4];
    /// assert_eq!(left.read_exact(&mut buf).unwrap_err().kind(), ErrorKind::Interrupted);
    /// waker.join().unwrap();
    ///
    /// right.write_all(b"data")?;
    /// left.read_exact(&mut buf)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "qio_channel_wake_read")]
    fn interrupter(&self, direction: Direction) -> Interrupter {
        let mut channel = Some(self.as_channel());
        // Channels below may make the attempt that would block in the kernel.
        while let Some(station) = channel {
            station.base().make_interruptible();
            channel = station.inner();
        }
        // Of a closed channel every wait fails, which is as good.
        let _ = self.set_mode(self.base().mode());
        Interrupter::new(Arc::clone(self.base().make_interruptible()), direction)
    }

    /// Ends the wait of the reader, if there is one, else its next wait:
    /// [`wake`](Interrupter::wake) of an [`interrupter`](ChannelExt::interrupter), which had to
    /// be made before that wait began.
    #[doc(alias = "qio_channel_wake_read")]
    fn wake_read(&self) {
        self.interrupter(Direction::Read).wake();
    }

    /// The same for the writer.
    fn wake_write(&self) {
        self.interrupter(Direction::Write).wake();
    }

    /// Repeats [`Channel::finish`] until the farewell is out, or the deadline has passed.
    ///
    /// # Errors
    ///
    /// `TimedOut`, and those of [`Channel::finish`] but `WouldBlock`.
    #[doc(alias = "qio_channel_tls_bye")]
    fn finish_all(&self, deadline: Option<Instant>) -> Result<()> {
        until_done(self.as_channel(), deadline, |channel| channel.finish())
    }

    /// Repeats [`Channel::flush`] until everything is out, or the deadline has passed.
    ///
    /// # Errors
    ///
    /// `TimedOut`, and those of [`Channel::flush`] but `WouldBlock`.
    #[doc(alias = "qio_channel_flush")]
    fn flush_all(&self, deadline: Option<Instant>) -> Result<()> {
        until_done(self.as_channel(), deadline, |channel| channel.flush())
    }

    /// Repeats [`Channel::confirm`] until no owned buffer is in use any more, or the deadline has
    /// passed.
    ///
    /// A confirmation says that the kernel needs the buffers no more: on TCP, because the peer has
    /// acknowledged the bytes, or because the connection failed.
    ///
    /// # Errors
    ///
    /// `TimedOut`, `NotConnected` once closed, and those of [`Channel::confirm`] but `WouldBlock`.
    #[doc(alias = "qio_channel_flush")]
    fn confirm_all(&self, deadline: Option<Instant>) -> Result<Confirmed> {
        until_done(self.as_channel(), deadline, |channel| channel.confirm())
    }
}

impl<C: Channel + ?Sized> ChannelExt for C {}
