//! What is told while an address is being opened.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use qio::error::Class;
use qio::layer::tls::{ClientTls, Facts};
use qio::layer::ws::ClientHandshake;
use qio::net::{self, ConnectEvent, ConnectOptions, ListenOptions, Listener};
use qio::transport::Socket;
use qio::{Address, ChannelExt};
use qio_testkit::certs::{Authority, Wanted};

/// What was told, in words, and the last facts of TLS.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(Vec<String>, Option<Facts>)>>);

impl Told {
    fn options(&self) -> ConnectOptions {
        let told = Arc::clone(&self.0);
        ConnectOptions::new().observe(move |event| {
            let mut told = told.lock().unwrap();
            let (text, handshake) = match event {
                ConnectEvent::Started => ("started".to_owned(), None),
                ConnectEvent::Prepared => ("prepared".to_owned(), None),
                ConnectEvent::Resolved { addresses } => (format!("{addresses:?}"), None),
                ConnectEvent::Calling { peer } => (format!("calling {}", peer.ip()), None),
                ConnectEvent::NotReached { peer, error } => {
                    (format!("not {}: {:?}", peer.ip(), error.kind()), None)
                }
                ConnectEvent::Opened { channel } => {
                    (format!("opened {}", channel.find::<Socket>().is_some()), None)
                }
                ConnectEvent::LayerStarted { layer } => (format!("{layer}?"), None),
                ConnectEvent::LayerReady { layer, handshake } => {
                    let ws: Option<&ClientHandshake> = handshake.find();
                    let status = ws.and_then(|ws| ws.response()).map(|response| response.status);
                    (format!("{layer} {status:?}"), Some(handshake))
                }
                ConnectEvent::LayerFailed { layer, handshake, .. } => {
                    let ws: Option<&ClientHandshake> = handshake.find();
                    let status = ws.and_then(|ws| ws.response()).map(|response| response.status);
                    (format!("no {layer} {status:?}"), Some(handshake))
                }
                ConnectEvent::LayerGivenUp { layer, handshake } => {
                    (format!("{layer} is given up"), Some(handshake))
                }
                other => panic!("{other:?}"),
            };
            told.0.push(text);
            if let Some(tls) = handshake.and_then(|handshake| handshake.find::<ClientTls>()) {
                told.1 = Some(tls.facts());
            }
        })
    }

    fn words(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }

    fn facts(&self) -> Facts {
        self.0.lock().unwrap().1.clone().unwrap()
    }
}

/// A listener that hands out clients until it is closed, in a thread.
fn serving(text: &str) -> (Arc<Listener>, Address, thread::JoinHandle<usize>) {
    let options = ListenOptions::new().handshake_timeout(Duration::from_secs(20));
    let listener = Arc::new(net::listen(&text.parse().unwrap(), &options).unwrap());
    let address = listener.local_addresses()[0].clone();
    let accepting = Arc::clone(&listener);
    let thread = thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(20);
        let mut clients = Vec::new();
        while let Ok(client) = accepting.accept(Some(until)) {
            clients.push(client);
        }
        clients.len()
    });
    (listener, address, thread)
}

#[test]
fn every_step_of_an_opening_is_told_in_order_with_what_was_agreed_on() {
    let (listener, address, thread) = serving("listen:wss://127.0.0.1:0/x?self-signed");
    let told = Told::default();
    let channel = net::connect(&address, &told.options()).unwrap();
    let port = address.port().unwrap();
    let expected = [
        "started",
        "prepared",
        &format!("[127.0.0.1:{port}]"),
        "calling 127.0.0.1",
        "opened true",
        "tls?",
        "tls None",
        "ws?",
        "ws Some(101)",
    ];
    assert_eq!(told.words(), expected);
    assert!(told.facts().trusted_by.is_some() && !told.facts().is_asked_for_certificate);

    // What a server refuses is told with its answer.
    let told = Told::default();
    let other = address.clone().with_option("path", "/other").unwrap();
    let error = net::connect(&other, &told.options()).unwrap_err();
    assert_eq!(error.class(), Class::Protocol);
    assert_eq!(told.words().last().unwrap(), "no ws Some(404)");
    channel.close().unwrap();
    listener.close().unwrap();
    assert_eq!(thread.join().unwrap(), 1, "one got in");
}

#[test]
fn the_certificates_of_a_server_that_is_not_believed_are_told_and_it_gets_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert", "key"].map(|name| folder.path().join(name));
    let issued = Authority::new("nobody").issue(Wanted::new("host", &["host.example"]));
    std::fs::write(&cert, &issued.certificate).unwrap();
    std::fs::write(&key, &issued.key).unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, Authority::new("somebody").certificate()).unwrap();
    let text =
        format!("listen:tls+tcp://127.0.0.1:0?cert={}&key={}", cert.display(), key.display());
    let (listener, address, thread) = serving(&text);
    let told = Told::default();
    let address = address.with_option("ca", &other).unwrap();
    let error = net::connect(&address, &told.options()).unwrap_err();
    assert_eq!(error.class(), Class::Tls);
    assert_eq!(told.words().last().unwrap(), "no tls None");
    let facts = told.facts();
    assert_eq!(facts.trusted_by, None);
    assert_eq!(facts.peer.unwrap().issuer, "O=Example,CN=nobody");
    assert!(facts.version.is_some(), "it came as far as that");
    listener.close().unwrap();
    assert_eq!(thread.join().unwrap(), 0, "the handshake was not finished");
}

#[test]
fn a_layer_that_is_not_waited_for_any_longer_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = format!("ws://{}", silent.local_addr().unwrap()).parse().unwrap();
    let told = Told::default();
    let options = told.options().timeout(Duration::from_millis(50));
    assert_eq!(net::connect(&address, &options).unwrap_err().class(), Class::Timeout);
    assert_eq!(told.words().last().unwrap(), "ws is given up");
}

#[test]
fn addresses_that_are_called_in_vain_are_told_and_so_is_each_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let told = Told::default();
    let address: Address = format!("tcp://127.0.0.1:{port}?retry=1").parse().unwrap();
    net::connect(&address, &told.options()).unwrap_err();
    let once = [
        "started".to_owned(),
        format!("[127.0.0.1:{port}]"),
        "calling 127.0.0.1".into(),
        "not 127.0.0.1: ConnectionRefused".into(),
    ];
    assert_eq!(told.words(), [&once[..], &once[..]].concat());

    let told = Told::default();
    net::connect(&Address::null(), &told.options()).unwrap();
    assert_eq!(told.words(), ["started", "opened false"]);
}
