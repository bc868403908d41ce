//! Accepting clients, as many as there are slots.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio::net::{Accepted, Listener, is_descriptor_limit};
use qio::watch::{PollSet, Steps};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accepts clients until something else has to happen first; each is given to `start`, with its
/// slot, while `may_accept` says so.
#[derive(Debug)]
pub(crate) struct AcceptLoop<'a, M, F> {
    listener: &'a Listener,
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
    /// No descriptor or memory can be had, or others wait for one: go on after a while.
    Limit(Option<io::Error>),
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
        Self { listener, slots, once, may_accept, start }
    }
}

impl<M, F> Steps for AcceptLoop<'_, M, F>
where
    M: Fn() -> bool,
    F: FnMut(Accepted, OwnedSemaphorePermit),
{
    type Output = Interruption;

    fn step(&mut self, _now: Instant) -> Poll<Interruption> {
        for _ in 0..AT_ONCE {
            if !(self.may_accept)() {
                return Poll::Ready(Interruption::Limit(None));
            }
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
                    return Poll::Ready(match may_pass(&error) {
                        true => Interruption::Limit(Some(error)),
                        false => Interruption::Broken(error),
                    });
                }
            }
        }
        Poll::Ready(Interruption::Turn)
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.listener.watch(set);
    }
}

/// Whether an error of accept(2) says that something has run out, which ends by itself: no reason
/// to end the connections that live.
fn may_pass(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    is_descriptor_limit(error) || matches!(errno, Some(Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_does_not_end_the_listener() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(may_pass(&errno.into()), "{errno:?}");
        }
        assert!(!may_pass(&Errno::INVAL.into()));
        assert!(!may_pass(&io::ErrorKind::NotConnected.into()));
    }
}
