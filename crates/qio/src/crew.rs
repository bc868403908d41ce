//! Threads that work off jobs of one kind, and never more than so many.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// A bounded number of threads for jobs that block: a flood of them waits in a line instead.
///
/// Threads are started when there is work, and end when there is none.
pub(crate) struct Crew {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
}

struct State {
    line: VecDeque<Job>,
    working: usize,
}

/// A job that knows whether anybody still wants its result.
pub(crate) struct Job {
    pub(crate) is_wanted: Box<dyn Fn() -> bool + Send>,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}

impl Crew {
    /// At most `limit` threads called `name`.
    pub(crate) const fn new(name: &'static str, limit: usize) -> Self {
        let state = State { line: VecDeque::new(), working: 0 };
        Self { name, limit, state: Mutex::new(state) }
    }

    /// Puts a job, which must not panic, at the end of the line.
    pub(crate) fn queue(&'static self, job: Job) -> io::Result<()> {
        let mut state = self.lock();
        // Who has given up stands in nobody's way.
        state.line.retain(|waiting| (waiting.is_wanted)());
        state.line.push_back(job);
        if state.working == self.limit {
            return Ok(());
        }
        state.working += 1;
        drop(state);
        let started = thread::Builder::new().name(self.name.to_owned()).spawn(|| self.work());
        let Err(error) = started else { return Ok(()) };
        let mut state = self.lock();
        state.working -= 1;
        if state.working > 0 {
            // Another thread comes to it.
            return Ok(());
        }
        state.line.clear();
        Err(error)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(job) = state.line.pop_front() else {
                state.working -= 1;
                return;
            };
            drop(state);
            if (job.is_wanted)() {
                (job.run)();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    use crate::Task;
    use crate::watch::run;

    use super::*;

    #[test]
    fn no_more_work_at_a_time_than_there_are_threads_and_nobody_is_forgotten() {
        static CREW: Crew = Crew::new("test crew", 3);
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        // All three have to be there for one of them to go on.
        let together = Arc::new(Barrier::new(3));
        let tasks: Vec<_> = (0..30)
            .map(|n| {
                let together = Arc::clone(&together);
                Task::queue(&CREW, move || {
                    let now = NOW.fetch_add(1, Ordering::SeqCst) + 1;
                    MOST.fetch_max(now, Ordering::SeqCst);
                    together.wait();
                    NOW.fetch_sub(1, Ordering::SeqCst);
                    n
                })
                .unwrap()
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            let std::ops::ControlFlow::Break(result) = run(task, None).unwrap() else { panic!() };
            assert_eq!(result.unwrap(), n);
        }
        assert_eq!(MOST.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_not_begun() {
        static CREW: Crew = Crew::new("test crew", 1);
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let first = Task::queue(&CREW, move || gate.recv().unwrap()).unwrap();
        for _ in 0..1000 {
            drop(Task::queue(&CREW, || BEGUN.fetch_add(1, Ordering::SeqCst)).unwrap());
            assert!(CREW.lock().line.len() <= 2);
        }
        let last = Task::queue(&CREW, || BEGUN.fetch_add(1, Ordering::SeqCst)).unwrap();
        go.send(()).unwrap();
        for task in [run(first, None).unwrap().is_break(), run(last, None).unwrap().is_break()] {
            assert!(task);
        }
        assert_eq!(BEGUN.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_away() {
        static CREW: Crew = Crew::new("test crew", 1);
        let broken = Task::queue(&CREW, || panic!("on purpose")).unwrap();
        let after = Task::queue(&CREW, || 7).unwrap();
        let std::ops::ControlFlow::Break(result) = run(broken, None).unwrap() else { panic!() };
        assert_eq!(result.unwrap_err().message(), "on purpose");
        let std::ops::ControlFlow::Break(result) = run(after, None).unwrap() else { panic!() };
        assert_eq!(result.unwrap(), 7);
    }
}
