//! Connecting.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, announcing_waits, eventually, in_own_process, open_fds, patience};
use qio::error::Class;
use qio::net::{self, Address, Cancel, Connect, ConnectOptions, Inherited};
use qio::transport::Socket;
use qio::watch::{PollSet, Steps, Waiter, run, waiter};
use qio::{Channel, ChannelExt, InheritedFds, Readiness};
use rustix::io::FdFlags;
use rustix::net::sockopt;

fn options() -> ConnectOptions {
    ConnectOptions::new().timeout(PATIENCE)
}

fn connect(text: &str) -> qio::Result<Arc<dyn Channel>> {
    net::connect(&text.parse()?, &options())
}

fn complaint(text: &str) -> (Class, String) {
    let error = connect(text).expect_err(text);
    (error.class(), error.report().to_string())
}

/// A TCP listener that answers no call any more, with the clients that fill its backlog.
fn black_hole() -> (OwnedFd, SocketAddr, Vec<TcpStream>) {
    let fd = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    rustix::net::listen(&fd, 0).unwrap();
    let address = rustix::net::getsockname(&fd).unwrap().try_into().unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        clients.push(client);
        assert!(clients.len() < 10, "a backlog of 0 takes all");
    }
    (fd, address, clients)
}

/// A Unix listener with a full backlog, and the clients that fill it.
fn full_unix(path: &std::path::Path) -> (OwnedFd, Vec<OwnedFd>) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let mut clients = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK;
        let client =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match rustix::net::connect(&client, &address) {
            Ok(()) => clients.push(client),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return (listener, clients);
            }
        }
    }
}

/// Counts how often it waits.
#[derive(Default)]
struct Counting(Cell<u32>);

impl Waiter for Counting {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        set.poll(until)
    }
}

#[test]
fn a_tcp_connection_is_set_up_for_use() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("tcp://{}", listener.local_addr().unwrap());
    let channel = connect(&text).unwrap();
    assert_eq!(channel.name(), text);
    let (mut peer, _) = listener.accept().unwrap();
    // Blocking: the read waits for what the peer writes later.
    let writer = thread::spawn(move || peer.write_all(b"hello").map(|()| peer));
    let mut buf = [0; 5];
    channel.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    writer.join().unwrap().unwrap();

    let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
    assert!(sockopt::tcp_nodelay(&fd).unwrap());
    assert!(sockopt::socket_keepalive(&fd).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&fd).unwrap(), Duration::from_secs(60));
    assert_eq!(sockopt::tcp_keepintvl(&fd).unwrap(), Duration::from_secs(10));
    assert_eq!(sockopt::tcp_keepcnt(&fd).unwrap(), 6);
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[test]
fn clients_do_not_reuse_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let channel = connect(&format!("tcp://{}", listener.local_addr().unwrap())).unwrap();
    let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
    assert!(!sockopt::socket_reuseaddr(&fd).unwrap());
}

#[test]
fn tcp_options_are_taken_from_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let channel = connect(&format!("tcp://{address}?nodelay=off&keep-alive=no")).unwrap();
    let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
    assert!(!sockopt::tcp_nodelay(&fd).unwrap());
    assert!(!sockopt::socket_keepalive(&fd).unwrap());
    let text =
        format!("tcp://{address}?keep-alive-idle=5&keep-alive-interval=2s&keep-alive-count=3");
    let channel = connect(&text).unwrap();
    let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
    assert_eq!(sockopt::tcp_keepidle(&fd).unwrap(), Duration::from_secs(5));
    assert_eq!(sockopt::tcp_keepintvl(&fd).unwrap(), Duration::from_secs(2));
    assert_eq!(sockopt::tcp_keepcnt(&fd).unwrap(), 3);
}

/// What is set on a socket that has every option of its level.
fn has_the_options(fd: impl AsFd) {
    // The kernel doubles what it is asked for, to have room for its own (socket(7)).
    assert_eq!(sockopt::socket_send_buffer_size(&fd).unwrap(), 2 * 40 * 1024);
    assert_eq!(sockopt::socket_recv_buffer_size(&fd).unwrap(), 2 * 50_000);
    assert_eq!(sockopt::ip_ttl(&fd).unwrap(), 9);
    // Two bits belong to congestion notification, which TCP does itself.
    assert_eq!(sockopt::ip_tos(&fd).unwrap(), 0xb8);
    assert_eq!(sockopt::tcp_user_timeout(&fd).unwrap(), 1500);
}

const OPTIONS: &str = "sndbuf=40k&rcvbuf=50000&ttl=9&tos=187&user-timeout=1.5s&device=lo";

#[test]
fn options_of_sockets_are_taken_from_the_address_on_both_sides() {
    for host in ["127.0.0.1", "[::1]"] {
        let listener = match net::listen(
            &format!("listen:tcp://{host}:0?{OPTIONS}").parse().unwrap(),
            &Default::default(),
        ) {
            Ok(listener) => listener,
            Err(error) if error.io_kind() == Some(io::ErrorKind::AddrNotAvailable) => {
                println!("skipped: there is no {host}");
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        let port = listener.local_addresses()[0].port().unwrap();
        let client = connect(&format!("tcp://{host}:{port}?{OPTIONS}")).unwrap();
        let server = listener.accept(patience()).unwrap().channel;
        for channel in [&client, &server] {
            let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
            has_the_options(&fd);
            if host != "127.0.0.1" {
                assert_eq!(sockopt::ipv6_unicast_hops(&fd).unwrap(), 9);
                assert_eq!(sockopt::ipv6_tclass(&fd).unwrap(), 0xb8);
            }
        }
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn an_option_that_the_kernel_refuses_is_named() {
    let (class, report) = complaint("tcp://127.0.0.1:9?device=no-such-one");
    assert_eq!(class, Class::Open);
    let known = ["no such device", "operation not permitted"].map(|cause| {
        let text = "connect tcp://127.0.0.1:9?device=no-such-one: option \"device=no-such-one\"";
        format!("{text}: {cause}")
    });
    assert!(known.contains(&report), "{report}");
}

#[test]
fn the_local_end_is_the_one_that_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
    for (bind, expected) in [
        ("127.0.0.2".to_owned(), "127.0.0.2".to_owned()),
        ("127.0.0.3:0".to_owned(), "127.0.0.3".to_owned()),
        ("localhost".to_owned(), "127.0.0.1".to_owned()),
        (free.to_string(), free.to_string()),
        (format!(":{}", free.port()), format!("127.0.0.1:{}", free.port())),
    ] {
        let channel = connect(&format!("tcp://{to}?bind={bind}")).unwrap();
        let (_, from) = listener.accept().unwrap();
        let from = if expected.contains(':') { from.to_string() } else { from.ip().to_string() };
        assert_eq!(from, expected, "{bind}");
        // Whoever closes first keeps the port for a while: let it be the other side.
        channel.close().unwrap();
    }
    let text = format!("tcp://{to}?bind=203.0.113.1");
    assert_eq!(
        complaint(&text),
        (
            Class::Open,
            format!(
                "connect {text}: bind to 203.0.113.1:0: cannot assign requested address \
                 (no interface of this machine has that address)"
            )
        )
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = TcpListener::bind(taken).unwrap();
    let text = format!("tcp://{to}?bind={taken}");
    let expected = format!("connect {text}: bind to {taken}: address already in use");
    assert_eq!(complaint(&text), (Class::Open, expected));
    let text = format!("tcp://{to}?bind=no..such");
    let expected = format!("connect {text}: resolve no..such: name or service not known");
    assert_eq!(complaint(&text), (Class::Resolve, expected));
}

#[test]
fn a_name_is_resolved() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let channel = connect(&format!("tcp://localhost:{port}")).unwrap();
    assert_eq!(channel.name(), format!("tcp://localhost:{port}"));
}

#[test]
fn failures_say_what_was_tried_and_why_it_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    drop(UnixListener::bind(path("dead")).unwrap());
    for (text, class, cause) in [
        (
            "tcp://127.0.0.78:9".to_owned(),
            Class::Open,
            "connection refused (nothing listens there)",
        ),
        (
            "tcp://no..such:9".to_owned(),
            Class::Resolve,
            "resolve no..such: name or service not known",
        ),
        (format!("unix:{}", path("none")), Class::Open, "no such file or directory"),
        (
            format!("unix:{}", path("dead")),
            Class::Open,
            "connection refused (nothing listens there)",
        ),
        (
            format!("unix:{}", path("file")),
            Class::Open,
            "connection refused (nothing listens there)",
        ),
        (
            "unix:@qio-test-nobody-is-here".to_owned(),
            Class::Open,
            "connection refused (nothing listens there)",
        ),
        ("fd:3".to_owned(), Class::Open, "this program takes no inherited descriptors"),
    ] {
        assert_eq!(complaint(&text), (class, format!("connect {text}: {cause}")));
    }
}

#[test]
fn unix_paths_of_every_length_connect() {
    let dir = tempfile::tempdir().unwrap();
    let room = 108 - dir.path().as_os_str().len() - 1;
    for missing in [2, 1, 0] {
        let path = dir.path().join("p".repeat(room - missing));
        assert_eq!(path.as_os_str().len(), 108 - missing);
        let address = Address::unix(&path);
        let listener = net::listen(&address.clone().listening(), &Default::default()).unwrap();
        assert!(path.exists());
        let client = net::connect(&address, &options()).unwrap();
        let server = listener.accept(patience()).unwrap();
        server.channel.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(listener);
        assert!(!path.exists(), "{} bytes", 108 - missing);
    }
}

#[test]
fn abstract_names_are_as_long_as_they_are_and_hold_any_byte() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("qio-test-{}\0ü", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    net::connect(&Address::unix_abstract(name.as_bytes()), &options()).unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_full_backlog_is_waited_for_without_spinning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    let (listener, clients) = full_unix(&path);
    let filled = clients.len();
    let (waits, waiting) = mpsc::channel();
    let connecting: Vec<_> = (0..50)
        .map(|_| {
            let (address, waits) = (Address::unix(&path), waits.clone());
            thread::spawn(move || {
                let waiter = Rc::new(Counting::default());
                let start = Instant::now();
                let channel = waiter::scoped(waiter.clone(), || {
                    waits.send(()).unwrap();
                    net::connect(&address, &options())
                });
                (channel, waiter.0.get(), start.elapsed())
            })
        })
        .collect();
    for _ in 0..50 {
        waiting.recv().unwrap();
    }
    // Now all fifty come and find no room, but for those that come while others are accepted.
    let accepted: Vec<_> =
        (0..filled + 50).map(|_| rustix::net::accept(&listener).unwrap()).collect();
    for thread in connecting {
        let (channel, wakeups, took) = thread.join().unwrap();
        channel.unwrap();
        // 1, 2, 4 … 32 ms, then every 50 ms: each wake-up is one connect(2).
        let allowed = 7 + u32::try_from(took.as_millis() / 50).unwrap();
        assert!(wakeups <= allowed, "{wakeups} wake-ups in {took:?}");
    }
    drop((accepted, clients));
}

#[test]
fn a_full_backlog_ends_at_the_deadline_and_by_cancelling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    let _full = full_unix(&path);
    let address = Address::unix(&path);
    let soon = ConnectOptions::new().timeout(Duration::from_millis(20));
    let error = net::connect(&address, &soon).unwrap_err();
    assert_eq!(error.class(), Class::Timeout);
    assert_eq!(
        error.report().to_string(),
        format!(
            "connect {address}: timed out (no room in the backlog of the listener within 20ms)"
        )
    );
    cancelled_at_once(&address);
}

#[test]
fn a_peer_that_never_answers_ends_at_the_deadline_and_by_cancelling() {
    let (_listener, peer, _clients) = black_hole();
    let address = Address::tcp(peer.ip().to_string(), peer.port());
    let start = Instant::now();
    let soon = ConnectOptions::new().timeout(Duration::from_millis(20));
    let error = net::connect(&address, &soon).unwrap_err();
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(error.class(), Class::Timeout);
    assert_eq!(
        error.report().to_string(),
        format!("connect {address}: timed out (no answer within 20ms)")
    );
    cancelled_at_once(&address);
}

/// Cancels a connect that waits, from another thread.
fn cancelled_at_once(address: &Address) {
    let cancel = Cancel::new();
    let with_cancel = options().cancel(cancel.clone());
    let (waits, waiting) = mpsc::channel();
    let (to, copy) = (address.clone(), with_cancel.clone());
    let connecting = thread::spawn(move || {
        announcing_waits(waits, || (net::connect(&to, &copy), Instant::now()))
    });
    waiting.recv().unwrap();
    let triggered = Instant::now();
    cancel.trigger();
    let (result, ended) = connecting.join().unwrap();
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    assert_eq!(error.report().to_string(), format!("connect {address}: given up on request"));
    let took = ended - triggered;
    assert!(took < Duration::from_millis(100), "{took:?}");
    // It stays cancelled.
    let error = net::connect(address, &with_cancel).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    let error = net::connect(&Address::exec(["/none"]), &with_cancel).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled, "nothing is started");
}

#[test]
fn dropping_a_connect_at_any_step_leaks_nothing() {
    in_own_process("dropping_a_connect_at_any_step_leaks_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full");
        let _full = full_unix(&path);
        let (_listener, peer, _clients) = black_hole();
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [
            Address::unix(&path),
            Address::tcp(peer.ip().to_string(), peer.port()),
            Address::tcp("localhost", open.local_addr().unwrap().port()),
        ];
        let options = options().cancel(Cancel::new());
        let first = Connect::new(&addresses[0], &options);
        // The cancel has its descriptor from here on.
        { first }.watch(&mut PollSet::new());
        let before = open_fds();
        for round in 0..1000 {
            for address in &addresses {
                let mut connecting = Connect::new(address, &options);
                let mut set = PollSet::new();
                for _ in 0..round % 4 {
                    if connecting.step(Instant::now()).is_ready() {
                        break;
                    }
                    set.clear();
                    connecting.watch(&mut set);
                    set.poll(Some(Instant::now() + Duration::from_micros(100))).unwrap();
                }
            }
            // What was connected before it was dropped.
            if round % 50 == 0 {
                open.set_nonblocking(true).unwrap();
                while open.accept().is_ok() {}
            }
        }
        eventually("the resolvers end", || open_fds() == before);
    });
}

#[test]
fn a_dropped_connect_hangs_up_although_a_wait_still_owns_its_socket() {
    let (_listener, peer, _clients) = black_hole();
    let address = Address::tcp(peer.ip().to_string(), peer.port());
    let mut connecting = Connect::new(&address, &options().timeout(None));
    assert!(connecting.step(Instant::now()).is_pending());
    let mut forgotten = PollSet::new();
    connecting.watch(&mut forgotten);
    forgotten.poll(Some(Instant::now())).unwrap();
    assert!(forgotten.granted().is_empty());
    drop(connecting);
    forgotten.poll(Some(Instant::now())).unwrap();
    assert!(forgotten.granted().contains(Readiness::HANGUP));
}

#[test]
fn a_failing_connect_reports_the_connect_and_leaks_nothing() {
    in_own_process("a_failing_connect_reports_the_connect_and_leaks_nothing", || {
        let refusing = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&refusing, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        let peer: SocketAddr = rustix::net::getsockname(&refusing).unwrap().try_into().unwrap();
        let tcp = Address::tcp(peer.ip().to_string(), peer.port());
        let unix = Address::unix("/nobody/is/here");
        let before = open_fds();
        for _ in 0..10_000 {
            let error = net::connect(&tcp, &options()).unwrap_err();
            assert_eq!(error.io_kind(), Some(io::ErrorKind::ConnectionRefused));
            let error = net::connect(&unix, &options()).unwrap_err();
            assert_eq!(error.io_kind(), Some(io::ErrorKind::NotFound));
        }
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn a_connect_can_be_waited_for_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full");
    let (listener, clients) = full_unix(&path);
    let connecting = Connect::new(&Address::unix(&path), &options());
    let soon = Some(Instant::now() + Duration::from_millis(1));
    let ControlFlow::Continue(connecting) = run(connecting, soon).unwrap() else {
        panic!("there is no room")
    };
    drop(clients);
    rustix::net::accept(&listener).unwrap();
    let ControlFlow::Break(channel) = run(connecting, patience()).unwrap() else {
        panic!("there is room")
    };
    channel.unwrap();
}

#[test]
fn files_programs_and_the_rest_are_opened_by_their_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a log?");
    let append = Address::file(&log).with_option("append", "on").unwrap();
    for part in [b"one ", b"two "] {
        let file = net::connect(&append, &options()).unwrap();
        file.write_all(part).unwrap();
        file.close().unwrap();
    }
    assert_eq!(std::fs::read(&log).unwrap(), b"one two ");
    let file = net::connect(&Address::file(&log), &options()).unwrap();
    let mut buf = [0; 8];
    file.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"one two ");
    assert_eq!(file.name(), Address::file(&log).to_string());
    assert!(file.write(b"x").is_err());

    let text = format!("file:{}?write&exclusive&create=600", dir.path().join("new").display());
    connect(&text).unwrap();
    assert_eq!(connect(&text).unwrap_err().io_kind(), Some(io::ErrorKind::AlreadyExists));

    let child =
        connect("exec:sh -c 'echo \"$A in `pwd`\"; echo \"$HOME\"'?dir=/&env=A=%26&clear-env")
            .unwrap();
    let mut text = String::new();
    qio::Io(child).read_to_string(&mut text).unwrap();
    assert_eq!(text, "& in /\n\n");

    let echo = connect("echo:").unwrap();
    echo.write_all(b"x").unwrap();
    echo.read_exact(&mut [0]).unwrap();
    let null = connect("null:").unwrap();
    null.write_all(b"x").unwrap();
    assert_eq!(null.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_fifo_is_opened_from_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let writing = Address::pipe(&path).with_option("write", "on").unwrap();
    let soon = ConnectOptions::new().timeout(Duration::from_millis(20));
    let error = net::connect(&writing, &soon).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        format!("connect {writing}: timed out (nobody opened it for reading within 20ms)")
    );
    let reader = net::connect(&Address::pipe(&path), &options()).unwrap();
    let writer = net::connect(&writing, &options()).unwrap();
    writer.write_all(b"x").unwrap();
    reader.read_exact(&mut [0]).unwrap();
}

#[test]
fn opening_a_fifo_for_reading_leaves_the_wait_for_a_writer_to_the_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let reader =
        net::connect(&Address::pipe(&path), &ConnectOptions::new().timeout(Duration::ZERO))
            .unwrap();
    let (waits, waiting) = mpsc::channel();
    let reading = thread::spawn(move || {
        let mut buf = [0];
        announcing_waits(waits, || reader.read_exact(&mut buf)).map(|()| buf)
    });
    waiting.recv().unwrap();
    let writing = Address::pipe(&path).with_option("write", "on").unwrap();
    net::connect(&writing, &options()).unwrap().write_all(b"x").unwrap();
    assert_eq!(reading.join().unwrap().unwrap(), *b"x");
}

#[test]
fn an_inherited_descriptor_is_taken_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut table = InheritedFds::new();
    table.insert(7, theirs.into());
    let inherited = Inherited::from(table);
    let options = options().inherited(inherited.clone());
    let channel = net::connect(&Address::fd(7), &options).unwrap();
    channel.write_all(b"x").unwrap();
    (&ours).read_exact(&mut [0]).unwrap();
    let error = net::connect(&Address::fd(7), &options).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "connect fd:7: no descriptor 7 was handed over, or it is in use; there are: none"
    );
}

#[test]
fn a_refused_descriptor_stays_open_and_untouched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut table = InheritedFds::new();
    table.insert(7, listener.into());
    let inherited = Inherited::from(table);
    let options = options().inherited(inherited.clone());
    let error = net::connect(&Address::fd(7), &options).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    let fd = inherited.lock().take(7).expect("given back");
    let flags = rustix::fs::fcntl_getfl(fd.as_fd()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    let _client = TcpStream::connect(address).unwrap();
    TcpListener::from(fd).accept().unwrap();
}

#[test]
fn standard_streams_come_out_of_the_table() {
    let (input, mut feed) = UnixStream::pair().unwrap();
    let (output, mut drain) = UnixStream::pair().unwrap();
    let mut table = InheritedFds::new();
    table.insert(0, input.into());
    table.insert(1, output.into());
    let options = options().inherited(table);
    let channel = net::connect(&Address::stdio(), &options).unwrap();
    feed.write_all(b"in").unwrap();
    channel.read_exact(&mut [0; 2]).unwrap();
    channel.write_all(b"out").unwrap();
    channel.finish().unwrap();
    let mut text = String::new();
    drain.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out");
}
