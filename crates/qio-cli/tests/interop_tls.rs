//! TLS with OpenSSL and GnuTLS at the other end, both ways.

mod common;

use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::foreign::{Credentials, End, Served, both_ways, connected, free_port, piped};
use common::{Running, eventually, is_installed, noise, qio, run};
use qio::ChannelExt;
use qio::layer::tls::{self, ClientSettings};
use qio::transport::Socket;
use qio::watch;
use qio_testkit::Job;

/// What a cut connection is called.
const CUT: &str = "tls: the peer left without close_notify";

fn tls_relay(credentials: &Credentials, options: &str) -> Served {
    let listen =
        format!("listen:tls+tcp://127.0.0.1:0?{}{options}", credentials.identity("server"));
    Served::start(&listen, &["--once"])
}

/// `openssl s_client` to a relay, transparent for all bytes.
fn s_client(served: &Served, credentials: &Credentials, args: &[&str]) -> Command {
    s_client_for("localhost", served, credentials, args)
}

fn s_client_for(name: &str, served: &Served, credentials: &Credentials, args: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", served.port())]);
    command.args(["-CAfile", &credentials.path("ca-cert.pem"), "-verify_return_error"]);
    command.args(["-verify_hostname", name, "-servername", name]);
    command.args(args);
    command
}

/// `openssl s_server` on a Unix socket, and the address for a client of qio.
fn s_server(credentials: &Credentials, args: &[&str]) -> (Running, String) {
    let socket = credentials.path("socket");
    let mut command = Command::new("openssl");
    command.args(["s_server", "-unix", &socket, "-unlink"]);
    command.args(["-cert", &credentials.path("server-cert.pem")]);
    command.args(["-key", &credentials.path("server-key.pem")]);
    let server = piped(command.args(args));
    (server, format!("tls+unix:{socket}?sni=localhost&retry=50&{}", credentials.ca()))
}

/// `gnutls-cli` to a relay, transparent for all bytes.
fn gnutls_cli(served: &Served, credentials: &Credentials, args: &[&str]) -> Command {
    let mut command = Command::new("gnutls-cli");
    command.arg(format!("--logfile={}", credentials.path("gnutls.log")));
    command.arg(format!("--x509cafile={}", credentials.path("ca-cert.pem")));
    command.args(["--port", &served.port().to_string()]).args(args).arg("localhost");
    command
}

/// `gnutls-serv`, which sends back each line.
fn gnutls_serv(credentials: &Credentials, args: &[&str]) -> (Running, String) {
    let port = free_port();
    let mut command = Command::new("gnutls-serv");
    command.args(["--echo", "--quiet", "--port", &port.to_string()]);
    for (key, name) in [
        ("x509certfile", "server-cert.pem"),
        ("x509keyfile", "server-key.pem"),
        ("x509cafile", "ca-cert.pem"),
    ] {
        command.arg(format!("--{key}={}", credentials.path(name)));
    }
    let server = piped(command.args(args));
    (server, format!("tls+tcp://localhost:{port}?retry=50&{}", credentials.ca()))
}

/// Runs `body` in each version of TLS, given as an option of the foreign program, if that is
/// installed.
fn in_each_version(program: &str, body: impl Fn(&Credentials, &str)) {
    if !is_installed(program) {
        return;
    }
    let credentials = Credentials::new();
    let versions = match program {
        "openssl" => ["-tls1_2", "-tls1_3"],
        _ => {
            ["--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2", "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.3"]
        }
    };
    for version in versions {
        body(&credentials, version);
    }
}

/// A foreign client of a relay, its end, and the end behind the relay.
fn visit(mut client: Command, served: &Served) -> (Running, End, End) {
    let mut client = piped(&mut client);
    let left = End::of(&mut client);
    (client, left, served.next())
}

/// `qio connect` to a foreign server, and the ends of both.
fn call(address: &str, server: &mut Running) -> (Running, End, End) {
    let mut client = connected(address);
    let left = End::of(&mut client);
    (client, left, End::of(server))
}

/// Why a relay and a foreign client come to no agreement, and what the client says.
fn refusal(mut client: Command, mut served: Served) -> (String, String) {
    let client = piped(&mut client);
    let failed = served.relay.event("handshake-failed");
    let error = failed["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("tls: "), "{failed}");
    let (status, said) = client.rest();
    assert_ne!(status, 0);
    (error.to_owned(), said.concat())
}

#[test]
fn megabytes_go_both_ways_between_a_client_of_openssl_and_both_ends_are_clean() {
    in_each_version("openssl", |credentials, version| {
        let mut served = tls_relay(credentials, "");
        let args = [version, "-quiet", "-nocommands", "-no_ign_eof"];
        let (mut client, left, right) = visit(s_client(&served, credentials, &args), &served);
        let (mut left, right) = both_ways(left, right);
        left.finish();
        assert!(right.rest().is_empty());
        let record = served.relay.event("connection");
        assert_eq!((&record["end"], &record["error"]), (&"finished".into(), &().into()));
        assert_eq!((served.relay.wait(), client.wait()), (0, 0), "{version}");
    });
}

#[test]
fn a_client_of_openssl_is_told_the_end_and_knows_a_cut() {
    in_each_version("openssl", |credentials, version| {
        let mut served = tls_relay(credentials, "");
        let (client, left, mut right) =
            visit(s_client(&served, credentials, &[version, "-quiet"]), &served);
        right.send(b"that was it");
        right.finish();
        assert_eq!(left.rest(), b"that was it");
        let (status, said) = client.rest();
        assert_eq!(status, 0, "{version}: {said:?}");
        assert!(!said.concat().contains("unexpected eof"), "{said:?}");
        assert_eq!(served.relay.wait(), 0);

        // Killed: nobody can say anything any more.
        let served = tls_relay(credentials, "");
        let (client, left, mut right) =
            visit(s_client(&served, credentials, &[version, "-quiet"]), &served);
        right.send(b"there is mo");
        let left = left.expect("there is mo");
        served.relay.signal(rustix::process::Signal::KILL);
        assert!(left.rest().is_empty());
        let (status, said) = client.rest();
        assert!(said.concat().contains("unexpected eof"), "{version}: {status} {said:?}");
    });
}

#[test]
fn megabytes_go_both_ways_between_a_server_of_openssl_and_both_ends_are_clean() {
    in_each_version("openssl", |credentials, version| {
        let (mut server, address) = s_server(credentials, &[version, "-quiet", "-naccept", "1"]);
        let (client, left, right) = call(&address, &mut server);
        let (mut left, right) = both_ways(left, right);
        // A farewell, and one in answer: a cut would be an error.
        left.finish();
        assert!(left.rest().is_empty());
        let (status, said) = client.rest();
        assert_eq!((status, said), (0, vec![]), "{version}");
        drop(right);
        assert_eq!(server.wait(), 0);
    });
}

#[test]
fn a_peer_of_openssl_that_is_killed_is_a_cut_and_no_end() {
    in_each_version("openssl", |credentials, version| {
        let (mut server, address) = s_server(credentials, &[version, "-quiet"]);
        let (client, left, mut right) = call(&address, &mut server);
        right.send(b"there is mo");
        let left = left.expect("there is mo");
        server.signal(rustix::process::Signal::KILL);
        assert!(left.rest().is_empty());
        let (status, said) = client.rest();
        assert_eq!(status, 1, "{version}: {said:?}");
        assert!(said.len() == 1 && said[0].ends_with(CUT), "{version}: {said:?}");

        let mut served = tls_relay(credentials, "");
        let (client, mut left, right) =
            visit(s_client(&served, credentials, &[version, "-quiet"]), &served);
        left.send(b"there is mo");
        let right = right.expect("there is mo");
        client.signal(rustix::process::Signal::KILL);
        right.rest();
        let record = served.relay.event("connection");
        assert_eq!((&record["end"], &record["ended_by"]), (&"failed".into(), &"peer".into()));
        assert_eq!(record["error"], CUT, "{version}");
        assert_eq!(served.relay.wait(), 1);
    });
}

#[test]
fn openssl_and_qio_show_each_other_certificates() {
    in_each_version("openssl", |credentials, version| {
        let ca = credentials.path("ca-cert.pem");
        let [cert, key] = ["client-cert.pem", "client-key.pem"].map(|name| credentials.path(name));
        let required = format!("&client-cert=required&{}&allow=*CN=ann*", credentials.ca());
        let mut served = tls_relay(credentials, &required);
        let args = [version, "-quiet", "-no_ign_eof", "-cert", &cert, "-key", &key];
        let (mut client, mut left, right) = visit(s_client(&served, credentials, &args), &served);
        left.send(b"it is me");
        left.finish();
        assert_eq!(right.rest(), b"it is me");
        assert_eq!((served.relay.wait(), client.wait()), (0, 0));

        // Without one, and with one of another authority.
        let [cert, key] = ["stranger-cert.pem", "stranger-key.pem"].map(|it| credentials.path(it));
        let own: [&[&str]; 2] = [&[], &["-cert", &cert, "-key", &key]];
        let reasons = ["the client has no certificate", "is not signed by an authority"];
        for (own, reason) in own.into_iter().zip(reasons) {
            let served = tls_relay(credentials, &required);
            let args = [&[version, "-quiet"], own].concat();
            let (error, _) = refusal(s_client(&served, credentials, &args), served);
            assert!(error.contains(reason), "{version}: {error}");
        }

        let ask = ["-Verify", "2", "-verify_return_error", "-CAfile", &ca];
        let args = [&[version, "-quiet"], &ask[..]].concat();
        let (mut server, address) = s_server(credentials, &args);
        let address_with = format!("{address}&{}", credentials.identity("client"));
        let (client, mut left, right) = call(&address_with, &mut server);
        left.send(b"it is me");
        let right = right.expect("it is me");
        left.finish();
        assert!(left.rest().is_empty());
        assert_eq!(client.rest(), (0, vec![]));
        // TLS 1.3 has the refusal come after the handshake: in the first read.
        let mut client = connected(&address);
        assert!(End::of(&mut client).rest().is_empty());
        let (status, said) = client.rest();
        assert_eq!(status, 6, "{version}: {said:?}");
        assert!(said.concat().contains("tls: the peer refuses: alert "), "{said:?}");
        drop(right);
    });
}

#[test]
fn names_protocols_and_versions_are_seen_at_both_ends() {
    if !is_installed("openssl") {
        return;
    }
    let credentials = Credentials::new();
    // As the server sees them.
    // It shows the name when it has a second certificate.
    let [cert, key] = ["other-cert.pem", "other-key.pem"].map(|name| credentials.path(name));
    let second = ["-servername", "other.example", "-cert2", &cert, "-key2", &key];
    let args = [&second[..], &["-alpn", "other,nbd", "-naccept", "1"]].concat();
    let (mut server, address) = s_server(&credentials, &args);
    let (mut client, mut left, right) =
        call(&format!("{address}&alpn=nbd&alpn=third&min=1.3"), &mut server);
    left.send(b"hello");
    left.finish();
    let seen = String::from_utf8(right.rest()).unwrap();
    assert!(seen.contains("Hostname in TLS extension: \"localhost\""), "{seen}");
    assert!(seen.contains("ALPN protocols selected: nbd"), "{seen}");
    // So are those of TLS 1.3 called.
    assert!(seen.contains("CIPHER is TLS_"), "{seen}");
    assert_eq!((client.wait(), server.wait()), (0, 0));

    // As the client sees them: the certificate is the one of the name that it asked for.
    let two = format!("&{}&alpn=nbd&alpn=http/1.1", credentials.identity("other"));
    for (name, subject) in [("localhost", "CN = server"), ("other.example", "CN = other")] {
        let served = tls_relay(&credentials, &two);
        let args = ["-alpn", "h2,http/1.1"];
        let outcome = run(&mut s_client_for(name, &served, &credentials, &args), b"");
        let seen = outcome.text();
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert!(seen.contains(subject) && seen.contains("ALPN protocol: http/1.1"), "{seen}");
    }
    // Whoever has no protocol in common is refused.
    let served = tls_relay(&credentials, "&alpn=nbd");
    let (_, said) = refusal(s_client(&served, &credentials, &["-alpn", "h2"]), served);
    assert!(said.contains("no application protocol"), "{said}");
}

#[test]
fn an_unknown_authority_and_a_wrong_name_are_refused_at_both_ends() {
    if !is_installed("openssl") {
        return;
    }
    let credentials = Credentials::new();
    let (_server, address) = s_server(&credentials, &["-quiet"]);
    let ask = |address: &str| run(&mut qio(["connect", address]), b"");

    let stranger = address.replace("ca-cert.pem", "stranger-ca-cert.pem");
    let outcome = ask(&stranger);
    assert_eq!(outcome.status, 6, "{outcome:?}");
    let text = "tls: the peer's certificate is not signed by an authority that is trusted";
    assert!(outcome.complaint().contains(text), "{outcome:?}");

    let outcome = ask(&address.replace("sni=localhost", "sni=ann.example"));
    assert_eq!(outcome.status, 6, "{outcome:?}");
    let text = "tls: the peer's certificate is not for ann.example, only for localhost";
    assert!(outcome.complaint().contains(text), "{outcome:?}");

    // And a client of OpenSSL that does not believe qio.
    let served = tls_relay(&credentials, "");
    let args = ["-CAfile", &credentials.path("stranger-ca-cert.pem")];
    let (error, _) = refusal(s_client(&served, &credentials, &args), served);
    assert!(error.starts_with("tls: the peer refuses: alert UnknownCA"), "{error}");
}

#[test]
fn sessions_of_openssl_are_resumed_and_resumed_by_it() {
    in_each_version("openssl", |credentials, version| {
        let session = credentials.path("session.pem");
        let listen = format!("listen:tls+tcp://127.0.0.1:0?{}", credentials.identity("server"));
        let served = Served::start(&listen, &[]);
        let mut how = Vec::new();
        for args in [["-sess_out", &session], ["-sess_in", &session]] {
            let args = [&[version, "-no_ign_eof"], &args[..]].concat();
            let (mut client, left, mut right) =
                visit(s_client(&served, credentials, &args), &served);
            // A ticket of TLS 1.3 comes before the first bytes.
            right.send(b"welcome\n");
            right.finish();
            let seen = String::from_utf8(left.rest()).unwrap();
            assert!(seen.contains("welcome"), "{seen}");
            let line =
                seen.lines().find(|it| it.starts_with("New, ") || it.starts_with("Reused, "));
            how.push(
                line.unwrap_or_else(|| panic!("{seen}")).split(',').next().unwrap().to_owned(),
            );
            client.wait();
        }
        assert_eq!(how, ["New", "Reused"], "{version}");

        let (_server, _) = s_server(credentials, &[version, "-quiet"]);
        let settings = ClientSettings::new().ca_file(credentials.path("ca-cert.pem"));
        let config = settings.build().unwrap();
        let socket = credentials.path("socket");
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let mut below = None;
            eventually("the server is there", || {
                below = UnixStream::connect(&socket).ok();
                below.is_some()
            });
            let below = Socket::from_fd(below.unwrap().into()).unwrap();
            let name = settings.server_name(Some("localhost")).unwrap();
            let handshake = tls::client(below, config.clone(), name, None).unwrap();
            let channel = Job::start(move || {
                let ControlFlow::Break(done) = watch::run(handshake, None).unwrap() else {
                    panic!("there is no deadline");
                };
                let channel = done.unwrap().into_layer(tls::NAME);
                channel.finish_all(None).unwrap();
                // Tickets come before the end.
                assert_eq!(channel.read(&mut [0]).unwrap(), 0);
                channel
            });
            resumed.push(channel.finish().with_engine(|engine| engine.facts().resumed));
        }
        assert_eq!(resumed, [false, true], "{version}");
    });
}

#[test]
fn keys_are_updated_as_openssl_asks() {
    if !is_installed("openssl") {
        return;
    }
    let credentials = Credentials::new();
    // Commands are the first letters of what is typed: K wants an update in answer, k does not.
    let served = tls_relay(&credentials, "");
    let args = ["-tls1_3", "-no_ign_eof", "-msg"];
    let (mut client, mut left, mut right) = visit(s_client(&served, &credentials, &args), &served);
    let mut seen = String::new();
    for (command, line) in [("k\n", "second\n"), ("K\n", "third\n"), ("K\n", "fourth\n")] {
        left.send(b"before\n");
        right = right.expect("before\n");
        left.send(command.as_bytes());
        while client.line() != "KEYUPDATE" {}
        left.send(line.as_bytes());
        right = right.expect(line);
        right.send(line.as_bytes());
        // One answer would do for several wishes.
        let (end, text) = left.until(line);
        left = end;
        seen += &text;
    }
    let updates = |from: &str| {
        let from = |line: &&str| line.starts_with(from) && line.ends_with("KeyUpdate");
        seen.lines().filter(from).count()
    };
    assert_eq!((updates(">>>"), updates("<<<")), (3, 2), "{seen}");

    let (mut server, address) = s_server(&credentials, &["-tls1_3", "-msg"]);
    let (client, mut left, mut right) = call(&address, &mut server);
    let mut seen = String::new();
    for line in ["first\n", "second\n", "third\n"] {
        right.send(line.as_bytes());
        left = left.expect(line);
        right.send(b"K\n");
        // It looks at what is typed before it looks at what comes.
        left.send(line.as_bytes());
        let (end, text) = right.until(line);
        right = end;
        seen += &text;
    }
    left.finish();
    assert!(left.rest().is_empty());
    assert_eq!(client.rest(), (0, vec![]));
    let asked = seen.matches(">>> TLS 1.3, Handshake [length 0005], KeyUpdate").count();
    let answered = seen.matches("<<< TLS 1.3, Handshake [length 0005], KeyUpdate").count();
    assert!(asked == 3 && (1..=3).contains(&answered), "{seen}");
}

#[test]
fn megabytes_go_both_ways_between_a_client_of_gnutls_and_both_ends_are_clean() {
    in_each_version("gnutls-cli", |credentials, version| {
        let mut served = tls_relay(credentials, "&alpn=nbd");
        let args = [version, "--alpn=nbd"];
        let (mut client, left, right) = visit(gnutls_cli(&served, credentials, &args), &served);
        let (mut left, right) = both_ways(left, right);
        left.finish();
        assert!(right.rest().is_empty());
        let record = served.relay.event("connection");
        assert_eq!((&record["end"], &record["error"]), (&"finished".into(), &().into()));
        assert_eq!((served.relay.wait(), client.wait()), (0, 0), "{version}");
        let log = std::fs::read_to_string(credentials.path("gnutls.log")).unwrap();
        assert!(log.contains("Application protocol: nbd"), "{log}");
        assert!(log.contains("- Peer has closed the GnuTLS connection"), "{log}");
    });
}

#[test]
fn certificates_are_shown_to_and_by_gnutls_and_a_killed_client_is_a_cut() {
    in_each_version("gnutls-cli", |credentials, version| {
        let own = |role: &str| {
            ["cert", "key"].map(|it| {
                format!("--x509{it}file={}", credentials.path(&format!("{role}-{it}.pem")))
            })
        };
        let required = format!("&client-cert=required&{}", credentials.ca());
        let mut served = tls_relay(credentials, &required);
        let [cert, key] = own("client");
        let args = [version, &cert, &key];
        let (client, mut left, right) = visit(gnutls_cli(&served, credentials, &args), &served);
        left.send(b"it is me");
        let right = right.expect("it is me");
        client.signal(rustix::process::Signal::KILL);
        right.rest();
        assert_eq!(served.relay.event("connection")["error"], CUT, "{version}");

        let served = tls_relay(credentials, &required);
        let (error, _) = refusal(gnutls_cli(&served, credentials, &[version]), served);
        assert!(error.starts_with("tls: the client has no certificate"), "{version}: {error}");

        // GnuTLS that does not believe qio says goodbye as if it had not understood, or just goes.
        let served = Served::start(
            &format!("listen:tls+tcp://127.0.0.1:0?{}", credentials.identity("stranger")),
            &["--once"],
        );
        refusal(gnutls_cli(&served, credentials, &[version]), served);
    });
}

#[test]
fn a_server_of_gnutls_sends_back_what_it_got_and_its_cut_is_seen() {
    in_each_version("gnutls-serv", |credentials, version| {
        let args = [version, "--require-client-cert", "--verify-client-cert"];
        let (mut server, address) = gnutls_serv(credentials, &args);
        let with = format!("{address}&{}", credentials.identity("client"));
        let mut client = connected(&with);
        let mut end = End::of(&mut client);
        // It reads text, a line at a time.
        for seed in 0..500 {
            let mut line: String = noise(490, seed).iter().map(|it| format!("{it:02x}")).collect();
            line.push('\n');
            end.send(line.as_bytes());
            end = end.expect(&line);
        }
        end.finish();
        assert!(end.rest().is_empty());
        assert_eq!(client.rest(), (0, vec![]), "{version}");

        let mut client = connected(&address);
        assert!(End::of(&mut client).rest().is_empty());
        let (status, said) = client.rest();
        assert_eq!(status, 6, "{version}: {said:?}");
        assert!(said.concat().contains("tls: the peer refuses: alert "), "{said:?}");

        let mut client = connected(&with);
        let mut end = End::of(&mut client);
        end.send(b"hello\n");
        let end = end.expect("hello\n");
        server.signal(rustix::process::Signal::KILL);
        assert_ne!(server.wait(), 0);
        assert!(end.rest().is_empty());
        let (status, said) = client.rest();
        assert!(status == 1 && said.concat().ends_with(CUT), "{version}: {status} {said:?}");
    });
}
