#![no_main]

use std::sync::{Arc, LazyLock};

use qio::layer::tls;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// One identity for all runs: making one takes longer than a run.
static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    qio_testkit::fuzz::refused_handshake(
        |below| tls::server(below, Arc::clone(&CONFIG), None).unwrap(),
        data,
    );
});
