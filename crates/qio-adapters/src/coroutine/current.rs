//! The coroutine that runs, and waking it.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qio::watch::{Event, PollSet, waiter};
use qio::{Channel, ChannelExt, Interest, Readiness};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Wakes>>> = const { RefCell::new(None) };
}

/// What wakes a coroutine beside what it waits for.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    event: Event,
    /// Somebody has a waker: until then there is nothing to watch.
    asked: AtomicBool,
}

impl Wakes {
    pub(super) fn watch(&self, set: &mut PollSet) {
        if self.asked.load(Ordering::Acquire) {
            self.event.watch(Interest::empty(), set);
        }
    }
}

/// Wakes a coroutine, from any thread: ends its [`park`]. Clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Wakes>);

impl Waker {
    pub(super) fn new(wakes: Arc<Wakes>) -> Self {
        wakes.asked.store(true, Ordering::Release);
        Self(wakes)
    }

    /// Ends the [`park`] that is under way, else the next one; several before it count as one.
    /// A wait for a channel goes on.
    #[doc(alias = "aio_co_wake")]
    pub fn wake(&self) {
        self.0.event.raise();
    }
}

/// Runs `body` with the coroutine of `wakes` as the current one.
pub(super) fn during<R>(wakes: &Arc<Wakes>, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Wakes>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(Arc::clone(wakes))));
    body()
}

/// What wakes the coroutine that calls this; `None` outside of one.
#[doc(alias = "qemu_coroutine_self")]
pub fn waker() -> Option<Waker> {
    CURRENT.with_borrow(|current| current.clone().map(Waker::new))
}

/// Leaves the coroutine until somebody [wakes](Waker::wake) it.
///
/// # Errors
///
/// `Unsupported` outside of a coroutine, where nobody could.
#[doc(alias = "qemu_coroutine_yield")]
pub fn park() -> Result<()> {
    let Some(Waker(wakes)) = waker() else { return Err(outside("parking")) };
    while !wakes.event.lower() {
        // The leg is the coroutine's own.
        let mut set = PollSet::new();
        wakes.event.watch(Interest::empty(), &mut set);
        waiter::park(&mut set, None)?;
    }
    Ok(())
}

/// Lets everybody else in the loop run before it goes on.
///
/// # Errors
///
/// `Unsupported` outside of a coroutine.
pub fn yield_now() -> Result<()> {
    if CURRENT.with_borrow(Option::is_none) {
        return Err(outside("yielding"));
    }
    let mut set = PollSet::new();
    set.wake_at(Instant::now());
    waiter::park(&mut set, None)
}

/// Leaves the coroutine until one of the wanted conditions of the channel, a hang-up or an error is
/// there: [`ChannelExt::wait`], for code that must not block a thread.
///
/// # Errors
///
/// `Unsupported` outside of a coroutine, and those of [`ChannelExt::wait`].
#[doc(alias = "qio_channel_yield")]
pub fn yield_until<C: Channel + ?Sized>(channel: &C, interest: Interest) -> Result<Readiness> {
    if CURRENT.with_borrow(Option::is_none) {
        return Err(outside("yielding"));
    }
    channel.wait(interest, None)
}

fn outside(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} outside of a coroutine"))
}
