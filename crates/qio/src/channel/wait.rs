//! Waiting for a channel, through whoever waits.

use std::io::{ErrorKind, Result};
use std::time::Instant;

use super::Channel;
use crate::interest::{Interest, Readiness};
use crate::watch::{PollSet, waiter};

pub(super) fn until_done<R>(
    channel: &dyn Channel,
    deadline: Option<Instant>,
    attempt: impl Fn(&dyn Channel) -> Result<R>,
) -> Result<R> {
    loop {
        match attempt(channel) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(channel, Interest::WRITE, deadline)?;
            }
            result => return result,
        }
    }
}

pub(super) fn wait(
    channel: &dyn Channel,
    interest: Interest,
    deadline: Option<Instant>,
) -> Result<Readiness> {
    let _waiting = channel.base().begin_wait(interest)?;
    let mut set = PollSet::new();
    let ready = channel.watch(interest, &mut set);
    if !ready.is_empty() {
        return Ok(ready);
    }
    waiter::park(&mut set, deadline)?;
    let granted = set.granted();
    if !granted.is_empty() {
        return Ok(granted);
    }
    wait_on(channel, interest, deadline, &mut set)
}

/// Waits until it is worthwhile to attempt again what would have blocked.
///
/// The attempt is as good a look at what a layer got as a watch, and takes it along.
pub(super) fn wait_for_attempt(channel: &dyn Channel, interest: Interest) -> Result<()> {
    let _waiting = channel.base().begin_wait(interest)?;
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
        waiter::park(set, deadline)?;
        let granted = set.granted();
        if !granted.is_empty() {
            return Ok(granted);
        }
    }
}
