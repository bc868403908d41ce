//! What the two halves of a channel share, and how one of them waits.

use std::io::{ErrorKind, Result};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use qio::watch::{Leg, PollSet};
use qio::{Channel, ChannelExt as _, Direction, Features, Interest, Readiness};
use smallvec::SmallVec;
use tokio::task::coop;

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

/// A registration that a half goes back to without asking for it.
#[derive(Debug, Default)]
enum Direct {
    #[default]
    None,
    /// It may have to be made anew for another direction, and has to be gone before.
    Lent(Weak<Registration>),
    /// It is for both directions, for good, and each half waits for its own.
    Kept(Arc<Registration>),
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

    /// Goes back to a registration the next time, unless there was more to do, or a failure.
    #[inline]
    fn go_back<R>(&mut self, direct: Direct, polled: Option<&Poll<Result<R>>>) {
        if !matches!(polled, None | Some(Poll::Ready(Err(_)))) {
            self.direct = direct;
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

    /// Moves some of `asked` bytes: repeats `attempt` until it is anything but would-block.
    ///
    /// What a plain stream does as tokio's own do it, without what layers need: one look at the
    /// registration, one attempt.
    pub(super) fn poll_bytes(
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
        let result = attempt(&self.channel);
        self.tell_other(half);
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
            let result = attempt(&self.channel);
            self.tell_other(side.half);
            if !would_block(&result) {
                side.is_parked = false;
                if self.has_drained(side.half, registration, asked, &result) {
                    tick.clear();
                }
                self.end(side, result.is_err());
                return Some(Poll::Ready(result));
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
                let result = attempt(&self.channel);
                self.tell_other(side.half);
                if !would_block(&result) {
                    if self.has_drained(side.half, registration, asked, &result) {
                        let mut waits = self.lock();
                        waits.cleared += 1;
                        tick.clear();
                    }
                    self.end(side, result.is_err());
                    return Some(Poll::Ready(result));
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

    #[inline]
    fn end(&self, side: &mut Side, failed: bool) {
        if side.parked.is_some() || failed {
            self.stop(side, self.slots.of(side.half), failed);
        }
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

    /// Whether both directions are waited for on one descriptor, which says nothing of the one
    /// because of the other: a leg that means what it says. Registered for both at once it is never
    /// registered anew.
    fn is_duplex(&self) -> bool {
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
        let ([of_read], [of_write]) = (read.legs(), write.legs()) else { return false };
        let means = |leg: &Leg, interest| leg.on() == interest && leg.grants() == interest;
        now.is_empty()
            && Arc::ptr_eq(of_read.fd(), of_write.fd())
            && means(of_read, Interest::READ)
            && means(of_write, Interest::WRITE)
            && read.deadline().is_none()
            && write.deadline().is_none()
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
    /// What `half` waits on, if that is all there is.
    fn direct(&self, half: Direction) -> Direct {
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

#[inline]
fn would_block<R>(result: &Result<R>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Whether `set` has one leg, on the registration's descriptor, that means what it says.
fn is_direct(set: &PollSet, half: Direction, registration: &Registration) -> bool {
    let wanted = Interest::from(half);
    let [leg] = set.legs() else { return false };
    Arc::ptr_eq(leg.fd(), registration.fd())
        && leg.on() == wanted
        && leg.grants() == wanted
        && set.deadline().is_none()
        && !set.is_untried()
        && registration.is_polled()
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
