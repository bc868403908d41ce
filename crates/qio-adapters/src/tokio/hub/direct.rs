//! A half whose one leg means what it says: it goes back to its registration without asking.

use std::io::{ErrorKind, Result};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use qio::watch::PollSet;
use qio::{Channel, ChannelExt as _, Direction, Features, Interest};
use tokio::task::coop;

use super::{Call, Hub, ROUNDS, Side, Waits};
use crate::tokio::reactor::{Registration, Tick};

/// A registration that a half goes back to without asking for it.
#[derive(Debug, Default)]
pub(super) enum Direct {
    #[default]
    None,
    /// It may have to be made anew for another direction, and has to be gone before.
    Lent(Weak<Registration>),
    /// It is for both directions, for good, and each half waits for its own.
    Kept(Arc<Registration>),
}

impl Side {
    /// Goes back to a registration the next time, unless there was more to do, or a failure.
    #[inline]
    fn go_back<R>(&mut self, direct: Direct, polled: Option<&Poll<Result<R>>>) {
        if !matches!(polled, None | Some(Poll::Ready(Err(_)))) {
            self.direct = direct;
        }
    }
}

impl<C: Channel> Hub<C> {
    /// Moves some of `asked` bytes: repeats `attempt` until it is anything but would-block.
    ///
    /// What a plain stream does as tokio's own do it, without what layers need: one look at the
    /// registration, one attempt.
    pub(in crate::tokio) fn poll_bytes(
        &self,
        side: &mut Side,
        asked: usize,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&C) -> Result<usize>,
    ) -> Poll<Result<usize>> {
        if asked > 0 {
            let was_direct = !matches!(side.direct, Direct::None);
            let polled = match std::mem::take(&mut side.direct) {
                Direct::Kept(registration) => {
                    let polled = self.poll_kept(side, &registration, asked, cx, &mut attempt);
                    side.go_back(Direct::Kept(registration), polled.as_ref());
                    polled
                }
                Direct::Lent(lent) => {
                    let polled = lent.upgrade().and_then(|registration| {
                        self.poll_lent(side, &registration, asked, cx, &mut attempt)
                    });
                    side.go_back(Direct::Lent(lent), polled.as_ref());
                    polled
                }
                // A first read mostly finds nothing, and a first write room.
                Direct::None if side.has_waited || side.half == Direction::Read => None,
                Direct::None => self.poll_first(side.half, cx, &mut attempt),
            };
            if let Some(polled) = polled {
                return polled;
            }
            if was_direct {
                // What fired woke the task, and not the slot: there is something to try.
                side.parked = None;
            }
        }
        self.poll_transfer(side, cx, attempt)
    }

    #[inline(never)]
    fn poll_transfer(
        &self,
        side: &mut Side,
        cx: &mut Context<'_>,
        attempt: impl FnMut(&C) -> Result<usize>,
    ) -> Poll<Result<usize>> {
        let interest = side.half.into();
        self.poll(side, (Call::Transfer, interest), cx, attempt)
    }

    /// An attempt of a half that has never waited, for which nothing is registered.
    #[inline]
    fn poll_first(
        &self,
        half: Direction,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(&C) -> Result<usize>,
    ) -> Option<Poll<Result<usize>>> {
        let Poll::Ready(budget) = coop::poll_proceed(cx) else { return Some(Poll::Pending) };
        let result = self.attempt(half, attempt);
        if would_block(&result) {
            return None;
        }
        budget.made_progress();
        Some(Poll::Ready(result))
    }

    /// On a registration of whose directions each half has one to itself. `None` when there is more
    /// to wait for.
    #[inline]
    fn poll_kept(
        &self,
        side: &mut Side,
        registration: &Registration,
        asked: usize,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(&C) -> Result<usize>,
    ) -> Option<Poll<Result<usize>>> {
        for _ in 0..ROUNDS {
            let Poll::Ready(tick) = registration.poll(side.half, cx) else {
                side.is_parked = side.is_parked || self.is_still_direct(side.half, registration);
                return side.is_parked.then_some(Poll::Pending);
            };
            let tick = tick.ok()?;
            let result = self.attempt(side.half, attempt);
            if !would_block(&result) {
                side.is_parked = false;
                if self.has_drained(side.half, registration, asked, &result) {
                    tick.clear();
                }
                return Some(Poll::Ready(self.end(side, result)));
            }
            if tick.is_only_closed() || !self.is_still_direct(side.half, registration) {
                return None;
            }
            side.is_parked = true;
            tick.clear();
        }
        None
    }

    /// The same on a registration that the other half may wait on, too, or make anew.
    fn poll_lent(
        &self,
        side: &mut Side,
        registration: &Registration,
        asked: usize,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(&C) -> Result<usize>,
    ) -> Option<Poll<Result<usize>>> {
        if side.is_parked && !registration.is_ready(side.half) {
            // Polled for something else.
            let polled = self.register(side.half, registration, None, cx)?;
            if polled.is_pending() {
                return Some(Poll::Pending);
            }
        }
        side.is_parked = false;
        // This waker is for both halves.
        let mut polled = registration.poll(side.half, &mut self.slots.context(side.half));
        for _ in 0..ROUNDS {
            let mut tried = None;
            if let Poll::Ready(tick) = polled {
                let tick = tick.ok()?;
                let result = self.attempt(side.half, attempt);
                if !would_block(&result) {
                    if self.has_drained(side.half, registration, asked, &result) {
                        let mut waits = self.lock();
                        waits.cleared += 1;
                        tick.clear();
                    }
                    return Some(Poll::Ready(self.end(side, result)));
                }
                if tick.is_only_closed() {
                    return None;
                }
                tried = Some(tick);
            }
            if !self.is_still_direct(side.half, registration) {
                return None;
            }
            polled = self.register(side.half, registration, tried, cx)?;
            if polled.is_pending() {
                side.is_parked = true;
                return Some(Poll::Pending);
            }
        }
        None
    }

    /// Whether the channel waits on the registration's descriptor now, and on nothing else.
    #[inline]
    fn is_still_direct(&self, half: Direction, registration: &Registration) -> bool {
        let stands = self.channel.watch_stands(half.into(), registration.fd());
        stands && registration.is_polled() || self.is_found_direct(half, registration)
    }

    #[inline(never)]
    fn is_found_direct(&self, half: Direction, registration: &Registration) -> bool {
        let mut set = PollSet::new();
        let ready = self.channel.watch(half.into(), &mut set);
        ready.is_empty() && is_direct(&set, half, registration)
    }

    /// Whether a read has taken all there was, and may wait for the next edge.
    #[inline]
    fn has_drained(
        &self,
        half: Direction,
        registration: &Registration,
        asked: usize,
        result: &Result<usize>,
    ) -> bool {
        half == Direction::Read
            && result.as_ref().is_ok_and(|&count| 0 < count && count < asked)
            && self.channel.features().contains(Features::DRAINS)
            // What stands in front of a socket may give less than that has.
            && self.channel.inner().is_none()
            && !registration.is_urgent()
    }

    /// One attempt, of which the other half is told.
    #[inline]
    fn attempt(
        &self,
        half: Direction,
        attempt: &mut impl FnMut(&C) -> Result<usize>,
    ) -> Result<usize> {
        let result = attempt(&self.channel);
        self.tell_other(half);
        result
    }

    /// The half waits no more.
    #[inline]
    fn end(&self, side: &mut Side, result: Result<usize>) -> Result<usize> {
        if side.parked.is_some() || result.is_err() {
            self.stop(side, self.slots.of(side.half), result.is_err());
        }
        result
    }

    /// Clears what was tried and leaves the waker with the registration, and with the slot: should
    /// the registration be made anew, that is the one to call. `None` when the other half waits on
    /// the same.
    fn register<'r>(
        &self,
        half: Direction,
        registration: &'r Registration,
        tried: Option<Tick<'r>>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<Tick<'r>>>> {
        let mut waits = self.lock();
        if !waits.is_for_one(half, registration) {
            return None;
        }
        if let Some(tick) = tried {
            waits.cleared += 1;
            tick.clear();
        }
        self.slots.of(half).start(half.into(), cx);
        Some(registration.poll(half, cx))
    }

    /// Whether both directions are waited for on one descriptor, which says nothing of the one
    /// because of the other: a leg that means what it says. Registered for both at once it is never
    /// registered anew.
    pub(super) fn is_duplex(&self) -> bool {
        let features = self.channel.features();
        if self.channel.inner().is_some()
            || !features.contains(Features::DRAINS)
            || features.contains(Features::FD_PASS)
        {
            // A layer works when it is asked, and a Unix socket makes an event for who wants room.
            return false;
        }
        let [mut read, mut write] = [PollSet::new(), PollSet::new()];
        let now = self.channel.watch(Interest::READ, &mut read)
            | self.channel.watch(Interest::WRITE, &mut write);
        let legs = (read.one_leg_for(Interest::READ), write.one_leg_for(Interest::WRITE));
        let (Some(of_read), Some(of_write)) = legs else { return false };
        now.is_empty() && Arc::ptr_eq(of_read.fd(), of_write.fd())
    }
}

impl Waits {
    /// What `half` waits on, if that is all there is.
    pub(super) fn direct(&self, half: Direction) -> Direct {
        let set = &self.sets[half as usize];
        let mut registrations = self.reactor.registrations().iter();
        match registrations.find(|known| is_direct(set, half, known)) {
            Some(known) if self.reactor.is_duplex == Some(true) => Direct::Kept(Arc::clone(known)),
            Some(known) => Direct::Lent(Arc::downgrade(known)),
            None => Direct::None,
        }
    }

    /// Whether `half` waits on the registration, and the other one does not for the same direction.
    fn is_for_one(&self, half: Direction, registration: &Registration) -> bool {
        let wants = |set: &PollSet| {
            let mut legs = set.legs().iter();
            legs.any(|leg| {
                Arc::ptr_eq(leg.fd(), registration.fd()) && leg.on().contains(half.into())
            })
        };
        let [of_read, of_write] = &self.sets;
        match half {
            Direction::Read => wants(of_read) && !wants(of_write),
            Direction::Write => wants(of_write) && !wants(of_read),
        }
    }
}

#[inline]
fn would_block<R>(result: &Result<R>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Whether `set` has one leg, on the registration's descriptor, that means what it says.
fn is_direct(set: &PollSet, half: Direction, registration: &Registration) -> bool {
    let leg = set.one_leg_for(half.into());
    leg.is_some_and(|leg| Arc::ptr_eq(leg.fd(), registration.fd()))
        && !set.is_untried()
        && registration.is_polled()
}
