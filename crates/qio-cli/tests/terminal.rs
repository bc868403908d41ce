//! `qio connect` and `qio listen`: standard input and output, terminals and pipes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use common::screen::Pty;
use common::{PATIENCE, Running, dial, echo, eventually, is_installed, noise, qio, run, serve};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl};

fn through_a_chain(bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, socket] = ["a", "b", "x.sock"].map(|name| folder.path().join(name));
    fs::write(&a, noise(bytes, 1)).unwrap();
    let mut listen = qio(["listen", "--json", "tcp://127.0.0.1:0"]);
    let mut listen = Running::start(listen.stdin(Stdio::null()).stdout(File::create(&b).unwrap()));
    let port = listen.event("listening")["address"].as_str().unwrap().to_owned();
    let unix = format!("unix:{}", socket.display());
    // Started before there is anything to connect to.
    let mut connect = qio(["connect", "--retry", "9", &unix]);
    let connect = Running::start(connect.stdin(File::open(&a).unwrap()).stdout(Stdio::null()));
    let (mut relay, _) =
        Running::relay(&["--once", "--retry", "5", &format!("listen:{unix}"), &port]);
    let record = relay.event("connection");
    assert_eq!(record["sent"], bytes);
    let statuses = [connect.rest(), relay.rest(), listen.rest()].map(|(status, _)| status);
    assert_eq!(statuses, [0, 0, 0]);
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "what arrived is what was sent");
}

#[test]
fn a_file_goes_through_connect_relay_and_listen_unchanged() {
    through_a_chain(64 * 1024 * 1024);
}

#[test]
#[ignore = "slow: .ci/run full"]
fn a_gigabyte_goes_through_connect_relay_and_listen_unchanged() {
    through_a_chain(1024 * 1024 * 1024);
}

#[test]
fn a_program_gets_all_input_and_the_end_and_answers_after_it() {
    let outcome = run(&mut qio(["connect", "exec:sh -c 'cat; echo done'"]), b"abc");
    assert_eq!((outcome.status, outcome.text(), outcome.stderr.as_str()), (0, "abcdone\n", ""));
    let data = noise(3_000_000, 2);
    let outcome = run(&mut qio(["connect", "exec:cat"]), &data);
    assert!(outcome.status == 0 && outcome.stdout == data, "{} bytes", outcome.stdout.len());
}

#[test]
fn the_status_of_the_program_is_that_of_qio() {
    for (script, status) in [
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("exec 0<&- 1>&-; sleep 0.2; exit 9", 9),
        ("exec 0<&-; sleep 0.2; echo late; exit 3", 3),
    ] {
        let outcome = run(&mut qio(["connect", &format!("exec:sh -c '{script}'")]), b"");
        assert_eq!((outcome.status, outcome.stderr.as_str()), (status, ""), "{script}");
    }
}

#[test]
fn a_program_that_ends_ends_qio_while_its_input_is_silent() {
    let (_open, silent) = pipe();
    let mut command = qio(["connect", "exec:sh -c 'echo bye; exit 5'"]);
    let mut connect = Running::start(command.stdin(silent).stdout(Stdio::piped()));
    let mut text = String::new();
    connect.child().stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye\n");
    assert_eq!(connect.wait(), 5);
}

#[test]
fn whatever_standard_input_is_its_end_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    fs::write(&path, "regular").unwrap();
    let server = serve(|mut client| {
        let mut text = Vec::new();
        client.read_to_end(&mut text).unwrap();
        client.write_all(&[b"got ", &text[..]].concat()).unwrap();
    });
    let (socket, peer) = UnixStream::pair().unwrap();
    (&peer).write_all(b"socket").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    for (stdin, expected) in [
        (Stdio::from(File::open(&path).unwrap()), "got regular"),
        (Stdio::null(), "got "),
        (Stdio::from(OwnedFd::from(socket)), "got socket"),
    ] {
        let output = qio(["connect", &server]).stdin(stdin).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        assert!(output.status.success());
    }
}

#[test]
fn one_socket_may_be_standard_input_and_output() {
    // The way inetd starts a server.
    let (socket, mut peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (input, output) = (OwnedFd::from(socket.try_clone().unwrap()), OwnedFd::from(socket));
    let mut connect = Running::start(qio(["connect", &serve(echo)]).stdin(input).stdout(output));
    let data = noise(1_000_000, 3);
    let mut writer = peer.try_clone().unwrap();
    let sent = data.clone();
    let writer = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    peer.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data, "{} bytes", back.len());
    assert_eq!(connect.wait(), 0);
}

#[test]
fn a_reader_that_leaves_early_ends_it_without_a_panic() {
    let endless = serve(|mut client| while client.write_all(&[b'x'; 4096]).is_ok() {});
    let mut command = qio(["connect", &endless]);
    let (reader, stdout) = small_pipe();
    let connect = Running::start(command.stdin(Stdio::null()).stdout(stdout));
    drop(command);
    leaves_when_full(reader);
    let (status, lines) = connect.rest();
    assert_eq!(status, 1);
    // What was read and not delivered is never lost in silence.
    assert!(lines.iter().all(|line| line.starts_with("qio: ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("broken pipe")), "{lines:?}");

    // A server that says nothing does not keep a qio that nobody listens to.
    let silent = serve(|mut client| drop(client.read(&mut [0])));
    let mut command = qio(["connect", &silent]);
    let mut connect = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    drop(connect.child().stdout.take());
    assert_eq!(connect.wait(), 0);
}

#[test]
fn closed_standard_streams_are_no_reason_to_panic() {
    let server = serve(echo);
    for (script, status) in [
        ("$QIO help addresses | head -1", 0),
        ("$QIO connect $SERVER </dev/null >&-", 0),
        ("$QIO connect $SERVER <&- >&- 2>&-", 0),
        ("$QIO connect file:/nonexistent 2>&- >&-", 4),
        ("$QIO --help >&-", 0),
        ("$QIO --help >/dev/full", 1),
        ("$QIO --help | true", 0),
        ("$QIO nosuch 2>&-", 2),
        ("echo abc | $QIO connect -v $SERVER 2>&-", 0),
    ] {
        let mut command = Command::new("sh");
        let command = command.args(["-c", script]).env("QIO", common::QIO).env("SERVER", &server);
        let outcome = run(command, b"");
        assert_eq!(outcome.status, status, "{script}: {outcome:?}");
        assert!(!outcome.stderr.contains("panic"), "{script}: {outcome:?}");
    }
}

#[test]
fn the_flags_of_shared_pipes_are_never_changed() {
    let (mut writer, input) = pipe();
    let (output, output_end) = pipe();
    let (input_copy, output_copy) = (input.try_clone().unwrap(), output.try_clone().unwrap());
    let flags = || [fcntl_getfl(&input_copy).unwrap(), fcntl_getfl(&output_copy).unwrap()];
    let before = flags();
    assert!(before.iter().all(|flags| !flags.contains(OFlags::NONBLOCK)));
    let mut connect = Running::start(qio(["connect", &serve(echo)]).stdin(input).stdout(output));
    let mut reader = File::from(output_end);
    // More than a pipe holds, so that both sides have to wait.
    let data = noise(1_000_000, 4);
    let mut back = vec![0; data.len()];
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&data).unwrap());
        reader.read_exact(&mut back).unwrap();
    });
    assert!(back == data);
    assert_eq!(flags(), before, "while it runs");
    drop(writer);
    assert_eq!(connect.wait(), 0);
    assert_eq!(flags(), before, "after it has ended");
}

#[test]
fn what_is_typed_is_sent_and_the_answer_shown() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let server = serve(|mut client| {
        let mut text = Vec::new();
        client.read_to_end(&mut text).unwrap();
        client.write_all(&[b"you typed ", &text[..]].concat()).unwrap();
    });
    let before = fcntl_getfl(&pty.slave).unwrap();
    let mut connect = Running::start(pty.session(common::QIO).args(["connect", &server]));
    pty.types("first\n");
    pty.types("second\n");
    // Control-D at the start of a line is the end.
    pty.types("\x04");
    pty.shows("you typed first\r\nsecond\r\n");
    assert_eq!(connect.wait(), 0);
    assert_eq!(fcntl_getfl(&pty.slave).unwrap(), before);
}

#[test]
fn at_a_terminal_the_end_of_the_connection_is_the_end() {
    if !is_installed("setsid") {
        return;
    }
    for target in [serve(|mut client| client.write_all(b"bye\n").unwrap()), "exec:echo bye".into()]
    {
        let pty = Pty::new();
        let mut connect = Running::start(pty.session(common::QIO).args(["connect", &target]));
        assert_eq!(connect.wait(), 0, "{target}");
        pty.shows("bye\r\n");
    }
}

#[test]
fn a_listener_in_the_background_does_not_read_from_its_terminal() {
    if !is_installed("setsid") {
        return;
    }
    let pty = Pty::new();
    let script = format!(
        "set -m; {} listen --json tcp://127.0.0.1:0 & wait $!; echo status $?; read line; echo read $line",
        common::QIO
    );
    let mut shell = Running::start(pty.session("sh").args(["-c", &script]));
    let address = shell.event("listening")["address"].as_str().unwrap().to_owned();
    pty.types("for the shell\n");
    let mut client = dial(&address);
    client.write_all(b"for the screen\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "", "nothing that was typed went to the client");
    pty.shows("for the screen\r\n");
    // It was not stopped, and what was typed is still there for the shell.
    pty.shows("status 0\r\n");
    pty.shows("read for the shell\r\n");
    assert_eq!(shell.wait(), 0);
}

#[test]
fn the_progress_line_is_drawn_beside_the_data_and_taken_away() {
    let pty = Pty::new();
    let server = serve(|mut client| {
        let mut data = Vec::new();
        client.read_to_end(&mut data).unwrap();
        client.write_all(&data).unwrap();
    });
    let (mut writer, input) = pipe();
    let mut process = qio(["connect", &server])
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(pty.side())
        .spawn()
        .map(common::Guard)
        .unwrap();
    writer.write_all(b"some data").unwrap();
    pty.shows("1 live, 0 served, 9 B moved");
    drop(writer);
    let mut data = String::new();
    process.0.stdout.take().unwrap().read_to_string(&mut data).unwrap();
    assert_eq!(data, "some data", "nothing of the line is in the data");
    assert!(process.wait().success());
    eventually("the line is taken away", || pty.screen.lock().unwrap().ends_with("\r\u{1b}[2K"));

    // Not where standard input is the same terminal, nor when it is not wanted.
    for (option, stdin) in [("--quiet", Stdio::null()), ("--json", Stdio::null())] {
        let pty = Pty::new();
        let mut command = qio(["connect", option, "exec:sleep 0.7"]);
        let status = command.stdin(stdin).stdout(Stdio::null()).stderr(pty.side()).status();
        assert!(status.unwrap().success());
        assert!(!pty.screen.lock().unwrap().contains("live"), "{option}");
    }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(write), read)
}

#[test]
fn a_signal_ends_a_terminal_connection_at_once() {
    let server = serve(|mut client: TcpStream| {
        let _ = client.write_all(b"hello");
        let _ = client.read(&mut [0]);
    });
    let (_open, input) = pipe();
    let mut command = qio(["connect", "-v", "--quiet", &server]);
    let mut connect = Running::start(command.stdin(input).stdout(Stdio::piped()));
    connect.child().stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    connect.signal(rustix::process::Signal::INT);
    let (status, lines) = connect.rest();
    assert_eq!(status, 130);
    assert!(lines.iter().any(|line| line.ends_with(", cut")), "the record is said: {lines:?}");
}

#[test]
fn a_signal_or_a_timeout_ends_the_program_behind_it() {
    // It ignores the end of its input, and a polite request.
    let stubborn = "exec:sh -c 'trap : TERM; echo $$; cat; while :; do sleep 0.1; done'";
    for idle in [true, false] {
        let (_open, input) = pipe();
        let mut command = qio(["connect", stubborn]);
        command.args(idle.then_some("--idle-timeout=300ms")).stdin(input).stdout(Stdio::piped());
        let mut connect = Running::start(&mut command);
        let mut pid = [0; 32];
        let n = connect.child().stdout.as_mut().unwrap().read(&mut pid).unwrap();
        let pid: i32 = std::str::from_utf8(&pid[..n]).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        if !idle {
            connect.signal(rustix::process::Signal::TERM);
        }
        assert_eq!(connect.wait(), if idle { 5 } else { 143 });
        assert!(rustix::process::test_kill_process(pid).is_err(), "it runs on");
    }
}

#[test]
fn an_error_is_said_although_the_status_is_that_of_the_program() {
    let (_open, input) = pipe();
    let mut command = qio(["connect", "exec:sh -c 'cat /dev/zero; exit 6'"]);
    let (reader, stdout) = small_pipe();
    let connect = Running::start(command.stdin(input).stdout(stdout));
    drop(command);
    leaves_when_full(reader);
    let (status, lines) = connect.rest();
    // cat dies of SIGPIPE, and the shell goes on.
    assert_eq!(status, 6);
    assert!(lines.iter().any(|line| line.contains("broken pipe")), "{lines:?}");
}

#[test]
fn a_program_that_has_read_enough_decides_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, FileType::Fifo, Mode::RWXU, 0).unwrap();
    for status in [0, 3] {
        let script = format!("read go <{}; read line; echo $line; exit {status}", gate.display());
        let (mut writer, input) = pipe();
        let mut command = qio(["connect", &format!("exec:sh -c '{script}'")]);
        let mut connect = Running::start(command.stdin(input).stdout(Stdio::piped()));
        // More than the pipe of the program holds: the rest is in the hands of qio.
        writer.write_all(&b"y\n".repeat(40 * 1024)).unwrap();
        eventually("all has been read", || rustix::io::ioctl_fionread(&writer).unwrap() == 0);
        fs::write(&gate, "go\n").unwrap();
        let mut text = String::new();
        connect.child().stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "y\n");
        let (ended, lines) = connect.rest();
        assert_eq!(ended, status, "{lines:?}");
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.contains("broken pipe") && line.contains("LOST"), "{line}");
    }
}

/// A pipe that is full with the first page.
fn small_pipe() -> (OwnedFd, OwnedFd) {
    let (writer, reader) = pipe();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    (reader, writer.into())
}

/// Closes the pipe when its writer has more for it than fits.
fn leaves_when_full(reader: OwnedFd) {
    eventually("the pipe is full", || rustix::io::ioctl_fionread(&reader).unwrap() >= 4096);
}
