//! Accepting clients, as many as there are slots.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio::net::{Accepted, Accepting, Listener};
use qio::watch::{PollSet, Steps};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accepts clients until something else has to happen first; each is given to `start`, with its
/// slot, while `may_accept` says so.
#[derive(Debug)]
pub(crate) struct AcceptLoop<'a, M, F> {
    /// One for all clients: it knows whose handshakes are due.
    accepting: Accepting<'a>,
    slots: &'a Arc<Semaphore>,
    /// One client is enough.
    once: bool,
    may_accept: M,
    start: F,
}

/// Why accepting pauses or ends.
#[derive(Debug)]
pub(crate) enum Interruption {
    /// Others get a turn, those that were accepted first of all: they need a descriptor each for
    /// their other side.
    Turn,
    /// As many clients as were asked for have come.
    Enough,
    /// All slots are taken: go on when one is free.
    NoSlot,
    /// Others wait for a descriptor: go on after a while.
    Starving,
    /// The listener cannot be used any more.
    Broken(io::Error),
}

/// How many clients are accepted before others get a turn.
const AT_ONCE: usize = 16;

impl<'a, M, F> AcceptLoop<'a, M, F>
where
    M: Fn() -> bool,
    F: FnMut(Accepted, OwnedSemaphorePermit),
{
    pub(crate) fn new(
        listener: &'a Listener,
        slots: &'a Arc<Semaphore>,
        once: bool,
        may_accept: M,
        start: F,
    ) -> Self {
        Self { accepting: listener.accepting(), slots, once, may_accept, start }
    }
}

impl<M, F> Steps for AcceptLoop<'_, M, F>
where
    M: Fn() -> bool,
    F: FnMut(Accepted, OwnedSemaphorePermit),
{
    type Output = Interruption;

    fn step(&mut self, now: Instant) -> Poll<Interruption> {
        for _ in 0..AT_ONCE {
            if !(self.may_accept)() {
                return Poll::Ready(Interruption::Starving);
            }
            let Ok(slot) = Arc::clone(self.slots).try_acquire_owned() else {
                return Poll::Ready(Interruption::NoSlot);
            };
            match self.accepting.step(now) {
                Poll::Ready(Ok(client)) => {
                    (self.start)(client, slot);
                    if self.once {
                        return Poll::Ready(Interruption::Enough);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Interruption::Broken(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Interruption::Turn)
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.accepting.watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        self.accepting.woken(set);
    }
}
