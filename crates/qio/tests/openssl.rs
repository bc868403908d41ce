//! The conformance suite over TLS by OpenSSL, alone and with rustls, plain and in chaos.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;

use engines::By::{Openssl, Rustls};
use engines::{anonymous_pair, join, psk_pair, tls_pair, tls_pair_up_to, world};
use qio::layer::tls::Version;
use qio::transport::{Duplex, Pipe, Socket};
use qio::{Channel, ChannelExt};
use qio_testkit::cut::{self, Script, Side};
use qio_testkit::pairs::{memory, pipes, tcp, unix, ws_over};
use qio_testkit::{Pair, Subject, conformance, soon};

/// OpenSSL on both sides.
fn pair(below: Pair) -> Pair {
    tls_pair(below, Openssl, Openssl)
}

conformance!(
    openssl_over_unix,
    Subject::pair::<Socket>("openssl over unix", || pair(unix())).with_farewell()
);
conformance!(
    openssl_over_tcp,
    Subject::pair::<Socket>("openssl over tcp", || pair(tcp())).with_farewell()
);
conformance!(
    openssl_over_pipes,
    Subject::pair::<Pipe>("openssl over pipes", || pair(pipes())).with_farewell()
);
conformance!(
    openssl_over_memory,
    Subject::pair::<Duplex>("openssl over memory", || pair(memory())).with_farewell()
);
conformance!(
    openssl_server_side,
    Subject::pair::<Socket>("openssl server side", || pair(unix()).swapped()).with_farewell()
);
conformance!(
    openssl_1_2,
    Subject::pair::<Socket>("openssl, tls 1.2", || {
        tls_pair_up_to(Version::Tls12, unix(), Openssl, Openssl)
    })
    .with_farewell()
);
conformance!(
    rustls_to_openssl,
    Subject::pair::<Socket>("rustls to openssl", || tls_pair(unix(), Rustls, Openssl))
        .with_farewell()
);
conformance!(
    openssl_to_rustls,
    Subject::pair::<Socket>("openssl to rustls", || tls_pair(unix(), Openssl, Rustls))
        .with_farewell()
);
conformance!(
    rustls_to_openssl_1_2,
    Subject::pair::<Socket>("rustls to openssl, tls 1.2", || {
        tls_pair_up_to(Version::Tls12, tcp(), Rustls, Openssl)
    })
    .with_farewell()
);
conformance!(
    openssl_to_rustls_1_2,
    Subject::pair::<Socket>("openssl to rustls, tls 1.2", || {
        tls_pair_up_to(Version::Tls12, tcp(), Openssl, Rustls)
    })
    .with_farewell()
);
conformance!(
    openssl_over_ws_over_openssl,
    Subject::pair::<Socket>("openssl over ws over openssl", || pair(ws_over(pair(unix()))))
        .with_farewell()
);
conformance!(
    psk_over_unix,
    Subject::pair::<Socket>("psk over unix", || psk_pair(Version::Tls13, unix())).with_farewell()
);
conformance!(
    psk_1_2_over_ws,
    Subject::pair::<Socket>("psk, tls 1.2, over ws", || {
        psk_pair(Version::Tls12, ws_over(unix()))
    })
    .with_farewell()
);
conformance!(
    anonymous_over_tcp,
    Subject::pair::<Socket>("anonymous over tcp", || anonymous_pair(tcp())).with_farewell()
);

/// Words of both sides, and more than a record.
fn script() -> Script {
    Script::new()
        .turn(Side::Left, b"question")
        .turn(Side::Right, b"answer, longer")
        .turn(Side::Left, b"thanks")
}

#[test]
fn a_session_of_openssl_can_be_cut_after_every_byte_and_at_every_step() {
    for make in [
        || pair(unix()),
        || tls_pair(unix(), Rustls, Openssl),
        || tls_pair(pipes(), Openssl, Rustls),
        || psk_pair(Version::Tls12, memory()),
    ] {
        let make = move || make();
        cut::after_every_byte(&make, &script());
        cut::at_every_step(&make, &script());
    }
}

#[test]
fn a_record_of_openssl_larger_than_the_buffer_wakes_the_reader_once_per_read() {
    let pair = pair(unix());
    let left: Arc<dyn Channel> = pair.left;
    left.write_all(&[7; 16 * 1024]).unwrap();
    for _ in 0..4 {
        assert!(!pair.right.wait(qio::Interest::READ, soon()).unwrap().is_empty());
        pair.right.read_exact(&mut [0; 4096]).unwrap();
    }
}

#[test]
fn a_transfer_in_odd_sizes_goes_through_both_engines_at_once() {
    const BYTES: usize = 3 << 20;
    for (client, server) in [(Openssl, Openssl), (Rustls, Openssl), (Openssl, Rustls)] {
        let settings = (world().client(), world().server());
        let pair = join(unix(), (client, settings.0), (server, settings.1));
        std::thread::scope(|scope| {
            for channel in [&pair.left, &pair.right] {
                scope.spawn(|| {
                    let data: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
                    for piece in data.chunks(12_345) {
                        channel.write_all(piece).unwrap();
                    }
                    channel.finish_all(soon()).unwrap();
                });
                scope.spawn(|| {
                    let mut data = vec![0; BYTES];
                    channel.read_exact(&mut data).unwrap();
                    assert!(data.iter().enumerate().all(|(at, &byte)| byte == (at / 7) as u8));
                    assert_eq!(channel.read(&mut [0]).unwrap(), 0);
                });
            }
        });
    }
}
