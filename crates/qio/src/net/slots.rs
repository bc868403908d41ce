//! How many accepted channels there may be.

use std::io::{Result, SeekFrom};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use crate::channel::{Base, Channel, Confirmed, Mode, ReadOp, WriteFlags, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{Event, PollSet, SharedFd};

/// A number of places that are taken and given back.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: Mutex<usize>,
    /// Raised while one is free; changes together with the number.
    free: Event,
}

/// One place, given back once: by hand or when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    slots: Arc<Slots>,
    held: AtomicBool,
}

impl Slots {
    /// At least one place: with none, nobody could ever be accepted.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let free = Event::new();
        free.raise();
        // Made now, while there are descriptors: what waits for it may be at the limit of them.
        free.watch(Interest::READ, &mut PollSet::new());
        Arc::new(Self { limit: limit.max(1), taken: Mutex::new(0), free })
    }

    /// Takes a place if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        if *taken == self.limit {
            return None;
        }
        *taken += 1;
        if *taken == self.limit {
            self.free.lower();
        }
        Some(Place { slots: Arc::clone(self), held: AtomicBool::new(true) })
    }

    pub(crate) fn is_full(&self) -> bool {
        *self.lock() == self.limit
    }

    /// Adds a leg that fires when a place is free.
    pub(crate) fn watch(&self, set: &mut PollSet) {
        self.free.watch(Interest::READ, set);
    }

    fn give_back(&self) {
        let mut taken = self.lock();
        if *taken == self.limit {
            self.free.raise();
        }
        *taken -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn give_back(&self) {
        if self.held.swap(false, Ordering::Relaxed) {
            self.slots.give_back();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A channel that holds a place until it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Held {
    channel: Arc<dyn Channel>,
    place: Place,
}

impl Held {
    pub(crate) fn channel(channel: Arc<dyn Channel>, place: Place) -> Arc<dyn Channel> {
        Arc::new(Self { channel, place })
    }
}

#[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
impl Channel for Held {
    #[inline]
    fn base(&self) -> &Base {
        self.channel.base()
    }

    #[inline]
    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.channel.try_read(op)
    }

    #[inline]
    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.channel.try_write(op)
    }

    #[inline]
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.channel.watch(interest, set)
    }

    fn watch_stands(&self, interest: Interest, fd: &SharedFd) -> bool {
        self.channel.watch_stands(interest, fd)
    }

    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        self.channel.watch_more(seen, set)
    }

    fn try_write_owned(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
        self.channel.try_write_owned(bufs, flags)
    }

    fn confirm(&self) -> Result<Confirmed> {
        self.channel.confirm()
    }

    fn close(&self) -> Result<()> {
        let result = self.channel.close();
        self.place.give_back();
        result
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        self.channel.set_mode(mode)
    }

    fn drive(&self, now: Instant) -> Result<()> {
        self.channel.drive(now)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.channel.shutdown(how)
    }

    fn finish(&self) -> Result<()> {
        self.channel.finish()
    }

    fn flush(&self) -> Result<()> {
        self.channel.flush()
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.channel.seek(to)
    }

    fn set_delay(&self, delay: bool) {
        self.channel.set_delay(delay);
    }

    fn set_cork(&self, cork: bool) {
        self.channel.set_cork(cork);
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        self.channel.splice_fd(direction)
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&*self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_announced(slots: &Slots) -> bool {
        let mut set = PollSet::new();
        slots.watch(&mut set);
        set.poll(Some(Instant::now())).unwrap();
        !set.granted().is_empty()
    }

    #[test]
    fn a_place_is_given_back_once_and_a_free_one_is_announced() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none() && slots.is_full() && !is_announced(&slots));
        first.give_back();
        assert!(!slots.is_full() && is_announced(&slots));
        first.give_back();
        drop(first);
        let third = slots.take().unwrap();
        assert!(slots.take().is_none() && !is_announced(&slots));
        drop((second, third));
        assert_eq!(*slots.lock(), 0);
        assert!(is_announced(&slots));
    }

    #[test]
    fn there_is_always_one_place() {
        let slots = Slots::new(0);
        let place = slots.take();
        assert!(place.is_some() && slots.take().is_none());
    }
}
