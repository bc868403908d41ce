//! Giving up from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::interest::Interest;
use crate::watch::{Event, PollSet};

/// Gives up what was started with it, from any thread.
///
/// Copies are one and the same: [`trigger`](Cancel::trigger) on any of them ends every attempt
/// that has one, now and later, with [`Class::Cancelled`](crate::error::Class::Cancelled).
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    triggered: AtomicBool,
    event: Event,
}

impl Cancel {
    /// One that was not triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes all who wait, and makes them give up.
    pub fn trigger(&self) {
        // In this order: who is woken sees why.
        self.shared.triggered.store(true, Ordering::Release);
        self.shared.event.raise();
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.shared.triggered.load(Ordering::Acquire)
    }

    /// Adds a leg that fires when it is triggered.
    pub fn watch(&self, set: &mut PollSet) {
        self.shared.event.watch(Interest::READ, set);
    }
}
