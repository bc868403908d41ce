//! Terminals that other processes share.

use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::interest::Direction;

/// Opens a terminal once more, for an open file of our own that may be non-blocking.
///
/// Only for virtual and pseudo terminals: opening the master of a pseudo terminal makes a new one,
/// and opening a serial line moves its control lines. `None` too when it cannot be done (another
/// user's terminal, no /proc).
pub(super) fn reopen(fd: BorrowedFd<'_>, direction: Direction) -> Option<OwnedFd> {
    const VIRTUAL: u32 = 4;
    const PSEUDO: RangeInclusive<u32> = 136..=143;
    let device = rustix::fs::fstat(fd).ok()?.st_rdev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let is_safe = PSEUDO.contains(&major) || (major == VIRTUAL && minor < 64);
    if !is_safe {
        return None;
    }
    let access = match direction {
        Direction::Read => OFlags::RDONLY,
        Direction::Write => OFlags::WRONLY,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let own = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    (rustix::fs::fstat(&own).ok()?.st_rdev == device).then_some(own)
}
