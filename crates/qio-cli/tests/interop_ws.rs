//! WebSocket with the libraries of Python and Node at the other end, both ways.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command};

use common::foreign::{Credentials, End, VOLUME, connected, node, piped, python};
use common::{Running, noise, qio, run};
use qio_testkit::Job;

/// Runs a client to its end against an echo of qio: what it printed, and qio's record.
fn client(command: &mut Command, listen: &str, args: &[&str]) -> (String, serde_json::Value) {
    let (mut relay, address) = Running::relay(&["--once", listen, "echo:"]);
    let outcome = run(command.arg(uri(&address)).args(args), b"");
    assert_eq!(outcome.status, 0, "{listen}: {outcome:?}");
    let record = relay.event("connection");
    assert_eq!((&record["end"], &record["error"]), (&"finished".into(), &().into()), "{record}");
    (outcome.text().trim_end().to_owned(), record)
}

/// The address as others write it: the name that certificates have, and no options.
fn uri(address: &str) -> String {
    let (plain, _) = address.split_once('?').unwrap_or((address, ""));
    plain.replace("127.0.0.1", "localhost")
}

/// A server of somebody else, with its port and what it says later.
struct Server {
    process: Running,
    port: u16,
    lines: BufReader<ChildStdout>,
}

impl Server {
    fn start(command: &mut Command, args: &[&str]) -> Self {
        let mut process = piped(command.arg("server").args(args));
        let stdout = process.child().stdout.take().unwrap();
        let (lines, port) = Job::start(move || {
            let mut lines = BufReader::new(stdout);
            let mut port = String::new();
            lines.read_line(&mut port).unwrap();
            (lines, port)
        })
        .finish();
        let Ok(port) = port.trim_end().parse() else { panic!("no port: {:?}", process.rest()) };
        Self { process, port, lines }
    }

    /// Everything it says until its end.
    fn rest(self) -> Vec<String> {
        let Self { process, lines, .. } = self;
        let said = Job::start(move || lines.lines().map(Result::unwrap).collect()).finish();
        let (status, complaints) = process.rest();
        assert_eq!(status, 0, "{complaints:?}");
        said
    }
}

/// Sends megabytes to an echo, and reads all of them before it ends.
fn echoed(address: &str) {
    let mut client = connected(address);
    let mut end = End::of(&mut client).exchange(&noise(VOLUME, 3));
    end.finish();
    assert!(end.rest().is_empty());
    assert_eq!(client.rest(), (0, vec![]), "{address}");
}

#[test]
fn a_client_of_websockets_moves_messages_of_every_size() {
    let Some(mut command) = python("websockets", "websockets_peer.py") else { return };
    let listen = "listen:ws://127.0.0.1:0/chat?protocol=nbd&protocol=binary";
    let args = ["protocol=other,binary", "origin=http://localhost:1234", "close=1001,bye"];
    let (said, record) = client(command.arg("client"), listen, &args);
    // Its compression is not taken up, and its status comes back.
    assert_eq!(said, "done binary [] 1001");
    assert_eq!(record["close"], "ws closed with status 1001, \"bye\"");
}

#[test]
fn a_client_of_websockets_is_refused_with_the_status_for_it() {
    let Some(_) = python("websockets", "websockets_peer.py") else { return };
    let credentials = Credentials::new();
    std::fs::write(credentials.path("password"), "secret\n").unwrap();
    let auth = format!("?user=ann&password-file={}", credentials.path("password"));
    for (options, path, args, status) in [
        ("?origin=https://a.example", "", "origin=https://b.example", "403"),
        ("", "wrong", "origin=http://localhost", "404"),
        (&auth, "", "user=ann:wrong", "401"),
    ] {
        let listen = format!("listen:ws://127.0.0.1:0/{options}");
        let (_relay, address) = Running::relay(&[&listen, "echo:"]);
        let mut command = python("websockets", "websockets_peer.py").unwrap();
        let uri = uri(&address) + path;
        let outcome = run(command.args(["client", &uri, args]), b"");
        assert_eq!(outcome.text(), format!("refused {status}\n"), "{outcome:?}");
    }
    let listen = format!("listen:ws://127.0.0.1:0/{auth}");
    let mut command = python("websockets", "websockets_peer.py").unwrap();
    let (said, _) = client(command.arg("client"), &listen, &["user=ann:secret"]);
    assert_eq!(said, "done None [] 1000");
}

#[test]
fn a_client_of_websockets_talks_through_tls_and_as_text() {
    let Some(mut command) = python("websockets", "websockets_peer.py") else { return };
    let credentials = Credentials::new();
    let listen = format!("listen:wss://127.0.0.1:0/?{}", credentials.identity("server"));
    let ca = credentials.ca();
    assert_eq!(client(command.arg("client"), &listen, &[&ca]).0, "done None [] 1000");

    let mut command = python("websockets", "websockets_peer.py").unwrap();
    let said = client(command.arg("text"), "listen:ws://127.0.0.1:0/?text", &[]).0;
    assert_eq!(said, "text grüße");
    // Without the option, text is refused as the standard has it.
    let (mut relay, address) = Running::relay(&["--once", "listen:ws://127.0.0.1:0", "echo:"]);
    let mut command = python("websockets", "websockets_peer.py").unwrap();
    let outcome = run(command.args(["text", &uri(&address)]), b"");
    assert!(outcome.stderr.contains("1003 (unsupported data)"), "{outcome:?}");
    assert_eq!(relay.wait(), 7);
}

#[test]
fn a_server_of_websockets_sends_back_what_it_got_in_fragments_with_pings_between() {
    let Some(mut command) = python("websockets", "websockets_peer.py") else { return };
    let args = ["echo", "protocol=nbd", "origin=https://a.example"];
    let server = Server::start(&mut command, &args);
    let port = server.port;
    echoed(&format!(
        "ws://127.0.0.1:{port}/a?protocol=other&protocol=nbd&origin=https://a.example"
    ));
    assert_eq!(server.rest(), ["client /a nbd https://a.example", "closed 1000"]);

    let credentials = Credentials::new();
    std::fs::write(credentials.path("password"), "secret\n").unwrap();
    let [cert, key] = ["server-cert.pem", "server-key.pem"].map(|name| credentials.path(name));
    let mut command = python("websockets", "websockets_peer.py").unwrap();
    let cert = format!("cert={cert},{key}");
    let server = Server::start(&mut command, &["echo", &cert, "user=ann:secret"]);
    let (port, ca, password) = (server.port, credentials.ca(), credentials.path("password"));
    let address = format!("wss://localhost:{port}/?{ca}");
    let outcome = run(&mut qio(["connect", &address]), b"");
    assert_eq!(outcome.status, 6, "{outcome:?}");
    assert!(outcome.complaint().contains("the server answered 401"), "{outcome:?}");
    echoed(&format!("{address}&user=ann&password-file={password}"));
    assert_eq!(server.rest(), ["client / None None", "closed 1000"]);
}

#[test]
fn how_a_server_of_websockets_ends_is_told_apart() {
    let Some(_) = python("websockets", "websockets_peer.py") else { return };
    for (what, status, complaint, closed) in [
        ("end", 0, None, "closed 1000"),
        ("leave", 7, Some("the peer closed with status 1008, \"not here\""), "closed 1008"),
        ("cut", 1, Some("the peer left without a Close frame"), "closed None"),
    ] {
        let mut command = python("websockets", "websockets_peer.py").unwrap();
        let server = Server::start(&mut command, &[what]);
        let mut client = connected(&format!("ws://127.0.0.1:{}", server.port));
        let mut end = End::of(&mut client);
        end.send(b"hello");
        let rest = end.rest();
        assert_eq!(rest, if what == "end" { &b"hello"[..] } else { b"" });
        let (ended, said) = client.rest();
        assert_eq!(ended, status, "{what}: {said:?}");
        match complaint {
            None => assert!(said.is_empty(), "{said:?}"),
            Some(text) => assert!(said.concat().contains(text), "{what}: {said:?}"),
        }
        assert_eq!(server.rest().last().unwrap(), closed);
    }
}

#[test]
fn websocket_client_moves_messages_of_every_size_in_the_clear_and_through_tls() {
    let Some(mut command) = python("websocket", "websocket_client_peer.py") else { return };
    let listen = "listen:ws://127.0.0.1:0/?protocol=nbd";
    let (said, record) = client(&mut command, listen, &["protocol=nbd"]);
    assert_eq!(said, "done nbd 1001");
    assert_eq!(record["close"], "ws closed with status 1001, \"enough\"");

    let credentials = Credentials::new();
    let listen = format!("listen:wss://127.0.0.1:0/?{}", credentials.identity("server"));
    let mut command = python("websocket", "websocket_client_peer.py").unwrap();
    assert_eq!(client(&mut command, &listen, &[&credentials.ca()]).0, "done None 1001");
}

#[test]
fn a_client_of_ws_moves_messages_of_every_size_and_does_without_compression() {
    let Some(mut command) = node("ws_peer.js") else { return };
    let listen = "listen:ws://127.0.0.1:0/?protocol=nbd";
    let args = ["deflate=on", "protocol=other,nbd"];
    let (said, record) = client(command.arg("client"), listen, &args);
    assert_eq!(said, "done nbd [] 1000");
    assert_eq!(record["close"], "ws closed with status 1000, \"enough\"");

    let credentials = Credentials::new();
    let listen = format!("listen:wss://127.0.0.1:0/?{}", credentials.identity("server"));
    let mut command = node("ws_peer.js").unwrap();
    let args = [&*credentials.ca(), "deflate=off"];
    assert_eq!(client(command.arg("client"), &listen, &args).0, "done  [] 1000");

    let (_relay, address) = Running::relay(&["listen:ws://127.0.0.1:0", "echo:"]);
    let mut command = node("ws_peer.js").unwrap();
    let args = ["client", &uri(&address), "origin=https://elsewhere.example"];
    assert_eq!(run(command.args(args), b"").text(), "refused 403\n");
}

#[test]
fn a_server_of_ws_sends_back_what_it_got_and_its_ends_are_told_apart() {
    let Some(mut command) = node("ws_peer.js") else { return };
    let server = Server::start(&mut command, &["echo", "protocol=nbd"]);
    echoed(&format!("ws://127.0.0.1:{}/a/b?protocol=nbd", server.port));
    assert_eq!(server.rest(), ["client /a/b nbd []", "closed 1000"]);

    let credentials = Credentials::new();
    let [cert, key] = ["cert", "key"].map(|it| credentials.path(&format!("server-{it}.pem")));
    let own = [format!("cert={cert}"), format!("key={key}")];
    let mut command = node("ws_peer.js").unwrap();
    let server = Server::start(&mut command, &["echo", &own[0], &own[1]]);
    echoed(&format!("wss://localhost:{}?{}", server.port, credentials.ca()));
    assert_eq!(server.rest(), ["client / - []", "closed 1000"]);

    for (what, status, complaint) in [
        ("leave", 7, "the peer closed with status 1011, \"out of order\""),
        ("cut", 1, "the peer left without a Close frame"),
    ] {
        let mut command = node("ws_peer.js").unwrap();
        let server = Server::start(&mut command, &[what]);
        let mut client = connected(&format!("ws://127.0.0.1:{}", server.port));
        let mut end = End::of(&mut client);
        end.send(b"hello");
        assert!(end.rest().is_empty());
        let (ended, said) = client.rest();
        assert!(ended == status && said.concat().contains(complaint), "{what}: {ended} {said:?}");
        server.rest();
    }
}

#[test]
fn the_websocket_of_node_itself_is_served() {
    let Some(command) = node("node_client.js") else { return };
    // Behind a flag in version 20, and without it from 22 on, where the flag is still known.
    let flag = "--experimental-websocket";
    let has = "process.exit(typeof WebSocket === 'undefined' ? 1 : 0)";
    if run(Command::new("node").args([flag, "-e", has]), b"").status != 0 {
        println!("skipped: this Node has no WebSocket of its own");
        return;
    }
    let script = command.get_args().next().unwrap().to_owned();
    let mut command = Command::new("node");
    command.arg(flag).arg(script);
    let (mut relay, address) =
        Running::relay(&["--once", "listen:ws://127.0.0.1:0/?protocol=nbd", "echo:"]);
    let outcome = run(command.args([&uri(&address), "nbd"]), b"");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.text(), "done nbd 3000 true\n", "{outcome:?}");
    let record = relay.event("connection");
    assert_eq!(record["close"], "ws closed with status 3000, \"enough\"", "{record}");
}
