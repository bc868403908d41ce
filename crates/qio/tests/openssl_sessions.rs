//! Sessions of TLS by OpenSSL: who is let in, who is refused and what they are told. What is asked
//! here is what `tls_sessions.rs` asks of rustls.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use qio::error::Class;
use qio::layer::tls::openssl::{self, ClientContext, OpensslTls, ServerContext};
use qio::layer::tls::{
    self, Authorization, ClientCertificates, ClientSettings, Facts, Identity, Pattern, SelfSigned,
    ServerSettings, TlsError, Trust, Version,
};
use qio::layer::{Established, Layer};
use qio::transport::Socket;
use qio::watch::Steps;
use qio::{Channel, ChannelExt, ReadFlags, WriteFlags};
use qio_testkit::certs::{Authority, Issued, Wanted};
use qio_testkit::{resident_bytes, scope, soon};
use rustls::pki_types::ServerName;

type End = io::Result<Established<Socket, OpensslTls>>;

/// Tests here count descriptors: one at a time.
fn alone(body: impl FnOnce()) {
    scope(Duration::from_secs(120), |_| body());
}

fn finished<T>(mut steps: impl Steps<Output = io::Result<T>>) -> io::Result<T> {
    loop {
        let mut set = qio::watch::PollSet::new();
        match steps.step(Instant::now()) {
            Poll::Ready(result) => return result,
            Poll::Pending => steps.watch(&mut set),
        }
        set.poll(None).unwrap();
    }
}

fn named(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

/// A handshake of both sides for `host.example`, over a Unix socket.
fn shake(client: &Arc<ClientContext>, server: &Arc<ServerContext>) -> (End, End) {
    shake_for("host.example", client, server)
}

fn shake_for(name: &str, client: &Arc<ClientContext>, server: &Arc<ServerContext>) -> (End, End) {
    let (left, right) = Socket::pair().unwrap();
    let server = openssl::server(right, server, soon()).unwrap();
    let server = thread::spawn(move || finished(server));
    let client = finished(openssl::client(left, client, &named(name), soon()).unwrap());
    (client, server.join().unwrap())
}

type Connected = Layer<Socket, OpensslTls>;

fn connected(client: &Arc<ClientContext>, server: &Arc<ServerContext>) -> (Connected, Connected) {
    let (client, server) = shake(client, server);
    (client.unwrap().into_layer(tls::NAME), server.unwrap().into_layer(tls::NAME))
}

fn facts(client: &Arc<ClientContext>, server: &Arc<ServerContext>) -> (Facts, Facts) {
    let (client, server) = connected(client, server);
    // Tickets come behind the handshake.
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (client.with_engine(|tls| tls.facts()), server.with_engine(|tls| tls.facts()))
}

fn why<T>(result: io::Result<T>) -> TlsError {
    match result {
        Ok(_) => panic!("this was accepted"),
        Err(error) => match TlsError::find(&error) {
            Some(found) => found.clone(),
            None => panic!("not of TLS: {error:?}"),
        },
    }
}

/// The alert that a side was told, by its handshake or by what came behind it.
fn told(result: End) -> String {
    match result {
        Err(error) => TlsError::find(&error).unwrap().to_string(),
        // In TLS 1.3 a client is ready before the server has looked at its certificate.
        Ok(established) => {
            established.into_layer(tls::NAME).read(&mut [0]).unwrap_err().to_string()
        }
    }
}

struct World {
    authority: Authority,
    server: Issued,
    client: Issued,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("test authority");
        let server = authority.issue(Wanted::new("host", &["host.example", "192.0.2.1"]));
        let client = authority.issue(Wanted::new("alice", &["alice.example"]));
        Self { authority, server, client }
    }

    fn trust(&self) -> Trust {
        Trust::Pem(self.authority.certificate().into())
    }

    fn client(&self) -> ClientSettings {
        ClientSettings::new().trust(self.trust())
    }

    fn client_with_certificate(&self) -> ClientSettings {
        self.client().identity(identity(&self.client))
    }

    fn server(&self) -> ServerSettings {
        ServerSettings::new().identity(identity(&self.server))
    }

    fn server_that_asks(&self, ask: ClientCertificates) -> ServerSettings {
        self.server().trust(self.trust()).client_certificates(ask)
    }
}

fn identity(issued: &Issued) -> Identity {
    Identity::pem(issued.certificate.as_bytes(), issued.key.as_bytes())
}

fn serve(issued: &Issued) -> Arc<ServerContext> {
    ServerSettings::new().identity(identity(issued)).build_openssl().unwrap()
}

#[test]
fn both_sides_of_openssl_know_what_was_agreed_on() {
    alone(|| {
        let world = World::new();
        for (version, text) in [(Version::Tls12, "TLS 1.2"), (Version::Tls13, "TLS 1.3")] {
            let client = world.client_with_certificate().alpn(["nbd", "vnc"]).max_version(version);
            let server = world.server_that_asks(ClientCertificates::Required).alpn(["vnc"]);
            let (client, server) =
                facts(&client.build_openssl().unwrap(), &server.build_openssl().unwrap());
            for facts in [&client, &server] {
                assert_eq!(facts.version_text().unwrap(), text);
                assert!(facts.suite_text().unwrap().starts_with("TLS_"), "{facts:?}");
                assert_eq!(facts.alpn_text().unwrap(), "vnc");
                assert_eq!(facts.peer.as_ref().unwrap().issuer, "O=Example,CN=test authority");
                assert_eq!(facts.peer_certificates.len(), 1);
                assert!(!facts.resumed && facts.psk_user.is_none());
            }
            assert_eq!(client.peer_subject(), Some("O=Example,CN=host"));
            let fingerprint = identity(&world.server).certificate().unwrap().fingerprint;
            assert_eq!(client.peer_fingerprint(), Some(fingerprint));
            assert_eq!(client.server_name, None);
            assert_eq!(server.peer_subject(), Some("O=Example,CN=alice"));
            assert_eq!(server.server_name.as_deref(), Some("host.example"));
        }
    });
}

#[test]
fn versions_and_protocols_without_anything_in_common_are_refused() {
    alone(|| {
        let world = World::new();
        let old = world.client().max_version(Version::Tls12).build_openssl().unwrap();
        let new = world.server().min_version(Version::Tls13).build_openssl().unwrap();
        let (client, server) = shake(&old, &new);
        let text = why(client).to_string();
        assert!(text.contains("the peer refuses: alert ProtocolVersion"), "{text}");
        let text = why(server).to_string();
        assert!(text.contains("no version of TLS in common"), "{text}");
        let client = world.client().alpn(["nbd"]).build_openssl().unwrap();
        let server = world.server().alpn(["vnc"]).build_openssl().unwrap();
        let (client, server) = shake(&client, &server);
        assert!(why(client).to_string().contains("alert NoApplicationProtocol"));
        assert!(matches!(why(server), TlsError::Protocol(rustls::Error::NoApplicationProtocol)));
        let client = world.client().min_version(Version::Tls13).max_version(Version::Tls12);
        let error = client.build_openssl().unwrap_err();
        assert!(error.to_string().contains("the lowest version is above the highest"), "{error}");
    });
}

#[test]
fn openssl_refuses_bad_servers_in_the_words_of_rustls() {
    alone(|| {
        let world = World::new();
        let client = world.client().build_openssl().unwrap();
        let stranger = Authority::new("stranger").issue(Wanted::new("host", &["host.example"]));
        let (refused, server) = shake(&client, &serve(&stranger));
        let error = tls::handshake_error("connect", "tls:host", refused.err().unwrap());
        assert_eq!(error.class(), Class::Tls);
        assert_eq!(
            error.report().to_string(),
            "connect tls:host: tls: the peer's certificate is not signed by an authority that is \
             trusted (name the certificate of its authority, or pin its fingerprint)"
        );
        assert_eq!(why(server).to_string(), "tls: the peer refuses: alert UnknownCA");

        let wanted = Wanted::new("host", &["host.example"]).expired();
        let (refused, server) = shake(&client, &serve(&world.authority.issue(wanted)));
        let text = why(refused).to_string();
        assert!(text.starts_with("tls: the peer's certificate expired on 20"), "{text}");
        assert!(why(server).to_string().contains("alert CertificateExpired"));

        let server = world.server().build_openssl().unwrap();
        let (refused, told) = shake_for("other.example", &client, &server);
        assert_eq!(
            why(refused).to_string(),
            "tls: the peer's certificate is not for other.example, only for host.example, 192.0.2.1"
        );
        assert!(why(told).to_string().contains("alert BadCertificate"));
        shake_for("192.0.2.1", &client, &server).0.unwrap();
        let (refused, _) = shake_for("192.0.2.2", &client, &server);
        assert!(why(refused).to_string().contains("is not for 192.0.2.2, only for"));
    });
}

#[test]
fn a_common_name_is_looked_at_where_no_alternative_name_is_a_host() {
    alone(|| {
        let world = World::new();
        let client = world.client().build_openssl().unwrap();
        let server = serve(&world.authority.issue(Wanted::new("host.example", &[])));
        let (accepted, _) = shake(&client, &server);
        assert_eq!(accepted.unwrap().handshake().facts().peer.unwrap().names, []);
        let (refused, _) = shake_for("other.example", &client, &server);
        assert_eq!(
            why(refused).to_string(),
            "tls: the peer's certificate is not for other.example, only for the common name \
             host.example"
        );
        // With an alternative name, it does not count any more.
        let server = serve(&world.authority.issue(Wanted::new("host.example", &["x.example"])));
        let (refused, _) = shake(&client, &server);
        let text = why(refused).to_string();
        assert!(text.ends_with("not for host.example, only for x.example"), "{text}");
        // rustls says who does it.
        let certificate = world.authority.issue(Wanted::new("host.example", &[]));
        let server = ServerSettings::new().identity(identity(&certificate)).build().unwrap();
        let (left, right) = Socket::pair().unwrap();
        let server = tls::server(right, server, soon()).unwrap();
        let server = thread::spawn(move || finished(server).map(drop));
        let config = world.client().build().unwrap();
        let client = tls::client(left, config, named("host.example"), soon()).unwrap();
        let error = tls::handshake_error("connect", "x", finished(client).map(drop).unwrap_err());
        assert!(error.hint_text().unwrap().contains("feature \"openssl\""), "{error:?}");
        assert!(server.join().unwrap().is_err());
    });
}

#[test]
fn openssl_refuses_revoked_certificates_on_both_sides() {
    alone(|| {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crl.pem");
        fs::write(&path, world.authority.revoke(&[&world.server])).unwrap();
        let strict = world.client_with_certificate().crl_file(&path).build_openssl().unwrap();
        let easy = world.client_with_certificate().build_openssl().unwrap();
        let (client, server) = shake(&strict, &world.server().build_openssl().unwrap());
        assert_eq!(why(client).to_string(), "tls: the peer's certificate was revoked");
        assert!(why(server).to_string().contains("alert CertificateRevoked"));
        // Another one of the same authority is not.
        let other = world.authority.issue(Wanted::new("host", &["host.example"]));
        shake(&strict, &serve(&other)).0.unwrap();
        fs::write(&path, world.authority.revoke(&[&world.client])).unwrap();
        let server = world.server_that_asks(ClientCertificates::Required).crl_file(&path);
        let (client, server) = shake(&easy, &server.build_openssl().unwrap());
        assert_eq!(why(server).to_string(), "tls: the peer's certificate was revoked");
        assert!(told(client).contains("alert CertificateRevoked"));
        // The list of another authority says nothing about this one.
        fs::write(&path, Authority::new("other").revoke(&[&world.client])).unwrap();
        let server = world.server_that_asks(ClientCertificates::Required).crl_file(&path);
        shake(&easy, &server.build_openssl().unwrap()).1.unwrap();
        fs::write(&path, "nothing").unwrap();
        let error = world.client().crl_file(&path).build_openssl().unwrap_err();
        assert!(error.to_string().contains("crl.pem: there is no PEM in it"), "{error}");
    });
}

#[test]
fn openssl_has_client_certificates_off_optional_and_required() {
    alone(|| {
        let world = World::new();
        let with = world.client_with_certificate().build_openssl().unwrap();
        let without = world.client().build_openssl().unwrap();
        let asks = |ask| world.server_that_asks(ask).build_openssl().unwrap();
        let required = asks(ClientCertificates::Required);
        assert!(facts(&with, &required).1.peer.is_some());
        let (client, server) = shake(&without, &required);
        assert_eq!(why(server).to_string(), "tls: the client has no certificate");
        let alert = told(client);
        assert!(alert.contains("alert CertificateRequired"), "{alert}");
        let optional = asks(ClientCertificates::Optional);
        assert!(facts(&with, &optional).1.peer.is_some());
        assert!(facts(&without, &optional).1.peer.is_none());
        // What is shown must be good.
        let stranger = Authority::new("stranger").issue(Wanted::new("bob", &[]));
        let stranger = world.client().identity(identity(&stranger)).build_openssl().unwrap();
        assert!(why(shake(&stranger, &optional).1).to_string().contains("not signed by"));
        let off = world.server().build_openssl().unwrap();
        assert!(facts(&with, &off).1.peer.is_none());
    });
}

#[test]
fn rules_hold_with_openssl_on_both_sides() {
    alone(|| {
        let world = World::new();
        let alice = world.client_with_certificate().build_openssl().unwrap();
        let nobody = world.client().build_openssl().unwrap();
        let rules = Authorization::deny_others()
            .allow_subject(Pattern::exact("O=Example,CN=alice"))
            .allow_name(Pattern::glob("DNS:*.inside.example"));
        let server = world.server_that_asks(ClientCertificates::Optional).authorization(rules);
        let server = server.build_openssl().unwrap();
        shake(&alice, &server).1.unwrap();
        // Who shows nothing cannot be allowed, though a certificate is optional.
        assert!(why(shake(&nobody, &server).1).to_string().contains("has no certificate"));
        let bob = world.authority.issue(Wanted::new("bob", &["bob.example"]));
        for version in [Version::Tls12, Version::Tls13] {
            let bob = world.client().identity(identity(&bob)).max_version(version);
            let (client, refused) = shake(&bob.build_openssl().unwrap(), &server);
            let error = tls::handshake_error("accept", "tls:x", refused.err().unwrap());
            let expected = "accept tls:x: tls: O=Example,CN=bob (DNS:bob.example) is not allowed";
            assert_eq!(error.report().to_string(), expected);
            // OpenSSL has no other word for it.
            let alert = told(client);
            assert!(alert.contains("alert HandshakeFailure"), "{alert}");
        }
        let rules = Authorization::deny_others().allow_subject(Pattern::glob("*CN=other"));
        let client = world.client().authorization(rules).build_openssl().unwrap();
        let (client, _) = shake(&client, &world.server().build_openssl().unwrap());
        assert!(matches!(why(client), TlsError::Denied(_)));
    });
}

#[test]
fn a_pin_stands_for_everything_with_openssl_too() {
    alone(|| {
        let made = SelfSigned::generate(["elsewhere.example"]).unwrap();
        let server = ServerSettings::new().identity(made.identity()).build_openssl().unwrap();
        let pinned = ClientSettings::new().pin([7; 32].into()).pin(made.fingerprint());
        let (client, _) = shake(&pinned.build_openssl().unwrap(), &server);
        client.unwrap();
        let other = ClientSettings::new().pin([7; 32].into()).build_openssl().unwrap();
        let text = why(shake(&other, &server).0).to_string();
        assert!(text.contains(&made.fingerprint().to_string()), "{text}");
        let anybody = ClientSettings::new().trust(Trust::Anybody).build_openssl().unwrap();
        shake(&anybody, &server).0.unwrap();
        // Clients can be pinned, too.
        let key = SelfSigned::generate(["client"]).unwrap();
        let asks = ServerSettings::new()
            .identity(made.identity())
            .pin(key.fingerprint())
            .client_certificates(ClientCertificates::Required)
            .build_openssl()
            .unwrap();
        let client = pinned.clone().identity(key.identity()).build_openssl().unwrap();
        shake(&client, &asks).1.unwrap();
        let client = pinned.identity(made.identity()).build_openssl().unwrap();
        assert!(matches!(why(shake(&client, &asks).1), TlsError::Unpinned(_)));
    });
}

#[test]
fn openssl_shows_the_identity_with_the_name() {
    alone(|| {
        let world = World::new();
        let more = [
            world.authority.issue(Wanted::new("second", &["second.example"])),
            world.authority.issue(Wanted::new("star", &["*.star.example"])),
        ];
        let server =
            more.iter().fold(world.server(), |server, more| server.identity(identity(more)));
        let server = server.build_openssl().unwrap();
        for version in [Version::Tls12, Version::Tls13] {
            let client = world.client().max_version(version).build_openssl().unwrap();
            for (name, subject) in [
                ("second.example", "O=Example,CN=second"),
                ("x.star.example", "O=Example,CN=star"),
                ("host.example", "O=Example,CN=host"),
                ("192.0.2.1", "O=Example,CN=host"),
            ] {
                let shown = shake_for(name, &client, &server).0.unwrap().handshake().facts();
                assert_eq!(shown.peer_subject(), Some(subject), "{name}");
            }
        }
        let silent = ClientSettings::new().trust(Trust::Anybody).sni(false);
        let silent = silent.build_openssl().unwrap();
        let shown = shake_for("second.example", &silent, &server).0.unwrap().handshake().facts();
        assert_eq!(shown.peer_subject(), Some("O=Example,CN=host"));
        let several = world.client_with_certificate().identity(identity(&world.server));
        let error = several.build_openssl().unwrap_err();
        assert!(error.to_string().contains("a client of OpenSSL shows one certificate"), "{error}");
    });
}

#[test]
fn clients_of_rustls_resume_the_sessions_of_openssl() {
    alone(|| {
        let world = World::new();
        for version in [Version::Tls12, Version::Tls13] {
            let client = world.client_with_certificate().max_version(version).build().unwrap();
            let server = world.server_that_asks(ClientCertificates::Required);
            let silent = server.clone().resumption(false).build_openssl().unwrap();
            let server = server.build_openssl().unwrap();
            let resumed = |server: &Arc<ServerContext>| {
                let (left, right) = Socket::pair().unwrap();
                let shaking = openssl::server(right, server, soon()).unwrap();
                let thread = thread::spawn(move || finished(shaking).unwrap());
                let name = named("host.example");
                let shaking = tls::client(left, Arc::clone(&client), name, soon()).unwrap();
                let client = finished(shaking).unwrap().into_layer(tls::NAME);
                let server = thread.join().unwrap().into_layer(tls::NAME);
                server.write_all(b"x").unwrap();
                client.read_exact(&mut [0]).unwrap();
                let facts = server.with_engine(|tls| tls.facts());
                // Who the peer is stays known.
                assert_eq!(facts.peer_subject(), Some("O=Example,CN=alice"));
                assert_eq!(facts.server_name.as_deref(), Some("host.example"));
                assert_eq!(client.with_engine(|tls| tls.facts()).resumed, facts.resumed);
                facts.resumed
            };
            assert!(!resumed(&server));
            assert!(resumed(&server), "{version:?}");
            assert!(!resumed(&silent));
            assert!(!resumed(&silent), "{version:?}");
        }
    });
}

#[test]
fn a_reload_of_keys_changes_new_connections_and_no_other() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys.psk");
        let [old, new] = ["11", "22"].map(|byte| format!("qemu:{}\n", byte.repeat(32)));
        fs::write(&keys, &old).unwrap();
        let server = ServerSettings::new().directory(dir.path()).reloadable_openssl().unwrap();
        let client = ClientSettings::new().directory(dir.path());
        let (left, right) = connected(&client.build_openssl().unwrap(), &server.current());
        assert_eq!(right.with_engine(|tls| tls.facts()).psk_user.as_deref(), Some("qemu"));
        assert_eq!(left.with_engine(|tls| tls.facts()).psk_user.as_deref(), Some("qemu"));
        fs::write(&keys, &new).unwrap();
        let client = client.build_openssl().unwrap();
        assert!(matches!(why(shake(&client, &server.current()).1), TlsError::WrongKey));
        server.reload().unwrap();
        shake(&client, &server.current()).1.unwrap();
        fs::write(&keys, "qemu").unwrap();
        let error = server.reload().unwrap_err();
        assert!(error.to_string().contains("keys.psk, line 1: there is no colon"), "{error}");
        shake(&client, &server.current()).1.unwrap();
        left.write_all(b"still here").unwrap();
        right.read_exact(&mut [0; 10]).unwrap();
    });
}

/// In TLS 1.3 who stands between the two sides could pass over the key, and show a certificate of
/// its own.
#[test]
fn a_server_that_passes_over_the_key_is_refused_whatever_it_shows() {
    alone(|| {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys.psk");
        fs::write(&keys, format!("qemu:{}\n", "1f".repeat(16))).unwrap();
        let client = ClientSettings::new().psk_file(&keys);
        let made = SelfSigned::generate(["host.example"]).unwrap();
        let servers = [world.server(), ServerSettings::new().identity(made.identity())];
        for server in servers {
            for version in [Version::Tls12, Version::Tls13] {
                let client = client.clone().max_version(version).build_openssl().unwrap();
                let (refused, server) = shake(&client, &server.build_openssl().unwrap());
                let text = why(refused).to_string();
                match version {
                    Version::Tls13 => {
                        assert!(text.contains("shows a certificate instead of knowing"), "{text}");
                    }
                    _ => assert!(text.contains("alert HandshakeFailure"), "{text}"),
                }
                assert!(server.is_err() || told(server).contains("alert"));
            }
        }
        // Nor is an anonymous client taken in by a certificate, or somebody with a key by nobody.
        let anonymous = ClientSettings::new().anonymous(true).build_openssl().unwrap();
        why(shake(&anonymous, &world.server().build_openssl().unwrap()).0);
        let nobody = ServerSettings::new().anonymous(true).build_openssl().unwrap();
        why(shake(&client.build_openssl().unwrap(), &nobody).0);
        let knows = ServerSettings::new().psk_file(&keys).build_openssl().unwrap();
        why(shake(&anonymous, &knows).1);
        why(shake(&world.client().build_openssl().unwrap(), &knows).1);
    });
}

#[test]
fn credentials_that_contradict_each_other_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.psk");
    fs::write(&keys, format!("alice:{}\nbob:{}\n", "1f".repeat(16), "2f".repeat(16))).unwrap();
    let client = ClientSettings::new;
    let psk = || client().psk_file(&keys);
    for (settings, reason) in [
        (psk().anonymous(true), "a session with pre-shared keys (PSK) is not anonymous"),
        (psk().directory(dir.path()), "pre-shared keys (PSK) are named twice"),
        (psk().ca_file("/x"), "with pre-shared keys (PSK) there are no certificates"),
        (client().anonymous(true).ca_file("/x"), "an anonymous session has no certificates"),
        (
            client().anonymous(true).min_version(Version::Tls13),
            "an anonymous session is one of TLS 1.2",
        ),
        (client().psk_user("x"), "there is a user, but no pre-shared key"),
        (psk(), "keys.psk: there is no key for the user qemu (there are keys for alice, bob)"),
        (psk().psk_user("x".repeat(129)), "a user has at most 128 bytes"),
        (client().psk_file("/no/keys"), "read /no/keys: no such file"),
    ] {
        let error = settings.build_openssl().unwrap_err();
        let text = error.report().to_string();
        assert!(text.contains(reason), "{text}\ninstead of\n{reason}");
        assert!(!format!("{text}{error:?}{settings:?}").contains("1f1f"));
    }
    let server = ServerSettings::new().psk_file(&keys);
    let error = server.client_certificates(ClientCertificates::Required).build_openssl();
    assert!(error.unwrap_err().to_string().contains("clients have no certificates"));
    // rustls names who can do it.
    for (result, what) in [
        (psk().build().map(drop), "rustls has no pre-shared keys (PSK)"),
        (client().anonymous(true).build().map(drop), "rustls has no anonymous sessions"),
        (ServerSettings::new().psk_file(&keys).build().map(drop), "rustls has no pre-shared keys"),
        (
            ServerSettings::new().directory(dir.path()).build().map(drop),
            "rustls has no pre-shared keys (PSK)",
        ),
    ] {
        let text = result.unwrap_err().report().to_string();
        assert!(text.contains(what) && text.contains("feature \"openssl\""), "{text}");
    }
}

#[test]
fn an_end_of_openssl_without_close_notify_is_an_error_unless_relaxed() {
    alone(|| {
        let world = World::new();
        let client = world.client().build_openssl().unwrap();
        let server = world.server().build_openssl().unwrap();
        let (left, right) = connected(&client, &server);
        left.write_all(b"x").unwrap();
        left.finish().unwrap();
        right.read_exact(&mut [0]).unwrap();
        assert_eq!(right.read(&mut [0]).unwrap(), 0);
        // The other direction goes on.
        right.write_all(b"y").unwrap();
        left.read_exact(&mut [0]).unwrap();
        let (left, right) = connected(&client, &server);
        left.inner().unwrap().shutdown(Shutdown::Write).unwrap();
        let error = right.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("without close_notify"), "{error}");
        let mut byte = [0];
        let bufs = &mut [io::IoSliceMut::new(&mut byte)];
        assert_eq!(right.read_with(bufs, ReadFlags::RELAXED_EOF, None).unwrap(), 0);
    });
}

#[test]
fn fifty_vectors_of_a_byte_are_one_record_of_openssl() {
    alone(|| {
        let world = World::new();
        let (left, right) = UnixStream::pair().unwrap();
        let wire = right.try_clone().unwrap();
        let [left, right] =
            [left, right].map(|stream| Socket::from_fd(OwnedFd::from(stream)).unwrap());
        let client = world.client().build_openssl().unwrap();
        let server = world.server().build_openssl().unwrap();
        let server = openssl::server(right, &server, soon()).unwrap();
        let server = thread::spawn(move || finished(server).unwrap().into_layer(tls::NAME));
        let client = openssl::client(left, &client, &named("host.example"), soon()).unwrap();
        let client = finished(client).unwrap().into_layer(tls::NAME);
        let server = server.join().unwrap();
        assert_eq!(rustix::io::ioctl_fionread(&wire).unwrap(), 0);
        let bytes: Vec<[u8; 1]> = (0..50).map(|byte| [byte]).collect();
        let bufs: Vec<_> = bytes.iter().map(|byte| IoSlice::new(byte)).collect();
        assert_eq!(client.write_with(&bufs, WriteFlags::empty(), &[]).unwrap(), 50);
        // Header, the bytes, their type, the tag: RFC 8446, section 5.2.
        assert_eq!(rustix::io::ioctl_fionread(&wire).unwrap(), 5 + 50 + 1 + 16);
        let mut read = [0; 50];
        server.read_exact(&mut read).unwrap();
        assert!(read.iter().copied().eq(0..50));
    });
}

#[test]
fn openssl_tells_peers_without_tls_apart_and_stalls_end_at_the_deadline() {
    alone(|| {
        let world = World::new();
        let server = world.server().build_openssl().unwrap();
        let raw = || {
            let (left, right) = UnixStream::pair().unwrap();
            (Socket::from_fd(OwnedFd::from(left)).unwrap(), right)
        };
        for (sent, shown) in [("GET / HTTP/1.1\r\n\r\n", r"GET / HTTP/1.1\r\n\r\n"), ("x", "x")] {
            let (right, mut plain) = raw();
            plain.write_all(sent.as_bytes()).unwrap();
            let text = why(finished(openssl::server(right, &server, soon()).unwrap())).to_string();
            assert_eq!(text, format!("tls: the peer does not speak TLS (it sent: {shown})"));
            let mut answer = Vec::new();
            let _ = plain.read_to_end(&mut answer);
            assert!(answer.len() <= 7, "{answer:?}");
        }
        let (right, plain) = raw();
        drop(plain);
        let refused = finished(openssl::server(right, &server, soon()).unwrap());
        assert!(matches!(why(refused), TlsError::Unfinished));
        let (right, mut slow) = raw();
        slow.write_all(&[22, 3, 1, 2, 0]).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let stalled = finished(openssl::server(right, &server, Some(deadline)).unwrap());
        assert_eq!(stalled.err().unwrap().kind(), ErrorKind::TimedOut);
        assert!(Instant::now() >= deadline);
    });
}

#[test]
fn handshakes_of_openssl_that_fail_leave_nothing_behind() {
    scope(Duration::from_secs(600), |ledger| {
        let world = World::new();
        let stranger = Authority::new("stranger").issue(Wanted::new("host", &["host.example"]));
        let client = world.client().build_openssl().unwrap();
        let servers = [
            serve(&stranger),
            world.server_that_asks(ClientCertificates::Required).build_openssl().unwrap(),
        ];
        let fail = |count: usize| {
            for index in 0..count {
                let (_, refused) = shake(&client, &servers[index % 2]);
                assert!(refused.is_err());
            }
        };
        fail(200);
        ledger.check_closed();
        let before = resident_bytes();
        fail(400);
        ledger.check_closed();
        let grown = resident_bytes().saturating_sub(before);
        // 4 KiB each would be seen; the allocator has its moods below.
        assert!(grown < 1 << 20, "{grown} bytes more after 400 handshakes");
    });
}

#[test]
fn dropping_a_handshake_of_openssl_at_any_step_leaks_nothing() {
    scope(Duration::from_secs(300), |ledger| {
        let world = World::new();
        let client = world.client_with_certificate().build_openssl().unwrap();
        let server = world.server_that_asks(ClientCertificates::Required);
        let server = server.build_openssl().unwrap();
        for leaves in [true, false] {
            let mut longest = 0;
            // Until both are done before the drop.
            for steps in 0.. {
                let (left, right) = Socket::pair().unwrap();
                let name = named("host.example");
                let mut sides = [
                    Some(openssl::client(left, &client, &name, soon()).unwrap()),
                    Some(openssl::server(right, &server, soon()).unwrap()),
                ];
                let mut done = false;
                for step in 0..steps {
                    let side = sides[step % 2].as_mut().unwrap();
                    if let Poll::Ready(result) = side.step(Instant::now()) {
                        drop(result.unwrap());
                        done = true;
                        break;
                    }
                }
                // Who is left is told by the end of the channel.
                drop(sides[usize::from(leaves)].take());
                if !done {
                    let mut rest = sides[usize::from(!leaves)].take().unwrap();
                    let step = rest.step(Instant::now());
                    assert!(matches!(step, Poll::Ready(_)), "a side waits for who is gone");
                }
                longest = steps;
                if done {
                    break;
                }
            }
            assert!(longest >= 3, "{longest} steps are no handshake");
            ledger.check_closed();
        }
    });
}

#[test]
fn keys_are_logged_when_they_are_asked_for_and_only_then() {
    // The variable is the process's: tests of this file that follow see it, and do not ask.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.log");
    if std::env::var_os("SSLKEYLOGFILE").is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "keys_are_logged_when_they_are_asked_for_and_only_then"])
            .env("SSLKEYLOGFILE", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("SERVER_TRAFFIC_SECRET_0 "), "{text}");
        return;
    }
    let log = std::path::PathBuf::from(std::env::var_os("SSLKEYLOGFILE").unwrap());
    let world = World::new();
    let server = world.server().build_openssl().unwrap();
    facts(&world.client().build_openssl().unwrap(), &server);
    assert!(!log.exists());
    facts(&world.client().key_log(true).build_openssl().unwrap(), &server);
    assert!(log.exists());
}
