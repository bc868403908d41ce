//! The life of a session: what is agreed on, resumed, renewed, sent and logged.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use qio::layer::tls::{
    self, ClientCertificates, Identity, ServerSettings, TlsError, TrustedBy, Version,
};
use qio::transport::Socket;
use qio::{ChannelExt, WriteFlags};
use qio_testkit::certs::{Issued, Wanted};
use rustls::ClientConfig;

use crate::engine::{Client, Engine, Server, Session};
use crate::world::{HOST, World, connected, facts, identity, shake, shake_over, why};

pub(crate) fn both_sides_know_what_was_agreed_on<E: Engine>() {
    let world = World::new();
    for (version, text) in [(Version::Tls12, "TLS 1.2"), (Version::Tls13, "TLS 1.3")] {
        let client = world.client_with_certificate().alpn(["nbd", "vnc"]).max_version(version);
        let server = world.server_that_asks(ClientCertificates::Required).alpn(["vnc"]);
        let (client, server) = facts(&E::client(&client), &E::server(&server));
        for facts in [&client, &server] {
            assert_eq!(facts.version_text().unwrap(), text);
            assert!(facts.suite_text().unwrap().starts_with("TLS_"), "{facts:?}");
            assert_eq!(facts.alpn_text().unwrap(), "vnc");
            assert_eq!(facts.peer.as_ref().unwrap().issuer, "O=Example,CN=test authority");
            assert_eq!(facts.peer_certificates.len(), 1);
            assert_eq!(facts.trusted_by, Some(TrustedBy::Authority));
            assert!(!facts.knows_revoked && !facts.resumed && facts.psk_user.is_none());
        }
        assert_eq!(client.peer_subject(), Some("O=Example,CN=host"));
        let names = client.peer.as_ref().unwrap().names.iter().map(ToString::to_string);
        assert_eq!(names.collect::<Vec<_>>(), ["DNS:host.example", "IP:192.0.2.1"]);
        let fingerprint = identity(&world.server).certificate().unwrap().fingerprint;
        assert_eq!(client.peer_fingerprint(), Some(fingerprint));
        assert_eq!(client.server_name.as_deref(), E::CLIENT_REMEMBERS.then_some(HOST));
        assert_eq!(client.is_asked_for_certificate, E::CLIENT_REMEMBERS);
        assert_eq!(client.shows_certificate, E::CLIENT_REMEMBERS);
        assert_eq!(server.peer_subject(), Some("O=Example,CN=alice"));
        assert_eq!(server.server_name.as_deref(), Some(HOST));
    }
}

pub(crate) fn versions_can_be_limited_on_either_side<E: Engine>() {
    let world = World::new();
    let old = E::client(&world.client().max_version(Version::Tls12));
    let (client, _) = facts(&old, &E::server(&world.server()));
    assert_eq!(client.version_text().unwrap(), "TLS 1.2");
    assert!(client.suite_text().unwrap().starts_with("TLS_ECDHE"), "{client:?}");
    let new = E::server(&world.server().min_version(Version::Tls13));
    let (client, _) = facts(&E::client(&world.client()), &new);
    assert_eq!(client.version_text().unwrap(), "TLS 1.3");
}

pub(crate) fn versions_and_protocols_without_anything_in_common_are_refused<E: Engine>() {
    let world = World::new();
    let old = E::client(&world.client().max_version(Version::Tls12));
    let new = E::server(&world.server().min_version(Version::Tls13));
    let (client, server) = shake(&old, &new);
    let text = why(client).to_string();
    assert!(text.contains("the peer refuses: alert ProtocolVersion"), "{text}");
    let text = why(server).to_string();
    assert!(text.contains(E::TOO_OLD), "{text}");
    for version in [Version::Tls12, Version::Tls13] {
        let client = E::client(&world.client().alpn(["nbd"]).max_version(version));
        let server = E::server(&world.server().alpn(["vnc"]));
        let (client, server) = shake(&client, &server);
        assert!(why(client).to_string().contains("alert NoApplicationProtocol"));
        assert!(matches!(why(server), TlsError::Protocol(rustls::Error::NoApplicationProtocol)));
    }
    let client = world.client().min_version(Version::Tls13).max_version(Version::Tls12);
    let error = E::Client::build(&client).err().unwrap();
    assert!(error.to_string().contains("the lowest version is above the highest"), "{error}");
}

/// The client is one of rustls: those of OpenSSL do not resume.
pub(crate) fn the_second_connection_resumes_the_session_of_the_first<E: Engine>() {
    let world = World::new();
    for version in [Version::Tls12, Version::Tls13] {
        let client = world.client_with_certificate().max_version(version);
        let server = world.server_that_asks(ClientCertificates::Required);
        let on = ClientConfig::build(&client).unwrap();
        let off = ClientConfig::build(&client.resumption(false)).unwrap();
        let silent = E::server(&server.clone().resumption(false));
        let server = E::server(&server);
        assert!(!facts(&on, &server).0.resumed);
        let (left, right) = facts(&on, &server);
        assert!(left.resumed && right.resumed, "{version:?}");
        // Who the peer is stays known.
        assert_eq!(left.peer_subject(), Some("O=Example,CN=host"));
        assert_eq!(right.peer_subject(), Some("O=Example,CN=alice"));
        assert_eq!(right.server_name.as_deref(), Some(HOST));
        for (client, server) in [(&off, &server), (&on, &silent)] {
            facts(client, server);
            let (left, right) = facts(client, server);
            assert!(!left.resumed && !right.resumed, "{version:?}");
        }
    }
}

pub(crate) fn a_reload_changes_new_connections_and_no_other<E: Engine>() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let install = |issued: &Issued| {
        fs::write(&certificate, &issued.certificate).unwrap();
        fs::write(&key, &issued.key).unwrap();
    };
    install(&world.server);
    let server = ServerSettings::new().identity(Identity::files(&certificate, &key));
    let server = E::Server::reloadable(server).unwrap();
    let client = E::client(&world.client());
    let shown = || facts(&client, &server.current()).0.peer.unwrap().subject;
    let (left, right) = connected(&client, &server.current());
    assert_eq!(shown(), "O=Example,CN=host");
    install(&world.authority.issue(Wanted::new("renewed", &[HOST])));
    // Not before it is asked for.
    assert_eq!(shown(), "O=Example,CN=host");
    server.reload().unwrap();
    assert_eq!(shown(), "O=Example,CN=renewed");
    fs::write(&certificate, "nothing").unwrap();
    let error = server.reload().unwrap_err();
    assert!(error.to_string().contains("cert.pem: there is no PEM in it"), "{error}");
    assert_eq!(shown(), "O=Example,CN=renewed");
    left.write_all(b"still here").unwrap();
    right.read_exact(&mut [0; 10]).unwrap();
    assert_eq!(left.with_engine(|tls| tls.facts()).peer_subject(), Some("O=Example,CN=host"));
}

pub(crate) fn fifty_vectors_of_a_byte_are_one_record<E: Engine>() {
    let world = World::new();
    let (left, right) = UnixStream::pair().unwrap();
    let wire = right.try_clone().unwrap();
    let [left, right] = [left, right].map(|end| Socket::from_fd(OwnedFd::from(end)).unwrap());
    let client = E::client(&world.client());
    let (client, server) = shake_over((left, right), HOST, &client, &E::server(&world.server()));
    let client = client.unwrap().into_layer(tls::NAME);
    let server = server.unwrap().into_layer(tls::NAME);
    assert_eq!(rustix::io::ioctl_fionread(&wire).unwrap(), 0);
    let bytes: Vec<[u8; 1]> = (0..50).map(|byte| [byte]).collect();
    let bufs: Vec<_> = bytes.iter().map(|byte| IoSlice::new(byte)).collect();
    assert_eq!(client.write_with(&bufs, WriteFlags::empty(), &[]).unwrap(), 50);
    // Header, the bytes, their type, the tag: RFC 8446, section 5.2.
    assert_eq!(rustix::io::ioctl_fionread(&wire).unwrap(), 5 + 50 + 1 + 16);
    let mut read = [0; 50];
    server.read_exact(&mut read).unwrap();
    assert!(read.iter().copied().eq(0..50));
}

pub(crate) fn keys_are_logged_when_they_are_asked_for_and_only_then<E: Engine>() {
    const NAME: &str = "keys_are_logged_when_they_are_asked_for_and_only_then";
    let Some(log) = env::var_os("SSLKEYLOGFILE") else {
        // The variable is the process's.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.log");
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", &format!("{}::{NAME}", E::MODULE)])
            .env("SSLKEYLOGFILE", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("SERVER_TRAFFIC_SECRET_0 "), "{text}");
        return;
    };
    let log = PathBuf::from(log);
    let world = World::new();
    let server = E::server(&world.server());
    facts(&E::client(&world.client()), &server);
    assert!(!log.exists());
    facts(&E::client(&world.client().key_log(true)), &server);
    assert!(log.exists());
}
