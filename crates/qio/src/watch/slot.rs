//! Where a channel keeps its descriptor.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::SharedFd;

/// A descriptor that can be taken away at any time, from any thread.
///
/// A call borrows the descriptor for as long as it runs; [`take`](Slot::take) empties the slot for
/// all later calls at once. The descriptor itself is closed when the last owner lets go, so its
/// number cannot be given to another file while a call still uses it.
#[derive(Debug)]
pub struct Slot {
    current: ArcSwapOption<OwnedFd>,
}

impl Slot {
    /// A slot that holds `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        Self::from_shared(SharedFd::new(fd))
    }

    /// A slot that holds a descriptor which a leg may own too: that of a connect that was waited
    /// for.
    pub(crate) fn from_shared(fd: SharedFd) -> Self {
        Self { current: ArcSwapOption::new(Some(fd)) }
    }

    /// Borrows the descriptor for one call.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the slot was emptied: the channel is closed.
    #[inline]
    pub fn borrow(&self) -> io::Result<Borrowed> {
        let guard = self.current.load();
        if guard.is_some() { Ok(Borrowed(guard)) } else { Err(closed()) }
    }

    /// Shares ownership of the descriptor, for a [`Leg`](super::Leg); `None` when emptied.
    #[inline]
    pub fn share(&self) -> Option<SharedFd> {
        self.current.load_full()
    }

    /// Empties the slot. The first caller gets the descriptor.
    pub fn take(&self) -> Option<SharedFd> {
        self.current.swap(None)
    }

    /// Whether the slot was emptied.
    pub fn is_empty(&self) -> bool {
        self.current.load().is_none()
    }
}

/// A descriptor borrowed from a [`Slot`].
#[derive(Debug)]
pub struct Borrowed(Guard<Option<SharedFd>>);

impl Deref for Borrowed {
    type Target = OwnedFd;

    #[inline]
    fn deref(&self) -> &OwnedFd {
        self.0.as_deref().expect("borrow() returns only guards that hold a descriptor")
    }
}

impl AsFd for Borrowed {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

/// The error of every call on a closed channel.
#[cold]
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the channel is closed")
}

/// Closes a descriptor for good if nobody else uses it, else leaves that to the last user.
///
/// # Errors
///
/// What close(2) reports.
pub(crate) fn release(fd: SharedFd) -> io::Result<()> {
    Arc::try_unwrap(fd).map_or(Ok(()), qio_os::close)
}
