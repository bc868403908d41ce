//! Ending a wait from elsewhere.

use std::sync::Arc;

use super::{Event, PollSet};
use crate::interest::{Direction, Interest};

/// Ends waits of one direction of a channel, from any thread.
///
/// Made by [`ChannelExt::interrupter`](crate::ChannelExt::interrupter), which says what is ended
/// and what is not. Clones end the same waits. It costs a descriptor (eventfd(2)) once somebody
/// waits; channels without one cost nothing.
#[derive(Clone, Debug)]
pub struct Interrupter {
    interrupts: Arc<Interrupts>,
    direction: Direction,
}

impl Interrupter {
    pub(crate) fn new(interrupts: Arc<Interrupts>, direction: Direction) -> Self {
        Self { interrupts, direction }
    }

    /// Ends the wait that is under way, else the next one, with `Interrupted`.
    ///
    /// One call ends one wait; several before a wait count as one.
    #[doc(alias = "qio_channel_wake_read")]
    pub fn wake(&self) {
        self.interrupts.of(self.direction).raise();
    }
}

/// The interruptions of a channel that were asked for and have not ended a wait yet.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    read: Event,
    write: Event,
}

impl Interrupts {
    /// Whether a wait for `interest` is to end; it is then taken for done.
    pub(crate) fn take(&self, interest: Interest) -> bool {
        let taken = |event: &Event, direction| interest.contains(direction) && event.lower();
        let read = taken(&self.read, Interest::READ);
        taken(&self.write, Interest::WRITE) || read
    }

    /// Adds what fires when a wait for `interest` is to end.
    pub(crate) fn watch(&self, interest: Interest, set: &mut PollSet) {
        for (direction, event) in [(Interest::READ, &self.read), (Interest::WRITE, &self.write)] {
            if interest.contains(direction) {
                event.watch(Interest::empty(), set);
            }
        }
    }

    fn of(&self, direction: Direction) -> &Event {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }
}
