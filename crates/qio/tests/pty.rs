//! Children on terminals of their own.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{impatiently, in_own_process, in_own_process_under, open_fds, patience};
use qio::net::{ConnectOptions, connect};
use qio::transport::{Child, Command, PtyOptions, WindowSize};
use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Features, Interest, Io, Mode};

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn on_terminal(script: &str) -> Child {
    shell(script).pty(PtyOptions::new()).spawn().unwrap()
}

/// On a terminal that shows nothing but what the program writes, as it is.
fn quiet(script: &str) -> Child {
    shell(script).pty(PtyOptions::new().echo(false)).spawn().unwrap()
}

/// Everything that is shown until the end.
fn text(channel: &dyn Channel) -> String {
    let mut text = Vec::new();
    impatiently(|| Io(channel).read_to_end(&mut text)).unwrap();
    String::from_utf8(text).unwrap()
}

/// Reads until that was shown.
fn shows(channel: &dyn Channel, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut byte = [0];
        let n = impatiently(|| channel.read(&mut byte)).unwrap();
        assert_eq!(n, 1, "never showed {wanted:?}, but {text:?}");
        text.push(char::from(byte[0]));
    }
    text
}

/// Types empty lines while `body` runs: a shell that gets a signal just before it begins to read
/// runs its trap only after the line.
fn typing<R>(child: &Child, body: impl FnOnce() -> R) -> R {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when the body panics.
        let _done = Done(&done);
        scope.spawn(|| {
            // It may end at any time.
            while !done.load(Ordering::Relaxed) && child.write(b"\n").is_ok() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        body()
    })
}

fn open(address: &str) -> Arc<dyn Channel> {
    connect(&address.parse().unwrap(), &ConnectOptions::new()).unwrap()
}

#[test]
fn all_three_streams_are_a_terminal_that_controls_a_new_session() {
    let child = on_terminal(
        "for fd in 0 1 2; do test -t $fd || echo no $fd; done; \
         test \"$(tty)\" = \"$(readlink /proc/self/fd/0)\" && echo same; \
         echo here >/dev/tty; echo err >&2; \
         set -- $(cut -d' ' -f 5,6,8 /proc/$$/stat); echo $1 $2 $3 = $$",
    );
    let (pid, features) = (child.pid(), child.features());
    assert!(child.has_pty());
    assert_eq!(features, Features::DUPLEX);
    // Group, session and the terminal's foreground group are all led by the child.
    let ids = format!("{pid} {pid} {pid} = {pid}");
    let expected = ["same", "here", "err", &ids].map(|line| format!("{line}\r\n")).concat();
    assert_eq!(text(&child), expected);
    assert!(child.wait_exit(patience()).unwrap().success());
}

#[test]
fn what_is_shown_before_the_exit_is_all_read_and_the_end_is_sticky() {
    let lines = 20_000;
    for mode in [Mode::Blocking, Mode::NonBlocking] {
        let child = on_terminal(&format!("seq {lines}; exit 3"));
        child.set_mode(mode).unwrap();
        let mut all: Vec<u8> = Vec::new();
        let mut part = [0; 3000];
        impatiently(|| {
            loop {
                match child.read(&mut part) {
                    Ok(0) => break,
                    Ok(n) => all.extend(&part[..n]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        child.wait(Interest::READ, None).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let expected: String = (1..=lines).map(|n| format!("{n}\r\n")).collect();
        assert!(all == expected.as_bytes(), "{} of {} bytes", all.len(), expected.len());
        assert_eq!(child.read(&mut part).unwrap(), 0);
        assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(3));
        assert_eq!(child.read(&mut part).unwrap(), 0);
        assert_eq!(child.write_all(b"late").unwrap_err().kind(), ErrorKind::BrokenPipe);
        child.finish().unwrap();
    }
}

#[test]
fn what_was_shown_before_the_program_ended_waits_for_a_late_reader() {
    for _ in 0..20 {
        let child = on_terminal("seq 700; exit 0");
        assert!(child.wait_exit(patience()).unwrap().success());
        assert_eq!(text(&child), (1..=700).map(|n| format!("{n}\r\n")).collect::<String>());
    }
}

#[test]
fn finishing_ends_the_input_after_whole_and_broken_lines() {
    for (typed, seen) in [("", ""), ("abc\n", "abc\r\n"), ("abc", "abc"), ("a\nb", "a\r\nb")] {
        let child = quiet("cat; echo end");
        child.write_all(typed.as_bytes()).unwrap();
        for _ in 0..2 {
            child.finish_all(patience()).unwrap();
        }
        assert_eq!(child.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(text(&child), format!("{seen}end\r\n"), "{typed:?}");
        assert!(child.wait_exit(patience()).unwrap().success());
    }
}

#[test]
fn finishing_types_the_key_that_the_terminal_has_for_it() {
    // One more line end, and another key for the end; \r is a line end as long as it becomes \n.
    for (setting, typed) in [
        ("eof @", "abc\n"),
        ("eol z", "abz"),
        ("eof @", "ab@"),
        ("icrnl", "a\r"),
        ("-icrnl", "a\r"),
    ] {
        let child =
            quiet(&format!("stty {setting}; echo ready; cat | wc -l; echo $?; read x; echo $?"));
        shows(&child, "ready\r\n");
        child.write_all(typed.as_bytes()).unwrap();
        child.finish_all(patience()).unwrap();
        // Were the key typed once too often, it would be the end of the next program's input, too;
        // so that one waits.
        let lines = typed.contains('\n') || (typed.contains('\r') && setting == "icrnl");
        shows(&child, &format!("{}\r\n0\r\n", u8::from(lines)));
        assert!(child.exit_status().unwrap().is_none(), "{setting} {typed:?}");
        child.close().unwrap();
        assert_eq!(child.wait_exit(patience()).unwrap().signal(), Some(1));
    }
}

#[test]
fn in_raw_mode_finishing_types_nothing_and_every_byte_goes_through() {
    let child = Command::new("cat").pty(PtyOptions::new().raw(true)).spawn().unwrap();
    let bytes: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    let mut back = vec![0; bytes.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| child.write_all(&bytes).unwrap());
        impatiently(|| child.read_exact(&mut back)).unwrap();
    });
    assert!(back == bytes);
    child.finish().unwrap();
    let soon = Instant::now() + Duration::from_millis(50);
    let waited = child.wait(Interest::READ, Some(soon));
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::TimedOut, "nothing was typed");
    assert_eq!(child.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_program_that_reads_keys_gets_the_key_for_the_end() {
    // What a shell with line editing does, which leaves ^C to the terminal.
    let child = quiet("stty -icanon; echo ready; dd bs=1 count=2 2>/dev/null | od -An -tx1");
    shows(&child, "ready\r\n");
    child.write_all(b"x").unwrap();
    child.finish().unwrap();
    assert_eq!(text(&child), " 78 04\r\n");
}

#[test]
fn closing_hangs_up() {
    let child = on_terminal("trap 'exit 7' HUP; echo ready; while :; do read x; done");
    shows(&child, "ready\r\n");
    // A forgotten watch does not keep the terminal.
    let mut forgotten = PollSet::new();
    assert!(child.watch(Interest::READ, &mut forgotten).is_empty());
    child.close().unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(7));
    forgotten.poll(patience()).unwrap();
    for result in [child.finish(), child.read(&mut [0]).map(drop), child.write(b"x").map(drop)] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    }
    assert_eq!(child.window_size().unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn what_the_program_ignores_its_children_on_terminals_do_not() {
    // As nohup(1) does, and shells with what they start in the background.
    let ignoring = ["sh", "-c", "trap '' HUP INT QUIT TSTP TTIN TTOU; exec \"$@\"", "sh"];
    let test = "what_the_program_ignores_its_children_on_terminals_do_not";
    in_own_process_under(&ignoring, test, || {
        let of_terminals = [1, 2, 3, 20, 21, 22].map(|signal| 1u64 << (signal - 1));
        let ignored = |status: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
            let ignored = u64::from_str_radix(line.trim(), 16).unwrap();
            of_terminals.iter().filter(|&bit| ignored & bit != 0).count()
        };
        let ours = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(ignored(&ours), 6, "there is something to inherit");
        assert_eq!(ignored(&text(&on_terminal("exec cat /proc/self/status"))), 0);
        // The key interrupts.
        let child = on_terminal("echo ready; exec sleep 1000");
        shows(&child, "ready\r\n");
        child.write_all(b"\x03").unwrap();
        assert_eq!(child.wait_exit(patience()).unwrap().signal(), Some(2));
    });
}

#[test]
fn a_child_that_has_left_its_terminal_is_not_hung_up_before_it_can_end() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::RWXU).unwrap();
    let child = shell("exec 0<&- 1>&- 2>&-; read x <gate; exit 6").current_dir(dir.path());
    let child = child.pty(PtyOptions::new()).spawn().unwrap();
    assert_eq!(text(&child), "");
    child.close().unwrap();
    child.close().unwrap();
    assert_eq!(child.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
    std::fs::write(&gate, "go\n").unwrap();
    assert_eq!(child.wait_exit(patience()).unwrap().code(), Some(6));
}

#[test]
fn a_dropped_child_is_hung_up_and_then_goes_down_the_ladder() {
    for (trap, signal) in [("", 1), ("trap '' HUP;", 15), ("trap '' HUP TERM;", 9)] {
        let command = shell(&format!("{trap} echo ready; exec sleep 60"));
        let command = command.linger(Duration::from_millis(30)).grace(Duration::from_millis(30));
        let child = command.pty(PtyOptions::new()).spawn().unwrap();
        shows(&child, "ready\r\n");
        // A process beside it sees what it ended by.
        let pid = rustix::process::Pid::from_raw(child.pid() as i32).unwrap();
        let flags = rustix::process::PidfdFlags::empty();
        let witness = qio::watch::SharedFd::new(rustix::process::pidfd_open(pid, flags).unwrap());
        let started = Instant::now();
        drop(child);
        let mut set = PollSet::new();
        set.add(&witness, Interest::READ, Interest::READ);
        set.poll(patience()).unwrap();
        assert!(!set.granted().is_empty(), "{trap} runs on");
        let steps = [1, 15, 9].iter().position(|&other| other == signal).unwrap() as u32;
        assert!(started.elapsed() >= Duration::from_millis(30) * steps, "{trap}");
    }
}

#[test]
fn terminating_reaches_a_shell_that_ignores_term() {
    let child = quiet("trap '' TERM; trap 'exit 8' HUP; echo ready; while :; do read x; done");
    shows(&child, "ready\r\n");
    let status = typing(&child, || impatiently(|| child.terminate(common::PATIENCE)));
    assert_eq!(status.unwrap().code(), Some(8));
}

#[test]
fn the_window_has_its_size_from_the_start_and_tells_when_it_changes() {
    let size = WindowSize::new(132, 43);
    let script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do read x; done";
    let child = shell(script).pty(PtyOptions::new().size(size).echo(false)).spawn().unwrap();
    assert_eq!(child.window_size().unwrap(), size);
    assert_eq!(shows(&child, "ready\r\n"), "43 132\r\nready\r\n");
    let size = WindowSize::new(40, 12);
    child.set_window_size(size).unwrap();
    assert_eq!(child.window_size().unwrap(), size);
    assert_eq!(typing(&child, || text(&child)), "12 40\r\n");

    let behind_pipes = Command::new("cat").spawn().unwrap();
    assert!(!behind_pipes.has_pty());
    let asked = behind_pipes.window_size().unwrap_err().kind();
    let set = behind_pipes.set_window_size(size).unwrap_err().kind();
    assert_eq!([asked, set], [ErrorKind::Unsupported; 2]);
}

#[test]
fn the_address_sets_everything() {
    for (options, script, shown) in [
        ("", "stty size", "24 80\r\n"),
        ("?cols=100&rows=50", "stty size", "50 100\r\n"),
        ("?cols=65535", "stty size", "24 65535\r\n"),
        ("?term=vt220", "echo $TERM", "vt220\r\n"),
        ("?term=vt220&env=A=1&clear-env", "echo $TERM $A $HOME.", "vt220 1 .\r\n"),
        ("?dir=/", "pwd", "/\r\n"),
        ("?raw", "echo a; stty -a | grep -o -- '-icanon'", "a\n-icanon\n"),
        ("?echo=off", "read x; echo got $x", "got typed\r\n"),
        ("", "read x; echo got $x", "typed\r\ngot typed\r\n"),
    ] {
        let script = script.replace('\'', "\"");
        let child = open(&format!("pty:/bin/sh -c '{script}'{options}"));
        if script.contains("read x") {
            child.write_all(b"typed\n").unwrap();
        }
        assert_eq!(text(&*child), shown, "{options} {script}");
        let child = child.find::<Child>().unwrap();
        child.wait_exit(patience()).unwrap();
    }
}

#[test]
fn a_child_on_a_terminal_sees_no_other_descriptors() {
    let file = tempfile::tempfile().unwrap();
    // A descriptor without CLOEXEC, as a careless library in the same program would leave one.
    let careless = rustix::io::dup(&file).unwrap();
    let others: Vec<Child> = (0..3).map(|_| on_terminal("read x")).collect();
    let listed = text(&on_terminal("ls /proc/self/fd"));
    // 0, 1, 2, and the directory that ls(1) reads.
    assert_eq!(listed.split_whitespace().count(), 4, "{listed}");
    drop((others, careless));
}

#[test]
fn spawning_on_a_terminal_leaks_nothing_also_when_it_fails() {
    in_own_process("spawning_on_a_terminal_leaks_nothing_also_when_it_fails", || {
        let once = || {
            let child = on_terminal("read x");
            // The first wait makes a descriptor that stays.
            child.wait(Interest::READ, Some(Instant::now())).unwrap_err();
            child.write_all(b"\n").unwrap();
            assert_eq!(text(&child), "\r\n");
            child.wait_exit(patience()).unwrap();
            let command = Command::new("/nowhere/x").pty(PtyOptions::new());
            let report = command.spawn().unwrap_err().report().to_string();
            assert_eq!(report, "run /nowhere/x: no such file or directory");
        };
        once();
        let before = open_fds();
        once();
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn neither_direction_can_be_shut_down_by_itself() {
    let child = on_terminal("read x");
    for how in [std::net::Shutdown::Read, std::net::Shutdown::Write, std::net::Shutdown::Both] {
        assert_eq!(child.shutdown(how).unwrap_err().kind(), ErrorKind::Unsupported);
    }
    child.write_all(b"\n").unwrap();
    assert!(child.wait_exit(patience()).unwrap().success());
}
