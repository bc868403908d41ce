//! Steps with the set that they wait for: what the adapters of all loops of levels share.

use std::task::Poll;
use std::time::Instant;

use qio::watch::{PollSet, Steps};
#[cfg(any(feature = "calloop", feature = "glib"))]
use qio::{Channel, channel::Watch};

/// Steps, and what they wait for. Something of it fires, is marked in the set, and the next turn
/// is made.
#[derive(Debug)]
pub(crate) struct Stepper<S> {
    steps: S,
    set: PollSet,
    /// Each leg of the set stands for the channel itself, and nothing is due by the time.
    is_direct: bool,
    /// The set has other legs, or another deadline, than the loop was told.
    changed: bool,
    /// The set is what the steps wait for; before the first turn and after an output it is not.
    waits: bool,
}

/// How steps go on that have an output again and again: a watch.
#[cfg(any(feature = "calloop", feature = "glib"))]
pub(crate) struct Repeats<S: Steps> {
    /// What legs that have fired come to by themselves, without a step and the time it wants.
    output: fn(&mut S, &PollSet) -> Option<S::Output>,
    /// Whether a set stands as it is after an output.
    stands: fn(&S, &PollSet) -> bool,
}

#[cfg(any(feature = "calloop", feature = "glib"))]
impl<C: Channel> Repeats<Watch<C>> {
    pub(crate) const WATCH: Self = Self {
        output: |watch, set| {
            let fired = watch.fired(set);
            (!fired.is_empty()).then_some(Ok(fired))
        },
        stands: Watch::stands,
    };
}

impl<S: Steps> Stepper<S> {
    pub(crate) fn new(steps: S) -> Self {
        Self { steps, set: PollSet::new(), is_direct: false, changed: true, waits: false }
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

    /// Whether the set is what is waited for; if not, a turn is due.
    #[cfg(feature = "calloop")]
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Whether a turn is due, whatever fires. Asks for the time when there is a deadline only.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        !self.waits || self.set.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Makes a step. Where that comes to nothing, the set is filled with what the next one waits
    /// for; an output leaves it as it was.
    #[inline]
    pub(crate) fn turn(&mut self, now: Instant) -> Poll<S::Output> {
        if self.waits {
            self.steps.woken(&self.set);
        }
        let output = self.steps.step(now);
        self.waits = false;
        if output.is_pending() {
            self.fill();
        }
        output
    }

    /// Makes a turn of steps with more than one output, after each of which
    /// [`rearm`](Stepper::rearm) is due.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    #[inline]
    pub(crate) fn turn_of(&mut self, repeats: &Repeats<S>) -> Poll<S::Output> {
        if self.waits_for_legs()
            && let Some(output) = (repeats.output)(&mut self.steps, &self.set)
        {
            return Poll::Ready(output);
        }
        self.turn(Instant::now())
    }

    /// Goes on after an output; what is there already makes the next turn due.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    #[inline]
    pub(crate) fn rearm(&mut self, repeats: &Repeats<S>) {
        // An output of legs alone has left the set as what is waited for.
        if self.waits && (repeats.stands)(&self.steps, &self.set) {
            self.set.forget_fired();
        } else {
            self.fill();
        }
    }

    fn fill(&mut self) {
        self.set.clear();
        self.steps.watch(&mut self.set);
        (self.waits, self.changed) = (true, true);
        let mut legs = self.set.legs().iter();
        self.is_direct = self.set.deadline().is_none() && legs.all(|leg| !leg.grants().is_empty());
    }

    /// Whether what is waited for has changed since the loop was told.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    #[inline]
    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    /// The loop was told what is waited for.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    pub(crate) fn note_told(&mut self) {
        self.changed = false;
    }

    /// Asks again what is waited for, just before the loop sleeps: somebody may have read a part of
    /// what a layer holds, and nothing would fire for the rest. Where every leg stands for the
    /// channel itself there is nothing to ask.
    #[cfg(feature = "glib")]
    pub(crate) fn ask_again(&mut self) {
        if !self.is_direct {
            self.refill();
        }
    }

    /// Asks again what is waited for, whatever it is.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    pub(crate) fn refill(&mut self) {
        if self.waits {
            self.fill();
        }
    }

    /// Whether nothing but a leg that fires can make a turn due.
    #[cfg(any(feature = "calloop", feature = "glib"))]
    #[inline]
    pub(crate) fn waits_for_legs(&self) -> bool {
        self.waits && self.is_direct
    }
}
