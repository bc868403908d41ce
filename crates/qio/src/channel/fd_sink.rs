//! Where received descriptors go.

use std::os::fd::OwnedFd;

use super::PeerCredentials;

/// How many descriptors the kernel lets one message carry (`SCM_MAX_FD`, unix(7)).
pub const MAX_FDS_PER_MESSAGE: usize = 253;

/// Takes the descriptors that arrive with data, up to a limit.
///
/// Give the same sink to every read of a message: descriptors may come with any of its segments.
/// More descriptors than there is room for are an error of the read, never a silent loss.
///
/// ```
/// use std::fs::File;
/// use std::io::{IoSlice, IoSliceMut};
/// use std::os::fd::AsFd;
/// use qio::{ChannelExt, FdSink, ReadFlags, WriteFlags, transport::Socket};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Socket::pair()?;
/// let file = File::open("/dev/null")?;
/// left.write_all_with(&mut [IoSlice::new(b"one")], WriteFlags::empty(), &[file.as_fd()])?;
///
/// let mut sink = FdSink::new(1);
/// let mut text = [0; 3];
/// let bufs = &mut [IoSliceMut::new(&mut text)];
/// right.read_exact_with(bufs, ReadFlags::empty(), Some(&mut sink))?;
/// let received: Vec<File> = sink.drain().map(File::from).collect();
/// assert_eq!(received.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FdSink {
    fds: Vec<OwnedFd>,
    limit: usize,
    keep: bool,
    dropped: usize,
    sender: Option<PeerCredentials>,
}

impl FdSink {
    /// A sink with room for `limit` descriptors at a time, allocated at once.
    ///
    /// QEMU's limit for a message is 16; the kernel's is [`MAX_FDS_PER_MESSAGE`].
    pub fn new(limit: usize) -> Self {
        Self { fds: Vec::with_capacity(limit), limit, keep: true, dropped: 0, sender: None }
    }

    /// A sink that closes what arrives, and counts it.
    pub fn discarding() -> Self {
        Self { fds: Vec::new(), limit: MAX_FDS_PER_MESSAGE, keep: false, dropped: 0, sender: None }
    }

    /// How many more descriptors there is room for.
    #[inline]
    pub fn room(&self) -> usize {
        self.limit - self.fds.len()
    }

    /// How many descriptors were closed because this sink does not keep any.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// The descriptors received so far, in order.
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// Takes the descriptors out, in order, and makes room again.
    pub fn drain(&mut self) -> impl Iterator<Item = OwnedFd> + '_ {
        self.fds.drain(..)
    }

    /// Who sent the bytes of the last read, when the channel tells
    /// ([`Socket::set_receive_credentials`](crate::transport::Socket::set_receive_credentials)).
    ///
    /// One read never mixes the bytes of two senders then, but a loop of reads may have gone from
    /// one to the next.
    pub fn sender(&self) -> Option<PeerCredentials> {
        self.sender
    }

    /// Says who sent the bytes of this read, or that it is not known. For channels that receive
    /// credentials.
    pub fn set_sender(&mut self, sender: Option<PeerCredentials>) {
        self.sender = sender;
    }

    /// Closes all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.fds.truncate(len);
    }

    /// Takes one received descriptor. For channels that receive some.
    ///
    /// Gives it back when there is no room.
    #[inline]
    pub fn push(&mut self, fd: OwnedFd) -> Result<(), OwnedFd> {
        if !self.keep {
            self.dropped += 1;
        } else if self.room() == 0 {
            return Err(fd);
        } else {
            self.fds.push(fd);
        }
        Ok(())
    }
}
