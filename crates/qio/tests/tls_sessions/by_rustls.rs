//! The questions of both, asked of rustls; and what it alone has.

use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::Layer;
use qio::layer::tls::{
    self, ClientCertificates, ClientTls, Provider, ServerTls, TlsError, Version,
};
use qio::transport::Socket;
use qio::watch::Steps;
use qio::{Channel, ChannelExt, ReadFlags};
use qio_testkit::certs::Wanted;
use qio_testkit::{Chaos, Plan, finish, soon};
use rustls::crypto::ring;

use crate::engine::{Client, Engine, Rustls, Server, Session};
use crate::world::{HOST, World, alone, connected, facts, raw, serve, shake, why};

questions!(Rustls);

#[test]
fn a_certificate_with_a_common_name_only_is_refused_and_the_reason_says_so() {
    alone(|| {
        let world = World::new();
        let server = Rustls::server(&serve(&world.authority.issue(Wanted::new(HOST, &[]))));
        let (client, _) = shake(&world.client().build().unwrap(), &server);
        let text = why(client).to_string();
        let reason = "only subjectAltName counts, the common name (CN) is not looked at";
        assert!(text.contains(reason), "{text}");
    });
}

/// In TLS 1.3 a server has said hello before it refuses and goes: its client is answering that, and
/// finds nobody, before it gets to the alert.
#[test]
fn why_the_peer_has_left_is_read_although_nothing_can_be_sent_to_it() {
    alone(|| {
        let world = World::new();
        let client = world.client().alpn(["nbd"]).build().unwrap();
        let server = Rustls::server(&world.server().alpn(["vnc"]));
        for longest in [1, 64, 128] {
            let (left, right) = Socket::pair().unwrap();
            // Reads no more at once.
            let left = Chaos::new(left, Plan::new(longest).short(longest as usize));
            let name = HOST.try_into().unwrap();
            let mut client = tls::client(left, Arc::clone(&client), name, soon()).unwrap();
            assert!(client.step(Instant::now()).is_pending());
            let refused = finish(server.begin(right, soon()).unwrap());
            let error = why(refused);
            assert!(matches!(error, TlsError::Protocol(rustls::Error::NoApplicationProtocol)));
            let text = why(finish(client)).to_string();
            assert!(text.contains("alert NoApplicationProtocol"), "{text}");
        }
    });
}

/// Nothing but the settings says whose cryptography it is: a build with both is one with ring.
#[test]
fn the_provider_is_the_one_that_the_settings_name() {
    alone(|| {
        let world = World::new();
        let ring = format!("{:?}", ring::default_provider());
        let shows = |provider| {
            let client = world.client().provider(provider).build().unwrap();
            let server = world.server().provider(provider).build().unwrap();
            let (first, _) = facts(&client, &server);
            // Its tickets are as good.
            assert!(!first.resumed && facts(&client, &server).0.resumed);
            let names = [client.crypto_provider(), server.crypto_provider()]
                .map(|provider| format!("{provider:?}"));
            assert_eq!(names[0], names[1]);
            names[0].clone()
        };
        assert_eq!(shows(Provider::default()), ring);
        assert_eq!(shows(Provider::Ring), ring);
        #[cfg(feature = "aws-lc-rs")]
        {
            let other = shows(Provider::AwsLcRs);
            assert!(other.contains("AwsLcRs") && other != ring, "{other}");
            // One talks to the other.
            let client = world.client_with_certificate().provider(Provider::AwsLcRs);
            let server = world.server_that_asks(ClientCertificates::Required);
            facts(&client.build().unwrap(), &server.build().unwrap());
        }
    });
}

#[test]
fn keys_change_while_both_sides_send_from_two_threads() {
    const BYTES: usize = 2 << 20;
    const PIECE: usize = 10_000;

    fn send<E: Session>(
        layer: &Layer<Socket, E>,
        refresh: impl Fn(&mut E) -> Result<(), TlsError>,
    ) {
        let data: Vec<u8> = (0..BYTES).map(|index| (index / 3) as u8).collect();
        for (index, piece) in data.chunks(PIECE).enumerate() {
            layer.write_all(piece).unwrap();
            if index % 5 == 0 {
                layer.with_engine(&refresh).unwrap();
            }
        }
    }

    fn receive(layer: &dyn Channel) {
        let mut data = vec![0; BYTES];
        layer.read_exact(&mut data).unwrap();
        assert!(data.iter().enumerate().all(|(index, &byte)| byte == (index / 3) as u8));
    }

    alone(|| {
        let world = World::new();
        let client = world.client().build().unwrap();
        let (client, server) = connected(&client, &world.server().build().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| receive(&client));
            scope.spawn(|| receive(&server));
            scope.spawn(|| send(&client, ClientTls::refresh_keys));
            scope.spawn(|| send(&server, ServerTls::refresh_keys));
        });
        client.finish().unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn keys_cannot_be_changed_before_tls_1_3_or_after_the_farewell() {
    alone(|| {
        let world = World::new();
        let server = world.server().build().unwrap();
        let old = world.client().max_version(Version::Tls12).build().unwrap();
        let (left, right) = connected(&old, &server);
        left.with_engine(ClientTls::refresh_keys).unwrap_err();
        left.write_all(b"x").unwrap();
        right.read_exact(&mut [0]).unwrap();
        let (left, _right) = connected(&world.client().build().unwrap(), &server);
        left.finish().unwrap();
        assert!(matches!(left.with_engine(ClientTls::refresh_keys), Err(TlsError::Ended)));
    });
}

/// A ticket in many records: a client that writes while a part of it has come.
#[test]
fn writing_is_possible_at_every_byte_of_a_message_in_parts() {
    alone(|| {
        let world = World::new();
        let client = world.client_with_certificate().build().unwrap();
        let server = world.server_that_asks(ClientCertificates::Required).build().unwrap();
        let mut server = Arc::unwrap_or_clone(server);
        server.max_fragment_size = Some(64);
        let (left, mut to_left) = raw();
        let (right, mut to_right) = raw();
        to_left.set_nonblocking(true).unwrap();
        to_right.set_nonblocking(true).unwrap();
        let mut server = Arc::new(server).begin(right, soon()).unwrap();
        let mut client = Some(client.begin(left, HOST, soon()).unwrap());
        let (mut written, mut behind) = (0, 0);
        let mut accepted = None;
        let mut layer = None;
        let mut buf = [0; 4096];
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < limit);
            let now = Instant::now();
            if let Some(steps) = &mut client
                && let Poll::Ready(result) = steps.step(now)
            {
                client = None;
                layer = Some(result.unwrap().into_layer(tls::NAME));
            }
            if let Some(layer) = &layer {
                let layer: &Layer<_, _> = layer;
                // What has come is looked at, and then there is something to say.
                let mut byte = [0];
                let bufs = &mut [IoSliceMut::new(&mut byte)];
                match layer.read_with(bufs, ReadFlags::NONBLOCK, None) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    Ok(count) => assert_eq!((count, byte), (1, [b'!'])),
                }
                layer.write_all(b"x").unwrap();
                written += 1;
                behind += 1;
                if byte == [b'!'] {
                    break;
                }
            }
            if let Ok(count) = to_left.read(&mut buf) {
                to_right.write_all(&buf[..count]).unwrap();
            }
            if accepted.is_none()
                && let Poll::Ready(result) = server.step(now)
            {
                let layer = result.unwrap().into_layer(tls::NAME);
                layer.write_all(b"!").unwrap();
                accepted = Some(layer);
            }
            if let Some(accepted) = &accepted
                && written > 0
            {
                // Keeps the socket from filling.
                let bufs = &mut [IoSliceMut::new(&mut buf)];
                if let Ok(count) = accepted.read_with(bufs, ReadFlags::NONBLOCK, None) {
                    written -= count;
                }
            }
            // One byte at a time.
            if let Ok(count) = to_right.read(&mut buf[..1]) {
                to_left.write_all(&buf[..count]).unwrap();
            }
        }
        assert!(behind > 500, "only {behind} bytes came behind the handshake");
    });
}
