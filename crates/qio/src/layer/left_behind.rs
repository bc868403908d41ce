//! What is left in a layer, and no descriptor tells of.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::interest::Interest;
use crate::watch::{Event, PollSet};

/// Tells those who wait to read that something was left behind: by who wrote, and found no room
/// below, or by who read, and left a part of what came.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    event: Event,
    /// Somebody began to wait since it was told last.
    is_awaited: AtomicBool,
}

impl LeftBehind {
    /// Begins a wait, before the last look: what is left behind from here on is told.
    pub(super) fn begin(&self) {
        self.event.lower();
        self.is_awaited.store(true, Ordering::Release);
    }

    /// Adds what fires then.
    pub(super) fn watch(&self, set: &mut PollSet) {
        self.event.watch(Interest::empty(), set);
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Acquire)
    }

    pub(super) fn tell(&self) {
        self.is_awaited.store(false, Ordering::Release);
        self.event.raise();
    }
}
