//! The way into `std::io`.

use std::io::{IoSlice, IoSliceMut, Read, Result, Seek, SeekFrom, Write};
use std::ops::Deref;

use super::{Channel, ChannelExt};

/// A channel as `std::io::{Read, Write, Seek}`.
///
/// It wraps a reference or a pointer, never the channel itself: `Io(&channel)`, or `Io` of a
/// `Box<C>`, an `Arc<C>` or an `Arc<dyn Channel>`.
///
/// The channel's mode decides whether the calls block. `flush` waits until the channel has handed
/// on what it buffers.
///
/// ```
/// use std::io::{Read, Write};
/// use qio::{Io, transport::Socket};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Socket::pair()?;
/// Io(&left).write_all(b"hello")?;
/// drop(left);
/// let mut text = String::new();
/// Io(&right).read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a transparent wrapper")]
pub struct Io<C>(pub C);

impl<P: Deref<Target: Channel>> Read for Io<P> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.0.read_vectored(bufs)
    }
}

impl<P: Deref<Target: Channel>> Write for Io<P> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.0.write_vectored(bufs)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush_all(None)
    }
}

impl<P: Deref<Target: Channel>> Seek for Io<P> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}
