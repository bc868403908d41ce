//! A flag that can be waited for.

use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use super::{PollSet, SharedFd};
use crate::interest::Interest;

/// A level that a leg can be made of: raised until it is lowered.
///
/// Costs no descriptor until somebody waits for it. The caller's own lock orders raising,
/// lowering and waiting: a state change and the call that announces it belong together.
#[derive(Debug, Default)]
pub struct Event {
    fd: OnceLock<SharedFd>,
    raised: Mutex<bool>,
}

impl Event {
    /// An event that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes every wait on the event, and every later one until it is lowered.
    pub fn raise(&self) {
        let mut raised = self.lock();
        if !*raised {
            *raised = true;
            self.signal();
        }
    }

    /// Takes the level down, and says whether it was up.
    pub fn lower(&self) -> bool {
        let mut raised = self.lock();
        if *raised && let Some(fd) = self.fd.get() {
            let mut count = [0; 8];
            // Fails with EAGAIN when the descriptor was made after the level was raised and
            // lowered: there is nothing to take back then.
            let _ = rustix::io::read(fd, &mut count);
        }
        std::mem::replace(&mut *raised, false)
    }

    /// Adds a leg that fires while the event is raised and grants `grants`.
    ///
    /// At the limit of open files no leg can be made; the set then asks to be driven again soon,
    /// so that the wait goes on by looking now and then.
    pub fn watch(&self, grants: Interest, set: &mut PollSet) {
        match self.descriptor() {
            Ok(fd) => set.add(fd, Interest::READ, grants),
            Err(_limit) => set.wake_at(Instant::now() + LOOK_AGAIN),
        }
    }

    fn descriptor(&self) -> io::Result<&SharedFd> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd);
        }
        let raised = self.lock();
        if self.fd.get().is_none() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let fd = rustix::event::eventfd(u32::from(*raised), flags)?;
            self.fd.get_or_init(|| SharedFd::new(fd));
        }
        drop(raised);
        Ok(self.fd.get().expect("filled above"))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        if let Some(fd) = self.fd.get() {
            // Adds 1 to a counter that is 0: it cannot overflow, so it cannot fail or block.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }
}

/// How often a wait without a descriptor looks again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);
