//! The questions of both, asked of OpenSSL; and what it alone has: common names, pre-shared keys,
//! anonymous sessions.

use std::fs;

use qio::ChannelExt;
use qio::layer::tls::{
    self, ClientCertificates, ClientSettings, SelfSigned, ServerSettings, TlsError, Version,
};
use qio_testkit::certs::Wanted;

use crate::engine::{Engine, Openssl};
use crate::world::{HOST, World, alone, connected, identity, serve, shake, shake_for, told, why};

questions!(Openssl);

#[test]
fn a_common_name_is_looked_at_where_no_alternative_name_is_a_host() {
    alone(|| {
        let world = World::new();
        let client = world.client().build_openssl().unwrap();
        let server = Openssl::server(&serve(&world.authority.issue(Wanted::new(HOST, &[]))));
        let (accepted, _) = shake(&client, &server);
        assert_eq!(accepted.unwrap().handshake().facts().peer.unwrap().names, []);
        let (refused, _) = shake_for("other.example", &client, &server);
        assert_eq!(
            why(refused).to_string(),
            "tls: the peer's certificate is not for other.example, only for the common name \
             host.example"
        );
        // With an alternative name, it does not count any more.
        let server =
            Openssl::server(&serve(&world.authority.issue(Wanted::new(HOST, &["x.example"]))));
        let (refused, _) = shake(&client, &server);
        let text = why(refused).to_string();
        assert!(text.ends_with("not for host.example, only for x.example"), "{text}");
        // rustls says who does it.
        let server = serve(&world.authority.issue(Wanted::new(HOST, &[])));
        let (refused, server) = shake(&world.client().build().unwrap(), &server.build().unwrap());
        let error = tls::handshake_error("connect", "x", refused.err().unwrap());
        assert!(error.hint_text().unwrap().contains("feature \"openssl\""), "{error:?}");
        assert!(server.is_err());
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
        let made = SelfSigned::generate([HOST]).unwrap();
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
fn a_client_of_openssl_shows_one_certificate() {
    let world = World::new();
    let several = world.client_with_certificate().identity(identity(&world.server));
    let error = several.build_openssl().unwrap_err();
    assert!(error.to_string().contains("a client of OpenSSL shows one certificate"), "{error}");
}
