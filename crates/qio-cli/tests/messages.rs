//! Addresses of messages on the command line.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;

use common::{PATIENCE, Running, dial, is_installed, qio, run, serve};
use qio::net::ConnectOptions;
use qio::{Channel, ChannelExt};
use rustix::process::Signal;

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A server that answers each datagram with itself, upside down.
fn udp_server() -> String {
    let socket = udp();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buf = [0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buf) {
            buf[..length].reverse();
            let _ = socket.send_to(&buf[..length], peer);
        }
    });
    address
}

#[test]
fn two_hosts_talk_to_a_unix_service_through_one_udp_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service");
    let service = UnixDatagram::bind(&path).unwrap();
    thread::spawn(move || {
        let mut buf = [0; 65_536];
        while let Ok((length, peer)) = service.recv_from(&mut buf) {
            buf[..length].reverse();
            let _ = service.send_to_addr(&buf[..length], &peer);
        }
    });
    let to = format!("unix-dgram:{}", path.display());
    let (mut relay, listening) =
        Running::relay(&["--drain", "0s", "listen:udp://127.0.0.1:0", &to]);
    let port = listening.strip_prefix("udp://").unwrap();
    let clients = [udp(), udp()];
    let mut buf = [0; 100];
    for round in ["one", "", "three"] {
        for (index, client) in clients.iter().enumerate() {
            client.send_to(format!("{round}{index}").as_bytes(), port).unwrap();
            client.send_to(b"", port).unwrap();
        }
        for (index, client) in clients.iter().enumerate() {
            let (length, sender) = client.recv_from(&mut buf).unwrap();
            let expected: String = format!("{round}{index}").chars().rev().collect();
            assert_eq!(&buf[..length], expected.as_bytes());
            assert_eq!(sender.to_string(), port);
            assert_eq!(client.recv_from(&mut buf).unwrap().0, 0);
        }
    }
    relay.signal(Signal::TERM);
    let mut peers: Vec<_> = (0..2)
        .map(|_| {
            let record = relay.event("connection");
            assert_eq!(record["messages_sent"], 6, "{record}");
            assert_eq!(record["messages_received"], 6, "{record}");
            assert_eq!((&record["messages_lost"], &record["lost"]), (&0.into(), &0.into()));
            record["peer"].as_str().unwrap().to_owned()
        })
        .collect();
    peers.sort();
    let mut expected = clients.map(|client| format!("udp://{}", client.local_addr().unwrap()));
    expected.sort();
    assert_eq!(peers, expected);
}

#[test]
fn messages_and_a_stream_are_not_joined_without_a_framing() {
    for args in [
        &["relay", "listen:tcp://127.0.0.1:0", "udp://127.0.0.1:9"][..],
        &["relay", "listen:udp://127.0.0.1:0", "tcp://127.0.0.1:9"],
        &["relay", "unix-seqpacket:/nowhere", "exec:cat"],
        &["connect", "udp://127.0.0.1:9"],
        &["listen", "udp://127.0.0.1:0"],
    ] {
        let outcome = run(&mut qio(args), b"");
        assert_eq!(outcome.status, 2, "{args:?}");
        let text = outcome.complaint();
        assert!(text.contains("keeps messages apart, and") && text.contains("--framing"), "{text}");
    }
    for pair in [["tcp://h:1", "tcp://h:1"], ["udp://h:1", "unix-dgram:/x"]] {
        let outcome = run(qio(["relay", "--framing", "u16"]).args(pair), b"");
        assert_eq!(outcome.status, 2);
        assert!(outcome.complaint().contains("these are of one kind"));
    }
    let outcome = run(&mut qio(["relay", "--framing", "tar", "udp://h:1", "tcp://h:1"]), b"");
    assert_eq!(outcome.status, 2);
    assert!(outcome.complaint().contains("u16 or u32 or line"));
}

/// What a name server over TCP sends and gets (RFC 1035 4.2.2).
#[test]
fn a_framing_makes_messages_of_a_stream() {
    let to = format!("udp://{}", udp_server());
    let (_relay, listening) =
        Running::relay(&["--framing", "u16", "listen:tcp://127.0.0.1:0", &to]);
    let mut client = dial(&listening);
    client.write_all(b"\0\x03abc\0").unwrap();
    client.write_all(b"\0\0\x05hello").unwrap();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\0\x03cba\0\0\0\x05olleh");
}

#[test]
fn lines_of_standard_input_become_datagrams() {
    let server = udp_server();
    let mut process = qio(["connect", "--framing", "line", &format!("udp://{server}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(common::Guard)
        .unwrap();
    let (mut stdin, mut stdout) =
        (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
    let mut answer = [0; 4];
    for (line, expected) in [("abc\n", b"cba\n"), ("xyz\n", b"zyx\n")] {
        stdin.write_all(line.as_bytes()).unwrap();
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, expected);
    }
}

#[test]
fn datagrams_of_another_program_are_served() {
    if !is_installed("socat") {
        return;
    }
    let to = format!("udp://{}", udp_server());
    let (_relay, listening) = Running::relay(&["listen:udp://127.0.0.1:0", &to]);
    let port = listening.strip_prefix("udp://").unwrap();
    for text in ["drawer", "stressed"] {
        let mut socat = Command::new("socat");
        let outcome = run(
            socat.args(["-t", "5", "-,ignoreeof", &format!("UDP:{port},readbytes={}", text.len())]),
            text.as_bytes(),
        );
        let expected: String = text.chars().rev().collect();
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), expected, "{outcome:?}");
    }
}

/// A peer never says that it goes.
#[test]
fn a_silent_peer_is_forgotten_and_may_come_again() {
    let to = format!("udp://{}", udp_server());
    let (mut relay, listening) =
        Running::relay(&["--idle-timeout", "100ms", "listen:udp://127.0.0.1:0", &to]);
    let port = listening.strip_prefix("udp://").unwrap();
    let client = udp();
    let mut buf = [0; 10];
    for _ in 0..2 {
        client.send_to(b"abc", port).unwrap();
        assert_eq!(client.recv_from(&mut buf).unwrap().0, 3);
        let record = relay.event("connection");
        assert_eq!((&record["end"], &record["messages_sent"]), (&"idle".into(), &1.into()));
    }
}

#[test]
fn a_message_that_is_too_long_is_told_and_the_next_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("listen:unix-seqpacket:{}", path.display());
    let to = format!("udp://{}", udp_server());
    let (mut relay, address) = Running::relay(&["--once", "--half-close", "50ms", &listen, &to]);
    let client = qio::net::connect(&address.parse().unwrap(), &ConnectOptions::new()).unwrap();
    client.send(&[0; 70_000]).unwrap();
    client.send(b"abc").unwrap();
    assert_eq!(client.receive(&mut [0; 10]).unwrap(), Some(3));
    client.close().unwrap();
    let record = relay.event("connection");
    assert_eq!((&record["messages_sent"], &record["messages_lost"]), (&1.into(), &1.into()));
    assert_eq!(record["lost"], 70_000);
    assert_eq!(record["loss"], "a message of 70000 bytes is too long to be sent as one");
}

#[test]
fn a_framing_makes_a_stream_of_datagrams() {
    let echo = serve(|mut client| {
        let mut buf = [0; 64];
        while let Ok(n @ 1..) = client.read(&mut buf) {
            if client.write_all(&buf[..n]).is_err() {
                break;
            }
        }
    });
    let (_relay, listening) =
        Running::relay(&["--framing", "u32", "listen:udp://127.0.0.1:0", &echo]);
    let port = listening.strip_prefix("udp://").unwrap();
    let client = udp();
    let mut buf = [0; 10];
    for message in [&b"one"[..], b"", b"three"] {
        client.send_to(message, port).unwrap();
        let length = client.recv_from(&mut buf).unwrap().0;
        assert_eq!(&buf[..length], message);
    }
}
