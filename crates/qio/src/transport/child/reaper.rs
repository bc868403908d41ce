//! Where children go whose owner is gone.

use std::ops::ControlFlow;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::Process;
use crate::interest::Interest;
use crate::watch::{Event, PollSet};

/// What happens to a process whose `Child` is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum OnDrop {
    /// After `linger` it is terminated, after another `grace` killed.
    End { linger: Duration, grace: Duration },
    /// It runs as long as it likes.
    Detach,
}

/// Reaps `process` when it ends, and sees to it that it does, without making the caller wait.
pub(super) fn adopt(process: Process, on_drop: OnDrop) {
    if !matches!(process.exit_status(), Ok(None)) {
        return;
    }
    let orphan = Orphan::new(process, on_drop, Instant::now());
    let mut reaper = lock();
    reaper.arrived.push(orphan);
    if reaper.running {
        WAKE.raise();
        return;
    }
    // What wakes the thread is there before it is.
    WAKE.watch(Interest::empty(), &mut PollSet::new());
    // Without a thread the orphans wait here for the next one that comes.
    let thread = std::thread::Builder::new().name("qio-reaper".to_owned()).spawn(run);
    reaper.running = thread.is_ok();
}

static REAPER: Mutex<Reaper> = Mutex::new(Reaper { arrived: Vec::new(), running: false });

/// Raised while `arrived` has something that the thread has not seen.
static WAKE: LazyLock<Event> = LazyLock::new(Event::new);

#[derive(Debug)]
struct Reaper {
    arrived: Vec<Orphan>,
    running: bool,
}

fn lock() -> MutexGuard<'static, Reaper> {
    REAPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: ends when there is no orphan left.
fn run() {
    let mut orphans = Vec::new();
    let mut set = PollSet::new();
    loop {
        orphans.retain_mut(|orphan: &mut Orphan| orphan.step(Instant::now()).is_continue());
        {
            let mut reaper = lock();
            WAKE.lower();
            if orphans.is_empty() && reaper.arrived.is_empty() {
                reaper.running = false;
                return;
            }
            orphans.append(&mut reaper.arrived);
        }
        set.clear();
        WAKE.watch(Interest::empty(), &mut set);
        for orphan in &orphans {
            orphan.watch(&mut set);
        }
        if set.poll(None).is_err() {
            // No memory for the list of descriptors: look again when there may be some.
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Orphan {
    process: Process,
    stage: Stage,
}

/// What comes next; a time that no clock reaches is `None`.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Lingering {
        terminate_at: Option<Instant>,
        grace: Duration,
    },
    Terminating {
        kill_at: Option<Instant>,
    },
    /// Killed, or left alone.
    Ending,
}

impl Orphan {
    fn new(process: Process, on_drop: OnDrop, now: Instant) -> Self {
        let stage = match on_drop {
            OnDrop::End { linger, grace } => {
                Stage::Lingering { terminate_at: now.checked_add(linger), grace }
            }
            OnDrop::Detach => Stage::Ending,
        };
        Self { process, stage }
    }

    /// Breaks when nothing is left to do.
    fn step(&mut self, now: Instant) -> ControlFlow<()> {
        // An error means that somebody else has reaped it.
        if !matches!(self.process.exit_status(), Ok(None)) {
            return ControlFlow::Break(());
        }
        match self.stage {
            Stage::Lingering { terminate_at: Some(at), grace } if at <= now => {
                let _ = self.process.signal(Signal::TERM);
                self.stage = Stage::Terminating { kill_at: now.checked_add(grace) };
            }
            Stage::Terminating { kill_at: Some(at) } if at <= now => {
                let _ = self.process.signal(Signal::KILL);
                self.stage = Stage::Ending;
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn watch(&self, set: &mut PollSet) {
        self.process.watch_exit(set);
        match self.stage {
            Stage::Lingering { terminate_at: Some(at), .. } => set.wake_at(at),
            Stage::Terminating { kill_at: Some(at) } => set.wake_at(at),
            _ => {}
        }
    }
}
