//! Each failure is one clear line on standard error, and the exit status of its class.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::net::TcpListener;
use std::process::Stdio;

use common::{Outcome, qio, run};

#[track_caller]
fn fails(args: &[&str], status: i32, line: &str) -> Outcome {
    let outcome = run(&mut qio(args), b"");
    assert_eq!(outcome.complaint(), line, "{args:?}");
    assert_eq!(outcome.status, status, "{args:?}");
    outcome
}

#[test]
fn an_unknown_scheme_is_bad_usage_and_the_likely_one_is_named() {
    fails(
        &["relay", "listen:tcp://127.0.0.1:0", "nosuch:thing"],
        2,
        "parse nosuch:thing: scheme \"nosuch\" is not known \
         (schemes: tcp, unix, vsock, udp, unix-dgram, unix-seqpacket, fd, file, exec, pty, serial, \
         pipe, stdio, null, echo; did you mean tcp://nosuch:thing, or qemu:nosuch:thing with the \
         defaults of QEMU?)",
    );
    let outcome = run(&mut qio(["connect", "tpc://127.0.0.1:80"]), b"");
    assert!(outcome.complaint().contains("did you mean tcp"), "{outcome:?}");
    assert_eq!(outcome.status, 2);
}

#[test]
fn a_missing_file_could_not_be_opened() {
    fails(
        &["connect", "file:/nonexistent/x"],
        4,
        "open file:/nonexistent/x: no such file or directory",
    );
}

#[test]
fn a_refused_port_could_not_be_connected() {
    // Bound, so that no other test gets it, and never listened on.
    let socket = bound_port();
    fails(
        &["connect", &format!("tcp://{socket}")],
        4,
        &format!("connect tcp://{socket}: connection refused (nothing listens there)"),
    );
}

fn bound_port() -> std::net::SocketAddr {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&fd).unwrap().try_into().unwrap();
    std::mem::forget(fd);
    address
}

#[test]
fn a_failure_is_said_once() {
    let socket = bound_port();
    let right = format!("tcp://{socket}");
    let refused = format!("connect tcp://{socket}: connection refused (nothing listens there)");
    fails(&["relay", "null:", &right], 4, &refused);
    fails(&["relay", "-v", "null:", &right], 4, &refused);
    let outcome = run(&mut qio(["relay", "--json", "null:", &right]), b"");
    let event: serde_json::Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!((&event["event"], &event["error"]), (&"failed".into(), &refused.as_str().into()));
    assert_eq!(outcome.status, 4);

    for json in [false, true] {
        let mut command = qio(["relay", "--once", "listen:tcp://127.0.0.1:0", &right]);
        command.args(json.then_some("--json")).stdin(Stdio::null()).stdout(Stdio::null());
        let mut relay = common::Running::start(&mut command);
        let address = match json {
            true => relay.event("listening")["address"].as_str().unwrap().to_owned(),
            false => relay.line().strip_prefix("qio: listening on ").unwrap().to_owned(),
        };
        let _client = common::dial(&address);
        let (status, lines) = relay.rest();
        assert_eq!((status, lines.len()), (4, 1), "{lines:?}");
        assert!(lines[0].contains(&refused), "{lines:?}");
    }

    for option in [None, Some("--json"), Some("-v")] {
        let mut command = qio(["connect", "exec:cat /dev/zero"]);
        let (reader, writer) = std::io::pipe().unwrap();
        // Fuller than full: more was read than fits.
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        command.args(option).stdin(Stdio::null()).stdout(writer);
        let mut connect = common::Running::start(&mut command);
        drop(command);
        common::eventually("the pipe is full", || {
            rustix::io::ioctl_fionread(&reader).unwrap() >= 4096
        });
        drop(reader);
        let line = connect.line();
        assert!(line.contains("broken pipe"), "{line}");
        let (_, rest) = connect.rest();
        assert!(rest.is_empty(), "{option:?}: {line:?} {rest:?}");
    }
}

#[test]
fn an_unresolvable_name_has_a_status_of_its_own() {
    let outcome = run(&mut qio(["connect", "tcp://nosuch.invalid:80"]), b"");
    let line = outcome.complaint();
    assert!(
        line.starts_with("connect tcp://nosuch.invalid:80: resolve nosuch.invalid: "),
        "{line}"
    );
    assert_eq!(outcome.status, 3);
}

#[test]
fn a_port_in_use_is_said_to_be_and_by_whom() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    let line = format!(
        "listen {address}: address already in use ({}, process {}, listens there)",
        own.trim_end(),
        std::process::id()
    );
    fails(&["relay", &format!("listen:{address}"), "null:"], 4, &line);
    fails(&["listen", &address], 4, &line);
}

#[test]
fn a_unix_socket_in_use_is_said_to_be_and_a_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let outcome = run(&mut qio(["listen", &address]), b"");
    let line = outcome.complaint();
    assert!(line.starts_with(&format!("listen {address}: address already in use (")), "{line}");
    assert!(line.contains(&format!("process {}", std::process::id())), "{line}");
    assert_eq!(outcome.status, 4);

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let outcome = run(&mut qio(["listen", &format!("unix:{}", file.display())]), b"");
    outcome.complaint();
    assert_eq!(outcome.status, 4);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_descriptor_that_was_not_inherited_cannot_be_used() {
    let outcome = run(&mut qio(["connect", "fd:99"]), b"");
    assert!(outcome.complaint().starts_with("connect fd:99: no descriptor 99 "), "{outcome:?}");
    assert_eq!(outcome.status, 4);
    // Not only when the first client has come.
    let outcome = run(&mut qio(["relay", "listen:tcp://127.0.0.1:0", "fd:99"]), b"");
    assert!(outcome.complaint().starts_with("connect fd:99: no descriptor 99 "), "{outcome:?}");
    assert_eq!(outcome.status, 4);
}

#[test]
fn a_bad_port_or_key_is_bad_usage() {
    for (address, part) in [
        ("tcp://127.0.0.1:80a", "80a"),
        ("tcp://127.0.0.1:65536", "65536"),
        ("tcp://127.0.0.1", "port"),
        ("tcp://127.0.0.1:80?nodeley=off", "did you mean nodelay"),
        ("tcp://127.0.0.1:80?nodelay=maybe", "maybe"),
        ("", "empty"),
    ] {
        let outcome = run(&mut qio(["connect", address]), b"");
        assert!(outcome.complaint().contains(part), "{address}: {outcome:?}");
        assert_eq!(outcome.status, 2, "{address}");
    }
}

#[test]
fn what_cannot_be_listened_on_is_bad_usage() {
    for address in ["file:/tmp/x", "exec:cat", "null:"] {
        let outcome = run(&mut qio(["listen", address]), b"");
        assert!(outcome.complaint().contains("listen"), "{outcome:?}");
        assert_eq!(outcome.status, 2, "{address}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let outcome = run(&mut qio(["connect", "exec:/nonexistent/program -x"]), b"");
    let line = outcome.complaint();
    assert!(line.contains("/nonexistent/program"), "{line}");
    assert!(line.contains("no such file or directory"), "{line}");
    assert_eq!(outcome.status, 4);
}

#[test]
fn a_refused_permission_is_said() {
    let folder = tempfile::tempdir().unwrap();
    // Not executable: refused to every user, also to root.
    let path = folder.path().join("program");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    let outcome = run(&mut qio(["connect", &format!("exec:{}", path.display())]), b"");
    assert!(outcome.complaint().contains("permission denied"), "{outcome:?}");
    assert_eq!(outcome.status, 4);
}

#[test]
fn a_bad_command_line_is_one_line_too() {
    for (args, part) in [
        (&["relay"][..], "<LEFT>"),
        (&["conect", "null:"], "'connect'"),
        (&["connect", "--retri", "1", "null:"], "'--retry'"),
        (&["connect", "null:", "null:"], "null:"),
        (&["connect", "--connect-timeout", "soon", "null:"], "not a time like"),
        (&["relay", "--max-connections", "0", "null:", "null:"], "0 is not in"),
    ] {
        let outcome = run(&mut qio(args), b"");
        assert!(outcome.complaint().contains(part), "{args:?}: {outcome:?}");
        assert_eq!(outcome.status, 2, "{args:?}");
    }
}

#[test]
fn no_command_at_all_shows_the_help_on_standard_error() {
    let outcome = run(&mut qio([""; 0]), b"");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stdout.is_empty() && outcome.stderr.contains("Usage: qio"), "{outcome:?}");
}

#[test]
fn a_failure_ends_with_its_status_when_nobody_can_read_the_line() {
    let mut command = qio(["connect", "file:/nonexistent/x"]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(4));
    // Nobody has standard error open at all.
    let script = format!("{} connect file:/nonexistent/x 2>&-", common::QIO);
    assert_eq!(run(std::process::Command::new("sh").args(["-c", &script]), b"").status, 4);
}
