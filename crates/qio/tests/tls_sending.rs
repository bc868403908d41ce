//! What TLS sends, in its order: records that are taken where rustls makes them, records that are
//! copied, what the protocol itself has to say beside them, and what had come before.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::layer::{Engine, Layer, tls};
use qio::transport::Socket;
use qio::watch::Steps;
use qio::{Channel, ChannelExt};
use qio_testkit::tls::{Local, name};
use qio_testkit::{Job, finished, scope, soon};
use rustls::crypto::{CryptoProvider, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, CipherSuiteCommon, ClientConfig, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite,
};

type Client = Layer<Socket, tls::ClientTls>;
type Server = Layer<Socket, tls::ServerTls>;

fn connected(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Client, Server) {
    let (left, right) = Socket::pair().unwrap();
    let server = tls::server(right, server, soon()).unwrap();
    let server = Job::start(move || finished(server).into_layer(tls::NAME));
    let client = finished(tls::client(left, client, name(), soon()).unwrap());
    (client.into_layer(tls::NAME), server.finish())
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index / 7) as u8).collect()
}

/// Writes the data in pieces of so many bytes, and has the peer compare it.
fn carries(from: &dyn Channel, to: &dyn Channel, sizes: &[usize]) {
    let data = data(1 << 20);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut got = vec![0; data.len()];
            to.read_exact(&mut got).unwrap();
            assert!(got == data, "what came is not what was sent");
        });
        let mut rest = data.as_slice();
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*size));
            from.write_all(piece).unwrap();
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
    });
}

/// What the engine hands over of `plain`, and how much of that it took.
fn pieces<E: Engine + std::fmt::Debug + 'static>(
    layer: &Layer<Socket, E>,
    plain: &[u8],
) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut pieces = Vec::new();
    let taken = layer.with_engine(|engine| engine.give_pieces(plain, &mut |p| pieces.push(p)));
    taken.map(|taken| (pieces, taken.unwrap()))
}

#[test]
fn records_are_handed_over_one_at_a_time() {
    scope(Duration::from_secs(30), |_| {
        let local = Local::default();
        let (client, server) = connected(local.client(), local.server());
        let plain = data(40_000);
        let (records, taken) = pieces(&client, &plain).unwrap();
        assert_eq!(taken, 16 << 10);
        let [record] = records.as_slice() else { panic!("{} records", records.len()) };
        // RFC 8446, section 5.2: application data, the version of the past, and the length.
        assert_eq!(record[..3], [23, 3, 3]);
        assert_eq!(record.len(), 5 + taken + 17);
        client.inner().unwrap().write_all(record).unwrap();
        let mut got = vec![0; taken];
        server.read_exact(&mut got).unwrap();
        assert!(got == plain[..taken]);
    });
}

#[test]
fn configurations_of_somebody_else_copy_and_go_on() {
    scope(Duration::from_secs(30), |_| {
        let local = Local { provider: ring::default_provider(), ..Local::default() };
        let (client, server) = connected(local.client(), local.server());
        assert!(pieces(&client, &data(10_000)).is_none());
        carries(&client, &server, &[20_000, 1]);
        carries(&server, &client, &[20_000, 1]);
    });
}

#[test]
fn every_suite_carries_large_and_small_pieces() {
    let suites = Local::default().provider.cipher_suites;
    assert!(suites.len() >= 9, "all of ring: {suites:?}");
    for suite in suites {
        scope(Duration::from_secs(30), |_| {
            let mut local = Local::default();
            local.provider.cipher_suites = vec![suite];
            local.versions = vec![version(suite)];
            // Those of TLS 1.2 with RSA want a certificate that is not here.
            if format!("{:?}", suite.suite()).contains("_RSA_") {
                return;
            }
            let (client, _server) = connected(local.client(), local.server());
            let facts = client.with_engine(|tls| tls.facts());
            assert_eq!(facts.suite, Some(suite.suite()));
            assert!(pieces(&client, b"x").is_some_and(|(_, taken)| taken == 1));
            let (client, server) = connected(local.client(), local.server());
            carries(&client, &server, &[100_000, 10, 5_000]);
            carries(&server, &client, &[4_096, 4_095, 16_385]);
            client.finish().unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
    }
}

fn version(suite: SupportedCipherSuite) -> &'static SupportedProtocolVersion {
    match suite {
        SupportedCipherSuite::Tls12(_) => &TLS12,
        SupportedCipherSuite::Tls13(_) => &TLS13,
    }
}

/// ChaCha20-Poly1305, which may protect so many records with a key; records are copied.
fn limited(version: &'static SupportedProtocolVersion, limit: u64) -> Local {
    let (name12, name13) = (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    );
    let mut provider: CryptoProvider = ring::default_provider();
    provider.cipher_suites.retain(|suite| [name12, name13].contains(&suite.suite()));
    for suite in &mut provider.cipher_suites {
        *suite = match *suite {
            SupportedCipherSuite::Tls12(of) => {
                let common = CipherSuiteCommon { confidentiality_limit: limit, ..of.common };
                let limited = Tls12CipherSuite { common, ..*of };
                SupportedCipherSuite::Tls12(Box::leak(Box::new(limited)))
            }
            SupportedCipherSuite::Tls13(of) => {
                let common = CipherSuiteCommon { confidentiality_limit: limit, ..of.common };
                let limited = Tls13CipherSuite { common, ..*of };
                SupportedCipherSuite::Tls13(Box::leak(Box::new(limited)))
            }
        };
    }
    Local { provider, versions: vec![version], tickets: 0 }
}

fn direct(local: Local) -> Local {
    Local { provider: tls::direct(local.provider), ..local }
}

#[test]
fn a_key_that_has_protected_enough_is_changed_between_two_records() {
    scope(Duration::from_secs(30), |_| {
        let local = direct(limited(&TLS13, 10));
        let (client, server) = connected(local.client(), local.server());
        let plain = data(16 << 10);
        let mut counts = Vec::new();
        for _ in 0..30 {
            let (records, taken) = pieces(&client, &plain).unwrap();
            assert_eq!(taken, plain.len());
            // The longest is the data, and the last.
            let longest = records.iter().max_by_key(|record| record.len()).unwrap();
            assert!(std::ptr::eq(longest, records.last().unwrap()));
            counts.push(records.len());
            client.inner().unwrap().write_all(&records.concat()).unwrap();
            let mut got = vec![0; taken];
            server.read_exact(&mut got).unwrap();
            assert!(got == plain);
        }
        let updates = counts.iter().filter(|count| **count > 1).count();
        assert!((2..=4).contains(&updates), "one in about ten: {counts:?}");
        // The same by itself, and back.
        carries(&client, &server, &[100_000]);
        carries(&server, &client, &[100_000, 5]);
    });
}

#[test]
fn a_change_of_keys_that_waits_goes_before_records_that_turn_out_to_be_copied() {
    scope(Duration::from_secs(30), |_| {
        // The peer asks for it.
        let local = Local { provider: ring::default_provider(), tickets: 0, ..Local::default() };
        for local in [direct(local.clone()), local] {
            let (client, server) = connected(local.client(), local.server());
            server.with_engine(tls::ServerTls::refresh_keys).unwrap();
            server.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            carries(&client, &server, &[5_000]);
        }
        // We have to, at each record but the first ones.
        for first in 0..12 {
            let local = limited(&TLS13, 10);
            let (client, server) = connected(local.client(), local.server());
            for _ in 0..first {
                client.write_all(b"x").unwrap();
                server.read_exact(&mut [0]).unwrap();
            }
            carries(&client, &server, &[5_000]);
        }
    });
}

#[test]
fn a_key_of_tls_1_2_that_has_protected_enough_protects_no_more() {
    // Direct and one at a time, copied and several at a time.
    let ends = || [direct(limited(&TLS12, 10)), limited(&TLS12, 10)];
    for (local, size) in
        ends().map(|l| (l, 16 << 10)).into_iter().chain(ends().map(|l| (l, 60_000)))
    {
        scope(Duration::from_secs(30), |_| {
            let (client, server) = connected(local.client(), local.server());
            let plain = data(size);
            let mut accepted = Vec::new();
            let error: io::Error = loop {
                match client.write(&plain) {
                    Ok(count) => {
                        accepted.extend_from_slice(&plain[..count]);
                        let mut got = vec![0; count];
                        server.read_exact(&mut got).unwrap();
                        assert!(got == plain[..count]);
                    }
                    Err(error) => break error,
                }
            };
            assert!(accepted.len() > 5 * (16 << 10), "{}", accepted.len());
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(tls::TlsError::find(&error).is_some(), "{error:?}");
            // rustls says farewell: what came before is whole, and known to be.
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
    }
}

/// What a server does before it reads what came with the end of the handshake.
#[derive(Clone, Copy, Debug)]
enum First {
    Read,
    Write(usize),
    RefreshKeys,
    Finish,
}

#[test]
fn what_came_with_the_end_of_the_handshake_is_read_once_whatever_is_done_first() {
    let firsts =
        [First::Read, First::Write(5), First::Write(5_000), First::RefreshKeys, First::Finish];
    for (first, records, ends) in firsts.into_iter().flat_map(|first| {
        (0..4u8).flat_map(move |records| [false, true].map(|ends| (first, records, ends)))
    }) {
        scope(Duration::from_secs(30), |_| {
            let case = format!("{first:?} first, {records} records, the end: {ends}");
            let (client, server) = with_records_behind_the_handshake(records, ends);
            match first {
                First::Read => {}
                First::Write(len) => server.write_all(&data(len)).unwrap(),
                First::RefreshKeys => server.with_engine(tls::ServerTls::refresh_keys).unwrap(),
                First::Finish => server.finish().unwrap(),
            }
            let mut got = vec![0; records.into()];
            server.read_exact(&mut got).unwrap();
            assert_eq!(got, (0..records).collect::<Vec<_>>(), "{case}");
            if ends {
                assert_eq!(server.read(&mut [0]).unwrap(), 0, "{case}");
            } else {
                carries(&client, &server, &[10_000, 1]);
            }
            match first {
                First::Finish => {}
                First::Write(len) => {
                    let mut got = vec![0; len];
                    client.read_exact(&mut got).unwrap();
                    assert!(got == data(len), "{case}");
                    server.finish().unwrap();
                }
                _ => {
                    carries(&server, &client, &[10_000, 1]);
                    server.finish().unwrap();
                }
            }
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "{case}");
        });
    }
}

/// A client has sent so many records of a byte, and its farewell, before the server looks at the end
/// of the handshake.
fn with_records_behind_the_handshake(records: u8, ends: bool) -> (Client, Server) {
    let local = Local { tickets: 0, ..Local::default() };
    let (left, right) = Socket::pair().unwrap();
    let mut server = tls::server(right, local.server(), soon()).unwrap();
    let mut client = tls::client(left, local.client(), name(), soon()).unwrap();
    let now = Instant::now();
    let client = loop {
        if let Poll::Ready(client) = client.step(now) {
            break client.unwrap().into_layer(tls::NAME);
        }
        assert!(server.step(now).is_pending());
    };
    for record in 0..records {
        client.write_all(&[record]).unwrap();
    }
    if ends {
        client.finish().unwrap();
    }
    let Poll::Ready(server) = server.step(now) else { panic!("the handshake has all it needs") };
    (client, server.unwrap().into_layer(tls::NAME))
}

#[test]
fn records_can_be_smaller_than_their_limit() {
    for size in [32, 512, 5_000, 16_389] {
        scope(Duration::from_secs(30), |_| {
            let local = Local::default();
            let mut client = ClientConfig::clone(&local.client());
            client.max_fragment_size = Some(size);
            let mut server = ServerConfig::clone(&local.server());
            server.max_fragment_size = Some(size);
            let ends = || connected(Arc::new(client.clone()), Arc::new(server.clone()));
            let (left, _right) = ends();
            // The small ones are copied.
            let got = pieces(&left, &data(20_000)).map(|(records, taken)| (records.len(), taken));
            assert_eq!(got, (size >= 5_000).then_some((1, size - 5)));
            let (left, right) = ends();
            carries(&left, &right, &[16 << 10, 9, 50_000]);
            carries(&right, &left, &[1_000]);
        });
    }
}

#[test]
fn a_suite_is_made_once_and_stays_what_it_is() {
    let plain = ring::default_provider();
    let first = tls::direct(ring::default_provider());
    let again = tls::direct(tls::direct(ring::default_provider()));
    for ((plain, first), again) in
        plain.cipher_suites.iter().zip(&first.cipher_suites).zip(&again.cipher_suites)
    {
        assert_eq!(plain.suite(), first.suite());
        assert_eq!(plain.fips(), first.fips());
        let is_same = match (first, again) {
            (SupportedCipherSuite::Tls12(first), SupportedCipherSuite::Tls12(again)) => {
                std::ptr::eq(*first, *again)
            }
            (SupportedCipherSuite::Tls13(first), SupportedCipherSuite::Tls13(again)) => {
                std::ptr::eq(*first, *again)
            }
            _ => false,
        };
        assert!(is_same, "{first:?}");
    }
}
