//! The examples do what they say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::is_installed;
use qio::net::{self, ConnectOptions};
use qio::{Channel, ChannelExt, Io};
use qio_testkit::Job;
use qio_testkit::certs::{Authority, Wanted};
use qio_testkit::examples::{Running, example};

fn connect(address: &str) -> qio::Result<Arc<dyn Channel>> {
    net::connect(&address.parse().unwrap(), &ConnectOptions::new())
}

#[test]
fn every_example_is_short() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() < 80, "{}", path.display());
        if path.extension().is_some_and(|extension| extension == "rs") {
            assert!(text.contains("//! cargo run -p qio "), "{}", path.display());
        }
    }
}

#[test]
fn the_echo_over_tls_answers_who_knows_its_certificate() {
    let (Some(mut serve), Some(mut ask)) = (example("tls_echo"), example("tls_echo")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let mut server = Running::start(serve.arg("serve").arg(&path));
    let address = server.line();
    assert!(address.starts_with("tls+unix:") && address.contains("?pin="), "{address}");
    assert_eq!(Running::start(ask.args(["ask", &address, "hello"])).rest(), "hello\n");
    let (plain, _) = address.split_once('?').unwrap();
    let error = connect(&format!("{plain}?pin={}", "0".repeat(64))).unwrap_err();
    assert_eq!(error.class(), qio::error::Class::Tls, "{error}");
}

#[test]
fn a_websocket_over_tls_goes_over_the_pipes_of_a_child() {
    let Some(mut command) = example("ws_over_tls_over_child") else { return };
    let text = Running::start(&mut command).rest();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("ws over tls over ") && lines[0].ends_with(", TLS 1.3"), "{text}");
    assert_eq!(lines[1..], ["the child says HELLO", "0 bytes after that"]);
}

/// A directory in QEMU's layout, and certificates of a client.
fn credentials(folder: &Path) -> impl Fn(&str) -> String {
    let authority = Authority::new("authority");
    let stranger = Authority::new("stranger");
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("ca-cert.pem", &authority.certificate());
    for (name, authority) in [("server", &authority), ("ann", &authority), ("eve", &stranger)] {
        let issued = authority.issue(Wanted::new(name, &["127.0.0.1"]));
        write(&format!("{name}-cert.pem"), &issued.certificate);
        write(&format!("{name}-key.pem"), &issued.key);
    }
    let folder = folder.display().to_string();
    move |who| {
        format!("?ca={folder}/ca-cert.pem&cert={folder}/{who}-cert.pem&key={folder}/{who}-key.pem")
    }
}

#[test]
fn the_relay_lets_in_whoever_has_a_certificate() {
    let Some(mut command) = example("mutual_tls_relay") else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = credentials(folder.path());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp://{}", service.local_addr().unwrap());
    let from = format!("listen:tls+tcp://127.0.0.1:0?creds={}", folder.path().display());
    let mut relay = Running::start(command.args([&from, &to]));
    let line = relay.line();
    let address = line.strip_prefix("listening on ").unwrap();

    let client = connect(&format!("{address}{}", options("ann"))).unwrap();
    let serving = Job::start(move || {
        let (mut client, _) = service.accept().unwrap();
        std::io::copy(&mut client.try_clone().unwrap(), &mut client).unwrap();
    });
    client.write_all(b"to the service").unwrap();
    client.finish_all(None).unwrap();
    let mut text = String::new();
    Io(&client).read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the service");
    serving.finish();
    assert_eq!(relay.line(), "let in O=Example,CN=ann");
    assert_eq!(relay.line(), "Finished: 14 bytes there, 14 back");

    // TLS 1.3 lets the client believe that it is in, and says no then.
    for stranger in [options("eve"), options("ann").split('&').next().unwrap().to_owned()] {
        let error = match connect(&format!("{address}{stranger}")) {
            Ok(client) => client.read(&mut [0]).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("tls: the peer refuses: alert "), "{error}");
        let line = relay.line();
        assert!(
            line.starts_with("refused handshake with tcp://127.0.0.1:") && line.contains("tls: "),
            "{line}"
        );
    }
}

fn chat() -> Option<(Running, String)> {
    let mut command = example("chat")?;
    let mut chat = Running::start(command.arg("listen:ws://127.0.0.1:0?text&origin=null"));
    let line = chat.line();
    let address = line.strip_prefix("listening on ").unwrap();
    Some((chat, format!("{address}?text&origin=null")))
}

fn says(client: &Arc<dyn Channel>, line: &str) {
    client.write_all(line.as_bytes()).unwrap();
}

#[track_caller]
fn reads(client: &Arc<dyn Channel>, line: &str) {
    let mut text = vec![0; line.len()];
    client.read_exact(&mut text).unwrap();
    assert_eq!(String::from_utf8_lossy(&text), line);
}

#[test]
fn in_the_chat_everybody_reads_what_one_says() {
    let Some((_chat, address)) = chat() else { return };
    let mut clients: Vec<Arc<dyn Channel>> = Vec::new();
    for line in ["ann\n", "bob\n", "eve\n"] {
        clients.push(connect(&address).unwrap());
        says(clients.last().unwrap(), line);
        for client in &clients {
            reads(client, line);
        }
    }
    let [ann, bob, eve] = clients.try_into().unwrap();
    says(&bob, "grüße, ");
    says(&bob, "all\nand more\n");
    for client in [&ann, &bob, &eve] {
        reads(client, "grüße, all\nand more\n");
    }
    // Who leaves is told goodbye, who is gone without a word disturbs nobody.
    ann.finish_all(None).unwrap();
    assert_eq!(ann.read(&mut [0]).unwrap(), 0);
    drop(eve);
    for line in ["still\n", "here\n"] {
        says(&bob, line);
        reads(&bob, line);
    }
}

/// What stands for a browser around the script of the page: it says something when it is connected,
/// and shows what it reads.
const BROWSER: &str = r"
    const html = require('node:fs').readFileSync(process.argv[1], 'utf8');
    const [, script] = html.match(/<script>([^]*)<\/script>/);
    const form = {};
    const set = (target, name, value) => {
        target[name] = value;
        if (value === 'connected') {
            elements.line.value = 'from the page';
            form.onsubmit({ preventDefault() {} });
        } else if (name === 'textContent') {
            console.log(value);
        }
        return true;
    };
    const lines = { append(text) { process.stdout.write(text); process.exit(0); } };
    const elements = { state: new Proxy({}, { set }), line: {}, lines };
    globalThis.document = { getElementById: (id) => elements[id], querySelector: () => form };
    globalThis.location = { search: `?server=${process.argv[2]}`, host: '' };
    new Function(script)();
";

#[test]
fn the_page_of_the_chat_says_and_shows_what_is_said() {
    if !is_installed("node") {
        return;
    }
    // Behind a flag in version 20, and without it from 22 on, where the flag is still known.
    let node = |script: &str| {
        let mut node = Command::new("node");
        node.args(["--experimental-websocket", "-e", script]);
        node
    };
    let has = "process.exit(typeof WebSocket === 'undefined' ? 1 : 0)";
    if !node(has).stderr(Stdio::null()).status().unwrap().success() {
        println!("skipped: this Node has no WebSocket of its own");
        return;
    }
    let Some((_chat, address)) = chat() else { return };
    let ann = connect(&address).unwrap();
    says(&ann, "ann\n");
    reads(&ann, "ann\n");
    let host = address.strip_prefix("ws://").unwrap().split(['/', '?']).next().unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chat.html");
    assert_eq!(Running::start(node(BROWSER).arg(page).arg(host)).rest(), "from the page\n");
    reads(&ann, "from the page\n");
}
