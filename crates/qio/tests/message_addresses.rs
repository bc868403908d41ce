//! The addresses of messages: `udp:`, `unix-dgram:`, `unix-seqpacket:`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{PATIENCE, impatiently, in_own_process, patience};
use qio::error::Class;
use qio::net::{Accepted, Admit, ConnectOptions, ListenEvent, ListenOptions, Listener};
use qio::net::{connect, listen};
use qio::transport::Messages;
use qio::{Address, Channel, ChannelExt, Features, Interest, Mode};
use rustix::net::sockopt;

fn open(text: &str) -> qio::Result<Arc<dyn Channel>> {
    connect(&text.parse::<Address>()?, &ConnectOptions::new())
}

fn serve(text: &str) -> Listener {
    listen(&text.parse().unwrap(), &ListenOptions::new()).unwrap()
}

fn accept(listener: &Listener) -> Accepted {
    listener.accept(patience()).unwrap()
}

fn receive(channel: &dyn Channel) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let length = impatiently(|| channel.receive(&mut buf)).unwrap().unwrap();
    buf.truncate(length);
    buf
}

#[test]
fn a_udp_address_sends_from_and_to_the_ports_it_names() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let far = server.local_addr().unwrap();
    assert_ne!(free.port(), far.port());
    let client = open(&format!("udp://{far}?bind={free}")).unwrap();
    client.send(b"question").unwrap();
    let mut buf = [0; 20];
    let (length, sender) = server.recv_from(&mut buf).unwrap();
    assert_eq!((length, sender), (8, free));
    server.send_to(b"answer", sender).unwrap();
    assert_eq!(receive(&*client), b"answer");
    // Others are not heard.
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.send_to(b"lie", free).unwrap();
    server.send_to(b"truth", sender).unwrap();
    assert_eq!(receive(&*client), b"truth");
}

#[test]
fn the_local_address_of_udp_may_be_a_part() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = server.local_addr().unwrap();
    for (bind, host) in
        [("127.0.0.2", "127.0.0.2"), ("127.0.0.3:0", "127.0.0.3"), (":0", "127.0.0.1")]
    {
        let client = open(&format!("udp://{far}?bind={bind}")).unwrap();
        client.send(b"x").unwrap();
        let (_, sender) = server.recv_from(&mut [0]).unwrap();
        assert_eq!(sender.ip().to_string(), host);
    }
    for bind in ["he/re", "127.0.0.1:70000", ":0x", "[::1]:0"] {
        let error = open(&format!("udp://{far}?bind={bind}")).unwrap_err();
        assert_eq!(error.class(), Class::Usage, "{bind}");
    }
    let error = open(&format!("udp://{far}?bind=203.0.113.7")).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert!(error.report().to_string().contains("bind to 203.0.113.7:0"), "{}", error.report());
    assert_eq!(open("udp://127.0.0.1:0").unwrap_err().class(), Class::Usage);
    assert_eq!(open("udp://:9").unwrap_err().class(), Class::Usage);
}

#[test]
fn broadcasting_has_to_be_asked_for() {
    let has = |text: &str| {
        let client = open(text).unwrap();
        let fd = client.find::<Messages>().unwrap().descriptor().unwrap();
        sockopt::socket_broadcast(fd).unwrap()
    };
    assert!(!has("udp://127.0.0.1:9"));
    assert!(has("udp://127.0.0.1:9?broadcast"));
    let error = open("udp://255.255.255.255:9").unwrap_err();
    assert_eq!(error.class(), Class::Open);
}

#[test]
fn a_unix_datagram_address_has_a_name_for_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let server = UnixDatagram::bind(&path).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 10];
    let own = folder.path().join("own");
    let to = path.display();
    let names =
        ["".to_owned(), format!("?bind={}", own.display()), "?bind=@qio-test-own".to_owned()];
    for name in names {
        let client = open(&format!("unix-dgram:{to}{name}")).unwrap();
        assert!(client.features().contains(Features::MESSAGES | Features::FD_PASS));
        client.send(b"question").unwrap();
        let (length, sender) = server.recv_from(&mut buf).unwrap();
        assert_eq!(length, 8);
        assert!(!sender.is_unnamed(), "{name}");
        server.send_to_addr(b"answer", &sender).unwrap();
        assert_eq!(receive(&*client), b"answer");
        assert_eq!(own.exists(), name.contains("/own"), "{name}");
        client.close().unwrap();
        assert!(!own.exists(), "the file of our name is left behind");
    }
    let error = open(&format!("unix-dgram:{to}?bind={to}")).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert!(path.exists(), "the file of another socket was removed");
    drop(server);
    assert_eq!(open(&format!("unix-dgram:{to}")).unwrap_err().class(), Class::Open);
    let long = "x".repeat(200);
    assert_eq!(open(&format!("unix-dgram:{to}?bind={long}")).unwrap_err().class(), Class::Usage);
}

#[test]
fn a_datagram_socket_removes_the_file_of_its_name_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let _server = UnixDatagram::bind(&path).unwrap();
    let own = folder.path().join("own");
    let address = format!("unix-dgram:{}?bind={}", path.display(), own.display());
    drop(open(&address).unwrap());
    assert!(!own.exists(), "the file of our name is left behind");
    let client = open(&address).unwrap();
    // What has the name next may have the inode, too: file systems use them again.
    let next = folder.path().join("next");
    std::fs::hard_link(&own, &next).unwrap();
    client.close().unwrap();
    assert!(!own.exists(), "the file of our name is left behind");
    std::fs::rename(&next, &own).unwrap();
    drop(client);
    assert!(own.exists(), "the file of another socket was removed");
}

#[test]
fn datagrams_of_several_unix_peers_cannot_be_listened_for() {
    let error = "listen:unix-dgram:/tmp/x".parse::<Address>().unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    let text = error.report().to_string();
    assert!(text.contains("unix-dgram cannot be listened on") && text.contains("udp"), "{text}");
}

#[test]
fn a_seqpacket_listener_accepts_and_both_sides_keep_messages_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let pid = std::process::id();
    for name in [path.display().to_string(), format!("@qio-test-seqpacket-{pid}")] {
        let listener = serve(&format!("listen:unix-seqpacket:{name}"));
        assert_eq!(listener.local_addresses()[0].to_string(), format!("unix-seqpacket:{name}"));
        let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
        let server = accept(&listener);
        assert!(server.peer.contains(&format!("process {pid}")), "{}", server.peer);
        client.send(b"one").unwrap();
        client.send(b"three").unwrap();
        client.finish().unwrap();
        assert_eq!(receive(&*server.channel), b"one");
        assert_eq!(receive(&*server.channel), b"three");
        assert_eq!(server.channel.receive(&mut [0]).unwrap(), None);
        // A stream does not connect to it.
        assert_eq!(open(&format!("unix:{name}")).unwrap_err().class(), Class::Open);
    }
    assert!(!path.exists());
}

#[test]
fn a_udp_listener_makes_a_channel_of_each_peer() {
    for host in ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"] {
        if host.contains(':') && UdpSocket::bind("[::1]:0").is_err() {
            println!("skipped: no IPv6 loopback");
            continue;
        }
        let listener = serve(&format!("listen:udp://{host}:0"));
        let port = listener.local_addresses()[0].port().unwrap();
        let near = if host == "[::1]" { "[::1]" } else { "127.0.0.1" };
        let to = format!("{near}:{port}");
        let clients: Vec<_> =
            (0..3).map(|_| UdpSocket::bind(format!("{near}:0")).unwrap()).collect();
        // Interleaved, and all of it before the first is accepted.
        for round in 0..10_u8 {
            for (index, client) in clients.iter().enumerate() {
                client.send_to(&[index as u8, round], &to).unwrap();
            }
        }
        for (index, client) in clients.iter().enumerate() {
            let server = accept(&listener);
            assert_eq!(server.peer, format!("udp://{}", client.local_addr().unwrap()));
            // From here on it goes to the socket of its own.
            client.send_to(&[index as u8, 10], &to).unwrap();
            for round in 0..=10 {
                assert_eq!(receive(&*server.channel), [index as u8, round], "{host}");
            }
            server.channel.send(b"answer").unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buf = [0; 10];
            let (length, sender) = client.recv_from(&mut buf).unwrap();
            assert_eq!((length, sender.port()), (6, port));
            // The end of the channel makes it a new peer.
            server.channel.close().unwrap();
            drop(server);
            client.send_to(b"again", &to).unwrap();
        }
        for _ in &clients {
            assert_eq!(receive(&*accept(&listener).channel), b"again");
        }
        let nobody = listener.try_accept().unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn an_empty_datagram_makes_a_peer_too() {
    let listener = serve("listen:udp://127.0.0.1:0");
    let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
    client.send(b"").unwrap();
    let server = accept(&listener).channel;
    assert_eq!(server.receive(&mut [0; 8]).unwrap(), Some(0));
    server.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(server.receive(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn what_a_new_peer_sends_at_once_is_bounded() {
    let listener = serve("listen:udp://127.0.0.1:0");
    let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
    for number in 0..150_u8 {
        client.send(&[number]).unwrap();
    }
    let server = accept(&listener).channel;
    server.set_mode(Mode::NonBlocking).unwrap();
    let mut buf = [0];
    for number in 0..64 {
        assert_eq!(server.receive(&mut buf).unwrap(), Some(1));
        assert_eq!(buf[0], number);
    }
    assert_eq!(server.receive(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.send(&[200]).unwrap();
    assert_eq!(receive(&*server), [200]);
}

#[test]
fn a_udp_port_in_use_is_an_error_also_for_another_listener() {
    let listener = serve("listen:udp://127.0.0.1:0");
    let address = listener.local_addresses()[0].clone();
    let client = connect(&address, &ConnectOptions::new()).unwrap();
    client.send(b"x").unwrap();
    let _server = accept(&listener);
    let error = listen(&address.listening(), &ListenOptions::new()).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert!(error.report().to_string().contains("in use"), "{}", error.report());
}

#[test]
fn closing_a_udp_listener_wakes_who_waits_and_leaves_the_peers() {
    let listener = Arc::new(serve("listen:udp://127.0.0.1:0"));
    let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
    client.send(b"x").unwrap();
    let server = accept(&listener).channel;
    let job = qio_testkit::Job::start({
        let listener = Arc::clone(&listener);
        move || listener.accept(patience()).map(drop)
    });
    job.wait_until_asleep();
    listener.close().unwrap();
    assert_eq!(job.finish().unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(receive(&*server), b"x");
    client.send(b"y").unwrap();
    assert_eq!(receive(&*server), b"y");
}

#[test]
fn a_peer_that_cannot_be_accepted_for_want_of_descriptors_is_not_lost() {
    in_own_process("a_peer_that_cannot_be_accepted_for_want_of_descriptors_is_not_lost", || {
        let listener = serve("listen:udp://127.0.0.1:0");
        let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
        client.send(b"first").unwrap();
        client.send(b"second").unwrap();
        let mut hoard = Vec::new();
        use rustix::process::{Resource, Rlimit, setrlimit};
        let few = Rlimit { current: Some(64), maximum: Some(64) };
        setrlimit(Resource::Nofile, few).unwrap();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let error = listener.try_accept().unwrap_err();
        assert!(qio::net::is_descriptor_limit(&error), "{error}");
        hoard.clear();
        let server = accept(&listener).channel;
        assert_eq!(receive(&*server), b"first");
        assert_eq!(receive(&*server), b"second");
    });
}

/// A socket that is bound and not yet connected gets what is meant for others.
#[test]
fn peers_that_come_at_the_same_time_get_nothing_of_each_other() {
    const PEERS: usize = 24;
    const EACH: usize = 8;
    for _ in 0..10 {
        let listener = serve("listen:udp://127.0.0.1:0");
        let to = listener.local_addresses()[0].clone();
        let clients: Vec<_> = (0..PEERS)
            .map(|_| {
                let to = to.clone();
                std::thread::spawn(move || {
                    let client = connect(&to, &ConnectOptions::new()).unwrap();
                    let fd = client.find::<Messages>().unwrap().descriptor().unwrap();
                    let own = rustix::net::getsockname(fd).unwrap();
                    let port = std::net::SocketAddr::try_from(own).unwrap().port();
                    for number in 0..EACH {
                        client.send(&[&port.to_be_bytes()[..], &[number as u8]].concat()).unwrap();
                        std::thread::yield_now();
                    }
                    client
                })
            })
            .collect();
        for _ in 0..PEERS {
            let server = accept(&listener);
            let address: Address = server.peer.parse().unwrap();
            let port = address.port().unwrap().to_be_bytes();
            let mut seen = Vec::new();
            let mut buf = [0; 8];
            // Those that arrive in the moment between bind and connect may come late, or not at
            // all, as datagrams may: but not to somebody else, and not twice.
            while seen.len() < EACH {
                let soon = Some(Instant::now() + Duration::from_millis(100));
                if server.channel.wait(Interest::READ, soon).is_err() {
                    break;
                }
                let Some(length) = server.channel.receive(&mut buf).unwrap() else { break };
                let [high, low, number] = buf[..length] else { panic!("{length} bytes") };
                assert_eq!([high, low], port, "{}", server.peer);
                assert!(!seen.contains(&number), "{}", server.peer);
                seen.push(number);
            }
            assert!(seen.len() > EACH / 2, "{}: {seen:?}", server.peer);
        }
        for client in clients {
            client.join().unwrap();
        }
    }
}

fn serve_with(text: &str, options: &ListenOptions) -> Listener {
    listen(&text.parse().unwrap(), options).unwrap()
}

fn would_block(listener: &Listener) -> bool {
    listener.try_accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_udp_peer_is_checked_by_its_network_before_it_is_handed_out() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let options = ListenOptions::new()
        .admit(Admit::networks(["127.0.0.2".parse().unwrap()]))
        .observe(move |event| {
            if let ListenEvent::Refused { peer, reason } = event {
                notes.lock().unwrap().push(format!("{peer}: {reason}"));
            }
        });
    let listener = serve_with("listen:udp://127.0.0.1:0", &options);
    assert!(listener.is_ip() && !listener.is_unix());
    let to = listener.local_addresses()[0].to_string();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let friend = open(&format!("{to}?bind=127.0.0.2")).unwrap();
    stranger.send_to(b"let me in", to.strip_prefix("udp://").unwrap()).unwrap();
    friend.send(b"hello").unwrap();
    listener.set_name("dns");
    let client = accept(&listener);
    assert_eq!(client.who.remote().unwrap().ip().to_string(), "127.0.0.2");
    assert_eq!(client.who.to_string(), client.peer);
    assert_eq!(client.channel.name().as_ref() as &str, format!("dns {}", client.peer));
    assert!(client.peer.starts_with("udp://127.0.0.2:"), "{}", client.peer);
    assert_eq!(receive(&*client.channel), b"hello");
    assert!(would_block(&listener));
    assert_eq!(listener.refused(), 1);
    let stranger = stranger.local_addr().unwrap();
    let refusal = format!("udp://{stranger}: 127.0.0.1 is in none of the allowed networks");
    assert_eq!(*told.lock().unwrap(), [refusal]);
}

#[test]
fn udp_peers_wait_for_a_place_and_for_the_end_of_a_pause() {
    let listener = serve_with("listen:udp://127.0.0.1:0", &ListenOptions::new().max_connections(1));
    let to = listener.local_addresses()[0].clone();
    let [first, second] = [(); 2].map(|()| connect(&to, &ConnectOptions::new()).unwrap());
    first.send(b"first").unwrap();
    second.send(b"second").unwrap();
    let one = accept(&listener);
    // The second is no longer in the queue of the kernel.
    assert!(would_block(&listener));
    let late = listener.accept(Some(Instant::now())).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    one.channel.close().unwrap();
    listener.pause();
    assert!(would_block(&listener));
    listener.resume();
    assert_eq!(receive(&*accept(&listener).channel), b"second");
}

/// The port of the listener is the port of its peers, too.
#[test]
fn a_udp_listener_is_reopened_beside_its_peers() {
    let listener = serve("listen:udp://127.0.0.1:0");
    let addresses = listener.local_addresses();
    let old = connect(&addresses[0], &ConnectOptions::new()).unwrap();
    old.send(b"1").unwrap();
    let server = accept(&listener).channel;
    assert_eq!(receive(&*server), b"1");
    listener.close().unwrap();
    // Nobody else gets the port meanwhile.
    let error = listen(&addresses[0].clone().listening(), &ListenOptions::new()).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    listener.reopen().unwrap();
    assert_eq!(listener.local_addresses(), addresses);
    old.send(b"2").unwrap();
    assert_eq!(receive(&*server), b"2");
    assert!(would_block(&listener));
    let new = connect(&addresses[0], &ConnectOptions::new()).unwrap();
    new.send(b"3").unwrap();
    assert_eq!(receive(&*accept(&listener).channel), b"3");
    // And once more without anybody.
    drop(server);
    listener.close().unwrap();
    listener.reopen().unwrap();
    old.send(b"4").unwrap();
    assert_eq!(receive(&*accept(&listener).channel), b"4");
}

#[test]
fn udp_sockets_have_the_options_of_the_address_also_those_of_peers() {
    let options = "ttl=7&tos=16&rcvbuf=50000&sndbuf=60000&device=lo";
    let listener = serve(&format!("listen:udp://127.0.0.1:0?{options}"));
    let to = &listener.local_addresses()[0];
    let client = open(&format!("{to}?{options}")).unwrap();
    client.send(b"x").unwrap();
    let server = accept(&listener).channel;
    for channel in [&client, &server] {
        let fd = channel.find::<Messages>().unwrap().descriptor().unwrap();
        assert_eq!(sockopt::ip_ttl(&fd).unwrap(), 7);
        assert_eq!(sockopt::ip_tos(&fd).unwrap(), 16);
        // The kernel doubles both.
        assert_eq!(sockopt::socket_recv_buffer_size(&fd).unwrap(), 100_000);
        assert_eq!(sockopt::socket_send_buffer_size(&fd).unwrap(), 120_000);
    }
    assert_eq!(receive(&*server), b"x");
    let error = open("udp://127.0.0.1:9?device=nosuchdevice").unwrap_err();
    assert!(error.report().to_string().contains("device=nosuchdevice"), "{}", error.report());
}

#[test]
fn a_udp_port_in_use_names_who_has_it() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("listen:udp://{}", socket.local_addr().unwrap()).parse().unwrap();
    let error = listen(&address, &ListenOptions::new()).unwrap_err().report().to_string();
    assert!(error.contains(&format!("process {}, has it", std::process::id())), "{error}");
}

#[test]
fn seqpacket_addresses_have_all_options_of_unix_sockets() {
    use std::os::unix::fs::PermissionsExt;
    let listener =
        serve(&format!("listen:unix-seqpacket:qio-{}?abstract&tight=off", std::process::id()));
    let address = listener.local_addresses()[0].clone();
    assert!(address.to_string().ends_with("?tight=off"), "{address}");
    let client = connect(&address, &ConnectOptions::new()).unwrap();
    client.send(b"padded").unwrap();
    assert_eq!(receive(&*accept(&listener).channel), b"padded");

    let listener = serve("listen:unix-seqpacket:");
    assert!(listener.is_unix());
    let text = listener.local_addresses()[0].to_string();
    let path = std::path::PathBuf::from(text.strip_prefix("unix-seqpacket:").unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let server = std::thread::spawn({
        let path = path.clone();
        move || open(&format!("unix-seqpacket:{}?retry=forever", path.display()))
    });
    let accepted = accept(&listener);
    server.join().unwrap().unwrap().send(b"made up").unwrap();
    assert_eq!(receive(&*accepted.channel), b"made up");
    listener.close().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_unix_datagram_address_names_padded_names() {
    let name = format!("qio-padded-{}", std::process::id());
    let mut padded = [0; 107];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    let address = rustix::net::SocketAddrUnix::new_abstract_name(&padded).unwrap();
    let kind = rustix::net::SocketType::DGRAM;
    let server = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).unwrap();
    rustix::net::bind(&server, &address).unwrap();
    assert_eq!(open(&format!("unix-dgram:@{name}")).unwrap_err().class(), Class::Open);
    let client = open(&format!("unix-dgram:@{name}?tight=off")).unwrap();
    client.send(b"x").unwrap();
    let mut buf = [0; 10];
    let (_, length) =
        rustix::net::recv(&server, &mut buf, rustix::net::RecvFlags::empty()).unwrap();
    assert_eq!(length, 1);
}

#[test]
fn an_inherited_seqpacket_listener_is_accepted_from() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    let name = format!("qio-inherited-{}", std::process::id());
    rustix::net::bind(&fd, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    rustix::net::listen(&fd, 5).unwrap();
    let listener = Listener::new(&ListenOptions::new());
    listener.add_fd(fd).unwrap();
    let client = open(&format!("unix-seqpacket:@{name}")).unwrap();
    client.send(b"one").unwrap();
    client.send(b"two").unwrap();
    let server = accept(&listener).channel;
    assert_eq!(receive(&*server), b"one");
    assert_eq!(receive(&*server), b"two");
}
