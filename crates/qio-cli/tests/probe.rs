//! `qio probe`: what it finds, and what it makes of failures.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{PATIENCE, Running, is_installed, qio, run, serve};
use qio::ChannelExt;
use qio::layer::tls::{self, Identity, ServerSettings, Version};
use qio::net::{ListenOptions, listen};
use qio_testkit::certs::{Authority, Issued, Wanted};
use serde_json::Value;

/// An authority with its file, and servers with certificates of it.
struct World {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test authority");
        std::fs::write(folder.path().join("ca"), authority.certificate()).unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ca(&self) -> String {
        format!("ca={}", self.path("ca").display())
    }

    fn issue(&self, wanted: Wanted) -> Issued {
        let issued = self.authority.issue(wanted);
        std::fs::write(self.path("cert"), &issued.certificate).unwrap();
        std::fs::write(self.path("key"), &issued.key).unwrap();
        issued
    }

    /// A relay with a certificate for localhost, and the address that leads there by that name.
    fn server(&self, wanted: Wanted, layers: &str, options: &str) -> (Running, String) {
        self.issue(wanted);
        let [cert, key] = ["cert", "key"].map(|name| self.path(name).display().to_string());
        let listen =
            format!("listen:{layers}tcp://127.0.0.1:0?tls.cert={cert}&tls.key={key}{options}");
        let (relay, address) = Running::relay(&[&listen, "echo:"]);
        (relay, address.replace("127.0.0.1", "localhost"))
    }
}

fn good() -> Wanted {
    Wanted::new("host", &["localhost", "other.example"])
}

/// The findings of a probe that succeeds, as text and as JSON.
fn found(address: &str) -> (String, Value) {
    let text = run(&mut qio(["probe", address]), b"");
    assert_eq!((text.status, text.stderr.as_str()), (0, ""), "{}", text.text());
    let json = run(&mut qio(["probe", "--json", address]), b"");
    assert_eq!((json.status, json.stderr.as_str()), (0, ""));
    let value: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!((&value["ok"], &value["error"]), (&Value::Bool(true), &Value::Null));
    (text.text().to_owned(), value)
}

/// The findings of a probe that fails at `step` for `kind`; the text says all of `parts`.
fn trouble(address: &str, step: &str, kind: &str, status: i32, parts: &[&str]) -> Value {
    let args = ["probe", "--timeout", "20s", address];
    let text = run(&mut qio(args), b"");
    assert_eq!(text.status, status, "{}{}", text.text(), text.stderr);
    assert_eq!(text.stderr.lines().count(), 1, "{}", text.stderr);
    assert!(text.stderr.starts_with("qio: connect "), "{}", text.stderr);
    let start = format!("\n\n{step} failed: ");
    assert!(text.text().contains(&start), "{start:?} is not in {}", text.text());
    for part in parts {
        assert!(text.text().contains(part), "{part:?} is not in {}", text.text());
    }
    let json = run(qio(args).arg("--json"), b"");
    assert_eq!(json.status, status);
    let value: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!((&value["error"]["step"], &value["error"]["kind"]), (&step.into(), &kind.into()));
    assert_eq!(value["ok"], false);
    for outcome in [&text, &json] {
        let harmless = |char: char| char == '\n' || !char.is_control();
        assert!(outcome.text().chars().all(harmless), "{:?}", outcome.text());
        assert!(outcome.stderr.chars().all(harmless), "{:?}", outcome.stderr);
    }
    value
}

#[test]
fn every_kind_of_trouble_is_in_the_help() {
    let help = run(&mut qio(["probe", "--help"]), b"");
    let kinds =
        help.text().split_once("Kinds: ").unwrap().1.replace(['\n', ';', ',', '.', ':'], " ");
    let source = include_str!("../src/probe/diagnosis.rs").replace(['\n', ' '], "");
    let found = source.split("Diagnosis::new(\"").skip(1);
    let found: Vec<_> = found.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(found.len() > 20, "{found:?}");
    for kind in found {
        assert!(kinds.split(' ').any(|word| word == kind), "{kind:?} is not in {kinds}");
    }
}

#[test]
fn what_was_negotiated_is_shown_as_text_and_as_json() {
    let world = World::new();
    let (_server, address) = world.server(good(), "ws+tls+", "&protocol=chat&alpn=http/1.1");
    let ca = world.ca();
    let address =
        format!("{address}/?{ca}&protocol=nope&protocol=chat&alpn=http/1.1&header=X-Y: z");
    let (text, json) = found(&address);
    for part in [
        "\nresolve ",
        "\nconnect ",
        "\ntls ",
        "TLS 1.3, TLS_",
        "server name        localhost",
        "protocol           http/1.1 (ALPN)",
        "trusted            yes, by the authority in ca=",
        "certificate 1      O=Example,CN=host",
        "issuer           O=Example,CN=test authority",
        "names            DNS:localhost, DNS:other.example",
        "(less than a day left)",
        "key              ECDSA P-256, signed with ecdsa-with-SHA256",
        "101 Switching Protocols",
        "    X-Y: z\n",
        "sub-protocol       chat",
        "    Upgrade: websocket\n",
        "\ntotal ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(json["resolve"]["addresses"][0], "127.0.0.1");
    let peer = json["connect"]["peer"].as_str().unwrap();
    assert!(address.contains(&peer.replace("127.0.0.1", "localhost")), "{peer}");
    let [tls, ws] = json["layers"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!((&tls["layer"], &ws["layer"]), (&"tls".into(), &"ws".into()));
    let sum: f64 = [&json["prepare"], &json["resolve"], &json["connect"], tls, ws]
        .iter()
        .map(|step| step["ms"].as_f64().unwrap())
        .sum();
    assert!(sum <= json["total_ms"].as_f64().unwrap() + 0.01, "{json}");
    let tls = &tls["tls"];
    assert_eq!(tls["version"], "TLS 1.3");
    assert_eq!(tls["trusted_by"], "authority");
    assert_eq!((&tls["sni"], &tls["resumed"]), (&"localhost".into(), &false.into()));
    assert_eq!(tls["client_certificate"], "not-asked");
    let own = Identity::files(world.path("cert"), world.path("key")).certificate().unwrap();
    assert_eq!(tls["chain"][0]["sha256"], own.fingerprint.to_string());
    assert!(tls["chain"][0]["not_after"].as_str().unwrap().ends_with('Z'));
    let ws = &ws["websocket"];
    assert_eq!((&ws["status"], &ws["protocol"]), (&101.into(), &"chat".into()));
    assert_eq!(ws["request"]["protocols"], serde_json::json!(["nope", "chat"]));
    assert!(ws["headers"].as_array().unwrap().iter().any(|header| header["name"] == "Upgrade"));

    // The pin that is shown is one that works.
    let pinned = address.replace(&ca, &format!("pin={}", own.fingerprint));
    assert_eq!(found(&pinned).1["layers"][0]["tls"]["trusted_by"], "pin");
    let (text, _) = found(&address.replace(&ca, "verify=off"));
    assert!(text.contains("trusted            not verified at all"), "{text}");
}

#[test]
fn a_unix_socket_shows_who_is_at_the_other_end_and_a_program_is_left_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("listen:unix:{}/x", folder.path().display());
    let (relay, address) = Running::relay(&[&listen, "echo:"]);
    let (text, json) = found(&address);
    assert_eq!(json["connect"]["credentials"]["pid"], relay.pid());
    assert!(text.contains(&format!("process {}, user ", relay.pid())), "{text}");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(found(&format!("udp://{udp}")).1["connect"]["peer"], udp.to_string());
    found("exec:cat");
    found("null:");
    let crl = "crl=/nowhere/crl.pem";
    let outcome = run(&mut qio(["probe", &format!("tls+tcp://127.0.0.1:1?{crl}")]), b"");
    assert_eq!(outcome.status, 4, "{outcome:?}");
    assert!(outcome.stderr.contains("/nowhere/crl.pem"), "{outcome:?}");
    assert!(outcome.text().contains("\nprepare failed: there is no such file"), "{outcome:?}");
}

#[test]
fn a_certificate_out_of_its_time_is_told_with_its_dates() {
    let world = World::new();
    let ca = world.ca();
    let (_server, address) = world.server(good().expired(), "tls+", "");
    let parts = [
        "has expired: it was valid until 20",
        "UTC, less than a day ago",
        "trusted            NO",
        "(EXPIRED less than a day ago)",
        "certificate 1      O=Example,CN=host",
    ];
    let json = trouble(&format!("{address}?{ca}"), "tls", "expired", 6, &parts);
    assert_eq!(json["layers"][0]["tls"]["chain"][0]["days_left"], -1);
    assert_eq!(json["layers"][0]["tls"]["trusted_by"], Value::Null);

    let mut wanted = good();
    wanted.not_before = SystemTime::now() + Duration::from_secs(49 * 60 * 60);
    wanted.not_after = SystemTime::now() + Duration::from_secs(99 * 60 * 60);
    let (_server, address) = world.server(wanted, "tls+", "");
    let parts = ["is not valid before 20", ", in 2 days", "clock"];
    trouble(&format!("{address}?{ca}"), "tls", "not-yet-valid", 6, &parts);
}

#[test]
fn a_certificate_for_others_is_told_with_the_names_that_it_has() {
    let world = World::new();
    let ca = world.ca();
    let wanted = Wanted::new("host", &["one.example", "192.0.2.1"]);
    let (_server, address) = world.server(wanted, "tls+", "");
    let parts = ["is not for localhost: it is for DNS:one.example, IP:192.0.2.1", "sni=NAME"];
    trouble(&format!("{address}?{ca}"), "tls", "name-mismatch", 6, &parts);
    found(&format!("{address}?{ca}&sni=one.example"));
    let (_server, address) = world.server(Wanted::new("localhost", &[]), "tls+", "");
    let parts = ["it names no host (only subjectAltName counts", "pin="];
    trouble(&format!("{address}?{ca}"), "tls", "name-mismatch", 6, &parts);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_told_with_its_issuer_and_a_pin_that_works() {
    let world = World::new();
    let (_server, address) = world.server(good(), "tls+", "");
    std::fs::write(world.path("other"), Authority::new("other").certificate()).unwrap();
    let other = format!("{address}?ca={}", world.path("other").display());
    let parts = ["leads to O=Example,CN=test authority, who is not trusted here", "ca=FILE"];
    let json = trouble(&other, "tls", "unknown-authority", 6, &parts);
    let advice = json["error"]["advice"].as_str().unwrap();
    let pin = advice.split_once("pin=").unwrap().1.split(';').next().unwrap();
    found(&format!("{address}?pin={pin}"));

    let listen = "listen:tls+tcp://127.0.0.1:0?self-signed";
    let (_server, address) = Running::relay(&[listen, "echo:"]);
    let (plain, pin) = address.split_once("?pin=").unwrap();
    let parts = ["the certificate is self-signed", &format!("pin={pin}")];
    let ca = world.ca();
    trouble(&format!("{plain}?{ca}"), "tls", "self-signed", 6, &parts);
    let wrong = format!("{plain}?pin={}", "ab".repeat(32));
    let parts = ["another certificate than the one that is pinned", &format!("pin={pin}")];
    trouble(&wrong, "tls", "pin", 6, &parts);
}

#[test]
fn a_certificate_that_was_revoked_or_is_kept_out_is_told() {
    let world = World::new();
    let (_server, address) = world.server(good(), "tls+", "");
    let ca = world.ca();
    let (text, json) = {
        let none = world.authority.revoke(&[]);
        std::fs::write(world.path("crl"), none).unwrap();
        found(&format!("{address}?{ca}&crl={}", world.path("crl").display()))
    };
    assert!(text.contains("revoked            not by the lists"), "{text}");
    assert_eq!(json["layers"][0]["tls"]["revocation_checked"], true);
    let parts = ["allow= and deny="];
    trouble(&format!("{address}?{ca}&deny=DNS:localhost"), "tls", "denied", 6, &parts);
    let issued = world.issue(good());
    std::fs::write(world.path("crl"), world.authority.revoke(&[&issued])).unwrap();
    let identity = Identity::files(world.path("cert"), world.path("key"));
    let address = tls_server(ServerSettings::new().identity(identity));
    let parts = ["was revoked"];
    let crl = world.path("crl");
    trouble(&format!("{address}?{ca}&crl={}", crl.display()), "tls", "revoked", 6, &parts);
}

/// A server with settings that addresses have no options for.
fn tls_server(settings: ServerSettings) -> String {
    let listener = listen(&"listen:tcp://127.0.0.1:0".parse().unwrap(), &ListenOptions::new());
    let listener = listener.unwrap();
    let port = listener.local_addresses()[0].port().unwrap();
    let config = settings.build().unwrap();
    thread::spawn(move || {
        while let Ok(client) = listener.accept(Some(Instant::now() + PATIENCE)) {
            let handshake = tls::server(client.channel, Arc::clone(&config), None).unwrap();
            if let Ok(std::ops::ControlFlow::Break(Ok(done))) = qio::watch::run(handshake, None) {
                let channel = done.into_layer(tls::NAME);
                let _ = channel.read(&mut [0]);
            }
        }
    });
    format!("tls+tcp://localhost:{port}")
}

#[test]
fn alerts_are_named_and_explained() {
    let world = World::new();
    world.issue(good());
    let identity = || Identity::files(world.path("cert"), world.path("key"));
    let ca = world.ca();
    let old = ServerSettings::new().identity(identity()).max_version(Version::Tls12);
    let address = format!("{}?{ca}", tls_server(old));
    let (text, json) = found(&address);
    assert!(text.contains("TLS 1.2, TLS_ECDHE_"), "{text}");
    assert_eq!(json["layers"][0]["tls"]["version"], "TLS 1.2");
    let parts = ["alert protocol_version", "min=1.3"];
    trouble(&format!("{address}&min=1.3"), "tls", "version", 6, &parts);

    let (_server, address) = world.server(good(), "tls+", "&alpn=vnc");
    let parts = ["alert no_application_protocol", "alpn="];
    trouble(&format!("{address}?{ca}&alpn=nbd"), "tls", "alpn", 6, &parts);
}

#[test]
fn a_server_that_wants_a_certificate_of_ours_is_told_also_when_it_says_so_late() {
    let world = World::new();
    let ca = world.ca();
    // In TLS 1.3, our side of the handshake is over by then.
    for (layers, step) in [("tls+", "tls"), ("ws+tls+", "ws")] {
        let asks = format!("&client-cert=required&tls.{ca}");
        let (_server, address) = world.server(good(), layers, &asks);
        let parts = ["it wants a certificate of ours", "our certificate    was asked for"];
        let json = trouble(&format!("{address}?{ca}"), step, "client-certificate", 6, &parts);
        assert_eq!(json["layers"][0]["tls"]["client_certificate"], "none");

        let shows = |certificate: &Issued, name: &str| {
            let path = world.path(name);
            std::fs::write(&path, format!("{}{}", certificate.certificate, certificate.key))
                .unwrap();
            format!("{address}?{ca}&cert={}", path.display())
        };
        let ours = world.authority.issue(Wanted::new("alice", &["alice.example"]));
        let (text, json) = found(&shows(&ours, "ours"));
        assert!(text.contains("our certificate    was asked for and shown"), "{text}");
        assert_eq!(json["layers"][0]["tls"]["client_certificate"], "shown");
        let theirs = Authority::new("nobody").issue(Wanted::new("mallory", &["m.example"]));
        let parts = ["does not let our certificate in", "alert "];
        trouble(&shows(&theirs, "theirs"), step, "client-certificate", 6, &parts);
    }
}

#[test]
fn plain_text_where_tls_was_expected_is_shown_safely() {
    for (sent, parts) in [
        (
            &b"SSH-2.0-Evil\x1b]0;x\x07\r\n"[..],
            ["as an SSH server without TLS does", r"\u{1b}]0;x"],
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ["as an HTTP server", "HTTP/1.1 400 Bad Request"]),
        (b"\xff\xfe \xe2\x80\xae", ["plain text where TLS was expected", r"\xff\xfe \u{202e}"]),
    ] {
        let address = serve(move |mut client| {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(sent);
        });
        trouble(&format!("tls+{address}?verify=off"), "tls", "not-tls", 6, &parts);
    }
}

#[test]
fn tls_where_plain_text_was_expected_is_recognised() {
    let listen = "listen:tls+tcp://127.0.0.1:0?self-signed";
    let (_server, address) = Running::relay(&[listen, "echo:"]);
    let host = address.strip_prefix("tls+tcp://").unwrap().split('?').next().unwrap();
    let parts = ["speaks TLS where plain text was expected", "wss://"];
    trouble(&format!("ws://{host}/x"), "ws", "tls", 7, &parts);
}

#[test]
fn what_a_web_server_answers_instead_is_shown_safely() {
    let answers = |answer: &'static [u8]| {
        let address = serve(move |mut client| {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(answer);
            let _ = client.shutdown(std::net::Shutdown::Write);
            let _ = client.read_to_end(&mut Vec::new());
        });
        address.replace("tcp://", "ws://")
    };
    let evil = answers(b"HTTP/1.1 404 Not Found\r\nX-Evil: a\xc2\x9b2J\r\n\r\ngone \x1b]0;x");
    let parts = [
        "the server answered 404 Not Found instead of 101",
        "    X-Evil: a\\u{9b}2J\n",
        "body               gone \\u{1b}]0;x",
        "asked              GET /room of 127.0.0.1:",
    ];
    let json = trouble(&format!("{evil}/room"), "ws", "http-status", 7, &parts);
    let ws = &json["layers"][0]["websocket"];
    assert_eq!((&ws["status"], &ws["reason"]), (&404.into(), &"Not Found".into()));
    assert_eq!(ws["headers"][0], serde_json::json!({"name": "X-Evil", "value": "a\\u{9b}2J"}));
    for (answer, kind, status, parts) in [
        (
            &b"HTTP/1.1 302 Found\r\nLocation: https://x.example/\r\n\r\n"[..],
            "http-status",
            7,
            ["302 Found", "sends us elsewhere: https://x.example/"],
        ),
        (b"HTTP/1.1 401 No\r\n\r\n", "http-status", 6, ["401 No", "user=NAME&password-file="]),
        (b"HTTP/1.1 200 OK\r\n\r\nhi", "http-status", 7, ["200 OK", "body               hi"]),
        (b"SSH-2.0-x\r\n", "not-http", 7, ["does not speak HTTP", r#"it sent "SSH-2.0-x\r\n""#]),
        (b"", "closed", 7, ["closed the connection", ""]),
        (b"HTTP/1.1 101 S", "closed", 7, ["closed the connection", ""]),
        (b"HTTP/1.1 101 S\r\n\r\n", "protocol", 7, ["Upgrade does not name websocket", "101 S"]),
    ] {
        trouble(&answers(answer), "ws", kind, status, &parts);
    }
}

#[test]
fn who_closes_or_is_not_there_is_told_apart() {
    // What was not read would make it a reset.
    let address = serve(|mut client| drop(client.read(&mut [0; 4096])));
    let parts = ["closed the connection in the middle of the handshake"];
    trouble(&format!("tls+{address}?verify=off"), "tls", "closed", 6, &parts);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let parts = ["nothing listens there", "in vain            127.0.0.1:"];
    let json = trouble(&format!("tcp://127.0.0.1:{port}"), "connect", "refused", 4, &parts);
    assert_eq!(json["connect"]["failed"][0]["peer"], format!("127.0.0.1:{port}"));
    trouble("unix:/nowhere/x.sock", "connect", "not-found", 4, &["no such file or socket"]);
    let parts = ["the name could not be resolved", "resolve "];
    trouble("tcp://nosuch.invalid:1", "resolve", "name", 3, &parts);
}

#[test]
fn a_step_that_takes_too_long_is_named_with_how_far_it_came() {
    let says = |text: &'static [u8]| {
        serve(move |mut client| {
            let _ = client.write_all(text);
            let _ = client.read_to_end(&mut Vec::new());
        })
    };
    let ws = |address: String| address.replace("tcp:", "ws:");
    for (layer, address, what) in [
        ("tls", format!("tls+{}?verify=off", says(b"")), "nothing came for tls"),
        ("ws", ws(says(b"")), "nothing came for ws"),
        ("ws", ws(says(b"HTTP/1.1 101 ")), "ws got half an answer"),
    ] {
        let outcome = run(&mut qio(["probe", "--timeout", "300ms", &address]), b"");
        assert_eq!(outcome.status, 5);
        let said = format!("{layer} failed: connected, but {what} within 300ms");
        assert!(outcome.text().contains(&said), "{}", outcome.text());
        let outcome = run(&mut qio(["probe", "--json", "--timeout", "300ms", &address]), b"");
        let json: Value = serde_json::from_str(outcome.text()).unwrap();
        assert_eq!(json["error"]["kind"], "timeout");
        assert_eq!(json["connect"]["ok"], true);
        assert!(json["layers"][0]["ms"].as_f64().unwrap() >= 200.0, "{json}");
        let asked = &json["layers"][0]["websocket"]["request"]["target"];
        assert!(layer != "ws" || asked == "/", "{json}");
    }
}

#[test]
fn a_server_of_openssl_is_understood() {
    if !is_installed("openssl") {
        return;
    }
    let world = World::new();
    world.issue(good());
    let [cert, key] = ["cert", "key"].map(|name| world.path(name).display().to_string());
    let ca = world.ca();
    for (options, address, kind, part) in [
        (
            &["-tls1_2", "-Verify", "1"][..],
            "localhost",
            "client-certificate",
            "wants a certificate",
        ),
        (&["-Verify", "1"], "localhost", "client-certificate", "alert certificate_required"),
        (
            &["-servername", "other.example", "-servername_fatal", "-cert2", &cert, "-key2", &key],
            "localhost",
            "sni",
            "it serves no host of that name",
        ),
    ] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-quiet", "-cert", &cert, "-key", &key, "-accept"]);
        server.arg(format!("127.0.0.1:{port}")).args(options);
        let _server = Running::start(server.stdin(Stdio::piped()).stdout(Stdio::null()));
        common::eventually("s_server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let address = format!("tls+tcp://{address}:{port}?{ca}");
        trouble(&address, "tls", kind, 6, &[part]);
    }
}

#[test]
fn an_attempt_that_is_repeated_shows_the_last_one_alone() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("tcp://127.0.0.1:{port}?retry=2");
    let json = trouble(&address, "connect", "refused", 4, &[]);
    assert_eq!(json["connect"]["failed"].as_array().unwrap().len(), 1);
}
