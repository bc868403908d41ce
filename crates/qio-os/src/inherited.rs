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
    /// Also of those that were taken, so that it can be told why there is none.
    names: BTreeMap<RawFd, String>,
    remark: Option<String>,
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

    /// Gives a number a name, as a service manager does (sd_listen_fds_with_names(3)); several
    /// numbers may have the same one. It stays when the descriptor is taken.
    pub fn set_name(&mut self, number: RawFd, name: impl Into<String>) {
        self.names.insert(number, name.into());
    }

    /// The name of a number.
    pub fn name(&self, number: RawFd) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }

    /// The numbers of that name which can still be taken, in order.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = RawFd> + 'a {
        self.numbers().filter(move |&number| self.name(number) == Some(name))
    }

    /// Each name once, in the order of their first numbers, also of descriptors that were taken.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.names.values() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// Sets what errors about missing descriptors say besides: why some that were expected are
    /// not there.
    pub fn set_remark(&mut self, remark: impl Into<String>) {
        self.remark = Some(remark.into());
    }

    /// Why some descriptors that were expected are not there.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }
}

impl Extend<(RawFd, OwnedFd)> for InheritedFds {
    /// Adds descriptors; those that were there under the same numbers are closed.
    fn extend<T: IntoIterator<Item = (RawFd, OwnedFd)>>(&mut self, fds: T) {
        self.by_number.extend(fds);
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
