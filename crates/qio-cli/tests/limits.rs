//! Limits, timeouts and retries of the commands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Running, dial, echo, eventually, qio, run, serve};

/// A port of this machine that refuses connections until it is listened on.
fn refusing_port() -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, address)
}

/// Whether the connection is served: an echo comes back.
fn ping(client: &mut TcpStream) {
    client.write_all(b"ping").unwrap();
    let mut text = [0; 4];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
}

/// Whether nothing comes for a while.
fn is_silent(client: &mut TcpStream) -> bool {
    let patience = client.read_timeout().unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let result = client.read(&mut [0]);
    client.set_read_timeout(patience).unwrap();
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn once_serves_one_client_and_ends_with_its_outcome() {
    let (mut relay, address) = Running::relay(&["--once", "listen:tcp://127.0.0.1:0", "echo:"]);
    let mut client = dial(&address);
    ping(&mut client);
    assert!(
        TcpStream::connect(common::socket_address(&address)).is_err(),
        "a second client is refused"
    );
    drop(client);
    assert_eq!(relay.wait(), 0);

    let (fd, port) = refusing_port();
    let right = format!("tcp://{port}");
    let (mut relay, address) = Running::relay(&["--once", "listen:tcp://127.0.0.1:0", &right]);
    let mut client = dial(&address);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client is not left waiting");
    let failed = relay.event("failed");
    assert!(failed["error"].as_str().unwrap().contains("connection refused"), "{failed}");
    assert_eq!(relay.wait(), 4);
    drop(fd);
}

#[test]
fn a_further_client_waits_in_the_backlog_until_one_ends() {
    let (_relay, address) =
        Running::relay(&["--max-connections", "2", "listen:tcp://127.0.0.1:0", "echo:"]);
    let (mut first, mut second) = (dial(&address), dial(&address));
    ping(&mut first);
    ping(&mut second);
    let mut third = dial(&address);
    third.write_all(b"ping").unwrap();
    assert!(is_silent(&mut third), "the third is not served yet");
    drop(first);
    let mut text = [0; 4];
    third.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
    ping(&mut second);
}

#[test]
fn a_silent_connection_ends_at_the_idle_timeout() {
    let (mut relay, address) = Running::relay(&[
        "--once",
        "--idle-timeout",
        "300ms",
        "listen:tcp://127.0.0.1:0",
        &serve(echo),
    ]);
    let mut client = dial(&address);
    // What moves does not end.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        ping(&mut client);
        thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let record = relay.event("connection");
    assert_eq!(record["end"], "idle");
    assert_eq!(record["ended_by"], serde_json::Value::Null);
    assert_eq!(relay.wait(), 5);
}

#[test]
fn half_closed_silence_ends_at_its_limit() {
    let (mut relay, address) = Running::relay(&[
        "--once",
        "--half-close",
        "300ms",
        "listen:tcp://127.0.0.1:0",
        // A server that never ends its side.
        &serve(|mut client| {
            let _ = client.read_to_end(&mut Vec::new());
            thread::park_timeout(common::PATIENCE);
        }),
    ]);
    let mut client = dial(&address);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let record = relay.event("connection");
    assert_eq!((&record["end"], &record["ended_by"]), (&"half-closed".into(), &"peer".into()));
    assert_eq!(record["sent"], 8);
    assert_eq!(relay.wait(), 5);
}

#[test]
fn a_server_that_comes_up_later_is_reached_with_retries() {
    let (fd, port) = refusing_port();
    let right = format!("tcp://{port}");
    let server = thread::spawn(move || {
        // Later than the first attempt: that is what the test is about.
        thread::sleep(Duration::from_millis(250));
        rustix::net::listen(&fd, 1).unwrap();
        let (client, _) = std::net::TcpListener::from(fd).accept().unwrap();
        echo(client);
    });
    let outcome = run(&mut qio(["connect", "--retry", "5", &right]), b"hello");
    assert_eq!((outcome.status, outcome.text()), (0, "hello"), "{outcome:?}");
    server.join().unwrap();

    let (_fd, port) = refusing_port();
    let start = Instant::now();
    let outcome = run(&mut qio(["connect", "--retry", "2", &format!("tcp://{port}")]), b"");
    // 0.1 s, then 0.2 s.
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(outcome.complaint().contains("connection refused"));
    assert_eq!(outcome.status, 4);
}

#[test]
fn a_client_that_goes_gives_its_slot_back_while_the_other_side_is_being_opened() {
    let (_fd, port) = refusing_port();
    let refusing = format!("tcp://{port}");
    for right in [&*refusing, "listen:tcp://127.0.0.1:0"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q");
        let left = format!("listen:unix:{}", path.display());
        let arguments = ["--max-connections", "1", "--retry", "1000", &left, right];
        let (mut relay, _) = Running::relay(&arguments);
        for id in 1..=2 {
            let client = UnixStream::connect(&path).unwrap();
            if id == 2 && right == refusing {
                // It has ended its side, and is still there.
                client.shutdown(Shutdown::Write).unwrap();
                let patience = Duration::from_millis(1200);
                client.set_read_timeout(Some(patience)).unwrap();
                let error = (&client).read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
            drop(client);
            let failed = relay.event("failed");
            assert_eq!(failed["id"], id);
            assert_eq!(failed["error"], "the client has gone before there was another side");
        }
    }
    // A TCP client that resets its connection is known to have gone.
    let (mut relay, address) =
        Running::relay(&["--retry", "1000", "listen:tcp://127.0.0.1:0", &refusing]);
    let client = dial(&address);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    relay.event("failed");
}

#[test]
fn what_a_client_left_behind_is_delivered_when_the_other_side_comes_up() {
    let (fd, port) = refusing_port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q");
    let left = format!("listen:unix:{}", path.display());
    let right = format!("tcp://{port}");
    let (mut relay, _) = Running::relay(&["--once", "--retry", "1000", &left, &right]);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"note").unwrap();
    drop(client);
    // More than two looks at the client.
    thread::park_timeout(Duration::from_millis(1200));
    rustix::net::listen(&fd, 1).unwrap();
    let (mut server, _) = std::net::TcpListener::from(fd).accept().unwrap();
    let mut text = [0; 4];
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"note");
    drop(server);
    relay.event("connection");
}

#[test]
fn a_signal_ends_a_retry_at_once() {
    let (_fd, port) = refusing_port();
    let mut connect = Running::start(
        qio(["connect", "--retry", "1000", &format!("tcp://{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    );
    eventually("the handler of signals is there", || {
        let status = fs::read_to_string(format!("/proc/{}/status", connect.pid())).unwrap();
        let caught = status.lines().find(|line| line.starts_with("SigCgt:")).unwrap();
        u64::from_str_radix(caught[7..].trim(), 16).unwrap() & (1 << 14) != 0
    });
    connect.signal(rustix::process::Signal::TERM);
    assert_eq!(connect.wait(), 143);
}

#[test]
fn a_connect_that_hangs_ends_at_its_timeout() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full");
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let nonblocking = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, nonblocking, None).unwrap();
    let listener = new();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = new();
        match rustix::net::connect(&client, &address) {
            Ok(()) => clients.push(client),
            Err(_full) => break,
        }
    }
    let start = Instant::now();
    let target = format!("unix:{}", path.display());
    let outcome = run(&mut qio(["connect", "--connect-timeout", "300ms", &target]), b"");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let line = format!(
        "connect {target}: timed out (no room in the backlog of the listener within 300ms)"
    );
    assert_eq!(outcome.complaint(), line);
    assert_eq!(outcome.status, 5);
}

#[test]
fn a_listener_without_a_client_ends_at_its_timeout() {
    let outcome =
        run(&mut qio(["listen", "--accept-timeout", "100ms", "unix:@qio-test-nobody"]), b"");
    assert_eq!(outcome.complaint(), "listen unix:@qio-test-nobody: no client came in time");
    assert_eq!(outcome.status, 5);
}

#[test]
fn at_the_limit_of_open_files_as_many_are_served_as_fit_and_none_starves() {
    for (right, fit) in [(&*serve(echo), 3), ("exec:cat", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q");
        // Descriptors that the test itself inherited are not the subject.
        let script = format!(
            "for fd in /proc/$$/fd/*; do fd=${{fd##*/}}; [ $fd -lt 3 ] || eval \"exec $fd>&-\"; done; \
             ulimit -n 24; exec {} relay -v listen:unix:{} {right}",
            common::QIO,
            path.display()
        );
        let mut command = Command::new("bash");
        let command = command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut relay = Running::start(command);
        assert!(relay.line().starts_with("qio: listening on "));
        let line = relay.line();
        assert!(line.starts_with("qio: at most ") && line.ends_with(" at 24 open files"), "{line}");
        let clients: Vec<_> = (0..40)
            .map(|number| {
                let mut client = UnixStream::connect(&path).unwrap();
                client.set_read_timeout(Some(common::PATIENCE)).unwrap();
                client.write_all(&[number]).unwrap();
                client
            })
            .collect();
        // So many are served at the same time, the others when these have gone.
        for (number, client) in clients.iter().take(fit).enumerate() {
            let mut byte = [0];
            (&mut &*client).read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), number);
        }
        for (number, mut client) in clients.into_iter().enumerate() {
            if number >= fit {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                assert_eq!(usize::from(byte[0]), number);
            }
        }
        relay.signal(rustix::process::Signal::TERM);
        let (status, lines) = relay.rest();
        assert_eq!(status, 0, "{lines:?}");
        let others: Vec<_> = lines.iter().filter(|line| !line.contains("ended by")).collect();
        assert!(others.len() == 1 && others[0].contains("further clients wait"), "{others:?}");
    }
}

#[test]
fn at_the_limit_of_open_files_clients_wait_and_nothing_spins() {
    let script = format!(
        "ulimit -n 64; exec {} relay --json listen:tcp://127.0.0.1:0 {}",
        common::QIO,
        serve(echo)
    );
    let (mut relay, address) = Running::wrapped_relay(Command::new("sh").args(["-c", &script]));
    let mut clients: Vec<_> = (0..60).map(|_| dial(&address)).collect();
    let note = relay.event("note");
    let message = note["message"].as_str().unwrap();
    assert!(
        message.contains("at the limit of 64 open files") && message.contains("clients wait"),
        "{note}"
    );

    let (sleeps, work) = relay.effort();
    let start = Instant::now();
    thread::park_timeout(Duration::from_secs(2));
    let (more_sleeps, more_work) = relay.effort();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} wake-ups, {:?} in {seconds} s", more_sleeps - sleeps, more_work - work);
    assert!(((more_sleeps - sleeps) as f64) < 60.0 * seconds, "it spins");
    assert!((more_work - work).as_secs_f64() < 0.2 * seconds, "it spins");

    // Each is served in the end: those that are, go, and make room for the next.
    for mut client in clients.drain(..) {
        ping(&mut client);
    }
    relay.signal(rustix::process::Signal::TERM);
    let (status, lines) = relay.rest();
    assert_eq!(status, 0, "{lines:?}");
    let kinds = |kind: &str| lines.iter().filter(|line| line.contains(kind)).count();
    assert_eq!(kinds("\"failed\""), 0, "{lines:?}");
    assert!(kinds("\"note\"") <= 1, "{lines:?}");
}

#[test]
fn at_a_limit_that_is_lowered_later_clients_wait_and_are_served_when_it_is_raised() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(echo)]);
    let mut served = dial(&address);
    ping(&mut served);
    let pid = Pid::from_raw(relay.pid().try_into().unwrap());
    // No number is free below. The hard limit stays as it was inherited.
    let is_open = |fd: &u64| fs::symlink_metadata(format!("/proc/{}/fd/{fd}", relay.pid())).is_ok();
    let first_free = (0..).find(|fd| !is_open(fd)).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let lowered = Rlimit { current: Some(first_free), maximum };
    let before = prlimit(pid, Resource::Nofile, lowered).unwrap();
    let mut waiting: Vec<_> = (0..5).map(|_| dial(&address)).collect();
    waiting.iter_mut().for_each(|client| client.write_all(b"ping").unwrap());
    let note = relay.event("note");
    let message = note["message"].as_str().unwrap();
    assert_eq!(message, "accept: too many open files (1 live connection); further clients wait");

    let (sleeps, work) = relay.effort();
    let start = Instant::now();
    thread::park_timeout(Duration::from_secs(2));
    let (more_sleeps, more_work) = relay.effort();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} wake-ups, {:?} in {seconds} s", more_sleeps - sleeps, more_work - work);
    assert!(((more_sleeps - sleeps) as f64) < 10.0 * seconds, "it spins");
    // Those that are served are served on.
    ping(&mut served);

    prlimit(pid, Resource::Nofile, before).unwrap();
    for mut client in waiting {
        let mut text = [0; 4];
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ping");
    }
    drop(served);
    relay.signal(rustix::process::Signal::TERM);
    let (status, lines) = relay.rest();
    assert_eq!(status, 0, "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("\"note\"")), "said once: {lines:?}");
}
