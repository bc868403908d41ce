//! Channels as tokio's streams.

use std::fmt;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use qio::{
    Bytes, Channel, ChannelExt, Confirmed, Direction, FdSink, Features, Interest, Mode, ReadFlags,
    Readiness, WriteFlags,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hub::{Call, Hub, Side, readiness};
use super::put_back::PutBack;
use super::storage::{Storage, lock};

/// A channel as [`AsyncRead`] and [`AsyncWrite`]: of any channel, also an `Arc<dyn Channel>`.
///
/// An empty buffer is a no-op. Partial progress is normal; a read of 0 bytes is the end of the
/// stream. `flush` is [`Channel::flush`]; `shutdown` is [`Channel::finish`], which ends our side
/// politely and leaves reading open. Closing the channel from elsewhere (through
/// [`get_ref`](AsyncChannel::get_ref) or a shared owner) ends every pending future.
///
/// A channel with [`Features::STORAGE`] never would-blocks, it waits for a disk. Its reads and
/// writes run on the runtime's threads for blocking work, in pieces of 64 KiB. A write takes the
/// bytes at once, and the next write, flush or shutdown reports its failure: flush before dropping.
/// Seek only before the first read or write.
///
/// A channel with [`Features::MESSAGES`] reads one message at a time and skips empty ones, which a
/// stream has no word for; every write is a message. [`receive`](AsyncChannel::receive) and
/// [`send`](AsyncChannel::send) move messages as they are.
///
/// # Cancel safety
///
/// Every future of this type may be dropped at any time: a read that is given up has taken
/// nothing, or what it took is there for the next read; a write that is given up has sent nothing.
///
/// # Examples
///
/// ```
/// use qio::transport::Socket;
/// use qio_adapters::tokio::AsyncChannel;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # fn main() -> std::io::Result<()> {
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(async {
///     let (left, right) = Socket::pair()?;
///     let (mut left, mut right) = (AsyncChannel::new(left)?, AsyncChannel::new(right)?);
///     left.write_all(b"hello").await?;
///     left.shutdown().await?;
///     let mut text = String::new();
///     right.read_to_string(&mut text).await?;
///     assert_eq!(text, "hello");
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncChannel<C> {
    read: ReadHalf<C>,
    write: WriteHalf<C>,
}

impl<C: Channel> AsyncChannel<C> {
    /// Takes over a channel and makes it non-blocking, except [storage](Features::STORAGE).
    ///
    /// # Errors
    ///
    /// Those of [`Channel::set_mode`]: `NotConnected` for a closed channel.
    pub fn new(channel: C) -> Result<Self> {
        let is_storage = channel.features().contains(Features::STORAGE);
        if !is_storage {
            channel.set_mode(Mode::NonBlocking)?;
        }
        let hub = Arc::new(Hub::new(channel, is_storage.then(Storage::default)));
        let read = ReadHalf {
            hub: Arc::clone(&hub),
            side: Side::new(Direction::Read),
            put_back: PutBack::default(),
        };
        let write = WriteHalf { hub, side: Side::new(Direction::Write) };
        Ok(Self { read, write })
    }

    /// The channel.
    pub fn get_ref(&self) -> &C {
        self.read.get_ref()
    }

    /// Gives the channel back, in non-blocking mode.
    ///
    /// # Errors
    ///
    /// Gives itself back while a disk operation is running: flush first; and while there are bytes
    /// of a [`read_exact_or_eof`](AsyncChannel::read_exact_or_eof) that was given up: read them first.
    pub fn into_inner(self) -> std::result::Result<C, Self> {
        if self.read.has_put_back() {
            return Err(self);
        }
        let Self { read, write } = self;
        let ReadHalf { hub, side, put_back } = read;
        let other_side = write.side;
        drop(write.hub);
        match Arc::try_unwrap(hub) {
            Ok(hub) => Ok(hub.channel),
            Err(hub) => {
                let read = ReadHalf { hub: Arc::clone(&hub), side, put_back };
                Err(Self { read, write: WriteHalf { hub, side: other_side } })
            }
        }
    }

    pub(super) fn read_half(&mut self) -> &mut ReadHalf<C> {
        &mut self.read
    }

    pub(super) fn write_half(&mut self) -> &mut WriteHalf<C> {
        &mut self.write
    }

    /// Two halves, for two tasks.
    ///
    /// They share one set of registrations. Both may wait for the same direction of the same
    /// descriptor, and neither misses what wakes the other. Dropping a half ends nothing: the
    /// channel is closed when both are dropped.
    pub fn into_split(self) -> (ReadHalf<C>, WriteHalf<C>) {
        (self.read, self.write)
    }

    /// Waits until one of the wanted conditions, a hang-up or an error is there.
    ///
    /// Asks the kernel, so what is reported was true when it was. A hint to try: with
    /// [`get_ref`](AsyncChannel::get_ref), for operations that have no method here.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::drive`], and the runtime's when it shuts down.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn ready(&mut self, interest: Interest) -> Result<Readiness> {
        let Self { read, write } = self;
        if interest.contains(Interest::READ) {
            if read.has_put_back() {
                return Ok(Readiness::READ);
            }
            ready(&read.hub, &mut read.side, interest).await
        } else {
            ready(&write.hub, &mut write.side, interest).await
        }
    }

    /// Reads some bytes, with flags, and with the descriptors that arrive with them.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::read_with`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has taken neither bytes nor descriptors then.
    pub async fn read_with(
        &mut self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        fds: Option<&mut FdSink>,
    ) -> Result<usize> {
        self.read.read_with(bufs, flags, fds).await
    }

    /// Writes some of the bytes, and the descriptors with the first of them.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::write_with`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has sent neither bytes nor descriptors then.
    pub async fn write_with(
        &mut self,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Result<usize> {
        self.write.write_with(bufs, flags, fds).await
    }

    /// Writes some of the bytes of buffers that the channel may keep, without a copy where it can.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::write_owned`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has sent nothing then.
    pub async fn write_owned(&mut self, bufs: &[Bytes]) -> Result<usize> {
        self.write.write_owned(bufs).await
    }

    /// Waits until no owned buffer is in use any more, and says whether any was copied.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::confirm_all`], without a deadline.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: the next call gives the answer.
    pub async fn confirm(&mut self) -> Result<Confirmed> {
        self.write.confirm().await
    }

    /// Receives one message, and gives its length, which may be 0; `None` is the end.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::receive`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has taken no message then.
    pub async fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.read.receive(buf).await
    }

    /// Sends one message, which may be empty.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::send`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// The message is sent whole or not at all; whether it was is not known when this is dropped.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        self.write.send(message).await
    }
}

impl<C: Channel> AsyncRead for AsyncChannel<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl<C: Channel> AsyncWrite for AsyncChannel<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

/// The reading half of an [`AsyncChannel`].
#[derive(Debug)]
pub struct ReadHalf<C> {
    hub: Arc<Hub<C>>,
    side: Side,
    /// What a read that was given up had taken, for the next one. Of storage it is kept there.
    put_back: PutBack,
}

impl<C: Channel> ReadHalf<C> {
    /// The channel.
    pub fn get_ref(&self) -> &C {
        &self.hub.channel
    }

    /// Waits until a read would not block.
    ///
    /// # Errors
    ///
    /// As [`AsyncChannel::ready`].
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn ready(&mut self) -> Result<Readiness> {
        if self.has_put_back() {
            return Ok(Readiness::READ);
        }
        ready(&self.hub, &mut self.side, Interest::READ).await
    }

    /// Reads as [`AsyncChannel::read_with`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::read_with`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has taken neither bytes nor descriptors then.
    pub async fn read_with(
        &mut self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        mut fds: Option<&mut FdSink>,
    ) -> Result<usize> {
        let Self { hub, side, put_back } = self;
        if !put_back.is_empty() {
            // Checks the flags, and reads nothing.
            hub.channel.read_with(&mut [], flags, fds)?;
            let bytes = put_back.bytes();
            let n = bufs.iter_mut().fold(0, |done, buf| {
                let n = buf.len().min(bytes.len() - done);
                buf[..n].copy_from_slice(&bytes[done..done + n]);
                done + n
            });
            if !flags.contains(ReadFlags::PEEK) {
                put_back.consume(n);
            }
            return Ok(n);
        }
        if hub.storage.is_some() {
            // Checks the flags, and reads nothing.
            hub.channel.read_with(&mut [], flags, fds.as_deref_mut())?;
            if flags.contains(ReadFlags::PEEK) || fds.is_some() {
                return Err(ErrorKind::Unsupported.into());
            }
            let Some(buf) = bufs.iter_mut().find(|buf| !buf.is_empty()) else { return Ok(0) };
            let mut buf = ReadBuf::new(buf);
            poll_fn(|cx| hub.poll_read_storage(cx, &mut buf)).await.transpose()?;
            return Ok(buf.filled().len());
        }
        let flags = flags | ReadFlags::NONBLOCK;
        poll_fn(|cx| {
            hub.poll(side, (Call::Transfer, Interest::READ), cx, |channel| {
                channel.read_with(bufs, flags, fds.as_deref_mut())
            })
        })
        .await
    }

    /// Receives as [`AsyncChannel::receive`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::receive`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has taken no message then.
    pub async fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let Self { hub, side, .. } = self;
        poll_fn(|cx| {
            hub.poll(side, (Call::Transfer, Interest::READ), cx, |channel| {
                channel.receive_with(&mut [IoSliceMut::new(buf)], ReadFlags::NONBLOCK, None)
            })
        })
        .await
    }

    /// Puts bytes in front of those that are read next. Whatever was there was read before.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        match &self.hub.storage {
            // There is one position: who writes next has to know where the reader stood.
            Some(storage) => lock(storage).put_back.keep(bytes),
            None => self.put_back.keep(bytes),
        }
    }

    fn has_put_back(&self) -> bool {
        let in_storage = |storage| !lock(storage).put_back.is_empty();
        !self.put_back.is_empty() || self.hub.storage.as_ref().is_some_and(in_storage)
    }

    /// Puts the halves of one channel together again.
    ///
    /// # Errors
    ///
    /// Gives them back when they are of two channels.
    pub fn reunite(
        self,
        write: WriteHalf<C>,
    ) -> std::result::Result<AsyncChannel<C>, ReuniteError<C>> {
        if Arc::ptr_eq(&self.hub, &write.hub) {
            Ok(AsyncChannel { read: self, write })
        } else {
            Err(ReuniteError { read: self, write })
        }
    }
}

impl<C: Channel> AsyncRead for ReadHalf<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let Self { hub, side, put_back } = &mut *self;
        if !put_back.is_empty() {
            let n = put_back.bytes().len().min(buf.remaining());
            buf.put_slice(&put_back.bytes()[..n]);
            put_back.consume(n);
            return Poll::Ready(Ok(()));
        }
        if hub.storage.is_some()
            && let Some(result) = ready!(hub.poll_read_storage(cx, buf))
        {
            return Poll::Ready(result);
        }
        let room = buf.initialize_unfilled();
        let n = ready!(hub.poll_bytes(side, room.len(), cx, |channel| {
            channel.read_with(&mut [IoSliceMut::new(room)], ReadFlags::NONBLOCK, None)
        }))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// The writing half of an [`AsyncChannel`].
#[derive(Debug)]
pub struct WriteHalf<C> {
    hub: Arc<Hub<C>>,
    side: Side,
}

impl<C: Channel> WriteHalf<C> {
    /// The channel.
    pub fn get_ref(&self) -> &C {
        &self.hub.channel
    }

    /// Waits until a write would not block.
    ///
    /// # Errors
    ///
    /// As [`AsyncChannel::ready`].
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn ready(&mut self) -> Result<Readiness> {
        ready(&self.hub, &mut self.side, Interest::WRITE).await
    }

    /// Writes as [`AsyncChannel::write_with`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::write_with`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has sent neither bytes nor descriptors then.
    pub async fn write_with(
        &mut self,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Result<usize> {
        poll_fn(|cx| self.poll_write_with(cx, bufs, flags, fds)).await
    }

    /// Writes owned buffers as [`AsyncChannel::write_owned`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::write_owned`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has sent nothing then.
    pub async fn write_owned(&mut self, bufs: &[Bytes]) -> Result<usize> {
        if self.hub.storage.is_some() {
            let slices: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
            let n = self.write_with(&slices, WriteFlags::empty(), &[]).await?;
            if n > 0 {
                self.hub.channel.base().note_copied();
            }
            return Ok(n);
        }
        let Self { hub, side } = self;
        poll_fn(|cx| {
            hub.poll(side, (Call::Transfer, Interest::WRITE), cx, |channel| {
                channel.write_owned_with(bufs, WriteFlags::NONBLOCK)
            })
        })
        .await
    }

    /// Waits for confirmations as [`AsyncChannel::confirm`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::confirm_all`], without a deadline.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: the next call gives the answer.
    pub async fn confirm(&mut self) -> Result<Confirmed> {
        let Self { hub, side } = self;
        poll_fn(|cx| {
            ready!(hub.poll_flush_storage(cx))?;
            hub.poll(side, (Call::Flush, Interest::WRITE), cx, |channel| channel.confirm())
        })
        .await
    }

    /// Sends as [`AsyncChannel::send`] does.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::send`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// The message is sent whole or not at all; whether it was is not known when this is dropped.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        let Self { hub, side } = self;
        poll_fn(|cx| {
            hub.poll(side, (Call::Transfer, Interest::WRITE), cx, |channel| {
                channel.send_with(&[IoSlice::new(message)], WriteFlags::NONBLOCK, &[])
            })
        })
        .await?;
        // A layer may have taken it, and the channel below it only a part.
        poll_fn(|cx| hub.poll(side, (Call::Flush, Interest::WRITE), cx, |channel| channel.flush()))
            .await
    }

    pub(super) fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[BorrowedFd<'_>],
    ) -> Poll<Result<usize>> {
        let Self { hub, side } = self;
        if hub.storage.is_some() && !fds.is_empty() {
            // Refused, without a byte being written.
            let refused = hub.channel.write_with(&[], flags, fds);
            return Poll::Ready(refused.and(Err(ErrorKind::Unsupported.into())));
        }
        if hub.storage.is_some()
            && let Some(result) = ready!(hub.poll_write_storage(cx, bufs))
        {
            return Poll::Ready(result);
        }
        // What is to be refused is refused at once.
        let is_plain = flags.is_empty() && fds.is_empty();
        let asked = if is_plain { bufs.iter().map(|buf| buf.len()).sum() } else { 0 };
        let flags = flags | WriteFlags::NONBLOCK;
        hub.poll_bytes(side, asked, cx, |channel| channel.write_with(bufs, flags, fds))
    }
}

impl<C: Channel> AsyncWrite for WriteHalf<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        self.poll_write_with(cx, &[IoSlice::new(buf)], WriteFlags::empty(), &[])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.poll_write_with(cx, bufs, WriteFlags::empty(), &[])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { hub, side } = &mut *self;
        ready!(hub.poll_flush_storage(cx))?;
        hub.poll(side, (Call::Flush, Interest::WRITE), cx, |channel| channel.flush())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { hub, side } = &mut *self;
        ready!(hub.poll_flush_storage(cx))?;
        hub.poll(side, (Call::Finish, Interest::WRITE), cx, |channel| channel.finish())
    }
}

/// Halves of two different channels were to be put together.
pub struct ReuniteError<C> {
    /// The reading half.
    read: ReadHalf<C>,
    /// The writing half.
    write: WriteHalf<C>,
}

impl<C> ReuniteError<C> {
    /// Gives the halves back.
    pub fn into_halves(self) -> (ReadHalf<C>, WriteHalf<C>) {
        (self.read, self.write)
    }
}

impl<C> fmt::Debug for ReuniteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReuniteError").finish_non_exhaustive()
    }
}

impl<C> fmt::Display for ReuniteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halves are of two different channels")
    }
}

impl<C> std::error::Error for ReuniteError<C> {}

async fn ready<C: Channel>(hub: &Hub<C>, side: &mut Side, interest: Interest) -> Result<Readiness> {
    poll_fn(|cx| {
        hub.poll(side, (Call::Ready(interest), interest), cx, |channel| {
            readiness(channel, interest)
        })
    })
    .await
}
