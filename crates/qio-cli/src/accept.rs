//! Accepting clients, as many as there are slots.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio::net::{Accepted, Listener, is_descriptor_limit};
use qio::watch::{PollSet, Steps};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accepts clients until something else has to happen first; each is given to `start`, with its
/// slot.
#[derive(Debug)]
pub(crate) struct AcceptLoop<'a, F> {
    listener: &'a Listener,
    slots: &'a Arc<Semaphore>,
    /// One client is enough.
    once: bool,
    start: F,
    more: bool,
}

/// Why accepting pauses or ends.
#[derive(Debug)]
pub(crate) enum Interruption {
    /// As many clients as were asked for have come.
    Enough,
    /// All slots are taken: go on when one is free.
    NoSlot,
    /// No descriptor can be had: go on after a while.
    Limit(io::Error),
    /// The listener cannot be used any more.
    Broken(io::Error),
}

/// How many clients are accepted before others get a turn.
const AT_ONCE: usize = 32;

impl<'a, F: FnMut(Accepted, OwnedSemaphorePermit)> AcceptLoop<'a, F> {
    pub(crate) fn new(
        listener: &'a Listener,
        slots: &'a Arc<Semaphore>,
        once: bool,
        start: F,
    ) -> Self {
        Self { listener, slots, once, start, more: false }
    }
}

impl<F: FnMut(Accepted, OwnedSemaphorePermit)> Steps for AcceptLoop<'_, F> {
    type Output = Interruption;

    fn step(&mut self, _now: Instant) -> Poll<Interruption> {
        self.more = false;
        for _ in 0..AT_ONCE {
            let Ok(slot) = Arc::clone(self.slots).try_acquire_owned() else {
                return Poll::Ready(Interruption::NoSlot);
            };
            match self.listener.try_accept() {
                Ok(client) => {
                    (self.start)(client, slot);
                    if self.once {
                        return Poll::Ready(Interruption::Enough);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => {
                    return Poll::Ready(match is_descriptor_limit(&error) {
                        true => Interruption::Limit(error),
                        false => Interruption::Broken(error),
                    });
                }
            }
        }
        self.more = true;
        Poll::Pending
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.listener.watch(set);
        if self.more {
            set.wake_at(Instant::now());
        }
    }
}
