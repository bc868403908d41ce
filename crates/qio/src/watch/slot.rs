//! Where a channel keeps its descriptor.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, TryLockError};

use super::SharedFd;

/// A descriptor that can be taken away at any time, from any thread.
///
/// A call borrows the descriptor for as long as it runs; [`take`](Slot::take) empties the slot for
/// all later calls at once. The descriptor itself is closed when the last owner lets go, so its
/// number cannot be given to another file while a call still uses it.
///
/// No method waits for another: whoever empties the slot while it is borrowed leaves the letting
/// go to the last borrower.
#[derive(Debug)]
pub struct Slot {
    /// Used as a count of borrowers, never waited for: read-locked while borrowed, write-locked
    /// only to let go, and so only when `emptied`.
    current: RwLock<Option<SharedFd>>,
    emptied: AtomicBool,
}

impl Slot {
    /// A slot that holds `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        Self::from_shared(SharedFd::new(fd))
    }

    /// A slot that holds a descriptor which a leg may own too: that of a connect that was waited
    /// for.
    pub(crate) fn from_shared(fd: SharedFd) -> Self {
        Self { current: RwLock::new(Some(fd)), emptied: AtomicBool::new(false) }
    }

    /// Borrows the descriptor for one call.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the slot was emptied: the channel is closed.
    #[inline(always)]
    pub fn borrow(&self) -> io::Result<Borrowed<'_>> {
        self.try_borrow().ok_or_else(closed)
    }

    /// Borrows the descriptor; `None` when the slot was emptied.
    #[inline(always)]
    pub fn try_borrow(&self) -> Option<Borrowed<'_>> {
        if self.is_empty() {
            return None;
        }
        // Locked for writing, or without a descriptor, only if it was emptied since.
        let current = self.current.try_read().ok()?;
        if current.is_none() {
            return None;
        }
        Some(Borrowed { current, _let_go: LetGo { slot: self } })
    }

    /// Shares ownership of the descriptor, for a [`Leg`](super::Leg); `None` when emptied.
    #[inline]
    pub fn share(&self) -> Option<SharedFd> {
        let borrowed = self.try_borrow()?;
        borrowed.current.clone()
    }

    /// Empties the slot. The first caller gets the descriptor.
    pub fn take(&self) -> Option<SharedFd> {
        let borrowed = self.try_borrow()?;
        let fd = borrowed.current.clone();
        let first = !self.emptied.swap(true, Ordering::AcqRel);
        // Letting go of the borrow lets go of the slot's own share too, unless a call is running.
        drop(borrowed);
        if first { fd } else { None }
    }

    /// Whether the slot was emptied.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.emptied.load(Ordering::Acquire)
    }

    #[cold]
    fn let_go(&self) {
        let fd = match self.current.try_write() {
            Ok(mut current) => current.take(),
            Err(TryLockError::Poisoned(current)) => current.into_inner().take(),
            // Another borrower is left, and will come here in its turn; or is here already.
            Err(TryLockError::WouldBlock) => None,
        };
        drop(fd);
    }
}

/// A descriptor borrowed from a [`Slot`].
#[derive(Debug)]
pub struct Borrowed<'a> {
    // Dropped in this order.
    current: RwLockReadGuard<'a, Option<SharedFd>>,
    _let_go: LetGo<'a>,
}

impl Borrowed<'_> {
    /// The descriptor as what it is in the slot, to share ownership of it.
    #[inline]
    pub fn shared(&self) -> &SharedFd {
        self.current.as_ref().expect("borrow() gives out no empty slot")
    }
}

impl Deref for Borrowed<'_> {
    type Target = OwnedFd;

    #[inline]
    fn deref(&self) -> &OwnedFd {
        self.shared()
    }
}

impl AsFd for Borrowed<'_> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

/// What the end of a borrow does after unlocking.
#[derive(Debug)]
struct LetGo<'a> {
    slot: &'a Slot,
}

impl Drop for LetGo<'_> {
    #[inline]
    fn drop(&mut self) {
        // A plain load could miss a `take` that in turn missed the unlocking before it. A
        // successful exchange of equal values cannot: it is ordered with the swap in `take`, and
        // when it comes first, what came before it is visible there.
        let emptied = &self.slot.emptied;
        if emptied.compare_exchange(false, false, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.slot.let_go();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap())
    }

    #[test]
    fn the_first_take_gets_the_descriptor_and_later_calls_nothing() {
        let slot = slot();
        let fd = slot.take().unwrap();
        assert_eq!(Arc::strong_count(&fd), 1);
        assert!(slot.is_empty() && slot.take().is_none() && slot.share().is_none());
        assert_eq!(slot.borrow().unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn the_last_borrower_lets_go_of_an_emptied_slot() {
        let slot = slot();
        let (first, second) = (slot.borrow().unwrap(), slot.borrow().unwrap());
        let fd = slot.take().unwrap();
        assert_eq!(Arc::strong_count(&fd), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&fd), 2);
        drop(second);
        assert_eq!(Arc::strong_count(&fd), 1);
    }

    #[test]
    fn racing_borrowers_leave_nothing_behind() {
        for _ in 0..2000 {
            let slot = slot();
            let taken = std::thread::scope(|scope| {
                let borrower = || while slot.borrow().is_ok() {};
                scope.spawn(borrower);
                scope.spawn(borrower);
                slot.take().unwrap()
            });
            assert_eq!(Arc::strong_count(&taken), 1);
        }
    }
}
