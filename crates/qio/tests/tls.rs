//! The conformance suite over TLS, plain and in chaos.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, OnceLock};
use std::thread;

use qio::layer::tls;
use qio::transport::{Duplex, Pipe, Socket};
use qio::{Channel, ChannelExt};
use qio_testkit::pairs::{memory, pipes, tcp, unix, ws_over};
use qio_testkit::{Pair, Subject, conformance, finished, soon};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

conformance!(
    tls_over_unix,
    Subject::pair::<Socket>("tls over unix", || tls_pair(unix())).with_farewell()
);
conformance!(
    tls_over_tcp,
    Subject::pair::<Socket>("tls over tcp", || tls_pair(tcp())).with_farewell()
);
conformance!(
    tls_over_pipes,
    Subject::pair::<Pipe>("tls over pipes", || tls_pair(pipes())).with_farewell()
);
conformance!(
    tls_over_memory,
    Subject::pair::<Duplex>("tls over memory", || tls_pair(memory())).with_farewell()
);
conformance!(
    tls_server_side,
    Subject::pair::<Socket>("tls server side", || tls_pair(unix()).swapped()).with_farewell()
);
conformance!(
    tls_1_2,
    Subject::pair::<Socket>("tls 1.2", || { tls_pair_of(unix(), &[&rustls::version::TLS12]) })
        .with_farewell()
);
conformance!(
    tls_over_ws_over_tls,
    Subject::pair::<Socket>("tls over ws over tls", || tls_pair(ws_over(tls_pair(unix()))))
        .with_farewell()
);

/// The client on the left, the server on the right.
fn tls_pair(pair: Pair) -> Pair {
    tls_pair_of(pair, rustls::ALL_VERSIONS)
}

fn tls_pair_of(pair: Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> Pair {
    let (client, server) = configs(versions);
    let server = tls::server(pair.right, server, soon()).unwrap();
    let server = thread::spawn(move || finished(server).into_layer(tls::NAME));
    let name = ServerName::try_from("localhost").unwrap();
    let client = tls::client(pair.left, client, name, soon()).unwrap();
    let client = finished(client).into_layer(tls::NAME);
    Pair::new(client, server.join().unwrap())
}

fn configs(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (cert, key) = identity();
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
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
