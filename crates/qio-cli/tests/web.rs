//! A relay that serves files beside its WebSocket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use common::{Running, dial, noise, qio, run};

const UPGRADE: &str = "GET /websockify HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vnc.html"), "<h1>desktop</h1>").unwrap();
    fs::write(folder.path().join("big"), noise(3_000_000, 1)).unwrap();
    folder
}

fn connect(address: &str) -> TcpStream {
    let host = address.strip_prefix("ws://").unwrap().split(['/', '?']).next().unwrap();
    dial(&format!("tcp://{host}"))
}

/// Everything that is answered to a request after which the connection ends.
fn get(address: &str, path: &str) -> Vec<u8> {
    let mut client = connect(address);
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn requests_are_answered_beside_clients_and_told_in_json() {
    let folder = site();
    let listen = format!("listen:ws://127.0.0.1:0?web={}&index=vnc.html", folder.path().display());
    let (mut relay, address) = Running::relay(&["--max-connections", "1", &listen, "echo:"]);
    assert!(get(&address, "/").ends_with(b"<h1>desktop</h1>"));
    let event = relay.event("answered");
    assert_eq!((&event["method"], &event["path"]), (&"GET".into(), &"/".into()), "{event}");
    assert_eq!((&event["status"], &event["sent"]), (&200.into(), &16.into()), "{event}");
    assert_eq!(event["complete"], true);
    assert!(event["peer"].as_str().unwrap().starts_with("tcp://127.0.0.1:"), "{event}");
    // A download that has begun goes on while a client takes the only place there is.
    let mut download = connect(&address);
    download.write_all(b"GET /big?token=x HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut start = [0; 12];
    download.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut client = connect(&address);
    client.write_all(UPGRADE.as_bytes()).unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&noise(3_000_000, 1)));
    // The query is for the server alone: there may be a secret in it.
    assert_eq!(relay.event("answered")["path"], "/big");
    drop(client);
    assert_eq!(relay.event("connection")["target"], "echo:");
}

#[test]
fn what_is_answered_is_said_in_lines_to_those_who_asked_for_more() {
    let folder = site();
    let listen = format!("listen:ws://127.0.0.1:0?web={}&health=/healthz", folder.path().display());
    for (flag, expected) in [("-v", 3), ("-q", 0)] {
        let args = ["relay", flag, &listen, "echo:"];
        let mut relay = Running::start(qio(args).stdin(Stdio::null()).stdout(Stdio::null()));
        // The port was left to the system, so it is said in any case.
        let address = relay.line().rsplit_once(' ').unwrap().1.to_owned();
        assert!(get(&address, "/healthz").ends_with(b"\r\n\r\nok\n"));
        assert!(get(&address, "/vnc.html").starts_with(b"HTTP/1.1 200 "));
        assert!(get(&address, "/missing\u{85}").starts_with(b"HTTP/1.1 404 "));
        assert!(get(&address, "/%00").starts_with(b"HTTP/1.1 400 "));
        relay.signal(rustix::process::Signal::TERM);
        let (status, lines) = relay.rest();
        assert_eq!(status, 0);
        let answered: Vec<_> = lines.iter().filter(|line| line.contains(": GET ")).collect();
        assert_eq!(answered.len(), expected, "{lines:?}");
        if let [found, missing, bad] = &answered[..] {
            assert!(found.ends_with(": GET /vnc.html: 200, 16 B"), "{found}");
            assert!(
                missing.contains("/missing\\u{85}: 404"),
                "nothing reaches the terminal: {missing}"
            );
            assert!(bad.contains("GET /%00: 400"), "{bad}");
        }
        assert!(!lines.iter().any(|line| line.contains("healthz") || line.contains("refused")));
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error_at_once() {
    let outcome = run(&mut qio(["relay", "listen:ws://127.0.0.1:0?web=/nowhere", "echo:"]), b"");
    assert_eq!(outcome.status, 4);
    assert_eq!(
        outcome.complaint(),
        "listen ws://127.0.0.1:0?web=/nowhere: /nowhere: no such file or directory"
    );
    let outcome = run(&mut qio(["relay", "listen:ws://127.0.0.1:0?listing", "echo:"]), b"");
    assert_eq!(outcome.status, 2);
    assert!(outcome.complaint().ends_with("ws: option \"listing\" needs \"web\""), "{outcome:?}");
}
