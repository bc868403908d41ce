//! Background jobs.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
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
