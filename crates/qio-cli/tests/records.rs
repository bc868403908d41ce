//! One record per connection: as a line, and as JSON.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use common::{Running, dial, echo, qio, serve};

fn answer(mut client: TcpStream) {
    let mut request = [0; 5];
    if client.read_exact(&mut request).is_ok() {
        let _ = client.write_all(b"a longer answer");
        // Stays open until the client has gone.
        let _ = client.read(&mut [0]);
    }
}

fn reset(client: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_record_says_who_with_whom_how_much_and_how_it_ended() {
    let target = serve(answer);
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &target]);
    let mut client = dial(&address);
    let peer = format!("tcp://{}", client.local_addr().unwrap());
    client.write_all(b"hello").unwrap();
    let mut text = [0; 15];
    client.read_exact(&mut text).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let record = relay.event("connection");
    assert_eq!(record["id"], 1);
    assert_eq!(record["peer"], peer);
    assert_eq!(record["target"], target);
    assert_eq!(record["sent"], 5);
    assert_eq!(record["received"], 15);
    for none in ["spliced", "lost", "fds_passed", "fds_dropped"] {
        assert_eq!(record[none], 0, "{none}");
    }
    assert_eq!(record["end"], "finished");
    assert_eq!(record["ended_by"], "peer");
    assert_eq!(record["error"], serde_json::Value::Null);
    let duration = record["duration_s"].as_f64().unwrap();
    let first_byte = record["first_byte_s"].as_f64().unwrap();
    assert!(0.0 < first_byte && first_byte <= duration && duration < 30.0, "{record}");
}

#[test]
fn a_reset_is_recorded_with_its_error_and_its_side() {
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(echo)]);
    let mut client = dial(&address);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    reset(client);
    let record = relay.event("connection");
    assert_eq!((&record["end"], &record["ended_by"]), (&"failed".into(), &"peer".into()));
    assert_eq!(record["error"], "connection reset by peer");

    let (mut relay, address) = Running::relay(&[
        "--once",
        "listen:tcp://127.0.0.1:0",
        &serve(|mut client| {
            let _ = client.read(&mut [0]);
            reset(client);
        }),
    ]);
    let mut client = dial(&address);
    client.write_all(b"x").unwrap();
    let _ = client.read(&mut [0]);
    let record = relay.event("connection");
    assert_eq!((&record["end"], &record["ended_by"]), (&"failed".into(), &"target".into()));
    assert_eq!(relay.wait(), 1);
}

#[test]
fn a_target_that_cannot_be_had_is_recorded_and_the_next_client_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let right = format!("unix:{}", path.display());
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &right]);
    let mut client = dial(&address);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let failed = relay.event("failed");
    assert_eq!(failed["target"], right);
    assert_eq!(failed["peer"], format!("tcp://{}", client.local_addr().unwrap()));
    assert_eq!(failed["error"], format!("connect {right}: no such file or directory"));

    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = dial(&address);
    client.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(relay.event("connection")["id"], 2);
}

#[test]
fn a_line_for_each_connection_with_v_and_silence_without() {
    for verbose in [true, false] {
        let mut command = qio(["relay", "--once", "listen:tcp://127.0.0.1:0"]);
        command.arg(serve(answer)).args(verbose.then_some("-v")).stdin(Stdio::null());
        let mut relay = Running::start(&mut command);
        let line = relay.line();
        let address = line.strip_prefix("qio: listening on ").unwrap().to_owned();
        let mut client = dial(&address);
        let peer = client.local_addr().unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 15]).unwrap();
        drop(client);
        let (status, lines) = relay.rest();
        assert_eq!(status, 0);
        if verbose {
            let [line] = lines.as_slice() else { panic!("{lines:?}") };
            assert!(line.starts_with(&format!("qio: tcp://{peer} -> tcp://127.0.0.1:")), "{line}");
            assert!(line.contains(": 5 B sent, 15 B received, 0."), "{line}");
            assert!(line.ends_with(" s, ended by the peer"), "{line}");
        } else {
            assert!(lines.is_empty(), "{lines:?}");
        }
    }
}

#[test]
fn bytes_that_are_lost_are_never_lost_in_silence() {
    let server = serve(|client| {
        // Takes nothing, and goes when enough is on its way.
        std::thread::sleep(Duration::from_millis(300));
        drop(client);
    });
    let mut command = qio(["relay", "--once", "listen:tcp://127.0.0.1:0"]);
    let mut relay = Running::start(command.arg(server).stdin(Stdio::null()));
    let line = relay.line();
    let address = line.strip_prefix("qio: listening on ").unwrap().to_owned();
    let mut client = dial(&address);
    while client.write_all(&[0; 65536]).is_ok() {}
    let (status, lines) = relay.rest();
    assert_eq!(status, 1, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("bytes LOST")), "{lines:?}");
}
