//! Accepting clients, as many as there are slots.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio::net::{Accepted, Listener};
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
    /// No client can be had for now, or others wait for a descriptor: go on after a while.
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

/// Whether accepting may go better later, after an error: always, unless the listener itself is the
/// reason. There may be no descriptor or memory, a firewall, a network that is down, or a client
/// that broke the protocol.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let of_listener = match errno {
        Some(errno) => matches!(
            errno,
            Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::OPNOTSUPP | Errno::FAULT
        ),
        None => {
            matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::InvalidInput)
        }
    };
    !of_listener
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listener_itself_ends_the_accepting() {
        use Errno as E;
        for errno in [E::NOMEM, E::NOBUFS, E::PERM, E::PROTO, E::MFILE, E::NFILE, E::NETDOWN] {
            assert!(may_pass(&errno.into()), "{errno:?}");
        }
        for errno in [E::BADF, E::NOTSOCK, E::INVAL] {
            assert!(!may_pass(&errno.into()), "{errno:?}");
        }
        assert!(!may_pass(&io::ErrorKind::NotConnected.into()), "it was closed");
    }
}
