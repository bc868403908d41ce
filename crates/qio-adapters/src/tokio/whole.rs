//! Reading and writing whole buffers.

use std::future::poll_fn;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::BorrowedFd;
use std::pin::Pin;

use qio::{Channel, ChannelExt, Features, ReadFlags, WriteFlags};
use tokio::io::AsyncWrite;

use super::channel::{AsyncChannel, ReadHalf, WriteHalf};

impl<C: Channel> AsyncChannel<C> {
    /// Fills the whole buffer, or gives `false` when the stream ends before the first byte.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` for an end after the first byte; what came is in the buffer then. Others as
    /// [`ChannelExt::read_exact_or_eof`].
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time, unlike tokio's `read_exact`: what it had read is there for the
    /// next read through this type, whatever its kind. (The channel itself,
    /// [`get_ref`](AsyncChannel::get_ref), knows nothing of it.)
    #[doc(alias = "qio_channel_readv_all_eof")]
    #[doc(alias = "qio_channel_read_all_eof")]
    pub async fn read_exact_or_eof(&mut self, buf: &mut [u8]) -> Result<bool> {
        self.read_half().read_exact_or_eof(buf).await
    }

    /// Writes all buffers, and the descriptors with the first byte, and flushes.
    ///
    /// # Errors
    ///
    /// As [`ChannelExt::write_all_with`], but never `WouldBlock`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: `bufs` and `fds` are then what was not sent, and the same call
    /// goes on with that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::os::fd::AsFd;
    ///
    /// use qio::transport::Socket;
    /// use qio::WriteFlags;
    /// use qio_adapters::tokio::AsyncChannel;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// let (left, right) = Socket::pair()?;
    /// let mut left = AsyncChannel::new(left)?;
    /// let file = std::fs::File::open("/dev/null")?;
    /// let mut bufs = &mut [IoSlice::new(b"header "), IoSlice::new(b"body")][..];
    /// let mut fds = &[file.as_fd()][..];
    /// left.write_all_with(&mut bufs, WriteFlags::empty(), &mut fds).await?;
    /// assert!(bufs.is_empty() && fds.is_empty());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "qio_channel_writev_full_all")]
    pub async fn write_all_with(
        &mut self,
        bufs: &mut &mut [IoSlice<'_>],
        flags: WriteFlags,
        fds: &mut &[BorrowedFd<'_>],
    ) -> Result<()> {
        self.write_half().write_all_with(bufs, flags, fds).await
    }
}

impl<C: Channel> ReadHalf<C> {
    /// Fills the buffer as [`AsyncChannel::read_exact_or_eof`] does.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: what it had read is there for the next read.
    pub async fn read_exact_or_eof(&mut self, buf: &mut [u8]) -> Result<bool> {
        refuse_messages(self.get_ref(), "receive")?;
        let mut filling = Filling { half: self, buf, done: 0 };
        let result = filling.fill().await;
        // Whoever is told of the end has the bytes.
        filling.done = 0;
        result
    }
}

impl<C: Channel> WriteHalf<C> {
    /// Writes as [`AsyncChannel::write_all_with`] does.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: `bufs` and `fds` are then what was not sent.
    pub async fn write_all_with(
        &mut self,
        bufs: &mut &mut [IoSlice<'_>],
        flags: WriteFlags,
        fds: &mut &[BorrowedFd<'_>],
    ) -> Result<()> {
        refuse_messages(self.get_ref(), "send")?;
        IoSlice::advance_slices(bufs, 0);
        if bufs.is_empty() && !fds.is_empty() {
            let text = "descriptors need a byte that carries them";
            return Err(invalid(self.get_ref(), ErrorKind::InvalidInput, text));
        }
        while !bufs.is_empty() {
            let n = poll_fn(|cx| self.poll_write_with(cx, bufs, flags, fds)).await?;
            if n == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            *fds = &[];
            IoSlice::advance_slices(bufs, n);
        }
        // Layers may have taken it, and the channel below them only a part.
        poll_fn(|cx| Pin::new(&mut *self).poll_flush(cx)).await
    }
}

/// A buffer that is being filled. What is in it goes back when the future is dropped.
struct Filling<'a, C: Channel> {
    half: &'a mut ReadHalf<C>,
    buf: &'a mut [u8],
    done: usize,
}

impl<C: Channel> Filling<'_, C> {
    async fn fill(&mut self) -> Result<bool> {
        while self.done < self.buf.len() {
            let rest = IoSliceMut::new(&mut self.buf[self.done..]);
            match self.half.read_with(&mut [rest], ReadFlags::empty(), None).await? {
                0 if self.done == 0 => return Ok(false),
                0 => {
                    let done = self.done;
                    let text = format!("the stream ended after {done} bytes of a longer message");
                    return Err(invalid(self.half.get_ref(), ErrorKind::UnexpectedEof, &text));
                }
                n => self.done += n,
            }
        }
        Ok(true)
    }
}

impl<C: Channel> Drop for Filling<'_, C> {
    fn drop(&mut self) {
        self.half.put_back(&self.buf[..self.done]);
    }
}

fn refuse_messages<C: Channel>(channel: &C, instead: &str) -> Result<()> {
    if channel.features().contains(Features::MESSAGES) {
        let text = format!("it keeps messages apart: use {instead}");
        return Err(invalid(channel, ErrorKind::Unsupported, &text));
    }
    Ok(())
}

fn invalid<C: Channel>(channel: &C, kind: ErrorKind, text: &str) -> Error {
    Error::new(kind, format!("{}: {text}", channel.name()))
}
