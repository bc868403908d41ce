//! WebSocket and TLS in addresses: both roles, their ends and their failures.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, dial, noise, qio, run, serve};

/// Answers a request, 0.2 s after its end, with as many bytes as fit in no buffer.
fn thoughtful(mut client: TcpStream) {
    let mut request = Vec::new();
    if client.read_to_end(&mut request).is_ok() {
        thread::sleep(Duration::from_millis(200));
        let _ = client.write_all(&answer_to(&request));
    }
}

fn answer_to(request: &[u8]) -> Vec<u8> {
    [b"you said: ", request, &noise(300_000, 1)].concat()
}

/// A relay with a layered listener in front of a server that answers after the end.
fn server(left: &str) -> (Running, String) {
    Running::relay(&[left, &serve(thoughtful)])
}

fn the_reply_arrives_through(listen: &str, options: &str) {
    let (_relay, address) = server(listen);
    let address = format!("{address}{options}");
    let request = noise(70_000, 2);
    let outcome = run(&mut qio(["connect", &address]), &request);
    assert_eq!((outcome.status, &*outcome.stderr), (0, ""), "{address}");
    assert!(outcome.stdout == answer_to(&request), "{address}: {} bytes", outcome.stdout.len());
}

#[test]
fn the_whole_reply_arrives_through_a_websocket_after_the_end_of_the_request() {
    let folder = tempfile::tempdir().unwrap();
    the_reply_arrives_through("listen:ws://127.0.0.1:0/chat", "");
    the_reply_arrives_through(&format!("listen:ws+unix:{}/x", folder.path().display()), "");
    the_reply_arrives_through("listen:ws+ws+tcp://127.0.0.1:0", "");
    // One message a piece: what is not cut inside of a character is fine as text.
    let (_relay, address) = Running::relay(&["listen:ws://127.0.0.1:0?text", "echo:"]);
    let outcome = run(&mut qio(["connect", &format!("{address}?text")]), "grüße".as_bytes());
    assert_eq!((outcome.status, outcome.text()), (0, "grüße"));
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// The TCP address under a WebSocket's.
fn below(address: &str) -> String {
    let host = address.strip_prefix("ws://").unwrap().split(['/', '?']).next().unwrap();
    format!("tcp://{host}")
}

/// A client that is not qio: the connection after the handshake.
fn raw(address: &str, fields: &str) -> (TcpStream, String) {
    let mut client = dial(&below(address));
    client.write_all(format!("{REQUEST}{fields}\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    (client, String::from_utf8(answer).unwrap())
}

/// A masked frame with the key 0.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

#[test]
fn a_client_that_is_not_qio_is_served_and_its_close_is_in_the_record() {
    let (mut relay, address) = Running::relay(&["--once", "listen:ws://127.0.0.1:0", "echo:"]);
    let (mut client, answer) = raw(&address, "Origin: http://localhost:3000\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client.write_all(&frame(2, b"hello")).unwrap();
    let mut echo = [0; 7];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"\x82\x05hello");
    client.write_all(&frame(8, &1001u16.to_be_bytes())).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest[0], 0x88, "the farewell is answered: {rest:?}");
    let record = relay.event("connection");
    assert_eq!(record["close"], "ws closed with status 1001");
    assert_eq!(relay.wait(), 0);
}

#[test]
fn a_close_that_complains_is_a_failure_of_the_protocol() {
    let (mut relay, address) = Running::relay(&["--once", "listen:ws://127.0.0.1:0", "echo:"]);
    let (mut client, _) = raw(&address, "");
    let reason = [&1008u16.to_be_bytes()[..], b"not here"].concat();
    client.write_all(&frame(8, &reason)).unwrap();
    let record = relay.event("connection");
    assert_eq!(record["close"], "ws closed with status 1008, \"not here\"");
    assert_eq!(relay.wait(), 7);
}

#[test]
fn pages_from_elsewhere_are_refused_by_a_listener_on_this_machine() {
    let (mut relay, address) = Running::relay(&["listen:ws://127.0.0.1:0", "echo:"]);
    // The host is that of the page: a name that leads here does not help.
    let (_, answer) = raw(&address, "Origin: http://h\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let failed = relay.event("handshake-failed");
    assert!(failed["error"].as_str().unwrap().contains("403"), "{failed}");
    let (_relay, address) = Running::relay(&["listen:ws://127.0.0.1:0?origin=any", "echo:"]);
    assert!(raw(&address, "Origin: http://h\r\n").1.starts_with("HTTP/1.1 101 "));
}

#[test]
fn a_wrong_path_and_a_wrong_password_have_their_statuses() {
    let folder = tempfile::tempdir().unwrap();
    let [right, wrong] = ["right", "wrong"].map(|word| {
        let path = folder.path().join(word);
        std::fs::write(&path, format!("{word}\n")).unwrap();
        path.display().to_string()
    });
    let listen = format!("listen:ws://127.0.0.1:0/chat?user=ann&password-file={right}");
    let (_relay, address) = Running::relay(&[&listen, "echo:"]);
    let ask = |address: String| run(&mut qio(["connect", &address]), b"hello");
    let outcome = ask(format!("{address}?user=ann&password-file={right}"));
    assert_eq!((outcome.status, outcome.text()), (0, "hello"));

    let outcome = ask(address.replace("/chat", "/other"));
    assert_eq!(outcome.status, 7);
    let text = "websocket handshake: the server answered 404 \"Not Found\"";
    assert_eq!(outcome.complaint(), format!("connect {}: {text}", address.replace("chat", "other")));

    let outcome = ask(format!("{address}?user=ann&password-file={wrong}"));
    assert_eq!(outcome.status, 6);
    assert!(outcome.complaint().contains("401 \"Unauthorized\""), "{}", outcome.stderr);

    // A file that is not there is found out before anybody is called.
    let outcome = ask("ws://127.0.0.1:1?user=ann&password-file=/nowhere/x".to_owned());
    assert_eq!(outcome.status, 4);
    assert!(outcome.complaint().contains("/nowhere/x: no such file"), "{}", outcome.stderr);
}

#[test]
fn a_peer_that_does_not_speak_the_protocol_is_named() {
    let plain = serve(|mut client| drop(client.write_all(b"SSH-2.0-x\r\n\r\n")));
    let host = plain.strip_prefix("tcp://").unwrap();
    let outcome = run(&mut qio(["connect", &format!("ws://{host}")]), b"");
    assert_eq!(outcome.status, 7);
    assert!(outcome.complaint().ends_with("this is no HTTP answer"), "{}", outcome.stderr);
}

#[test]
fn a_server_that_never_answers_is_given_up_in_time_with_what_is_missing() {
    let silent = serve(|mut client| drop(client.read_to_end(&mut Vec::new())));
    let host = silent.strip_prefix("tcp://").unwrap();
    let address = format!("ws://{host}");
    let outcome = run(&mut qio(["connect", "--connect-timeout", "200ms", &address]), b"");
    assert_eq!(outcome.status, 5);
    let text = format!(
        "connect {address}: timed out (no answer to the websocket handshake within 200ms)"
    );
    assert_eq!(outcome.complaint(), text);
}

#[test]
fn a_client_that_stalls_is_closed_at_its_deadline_and_others_are_served_meanwhile() {
    let (mut relay, address) = Running::relay(&[
        "--handshake-timeout",
        "300ms",
        "--max-connections",
        "1",
        "listen:ws://127.0.0.1:0",
        "echo:",
    ]);
    let start = Instant::now();
    let mut stalled = dial(&below(&address));
    stalled.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    // It takes the only place of a connection; handshakes have places of their own.
    let (mut client, _) = raw(&address, "");
    client.write_all(&frame(2, b"x")).unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    assert_eq!(stalled.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < PATIENCE / 2);
    let failed = relay.event("handshake-failed");
    assert!(failed["error"].as_str().unwrap().contains("timed out"), "{failed}");
    client.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn connections_that_are_cut_get_a_close_frame() {
    let silent = serve(|mut client| drop(client.read_to_end(&mut Vec::new())));
    let (mut relay, address) =
        Running::relay(&["--drain", "0s", "listen:ws://127.0.0.1:0", &silent]);
    let (mut client, _) = raw(&address, "");
    client.write_all(&frame(9, b"")).unwrap();
    client.read_exact(&mut [0; 2]).unwrap();
    relay.signal(rustix::process::Signal::TERM);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"\x88\x02\x03\xe9", "going away");
    assert_eq!(relay.wait(), 0);
}
