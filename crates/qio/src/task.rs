//! Blocking jobs in threads of their own.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Instant;

use crate::interest::Interest;
use crate::watch::{Event, PollSet, Steps};

/// A blocking job that runs in a thread of its own, and that can be waited for like anything else.
///
/// For what the kernel or libc offers only as a blocking call: resolving a name, above all. The
/// result comes out through [`Steps`]: [`watch::run`](crate::watch::run) waits for it on this
/// thread, an adapter in an event loop.
///
/// Dropping a task throws the result away; the job itself cannot be interrupted and runs to its
/// end in the background.
///
/// QEMU's `QIOTask`.
///
/// ```
/// use std::ops::ControlFlow;
/// use qio::{Task, watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let task = Task::spawn("sum", || (1..=4).sum::<u32>())?;
/// let ControlFlow::Break(sum) = watch::run(task, None)? else { unreachable!("no deadline") };
/// assert_eq!(sum?, 10);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOTask")]
pub struct Task<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    done: Event,
}

enum State<T> {
    Running,
    Done(Result<T, Panicked>),
    Taken,
}

/// The job of a [`Task`] panicked instead of giving a result.
#[derive(Debug)]
pub struct Panicked {
    message: String,
}

impl<T: Send + 'static> Task<T> {
    /// Starts `job` in a thread called `name` (the kernel shows the first 15 bytes).
    ///
    /// # Errors
    ///
    /// What starting a thread reports: the limit of threads or of memory.
    ///
    /// # Panics
    ///
    /// When `name` contains a NUL byte.
    #[doc(alias = "qio_task_run_in_thread")]
    pub fn spawn(
        name: impl Into<String>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::Running), done: Event::new() });
        let worker = Arc::clone(&shared);
        thread::Builder::new().name(name.into()).spawn(move || {
            // What the job leaves behind broken is its own: nothing of it is reachable from here.
            let result = catch_unwind(AssertUnwindSafe(job)).map_err(Panicked::new);
            let mut state = worker.lock();
            *state = State::Done(result);
            worker.done.raise();
        })?;
        Ok(Self { shared })
    }
}

impl<T> Task<T> {
    /// Whether the job has ended.
    pub fn is_done(&self) -> bool {
        !matches!(*self.shared.lock(), State::Running)
    }
}

impl<T> Steps for Task<T> {
    type Output = Result<T, Panicked>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => Poll::Ready(result),
            unfinished => {
                *state = unfinished;
                Poll::Pending
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.shared.done.watch(Interest::READ, set);
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Task").field("is_done", &self.is_done()).finish()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Panicked {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => payload.downcast_ref::<&str>().copied().unwrap_or("").to_owned(),
        };
        Self { message }
    }

    /// What the panic said; empty when that was no text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the background job panicked: {}", self.message)
    }
}

impl StdError for Panicked {}
