//! Addresses that are opened again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, code, dial, eventually, qio, run};
use rustix::process::Signal;

/// A port that refuses, for as long as its owner lives.
fn refusing_port() -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let local = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, local)
}

/// Accepts one client, bounded in time.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let mut client = None;
    eventually("somebody connects", || {
        client = listener.accept().ok();
        client.is_some()
    });
    let (client, _) = client.unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn pass(mut from: impl Write, mut to: impl Read, text: &[u8]) {
    from.write_all(text).unwrap();
    let mut arrived = vec![0; text.len()];
    to.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, text);
}

fn start(args: &[&str]) -> Running {
    Running::start(qio(args).stdin(Stdio::null()).stdout(Stdio::null()))
}

fn address(path: &Path, options: &str) -> String {
    format!("unix:{}{options}", path.display())
}

#[test]
fn a_relay_joins_its_two_servers_again_each_time_one_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| folder.path().join(name));
    let other = UnixListener::bind(&right).unwrap();
    let (a, b) = (address(&left, "?reconnect-ms=20"), address(&right, ""));
    let mut relay = start(&["relay", "--json", "--verbose", &a, &b]);
    for round in 0..3 {
        // It was not there at first, and is not there after each end.
        let note = relay.event("note");
        let note = note["message"].as_str().unwrap();
        let expected = format!("connect {a}: no such file or directory; trying again");
        assert_eq!(note, expected, "round {round}");
        let server = UnixListener::bind(&left).unwrap();
        let (here, there) = (accept(&server), accept(&other));
        pass(&here, &there, b"to the right");
        pass(&there, &here, b"to the left");
        fs::remove_file(&left).unwrap();
        // Alternately one side and the other.
        if round % 2 == 0 {
            drop((server, here));
            assert_eq!((&there).read(&mut [0]).unwrap(), 0, "the end is passed on");
        } else {
            drop((server, there));
            assert_eq!((&here).read(&mut [0]).unwrap(), 0, "the end is passed on");
        }
        let record = relay.event("connection");
        assert_eq!((&record["sent"], &record["received"]), (&12.into(), &11.into()));
        let note = relay.event("note");
        assert_eq!(note["message"], format!("{a} and {b} are joined again in 20ms"));
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait(), 0);
}

#[test]
fn a_peer_that_hangs_up_at_once_is_not_called_more_often_than_the_pause_says() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = format!("tcp://{}?reconnect-ms=50", listener.local_addr().unwrap());
    let mut relay = start(&["relay", &left, "null:"]);
    let begin = Instant::now();
    for _ in 0..6 {
        drop(listener.accept().unwrap());
    }
    assert!(begin.elapsed() >= Duration::from_millis(250), "five pauses");
    let (_, cpu) = relay.effort();
    assert!(cpu < Duration::from_millis(500), "{cpu:?}");
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait(), 0);
}

#[test]
fn a_signal_in_a_pause_ends_at_once() {
    let hour = "reconnect-ms=3600000";
    // After an end…
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap();
    let mut relay = start(&["relay", "--json", "-v", "null:", &format!("tcp://{port}?{hour}")]);
    drop(listener.accept().unwrap());
    relay.event("note");
    let begin = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait(), 0, "it ended as it was told to");
    assert!(begin.elapsed() < Duration::from_secs(5));

    // …and between two attempts, where only a relay goes on for ever by itself.
    let (_fd, port) = refusing_port();
    let target = format!("tcp://{port}?{hour}");
    for (args, status) in [
        (&["relay", "--json", &target, "null:"][..], 0),
        (&["relay", "--json", "null:", &target], 0),
        (&["connect", "--json", &target], 143),
    ] {
        let mut pausing = start(args);
        let note = pausing.event("note");
        let message = note["message"].as_str().unwrap();
        assert!(message.ends_with("(nothing listens there); trying again"), "{message}");
        let begin = Instant::now();
        pausing.signal(Signal::TERM);
        assert_eq!(pausing.wait(), status, "{args:?}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn whoever_asks_for_more_hears_of_further_attempts() {
    let (_fd, port) = refusing_port();
    let target = format!("tcp://{port}");
    let mut trying = start(&["connect", "--json", "--retry", "1000", &target]);
    let note = trying.event("note");
    let message = note["message"].as_str().unwrap();
    assert!(message.ends_with("(nothing listens there); trying again"), "{message}");
    trying.signal(Signal::TERM);
    assert_eq!(trying.wait(), 143);
    let mut trying = start(&["connect", "-v", "--retry", "1000", &target]);
    assert!(trying.line().ends_with("(nothing listens there); trying again"));
    trying.signal(Signal::TERM);
    assert_eq!(trying.wait(), 143);
    let silent = start(&["connect", "--retry", "1", &target]);
    let (status, lines) = silent.rest();
    assert_eq!(status, 4);
    assert!(lines.len() == 1 && lines[0].ends_with("tried 2 times)"), "{lines:?}");
}

#[test]
fn standard_input_goes_on_over_a_connection_that_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let target = address(&path, "?reconnect-ms=10");
    let mut connect =
        qio(["connect", &target]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (connect.stdin.take().unwrap(), connect.stdout.take().unwrap());
    let mut process = common::Guard(connect);
    for text in [&b"one"[..], b"two"] {
        let server = accept(&listener);
        pass(&input, &server, text);
        pass(&server, &mut output, text);
        // The next round finds another connection.
    }
    let mut server = accept(&listener);
    pass(&input, &server, b"three");
    input.flush().unwrap();
    drop(input);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    server.write_all(b"bye").unwrap();
    drop(server);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), code(process.wait())), ("bye", 0));
}

#[test]
fn a_client_of_a_relay_waits_for_a_target_that_comes_up_late_and_not_for_ever() {
    let (fd, port) = refusing_port();
    let right = format!("tcp://{port}?reconnect-ms=5");
    let (mut relay, left) = Running::relay(&["listen:tcp://127.0.0.1:0", &right]);
    let client = dial(&left);
    relay.event("note");
    rustix::net::listen(&fd, 1).unwrap();
    let (server, _) = TcpListener::from(fd).accept().unwrap();
    pass(&client, &server, b"late");

    let (_fd, port) = refusing_port();
    let right = format!("tcp://{port}?reconnect-ms=5");
    let options = ["--connect-timeout", "100ms", "listen:tcp://127.0.0.1:0", &right];
    let (mut relay, left) = Running::relay(&options);
    let mut client = dial(&left);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is let go");
    let failed = relay.event("failed");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("connection refused (nothing listens there, tried "), "{error}");
    drop((server, client));
}

#[test]
fn what_cannot_pass_and_a_number_of_attempts_end_the_trying() {
    let outcome = run(&mut qio(["relay", "null:?reconnect-ms=5", "null:"]), b"");
    assert!(outcome.complaint().contains("option \"reconnect-ms\" is not known"));
    let (_fd, port) = refusing_port();
    for retry in ["?reconnect-ms=5&retry=2", "?retry=2"] {
        let target = format!("tcp://{port}{retry}");
        for args in [&["connect", &target][..], &["relay", &target, "null:"]] {
            let outcome = run(&mut qio(args), b"");
            assert_eq!(outcome.status, 4);
            let expected = "connection refused (nothing listens there, tried 3 times)";
            assert!(outcome.stderr.trim_end().ends_with(expected), "{outcome:?}");
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://{}?reconnect-ms=5", listener.local_addr().unwrap());
    let outcome = run(&mut qio(["relay", &target, "exec:/none/at/all"]), b"");
    assert_eq!(outcome.status, 4, "a program that is not there stays away: {outcome:?}");
}
