//! What several test programs share.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use qio::transport::Socket;
use qio::watch::{PollSet, Waiter, waiter};

/// Far beyond what anything here takes: a test that reaches it has hung.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub fn patience() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

/// Runs the test of that name again in a process of its own, where `body` runs; for tests of
/// state that belongs to the process: descriptors, threads, signals, capabilities.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    in_own_process_under(&[], test, body);
}

/// The same, started by another program: the words in front of the command.
pub fn in_own_process_under(starter: &[&str], test: &str, body: impl FnOnce()) {
    const MARK: &str = "QIO_TEST_IN_OWN_PROCESS";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return body();
    }
    let mut output = tempfile::tempfile().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut command = match starter {
        [] => Command::new(program),
        [starter, words @ ..] => {
            let mut command = Command::new(starter);
            command.args(words).arg(program);
            command
        }
    };
    let mut process = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    let until = Instant::now() + 2 * PATIENCE;
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if until <= Instant::now() => {
                process.kill().unwrap();
                break "hung".to_owned();
            }
            None => std::thread::park_timeout(Duration::from_millis(1)),
        }
    };
    let mut text = String::new();
    output.seek(SeekFrom::Start(0)).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(status, "exit status: 0", "{text}");
    assert!(text.contains("1 passed"), "no test is called {test}:\n{text}");
}

/// Looks until the condition holds, for what the kernel announces to nobody.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// The open descriptors of this process with what they are, but the one that looks.
pub fn open_fds() -> Vec<(i32, String)> {
    let mut fds: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
        })
        .filter(|(_, target): &(i32, String)| {
            !target.starts_with("/proc/") || !target.ends_with("/fd")
        })
        .collect();
    fds.sort();
    fds
}

/// Runs `body`, and says so whenever it starts to wait.
pub fn announcing_waits<R>(waits: Sender<()>, body: impl FnOnce() -> R) -> R {
    struct Announcing(Sender<()>);
    impl Waiter for Announcing {
        fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
            let _ = self.0.send(());
            set.poll(until)
        }
    }
    waiter::scoped(Rc::new(Announcing(waits)), body)
}

/// Runs `body` so that whatever waits in it for longer than the patience fails.
pub fn impatiently<R>(body: impl FnOnce() -> R) -> R {
    struct Impatient(Instant);
    impl Waiter for Impatient {
        fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
            if self.0 <= Instant::now() {
                return Err(io::Error::other("hung"));
            }
            set.poll(Some(until.map_or(self.0, |until| until.min(self.0))))
        }
    }
    waiter::scoped(Rc::new(Impatient(Instant::now() + PATIENCE)), body)
}

/// Runs the test of that name again in another process, where `there` gets one end of a Unix pair,
/// while `here` gets the other end and the number of that process. Both must come to an end.
pub fn with_other_process(test: &str, there: impl FnOnce(Socket), here: impl FnOnce(Socket, u32)) {
    const MARK: &str = "QIO_TEST_OTHER_PROCESS";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        let end = io::stdin().as_fd().try_clone_to_owned().unwrap();
        return there(Socket::from_fd(end).unwrap());
    }
    let (end, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .stdin(OwnedFd::from(theirs))
        .stdout(output.try_clone().unwrap())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    let end = Socket::from_fd(end.into()).unwrap();
    let id = process.id();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| here(end, id))).err();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if until <= Instant::now() => {
                process.kill().unwrap();
                process.wait().unwrap();
                break "hung".to_owned();
            }
            None => std::thread::park_timeout(Duration::from_millis(1)),
        }
    };
    let mut text = String::new();
    output.seek(SeekFrom::Start(0)).unwrap();
    output.read_to_string(&mut text).unwrap();
    if let Some(panic) = panic {
        println!("the other process: {status}\n{text}");
        std::panic::resume_unwind(panic);
    }
    assert_eq!(status, "exit status: 0", "{text}");
    assert!(text.contains("1 passed"), "no test is called {test}:\n{text}");
}

/// Whether a program can be run here; says so when not.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}
