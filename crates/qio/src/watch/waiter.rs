//! Who waits.
//!
//! A blocking call that has to wait asks the innermost waiter of its thread (a coroutine
//! scheduler enters itself here while it runs a coroutine), else the waiter of the host program,
//! else poll(2). The same source code then blocks a thread or yields.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::PollSet;

/// Something that can wait for a [`PollSet`].
pub trait Waiter {
    /// Waits until a leg fires or until the earlier of `until` and the set's own deadline.
    ///
    /// Marks what fired with [`PollSet::mark`]. May return early with nothing marked: the caller
    /// looks again. No lock of a channel is held during the call.
    ///
    /// # Errors
    ///
    /// Whatever makes waiting impossible; the waiting operation fails with it.
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()>;
}

/// Set once any waiter was entered, so that programs without one pay a single load.
static ANY: AtomicBool = AtomicBool::new(false);

static HOST: OnceLock<Box<dyn Waiter + Send + Sync>> = OnceLock::new();

thread_local! {
    static SCOPED: RefCell<Option<Rc<dyn Waiter>>> = const { RefCell::new(None) };
}

/// Makes `waiter` the one that waits for every blocking call in `body`, on this thread.
///
/// Scopes nest; the one outside is back when `body` returns or panics.
pub fn scoped<R>(waiter: Rc<dyn Waiter>, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<Rc<dyn Waiter>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPED.set(self.0.take());
        }
    }
    ANY.store(true, Ordering::Release);
    let _restore = Restore(SCOPED.replace(Some(waiter)));
    body()
}

/// Makes `waiter` the one for all threads that have no scoped one. Can be done once.
///
/// # Errors
///
/// Gives the waiter back when there is one already.
pub fn set_host(
    waiter: Box<dyn Waiter + Send + Sync>,
) -> Result<(), Box<dyn Waiter + Send + Sync>> {
    HOST.set(waiter)?;
    ANY.store(true, Ordering::Release);
    Ok(())
}

/// Whether blocking calls of this thread wait through something else than poll(2). A system call
/// that blocks would then hold up more than its caller.
pub(crate) fn is_hooked() -> bool {
    ANY.load(Ordering::Acquire) && (HOST.get().is_some() || SCOPED.with_borrow(Option::is_some))
}

/// Waits through the current waiter.
///
/// # Errors
///
/// What the waiter reports; poll(2)'s errors when there is none.
#[inline]
pub fn park(set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
    if ANY.load(Ordering::Acquire) { park_elsewhere(set, until) } else { set.poll(until) }
}

/// Whether poll(2) waits for every thread: a wait sees what came before it.
pub(crate) fn polls() -> bool {
    !ANY.load(Ordering::Acquire)
}

#[inline(never)]
fn park_elsewhere(set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
    // Taken out of the cell, so that a waiter that blocks inside itself finds no borrow held.
    if let Some(waiter) = SCOPED.with_borrow(Option::clone) {
        return waiter.park(set, until);
    }
    if let Some(waiter) = HOST.get() {
        return waiter.park(set, until);
    }
    set.poll(until)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::interest::Readiness;

    struct Counting(Cell<u32>);

    impl Waiter for Counting {
        fn park(&self, set: &mut PollSet, _until: Option<Instant>) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            set.mark(0, Readiness::READ);
            Ok(())
        }
    }

    #[test]
    fn the_innermost_scope_waits_and_the_outer_one_returns_after_it() {
        let outer = Rc::new(Counting(Cell::new(0)));
        let inner = Rc::new(Counting(Cell::new(0)));
        let mut set = PollSet::new();
        scoped(outer.clone(), || {
            scoped(inner.clone(), || park(&mut set, None)).unwrap();
            assert_eq!((outer.0.get(), inner.0.get()), (0, 1));
            park(&mut set, None).unwrap();
            assert_eq!((outer.0.get(), inner.0.get()), (1, 1));
        });
        // Outside, poll(2) waits; an empty set is an error instead of a hang.
        assert_eq!(park(&mut set, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_panic_leaves_the_outer_waiter_in_place() {
        let waiter = Rc::new(Counting(Cell::new(0)));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scoped(waiter.clone(), || panic!("on purpose"));
        }));
        assert!(caught.is_err());
        let mut set = PollSet::new();
        assert!(park(&mut set, None).is_err());
        assert_eq!(waiter.0.get(), 0);
    }
}
