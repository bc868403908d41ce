//! A call in another thread.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a job may take: far more than any needs, so that only a hang runs into it.
const LIMIT: Duration = Duration::from_secs(20);

/// A call that runs in a thread of its own.
///
/// Unlike a scoped thread, a job that hangs does not keep the test from failing.
#[derive(Debug)]
pub struct Job<T> {
    result: mpsc::Receiver<T>,
    thread: JoinHandle<()>,
    task: String,
}

impl<T: Send + 'static> Job<T> {
    /// Starts `body`.
    pub fn start(body: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, result) = mpsc::channel();
        let (tell_task, task) = mpsc::channel();
        let thread = thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero();
            tell_task.send(format!("/proc/self/task/{id}/stat")).unwrap();
            let result = body();
            // Nobody listens when the test has failed already.
            let _ = tell.send(result);
        });
        Self { result, thread, task: task.recv().unwrap() }
    }

    /// Waits until the job sleeps in a system call, or has ended.
    ///
    /// # Panics
    ///
    /// When it does neither.
    pub fn wait_until_asleep(&self) {
        let until = Instant::now() + LIMIT;
        let mut seen = 0;
        while seen < 2 && !self.thread.is_finished() {
            let stat = fs::read_to_string(&self.task).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            seen = if state == Some('S') { seen + 1 } else { 0 };
            assert!(Instant::now() < until, "the job neither sleeps nor ends: {stat}");
            thread::yield_now();
        }
    }

    /// Whether the job goes on.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for the result.
    ///
    /// # Panics
    ///
    /// When the job did, and when it takes far too long.
    #[track_caller]
    pub fn finish(self) -> T {
        match self.result.recv_timeout(LIMIT) {
            Ok(result) => {
                // What the body owned is gone only when the thread is.
                self.thread.join().unwrap();
                result
            }
            Err(RecvTimeoutError::Disconnected) => match self.thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("a job ends with a result or a panic"),
            },
            Err(RecvTimeoutError::Timeout) => panic!("the job hangs"),
        }
    }
}
