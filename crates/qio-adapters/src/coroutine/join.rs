//! Learning what a coroutine came to, from elsewhere.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use qio::Interest;
use qio::watch::{self, Event, PollSet, Steps};

use super::Coroutine;

/// Why a coroutine has no result.
#[non_exhaustive]
pub enum JoinError {
    /// It was dropped before its end.
    Cancelled,
    /// Its body panicked, with this payload.
    Panicked(Box<dyn Any + Send>),
}

/// Makes a coroutine for a loop to run, and what tells its result to somebody else.
///
/// Dropping the coroutine cancels it; dropping the [`Join`] does not.
///
/// # Errors
///
/// As [`Coroutine::new`].
pub fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> io::Result<(Spawned<T>, Join<T>)> {
    let shared = Arc::new(Shared { result: Mutex::new(None), done: Event::new() });
    let promise = Promise(Arc::clone(&shared));
    Ok((Spawned { coroutine: Coroutine::new(body)?, promise }, Join(shared)))
}

/// A coroutine whose result goes to a [`Join`].
#[derive(Debug)]
pub struct Spawned<T> {
    // Dropped before the promise: who joins may rely on the stack being gone.
    coroutine: Coroutine<T>,
    promise: Promise<T>,
}

/// The result of a coroutine, for whoever waits for it: in any loop, coroutine or thread.
pub struct Join<T>(Arc<Shared<T>>);

struct Shared<T> {
    result: Mutex<Option<Result<T, JoinError>>>,
    done: Event,
}

/// Keeps what was promised, if only by saying that there is nothing.
struct Promise<T>(Arc<Shared<T>>);

impl<T> Spawned<T> {
    /// Wakes the coroutine from any thread: see [`park`](super::park).
    pub fn waker(&self) -> super::Waker {
        self.coroutine.waker()
    }
}

impl<T> Steps for Spawned<T> {
    type Output = ();

    fn step(&mut self, now: Instant) -> Poll<()> {
        self.coroutine.step(now).map(|result| self.promise.0.keep(result))
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.coroutine.watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        self.coroutine.woken(set);
    }
}

impl<T> Join<T> {
    /// Waits for the end, through the current [`Waiter`](qio::watch::Waiter).
    ///
    /// # Errors
    ///
    /// What the waiter reports. The inner error says why there is no result.
    pub fn join(self) -> io::Result<Result<T, JoinError>> {
        match watch::run(self, None)? {
            ControlFlow::Break(result) => Ok(result),
            ControlFlow::Continue(_) => unreachable!("a wait without a deadline has one end"),
        }
    }

    /// Whether the coroutine has ended.
    pub fn is_done(&self) -> bool {
        self.0.lock().is_some()
    }
}

impl<T> Steps for Join<T> {
    type Output = Result<T, JoinError>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        self.0.lock().take().map_or(Poll::Pending, Poll::Ready)
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.0.done.watch(Interest::empty(), set);
    }
}

impl<T> Shared<T> {
    fn keep(&self, result: Result<T, JoinError>) {
        self.lock().get_or_insert(result);
        self.done.raise();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<T, JoinError>>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.keep(Err(JoinError::Cancelled));
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Promise")
    }
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Join").field("is_done", &self.is_done()).finish()
    }
}

impl JoinError {
    /// What the panic said, where that was a text.
    fn message(&self) -> Option<&str> {
        let Self::Panicked(panic) = self else { return None };
        panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.message()) {
            (Self::Cancelled, _) => out.write_str("the coroutine was cancelled"),
            (Self::Panicked(_), Some(text)) => write!(out, "the coroutine panicked: {text}"),
            (Self::Panicked(_), None) => out.write_str("the coroutine panicked"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl StdError for JoinError {}
