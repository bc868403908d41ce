//! Descriptors that were handed over, by number and by name.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use common::patience;
use qio::error::Class;
use qio::net::{self, Address, ConnectOptions, Inherited, ListenOptions};
use qio::{ChannelExt, InheritedFds};

/// A table of descriptors with names, from 3 on.
fn table<const N: usize>(fds: [(&str, OwnedFd); N]) -> Inherited {
    let mut table = InheritedFds::new();
    for (number, (name, fd)) in (3..).zip(fds) {
        table.insert(number, fd);
        table.set_name(number, name);
    }
    table.into()
}

fn connect(text: &str, table: &Inherited) -> qio::Result<std::sync::Arc<dyn qio::Channel>> {
    let options = ConnectOptions::new().inherited(table.clone());
    net::connect(&text.parse().unwrap(), &options)
}

fn listen(text: &str, table: &Inherited) -> qio::Result<net::Listener> {
    let options = ListenOptions::new().inherited(table.clone());
    net::listen(&text.parse().unwrap(), &options)
}

fn port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_descriptor_is_taken_by_its_name() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let table = table([("connection", theirs.into())]);
    let channel = connect("fd:connection", &table).unwrap();
    channel.write_all(b"x").unwrap();
    (&ours).read_exact(&mut [0]).unwrap();
    let error = connect("fd:connection", &table).unwrap_err();
    let expected = "connect fd:connection: the descriptor named \"connection\" is in use";
    assert_eq!(error.report().to_string(), expected);
}

#[test]
fn all_sockets_of_a_name_are_listened_on_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let ((one, first), (other, _), (two, second)) = (port(), port(), port());
    let unix = UnixListener::bind(&path).unwrap();
    let fds = [
        ("web", one.into()),
        ("admin", other.into()),
        ("web", two.into()),
        ("web", OwnedFd::from(unix)),
    ];
    let table = table(fds);
    let listener = listen("listen:fd:web", &table).unwrap();
    let expected = [format!("tcp://{first}"), format!("tcp://{second}"), "fd:6".to_owned()];
    let addresses = listener.local_addresses().iter().map(Address::to_string).collect::<Vec<_>>();
    assert_eq!(addresses, expected);
    for address in [first, second] {
        let mut client = TcpStream::connect(address).unwrap();
        let server = listener.accept(patience()).unwrap();
        client.write_all(b"x").unwrap();
        server.channel.read_exact(&mut [0]).unwrap();
    }
    let _client = UnixStream::connect(&path).unwrap();
    listener.accept(patience()).unwrap();
    assert_eq!(table.lock().numbers().collect::<Vec<_>>(), [4], "others are left alone");
}

#[test]
fn one_that_does_not_listen_spoils_all_of_its_name_and_all_are_given_back() {
    let (stream, mut peer) = UnixStream::pair().unwrap();
    let ((one, address), (two, _)) = (port(), port());
    let table = table([("web", one.into()), ("web", stream.into()), ("web", two.into())]);
    let error = listen("listen:fd:web", &table).unwrap_err();
    let expected = "listen fd:web: the socket does not listen (it is fd:4)";
    assert_eq!((error.class(), error.report().to_string()), (Class::Open, expected.to_owned()));
    assert_eq!(table.lock().named("web").collect::<Vec<_>>(), [3, 4, 5]);
    let one = table.lock().take(3).unwrap();
    let stream = table.lock().take(4).unwrap();
    // Untouched: an accept would wait, and the stream still is one.
    let flags = rustix::fs::fcntl_getfl(one.as_fd()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    let _client = TcpStream::connect(address).unwrap();
    TcpListener::from(one).accept().unwrap();
    UnixStream::from(stream).write_all(b"x").unwrap();
    peer.read_exact(&mut [0]).unwrap();
}

#[test]
fn what_is_not_there_or_not_clear_is_told_with_what_there_is() {
    let ((one, _), (two, _), (three, _)) = (port(), port(), port());
    let table = table([("web", one.into()), ("admin", two.into()), ("web", three.into())]);
    for (text, expected) in [
        ("fd:web", "2 descriptors are named \"web\" (say which one: fd:3, fd:5)"),
        ("fd:wbe", "no descriptor is named \"wbe\" (did you mean web? names: web, admin)"),
        ("fd:nobody", "no descriptor is named \"nobody\" (names: web, admin)"),
        (
            "fd:7",
            "no descriptor 7 was handed over, or it is in use; there are: 3 (web), 4 (admin), 5 (web)",
        ),
    ] {
        let error = connect(text, &table).unwrap_err();
        assert_eq!(error.report().to_string(), format!("connect {text}: {expected}"));
        let early = table.check(&text.parse().unwrap()).unwrap_err();
        assert_eq!(early.report().to_string(), error.report().to_string());
    }
    let error = listen("listen:fd:wbe", &table).unwrap_err().report().to_string();
    assert!(error.contains("did you mean web?"), "{error}");
    assert_eq!(table.lock().numbers().count(), 3, "nothing was taken");
    for fine in ["fd:admin", "fd:4", "listen:fd:nobody", "null:"] {
        table.check(&fine.parse().unwrap()).unwrap();
    }
    assert_eq!(table.lock().numbers().count(), 3, "a check takes nothing");
}

#[test]
fn a_remark_explains_why_nothing_is_there() {
    let mut fds = InheritedFds::new();
    fds.set_remark("LISTEN_PID is 1");
    let table = Inherited::from(fds);
    for (text, what) in [
        ("fd:web", "no descriptor is named \"web\""),
        ("fd:3", "no descriptor 3 was handed over, or it is in use; there are: none"),
    ] {
        let error = connect(text, &table).unwrap_err().report().to_string();
        assert_eq!(error, format!("connect {text}: {what} (LISTEN_PID is 1)"));
    }
    let empty = Inherited::default();
    let error = connect("fd:web", &empty).unwrap_err().report().to_string();
    assert_eq!(error, "connect fd:web: no descriptor is named \"web\" (names: none)");
}

#[test]
fn names_have_the_characters_and_the_length_that_systemd_gives_them() {
    let refused = |text: &str| text.parse::<Address>().is_err();
    assert!(!refused(&format!("fd:{}", "n".repeat(255))));
    assert!(refused(&format!("fd:{}", "n".repeat(256))));
    assert!(refused("fd:a%3Ab") && refused("fd:a%09b") && refused("fd:\u{e4}") && refused("fd:-7"));
    assert!(!refused("fd:3x") && !refused("fd:a b~!") && !refused("fd:foo.socket"));
    assert_eq!(Address::fd_named("web"), "fd:web".parse().unwrap());
}
