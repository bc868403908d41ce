//! What the two halves of a channel share, and how one of them waits.

mod direct;

use std::io::{ErrorKind, Result};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use qio::watch::{Leg, PollSet};
use qio::{Channel, Direction, Interest, Readiness};
use smallvec::SmallVec;
use tokio::task::coop;

use self::direct::Direct;
use super::reactor::{INLINE, Reactor, Registration, Tick, wanted};
use super::run::{PATIENCE, PAUSE, holds};
use super::slots::{Slot, Slots};
use super::storage::Storage;
use super::timer::Timer;

/// A channel with the registrations of both its halves.
#[derive(Debug)]
pub(super) struct Hub<C> {
    pub(super) channel: C,
    pub(super) slots: Slots,
    pub(super) storage: Option<Mutex<Storage>>,
    /// Held for computing only, never over an attempt on the channel.
    waits: Mutex<Waits>,
    /// A bit for each half that begins to wait, or waits for what the other half may bring about.
    ///
    /// Set before the half's look at the channel, and asked for after an attempt of the other. What
    /// an attempt leaves in a channel and a look finds there is behind a lock of the channel: either
    /// the look comes after the attempt, or the attempt after the look, and is told of the half.
    waiting: AtomicU8,
}

#[derive(Debug, Default)]
struct Waits {
    reactor: Reactor,
    /// What each half last asked for.
    sets: [PollSet; 2],
    /// When a half looks again at what only says that it is closed.
    look_again: [Option<Instant>; 2],
    /// Counts what a half took note of and cleared: the other half, if it looked before that,
    /// looks again, because the event may have brought something for it too.
    cleared: u64,
    /// What a half waits for that the other half may bring about: where a channel works on its
    /// legs itself, either half does that work for both.
    internal: [Option<Interest>; 2],
}

/// How one half waits.
#[derive(Debug)]
pub(super) struct Side {
    half: Direction,
    /// The last call waits for a leg or the deadline, and this is what it was.
    parked: Option<Call>,
    /// Made by the first deadline: most channels have none.
    timer: Option<Box<Timer>>,
    fruitless: u32,
    /// The half has waited before.
    has_waited: bool,
    /// What the half waits on when its one leg means what it says: the descriptor fires when there
    /// is something to try, and for nothing else.
    direct: Direct,
    /// The last attempt would have blocked, and `direct` has the waker.
    is_parked: bool,
}

/// What a half waits to do. Another call must not wait for what this one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Transfer,
    Flush,
    Finish,
    Ready(Interest),
}

impl Side {
    pub(super) fn new(half: Direction) -> Self {
        Self {
            half,
            parked: None,
            timer: None,
            fruitless: 0,
            has_waited: false,
            direct: Direct::default(),
            is_parked: false,
        }
    }
}

impl<C: Channel> Hub<C> {
    pub(super) fn new(channel: C, storage: Option<Storage>) -> Self {
        Self {
            channel,
            slots: Slots::new(),
            storage: storage.map(Mutex::new),
            waits: Mutex::default(),
            waiting: AtomicU8::new(0),
        }
    }

    /// Repeats `attempt` until it is anything but would-block.
    pub(super) fn poll<R>(
        &self,
        side: &mut Side,
        (call, interest): (Call, Interest),
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&C) -> Result<R>,
    ) -> Poll<Result<R>> {
        let budget = ready!(coop::poll_proceed(cx));
        let slot = self.slots.of(side.half);
        let mut resumed = false;
        if side.parked == Some(call) {
            let fired = slot.go_on(cx);
            if !fired && self.poll_timer(side, cx).is_pending() {
                return Poll::Pending;
            }
            resumed = true;
        }
        for _ in 0..ROUNDS {
            let look = self.look(side.half, interest);
            let ticks = look.ticks(&self.slots)?;
            let mut may_try = true;
            if resumed && !self.is_granted(side.half, interest, &ticks) {
                may_try = self.drive(side.half, interest)?;
            }
            if may_try {
                let result = attempt(&self.channel);
                self.tell_other(side.half);
                match result {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => {
                        budget.made_progress();
                        self.stop(side, slot, result.is_err());
                        return Poll::Ready(result);
                    }
                }
            }
            resumed = true;
            slot.start(Interest::all(), cx);
            side.is_parked = false;
            side.direct = Direct::None;
            side.parked = Some(call);
            let settled = self.settle(side, interest, ticks, look.cleared);
            // A descriptor can be registered once: what is to be made anew must be gone before.
            drop(look);
            let Some(cleared) = settled else { continue };
            if self.park(side, slot, cleared)? && self.poll_timer(side, cx).is_pending() {
                return Poll::Pending;
            }
        }
        // A channel that says it is ready and would-blocks all the same: let others run.
        cx.waker().wake_by_ref();
        side.parked = None;
        Poll::Pending
    }

    /// Clears what was tried and would have blocked. Gives the count of clearings to go on with, or
    /// `None` when something is there already.
    fn settle(
        &self,
        side: &mut Side,
        interest: Interest,
        ticks: Ticks<'_>,
        cleared_before: u64,
    ) -> Option<u64> {
        let mut waits = self.lock();
        let waits = &mut *waits;
        let set = &mut waits.sets[side.half as usize];
        set.clear();
        waits.internal[side.half as usize] = None;
        side.has_waited = true;
        // Before the look at the channel: what is attempted from here on is told.
        self.waiting.fetch_or(bit(side.half), Ordering::AcqRel);
        if !self.channel.watch(interest, set).is_empty() || waits.cleared != cleared_before {
            return None;
        }
        if set.is_untried() && holds(set).unwrap_or(true) {
            // It was reported before, or will not be.
            return None;
        }
        if set.legs().iter().any(|leg| leg.grants().is_empty()) {
            waits.internal[side.half as usize] = Some(interest);
        } else {
            self.waiting.fetch_and(!bit(side.half), Ordering::AcqRel);
        }
        if waits.reactor.is_duplex.is_none() && set.legs().len() == 1 {
            waits.reactor.is_duplex = Some(self.is_duplex());
        }
        let mut tried =
            ticks.into_iter().filter(|tick| wanted(&[&*set], tick.fd()).contains(tick.interest()));
        if let Some(first) = tried.next() {
            let mut only_closed = true;
            for tick in std::iter::once(first).chain(tried) {
                if !tick.is_only_closed() {
                    only_closed = false;
                    tick.clear();
                    waits.cleared += 1;
                }
            }
            side.fruitless = if only_closed { side.fruitless + 1 } else { 0 };
        }
        Some(waits.cleared)
    }

    /// Registers what the half waits for. `false`: something has happened already.
    fn park(&self, side: &mut Side, slot: &Slot, cleared: u64) -> Result<bool> {
        let mut waits = self.lock();
        if waits.cleared != cleared {
            return Ok(false);
        }
        let mut others = Interest::empty();
        let result = waits.arm(side, slot, &self.slots, &mut others);
        side.direct = waits.direct(side.half);
        drop(waits);
        for direction in others.directions() {
            self.slots.context(direction).waker().wake_by_ref();
        }
        result
    }

    fn poll_timer(&self, side: &mut Side, cx: &mut Context<'_>) -> Poll<()> {
        let half = side.half as usize;
        let waits = self.lock();
        let deadlines = [waits.sets[half].deadline(), waits.look_again[half]];
        drop(waits);
        match deadlines.into_iter().flatten().min() {
            Some(deadline) => side.timer.get_or_insert_default().poll(Some(deadline), cx),
            None => Poll::Pending,
        }
    }

    /// The registrations as they are now, for who waits for `interest`.
    fn look(&self, half: Direction, interest: Interest) -> Look {
        let mut waits = self.lock();
        waits.look_again[half as usize] = None;
        let registrations = waits.reactor.registrations().iter().cloned().collect();
        // Where each half has a direction to itself, the other's waker is left alone.
        let concerns =
            if waits.reactor.is_duplex == Some(true) { interest } else { Interest::all() };
        Look { registrations, concerns, cleared: waits.cleared }
    }

    /// Whether a leg fired that means something to the user of the channel.
    fn is_granted(&self, half: Direction, interest: Interest, ticks: &Ticks<'_>) -> bool {
        let waits = self.lock();
        let grants = |leg: &Leg| {
            leg.grants().intersects(interest)
                && ticks.iter().any(|tick| {
                    Arc::ptr_eq(tick.fd(), leg.fd()) && leg.on().contains(tick.interest())
                })
        };
        waits.sets[half as usize].legs().iter().any(grants)
    }

    /// Lets the channel work on what fired, and says whether an attempt is worth it now.
    fn drive(&self, half: Direction, interest: Interest) -> Result<bool> {
        let driven = self.channel.drive(Instant::now());
        self.tell_other(half);
        driven?;
        let mut waits = self.lock();
        let set = &mut waits.sets[half as usize];
        // The other half may have seen the event first and cleared it: where a leg grants
        // something, only an attempt can tell. So it is where one grants something now: the event
        // was for the channel's own work, and there will be none for what is there already.
        let is_direct =
            |set: &PollSet| set.legs().iter().any(|leg| leg.grants().intersects(interest));
        let mut now = PollSet::new();
        let ready = !self.channel.watch(interest, &mut now).is_empty();
        Ok(ready || is_direct(set) || is_direct(&now))
    }

    /// Wakes the other half if what this one did is what it waits for.
    ///
    /// The bytes that the other half waits for may be in the channel now, and no longer in the
    /// descriptor: epoll(7) looks again before it reports, and would have nothing to report.
    #[inline]
    fn tell_other(&self, half: Direction) {
        let other = match half {
            Direction::Read => Direction::Write,
            Direction::Write => Direction::Read,
        };
        if self.waiting.load(Ordering::Acquire) & bit(other) != 0 {
            self.tell(other);
        }
    }

    #[cold]
    fn tell(&self, other: Direction) {
        let waits = self.lock();
        let Some(interest) = waits.internal[other as usize] else { return };
        let ready = self.channel.watch(interest, &mut PollSet::new());
        drop(waits);
        if !ready.is_empty() {
            self.slots.of(other).nudge();
        }
    }

    fn stop(&self, side: &mut Side, slot: &Slot, failed: bool) {
        if side.parked.take().is_some() {
            slot.stop();
            self.lock().internal[side.half as usize] = None;
            self.waiting.fetch_and(!bit(side.half), Ordering::AcqRel);
        }
        side.fruitless = 0;
        if failed {
            side.direct = Direct::None;
            // A closed channel's descriptors are let go of.
            let mut waits = self.lock();
            let waits = &mut *waits;
            waits.sets[side.half as usize].clear();
            let _ = waits.reactor.sync(&waits.sets);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    /// Stores the wakers; `false` when a leg has fired in the meantime. `others` gets what fired
    /// that only the other half may wait for.
    fn arm(
        &mut self,
        side: &mut Side,
        slot: &Slot,
        slots: &Slots,
        others: &mut Interest,
    ) -> Result<bool> {
        let changed = self.reactor.sync(&self.sets)?;
        let set = &self.sets[side.half as usize];
        let legs = set.legs().iter();
        slot.narrow(legs.fold(Interest::empty(), |all, leg| all | wanted(&[set], leg.fd())));
        let mut fired = false;
        let mut closed: SmallVec<[_; INLINE]> = SmallVec::new();
        for registration in self.reactor.registrations() {
            let wants = wanted(&[set], registration.fd());
            // A new registration knows nothing of the other half.
            let all = if changed { registration.interest() } else { wants };
            for direction in all.directions() {
                let polled = registration.poll(direction, &mut slots.context(direction));
                let Poll::Ready(tick) = polled else { continue };
                let tick = tick?;
                if !wants.contains(tick.interest()) {
                    *others |= tick.interest();
                } else if tick.is_only_closed() && side.fruitless > PATIENCE {
                    closed.push(Arc::clone(tick.fd()));
                } else {
                    fired = true;
                }
            }
        }
        if !fired && !closed.is_empty() {
            closed.iter().for_each(|fd| self.reactor.forget(fd));
            self.look_again[side.half as usize] = Some(Instant::now() + PAUSE);
            // The other half may have waited on what was just forgotten.
            *others = Interest::all();
        }
        Ok(!fired)
    }
}

/// Looks whether a condition holds, asking the kernel: nothing was tried that could tell.
pub(super) fn readiness<C: Channel>(channel: &C, interest: Interest) -> Result<Readiness> {
    let now = Instant::now();
    let mut set = PollSet::new();
    let mut ready = channel.watch(interest, &mut set);
    if ready.is_empty() && set.legs().iter().any(|leg| leg.grants().is_empty()) {
        channel.drive(now)?;
        set.clear();
        ready = channel.watch(interest, &mut set);
    }
    if ready.is_empty() && !set.legs().is_empty() {
        set.poll(Some(now))?;
        ready = set.granted();
    }
    if ready.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(ready) }
}

/// The bit of a half that waits.
fn bit(half: Direction) -> u8 {
    1 << half as u8
}

type Ticks<'a> = SmallVec<[Tick<'a>; INLINE]>;

/// The registrations before an attempt.
struct Look {
    registrations: SmallVec<[Arc<Registration>; INLINE]>,
    /// The directions to look at.
    concerns: Interest,
    cleared: u64,
}

impl Look {
    /// What was reported so far. What an attempt makes of it can be cleared afterwards, and what
    /// is reported in between stays.
    fn ticks(&self, slots: &Slots) -> Result<Ticks<'_>> {
        let mut ticks = Ticks::new();
        for registration in &self.registrations {
            for direction in (registration.interest() & self.concerns).directions() {
                let polled = registration.poll(direction, &mut slots.context(direction));
                if let Poll::Ready(tick) = polled {
                    ticks.push(tick?);
                }
            }
        }
        Ok(ticks)
    }
}

/// How many attempts are made in one go before other tasks get their turn.
const ROUNDS: u32 = 16;
