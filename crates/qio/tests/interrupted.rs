//! EINTR, the real one.
//!
//! A handler without SA_RESTART cannot be installed in safe code. But a socket call with a timeout
//! of its own returns EINTR also when the process is stopped and continued (signal(7)).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qio::transport::Socket;
use qio::{Channel, ChannelExt};
use qio_testkit::Job;
use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "QIO_INTERRUPTED_ROLE";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_interrupted_call_goes_on() {
    if std::env::var_os(ROLE).is_some() {
        sleep_in_a_read_and_in_a_write();
        return;
    }
    qio_testkit::scope(LIMIT, |_| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_interrupted_call_goes_on", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("asleep\n") {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the child ended early");
        }
        let pid = Pid::from_child(&child);
        for _ in 0..10 {
            kill_process(pid, Signal::STOP).unwrap();
            wait_for_state(pid, 'T');
            kill_process(pid, Signal::CONT).unwrap();
            wait_for_state(pid, 'S');
        }
        child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{rest}");
    });
}

fn sleep_in_a_read_and_in_a_write() {
    let pair = || {
        let (left, right) = UnixStream::pair().unwrap();
        right.set_read_timeout(Some(LIMIT * 2)).unwrap();
        right.set_write_timeout(Some(LIMIT * 2)).unwrap();
        (Socket::from_fd(left.into()).unwrap(), Arc::new(Socket::from_fd(right.into()).unwrap()))
    };
    let (feeds, reads) = pair();
    let (drains, writes) = pair();
    let reader = Job::start(move || reads.read_exact(&mut [0; 2]));
    let writer = Job::start(move || {
        writes.write_all(&vec![1; 4 << 20])?;
        writes.close()
    });
    reader.wait_until_asleep();
    writer.wait_until_asleep();
    // Not through the macro, which the harness may keep to itself.
    std::io::stdout().write_all(b"asleep\n").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert!(reader.is_running() && writer.is_running(), "{:?}", reader.finish());
    feeds.write_all(b"go").unwrap();
    reader.finish().unwrap();
    drains.read_exact(&mut vec![0; 4 << 20]).unwrap();
    writer.finish().unwrap();
}

/// Waits until every thread of the process is stopped (`T`), or sleeps again (`S`).
fn wait_for_state(pid: Pid, wanted: char) {
    let until = Instant::now() + LIMIT;
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let all_are = || {
        fs::read_dir(&tasks).unwrap().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(wanted))
        })
    };
    while !all_are() {
        assert!(Instant::now() < until, "process {tasks} is never {wanted}");
        std::thread::yield_now();
    }
}
