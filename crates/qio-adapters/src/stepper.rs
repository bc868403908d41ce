//! Steps with the set that they wait for: what the adapters of all loops of levels share.

use std::task::Poll;
use std::time::Instant;

use qio::watch::{PollSet, Steps};

/// Steps, and what they wait for. Something of it fires, is marked in the set, and the next turn
/// is made.
#[derive(Debug)]
pub(crate) struct Stepper<S> {
    steps: S,
    set: PollSet,
    /// The set is what the steps wait for; before the first turn and after an output it is not.
    waits: bool,
}

impl<S: Steps> Stepper<S> {
    pub(crate) fn new(steps: S) -> Self {
        Self { steps, set: PollSet::new(), waits: false }
    }

    #[cfg(any(feature = "async-io", feature = "calloop"))]
    pub(crate) fn steps(&self) -> &S {
        &self.steps
    }

    pub(crate) fn steps_mut(&mut self) -> &mut S {
        &mut self.steps
    }

    pub(crate) fn set(&self) -> &PollSet {
        &self.set
    }

    /// For marks.
    pub(crate) fn set_mut(&mut self) -> &mut PollSet {
        &mut self.set
    }

    /// Whether a turn is due, whatever fires. Asks for the time when there is a deadline only.
    pub(crate) fn is_due(&self) -> bool {
        !self.waits || self.set.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Makes a step, and has the set filled with what the next one waits for.
    pub(crate) fn turn(&mut self, now: Instant) -> Poll<S::Output> {
        if self.waits {
            self.steps.woken(&self.set);
        }
        let output = self.steps.step(now);
        self.waits = output.is_pending();
        self.set.clear();
        if self.waits {
            self.steps.watch(&mut self.set);
        }
        output
    }

    /// Goes on after an output, where there may be more of them; what is there already makes the
    /// next turn due.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    pub(crate) fn rearm(&mut self, now: Instant) {
        // An output is made anew then: until then, its cause may be gone.
        let _ = self.turn(now);
    }

    /// Asks again what is waited for, just before the loop sleeps: somebody may have read a part of
    /// what a layer holds, and nothing would fire for the rest. Where every leg stands for the
    /// channel itself there is nothing to ask.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    pub(crate) fn ask_again(&mut self) {
        let is_direct = |set: &PollSet| {
            set.deadline().is_none() && set.legs().iter().all(|leg| !leg.grants().is_empty())
        };
        if self.waits && !is_direct(&self.set) {
            self.set.clear();
            self.steps.watch(&mut self.set);
        }
    }
}
