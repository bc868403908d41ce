//! Blocking jobs in threads of their own.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use crate::crew::{Crew, Job};
use crate::interest::Interest;
use crate::watch::{self, Event, PollSet, Steps};

/// A blocking job that runs in a thread of its own, and that can be waited for like anything else.
///
/// For what the kernel or libc offers only as a blocking call: resolving a name, above all. The
/// result comes out in one of three ways: [`wait`](Task::wait) waits for it on this thread (or
/// through the current [`Waiter`](crate::watch::Waiter)), an adapter works the [`Steps`] off in an
/// event loop, and `.await` works in any executor, because the worker's thread wakes it.
///
/// Dropping a task throws the result away; the job itself cannot be interrupted and runs to its
/// end in the background. A result that is there already is destroyed by the thread that drops the
/// task, one that comes later by the worker's.
///
/// QEMU's `QIOTask`.
///
/// ```
/// use std::ops::ControlFlow;
/// use qio::Task;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let task = Task::spawn("sum", || (1..=4).sum::<u32>())?;
/// let ControlFlow::Break(sum) = task.wait(None)? else { unreachable!("no deadline") };
/// assert_eq!(sum?, 10);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOTask")]
#[doc(alias = "qio_task_new")]
#[doc(alias = "qio_task_complete")]
#[doc(alias = "qio_task_set_error")]
#[doc(alias = "qio_task_propagate_error")]
#[doc(alias = "qio_task_set_result_pointer")]
pub struct Task<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    done: Event,
}

enum State<T> {
    /// Who polled last is woken at the end, if the task is awaited.
    Running(Option<Waker>),
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
        let shared = Arc::new(Shared::new());
        let worker = Arc::clone(&shared);
        thread::Builder::new().name(name.into()).spawn(move || worker.work(job))?;
        Ok(Self { shared })
    }

    /// Has a thread of `crew` do `job`, in its turn; a task that is dropped before that is left
    /// out.
    ///
    /// # Errors
    ///
    /// What starting a thread reports, when none is there that could do it.
    pub(crate) fn queue(
        crew: &'static Crew,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new());
        let (wanted, worker) = (Arc::downgrade(&shared), Arc::downgrade(&shared));
        crew.queue(Job {
            is_wanted: Box::new(move || wanted.strong_count() > 0),
            run: Box::new(move || {
                if let Some(worker) = worker.upgrade() {
                    worker.work(job);
                }
            }),
        })?;
        Ok(Self { shared })
    }
}

impl<T> Task<T> {
    /// Whether the job has ended.
    pub fn is_done(&self) -> bool {
        !matches!(*self.shared.lock(), State::Running(_))
    }

    /// Waits for the job to end, through the current [`Waiter`](crate::watch::Waiter).
    ///
    /// Gives `Continue` with the task when `until` passed first: it can be waited for again, in
    /// any way, or dropped.
    ///
    /// # Errors
    ///
    /// What the waiter reports.
    #[doc(alias = "qio_task_wait_thread")]
    #[doc(alias = "qio_task_get_result_pointer")]
    pub fn wait(
        self,
        until: Option<Instant>,
    ) -> io::Result<ControlFlow<Result<T, Panicked>, Self>> {
        watch::run(self, until)
    }
}

/// Needs no runtime. The waker of the last poll is woken, from the worker's thread.
///
/// # Cancel safety
///
/// The result stays in the task until a poll gives it out: a task that is polled by reference and
/// given up can be awaited, or waited for, later.
impl<T> Future for Task<T> {
    type Output = Result<T, Panicked>;

    /// # Panics
    ///
    /// When the result was given out already.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloned before the lock, and the one of the last poll dropped after it: both may run
        // code of the executor, which may own this very task.
        let waker = context.waker().clone();
        let mut state = self.shared.lock();
        let before = match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => return Poll::Ready(result),
            State::Running(before) => before,
            State::Taken => panic!("a task was polled after its result was given out"),
        };
        *state = State::Running(Some(waker));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        // A waker may own much, and the job may run for long; the result goes with the task, not
        // with whoever lets go last. Neither is destroyed under the lock.
        let mut state = self.shared.lock();
        let left = match &mut *state {
            State::Running(waker) => State::Running(waker.take()),
            ended => std::mem::replace(ended, State::Taken),
        };
        drop(state);
        drop(left);
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
    fn new() -> Self {
        Self { state: Mutex::new(State::Running(None)), done: Event::new() }
    }

    /// Does the job, and tells whoever waits for it.
    fn work(&self, job: impl FnOnce() -> T) {
        // What the job leaves behind broken is its own: nothing of it is reachable from here.
        let result = catch_unwind(AssertUnwindSafe(job)).map_err(Panicked::new);
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, State::Done(result));
        self.done.raise();
        drop(state);
        // Without the lock: whoever is woken may come here at once.
        if let State::Running(Some(waker)) = before {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Panicked {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("");
        let message = message.to_owned();
        // A payload that panics again as it is dropped must not keep the result from coming.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
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
