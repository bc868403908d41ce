//! `qio relay`: what arrives, how fast, and what it costs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    PATIENCE, Running, dial, echo, eventually, is_installed, noise, qio, run, serve, socket_address,
};

/// Reads the request to its end, thinks, answers.
fn thoughtful(mut client: impl Read + Write, pause: Duration) {
    let mut request = Vec::new();
    if client.read_to_end(&mut request).is_ok() {
        thread::sleep(pause);
        let _ = client.write_all(&answer_to(&request));
    }
}

fn answer_to(request: &[u8]) -> Vec<u8> {
    [b"you said: ", request, &noise(300_000, 1)].concat()
}

/// A client that sends a request and its end, and then reads the answer.
fn asks(mut client: impl Read + Write, finish: impl FnOnce()) {
    client.write_all(b"question").unwrap();
    finish();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer == answer_to(b"question"), "{} bytes", answer.len());
}

fn asks_tcp(address: &str) {
    let client = dial(address);
    asks(&client, || client.shutdown(Shutdown::Write).unwrap());
}

fn unix_server(path: &Path, pause: Duration) -> String {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || thoughtful(client, pause));
        }
    });
    format!("unix:{}", path.display())
}

fn the_whole_reply_arrives(pause: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let tcp = serve(move |client| thoughtful(client, pause));
    let unix = unix_server(&folder.path().join("server"), pause);
    let noise_file = folder.path().join("noise");
    std::fs::write(&noise_file, noise(300_000, 1)).unwrap();
    let exec = format!(
        "exec:sh -c 'q=$(cat); sleep {}; printf \"you said: %25s\" \"$q\"; cat {}'",
        pause.as_secs_f64(),
        noise_file.display()
    );
    let left = format!("listen:unix:{}", folder.path().join("left").display());
    thread::scope(|scope| {
        for right in [&tcp, &unix, &exec] {
            scope.spawn(move || {
                let (mut relay, address) =
                    Running::relay(&["--once", "listen:tcp://127.0.0.1:0", right]);
                asks_tcp(&address);
                let record = relay.event("connection");
                assert_eq!(record["sent"], 8, "{right}");
                assert_eq!(record["received"], 300_018, "{right}");
                assert_eq!(record["end"], "finished", "{right}");
                assert_eq!(relay.wait(), 0, "{right}");
            });
        }
        scope.spawn(|| {
            let (mut relay, address) = Running::relay(&["--once", &left, &tcp]);
            let client = UnixStream::connect(address.strip_prefix("unix:").unwrap()).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            asks(&client, || client.shutdown(Shutdown::Write).unwrap());
            assert_eq!(relay.wait(), 0);
        });
    });
}

#[test]
fn the_whole_reply_arrives_a_moment_after_the_clients_end() {
    the_whole_reply_arrives(Duration::from_millis(200));
}

#[test]
fn the_whole_reply_arrives_long_after_the_clients_end() {
    the_whole_reply_arrives(Duration::from_millis(1500));
}

#[test]
#[ignore = "slow: .ci/run full"]
fn the_whole_reply_arrives_very_long_after_the_clients_end() {
    the_whole_reply_arrives(Duration::from_secs(6));
}

/// Answers each request of 200 bytes with one byte.
fn one_for_200(mut client: TcpStream) {
    let mut request = [0; 200];
    while client.read_exact(&mut request).is_ok() {
        if client.write_all(b"!").is_err() {
            return;
        }
    }
}

#[test]
fn a_request_in_two_parts_is_not_held_back() {
    let (_relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(one_for_200)]);
    let mut client = dial(&address);
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let start = Instant::now();
            client.write_all(&[1; 100]).unwrap();
            client.write_all(&[2; 100]).unwrap();
            client.read_exact(&mut [0]).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("median {:?}, worst {:?}", times[25], times[49]);
    // Nagle's algorithm waits for an acknowledgement that is delayed by 40 ms.
    assert!(times[25] < Duration::from_millis(5), "{:?}", times[25]);
}

#[test]
fn both_sockets_of_a_connection_are_without_delay_and_kept_alive() {
    if !is_installed("strace") {
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=setsockopt", "-o"]).arg(log.path());
    strace.args([common::QIO, "relay", "--json", "--once", "listen:tcp://127.0.0.1:0"]);
    let (mut relay, address) = Running::wrapped_relay(strace.arg(serve(one_for_200)));
    let mut client = dial(&address);
    client.write_all(&[1; 200]).unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(relay.wait(), 0);
    let calls = std::fs::read_to_string(log.path()).unwrap();
    let set = |option: &str| {
        let part = format!("{option}, [1]");
        calls.lines().filter(|line| line.contains(&part)).count()
    };
    // The listener hands its options on to what it accepts.
    assert_eq!(set("TCP_NODELAY"), 2, "{calls}");
    assert_eq!(set("SO_KEEPALIVE"), 2, "{calls}");
}

#[test]
fn a_round_trip_costs_six_system_calls() {
    if !is_installed("strace") {
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o"]).arg(log.path());
    strace.args([common::QIO, "relay", "--json", "--once", "listen:tcp://127.0.0.1:0"]);
    let (mut relay, address) = Running::wrapped_relay(strace.arg(serve(echo)));
    let mut client = dial(&address);
    let calls = || std::fs::read_to_string(log.path()).unwrap().lines().count();
    let mut round_trip = || {
        client.write_all(&[7; 64]).unwrap();
        client.read_exact(&mut [0; 64]).unwrap();
    };
    (0..20).for_each(|_| round_trip());
    let before = calls();
    (0..100).for_each(|_| round_trip());
    let each = (calls() - before) as f64 / 100.0;
    println!("{each} system calls a round trip");
    // A timer's tick or an unfinished line more or less.
    assert!(each < 6.3, "{}", std::fs::read_to_string(log.path()).unwrap());
    drop(client);
    assert_eq!(relay.wait(), 0);
}

/// Sends noise, reads its echo at the same time, and then the end.
fn exchanges(address: &str, bytes: usize, seed: u64) -> TcpStream {
    let mut client = dial(address);
    let data = noise(bytes, seed);
    let mut back = vec![0; bytes];
    let mut reader = client.try_clone().unwrap();
    thread::scope(|scope| {
        let reading = thread::Builder::new().stack_size(128 * 1024);
        let reading = reading.spawn_scoped(scope, || reader.read_exact(&mut back)).unwrap();
        client.write_all(&data).unwrap();
        reading.join().unwrap().unwrap();
    });
    assert!(back == data, "client {seed} got something else");
    client
}

/// How many descriptors a thread of the relay keeps in its pool of pipes.
const POOL: usize = 8;

/// So many clients at once, each exchanging so much; then all leave.
fn many_exchange(relay: &Running, address: &str, clients: u64, bytes: usize, pools: usize) {
    let fds = relay.fds() + pools * POOL;
    let met = std::sync::Barrier::new(clients as usize);
    thread::scope(|scope| {
        for seed in 0..clients {
            let met = &met;
            let work = move || {
                let client = exchanges(address, bytes, seed);
                // All are connected at the same time.
                met.wait();
                drop(client);
            };
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, work).unwrap();
        }
    });
    eventually("all descriptors of the connections are closed", || relay.fds() <= fds);
}

fn concurrent_clients(clients: u64, bytes: usize) {
    let (relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(echo)]);
    // The first round fills the pools that later ones draw from.
    many_exchange(&relay, &address, 8, 4 * 1024 * 1024, 1);
    let (fds, rss) = (relay.fds(), relay.rss_kib());
    many_exchange(&relay, &address, clients, bytes, 0);
    let after = relay.rss_kib();
    println!("{fds} -> {} descriptors, {rss} -> {after} KiB", relay.fds());
    assert!(after < rss + 3 * 1024, "memory grew from {rss} to {after} KiB");
}

#[test]
fn two_hundred_clients_get_their_own_data_back_and_leave_nothing_behind() {
    concurrent_clients(200, 64 * 1024);
}

#[test]
#[ignore = "slow: .ci/run full"]
fn a_thousand_clients_get_their_own_data_back_and_leave_nothing_behind() {
    concurrent_clients(1000, 1024 * 1024);
}

#[test]
fn idle_connections_hold_no_buffer() {
    let (relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(echo)]);
    many_exchange(&relay, &address, 8, 4 * 1024 * 1024, 1);
    let before = relay.rss_kib();
    // Each moves more than a buffer, also by splice(2), and then stays.
    let clients: Vec<_> = (0..200).map(|seed| exchanges(&address, 512 * 1024, seed)).collect();
    let each = relay.rss_kib().saturating_sub(before) as f64 / clients.len() as f64;
    println!("{each} KiB an idle connection");
    assert!(each < 8.0, "{each} KiB");
    // Two sockets each, and the pipes of the pool.
    let fds = relay.fds();
    assert!(fds < 2 * 200 + 32, "{fds} descriptors");
}

#[test]
fn bulk_data_is_spliced_and_copied_when_told_so() {
    for (option, spliced) in [("--quiet", true), ("--no-splice", false)] {
        let (mut relay, address) =
            Running::relay(&["--once", option, "listen:tcp://127.0.0.1:0", &serve(echo)]);
        drop(exchanges(&address, 64 * 1024 * 1024, 3));
        let record = relay.event("connection");
        assert_eq!(record["sent"], 64 * 1024 * 1024);
        assert_eq!(record["received"], 64 * 1024 * 1024);
        let share = record["spliced"].as_u64().unwrap() as f64 / (128.0 * 1024.0 * 1024.0);
        println!("{option}: {share:.3} of the bytes spliced");
        // On a busy machine reads are seldom full, and much of it is copied.
        assert_eq!(share > 0.0, spliced, "{option}: {record}");
        assert_eq!(relay.wait(), 0);
    }
}

#[test]
fn several_threads_serve_and_drain_like_one() {
    let (mut relay, address) =
        Running::relay(&["--threads", "3", "listen:tcp://127.0.0.1:0", &serve(echo)]);
    many_exchange(&relay, &address, 30, 64 * 1024, 3);
    let mut client = exchanges(&address, 1000, 1);
    relay.signal(rustix::process::Signal::TERM);
    eventually("the listener is gone", || TcpStream::connect(socket_address(&address)).is_err());
    client.write_all(b"still here").unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    drop(client);
    assert_eq!(relay.wait(), 0);
    for _ in 0..31 {
        assert_eq!(relay.event("connection")["end"], "finished");
    }
}

#[test]
fn a_path_that_the_listener_chose_is_told_and_goes_with_it() {
    for address in ["listen:unix:", "qemu:unix:,server=on,wait=off"] {
        let mut command = qio(["relay", "--once", address, "echo:"]);
        let mut relay = Running::start(command.stdin(Stdio::null()));
        let line = relay.line();
        let path = line.strip_prefix("qio: listening on unix:").unwrap();
        let mut client = UnixStream::connect(path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(client);
        let (status, lines) = relay.rest();
        assert_eq!(status, 0, "{lines:?}");
        assert!(!Path::new(path).exists());
    }
}

#[test]
fn two_listeners_join_the_clients_of_both() {
    let mut relay = Running::start(
        qio(["relay", "--json", "--once", "listen:tcp://127.0.0.1:0", "listen:tcp://127.0.0.1:0"])
            .stdin(Stdio::null()),
    );
    let mut addresses = [(); 2].map(|()| {
        let event = relay.event("listening");
        event["address"].as_str().unwrap().to_owned()
    });
    addresses.sort();
    let (mut one, mut other) = (dial(&addresses[0]), dial(&addresses[1]));
    one.write_all(b"ping").unwrap();
    let mut text = [0; 4];
    other.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
    drop((one, other));
    assert_eq!(relay.wait(), 0);
}

#[test]
fn two_addresses_that_are_connected_to_are_joined_once() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::write(&from, noise(1_000_000, 4)).unwrap();
    let (left, right) =
        (format!("file:{}", from.display()), format!("file:{}?write&create", to.display()));
    let outcome = run(&mut qio(["relay", &left, &right]), b"");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert!(std::fs::read(&to).unwrap() == noise(1_000_000, 4));
}

#[test]
fn descriptors_travel_when_asked_and_are_counted_when_not() {
    for pass in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let server = folder.path().join("server");
        let listener = UnixListener::bind(&server).unwrap();
        let left = format!("listen:unix:{}", folder.path().join("left").display());
        let right = format!("unix:{}", server.display());
        let option = if pass { "--pass-fds" } else { "--quiet" };
        let (mut relay, address) = Running::relay(&["--once", option, &left, &right]);
        let client = UnixStream::connect(address.strip_prefix("unix:").unwrap()).unwrap();
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        send_descriptor(&client, &theirs);
        drop(theirs);
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let got = receive_descriptor(&server);
        if pass {
            // The descriptor is the real one: what goes in there comes out here.
            rustix::io::write(got.unwrap(), b"through").unwrap();
            let mut text = [0; 7];
            rustix::io::read(&ours, &mut text).unwrap();
            assert_eq!(&text, b"through");
        } else {
            assert!(got.is_none());
        }
        // Nobody else holds it: the pipe has ended.
        let mut end = [0];
        assert_eq!(rustix::io::read(&ours, &mut end).unwrap(), 0);
        drop((client, server));
        let record = relay.event("connection");
        assert_eq!(record["fds_passed"], u64::from(pass), "{record}");
        assert_eq!(record["fds_dropped"], u64::from(!pass), "{record}");
        assert_eq!(relay.wait(), 0);
    }
}

fn send_descriptor(socket: &UnixStream, fd: impl std::os::fd::AsFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let data = [std::io::IoSlice::new(b"x")];
    sendmsg(socket, &data, &mut control, SendFlags::empty()).unwrap();
}

fn receive_descriptor(socket: &UnixStream) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bufs = [std::io::IoSliceMut::new(&mut byte)];
    let got = recvmsg(socket, &mut bufs, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(got.bytes, 1);
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

#[test]
fn a_program_gets_its_three_descriptors_and_no_others() {
    let right = "exec:sh -c 'ls -l /proc/self/fd'";
    let (_relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", right]);
    // The second child must not see the connection of the first.
    let _first = dial(&address);
    let mut second = dial(&address);
    let mut list = String::new();
    second.read_to_string(&mut list).unwrap();
    let fds: Vec<_> = list.lines().filter(|line| line.contains(" -> ")).collect();
    // ls itself opens the directory.
    assert_eq!(fds.len(), 4, "{list}");
    assert_eq!(fds.iter().filter(|fd| fd.contains("pipe:")).count(), 3, "{list}");
    assert!(!list.contains("socket:"), "{list}");
}

#[test]
fn a_client_whose_program_ends_is_told_so_while_it_is_silent() {
    let (mut relay, address) = Running::relay(&["--once", "listen:tcp://127.0.0.1:0", "exec:true"]);
    let mut client = dial(&address);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let record = relay.event("connection");
    assert_eq!((&record["end"], &record["ended_by"]), (&"finished".into(), &"target".into()));
    assert_eq!(relay.wait(), 0);
}
