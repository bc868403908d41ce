//! Work that is done in steps.

use std::io;
use std::ops::ControlFlow;
use std::task::Poll;
use std::time::Instant;

use super::{PollSet, waiter};

/// Work that is done in steps and says between two of them what it waits for.
///
/// Connecting, accepting, a background [`Task`](crate::Task) and a [`Relay`](crate::Relay) are
/// made of steps. None of them owns a thread or an event loop: [`run`] works them off on this
/// thread, an adapter in any loop. Dropping one cancels what it is doing.
pub trait Steps {
    /// What comes out at the end.
    type Output;

    /// Does all that can be done without waiting.
    ///
    /// `Pending` means that each leg that [`watch`](Steps::watch) names next was tried since it
    /// last fired and would have blocked: an edge-triggered loop may wait for the next edge. Must
    /// not be called again after `Ready`.
    fn step(&mut self, now: Instant) -> Poll<Self::Output>;

    /// Adds what the next step waits for.
    fn watch(&mut self, set: &mut PollSet);

    /// Learns which legs of the set that [`watch`](Steps::watch) filled have fired, just before
    /// the next step. A hint that saves attempts: without it, a step tries everything.
    fn woken(&mut self, set: &PollSet) {
        let _ = set;
    }
}

impl<S: Steps + ?Sized> Steps for &mut S {
    type Output = S::Output;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        (**self).step(now)
    }

    fn watch(&mut self, set: &mut PollSet) {
        (**self).watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        (**self).woken(set);
    }
}

impl<S: Steps + ?Sized> Steps for Box<S> {
    type Output = S::Output;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        (**self).step(now)
    }

    fn watch(&mut self, set: &mut PollSet) {
        (**self).watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        (**self).woken(set);
    }
}

/// Works `steps` off, waiting through the current [`Waiter`](super::Waiter) in between.
///
/// Gives `Continue` when `until` passed first: the work stands where it stood and can be gone on
/// with, or dropped.
///
/// # Errors
///
/// What the waiter reports.
pub fn run<S: Steps>(
    mut steps: S,
    until: Option<Instant>,
) -> io::Result<ControlFlow<S::Output, S>> {
    let mut set = PollSet::new();
    loop {
        let now = Instant::now();
        if let Poll::Ready(output) = steps.step(now) {
            return Ok(ControlFlow::Break(output));
        }
        if until.is_some_and(|until| until <= now) {
            return Ok(ControlFlow::Continue(steps));
        }
        set.clear();
        steps.watch(&mut set);
        waiter::park(&mut set, until)?;
        steps.woken(&set);
    }
}
