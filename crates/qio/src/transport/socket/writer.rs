//! Waiting for room in a Unix socket.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::SendFlags;

use crate::interest::Interest;
use crate::watch::{Event, PollSet, SharedFd};

/// Who waits for room in a Unix socket, and what poll(2) does not tell such a one.
#[derive(Debug, Default)]
pub(super) struct Writer {
    shut: AtomicBool,
    /// Raised with `shut`: poll(2) does not call a full Unix socket writable when it is shut down
    /// for writing (unix_poll), so nothing else would wake its writer.
    wake: Event,
    /// Somebody has waited since the last look, and when to look next.
    waits: AtomicBool,
    look_at: Mutex<Option<Instant>>,
}

impl Writer {
    /// Adds what a writer waits for; `false` when it need not wait because writing is shut down.
    pub(super) fn watch(&self, fd: &SharedFd, interest: Interest, set: &mut PollSet) -> bool {
        if self.shut.load(Ordering::Acquire) {
            return false;
        }
        set.add(fd, interest, interest);
        self.wake.watch(Interest::WRITE, set);
        let now = Instant::now();
        let mut look_at = self.look_at();
        // A time that has passed is that of an earlier wait, of which nobody needed to know.
        let at = look_at.filter(|at| *at > now).unwrap_or(now + LOOK);
        *look_at = Some(at);
        self.waits.store(true, Ordering::Relaxed);
        set.wake_at(at);
        true
    }

    /// Ends the wait for room: writing is shut down.
    pub(super) fn wake(&self) {
        self.shut.store(true, Ordering::Release);
        self.wake.raise();
    }

    /// Whether somebody waits and it is time to [`look`](Writer::look).
    #[inline]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.waits.load(Ordering::Relaxed) && self.look_at().is_some_and(|at| at <= now)
    }

    /// Finds out whether the peer has shut down its reading, for which poll(2) has no event either:
    /// a message of no bytes is none on a stream, but is refused when nobody would read it.
    #[cold]
    pub(super) fn look(&self, fd: BorrowedFd<'_>) {
        *self.look_at() = None;
        self.waits.store(false, Ordering::Relaxed);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if retry_on_intr(|| rustix::net::send(fd, &[], flags)) == Err(Errno::PIPE) {
            self.wake();
        }
    }

    fn look_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.look_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a peer that reads no more, and neither closes, can go unnoticed by who waits for room.
const LOOK: Duration = Duration::from_secs(1);
