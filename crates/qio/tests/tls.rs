//! The conformance suite over TLS, a check a test. `stacks.rs` has the other transports and versions.

use std::sync::Arc;

use qio::layer::tls;
use qio::transport::Socket;
use qio::{Channel, ChannelExt};
use qio_testkit::pairs::{pipes, unix, ws_over};
use qio_testkit::tls::Local;
use qio_testkit::{Pair, Subject, conformance, soon};
use rustls::crypto::ring;

conformance!(
    tls_over_unix,
    Subject::pair::<Socket>("tls over unix", || tls_pair(unix())).with_farewell()
);

// Configurations of somebody else's, from which records are copied.
conformance!(
    copied_tls_over_unix,
    Subject::pair::<Socket>("copied tls over unix", || {
        Local { provider: ring::default_provider(), ..Local::default() }.over(unix())
    })
    .with_farewell()
);

fn tls_pair(pair: Pair) -> Pair {
    Local::default().over(pair)
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
