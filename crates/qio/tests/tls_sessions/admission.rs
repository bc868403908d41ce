//! Who is let in, who is refused and what they are told.

use std::fs;
use std::sync::Arc;

use qio::error::Class;
use qio::layer::tls::{
    self, Authorization, ClientCertificates, ClientSettings, Pattern, SelfSigned, ServerSettings,
    TlsError, Trust, Version,
};
use qio_testkit::certs::{Authority, Wanted};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::engine::{Client, Engine, Session};
use crate::world::{HOST, World, facts, identity, serve, shake, shake_for, told, why};

pub(crate) fn a_server_of_an_unknown_authority_is_refused_and_told<E: Engine>() {
    let world = World::new();
    let stranger = Authority::new("stranger").issue(Wanted::new("host", &[HOST]));
    let (client, server) = shake(&E::client(&world.client()), &E::server(&serve(&stranger)));
    let error = tls::handshake_error("connect", "tls:host", client.err().unwrap());
    assert_eq!(error.class(), Class::Tls);
    assert_eq!(
        error.report().to_string(),
        "connect tls:host: tls: the peer's certificate is not signed by an authority that is \
         trusted (name the certificate of its authority, or pin its fingerprint)"
    );
    assert_eq!(why(server).to_string(), "tls: the peer refuses: alert UnknownCA");
}

pub(crate) fn an_expired_certificate_is_refused_with_its_date<E: Engine>() {
    let world = World::new();
    let expired = world.authority.issue(Wanted::new("host", &[HOST]).expired());
    let (client, server) = shake(&E::client(&world.client()), &E::server(&serve(&expired)));
    let text = why(client).to_string();
    assert!(text.starts_with("tls: the peer's certificate expired on 20"), "{text}");
    assert!(why(server).to_string().contains("alert CertificateExpired"));
}

pub(crate) fn a_certificate_for_another_name_is_refused_with_the_names_it_has<E: Engine>() {
    let world = World::new();
    let client = E::client(&world.client());
    let server = E::server(&world.server());
    let (refused, told) = shake_for("other.example", &client, &server);
    assert_eq!(
        why(refused).to_string(),
        "tls: the peer's certificate is not for other.example, only for host.example, 192.0.2.1"
    );
    let text = why(told).to_string();
    assert!(text.contains("alert BadCertificate"), "{text}");
    shake_for("192.0.2.1", &client, &server).0.unwrap();
    let (refused, _) = shake_for("192.0.2.2", &client, &server);
    assert!(why(refused).to_string().contains("is not for 192.0.2.2, only for"));
}

pub(crate) fn revoked_certificates_are_refused_on_both_sides<E: Engine>() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    fs::write(&path, world.authority.revoke(&[&world.server])).unwrap();
    let strict = E::client(&world.client_with_certificate().crl_file(&path));
    let easy = E::client(&world.client_with_certificate());
    let (client, server) = shake(&strict, &E::server(&world.server()));
    assert_eq!(why(client).to_string(), "tls: the peer's certificate was revoked");
    assert!(why(server).to_string().contains("alert CertificateRevoked"));
    // Another one of the same authority is not.
    let other = world.authority.issue(Wanted::new("host", &[HOST]));
    shake(&strict, &E::server(&serve(&other))).0.unwrap();
    fs::write(&path, world.authority.revoke(&[&world.client])).unwrap();
    let server = world.server_that_asks(ClientCertificates::Required).crl_file(&path);
    let (client, server) = shake(&easy, &E::server(&server));
    assert_eq!(why(server).to_string(), "tls: the peer's certificate was revoked");
    assert!(told(client).contains("alert CertificateRevoked"));
}

pub(crate) fn lists_of_others_revoke_nothing_and_lists_of_nothing_are_refused<E: Engine>() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    fs::write(&path, Authority::new("other").revoke(&[&world.client])).unwrap();
    let server = world.server_that_asks(ClientCertificates::Required).crl_file(&path);
    let client = E::client(&world.client_with_certificate());
    shake(&client, &E::server(&server)).1.unwrap();
    fs::write(&path, "nothing").unwrap();
    let error = E::Client::build(&world.client().crl_file(&path)).err().unwrap();
    assert!(error.to_string().contains("crl.pem: there is no PEM in it"), "{error}");
}

pub(crate) fn client_certificates_are_off_optional_or_required<E: Engine>() {
    let world = World::new();
    let with = E::client(&world.client_with_certificate());
    let without = E::client(&world.client());
    let asks = |ask| E::server(&world.server_that_asks(ask));
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
    let stranger = E::client(&world.client().identity(identity(&stranger)));
    assert!(why(shake(&stranger, &optional).1).to_string().contains("not signed by"));
    let off = E::server(&world.server());
    assert!(facts(&with, &off).1.peer.is_none());
}

pub(crate) fn rules_let_clients_in_and_tell_those_they_keep_out<E: Engine>() {
    let world = World::new();
    let with_rules = |rules| {
        let server = world.server_that_asks(ClientCertificates::Optional);
        E::server(&server.authorization(rules))
    };
    let alice = E::client(&world.client_with_certificate());
    let nobody = E::client(&world.client());
    let rules = Authorization::deny_others()
        .allow_subject(Pattern::exact("O=Example,CN=alice"))
        .allow_name(Pattern::glob("DNS:*.inside.example"));
    let server = with_rules(rules.clone());
    let (_, facts) = facts(&alice, &server);
    rules.check(&facts).unwrap();
    // Who shows nothing cannot be allowed, though a certificate is optional.
    assert!(why(shake(&nobody, &server).1).to_string().contains("has no certificate"));
    let bob = world.authority.issue(Wanted::new("bob", &["bob.example"]));
    let bob = world.client().identity(identity(&bob));
    for version in [Version::Tls12, Version::Tls13] {
        let (client, refused) = shake(&E::client(&bob.clone().max_version(version)), &server);
        let error = tls::handshake_error("accept", "tls:x", refused.err().unwrap());
        assert_eq!(error.class(), Class::Tls);
        let expected = "accept tls:x: tls: O=Example,CN=bob (DNS:bob.example) is not allowed";
        assert_eq!(error.report().to_string(), expected);
        let alert = told(client);
        assert!(alert.ends_with(&format!("alert {}", E::DENIED)), "{alert}");
    }
    let rules = Authorization::allow_others().deny_name(Pattern::exact("DNS:alice.example"));
    let server = with_rules(rules);
    assert!(matches!(why(shake(&alice, &server).1), TlsError::Denied(_)));
    shake(&E::client(&bob), &server).1.unwrap();
    shake(&nobody, &server).1.unwrap();
}

pub(crate) fn rules_about_servers_hold_on_the_client<E: Engine>() {
    let world = World::new();
    let rules = Authorization::deny_others().allow_subject(Pattern::glob("*CN=other"));
    let client = E::client(&world.client().authorization(rules));
    let (client, server) = shake(&client, &E::server(&world.server()));
    assert!(matches!(why(client), TlsError::Denied(_)));
    let text = why(server).to_string();
    assert!(text.ends_with(&format!("alert {}", E::DENIED)), "{text}");
}

pub(crate) fn a_pin_stands_for_names_dates_and_authorities<E: Engine>() {
    let made = SelfSigned::generate(["elsewhere.example"]).unwrap();
    let server = E::server(&ServerSettings::new().identity(made.identity()));
    let pinned = ClientSettings::new().pin([7; 32].into()).pin(made.fingerprint());
    let name = pinned.server_name(None).unwrap().to_str().into_owned();
    let (client, accepted) = shake_for(&name, &E::client(&pinned), &server);
    client.unwrap();
    // No name is made up for the server.
    assert_eq!(accepted.unwrap().handshake().facts().server_name, None);
    shake(&E::client(&pinned), &server).0.unwrap();
    let other = ClientSettings::new().pin([7; 32].into());
    let (client, told) = shake(&E::client(&other), &server);
    let text = why(client).to_string();
    assert!(text.contains(&made.fingerprint().to_string()), "{text}");
    let text = why(told).to_string();
    assert!(text.ends_with(&format!("alert {}", E::DENIED)), "{text}");
    let anybody = ClientSettings::new().trust(Trust::Anybody);
    shake(&E::client(&anybody), &server).0.unwrap();
}

pub(crate) fn clients_can_be_pinned<E: Engine>() {
    let [made, key] = ["host", "client"].map(|name| SelfSigned::generate([name]).unwrap());
    let asks = ServerSettings::new()
        .identity(made.identity())
        .pin(key.fingerprint())
        .client_certificates(ClientCertificates::Required);
    let asks = E::server(&asks);
    let client = ClientSettings::new().pin(made.fingerprint());
    shake(&E::client(&client.clone().identity(key.identity())), &asks).1.unwrap();
    let client = E::client(&client.identity(made.identity()));
    assert!(matches!(why(shake(&client, &asks).1), TlsError::Unpinned(_)));
}

/// Shows a certificate without having its key.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesServerCert for Thief {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

pub(crate) fn a_certificate_without_its_key_is_refused_also_when_pinned_or_anybody_is_believed<
    E: Engine,
>() {
    let made = SelfSigned::generate([HOST]).unwrap();
    let chain = CertificateDer::from_pem_slice(made.certificate_pem().as_bytes());
    let key = PrivateKeyDer::from_pem_slice(World::new().server.key.as_bytes());
    let key = ring::sign::any_supported_type(&key.unwrap()).unwrap();
    let thief = Arc::new(Thief(Arc::new(CertifiedKey::new(vec![chain.unwrap()], key))));
    for settings in
        [ClientSettings::new().pin(made.fingerprint()), ClientSettings::new().trust(Trust::Anybody)]
    {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&thief) as _);
            let (client, _) = shake(&E::client(&settings), &Arc::new(server));
            let text = why(client).to_string();
            assert!(text.contains(E::NOT_ITS_KEY), "{text}");
        }
    }
}

pub(crate) fn of_several_identities_the_one_with_the_name_is_shown<E: Engine>() {
    let world = World::new();
    let more = [
        world.authority.issue(Wanted::new("second", &["second.example"])),
        world.authority.issue(Wanted::new("star", &["*.star.example"])),
    ];
    let server = more.iter().fold(world.server(), |server, more| server.identity(identity(more)));
    let server = E::server(&server);
    let shown = |name, client: &ClientSettings| {
        shake_for(name, &E::client(client), &server).0.unwrap().handshake().facts()
    };
    for version in [Version::Tls12, Version::Tls13] {
        let client = world.client().authorization(Authorization::allow_others());
        let client = client.max_version(version);
        for (name, subject) in [
            ("second.example", "O=Example,CN=second"),
            ("x.star.example", "O=Example,CN=star"),
            (HOST, "O=Example,CN=host"),
            ("192.0.2.1", "O=Example,CN=host"),
        ] {
            assert_eq!(shown(name, &client).peer_subject(), Some(subject), "{name}");
        }
    }
    let silent = ClientSettings::new().trust(Trust::Anybody).sni(false);
    assert_eq!(shown("second.example", &silent).peer_subject(), Some("O=Example,CN=host"));
}
