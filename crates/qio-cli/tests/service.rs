//! What a service manager gives, and what it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, QIO, Running, dial, eventually, is_installed, qio, run};
use rustix::process::Signal;

/// A service manager that reads what it is told.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).unwrap())
    }

    fn of(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn message(&self) -> String {
        let mut buf = [0; 4096];
        let len = self.0.recv(&mut buf).expect("a message in time");
        String::from_utf8(buf[..len].to_vec()).unwrap()
    }

    /// The next message that is not about how things go.
    fn state(&self) -> String {
        loop {
            let message = self.message();
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    }

    /// What was told and not read yet.
    fn rest(&self) -> Vec<String> {
        self.0.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match self.0.recv(&mut buf) {
                Ok(len) => rest.push(String::from_utf8(buf[..len].to_vec()).unwrap()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return rest;
                }
            }
        }
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

fn ping(mut client: impl Read + Write) {
    client.write_all(b"ping").unwrap();
    let mut text = [0; 4];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
}

/// Connects to a socket that systemd-socket-activate makes when it comes to that.
fn dial_when_there(path: &Path) -> UnixStream {
    let mut stream = None;
    eventually("somebody listens", || {
        stream = UnixStream::connect(path).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn readiness_is_told_when_the_listener_can_be_reached_and_the_end_when_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let name = format!("qio-test-notify-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let managers = [
        (Manager::at(&path), path.display().to_string()),
        (Manager::of(UnixDatagram::bind_addr(&address).unwrap()), format!("@{name}")),
    ];
    for (manager, socket) in managers {
        for threads in ["1", "2"] {
            let args = ["relay", "--json", "--threads", threads, "listen:tcp://:0", "echo:"];
            let (mut relay, address) =
                Running::wrapped_relay(qio(args).env("NOTIFY_SOCKET", &socket));
            assert_eq!(manager.message(), "READY=1");
            let client = dial(&address);
            ping(&client);
            let status = manager.message();
            assert!(status.starts_with("STATUS=") && status.ends_with("live, 0 served, 0 B moved"));
            relay.signal(Signal::TERM);
            assert_eq!(manager.state(), "STOPPING=1");
            // The drain has begun, and what lives goes on.
            ping(&client);
            drop(client);
            assert_eq!(relay.wait(), 0);
            assert!(manager.rest().iter().all(|message| message.starts_with("STATUS=")));
            manager.0.set_nonblocking(false).unwrap();
        }
    }
}

#[test]
fn nothing_is_ready_that_failed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::at(&folder.path().join("notify"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("listen:tcp://{}", taken.local_addr().unwrap());
    for args in [&[&*taken, "null:"][..], &["listen:tcp://:0", &taken], &["null:", "exec:/none"]] {
        let outcome =
            run(qio(["relay"]).args(args).env("NOTIFY_SOCKET", folder.path().join("notify")), b"");
        assert_eq!(outcome.status, 4, "{outcome:?}");
        assert_eq!(manager.rest(), [""; 0]);
    }
}

#[test]
fn the_other_commands_are_ready_when_they_are_connected_or_listen() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::at(&folder.path().join("notify"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://{}", listener.local_addr().unwrap());
    for args in [&["connect", &target][..], &["relay", "null:", &target], &["listen", "tcp://:0"]] {
        let mut command = qio(args);
        command.env("NOTIFY_SOCKET", folder.path().join("notify"));
        let process = Running::start(quiet(&mut command));
        assert_eq!(manager.message(), "READY=1", "{args:?}");
        drop(process);
        manager.rest();
        manager.0.set_nonblocking(false).unwrap();
    }
}

#[test]
fn the_watchdog_is_fed_twice_a_period_and_by_nobody_else_than_who_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::at(&socket);
    for threads in ["1", "3"] {
        let mut command = qio(["relay", "--threads", threads, "listen:tcp://:0", "echo:"]);
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "200000");
        let mut relay = Running::start(quiet(&mut command));
        assert_eq!(manager.state(), "READY=1");
        let begin = Instant::now();
        for _ in 0..5 {
            assert_eq!(manager.state(), "WATCHDOG=1");
        }
        // The first comes at once.
        assert!(begin.elapsed() >= Duration::from_millis(390), "{:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        relay.signal(Signal::TERM);
        eventually("the end is told", || manager.state() == "STOPPING=1");
        assert_eq!(relay.wait(), 0);
        manager.rest();
        manager.0.set_nonblocking(false).unwrap();
    }

    let mut command = qio(["relay", "listen:tcp://:0", "echo:"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let mut relay = Running::start(quiet(&mut command));
    assert_eq!(manager.message(), "READY=1");
    assert!(manager.message().starts_with("STATUS="));
    relay.signal(Signal::TERM);
    assert_eq!(manager.message(), "STOPPING=1", "nothing in between, a hundred periods long");
    relay.wait();
}

#[test]
fn counts_are_told_now_and_then_and_not_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::at(&socket);
    let mut command = qio(["relay", "--json", "listen:tcp://:0", "echo:"]);
    // So that it looks every 10 ms.
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "20000");
    let begin = Instant::now();
    let (_relay, address) = Running::wrapped_relay(&mut command);
    let (mut looks, mut counts) = (0, 0);
    while looks < 20 {
        ping(dial(&address));
        match manager.message() {
            message if message.starts_with("STATUS=") => counts += 1,
            message => looks += u32::from(message == "WATCHDOG=1"),
        }
    }
    let allowed = 1 + begin.elapsed().as_secs() / 5;
    assert!((1..=allowed).contains(&counts), "{counts} in {:?}", begin.elapsed());
}

#[test]
fn a_program_that_hangs_feeds_no_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::at(&socket);
    let mut command = qio(["relay", "listen:tcp://:0", "echo:"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "40000");
    let relay = Running::start(quiet(&mut command));
    assert_eq!(manager.state(), "READY=1");
    assert_eq!(manager.state(), "WATCHDOG=1");
    relay.signal(Signal::STOP);
    eventually("it has stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", relay.pid())).unwrap();
        stat.contains(") T ")
    });
    manager.rest();
    manager.0.set_nonblocking(false).unwrap();
    manager.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = manager.0.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    relay.signal(Signal::CONT);
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(manager.state(), "WATCHDOG=1");
}

#[test]
fn a_manager_that_is_not_there_or_not_understood_disturbs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("nobody");
    for (socket, said) in [
        (nobody.to_str().unwrap(), None),
        ("", None),
        ("vsock:2:9", Some("qio: notify vsock:2:9: address family not supported by protocol\n")),
    ] {
        let mut command = qio(["connect", "echo:"]);
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "1");
        let outcome = run(&mut command, b"hello");
        assert_eq!((outcome.status, outcome.text()), (0, "hello"));
        assert_eq!(outcome.stderr, said.unwrap_or_default());
    }
}

#[test]
fn programs_inherit_nothing_of_what_the_manager_said() {
    let print = "exec:sh -c 'env | grep -E \"^(LISTEN_|NOTIFY_|WATCHDOG_|KEPT)\"'";
    let mut command = qio(["connect", print]);
    for name in [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ] {
        command.env(name, "/1");
    }
    let outcome = run(command.env("KEPT", "yes"), b"");
    assert_eq!((outcome.status, outcome.text()), (0, "KEPT=yes\n"), "{outcome:?}");
}

#[test]
fn sockets_of_another_process_are_told_from_those_that_are_not_there() {
    let outcome = run(
        qio(["relay", "listen:fd:web", "echo:"]).env("LISTEN_PID", "1").env("LISTEN_FDS", "1"),
        b"",
    );
    let complaint = outcome.complaint();
    let start =
        "listen fd:web: no descriptor is named \"web\" (LISTEN_PID is 1, and this is process ";
    assert!(complaint.starts_with(start), "{complaint}");
    assert_eq!(outcome.status, 4);
    let outcome = run(&mut qio(["relay", "listen:fd:web", "echo:"]), b"");
    let expected = "listen fd:web: no descriptor is named \"web\" (names: none)";
    assert_eq!(outcome.complaint(), expected);
    // For the right side of a relay it is found out before a client has come.
    let outcome = run(&mut qio(["relay", "listen:tcp://:0", "fd:web"]), b"");
    let expected = "connect fd:web: no descriptor is named \"web\" (names: none)";
    assert_eq!(outcome.complaint(), expected);
}

/// The program with one or two sockets as descriptors 3 and 4, the way systemd starts it.
fn activated(names: &str, sockets: Vec<OwnedFd>, args: &[&str]) -> Command {
    let count = sockets.len();
    let passed = if count == 1 { "exec 3<&0" } else { "exec 3<&0 4<&1" };
    let script =
        format!("{passed} </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, QIO]).args(args);
    command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    let mut sockets = sockets.into_iter();
    command.stdin(sockets.next().unwrap());
    command.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from));
    command
}

#[test]
fn passed_sockets_are_served_by_name_and_by_number() {
    for (names, left, served) in [
        ("web:web", "listen:fd:web", &[0, 1][..]),
        ("web:admin", "listen:fd:admin", &[1]),
        ("web:admin", "listen:fd:3", &[0]),
    ] {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|socket| socket.local_addr().unwrap());
        let fds = listeners.into_iter().map(OwnedFd::from).collect();
        let mut relay =
            Running::start(&mut activated(names, fds, &["relay", "--json", left, "echo:"]));
        for &index in served {
            assert_eq!(relay.event("listening")["address"], format!("tcp://{}", ports[index]));
            ping(dial(&ports[index].to_string()));
        }
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait(), 0);
    }
}

#[test]
fn a_passed_connection_is_served() {
    for address in ["fd:3", "fd:connection"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let args = ["relay", address, "echo:"];
        let mut relay = Running::start(&mut activated("connection", vec![theirs.into()], &args));
        ping(&ours);
        drop(ours);
        assert_eq!(relay.wait(), 0);
    }
    let pair = UnixStream::pair().unwrap();
    let both = vec![pair.0.into(), pair.1.into()];
    let (status, said) =
        Running::start(&mut activated("web:web", both, &["connect", "fd:web"])).rest();
    let expected =
        "qio: connect fd:web: 2 descriptors are named \"web\" (say which one: fd:3, fd:4)";
    assert_eq!((status, said), (4, vec![expected.to_owned()]));
}

#[test]
fn systemd_socket_activate_starts_a_relay_that_serves_and_is_ready() {
    if !is_installed("systemd-socket-activate") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::at(&folder.path().join("notify"));
    let [web, admin, other] = ["web", "admin", "other"].map(|name| folder.path().join(name));
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--fdname=web:admin:web").arg("-E").arg("KEPT=yes");
    command.arg("-E").arg(format!("NOTIFY_SOCKET={}", folder.path().join("notify").display()));
    for path in [&web, &admin, &other] {
        command.arg("-l").arg(path);
    }
    let env = "exec:sh -c 'env | grep -E \"^(LISTEN_|NOTIFY_|WATCHDOG_|KEPT)\"; cat'";
    command.args([QIO, "relay", "--threads", "2", "listen:fd:web", env]);
    // It says on standard error what it does.
    let mut activate = Running::start(quiet(&mut command));
    // The first client makes it start the program; all sockets listen already.
    let mut clients = Vec::new();
    for path in [&web, &other] {
        let mut client = dial_when_there(path);
        let mut text = [0; 9];
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"KEPT=yes\n", "and nothing else of what the manager said");
        ping(&client);
        clients.push(client);
    }
    assert_eq!(manager.message(), "READY=1");
    // What another name has is passed, too, and not accepted from.
    let waiting = UnixStream::connect(admin).unwrap();
    waiting.set_nonblocking(true).unwrap();
    assert_eq!((&waiting).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(clients);
    activate.signal(Signal::TERM);
    assert_eq!(manager.state(), "STOPPING=1");
    assert_eq!(activate.wait(), 0, "it has become the relay");
}

#[test]
fn systemd_socket_activate_hands_a_connection_over() {
    if !is_installed("systemd-socket-activate") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--accept").arg("-l").arg(&path).args([QIO, "relay", "fd:3", "echo:"]);
    let activate = Running::start(quiet(&mut command));
    for _ in 0..2 {
        ping(dial_when_there(&path));
    }
    activate.signal(Signal::TERM);
}

/// The units that are shipped, with the program that was built in the place of the installed one.
#[test]
fn the_units_that_are_shipped_are_good_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/systemd");
    let copy = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().replace('@', "@web");
        if !name.ends_with(".service") && !name.ends_with(".socket") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // An option that does not exist would only be found by starting it.
        for line in text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/qio ")) {
            let line = line.replace("${TARGET}", "null:").replace("%i", "web");
            let words: Vec<_> = line.split(' ').collect();
            let outcome = run(&mut qio(words), b"");
            assert!(outcome.complaint().contains("no descriptor is named \"web\""), "{outcome:?}");
        }
        std::fs::write(copy.path().join(&name), text.replace("/usr/bin/qio", QIO)).unwrap();
        names.push(name);
    }
    assert!(names.len() >= 2, "{names:?}");
    if !is_installed("systemd-analyze") {
        return;
    }
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").arg("--man=no").args(&names).current_dir(copy.path());
    let outcome = run(&mut verify, b"");
    let ours = |line: &&str| names.iter().any(|name| line.contains(name.as_str()));
    let complaints: Vec<_> = outcome.stderr.lines().filter(ours).collect();
    assert_eq!((outcome.status, complaints), (0, vec![]), "{}", outcome.stderr);
}
