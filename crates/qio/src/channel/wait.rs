//! Waiting for a channel, through whoever waits.

use std::io::{ErrorKind, Result};
use std::time::Instant;

use super::{Base, Channel};
use crate::interest::{Interest, Readiness};
use crate::watch::{Interrupts, PollSet, waiter};

pub(super) fn until_done<R>(
    channel: &dyn Channel,
    deadline: Option<Instant>,
    attempt: impl Fn(&dyn Channel) -> Result<R>,
) -> Result<R> {
    loop {
        match attempt(channel) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(channel, Interest::WRITE, deadline, Legs::Tried)?;
            }
            result => return result,
        }
    }
}

/// What came before a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Legs {
    /// An attempt that would have blocked.
    Tried,
    /// Nothing: what is waited for may be there, and may have been reported before.
    Untried,
}

impl Legs {
    #[inline]
    fn note(self, set: &mut PollSet) {
        if self == Self::Untried {
            set.mark_untried();
        }
    }
}

/// Waits until a condition holds; who asked for interruptions gets them.
#[inline]
pub(super) fn wait(
    channel: &dyn Channel,
    interest: Interest,
    deadline: Option<Instant>,
    legs: Legs,
) -> Result<Readiness> {
    let base = channel.base();
    match base.interrupts() {
        None => wait_through(channel, base, interest, deadline, legs),
        Some(interrupts) => {
            let _waiting = base.begin_wait(interest)?;
            wait_or_end(channel, interest, deadline, legs, interrupts)
        }
    }
}

/// A wait that nobody interrupts.
#[inline]
fn wait_through(
    channel: &dyn Channel,
    base: &Base,
    interest: Interest,
    deadline: Option<Instant>,
    legs: Legs,
) -> Result<Readiness> {
    let _waiting = base.begin_wait(interest)?;
    let mut set = PollSet::new();
    let ready = channel.watch(interest, &mut set);
    if !ready.is_empty() {
        return Ok(ready);
    }
    legs.note(&mut set);
    waiter::park(&mut set, deadline)?;
    let granted = set.granted();
    if !granted.is_empty() {
        return Ok(granted);
    }
    wait_on(channel, interest, deadline, &mut set)
}

#[cold]
fn wait_or_end(
    channel: &dyn Channel,
    interest: Interest,
    deadline: Option<Instant>,
    mut legs: Legs,
    interrupts: &Interrupts,
) -> Result<Readiness> {
    let mut set = PollSet::new();
    let mut is_late = false;
    loop {
        if interrupts.take(interest) {
            return Err(ErrorKind::Interrupted.into());
        }
        set.clear();
        let ready = channel.watch(interest, &mut set);
        if !ready.is_empty() {
            return Ok(ready);
        }
        if is_late {
            return Err(ErrorKind::TimedOut.into());
        }
        interrupts.watch(interest, &mut set);
        legs.note(&mut set);
        waiter::park(&mut set, deadline)?;
        let granted = set.granted();
        if !granted.is_empty() {
            // Both may have come at once; what is there to read stays there.
            return match interrupts.take(interest) {
                true => Err(ErrorKind::Interrupted.into()),
                false => Ok(granted),
            };
        }
        let now = Instant::now();
        channel.drive(now)?;
        legs = Legs::Untried;
        is_late = deadline.is_some_and(|deadline| deadline <= now);
    }
}

/// Waits until it is worthwhile to attempt again what would have blocked.
///
/// The attempt is as good a look at what a layer got as a watch, and takes it along. Behind the
/// first `done` bytes of what belongs together nobody interrupts: who asked for the whole would not
/// know how much of it there is.
pub(super) fn wait_for_attempt(
    channel: &dyn Channel,
    interest: Interest,
    done: usize,
) -> Result<()> {
    let base = channel.base();
    if done == 0 && base.interrupts().is_some() {
        return wait(channel, interest, None, Legs::Tried).map(drop);
    }
    let _waiting = base.begin_wait(interest)?;
    let mut set = PollSet::new();
    if channel.watch(interest, &mut set).is_empty() {
        waiter::park(&mut set, None)?;
        if set.granted().is_empty() {
            channel.drive(Instant::now())?;
        }
    }
    Ok(())
}

/// Goes on with a wait that woke up with nothing for the user: time passed, or a layer got
/// something to work on.
#[cold]
pub(super) fn wait_on(
    channel: &dyn Channel,
    interest: Interest,
    deadline: Option<Instant>,
    set: &mut PollSet,
) -> Result<Readiness> {
    loop {
        let now = Instant::now();
        channel.drive(now)?;
        set.clear();
        // What the drive brought counts, although the time may be up.
        let ready = channel.watch(interest, set);
        if !ready.is_empty() {
            return Ok(ready);
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(ErrorKind::TimedOut.into());
        }
        // What the drive made of the event may be another wait.
        Legs::Untried.note(set);
        waiter::park(set, deadline)?;
        let granted = set.granted();
        if !granted.is_empty() {
            return Ok(granted);
        }
    }
}
