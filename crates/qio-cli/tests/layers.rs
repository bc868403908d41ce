//! WebSocket and TLS in addresses: both roles, their ends and their failures.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, dial, is_installed, noise, qio, run, serve};
use qio::ChannelExt;
use qio::layer::tls::{Fingerprint, Identity};

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
    assert_eq!(
        outcome.complaint(),
        format!("connect {}: {text}", address.replace("chat", "other"))
    );

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
    let text =
        format!("connect {address}: timed out (no answer to the websocket handshake within 200ms)");
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

#[test]
fn the_whole_reply_arrives_through_tls_after_the_end_of_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("listen:tls+unix:{}/x?self-signed", folder.path().display());
    the_reply_arrives_through("listen:tls+tcp://127.0.0.1:0?self-signed", "");
    the_reply_arrives_through(&unix, "");
    the_reply_arrives_through("listen:wss://127.0.0.1:0/x?self-signed", "");
    the_reply_arrives_through(
        "listen:tls+ws+tls+tcp://127.0.0.1:0?self-signed&tls2.self-signed",
        "",
    );
}

#[test]
fn a_certificate_that_was_made_is_believed_by_its_pin_alone() {
    let (mut relay, address) =
        Running::relay(&["--self-signed", "listen:tls+tcp://127.0.0.1:0", "echo:"]);
    let (plain, pin) = address.split_once("?pin=").unwrap();
    let ask = |address: &str| run(&mut qio(["connect", address]), b"hello");
    let outcome = ask(&address);
    assert_eq!((outcome.status, outcome.text()), (0, "hello"), "{outcome:?}");
    assert_eq!(relay.event("connection")["end"], "finished");

    let wrong = format!("{plain}?pin={}", "ab".repeat(32));
    let outcome = ask(&wrong);
    assert_eq!(outcome.status, 6);
    let text = "tls: the peer's certificate has the fingerprint";
    assert!(
        outcome.complaint().starts_with(&format!("connect {wrong}: {text} {pin}")),
        "{outcome:?}"
    );
    assert!(relay.event("handshake-failed")["error"].as_str().unwrap().contains("tls: "));

    let outcome = ask(&format!("{plain}?ca=/nowhere/ca.pem"));
    assert_eq!(outcome.status, 4);
    assert!(outcome.complaint().contains("/nowhere/ca.pem"), "{outcome:?}");
    let outcome = ask(&format!("{plain}?verify=off"));
    assert_eq!((outcome.status, outcome.text()), (0, "hello"), "{outcome:?}");

    let outcome = run(&mut qio(["relay", "listen:tls+tcp://127.0.0.1:0", "echo:"]), b"");
    assert_eq!(outcome.status, 2);
    assert!(outcome.complaint().contains("a server needs a certificate"), "{outcome:?}");
    let outcome =
        run(&mut qio(["relay", "--self-signed", "listen:tcp://127.0.0.1:0", "echo:"]), b"");
    assert_eq!(outcome.status, 2);
}

#[test]
fn who_has_the_key_is_served_where_openssl_is_built_in_and_else_the_feature_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [keys, wrong, socket] =
        ["keys.psk", "wrong.psk", "x"].map(|name| folder.path().join(name).display().to_string());
    let key = "00112233445566778899aabbccddeeff";
    std::fs::write(&keys, format!("qemu:{key}\nalice:{key}\n")).unwrap();
    std::fs::write(&wrong, format!("qemu:{}\n", key.replace('1', "2"))).unwrap();
    let listen = format!("listen:tls+unix:{socket}?psk={keys}");
    if cfg!(not(feature = "openssl")) {
        let outcome = run(&mut qio(["relay", &listen, "echo:"]), b"");
        assert_eq!(outcome.status, 2);
        assert!(outcome.complaint().contains("without the feature \"openssl\""), "{outcome:?}");
        return;
    }
    let (mut relay, _) = Running::relay(&[&listen, "echo:"]);
    for user in ["", "&user=alice"] {
        let address = format!("tls+unix:{socket}?psk={keys}{user}");
        let outcome = run(&mut qio(["connect", &address]), b"hello");
        assert_eq!((outcome.status, outcome.text()), (0, "hello"), "{outcome:?}");
        assert_eq!(relay.event("connection")["end"], "finished");
    }
    let address = format!("tls+unix:{socket}?psk={wrong}");
    let outcome = run(&mut qio(["connect", &address]), b"hello");
    assert_eq!(outcome.status, 6);
    let text = "tls: the two sides do not have the same pre-shared key (PSK)";
    assert!(outcome.complaint().starts_with(&format!("connect {address}: {text}")), "{outcome:?}");
    let told = relay.event("handshake-failed")["error"].as_str().unwrap().to_owned();
    assert!(told.contains(text) && !told.contains("2233"), "{told}");
}

#[test]
fn plain_text_where_tls_is_expected_is_a_failure_of_tls_on_both_sides() {
    let plain = serve(|mut client| {
        // The hello is read, so that closing is no reset.
        let _ = client.read(&mut [0; 4096]);
        let _ = client.write_all(b"SSH-2.0-x\r\n");
    });
    let address = format!("tls+{plain}?pin={}", "ab".repeat(32));
    let outcome = run(&mut qio(["connect", &address]), b"");
    assert_eq!(outcome.status, 6);
    assert!(outcome.complaint().starts_with(&format!("connect {address}: tls: ")), "{outcome:?}");

    let (mut relay, address) =
        Running::relay(&["listen:tls+tcp://127.0.0.1:0?self-signed", "echo:"]);
    let host = address.strip_prefix("tls+").unwrap().split('?').next().unwrap();
    let mut client = dial(host);
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    assert!(relay.event("handshake-failed")["error"].as_str().unwrap().starts_with("tls: "));
}

#[test]
fn openssl_is_served_and_serves() {
    if !is_installed("openssl") {
        eprintln!("skipped: there is no openssl");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] =
        ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-days", "2", "-subj", "/CN=qio", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &cert]);
    assert_eq!(run(&mut openssl, b"").status, 0);

    let listen = format!("listen:tls+tcp://127.0.0.1:0?cert={cert}&key={key}");
    let (mut relay, address) = Running::relay(&["--once", &listen, &serve(thoughtful)]);
    let host = address.strip_prefix("tls+tcp://").unwrap();
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"]);
    client.args(["-CAfile", &cert, "-connect", host, "-no_ign_eof"]);
    let outcome = run(&mut client, b"question");
    let record = relay.event("connection");
    assert_eq!(record["sent"], 8, "{outcome:?}");

    let mut server = Command::new("openssl");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    server.args(["s_server", "-rev", "-quiet", "-cert", &cert, "-key", &key, "-accept"]);
    server.arg(format!("127.0.0.1:{port}")).stdin(Stdio::null()).stdout(Stdio::null());
    let _server = Running::start(&mut server);
    let address = format!("tls+tcp://localhost:{port}?ca={cert}&retry=20");
    let outcome = run(&mut qio(["connect", &address]), b"hello\n");
    // s_server leaves without close_notify when its client has.
    assert_eq!(outcome.text(), "olleh\n", "{outcome:?}");
}

#[test]
fn a_hang_up_signal_has_certificates_read_again_and_touches_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let make = || {
        let authority = qio_testkit::certs::Authority::new("test");
        let issued = authority.issue(qio_testkit::certs::Wanted::new("host", &["localhost"]));
        std::fs::write(&cert, &issued.certificate).unwrap();
        std::fs::write(&key, &issued.key).unwrap();
        Identity::files(&cert, &key).certificate().unwrap().fingerprint
    };
    let first = make();
    let listen =
        format!("listen:tls+tcp://127.0.0.1:0?cert={}&key={}", cert.display(), key.display());
    let (mut relay, address) = Running::relay(&["-v", &listen, "echo:"]);
    let connect = |pin: Fingerprint| {
        let address = format!("{address}?pin={pin}").parse().unwrap();
        qio::net::connect(&address, &qio::net::ConnectOptions::new())
    };
    let old = connect(first).unwrap();
    let second = make();
    relay.signal(rustix::process::Signal::HUP);
    while !relay.event("note")["message"].as_str().unwrap().contains("read again") {}
    connect(second).unwrap();
    assert_eq!(connect(first).unwrap_err().class(), qio::error::Class::Tls);
    old.write_all(b"still here").unwrap();
    old.read_exact(&mut [0; 10]).unwrap();
}
