//! Listening.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, announcing_waits, in_own_process, open_fds, patience};
use qio::error::Class;
use qio::net::{
    self, Address, ConnectOptions, Inherited, ListenOptions, Listener, is_descriptor_limit,
};
use qio::transport::Socket;
use qio::watch::{PollSet, Steps, run};
use qio::{Channel, ChannelExt, InheritedFds};
use rustix::io::FdFlags;
use rustix::net::sockopt;

fn listen(text: &str) -> qio::Result<Listener> {
    net::listen(&text.parse()?, &ListenOptions::new())
}

fn listen_unix(path: &Path) -> qio::Result<Listener> {
    net::listen(&Address::unix(path).listening(), &ListenOptions::new())
}

fn connect(address: &Address) -> qio::Result<Arc<dyn Channel>> {
    net::connect(address, &ConnectOptions::new())
}

fn first(listener: &Listener) -> Address {
    listener.local_addresses().remove(0)
}

fn port(listener: &Listener) -> u16 {
    first(listener).port().unwrap()
}

fn descriptor(channel: &Arc<dyn Channel>) -> qio::watch::SharedFd {
    channel.find::<Socket>().unwrap().descriptor().unwrap()
}

#[test]
fn a_listener_without_a_host_is_on_loopback_only() {
    let listener = listen("listen:tcp://:0").unwrap();
    assert_eq!(listener.to_string(), "listen:tcp://:0");
    let addresses = listener.local_addresses();
    assert_eq!(addresses.len(), 1);
    let port = port(&listener);
    assert_ne!(port, 0);
    assert_eq!(addresses[0].to_string(), format!("tcp://127.0.0.1:{port}"));
    let client = connect(&addresses[0]).unwrap();
    let server = listener.accept(patience()).unwrap();
    let peer = client.find::<Socket>().unwrap().local_address().unwrap();
    assert_eq!(server.peer, format!("tcp://{peer}"));
    assert_eq!(server.channel.name(), server.peer);
}

#[test]
fn accepted_sockets_have_the_options_of_the_address() {
    let listener = listen("listen:tcp://:0").unwrap();
    let _client = connect(&first(&listener)).unwrap();
    let fd = descriptor(&listener.accept(patience()).unwrap().channel);
    assert!(sockopt::tcp_nodelay(&fd).unwrap());
    assert!(sockopt::socket_keepalive(&fd).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&fd).unwrap(), Duration::from_secs(60));
    assert_eq!(sockopt::tcp_keepintvl(&fd).unwrap(), Duration::from_secs(10));
    assert_eq!(sockopt::tcp_keepcnt(&fd).unwrap(), 6);

    let listener =
        listen("listen:tcp://:0?nodelay=off&keep-alive-idle=5&keep-alive-count=2").unwrap();
    let _client = connect(&first(&listener)).unwrap();
    let fd = descriptor(&listener.accept(patience()).unwrap().channel);
    assert!(!sockopt::tcp_nodelay(&fd).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&fd).unwrap(), Duration::from_secs(5));
    assert_eq!(sockopt::tcp_keepcnt(&fd).unwrap(), 2);
}

#[test]
fn accepted_sockets_block_and_listening_ones_do_not() {
    let listener = listen("listen:tcp://:0").unwrap();
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let client = connect(&first(&listener)).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    let flags = rustix::fs::fcntl_getfl(descriptor(&server)).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    let writer = thread::spawn(move || client.write_all(b"x"));
    server.read_exact(&mut [0]).unwrap();
    writer.join().unwrap().unwrap();
}

#[test]
fn children_see_neither_listening_nor_accepted_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let unix = listen_unix(&dir.path().join("x")).unwrap();
    let tcp = listen("listen:tcp://:0").unwrap();
    // One that was not made here, and a client that holds a place.
    let added = Listener::new(&ListenOptions::new().max_connections(1));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::io::fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    added.add_fd(socket.into()).unwrap();
    let clients = [&unix, &tcp, &added].map(|listener| connect(&first(listener)).unwrap());
    let servers =
        [&unix, &tcp, &added].map(|listener| listener.accept(patience()).unwrap().channel);
    for channel in clients.iter().chain(&servers) {
        let flags = rustix::io::fcntl_getfd(descriptor(channel)).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
    }
    let child = std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let seen = String::from_utf8(child.stdout).unwrap();
    let mine = open_fds();
    let sockets = mine.iter().filter(|(_, target)| target.starts_with("socket:"));
    for (fd, socket) in sockets {
        // A test beside this one may hold sockets of std, which have CLOEXEC, too.
        assert!(*fd < 3 || !seen.contains(socket.as_str()), "{socket} in {seen}");
    }
}

#[test]
fn a_restarted_listener_gets_its_port_back() {
    let listener = listen("listen:tcp://:0").unwrap();
    let port = port(&listener);
    let client = connect(&first(&listener)).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    // Our end closes first, so the port stays in TIME_WAIT.
    server.close().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop((listener, client));
    listen(&format!("listen:tcp://:{port}")).unwrap();
}

#[test]
fn a_port_in_use_names_who_uses_it() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("listen:tcp://{}", other.local_addr().unwrap());
    let error = listen(&address).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
    let report = error.report().to_string();
    let start = format!("{}: address already in use (", address.replacen(":", " ", 1));
    let end = format!(", process {}, listens there)", std::process::id());
    assert!(report.starts_with(&start) && report.ends_with(&end), "{report}");
}

#[test]
fn an_occupied_address_leaks_no_descriptor() {
    in_own_process("an_occupied_address_leaks_no_descriptor", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let _unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp_address = format!("listen:tcp://{}", tcp.local_addr().unwrap());
        let before = open_fds();
        for _ in 0..100 {
            listen(&tcp_address).unwrap_err();
            listen_unix(&path).unwrap_err();
            listen("listen:tcp://203.0.113.1:0").unwrap_err();
        }
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn any_port_on_a_name_is_one_port_for_all_its_addresses() {
    let listener = listen("listen:tcp://localhost:0").unwrap();
    let addresses = listener.local_addresses();
    assert!(!addresses.is_empty());
    let port = addresses[0].port();
    assert!(addresses.iter().all(|address| address.port() == port && port != Some(0)));
    for address in &addresses {
        connect(address).unwrap();
        listener.accept(patience()).unwrap();
    }
}

#[test]
fn all_interfaces_join_a_listener_that_has_some_of_them() {
    let v4 = listen("listen:tcp://0.0.0.0:0").unwrap();
    let port = port(&v4);
    let v6 = match listen(&format!("listen:tcp://[::]:{port}")) {
        Ok(v6) => v6,
        Err(error) if error.io_kind() == Some(ErrorKind::Unsupported) => return,
        Err(error) => panic!("{}", error.report()),
    };
    connect(&Address::tcp("::1", port)).unwrap();
    v6.accept(patience()).unwrap();
    connect(&Address::tcp("127.0.0.1", port)).unwrap();
    v4.accept(patience()).unwrap();
    // Alone, it has them all.
    drop((v4, v6));
    let both = listen("listen:tcp://[::]:0").unwrap();
    let port = first(&both).port().unwrap();
    connect(&Address::tcp("127.0.0.1", port)).unwrap();
    both.accept(patience()).unwrap();
}

/// Whether a client on `host` gets through to the port.
fn answers(host: &str, port: u16) -> bool {
    match connect(&Address::tcp(host, port)) {
        Ok(_) => true,
        Err(error) if error.io_kind() == Some(ErrorKind::ConnectionRefused) => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn the_families_of_an_address_decide_who_gets_in() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: this machine has no ::1");
    }
    for (address, v4, v6) in [
        ("listen:tcp://[::]:0", true, true),
        ("listen:tcp://[::]:0?ipv4&ipv6", true, true),
        ("listen:tcp://[::]:0?ipv4=off", false, true),
        ("listen:tcp://[::]:0?ipv6", false, true),
        ("listen:tcp://[::]:0?ipv4=off&ipv6=on", false, true),
        ("listen:tcp://0.0.0.0:0", true, false),
        ("listen:tcp://0.0.0.0:0?ipv6=off", true, false),
        ("listen:tcp://:0", true, false),
        ("listen:tcp://:0?ipv4", true, false),
        ("listen:tcp://:0?ipv4=off", false, true),
        ("listen:tcp://:0?ipv6", false, true),
        ("listen:tcp://:0?ipv4&ipv6", true, true),
    ] {
        // What was resolved before listens in the same way.
        let resolved = net::resolve(&address.parse().unwrap(), &ConnectOptions::new()).unwrap();
        let mut forms = vec![address.to_owned()];
        if let [one] = &resolved[..] {
            forms.push(one.to_string());
        }
        for form in forms {
            let listener = listen(&form).unwrap();
            let port = port(&listener);
            assert_eq!((answers("127.0.0.1", port), answers("::1", port)), (v4, v6), "{form}");
        }
    }
}

/// Listens on one port of a range, in as many threads as there are ports.
fn race(range: &str, threads: usize) -> Vec<(u16, Listener)> {
    let start = Arc::new(std::sync::Barrier::new(threads));
    let racers: Vec<_> = (0..threads)
        .map(|_| {
            let (start, range) = (Arc::clone(&start), range.to_owned());
            thread::spawn(move || {
                start.wait();
                let listener = listen(&range).unwrap();
                (port(&listener), listener)
            })
        })
        .collect();
    racers.into_iter().map(|racer| racer.join().unwrap()).collect()
}

/// The first of so many ports that nobody has there, below those that the kernel gives away.
fn free_range(host: &str, len: u16) -> u16 {
    let mut first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let taken = (first..first + len).find(|&port| TcpListener::bind((host, port)).is_err());
        match taken {
            None => return first,
            Some(taken) => first = taken + 1,
        }
    }
}

#[test]
fn threads_and_processes_that_listen_on_one_range_get_a_port_each() {
    const RANGE: &str = "QIO_TEST_RANGE";
    const TEST: &str = "threads_and_processes_that_listen_on_one_range_get_a_port_each";
    if let Ok(range) = std::env::var(RANGE) {
        let bound = race(&range, 4);
        for (port, _) in &bound {
            println!("port {port}.");
        }
        // Until all have theirs.
        let _ = io::stdin().read(&mut [0]);
        return;
    }
    let (threads, processes) = (16, 4);
    let total = threads + 4 * processes;
    let first = free_range("127.0.0.9", u16::try_from(total).unwrap());
    let last = first + u16::try_from(total).unwrap() - 1;
    let range = format!("listen:tcp://127.0.0.9:{first}?to={last}");
    let mut children: Vec<_> = (0..processes)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", TEST, "--nocapture"])
                .env(RANGE, &range)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mine = race(&range, threads);
    let mut ports: Vec<u16> = mine.iter().map(|(port, _)| *port).collect();
    let mut outputs: Vec<_> =
        children.iter_mut().map(|child| io::BufReader::new(child.stdout.take().unwrap())).collect();
    for output in &mut outputs {
        let theirs = output.lines().map(Result::unwrap).filter_map(|line| {
            let (_, port) = line.split_once("port ")?;
            port.strip_suffix('.')?.parse::<u16>().ok()
        });
        ports.extend(theirs.take(4));
    }
    ports.sort_unstable();
    assert_eq!(ports, (first..=last).collect::<Vec<_>>());
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_range_that_is_full_is_told_and_leaks_no_descriptor() {
    in_own_process("a_range_that_is_full_is_told_and_leaks_no_descriptor", || {
        let first = free_range("127.0.0.10", 3);
        let last = first + 2;
        let taken: Vec<_> =
            (first..=last).map(|port| TcpListener::bind(("127.0.0.10", port)).unwrap()).collect();
        let text = format!("listen:tcp://127.0.0.10:{first}?to={last}");
        let before = open_fds();
        for _ in 0..100 {
            let error = listen(&text).unwrap_err();
            assert_eq!(error.class(), Class::Open);
            assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
            assert_eq!(
                error.report().to_string(),
                format!(
                    "listen tcp://127.0.0.10:{first}?to={last}: \
                     all ports from {first} to {last} are in use"
                )
            );
        }
        assert_eq!(open_fds(), before);
        drop(taken);
        assert_eq!(port(&listen(&text).unwrap()), first);
    });
}

#[test]
fn all_addresses_of_a_name_share_the_port_of_a_range_that_all_have_free() {
    let Ok(taken) = TcpListener::bind("[::1]:0") else {
        return println!("skipped: this machine has no ::1");
    };
    let first = taken.local_addr().unwrap().port();
    let last = first.saturating_add(20);
    // The first port is free on 127.0.0.1 only.
    let listener = listen(&format!("listen:tcp://:{first}?to={last}&ipv4&ipv6")).unwrap();
    let ports: Vec<_> = listener.local_addresses().iter().map(Address::port).collect();
    assert_eq!(ports.len(), 2);
    assert!(ports[0] == ports[1] && ports[0] > Some(first), "{ports:?}");
}

#[test]
fn only_who_reuses_ports_shares_one() {
    let one = listen("listen:tcp://:0?reuse-port").unwrap();
    let port = port(&one);
    let two = listen(&format!("listen:tcp://:{port}?reuse-port")).unwrap();
    let error = listen(&format!("listen:tcp://:{port}")).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
    drop(one);
    connect(&Address::tcp("127.0.0.1", port)).unwrap();
    two.accept(patience()).unwrap();
}

#[test]
fn multipath_tcp_is_spoken_at_both_ends_and_read_as_ever() {
    let listener = match listen("listen:tcp://:0?mptcp") {
        Ok(listener) => listener,
        Err(error) if error.report().to_string().contains("no such sockets") => {
            return println!("skipped: {error:?}");
        }
        Err(error) => panic!("{error:?}"),
    };
    let address = first(&listener).with_option("mptcp", "on").unwrap();
    let client = connect(&address).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    for channel in [&client, &server] {
        let protocol = sockopt::socket_protocol(descriptor(channel)).unwrap();
        assert_eq!(protocol, Some(rustix::net::ipproto::MPTCP));
        assert!(sockopt::tcp_nodelay(descriptor(channel)).unwrap());
        assert!(sockopt::socket_keepalive(descriptor(channel)).unwrap());
        assert_eq!(sockopt::tcp_keepidle(descriptor(channel)).unwrap(), Duration::from_secs(60));
    }
    client.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    assert_eq!(server.peek(&mut buf).unwrap(), 5);
    server.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    server.write_all(b"bye").unwrap();
    server.finish().unwrap();
    client.read_exact(&mut buf[..3]).unwrap();
    assert_eq!(client.read(&mut buf).unwrap(), 0);
    // An option that it lacks, in kernels of today, is told.
    if let Err(error) = connect(&address.with_option("user-timeout", "1s").unwrap()) {
        let report = error.report().to_string();
        assert!(report.contains(": option \"user-timeout\": "), "{report}");
    }
    // A peer that knows nothing of it has plain TCP.
    let plain = connect(&first(&listener)).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    plain.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

#[test]
fn closing_wakes_who_waits_for_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut table = InheritedFds::new();
    table.insert(3, inherited.into());
    let options = ListenOptions::new().inherited(table);
    for listener in [
        listen("listen:tcp://:0").unwrap(),
        listen_unix(&dir.path().join("x")).unwrap(),
        net::listen(&Address::fd(3).listening(), &options).unwrap(),
    ] {
        let listener = Arc::new(listener);
        let (waits, waiting) = mpsc::channel();
        let accepting = {
            let listener = Arc::clone(&listener);
            thread::spawn(move || announcing_waits(waits, || listener.accept(patience())))
        };
        waiting.recv().unwrap();
        let closed = Instant::now();
        listener.close().unwrap();
        let error = accepting.join().unwrap().unwrap_err();
        assert!(closed.elapsed() < PATIENCE / 2, "woken by its deadline only");
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
        assert_eq!(error.to_string(), format!("{listener}: the listener is closed"));
        // For good, and as often as one likes.
        listener.close().unwrap();
        assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::NotConnected);
        let error = listener.accept(patience()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn a_closed_listener_refuses_although_a_wait_still_owns_its_socket() {
    let listener = listen("listen:tcp://:0").unwrap();
    let address = first(&listener);
    let mut forgotten = PollSet::new();
    listener.watch(&mut forgotten);
    listener.close().unwrap();
    let error = connect(&address).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::ConnectionRefused));
    forgotten.poll(patience()).unwrap();
    assert!(!forgotten.granted().is_empty());
}

#[test]
fn no_client_in_time_is_a_timeout() {
    let listener = listen("listen:tcp://:0").unwrap();
    let error = listener.accept(Some(Instant::now() + Duration::from_millis(1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "listen:tcp://:0: no client came in time");
}

#[test]
fn accepting_is_made_of_steps_and_dropping_them_takes_nobody_away() {
    let listener = listen("listen:tcp://:0").unwrap();
    let mut accepting = listener.accepting();
    assert!(accepting.step(Instant::now()).is_pending());
    let mut set = PollSet::new();
    accepting.watch(&mut set);
    let _client = connect(&first(&listener)).unwrap();
    set.poll(patience()).unwrap();
    assert!(!set.granted().is_empty());
    let ControlFlow::Break(accepted) = run(listener.accepting(), patience()).unwrap() else {
        panic!("the client is there")
    };
    accepted.unwrap();
}

#[test]
fn a_unix_peer_is_known_by_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen_unix(&path).unwrap();
    assert_eq!(first(&listener), Address::unix(&path));
    let _client = connect(&Address::unix(&path)).unwrap();
    let server = listener.accept(patience()).unwrap();
    let uid = std::fs::metadata(&path).unwrap().uid();
    let pid = std::process::id();
    assert_eq!(server.peer, format!("unix:{} (process {pid}, user {uid})", path.display()));
}

#[test]
fn a_client_with_the_longest_address_is_accepted() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen_unix(&path).unwrap();
    let longest = dir.path().join("p".repeat(107 - dir.path().as_os_str().len()));
    assert_eq!(longest.as_os_str().len(), 108);
    let client = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&client, &SocketAddrUnix::new(&longest).unwrap()).unwrap();
    rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listener.accept(patience()).unwrap();
}

#[test]
fn the_socket_file_goes_with_the_listener_and_stays_with_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen_unix(&path).unwrap();
    let client = connect(&Address::unix(&path)).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    client.close().unwrap();
    server.close().unwrap();
    assert!(path.exists());
    listener.close().unwrap();
    assert!(!path.exists());
    drop(listen_unix(&path).unwrap());
    assert!(!path.exists());
}

#[test]
fn a_socket_file_that_is_gone_already_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen_unix(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    listener.close().unwrap();
}

#[test]
fn a_socket_file_that_cannot_be_removed_is_one_error_and_the_listener_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("parent");
    std::fs::create_dir(&parent).unwrap();
    let listener = listen_unix(&parent.join("x")).unwrap();
    let moved = dir.path().join("moved");
    std::fs::rename(&parent, &moved).unwrap();
    std::fs::write(&parent, "no directory any more").unwrap();
    assert_eq!(listener.close().unwrap_err().kind(), ErrorKind::NotADirectory);
    listener.close().unwrap();
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::NotConnected);
    let error = connect(&Address::unix(moved.join("x"))).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn of_many_listeners_that_come_at_once_one_gets_the_port() {
    for _ in 0..20 {
        let free = listen("listen:tcp://:0").unwrap();
        let address = format!("listen:tcp://:{}", port(&free));
        drop(free);
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let coming: Vec<_> = (0..4)
            .map(|_| {
                let (address, barrier) = (address.clone(), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    let result = listen(&address);
                    // Nobody lets go before everybody has tried.
                    barrier.wait();
                    result.map(drop)
                })
            })
            .collect();
        let results: Vec<_> = coming.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
        }
    }
}

#[test]
fn closing_removes_only_the_socket_file_that_was_made_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    // Somebody else has put a listener of his own there.
    let first = listen_unix(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = listen_unix(&path).unwrap();
    first.close().unwrap();
    connect(&Address::unix(&path)).unwrap();
    second.accept(patience()).unwrap();
    // Or a plain file.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "text").unwrap();
    second.close().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"text");
}

#[test]
fn an_abstract_name_that_is_also_that_of_a_file_leaves_the_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, "text").unwrap();
    let name = path.to_str().unwrap();
    let address = Address::unix_abstract(name);
    let listener = net::listen(&address.clone().listening(), &ListenOptions::new()).unwrap();
    connect(&address).unwrap();
    listener.accept(patience()).unwrap();
    let error = net::listen(&address.clone().listening(), &ListenOptions::new()).unwrap_err();
    let report = error.report().to_string();
    let end = format!(", process {}, listens there)", std::process::id());
    assert!(report.ends_with(&end), "{report}");
    listener.close().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"text");
    assert_eq!(connect(&address).unwrap_err().class(), Class::Open);
}

#[test]
fn a_listener_hears_nothing_of_who_wants_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen_unix(&path).unwrap();
    let error = listen_unix(&path).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    connect(&Address::unix(&path)).unwrap();
    listener.try_accept().unwrap();
}

#[test]
fn a_socket_of_another_type_is_replaced_when_it_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let datagrams = UnixDatagram::bind(&path).unwrap();
    let error = listen_unix(&path).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
    drop(datagrams);
    listen_unix(&path).unwrap();
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    // Dead: std leaves its files behind.
    drop(UnixListener::bind(&path).unwrap());
    let listener = listen_unix(&path).unwrap();
    // Alive.
    let error = listen_unix(&path).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::AddrInUse));
    let report = error.report().to_string();
    let start = format!("listen unix:{}: address already in use (", path.display());
    let end = format!(", process {}, listens there)", std::process::id());
    assert!(report.starts_with(&start) && report.ends_with(&end), "{report}");
    connect(&Address::unix(&path)).unwrap();
    listener.close().unwrap();
    // No socket at all, and a link to one.
    std::fs::write(&path, "text").unwrap();
    let error = listen_unix(&path).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        format!(
            "listen unix:{}: address already in use \
             (there is a file of another kind, which is left alone)",
            path.display()
        )
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"text");
    let link = dir.path().join("link");
    let dead = dir.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    std::os::unix::fs::symlink(&dead, &link).unwrap();
    listen_unix(&link).unwrap_err();
    assert!(dead.exists() && link.is_symlink());
}

#[test]
fn a_live_socket_with_a_full_backlog_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = net::listen(
        &Address::unix(&path).listening().with_option("backlog", "1").unwrap(),
        &ListenOptions::new(),
    )
    .unwrap();
    let soon = ConnectOptions::new().timeout(Duration::from_millis(1));
    let mut clients = Vec::new();
    while let Ok(client) = net::connect(&Address::unix(&path), &soon) {
        clients.push(client);
        assert!(clients.len() < 10);
    }
    listen_unix(&path).unwrap_err();
    assert!(path.exists());
    drop(listener);
}

#[test]
fn the_mode_of_a_socket_file_is_that_of_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for mode in [0o600, 0o666, 0o770] {
        let address = Address::unix(&path).listening();
        let address = address.with_option("mode", format!("{mode:o}")).unwrap();
        let _listener = net::listen(&address, &ListenOptions::new()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
}

#[test]
fn an_inherited_listening_socket_is_accepted_from_whatever_its_backlog() {
    for backlog in [1, 128, 4096] {
        let fd = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::listen(&fd, backlog).unwrap();
        let kept = fd.try_clone().unwrap();
        let mut table = InheritedFds::new();
        table.insert(3, fd);
        let options = ListenOptions::new().inherited(table);
        let listener = net::listen(&Address::fd(3).listening(), &options).unwrap();
        let address = first(&listener);
        let _client = connect(&address).unwrap();
        let server = listener.accept(patience()).unwrap();
        assert!(sockopt::tcp_nodelay(descriptor(&server.channel)).unwrap());
        assert!(sockopt::socket_keepalive(descriptor(&server.channel)).unwrap());
        // It goes on for those that we share it with.
        drop(listener);
        connect(&address).unwrap();
        rustix::net::accept(kept).unwrap();
    }
}

#[test]
fn a_descriptor_that_does_not_listen_stays_open_and_untouched() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut table = InheritedFds::new();
    table.insert(1, ours.into());
    table.insert(2, file.into());
    let inherited = Inherited::from(table);
    let options = ListenOptions::new().inherited(inherited.clone());
    for (number, cause) in
        [(1, "the socket does not listen"), (2, "the descriptor is not a socket")]
    {
        let error = net::listen(&Address::fd(number).listening(), &options).unwrap_err();
        assert_eq!(error.class(), Class::Open);
        assert_eq!(error.report().to_string(), format!("listen fd:{number}: {cause}"));
    }
    let ours = inherited.lock().take(1).expect("given back");
    let flags = rustix::fs::fcntl_getfl(ours.as_fd()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    rustix::io::write(&ours, b"x").unwrap();
    theirs.read_exact(&mut [0]).unwrap();
}

#[test]
fn at_the_limit_of_descriptors_accepting_fails_with_that_code_and_goes_on_later() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    in_own_process(
        "at_the_limit_of_descriptors_accepting_fails_with_that_code_and_goes_on_later",
        || {
            let dir = tempfile::tempdir().unwrap();
            let tcp = listen("listen:tcp://:0").unwrap();
            let unix = listen_unix(&dir.path().join("x")).unwrap();
            let mut clients = Vec::new();
            for listener in [&tcp, &unix] {
                clients.push(connect(&first(listener)).unwrap());
            }
            let limit = Rlimit { current: Some(64), maximum: Some(64) };
            setrlimit(Resource::Nofile, limit).unwrap();
            let mut filler = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                filler.push(file);
            }
            for listener in [&tcp, &unix] {
                // Waiting goes on meanwhile; at its end it says what it waited for.
                let soon = Some(Instant::now() + Duration::from_millis(1));
                for error in
                    [listener.try_accept().unwrap_err(), listener.accept(soon).unwrap_err()]
                {
                    assert_eq!(error.raw_os_error(), Some(24), "{error}");
                    assert!(is_descriptor_limit(&error));
                }
            }
            // Connecting says the same, and what to do.
            let error = connect(&first(&tcp)).unwrap_err();
            assert_eq!(
                error.report().to_string(),
                format!(
                    "connect {}: too many open files \
                     (this process is at its limit, see ulimit -n)",
                    first(&tcp)
                )
            );
            drop(filler);
            for listener in [&tcp, &unix] {
                listener.accept(patience()).unwrap();
            }
        },
    );
}

#[test]
fn other_errors_are_no_descriptor_limit() {
    assert!(is_descriptor_limit(&io::Error::from_raw_os_error(23)));
    assert!(!is_descriptor_limit(&io::Error::from_raw_os_error(11)));
    assert!(!is_descriptor_limit(&ErrorKind::WouldBlock.into()));
}

#[test]
fn closing_while_clients_come_and_threads_accept_leaks_nothing() {
    in_own_process("closing_while_clients_come_and_threads_accept_leaks_nothing", || {
        let before = open_fds();
        for _ in 0..200 {
            let listener = Arc::new(listen("listen:tcp://:0").unwrap());
            let port = port(&listener);
            let client = thread::spawn(move || {
                while let Ok(mut client) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = client.write_all(b"x");
                }
            });
            let accepting: Vec<_> = (0..2)
                .map(|_| {
                    let listener = Arc::clone(&listener);
                    thread::spawn(move || while listener.accept(patience()).is_ok() {})
                })
                .collect();
            listener.accept(patience()).unwrap();
            listener.close().unwrap();
            accepting.into_iter().for_each(|thread| thread.join().unwrap());
            client.join().unwrap();
        }
        assert_eq!(open_fds(), before);
    });
}
