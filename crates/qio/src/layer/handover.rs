//! Handing work to whoever is at it already.

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock, try_lock};

/// Something behind a lock, and a debt that whoever holds the lock pays before leaving.
///
/// A reader has the engine say something (a pong, a key update) while a writer may hold the way
/// out, for as long as a system call takes. The reader does not wait for that: it leaves a flag,
/// and the writer looks at the flag after giving the lock back.
///
/// `tests/handover.rs` runs this file under a model checker.
#[derive(Debug, Default)]
pub(super) struct Handover<T> {
    held: Mutex<T>,
    owed: AtomicBool,
}

impl<T> Handover<T> {
    /// Works on what is behind the lock, waiting for it, and then pays what became owed meanwhile.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R, pay: impl FnMut(&mut T)) -> R {
        let result = work(&mut self.lock());
        self.pay(pay);
        result
    }

    /// Has `pay` run after this, here or by whoever holds the lock, without waiting.
    pub(super) fn owe(&self, pay: impl FnMut(&mut T)) {
        self.owed.store(true, Ordering::SeqCst);
        self.pay(pay);
    }

    /// Looks, and leaves what is owed to others: who holds the lock this way looks at what there
    /// is to pay afterwards.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.held)
    }

    fn pay(&self, mut pay: impl FnMut(&mut T)) {
        while self.owed.load(Ordering::SeqCst) {
            // Whoever has the lock looks at the flag again after giving it back.
            let Some(mut held) = try_lock(&self.held) else { return };
            // Cleared first: what is owed from here on is seen in the next round.
            self.owed.store(false, Ordering::SeqCst);
            pay(&mut held);
        }
    }
}
