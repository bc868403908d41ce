//! `qio connect` with `pty:` and `serial:`: programs on terminals, and who gets what is typed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Stdio;

use common::screen::Pty;
use common::{Running, eventually, is_installed, qio, run, serve};
use rustix::process::{Pid, Signal};
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};

/// `qio connect` by somebody who sits in front of `pty`.
fn connect(pty: &Pty, args: &[&str]) -> Running {
    Running::start(pty.session(common::QIO).arg("connect").args(args))
}

/// The settings of a terminal, as something that can be compared.
fn settings(pty: &Pty) -> String {
    format!("{:?}", tcgetattr(&pty.slave).unwrap())
}

fn is_raw(pty: &Pty) -> bool {
    let settings = tcgetattr(&pty.slave).unwrap();
    !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        && !settings.output_modes.contains(OutputModes::OPOST)
}

fn resize(pty: &Pty, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&pty.master, size).unwrap();
}

/// A script as the address of a program on a terminal.
fn script(text: &str) -> String {
    format!("pty:sh -c '{text}'")
}

/// Says that it is ready, and its number; then it waits for what `traps` react to.
fn waiting(traps: &str) -> String {
    script(&format!("{traps} echo ready $$.; while :; do read line; echo got $line.; done"))
}

/// Types empty lines until that is shown: a shell that gets a signal just before it begins to read
/// runs its trap only after the line.
fn shows_at_last(pty: &Pty, text: &str) {
    eventually(&format!("{text} on the screen"), || {
        pty.types("\r");
        pty.screen.lock().unwrap().contains(text)
    });
}

/// The number of a program that is [`waiting`].
fn pid(pty: &Pty) -> Pid {
    pty.shows(".\r");
    let screen = pty.screen.lock().unwrap();
    let (_, rest) = screen.split_once("ready ").unwrap();
    Pid::from_raw(rest.split_once('.').unwrap().0.parse().unwrap()).unwrap()
}

fn is_gone(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid).is_err()
}

#[test]
fn the_status_of_a_program_on_a_terminal_is_that_of_qio() {
    for (text, status) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("exec 0<&- 1>&- 2>&-; sleep 0.2; exit 9", 9),
    ] {
        let outcome = run(&mut qio(["connect", &script(text)]), b"");
        assert_eq!((outcome.status, outcome.stderr.as_str()), (status, ""), "{text}");
    }
}

#[test]
fn input_that_is_no_terminal_is_typed_with_its_end() {
    for (address, shown) in [
        ("pty:cat", "abcabc"),
        ("pty:cat?echo=off", "abc"),
        ("pty:stty size", "24 80\r\n"),
        ("pty:stty size?cols=132", "24 132\r\n"),
        ("pty:sh -c 'echo $TERM'?term=vt100&echo=off", "vt100\r\n"),
    ] {
        let input: &[u8] = if address.contains("cat") { b"abc" } else { b"" };
        let outcome = run(&mut qio(["connect", address]), input);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{address}");
        assert_eq!(outcome.text(), shown, "{address}");
    }
}

#[test]
fn everything_that_a_program_shows_before_it_ends_arrives() {
    let outcome = run(&mut qio(["connect", "pty:seq 100000"]), b"");
    let expected: String = (1..=100_000).map(|n| format!("{n}\r\n")).collect();
    assert!(outcome.status == 0 && outcome.text() == expected, "{} bytes", outcome.stdout.len());
}

#[test]
fn every_key_is_for_the_program_and_the_terminal_is_put_back() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let before = settings(&pty);
    let mut connect = connect(&pty, &[&waiting("trap \"echo interrupted; exit 5\" INT;")]);
    pid(&pty);
    assert!(is_raw(&pty));
    // The terminal of the program echoes, edits lines and makes signals; this one does not.
    pty.types("tyop\x7f\x7fpo\r");
    pty.shows("got typo.\r\n");
    pty.types("\x03");
    shows_at_last(&pty, "interrupted\r\n");
    assert_eq!(connect.wait(), 5);
    assert_eq!(settings(&pty), before);
}

#[test]
fn a_program_has_the_size_of_the_window_at_the_start_and_after_each_change() {
    if !is_installed("setsid") {
        return;
    }
    let traps = "stty size; trap \"stty size\" WINCH;";
    for fixed in [false, true] {
        let pty = Pty::new();
        resize(&pty, 100, 30);
        let address = waiting(traps) + if fixed { "?rows=11" } else { "" };
        let mut connect = connect(&pty, &[&address]);
        pty.shows(if fixed { "11 80\r\nready" } else { "30 100\r\nready" });
        resize(&pty, 60, 20);
        if !fixed {
            shows_at_last(&pty, "20 60\r\n");
            resize(&pty, 61, 20);
            shows_at_last(&pty, "20 61\r\n");
        }
        pty.types("x\r\x1d");
        assert_eq!(connect.wait(), 0);
        assert!(!fixed || !pty.screen.lock().unwrap().contains("20 60"));
    }
}

#[test]
fn the_terminal_is_put_back_after_every_signal() {
    if !is_installed("setsid") {
        return;
    }
    for (signal, status) in
        [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        let pty = Pty::new();
        let before = settings(&pty);
        let mut connect = connect(&pty, &[&waiting("trap \"\" TERM;")]);
        let program = pid(&pty);
        assert!(is_raw(&pty));
        connect.signal(signal);
        assert_eq!(connect.wait(), status);
        assert_eq!(settings(&pty), before, "{signal:?}");
        assert!(is_gone(program), "{signal:?}");
    }
}

#[test]
fn a_qio_that_was_stopped_goes_on_as_before() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let before = tcgetattr(&pty.slave).unwrap();
    resize(&pty, 100, 30);
    let mut connect = connect(&pty, &[&waiting("trap \"stty size\" WINCH;")]);
    pid(&pty);
    connect.signal(Signal::STOP);
    // What a shell does with its terminal when its job has stopped.
    tcsetattr(&pty.slave, OptionalActions::Now, &before).unwrap();
    resize(&pty, 50, 10);
    assert!(!is_raw(&pty));
    connect.signal(Signal::CONT);
    eventually("the terminal is raw again", || is_raw(&pty));
    shows_at_last(&pty, "10 50\r\n");
    pty.types("\x1d");
    assert_eq!(connect.wait(), 0);
    assert!(!is_raw(&pty));
}

#[test]
fn a_key_leaves_and_the_program_is_hung_up() {
    if !is_installed("setsid") {
        return;
    }
    for (args, key) in [
        (&[][..], "\x1d"),
        (&["--escape=^a"], "\x01"),
        (&["--escape", "^A"], "\x01"),
        (&["--escape=~"], "~"),
        (&["--escape=^?"], "\x7f"),
    ] {
        let pty = Pty::new();
        let before = settings(&pty);
        // A shell in front of somebody would ignore SIGTERM.
        let address = waiting("trap \"\" TERM; trap \"echo bye; exit 3\" HUP;");
        let mut connect = connect(&pty, &[args, &[&address]].concat());
        let program = pid(&pty);
        pty.types("first\r");
        pty.shows("got first.\r\n");
        pty.types(&format!("{key}not for the program\r"));
        assert_eq!(connect.wait(), 0, "{args:?}");
        assert_eq!(settings(&pty), before);
        assert!(is_gone(program), "{args:?}");
        assert!(!pty.screen.lock().unwrap().contains("not for"), "{args:?}");
    }
}

#[test]
fn without_a_key_for_leaving_every_key_is_sent() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let text = "stty raw -echo; echo ready; dd bs=1 count=3 2>/dev/null | od -An -tx1";
    let mut connect = connect(&pty, &["--escape", "none", &script(text)]);
    pty.shows("ready");
    pty.types("\x1d\x03\x04");
    pty.shows("1d 03 04");
    assert_eq!(connect.wait(), 0);
}

#[test]
fn options_decide_who_edits_what_is_typed() {
    if !is_installed("setsid") {
        return;
    }
    // Any address can have every key.
    let pty = Pty::new();
    let server = serve(|mut client| {
        let mut keys = [0; 3];
        client.read_exact(&mut keys).unwrap();
        write!(client, "got {keys:?}").unwrap();
    });
    let mut raw = connect(&pty, &["--raw", &server]);
    eventually("the terminal is raw", || is_raw(&pty));
    pty.types("\x03\x04a");
    pty.shows("got [3, 4, 97]");
    assert_eq!(raw.wait(), 0);
    assert!(!is_raw(&pty));

    // And a program on a terminal may have whole lines.
    let pty = Pty::new();
    let before = settings(&pty);
    let mut cooked = connect(&pty, &["--no-raw", &waiting("")]);
    let program = pid(&pty);
    assert_eq!(settings(&pty), before);
    pty.types("\x03");
    assert_eq!(cooked.wait(), 130);
    assert!(is_gone(program));
}

#[test]
fn wrong_use_is_said() {
    let complaint = |args: &[&str]| {
        let outcome = run(qio(["connect"]).args(args), b"");
        assert_eq!(outcome.status, 2, "{outcome:?}");
        outcome.complaint().to_owned()
    };
    assert_eq!(complaint(&["--raw", "null:"]), "--raw: nobody types at standard input");
    let text = complaint(&["--escape", "^", "--escape", "ab", "null:"]);
    assert!(text.contains("cannot be used multiple times"), "{text}");
    for value in ["", "ab", "^!", "ä"] {
        let text = complaint(&["--escape", value, "null:"]);
        let right = value.is_empty() || text.contains("not a character, ^ and a letter like ^]");
        assert!(right, "{text}");
    }
    let text = complaint(&["--raw", "--no-raw", "null:"]);
    assert!(text.contains("cannot be used with"), "{text}");
}

#[test]
fn a_program_whose_screen_nobody_sees_any_more_is_hung_up() {
    let mut command = qio(["connect", &script("trap \"exit 4\" HUP; while :; do echo y; done")]);
    let (silent, _open) = std::io::pipe().unwrap();
    let mut connect = Running::start(command.stdin(silent).stdout(Stdio::piped()));
    let mut output = connect.child().stdout.take().unwrap();
    output.read_exact(&mut [0; 6]).unwrap();
    drop(output);
    assert_eq!(connect.wait(), 4);
}

#[test]
fn a_serial_line_gets_every_key_and_its_settings_back() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let before = settings(&pty);
    // What is connected to the line is another terminal's screen.
    let line = Pty::new();
    let line_before = settings(&line);
    let path = std::fs::read_link(format!("/proc/self/fd/{}", line.slave.as_raw_fd())).unwrap();
    let address = format!("serial:{}?baud=9600", path.display());
    let mut connect = connect(&pty, &[&address]);
    eventually("the line is open", || {
        tcgetattr(&line.slave).unwrap().output_speed() == 9600 && is_raw(&line)
    });
    eventually("the terminal is raw", || is_raw(&pty));
    pty.types("at\r\x03");
    line.shows("at\r\x03");
    line.types("ok\r\n");
    pty.shows("ok\r\n");
    // A second user is kept out.
    let outcome = run(&mut qio(["connect", &address]), b"");
    assert_eq!(outcome.status, 4);
    let complaint = outcome.complaint();
    assert!(complaint.ends_with("(another program has the line for itself)"), "{complaint}");
    pty.types("\x1d");
    assert_eq!(connect.wait(), 0);
    assert_eq!(settings(&pty), before);
    assert_eq!(settings(&line), line_before);
}
