//! vsock, as far as the machine has it.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::patience;
use qio::error::Class;
use qio::net::{self, Address, ConnectOptions, ListenOptions, Listener};
use qio::{Channel, ChannelExt};

/// A listener; `None`, with the reason printed, where the machine has no vsock.
fn listen(text: &str) -> Option<Listener> {
    match net::listen(&text.parse().unwrap(), &ListenOptions::new()) {
        Ok(listener) => Some(listener),
        Err(error) => {
            let hint = error.hint_text().unwrap_or_default().to_owned();
            let none = ["this kernel has no vsock", "this machine has no vsock"];
            assert!(none.iter().any(|none| hint.starts_with(none)), "{error:?}");
            println!("skipped: {hint}");
            None
        }
    }
}

fn local(listener: &Listener) -> (String, u32) {
    let local = listener.local_addresses().remove(0).to_string();
    let (cid, port) = local.strip_prefix("vsock:").unwrap().split_once(':').unwrap();
    (cid.to_owned(), port.parse().unwrap())
}

#[test]
fn a_listener_is_on_any_cid_and_a_free_port_where_none_is_said() {
    let Some(listener) = listen("listen:vsock:any") else { return };
    let (cid, port) = local(&listener);
    assert_eq!(cid, "any");
    let error = net::listen(&Address::vsock(u32::MAX, port).listening(), &ListenOptions::new());
    let error = error.unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AddrInUse));
    assert_eq!(
        error.report().to_string(),
        format!("listen vsock:any:{port}: address already in use")
    );
    assert_eq!(listener.try_accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let soon = Instant::now() + Duration::from_millis(5);
    assert_eq!(listener.accept(Some(soon)).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    listener.close().unwrap();
    // The port is free again.
    let again = listen(&format!("listen:vsock:{port}")).unwrap();
    assert_eq!(local(&again), ("any".to_owned(), port));
}

#[test]
fn a_cid_that_is_not_that_of_this_machine_is_an_error_that_says_so() {
    if listen("listen:vsock:any").is_none() {
        return;
    }
    // Nobody has this one: it is reserved.
    let address = Address::vsock(0, u32::MAX).listening();
    let error = net::listen(&address, &ListenOptions::new()).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert_eq!(error.hint_text(), Some("that is not the CID of this machine"), "{error:?}");
}

#[test]
fn closing_a_listener_wakes_who_waits_for_a_client() {
    let Some(listener) = listen("listen:vsock:any") else { return };
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let listener = &listener;
        let waiter = scope.spawn(move || {
            common::announcing_waits(waits, || listener.accept(patience()).unwrap_err())
        });
        waiting.recv_timeout(common::PATIENCE).unwrap();
        let start = Instant::now();
        listener.close().unwrap();
        assert_eq!(waiter.join().unwrap().kind(), std::io::ErrorKind::NotConnected);
        assert!(start.elapsed() < common::PATIENCE / 2, "it was the patience that ended");
    });
}

#[test]
fn a_client_on_the_same_machine_is_known_by_its_address() {
    // A call of CID 1 leaves the machine where this is missing, and what it reaches then is not
    // ours.
    if !Path::new("/dev/vsock").exists() || !Path::new("/sys/module/vsock_loopback").exists() {
        println!("skipped: the module vsock_loopback is not loaded");
        return;
    }
    let Some(listener) = listen("listen:vsock:any") else { return };
    let (_, port) = local(&listener);
    let options = ConnectOptions::new().timeout(common::PATIENCE);
    let client = net::connect(&Address::vsock(1, port), &options).unwrap();
    let accepted = listener.accept(patience()).unwrap();
    assert!(accepted.peer.starts_with("vsock:1:"), "{}", accepted.peer);
    assert_eq!(accepted.channel.name(), accepted.peer);
    assert_eq!(client.name(), format!("vsock:1:{port}"));
    accepted.channel.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    client.finish().unwrap();
    assert_eq!(accepted.channel.read(&mut [0]).unwrap(), 0);
    drop(listener);
    let error = net::connect(&Address::vsock(1, port), &options).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert!(error.hint_text().unwrap().starts_with("nothing listens there"), "{error:?}");
}
