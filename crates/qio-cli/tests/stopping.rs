//! Signals: how `qio relay` stops, and what it shows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, dial, eventually, qio, serve, socket_address};
use rustix::process::Signal;

fn ping(mut client: impl Read + Write) {
    client.write_all(b"ping").unwrap();
    let mut text = [0; 4];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
}

#[test]
fn sigterm_lets_connections_end_and_takes_no_new_ones() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let left = format!("listen:unix:{}", path.display());
        let (mut relay, _) = Running::relay(&[&left, "exec:cat"]);
        let client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        ping(&client);
        relay.signal(signal);
        eventually("the socket file is gone", || !path.exists());
        assert!(UnixStream::connect(&path).is_err());
        ping(&client);
        drop(client);
        let record = relay.event("connection");
        assert_eq!((&record["end"], &record["sent"]), (&"finished".into(), &8.into()));
        assert_eq!(relay.wait(), 0, "it ended as it was told to");
    }
}

#[test]
fn a_relay_without_connections_stops_at_once() {
    let (mut relay, _) = Running::relay(&["listen:tcp://127.0.0.1:0", "echo:"]);
    let start = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_second_signal_ends_at_once() {
    for (second, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", "echo:"]);
        let client = dial(&address);
        ping(&client);
        relay.signal(Signal::TERM);
        eventually("the listener is gone", || {
            TcpStream::connect(socket_address(&address)).is_err()
        });
        relay.signal(second);
        assert_eq!(relay.wait(), status);
    }
}

#[test]
fn what_does_not_end_while_draining_is_cut_and_recorded() {
    for threads in ["1", "2"] {
        let (mut relay, address) = Running::relay(&[
            "--drain",
            "300ms",
            "--threads",
            threads,
            "listen:tcp://127.0.0.1:0",
            "echo:",
        ]);
        let clients: Vec<_> = (0..3).map(|_| dial(&address)).collect();
        clients.iter().for_each(ping);
        let start = Instant::now();
        relay.signal(Signal::TERM);
        let note = relay.event("note");
        assert_eq!(note["message"], "3 connections cut after 300ms of draining");
        assert!(start.elapsed() >= Duration::from_millis(300));
        for mut client in clients {
            let _ = client.read(&mut [0]);
            let record = relay.event("connection");
            assert_eq!((&record["end"], &record["sent"]), (&"cut".into(), &4.into()), "{record}");
        }
        assert_eq!(relay.wait(), 0);
    }
}

#[test]
fn a_connection_that_waits_for_its_other_side_is_cut_too() {
    let mut relay = Running::start(
        qio(["relay", "--json", "--drain", "100ms"])
            .args(["listen:tcp://127.0.0.1:0", "listen:tcp://127.0.0.1:0"])
            .stdin(Stdio::null()),
    );
    // Which of the two is the left one shows in what is recorded.
    let addresses =
        [(); 2].map(|()| relay.event("listening")["address"].as_str().unwrap().to_owned());
    let _clients = addresses.each_ref().map(|address| dial(address));
    let waiting: Vec<_> =
        addresses.iter().flat_map(|address| [dial(address), dial(address)]).collect();
    relay.signal(Signal::USR1);
    relay.event("live");
    relay.signal(Signal::TERM);
    let (status, lines) = relay.rest();
    assert_eq!(status, 0, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("\"cut\"")), "{lines:?}");
    drop(waiting);
}

#[test]
fn a_terminated_child_is_not_left_behind() {
    let right = "exec:sh -c 'echo $$; trap : TERM HUP; cat >/dev/null; while :; do sleep 1; done'";
    let (mut relay, address) =
        Running::relay(&["--drain", "100ms", "listen:tcp://127.0.0.1:0", right]);
    let mut client = dial(&address);
    let mut pid = [0; 32];
    let n = client.read(&mut pid).unwrap();
    let pid: i32 = std::str::from_utf8(&pid[..n]).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait(), 0);
    eventually("the child has ended", || rustix::process::test_kill_process(pid).is_err());
}

#[test]
fn a_second_signal_leaves_no_child_behind() {
    // The second one does not care for SIGTERM.
    for script in ["echo $$; exec sleep 5151", "trap \"\" TERM; echo $$; exec sleep 5152"] {
        for arguments in [&["--drain", "60s"], &["--drain", "50ms"]] {
            let right = format!("exec:sh -c '{script}'");
            let (mut relay, address) = Running::relay(
                &[arguments.as_slice(), &["listen:tcp://127.0.0.1:0", &right]].concat(),
            );
            let mut client = dial(&address);
            let mut pid = [0; 32];
            let n = client.read(&mut pid).unwrap();
            let pid: i32 = std::str::from_utf8(&pid[..n]).unwrap().trim().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            relay.signal(Signal::TERM);
            if arguments[1] == "60s" {
                eventually("the listener is gone", || {
                    TcpStream::connect(socket_address(&address)).is_err()
                });
            } else {
                relay.event("note");
            }
            relay.signal(Signal::TERM);
            let status = relay.wait();
            assert!(status == 143 || (arguments[1] == "50ms" && status == 0), "{status}");
            eventually("the child has ended", || rustix::process::test_kill_process(pid).is_err());
        }
    }
}

#[test]
fn sigusr1_prints_the_live_connections() {
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", "echo:"]);
    let client = dial(&address);
    ping(&client);
    relay.signal(Signal::USR1);
    let live = relay.event("live");
    assert_eq!(live["peer"], format!("tcp://{}", client.local_addr().unwrap()));
    assert_eq!((&live["sent"], &live["received"]), (&4.into(), &4.into()));

    let mut relay = Running::start(
        qio(["relay", "listen:tcp://127.0.0.1:0", &serve(common::echo)]).stdin(Stdio::null()),
    );
    let line = relay.line();
    let address = line.strip_prefix("qio: listening on ").unwrap().to_owned();
    let client = dial(&address);
    ping(&client);
    relay.signal(Signal::USR1);
    assert_eq!(relay.line(), "qio: 1 live connection");
    let line = relay.line();
    assert!(line.starts_with("  #1 tcp://127.0.0.1:") && line.contains("4 B sent"), "{line}");
    drop(client);
}
