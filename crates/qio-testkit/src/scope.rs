//! The frame of a test.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, process, thread};

use crate::Ledger;

/// Runs a test alone in its process, with a time limit, and checks that it leaks no descriptor.
///
/// Tests in scopes run one after the other, also under `cargo test`, so that the count of
/// descriptors is exact. A test that does not come back within `limit` ends the process, after
/// saying what each thread was doing: a hang that is only cut off by the runner tells nothing.
///
/// # Panics
///
/// When the body does, and when it leaves descriptors open.
pub fn scope<R>(limit: Duration, body: impl FnOnce(&Ledger) -> R) -> R {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ledger = Ledger::open();
    let watchdog = Watchdog::start(limit);
    let result = body(&ledger);
    drop(watchdog);
    ledger.check_closed();
    result
}

/// Ends the process unless it is dropped in time.
struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            if stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // Past the capture of the test harness, which would keep the text to itself.
                let text = format!("{test}: no end after {limit:?}; its threads:\n{}", threads());
                let _ = std::io::stderr().write_all(text.as_bytes());
                process::abort();
            }
        };
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(watch).unwrap();
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What every thread of the process is doing.
fn threads() -> String {
    let mut text = String::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let look = |file: &str| {
            let content = fs::read_to_string(task.path().join(file)).unwrap_or_default();
            content.trim().to_owned()
        };
        let _ = writeln!(
            text,
            "  {} {}: in {}, system call {}",
            task.file_name().to_string_lossy(),
            look("comm"),
            look("wchan"),
            look("syscall"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::Command;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn panic_text(body: impl FnOnce(&Ledger)) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| scope(LIMIT, body))).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }

    #[test]
    fn a_leaked_descriptor_is_named() {
        let mut kept = None;
        let text = panic_text(|_| kept = Some(fs::File::open("/dev/zero").unwrap()));
        assert!(text.contains("leaked 1 descriptors: ") && text.contains("/dev/zero"), "{text}");
    }

    #[test]
    fn a_descriptor_that_a_child_would_inherit_is_named() {
        let text = panic_text(|ledger| {
            let zero = fs::File::open("/dev/zero").unwrap();
            ledger.check_close_on_exec();
            let inherited = rustix::io::dup(zero.as_fd()).unwrap();
            ledger.check_close_on_exec();
            drop(inherited);
        });
        assert!(text.contains("would inherit 1 descriptors: "), "{text}");
    }

    #[test]
    fn a_test_that_hangs_ends_with_its_name_and_its_threads() {
        const ROLE: &str = "QIO_TESTKIT_HANG";
        let name = "scope::tests::a_test_that_hangs_ends_with_its_name_and_its_threads";
        if std::env::var_os(ROLE).is_some() {
            scope(Duration::from_millis(50), |_| {
                loop {
                    thread::park();
                }
            });
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--test-threads=2"]).env(ROLE, "1");
        let child = scope(LIMIT, |_| child.output().unwrap());
        let text = String::from_utf8_lossy(&child.stderr).into_owned();
        assert!(!child.status.success());
        assert!(text.contains(&format!("{name}: no end after 50ms")), "{text}");
        assert!(text.contains("watchdog: in "), "{text}");
    }
}
