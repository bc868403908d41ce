#![no_main]

use std::sync::{Arc, LazyLock};

use qio::layer::tls;
use qio_testkit::tls::Local;
use rustls::ServerConfig;

/// One for all runs: making an identity takes longer than a run.
static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| Local::default().server());

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    qio_testkit::fuzz::refused_handshake(
        |below| tls::server(below, Arc::clone(&CONFIG), None).unwrap(),
        data,
    );
});
