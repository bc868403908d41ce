//! What a call cost.

use std::cell::Cell;
use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use qio::watch::{PollSet, Waiter, waiter};

/// Runs `body` and counts how often it had to wait, on this thread.
///
/// A wait is one park of the current waiter, whatever woke it: a call that spins shows as a large
/// number. Waits inside the kernel, of a socket in blocking mode, are not seen.
pub fn count_waits<R>(body: impl FnOnce() -> R) -> (R, u64) {
    let counter = Rc::new(Counter::default());
    let as_waiter: Rc<dyn Waiter> = Rc::clone(&counter) as _;
    let result = waiter::scoped(as_waiter, body);
    (result, counter.parks.get())
}

#[derive(Default)]
struct Counter {
    parks: Cell<u64>,
}

impl Waiter for Counter {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        self.parks.set(self.parks.get() + 1);
        set.poll(until)
    }
}

/// How much memory of the process is resident (`VmRSS`).
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = resident_bytes();
        let block = vec![1u8; 32 << 20];
        assert!(resident_bytes() - before > 16 << 20);
        drop(block);
    }
}
