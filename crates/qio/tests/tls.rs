//! The conformance suite over TLS, a check a test. `stacks.rs` has the other transports and versions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, OnceLock};
use std::thread;

use qio::layer::tls;
use qio::transport::Socket;
use qio::{Channel, ChannelExt};
use qio_testkit::pairs::{pipes, unix, ws_over};
use qio_testkit::{Pair, Subject, conformance, finished, soon};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

conformance!(
    tls_over_unix,
    Subject::pair::<Socket>("tls over unix", || tls_pair(unix())).with_farewell()
);

/// The client on the left, the server on the right.
fn tls_pair(pair: Pair) -> Pair {
    let (client, server) = configs();
    let server = tls::server(pair.right, server, soon()).unwrap();
    let server = thread::spawn(move || finished(server).into_layer(tls::NAME));
    let name = ServerName::try_from("localhost").unwrap();
    let client = tls::client(pair.left, client, name, soon()).unwrap();
    let client = finished(client).into_layer(tls::NAME);
    Pair::new(client, server.join().unwrap())
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (cert, key) = identity();
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

/// Named, because rustls has no default in a build with more than one.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    let (cert, key) = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    });
    (cert.clone(), PrivateKeyDer::try_from(key.clone()).unwrap())
}

#[test]
fn a_record_larger_than_the_buffer_wakes_the_reader_once_per_read() {
    let pair = tls_pair(unix());
    let left: Arc<dyn Channel> = pair.left;
    left.write_all(&[7; 16 * 1024]).unwrap();
    for _ in 0..4 {
        assert!(!pair.right.wait(qio::Interest::READ, soon()).unwrap().is_empty());
        pair.right.read_exact(&mut [0; 4096]).unwrap();
    }
}

#[test]
fn what_is_wrong_keeps_its_type_however_often_and_through_whatever_it_is_asked_for() {
    type Wrap = fn(Pair) -> Pair;
    let ws_over_tls: Wrap = |pair| ws_over(tls_pair(pair));
    for wrap in [tls_pair, ws_over_tls] {
        // A socket would be reset over what the client has not read.
        let pair = wrap(pipes());
        pair.left.close().unwrap();
        // Whoever waits may be the first to find out.
        assert!(!pair.right.wait(qio::Interest::READ, soon()).unwrap().is_empty());
        for _ in 0..3 {
            let error = pair.right.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            assert!(matches!(tls::TlsError::find(&error), Some(tls::TlsError::Truncated)));
            assert_eq!(error.to_string(), "tls: the peer left without close_notify");
        }
    }
}
