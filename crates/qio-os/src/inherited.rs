//! The descriptors that a program was started with.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Descriptors that a program inherited, each handed out once.
///
/// A number in a text never becomes a descriptor by itself: it is looked up here. A library user
/// fills the table with descriptors it owns; a program's `main` takes those it was started with
/// through [`take_inherited`].
#[derive(Debug, Default)]
pub struct InheritedFds {
    by_number: BTreeMap<RawFd, OwnedFd>,
}

impl InheritedFds {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a descriptor under `number`, which need not be its own number.
    ///
    /// Returns the descriptor that was there before.
    pub fn insert(&mut self, number: RawFd, fd: OwnedFd) -> Option<OwnedFd> {
        self.by_number.insert(number, fd)
    }

    /// Takes the descriptor out; a second call with the same number gives `None`.
    pub fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        self.by_number.remove(&number)
    }

    /// The numbers that can still be taken, in order.
    pub fn numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.by_number.keys().copied()
    }
}

/// Takes ownership of those of `numbers` that are open, and sets CLOEXEC on them.
///
/// Numbers that are not open are left out of the table; asking the table for them says so.
///
/// # Safety
///
/// Nothing else in the process may own or close any of `numbers`. A program's `main` can promise
/// that before it opens any descriptor and before it starts a thread: what is open then was
/// inherited. (Descriptors 0 to 2 are also used by `std`'s standard streams, which never close
/// them; a program that takes them must stop using those streams once a taken one is dropped.)
pub unsafe fn take_inherited(numbers: impl IntoIterator<Item = RawFd>) -> InheritedFds {
    let mut table = InheritedFds::new();
    for number in numbers {
        if number < 0 || table.by_number.contains_key(&number) {
            continue;
        }
        // SAFETY: F_GETFD touches no memory, and a number that is not open gives -1.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 {
            debug_assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
            continue;
        }
        // SAFETY: F_SETFD takes an int and touches no memory; the caller owns the number.
        unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
        // SAFETY: the number is open (checked above) and the caller promises that nobody else owns
        // it; it is not negative.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        table.by_number.insert(number, fd);
    }
    table
}
