//! A channel as `AsyncRead` and `AsyncWrite` of `futures-io`.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};
use qio::channel::Watch;
use qio::{Channel, ChannelExt, Interest, Mode, ReadFlags, Readiness, WriteFlags};

use super::reactor::Registrations;
use crate::stepper::Stepper;

/// A channel for async code on async-io.
///
/// Reading and writing may go on in two tasks: clones are halves of the same channel, each of which
/// waits for itself. One task reads and one writes at a time.
///
/// `poll_close` is [`Channel::finish`]: our side ends politely, and reading goes on.
///
/// # Cancel safety
///
/// Every method: what was taken from below is in the channel, never in a future.
#[derive(Debug)]
pub struct AsyncChannel<C: Channel> {
    channel: Arc<C>,
    reading: Waiting<C>,
    writing: Waiting<C>,
}

/// How one direction waits.
#[derive(Debug)]
struct Waiting<C: Channel> {
    watch: Stepper<Watch<Arc<C>>>,
    registrations: Registrations,
    /// The last attempt would have blocked, and nothing has happened since.
    parked: bool,
}

impl<C: Channel> AsyncChannel<C> {
    /// Puts the channel into non-blocking mode, and into the reactor when it has to wait.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::set_mode`]: the channel is closed.
    pub fn new(channel: C) -> Result<Self> {
        channel.set_mode(Mode::NonBlocking)?;
        Ok(Self::of(Arc::new(channel)))
    }

    fn of(channel: Arc<C>) -> Self {
        let waiting = |interest| Waiting::new(Arc::clone(&channel), interest);
        let (reading, writing) = (waiting(Interest::READ), waiting(Interest::WRITE));
        Self { channel, reading, writing }
    }

    /// The channel.
    pub fn get_ref(&self) -> &C {
        &self.channel
    }

    /// Waits until a read, or a write, would not block.
    ///
    /// # Errors
    ///
    /// What makes waiting pointless.
    pub async fn ready(&self, interest: Interest) -> Result<Readiness> {
        super::run(Watch::new(Arc::clone(&self.channel), interest)).await?
    }

    /// Reads into several buffers with flags, and receives descriptors:
    /// [`ChannelExt::read_with`].
    ///
    /// # Errors
    ///
    /// Those of [`ChannelExt::read_with`] but `WouldBlock`.
    pub async fn read_with(
        &mut self,
        bufs: &mut [IoSliceMut<'_>],
        flags: ReadFlags,
        mut fds: Option<&mut qio::FdSink>,
    ) -> Result<usize> {
        std::future::poll_fn(|cx| {
            self.reading.poll(cx, &*self.channel, |channel| {
                channel.read_with(bufs, flags | ReadFlags::NONBLOCK, fds.as_deref_mut())
            })
        })
        .await
    }

    /// Writes several buffers with flags, and descriptors with the first byte:
    /// [`ChannelExt::write_with`].
    ///
    /// # Errors
    ///
    /// Those of [`ChannelExt::write_with`] but `WouldBlock`.
    pub async fn write_with(
        &mut self,
        bufs: &[IoSlice<'_>],
        flags: WriteFlags,
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<usize> {
        std::future::poll_fn(|cx| {
            self.writing.poll(cx, &*self.channel, |channel| {
                channel.write_with(bufs, flags | WriteFlags::NONBLOCK, fds)
            })
        })
        .await
    }
}

/// Another half of the same channel.
impl<C: Channel> Clone for AsyncChannel<C> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.channel))
    }
}

impl<C: Channel> Waiting<C> {
    fn new(channel: Arc<C>, interest: Interest) -> Self {
        Self {
            watch: Stepper::new(Watch::new(channel, interest)),
            registrations: Registrations::default(),
            parked: false,
        }
    }

    /// Repeats `attempt` until it is anything but would-block.
    fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        channel: &C,
        mut attempt: impl FnMut(&C) -> Result<R>,
    ) -> Poll<Result<R>> {
        for _ in 0..ROUNDS {
            if !self.parked {
                match attempt(channel) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => {
                        // What is registered is mostly waited for again; of a channel that fails
                        // it would be kept open.
                        if result.is_err() {
                            self.registrations.clear();
                        }
                        return Poll::Ready(result);
                    }
                }
                self.parked = true;
                self.turn()?;
            }
            while self.parked {
                if !self.watch.is_due()
                    && self.registrations.poll(self.watch.set_mut(), cx)?.is_pending()
                {
                    return Poll::Pending;
                }
                self.turn()?;
            }
        }
        // A channel that says it is ready and would-blocks all the same: let others run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks whether there is something to try for; else it is registered what is waited for.
    fn turn(&mut self) -> Result<()> {
        match self.watch.turn(Instant::now()) {
            Poll::Ready(ready) => {
                self.parked = false;
                ready.map(drop)
            }
            // A channel that was closed reports nothing, and an attempt fails.
            Poll::Pending if self.watch.steps().is_over() => {
                self.parked = false;
                Ok(())
            }
            Poll::Pending => self.registrations.sync(self.watch.set()),
        }
    }
}

/// How many attempts are made in one go before other tasks get their turn.
const ROUNDS: u32 = 16;

impl<C: Channel> AsyncRead for AsyncChannel<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize>> {
        let Self { channel, reading, .. } = &mut *self;
        reading.poll(cx, channel, |channel| channel.read(buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<Result<usize>> {
        let Self { channel, reading, .. } = &mut *self;
        reading.poll(cx, channel, |channel| channel.read_vectored(bufs))
    }
}

impl<C: Channel> AsyncWrite for AsyncChannel<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        let Self { channel, writing, .. } = &mut *self;
        writing.poll(cx, channel, |channel| channel.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let Self { channel, writing, .. } = &mut *self;
        writing.poll(cx, channel, |channel| channel.write_vectored(bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { channel, writing, .. } = &mut *self;
        writing.poll(cx, channel, |channel| channel.flush())
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { channel, writing, .. } = &mut *self;
        writing.poll(cx, channel, |channel| channel.finish())
    }
}
