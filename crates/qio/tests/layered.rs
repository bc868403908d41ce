//! Layers of addresses: connecting and listening through them.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::patience;
use qio::error::Class;
use qio::net::{self, Address, Cancel, ConnectOptions, ListenEvent, ListenOptions, Listener};
use qio::{Channel, ChannelExt};

type Told = Arc<Mutex<Vec<Class>>>;

fn listen(address: &str, options: ListenOptions) -> (Listener, Told) {
    let told = Told::default();
    let observer = Arc::clone(&told);
    let options = options.observe(move |event| match event {
        ListenEvent::HandshakeFailed { error, .. } => observer.lock().unwrap().push(error.class()),
        other => panic!("{other:?}"),
    });
    (net::listen(&address.parse().unwrap(), &options).unwrap(), told)
}

fn reach(listener: &Listener) -> Address {
    listener.local_addresses().remove(0)
}

/// A TCP connection to where the layers begin.
fn below(listener: &Listener) -> TcpStream {
    TcpStream::connect(("127.0.0.1", reach(listener).port().unwrap())).unwrap()
}

fn talks(client: &dyn Channel, server: &dyn Channel) {
    client.write_all(b"question").unwrap();
    client.finish_all(patience()).unwrap();
    let mut text = [0; 8];
    server.read_exact(&mut text).unwrap();
    assert!(&text == b"question" && server.read(&mut text).unwrap() == 0);
    server.write_all(b"answer").unwrap();
    server.finish_all(patience()).unwrap();
    client.read_exact(&mut text[..6]).unwrap();
    assert!(text.starts_with(b"answer") && client.read(&mut text).unwrap() == 0);
}

#[test]
fn both_roles_get_channels_after_the_handshakes() {
    for address in ["listen:ws://127.0.0.1:0/x", "listen:ws+ws+tcp://127.0.0.1:0?ws2.path=/y"] {
        let (listener, told) = listen(address, ListenOptions::new());
        let to = reach(&listener);
        let client = thread::spawn(move || net::connect(&to, &ConnectOptions::new()).unwrap());
        let server = listener.accept(patience()).unwrap();
        let client = client.join().unwrap();
        assert_eq!(&*client.name(), reach(&listener).to_string());
        assert_eq!(&*server.channel.name(), server.peer);
        talks(&*client, &*server.channel);
        assert!(told.lock().unwrap().is_empty());
    }
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The beginning of a ClientHello of 512 bytes.
#[cfg(feature = "tls")]
const HELLO: [u8; 6] = [22, 3, 1, 2, 0, 1];

/// Listeners, and what clients send before they say nothing more.
fn stalls() -> Vec<(&'static str, Vec<u8>)> {
    let mut stalls = vec![
        ("listen:ws://127.0.0.1:0", vec![]),
        ("listen:ws://127.0.0.1:0", b"GET / HTTP/1.1\r\n".to_vec()),
        ("listen:ws+ws+tcp://127.0.0.1:0", REQUEST.into()),
    ];
    #[cfg(feature = "tls")]
    {
        // In a masked frame with a key of zeros.
        let frame = [&[0x82, 0x80 | 6, 0, 0, 0, 0], &HELLO[..]].concat();
        stalls.extend([
            ("listen:tls+tcp://127.0.0.1:0?self-signed", vec![]),
            ("listen:tls+tcp://127.0.0.1:0?self-signed", HELLO.to_vec()),
            ("listen:tls+ws+tcp://127.0.0.1:0?self-signed", vec![]),
            ("listen:tls+ws+tcp://127.0.0.1:0?self-signed", REQUEST.into()),
            ("listen:tls+ws+tcp://127.0.0.1:0?self-signed", [REQUEST.as_bytes(), &frame].concat()),
        ]);
    }
    stalls
}

#[test]
fn a_thousand_half_open_handshakes_do_not_stop_the_next_client() {
    // The last of each listener gets the furthest.
    let furthest: BTreeMap<_, _> = stalls().into_iter().collect();
    for (address, sent) in furthest {
        let (listener, told) = listen(address, ListenOptions::new().max_pending(64));
        let to = reach(&listener);
        let half_open: Vec<_> = (0..1000)
            .map(|_| {
                let mut client = below(&listener);
                client.write_all(&sent).unwrap();
                // The backlog has room for all, but the kernel may be told to have less.
                assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
                client
            })
            .collect();
        let client = thread::spawn(move || net::connect(&to, &ConnectOptions::new()).unwrap());
        let server = listener.accept(patience()).unwrap();
        talks(&*client.join().unwrap(), &*server.channel);
        let told = told.lock().unwrap();
        assert!(told.len() >= 1000 - 64 && told.iter().all(|class| *class == Class::Cancelled));
        drop(half_open);
    }
}

#[test]
fn a_handshake_that_stalls_anywhere_is_dropped_at_its_deadline() {
    for (address, sent) in stalls() {
        let limit = Duration::from_millis(100);
        let (listener, told) = listen(address, ListenOptions::new().handshake_timeout(limit));
        let start = std::time::Instant::now();
        let mut client = below(&listener);
        client.set_read_timeout(Some(common::PATIENCE)).unwrap();
        client.write_all(&sent).unwrap();
        let closed = thread::spawn(move || {
            // A layer below may have answered; what was not read makes it a reset.
            let mut answer = Vec::new();
            match client.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
            }
            start.elapsed()
        });
        while told.lock().unwrap().is_empty() {
            let soon = std::time::Instant::now() + limit;
            assert_eq!(listener.accept(Some(soon)).unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(start.elapsed() < common::PATIENCE, "{address}");
        }
        assert_eq!(*told.lock().unwrap(), [Class::Timeout], "{address}");
        let took = closed.join().unwrap();
        assert!(took >= limit, "{address}: {took:?}");
    }
}

#[test]
fn a_client_is_closed_at_its_deadline_and_one_that_breaks_the_protocol_at_once() {
    let options = ListenOptions::new().handshake_timeout(Duration::from_millis(100));
    let (listener, told) = listen("listen:ws://127.0.0.1:0", options);
    let (mut slow, mut bad) = (below(&listener), below(&listener));
    bad.write_all(b"SSH-2.0-x\r\n\r\n").unwrap();
    let waiting = thread::spawn(move || {
        let mut text = String::new();
        bad.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert_eq!(slow.read(&mut [0]).unwrap_or(0), 0);
    });
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while told.lock().unwrap().len() < 2 && std::time::Instant::now() < until {
        let soon = std::time::Instant::now() + Duration::from_millis(150);
        assert_eq!(listener.accept(Some(soon)).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    waiting.join().unwrap();
    assert_eq!(*told.lock().unwrap(), [Class::Protocol, Class::Timeout]);
}

#[test]
fn two_threads_that_accept_both_get_clients_whoever_began_with_them() {
    let (listener, _) = listen("listen:ws://127.0.0.1:0", ListenOptions::new());
    let listener = Arc::new(listener);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let listener = Arc::clone(&listener);
            thread::spawn(move || {
                (0..20).map(|_| listener.accept(patience()).unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let to = reach(&listener);
    let clients: Vec<_> =
        (0..40).map(|_| net::connect(&to, &ConnectOptions::new()).unwrap()).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap().len(), 20);
    }
    drop(clients);
}

#[test]
fn closing_the_listener_ends_handshakes() {
    let (listener, _) = listen("listen:ws://127.0.0.1:0", ListenOptions::new());
    let mut client = below(&listener);
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    listener.close().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(listener.accept(patience()).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn giving_up_in_the_handshake_closes_the_connection() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("ws://{}", silent.local_addr().unwrap()).parse().unwrap();
    let cancel = Cancel::new();
    let options = ConnectOptions::new().cancel(cancel.clone());
    let connect = thread::spawn(move || net::connect(&to, &options).unwrap_err());
    let (mut server, _) = silent.accept().unwrap();
    server.read_exact(&mut [0; 16]).unwrap();
    cancel.trigger();
    assert_eq!(connect.join().unwrap().class(), Class::Cancelled);
    // Nobody else ends it. What had not been read of the request makes it a reset.
    let _ = server.read_to_end(&mut Vec::new());
}
