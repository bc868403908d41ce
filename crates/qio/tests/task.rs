//! Background jobs.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{PATIENCE, announcing_waits, eventually, in_own_process, open_fds, patience};
use qio::watch::{PollSet, Steps, run};
use qio::{Panicked, Task};

fn finish<T>(task: Task<T>) -> Result<T, Panicked> {
    match run(task, patience()).unwrap() {
        ControlFlow::Break(result) => result,
        ControlFlow::Continue(_) => panic!("the job never ended"),
    }
}

#[test]
fn the_result_of_a_job_comes_out() {
    let task =
        Task::spawn("adder", || (1 + 1, thread::current().name().map(str::to_owned))).unwrap();
    assert_eq!(finish(task).unwrap(), (2, Some("adder".to_owned())));
}

#[test]
fn who_waits_already_is_woken_when_the_job_ends() {
    let (waits, waiting) = mpsc::channel();
    let (go, gate) = mpsc::channel();
    let task = Task::spawn("gated", move || gate.recv()).unwrap();
    assert!(!task.is_done());
    let waiter = thread::spawn(move || announcing_waits(waits, || finish(task)));
    waiting.recv().unwrap();
    let sent = Instant::now();
    go.send(()).unwrap();
    waiter.join().unwrap().unwrap().unwrap();
    assert!(sent.elapsed() < PATIENCE / 2, "woken by its deadline only");
}

#[test]
fn a_job_that_ended_before_is_ready_at_once() {
    let mut task = Task::spawn("quick", || ()).unwrap();
    eventually("the job ends", || task.is_done());
    let mut set = PollSet::new();
    task.watch(&mut set);
    set.poll(patience()).unwrap();
    assert!(!set.granted().is_empty());
    assert!(task.step(Instant::now()).is_ready());
}

#[test]
fn a_wait_that_gives_up_leaves_the_job_to_be_waited_for_again() {
    let (go, gate) = mpsc::channel::<u32>();
    let task = Task::spawn("gated", move || gate.recv().unwrap()).unwrap();
    let soon = Instant::now() + Duration::from_millis(1);
    let ControlFlow::Continue(task) = run(task, Some(soon)).unwrap() else {
        panic!("the gate is closed")
    };
    go.send(7).unwrap();
    assert_eq!(finish(task).unwrap(), 7);
}

#[test]
fn a_panic_is_an_error_with_its_text() {
    let task = Task::spawn("panics", || panic!("on purpose")).unwrap();
    let error = finish::<()>(task).unwrap_err();
    assert_eq!(error.message(), "on purpose");
    assert_eq!(error.to_string(), "the background job panicked: on purpose");
}

#[test]
fn a_dropped_task_throws_its_result_away_and_leaks_nothing() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    in_own_process("a_dropped_task_throws_its_result_away_and_leaks_nothing", || {
        let before = open_fds();
        let dropped = Arc::new(AtomicUsize::new(0));
        for round in 0..1000 {
            let result = Counted(Arc::clone(&dropped));
            let mut task = Task::spawn("short", move || result).unwrap();
            // Some are dropped while they run, some when they are done, some while waited for.
            if round % 3 == 0 {
                eventually("the job ends", || task.is_done());
            }
            if round % 2 == 0 {
                task.watch(&mut PollSet::new());
            }
        }
        eventually("all results are gone", || dropped.load(Ordering::Relaxed) == 1000);
        eventually("all descriptors are gone", || open_fds() == before);
    });
}

#[test]
fn a_wait_gives_the_result_or_at_its_deadline_the_task() {
    let (go, gate) = mpsc::channel::<u32>();
    let task = Task::spawn("gated", move || gate.recv().unwrap()).unwrap();
    let soon = Instant::now() + Duration::from_millis(1);
    let ControlFlow::Continue(task) = task.wait(Some(soon)).unwrap() else {
        panic!("the gate is closed")
    };
    assert!(Instant::now() >= soon, "gave up too early");
    go.send(7).unwrap();
    let ControlFlow::Break(result) = task.wait(patience()).unwrap() else {
        panic!("the job never ended")
    };
    assert_eq!(result.unwrap(), 7);
}

/// Counts how often it is woken, and by which thread.
#[derive(Default)]
struct Counting {
    wakes: Mutex<Vec<ThreadId>>,
}

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.wakes.lock().unwrap().push(thread::current().id());
    }
}

impl Counting {
    fn wakes(&self) -> usize {
        self.wakes.lock().unwrap().len()
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Arc<Counting>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(waker));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let until = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "never woken");
        thread::park_timeout(left);
    }
}

#[test]
fn a_task_is_a_future_that_needs_no_runtime() {
    let (go, gate) = mpsc::channel::<u32>();
    let slow = Task::spawn("gated", move || gate.recv().unwrap()).unwrap();
    let quick = Task::spawn("opens", move || go.send(20).unwrap()).unwrap();
    let started = Instant::now();
    let sum = block_on(async move {
        let number = slow.await.unwrap();
        quick.await.unwrap();
        number + Task::spawn("more", || 22).unwrap().await.unwrap()
    });
    assert_eq!(sum, 42);
    assert!(started.elapsed() < PATIENCE / 2, "polled again by luck");
}

#[test]
fn the_waker_of_the_last_poll_is_woken_once_by_the_worker() {
    let (go, gate) = mpsc::channel::<()>();
    let job = move || {
        gate.recv().unwrap();
        thread::current().id()
    };
    let mut task = Task::spawn("gated", job).unwrap();
    let (first, last) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
    assert!(poll_once(&mut task, &first).is_pending());
    assert!(poll_once(&mut task, &last).is_pending());
    assert_eq!(Arc::strong_count(&first), 1, "the waker of an earlier poll was kept");
    // The other ways of looking do not take the waker away.
    assert!(task.step(Instant::now()).is_pending());
    assert!(!task.is_done());
    go.send(()).unwrap();
    eventually("the last waker is woken", || last.wakes() > 0);
    let Poll::Ready(worker) = poll_once(&mut task, &first) else { panic!("woken, but not done") };
    assert_eq!(*last.wakes.lock().unwrap(), [worker.unwrap()]);
    assert_eq!(first.wakes(), 0);
}

#[test]
fn a_future_that_was_given_up_can_be_waited_for_and_one_that_is_dropped_keeps_no_waker() {
    let (go, gate) = mpsc::channel::<u32>();
    let waker = Arc::new(Counting::default());
    let mut task = Task::spawn("gated", move || gate.recv().unwrap()).unwrap();
    assert!(poll_once(&mut task, &waker).is_pending());
    go.send(5).unwrap();
    assert_eq!(finish(task).unwrap(), 5);

    let (go, gate) = mpsc::channel::<u32>();
    let mut task = Task::spawn("gated", move || gate.recv()).unwrap();
    let waker = Arc::new(Counting::default());
    assert!(poll_once(&mut task, &waker).is_pending());
    drop(task);
    assert_eq!(Arc::strong_count(&waker), 1, "kept until the job ends");
    drop(go);
    assert_eq!(waker.wakes(), 0);
}

#[test]
fn a_panic_comes_out_of_every_way_to_the_result() {
    /// Panics once more when it is dropped.
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    let panics = || Task::<()>::spawn("panics", || panic!("on {}", "purpose")).unwrap();
    let ControlFlow::Break(waited) = panics().wait(patience()).unwrap() else {
        panic!("the job never ended")
    };
    let results = [waited, block_on(panics()), finish(panics())];
    for result in results {
        assert_eq!(result.unwrap_err().message(), "on purpose");
    }
    let again = || Task::<()>::spawn("panics", || std::panic::panic_any(Again)).unwrap();
    for result in [block_on(again()), finish(again())] {
        assert_eq!(result.unwrap_err().message(), "");
    }
}

#[test]
fn a_result_that_nobody_takes_is_destroyed_by_who_drops_the_task_or_later_by_the_worker() {
    struct Told(mpsc::Sender<ThreadId>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }
    let (told, dropped) = mpsc::channel();
    let result = Told(told.clone());
    let task = Task::spawn("quick", move || result).unwrap();
    eventually("the job ends", || task.is_done());
    drop(task);
    assert_eq!(dropped.recv().unwrap(), thread::current().id());

    let (go, gate) = mpsc::channel::<()>();
    let result = Told(told);
    let job = move || {
        gate.recv().unwrap();
        result
    };
    let task = Task::spawn("gated", job).unwrap();
    drop(task);
    go.send(()).unwrap();
    assert_ne!(dropped.recv_timeout(PATIENCE).unwrap(), thread::current().id());
}
