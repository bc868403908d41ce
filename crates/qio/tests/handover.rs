//! The hand-over of control output between threads, in every order that a model checker thinks of.
//!
//! The file under test is compiled here once more, with the checker's locks in place of those of
//! the standard library.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use shuttle::thread;

#[path = "../src/layer/handover.rs"]
mod handover;

/// What `layer/sync.rs` is made of, from the checker.
mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        match mutex.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::WouldBlock) => None,
            Err(error @ std::sync::TryLockError::Poisoned(_)) => panic!("{error}"),
        }
    }
}

use handover::Handover;
use sync::{Mutex, lock};

/// What a layer has in common with this: an engine with words to say, and a way out.
#[derive(Default)]
struct Model {
    engine: Mutex<Vec<u32>>,
    outwards: Handover<Wire>,
}

#[derive(Default)]
struct Wire {
    sent: Vec<u32>,
    /// How often there is no room, from now on.
    blocks: u32,
}

impl Model {
    /// As `Outwards::flush`: the words that can go out do.
    fn flush(&self, wire: &mut Wire) {
        loop {
            if wire.blocks > 0 {
                wire.blocks -= 1;
                return;
            }
            let Some(word) = lock(&self.engine).pop() else { return };
            wire.sent.push(word);
        }
    }

    /// As `Layer::try_read`, when what was read has to be answered.
    fn read(&self, word: u32) {
        lock(&self.engine).push(word);
        let wants_wire = !lock(&self.engine).is_empty();
        if wants_wire {
            self.outwards.owe(|wire| self.flush(wire));
        }
    }

    /// As `Layer::try_write`.
    fn write(&self, word: u32) {
        let send = |wire: &mut Wire| wire.sent.push(word);
        self.outwards.with(send, |wire| self.flush(wire));
    }

    /// As `Layer::drive`, by somebody who waits.
    fn drive(&self) {
        self.outwards.with(|wire| self.flush(wire), |wire| self.flush(wire));
    }

    fn sent(&self) -> Vec<u32> {
        let mut sent = self.outwards.lock().sent.clone();
        sent.sort_unstable();
        sent
    }
}

const SCHEDULES: usize = 5_000;

#[test]
fn control_output_goes_out_once_whoever_holds_the_way() {
    shuttle::check_random(
        || {
            let model = Arc::new(Model::default());
            let reader = Arc::clone(&model);
            let reader = thread::spawn(move || {
                reader.read(1);
                reader.read(2);
            });
            let writer = Arc::clone(&model);
            let writer = thread::spawn(move || {
                writer.write(3);
                writer.write(4);
            });
            model.drive();
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(model.sent(), [1, 2, 3, 4]);
        },
        SCHEDULES,
    );
}

#[test]
fn the_orders_that_few_switches_make_are_good_too() {
    shuttle::check_pct(
        || {
            let model = Arc::new(Model::default());
            let reader = Arc::clone(&model);
            let reader = thread::spawn(move || {
                reader.read(1);
                reader.read(2);
            });
            model.write(3);
            reader.join().unwrap();
            assert_eq!(model.sent(), [1, 2, 3]);
        },
        SCHEDULES,
        3,
    );
}

#[test]
fn what_found_no_room_stays_for_whoever_waits() {
    shuttle::check_random(
        || {
            let model = Arc::new(Model::default());
            model.outwards.lock().blocks = 2;
            let reader = Arc::clone(&model);
            let reader = thread::spawn(move || {
                reader.read(1);
                reader.read(2);
            });
            model.write(3);
            reader.join().unwrap();
            // Whoever waits looks at the engine, and drives while it has something to say.
            while !lock(&model.engine).is_empty() {
                model.drive();
            }
            assert_eq!(model.sent(), [1, 2, 3]);
        },
        SCHEDULES,
    );
}
