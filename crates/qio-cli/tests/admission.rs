//! Who may come in.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use common::{PATIENCE, Running, dial, qio, run};

/// Whether an echo comes back, or the connection is closed.
fn is_served(mut client: impl Read + Write) -> bool {
    // A refused client may be gone before it has said anything.
    let _ = client.write_all(b"x");
    match client.read(&mut [0]) {
        Ok(n) => n == 1,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) => panic!("{error}"),
    }
}

fn knock(path: &std::path::Path) -> bool {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    is_served(client)
}

#[test]
fn users_and_groups_are_let_in_by_number_or_name() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let other = (uid + 1).to_string();
    for (flags, is_in) in [
        (vec!["--allow-uid", &uid.to_string()], true),
        (vec!["--allow-uid", name.trim()], true),
        (vec!["--allow-uid", &other, "--allow-uid", &uid.to_string()], true),
        (vec!["--allow-gid", &gid.to_string()], true),
        (vec!["--allow-uid", &other, "--allow-gid", &gid.to_string()], true),
        (vec!["--allow-uid", &other], false),
        (vec!["--allow-gid", "3000000000"], false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q");
        let left = format!("listen:unix:{}", path.display());
        let mut args = flags.clone();
        args.extend([&*left, "echo:"]);
        let (mut relay, _) = Running::relay(&args);
        assert_eq!(knock(&path), is_in, "{flags:?}");
        if !is_in {
            let refused = relay.event("refused");
            let peer = refused["peer"].as_str().unwrap();
            let who = format!("(process {}, user {uid})", std::process::id());
            assert!(peer.ends_with(&who), "{refused}");
            let reason = refused["reason"].as_str().unwrap();
            assert!(reason.contains(&uid.to_string()) && reason.contains("allowed"), "{refused}");
        }
    }
}

#[test]
fn networks_are_let_in_and_others_are_refused() {
    for (network, is_in) in
        [("127.0.0.0/8", true), ("127.0.0.1", true), ("192.0.2.0/24", false), ("::/0", false)]
    {
        let args = ["--allow-cidr", network, "listen:tcp://127.0.0.1:0", "echo:"];
        let (mut relay, address) = Running::relay(&args);
        assert_eq!(is_served(dial(&address)), is_in, "{network}");
        if !is_in {
            let reason = "127.0.0.1 is in none of the allowed networks";
            assert_eq!(relay.event("refused")["reason"], reason);
        }
    }
}

#[test]
fn udp_peers_and_seqpacket_clients_are_restricted_like_others() {
    use std::net::UdpSocket;

    use qio::ChannelExt;

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for (network, is_in) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let listen = "listen:udp://127.0.0.1:0";
        let args = ["--framing", "u16", "--allow-cidr", network, listen, "echo:"];
        let (mut relay, address) = Running::relay(&args);
        client.send_to(b"hello", address.strip_prefix("udp://").unwrap()).unwrap();
        if is_in {
            let mut buf = [0; 10];
            assert_eq!(client.recv(&mut buf).unwrap(), 5, "{network}");
        } else {
            let peer = relay.event("refused")["peer"].as_str().unwrap().to_owned();
            assert_eq!(peer, format!("udp://{}", client.local_addr().unwrap()));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("listen:unix-seqpacket:{}", path.display());
    let nobody = (rustix::process::geteuid().as_raw() + 1).to_string();
    let args = ["--framing", "u16", "--allow-uid", &nobody, &listen, "echo:"];
    let (mut relay, address) = Running::relay(&args);
    let client = qio::net::connect(&address.parse().unwrap(), &Default::default()).unwrap();
    assert!(relay.event("refused")["reason"].as_str().unwrap().contains("is not allowed"));
    assert_eq!(client.receive(&mut [0]).unwrap_or(None), None);
}

#[test]
fn a_refused_client_is_a_line_when_asked_for_and_a_number_otherwise() {
    let args = "relay --max-connections 8 --allow-cidr 192.0.2.1 listen:tcp://127.0.0.1:0 echo:";
    for verbose in [true, false] {
        let mut command = qio(args.split(' '));
        if verbose {
            command.arg("-v");
        }
        let mut relay = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let line = relay.line();
        let address = line.strip_prefix("qio: listening on ").unwrap().to_owned();
        let peers: Vec<_> = (0..3)
            .map(|_| {
                let client = dial(&address);
                let peer = client.local_addr().unwrap();
                assert!(!is_served(client));
                peer
            })
            .collect();
        relay.signal(rustix::process::Signal::TERM);
        let (status, lines) = relay.rest();
        assert_eq!(status, 0);
        let reason = "127.0.0.1 is in none of the allowed networks";
        let expected = if verbose {
            let line = |peer| format!("qio: tcp://{peer}: refused: {reason}");
            peers.iter().map(line).collect::<Vec<_>>()
        } else {
            let line =
                |count, peer| format!("qio: {count} refused, the last: tcp://{peer}: {reason}");
            vec![line("1 client", peers[0]), line("2 clients", peers[2])]
        };
        assert_eq!(lines, expected);
    }
}

#[test]
fn what_does_not_fit_the_address_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("listen:unix:{}", folder.path().join("q").display());
    let tcp = "listen:tcp://127.0.0.1:0";
    let no_unix = "tcp://127.0.0.1:0 is not a Unix socket (--allow-cidr is for IP sockets)";
    let no_ip = format!(
        "{} is not an IP socket (--allow-uid and --allow-gid are for Unix sockets)",
        &unix["listen:".len()..]
    );
    for (args, complaint) in [
        (vec!["relay", "--allow-uid", "0", tcp, "echo:"], format!("--allow-uid: {no_unix}")),
        (vec!["relay", "--allow-gid", "0", tcp, "echo:"], format!("--allow-gid: {no_unix}")),
        (vec!["relay", "--allow-cidr", "::1", &unix, "echo:"], format!("--allow-cidr: {no_ip}")),
        // One that fits does not make up for one that does not.
        (
            vec!["relay", "--allow-cidr", "::1", "--allow-uid", "0", &unix, "echo:"],
            format!("--allow-cidr: {no_ip}"),
        ),
        (
            vec!["relay", "--allow-cidr", "::1", "--allow-uid", "0", tcp, "echo:"],
            format!("--allow-uid: {no_unix}"),
        ),
        // Each side is restricted, or none.
        (vec!["relay", "--allow-uid", "0", &unix, tcp], format!("--allow-uid: {no_unix}")),
        (vec!["relay", "--allow-cidr", "::1", &unix, tcp], format!("--allow-cidr: {no_ip}")),
        (vec!["listen", "--allow-uid", "0", tcp], format!("--allow-uid: {no_unix}")),
        (
            vec!["relay", "--allow-uid", "0", "echo:", "echo:"],
            "--allow-uid: nothing is listened on (try listen:)".to_owned(),
        ),
    ] {
        let outcome = run(&mut qio(&args), b"");
        assert_eq!((outcome.complaint(), outcome.status), (&*complaint, 2), "{args:?}");
    }
    for (args, part) in [
        (["--allow-uid", "qio-no-such-user"], "there is no user of this name"),
        (["--allow-gid", "qio-no-such-group"], "there is no group of this name"),
        (["--allow-uid", "4294967295"], "no user has this number"),
        (["--allow-uid", "4294967296"], "no user has this number"),
        (["--allow-uid", ""], "there is no user of this name"),
        (["--allow-cidr", "10.0.0.1/8"], "did you mean 10.0.0.0/8 or 10.0.0.1?"),
        (["--allow-cidr", "localhost"], "a network is written as"),
    ] {
        let outcome = run(qio(["relay"]).args(args).args([tcp, "echo:"]), b"");
        assert!(outcome.complaint().contains(part), "{outcome:?}");
        assert_eq!(outcome.status, 2);
    }
}

#[test]
fn both_sides_are_restricted_and_a_socket_that_is_handed_over_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q");
    let unix = format!("listen:unix:{}", path.display());
    let uid = rustix::process::geteuid().as_raw().to_string();
    let args =
        ["--allow-uid", &uid, "--allow-cidr", "192.0.2.1", &unix, "listen:tcp://127.0.0.1:0"];
    let (mut relay, _) = Running::relay(&args);
    let address = relay.event("listening")["address"].as_str().unwrap().to_owned();
    let _left = UnixStream::connect(&path).unwrap();
    assert!(!is_served(dial(&address)));
    relay.event("refused");

    // What a descriptor is shows when it is open.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    for (flags, complaint) in [
        (
            ["--allow-uid", "0"],
            Some("--allow-uid: fd:0 is not a Unix socket (--allow-cidr is for IP sockets)"),
        ),
        (["--allow-cidr", "192.0.2.1"], None),
    ] {
        let stdin = std::os::fd::OwnedFd::from(listener.try_clone().unwrap());
        let mut command = qio(["relay", "--json"]);
        command.args(flags).args(["listen:fd:0", "echo:"]);
        let mut relay = Running::start(command.stdin(Stdio::from(stdin)).stdout(Stdio::null()));
        match complaint {
            Some(complaint) => {
                let (status, lines) = relay.rest();
                assert_eq!((status, lines), (2, vec![format!("qio: {complaint}")]));
            }
            None => {
                assert!(!is_served(dial(&address)));
                relay.event("refused");
            }
        }
    }
}

#[test]
fn the_one_client_of_listen_is_the_first_that_may_come_in() {
    let mut command = qio(["listen", "-v", "--allow-cidr", "192.0.2.1", "tcp://127.0.0.1:0"]);
    let mut listen = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let line = listen.line();
    let address = line.strip_prefix("qio: listening on ").unwrap().to_owned();
    for _ in 0..2 {
        assert!(!is_served(dial(&address)));
        assert!(listen.line().contains(": refused: "));
    }
    listen.signal(rustix::process::Signal::TERM);
    assert_eq!(listen.wait(), 143);
}
