//! Child processes as channels.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{announcing_waits, eventually, impatiently, in_own_process, patience};
use qio::transport::{Access, Child, Command, Pipe, Stderr};
use qio::watch::{PollSet, run};
use qio::{Channel, ChannelExt, Direction, Features, Interest, Io, Mode, Readiness};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn text(channel: &impl Channel) -> String {
    let mut text = String::new();
    impatiently(|| Io(channel).read_to_string(&mut text)).unwrap();
    text
}

/// A child that is there until somebody ends it, and has said so.
fn sleeper(prelude: &str, options: impl FnOnce(Command) -> Command) -> Child {
    let script = format!("{prelude} echo ready; exec sleep 60 >/dev/null");
    let child = options(shell(&script).access(Access::ReadOnly)).spawn().unwrap();
    assert_eq!(text(&child), "ready\n");
    child
}

/// A second descriptor of the process, to watch its end from outside.
struct Witness(std::os::fd::OwnedFd);

impl Witness {
    fn of(child: &Child) -> Self {
        let pid = Pid::from_raw(child.pid() as i32).unwrap();
        Self(rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    /// Waits until the process has ended.
    fn sees_the_end(&self) {
        let timeout = Timespec::try_from(common::PATIENCE).unwrap();
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "never ended");
    }

    fn is_running(&self) -> bool {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 0
    }

    /// Waits until nothing is left of it, not even a zombie.
    fn sees_it_reaped(&self) {
        self.sees_the_end();
        eventually("the process is reaped", || {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            let id = WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.0));
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            matches!(waitid(id, options), Err(rustix::io::Errno::CHILD))
        });
    }
}

#[test]
fn what_goes_in_comes_out_and_the_status_follows() {
    let child = Command::new("cat").spawn().unwrap();
    assert_eq!(child.features() & Features::DUPLEX, Features::DUPLEX);
    child.write_all(b"hello").unwrap();
    child.finish().unwrap();
    child.finish().unwrap();
    assert_eq!(text(&child), "hello");
    for _ in 0..3 {
        assert_eq!(child.read(&mut [0]).unwrap(), 0, "the end is sticky");
    }
    assert!(child.wait_exit(patience()).unwrap().success());
}

#[test]
fn each_access_has_its_directions() {
    let child = shell("echo out").access(Access::ReadOnly).spawn().unwrap();
    assert_eq!(child.features() & Features::DUPLEX, Features::READ);
    assert_eq!(text(&child), "out\n");
    assert_eq!(child.write(b"x").unwrap_err().kind(), ErrorKind::Unsupported);

    // Its output is /dev/null, not ours; its input comes from us.
    let child = shell("read x; echo out; test \"$x\" = in").access(Access::WriteOnly);
    let child = child.spawn().unwrap();
    assert_eq!(child.features() & Features::DUPLEX, Features::WRITE);
    assert_eq!(child.read(&mut [0]).unwrap_err().kind(), ErrorKind::Unsupported);
    child.write_all(b"in\n").unwrap();
    assert!(child.wait_exit(patience()).unwrap().success());

    // Without access, its input is empty.
    let child = shell("cat; echo end").access(Access::ReadOnly).spawn().unwrap();
    assert_eq!(text(&child), "end\n");
}

#[test]
fn a_child_sees_its_arguments_surroundings_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg("echo \"$1|$A|$HOME|$(pwd -P)\"")
        .args(["name", "a b"])
        .env_clear()
        .env("A", "1")
        .env("HOME", "x")
        .env_remove("HOME")
        .current_dir(dir.path())
        .access(Access::ReadOnly)
        .spawn()
        .unwrap();
    let place = dir.path().canonicalize().unwrap();
    assert_eq!(text(&child), format!("a b|1||{}\n", place.display()));
}

#[test]
fn a_child_sees_no_other_descriptors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // A descriptor without CLOEXEC, as a careless library in the same program would leave one.
    let careless = rustix::io::dup(&file).unwrap();
    assert!(rustix::io::fcntl_getfd(&careless).unwrap().is_empty());
    let others: Vec<Child> = (0..3).map(|_| Command::new("cat").spawn().unwrap()).collect();
    let child = shell("ls -l /proc/self/fd").access(Access::ReadOnly).stderr(Stderr::Capture);
    let listed = text(&child.spawn().unwrap());
    let entries: Vec<&str> = listed.lines().filter(|line| line.contains(" -> ")).collect();
    // 0, 1, 2, and the directory that ls(1) reads.
    assert_eq!(entries.len(), 4, "{listed}");
    let path = file.path().display().to_string();
    assert!(!listed.contains(&path), "{listed}");
    drop((others, careless));
}

#[test]
fn captured_and_merged_errors_go_where_they_should() {
    let script = "echo out; echo err >&2; echo again";
    let child = shell(script).access(Access::ReadOnly).stderr(Stderr::Capture).spawn().unwrap();
    assert_eq!(text(&child), "out\nagain\n");
    child.close().unwrap();
    let stderr = child.stderr().unwrap();
    assert_eq!(text(&**stderr), "err\n", "open although the child was closed");

    let child = shell(script).access(Access::ReadOnly).stderr(Stderr::Merge).spawn().unwrap();
    assert!(child.stderr().is_none());
    assert_eq!(text(&child), "out\nerr\nagain\n");

    let child = shell(script).access(Access::ReadOnly).stderr(Stderr::Null).spawn().unwrap();
    assert_eq!(text(&child), "out\nagain\n");
}

#[test]
fn a_program_that_cannot_be_run_says_what_and_why() {
    let report = |command: Command| command.spawn().unwrap_err().report().to_string();
    assert_eq!(
        report(Command::new("qio-no-such-program")),
        "run qio-no-such-program: no such file or directory \
         (no directory in PATH has a program of that name)"
    );
    assert_eq!(report(Command::new("/nowhere/x")), "run /nowhere/x: no such file or directory");
    assert_eq!(
        report(Command::new("cat").current_dir("/nowhere")),
        "run cat: no such file or directory (the working directory does not exist)"
    );
    assert_eq!(report(Command::new("/etc/passwd")), "run /etc/passwd: permission denied");
    let error = Command::new("qio-no-such-program").spawn().unwrap_err();
    assert_eq!((error.attempt(), error.io_kind()), ("run", Some(ErrorKind::NotFound)));
}

#[test]
fn the_exit_status_is_kept_also_after_close() {
    let child = shell("read x; exit 3").spawn().unwrap();
    assert_eq!(child.exit_status().unwrap(), None);
    child.close().unwrap();
    child.close().unwrap();
    assert_eq!(child.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(child.write(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(child.finish().unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!((child.read(&mut []).unwrap(), child.write(&[]).unwrap()), (0, 0));
    assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(3));
    for _ in 0..2 {
        assert_eq!(child.exit_status().unwrap().unwrap().code(), Some(3));
        assert_eq!(child.wait_exit(Some(Instant::now())).unwrap().code(), Some(3));
        // Nobody is left to be signalled.
        child.kill().unwrap();
        assert_eq!(child.terminate(Duration::ZERO).unwrap().code(), Some(3));
    }
}

#[test]
fn waiting_for_the_exit_has_a_deadline() {
    let child = Command::new("cat").spawn().unwrap();
    let start = Instant::now();
    let deadline = start + Duration::from_millis(20);
    assert_eq!(child.wait_exit(Some(deadline)).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(child.exit_status().unwrap(), None);
    child.close().unwrap();
    assert!(child.wait_exit(patience()).unwrap().success());
}

#[test]
fn waiting_for_the_exit_goes_through_the_current_waiter() {
    let child = Command::new("cat").spawn().unwrap();
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| announcing_waits(waits, || child.wait_exit(patience())));
        waiting.recv_timeout(common::PATIENCE).unwrap();
        child.finish().unwrap();
        assert!(waiter.join().unwrap().unwrap().success());
    });
}

#[test]
fn the_exit_can_be_watched_again_and_again() {
    let child = Command::new("cat").spawn().unwrap();
    let mut set = PollSet::new();
    child.watch_exit(&mut set);
    set.poll(Some(Instant::now())).unwrap();
    assert!(child.exit_status().unwrap().is_none());
    child.finish().unwrap();
    set.poll(patience()).unwrap();
    assert!(set.granted().is_empty(), "says nothing about the pipes");
    assert!(child.exit_status().unwrap().unwrap().success());
    let start = Instant::now();
    set.clear();
    child.watch_exit(&mut set);
    set.poll(patience()).unwrap();
    assert!(start.elapsed() < common::PATIENCE, "fires also when it was reaped");
}

#[test]
fn the_end_of_the_stream_is_that_of_the_pipe_and_not_of_the_process() {
    // The pipe ends first.
    let child = shell("exec >/dev/null; read x; exit 4").spawn().unwrap();
    assert_eq!(child.read(&mut [0]).unwrap(), 0);
    assert_eq!(child.exit_status().unwrap(), None);
    child.finish().unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(4));

    // The process ends first: a child of its own has the pipes.
    let child = shell("exec 3<&0; cat <&3 & exit 5").spawn().unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(5));
    child.write_all(b"still here").unwrap();
    child.finish().unwrap();
    assert_eq!(text(&child), "still here");
}

#[test]
fn terminating_gives_a_child_its_grace() {
    let child = sleeper("", |command| command);
    let start = Instant::now();
    let status = impatiently(|| child.terminate(common::PATIENCE)).unwrap();
    assert_eq!(status.signal(), Some(15));
    assert!(start.elapsed() < common::PATIENCE);

    let child = shell("trap 'exit 7' TERM; echo ready; while :; do read x; done");
    let child = child.spawn().unwrap();
    child.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(impatiently(|| child.terminate(common::PATIENCE)).unwrap().code(), Some(7));
}

#[test]
fn a_child_that_ignores_term_is_killed_after_its_grace() {
    let child = sleeper("trap '' TERM;", |command| command);
    let start = Instant::now();
    let grace = Duration::from_millis(30);
    assert_eq!(impatiently(|| child.terminate(grace)).unwrap().signal(), Some(9));
    assert!(start.elapsed() >= grace);
    assert!(start.elapsed() < common::PATIENCE);
}

#[test]
fn killing_returns_at_once_and_the_status_says_so() {
    let child = sleeper("trap '' TERM;", |command| command);
    child.kill().unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().signal(), Some(9));
}

#[test]
fn a_child_that_drains_slowly_gets_everything_although_it_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, copy) = (dir.path().join("gate"), dir.path().join("copy"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, mode).unwrap();
    // Reads nothing before the gate opens.
    let child = shell("read x < gate; cat > copy").access(Access::WriteOnly);
    let child = child.current_dir(dir.path()).spawn().unwrap();
    let witness = Witness::of(&child);
    let bytes: Vec<u8> = (0..60_000u32).map(|i| i as u8).collect();
    child.write_all(&bytes).unwrap();
    let start = Instant::now();
    drop(child);
    assert!(start.elapsed() < Duration::from_secs(5), "dropping does not wait");
    let ControlFlow::Break(opened) = run(Pipe::open_fifo_write(&gate), patience()).unwrap() else {
        panic!("the child does not wait at the gate any more")
    };
    opened.unwrap().write_all(b"go\n").unwrap();
    witness.sees_it_reaped();
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);
}

#[test]
fn a_dropped_child_is_terminated_after_its_linger_and_reaped() {
    let start = Instant::now();
    let linger = Duration::from_millis(30);
    let child = sleeper("", |command| command.linger(linger).grace(common::PATIENCE));
    let witness = Witness::of(&child);
    drop(child);
    witness.sees_it_reaped();
    assert!(start.elapsed() >= linger);
    assert!(start.elapsed() < common::PATIENCE);
}

#[test]
fn a_dropped_child_that_ignores_term_is_killed_after_its_grace() {
    let start = Instant::now();
    let grace = Duration::from_millis(30);
    let child = sleeper("trap '' TERM;", |command| command.linger(Duration::ZERO).grace(grace));
    let witness = Witness::of(&child);
    drop(child);
    witness.sees_it_reaped();
    assert!(start.elapsed() >= grace);
    assert!(start.elapsed() < common::PATIENCE);
}

#[test]
fn a_linger_for_ever_is_no_overflow() {
    let child = shell("read x").linger(Duration::MAX).grace(Duration::MAX).spawn().unwrap();
    let witness = Witness::of(&child);
    drop(child);
    witness.sees_it_reaped();
}

#[test]
fn a_detached_child_runs_on_and_is_reaped_when_it_ends() {
    let options =
        |command: Command| command.linger(Duration::ZERO).grace(Duration::ZERO).detach_on_drop();
    let detached = sleeper("", options);
    let witness = Witness::of(&detached);
    drop(detached);
    // Another one is ended meanwhile: the reaper has had its chance.
    let other = sleeper("", |command| command.linger(Duration::ZERO));
    let other_witness = Witness::of(&other);
    drop(other);
    other_witness.sees_it_reaped();
    assert!(witness.is_running());
    rustix::process::pidfd_send_signal(&witness.0, rustix::process::Signal::TERM).unwrap();
    witness.sees_it_reaped();
}

fn reapers() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim() == "qio-reaper")
        .count()
}

#[test]
fn one_thread_reaps_all_children_and_ends_with_the_last() {
    in_own_process("one_thread_reaps_all_children_and_ends_with_the_last", || {
        for _ in 0..2 {
            let children: Vec<Child> =
                (0..8).map(|_| sleeper("", |command| command.detach_on_drop())).collect();
            let witnesses: Vec<Witness> = children.iter().map(Witness::of).collect();
            assert_eq!(reapers(), 0, "not before it is needed");
            drop(children);
            eventually("the thread has its name", || reapers() == 1);
            for (index, witness) in witnesses.iter().enumerate() {
                assert!(index > 0 || witness.is_running());
                let term = rustix::process::Signal::TERM;
                rustix::process::pidfd_send_signal(&witness.0, term).unwrap();
                witness.sees_it_reaped();
            }
            eventually("the thread is gone", || reapers() == 0);
        }
    });
}

#[test]
fn dropping_a_child_that_has_ended_starts_no_thread_and_leaves_no_zombie() {
    in_own_process("dropping_a_child_that_has_ended_starts_no_thread_and_leaves_no_zombie", || {
        let child = Command::new("true").spawn().unwrap();
        let witness = Witness::of(&child);
        witness.sees_the_end();
        drop(child);
        assert_eq!(reapers(), 0);
        witness.sees_it_reaped();
    });
}

#[test]
fn spawning_leaks_no_descriptor_also_when_it_fails() {
    in_own_process("spawning_leaks_no_descriptor_also_when_it_fails", || {
        // What is made once: the descriptor that ends waits.
        let first = Command::new("cat").spawn().unwrap();
        first.finish().unwrap();
        assert_eq!(text(&first), "");
        first.wait_exit(patience()).unwrap();
        drop(first);
        let before = common::open_fds();
        for stderr in [Stderr::Inherit, Stderr::Capture, Stderr::Merge, Stderr::Null] {
            for access in [Access::ReadOnly, Access::WriteOnly, Access::ReadWrite] {
                let child = Command::new("true").access(access).stderr(stderr).spawn().unwrap();
                child.wait_exit(patience()).unwrap();
                drop(child);
                let none = Command::new("/nowhere/x").access(access).stderr(stderr);
                none.spawn().unwrap_err();
            }
        }
        assert_eq!(common::open_fds(), before);
    });
}

#[test]
fn a_closed_child_closes_nobody_elses_descriptor() {
    in_own_process("a_closed_child_closes_nobody_elses_descriptor", || {
        let child = Command::new("cat").spawn().unwrap();
        child.close().unwrap();
        // These take the numbers that have just become free.
        let others: Vec<_> = (0..8).map(|_| tempfile::tempfile().unwrap()).collect();
        child.close().unwrap();
        drop(child);
        for other in &others {
            other.metadata().unwrap();
        }
    });
}

#[test]
fn close_reaches_the_child_although_a_watch_is_alive() {
    let child = Command::new("cat").spawn().unwrap();
    let mut forgotten = PollSet::new();
    assert!(child.watch(Interest::READ, &mut forgotten).is_empty());
    child.close().unwrap();
    forgotten.poll(patience()).unwrap();
    assert!(forgotten.granted().contains(Readiness::READ));
    assert!(child.wait_exit(patience()).unwrap().success(), "it read its end");
}

#[test]
fn close_wakes_a_thread_that_blocks_in_a_read() {
    let child = Command::new("cat").spawn().unwrap();
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| announcing_waits(waits, || child.read(&mut [0])));
        waiting.recv_timeout(common::PATIENCE).unwrap();
        child.close().unwrap();
        assert_eq!(blocked.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn more_vectors_than_one_call_takes_go_through_a_child() {
    let child = Command::new("cat").spawn().unwrap();
    let bytes: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
    let mut bufs: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    child.write_vectored_all(&mut bufs).unwrap();
    let mut back = vec![0; 2000];
    let mut bufs: Vec<IoSliceMut<'_>> = back.chunks_mut(1).map(IoSliceMut::new).collect();
    child.read_vectored_exact(&mut bufs).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn a_megabyte_goes_both_ways_at_once() {
    let child = Command::new("cat").spawn().unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8).collect();
    let mut back = vec![0; bytes.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| child.write_all(&bytes).unwrap());
        child.read_exact(&mut back).unwrap();
    });
    assert!(back == bytes);
    child.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(child.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(child.splice_fd(Direction::Read).is_some());
    assert!(child.splice_fd(Direction::Write).is_some());
}

#[test]
fn writing_to_a_child_that_is_gone_is_an_error_and_no_signal() {
    in_own_process("writing_to_a_child_that_is_gone_is_an_error_and_no_signal", || {
        qio_os::restore_default_sigpipe();
        let child = Command::new("true").spawn().unwrap();
        child.wait_exit(patience()).unwrap();
        assert_eq!(child.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(child.write(&[]).unwrap(), 0);
        assert_eq!(child.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_child_has_the_default_action_for_sigpipe() {
    // This program ignores it, as Rust programs do; a pipeline in the child relies on it.
    let child = shell("kill -PIPE $$; exit 0").access(Access::ReadOnly).spawn().unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().signal(), Some(13));
}

#[test]
fn a_status_that_somebody_else_took_is_an_error_and_no_hang() {
    let child = Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(child.pid() as i32);
    let options = rustix::process::WaitOptions::empty();
    rustix::process::waitpid(pid, options).unwrap();
    let error = child.wait_exit(patience()).unwrap_err();
    assert!(error.to_string().starts_with("the exit status is lost"), "{error}");
    assert!(child.exit_status().is_err());
}

#[test]
fn a_script_without_its_interpreter_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Command::new(Path::new(&script)).spawn().unwrap_err();
    let hint = "the file exists, the interpreter that it names does not";
    assert_eq!(error.hint_text(), Some(hint));
}
