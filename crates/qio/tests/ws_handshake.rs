//! The opening handshake of WebSocket over real channels.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::patience;
use qio::layer::{Established, Handshaking, ws};
use qio::transport::{MessageKind, Messages, Socket};
use qio::watch::{Steps, run};
use qio::{Channel, ChannelExt, Mode, ReadFlags};

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn server(channel: Socket, deadline: Option<Instant>) -> Handshaking<Socket, ws::ServerHandshake> {
    ws::server(channel, ws::ServerOptions::default(), deadline)
}

fn finished<H>(handshake: Handshaking<Socket, H>) -> io::Result<Established<Socket, H>>
where
    H: qio::layer::Handshake,
{
    match run(handshake, patience()).unwrap() {
        ControlFlow::Break(result) => result,
        ControlFlow::Continue(_) => panic!("the handshake hangs"),
    }
}

#[test]
fn half_a_request_and_the_end_is_an_error() {
    for sent in [0, 1, 20, REQUEST.len() - 1] {
        let (client, near) = Socket::pair().unwrap();
        client.write_all(&REQUEST[..sent]).unwrap();
        client.finish().unwrap();
        let error = finished(server(near, None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{sent}");
        assert_eq!(error.to_string(), "websocket handshake: the connection ended in the middle");
    }
}

#[test]
fn a_client_that_stalls_is_dropped_at_the_deadline() {
    let (client, near) = Socket::pair().unwrap();
    client.write_all(&REQUEST[..30]).unwrap();
    let started = Instant::now();
    let error = finished(server(near, Some(started + Duration::from_millis(50)))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "the connection is closed");
}

#[test]
fn a_refused_client_reads_the_whole_reason() {
    let (client, near) = Socket::pair().unwrap();
    client.write_all(&[b"PO", REQUEST].concat()).unwrap();
    let error = finished(server(near, None)).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap();
    assert!(matches!(inner, ws::HandshakeError::Refused(refusal) if refusal.status() == 405));
    let mut answer = Vec::new();
    let mut buf = [0; 64];
    while let Ok(n @ 1..) = client.read(&mut buf) {
        answer.extend(&buf[..n]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("\n"), "{answer}");
}

#[test]
fn a_handshake_that_is_dropped_at_any_byte_closes_and_leaks_nothing() {
    qio_testkit::scope(Duration::from_secs(30), |_| {
        for round in 0..1000 {
            let cut = round % REQUEST.len();
            let (client, near) = Socket::pair().unwrap();
            client.set_mode(Mode::NonBlocking).unwrap();
            client.write_all(&REQUEST[..cut]).unwrap();
            let mut handshake = server(near, None);
            for _ in 0..round % 3 {
                assert!(matches!(handshake.step(Instant::now()), Poll::Pending));
            }
            drop(handshake);
            let mut left = vec![0; 8];
            let end = client.read(&mut left);
            let gone = |error: io::Error| error.kind() == ErrorKind::ConnectionReset;
            assert!(matches!(end, Ok(0)) || end.is_err_and(gone), "cut at {cut}");
        }
    });
}

#[test]
fn what_comes_behind_the_request_is_the_first_data() {
    let (client, near) = Socket::pair().unwrap();
    // A masked frame with the key 0: payload as it is.
    let frame = [&[0x82, 0x85, 0, 0, 0, 0][..], b"first"].concat();
    client.write_all(&[REQUEST, &frame].concat()).unwrap();
    let channel = finished(server(near, None)).unwrap().into_layer(ws::NAME);
    let mut text = [0; 5];
    channel.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"first");
}

#[test]
fn a_channel_of_messages_is_refused() {
    let (left, right) = Messages::pair(MessageKind::Datagram).unwrap();
    let handshake = ws::client(left, ws::ClientOptions::new("h"), patience()).unwrap();
    let ControlFlow::Break(result) = run(handshake, patience()).unwrap() else {
        panic!("it hangs")
    };
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Unsupported);
    let mut buf = [0; 8];
    let end = right.receive_with(&mut [io::IoSliceMut::new(&mut buf)], ReadFlags::NONBLOCK, None);
    assert!(!matches!(end, Ok(Some(_))), "nothing was sent");
}
