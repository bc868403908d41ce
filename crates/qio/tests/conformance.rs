//! The conformance suite over every transport, plain and in chaos.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use qio::transport::{Duplex, Null, Pipe, Socket};
use qio_testkit::conformance::writing_to_a_peer_that_is_gone_is_an_error;
use qio_testkit::{Pair, Subject, conformance};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

conformance!(unix_socket, Subject::pair::<Socket>("unix socket", unix_socket));
conformance!(tcp_socket, Subject::pair::<Socket>("tcp socket", tcp_socket));
conformance!(shared_socket, Subject::pair::<Socket>("shared socket", shared_socket));
conformance!(duplex, Subject::pair::<Duplex>("duplex", duplex));
conformance!(tight_duplex, Subject::pair::<Duplex>("tight duplex", tight_duplex).volume(8000));
conformance!(echo, Subject::echo::<Duplex>("echo", || Pair::same(Duplex::echo())));
conformance!(pipe, Subject::one_way::<Pipe>("pipe", pipe));
conformance!(pipe_duplex, Subject::pair::<Pipe>("pipe duplex", pipe_duplex));
conformance!(shared_pipe, Subject::one_way::<Pipe>("shared pipe", shared_pipe));
conformance!(null, Subject::sink::<Null>("null", || Pair::same(Null::new())));

fn unix_socket() -> Pair {
    let (left, right) = Socket::pair().unwrap();
    Pair::new(left, right)
}

fn tcp_socket() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (right, _) = listener.accept().unwrap();
    let socket = |stream: TcpStream| {
        // Small, so that filling it is quick.
        sockopt::set_socket_send_buffer_size(&stream, 64 * 1024).unwrap();
        Socket::from_fd(OwnedFd::from(stream)).unwrap()
    };
    Pair::new(socket(left), socket(right))
}

fn shared_socket() -> Pair {
    let (left, right) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    Pair::new(Socket::from_shared(left).unwrap(), Socket::from_shared(right).unwrap())
}

fn duplex() -> Pair {
    let (left, right) = Duplex::pair();
    Pair::new(left, right)
}

fn tight_duplex() -> Pair {
    let (left, right) = Duplex::pair_with_limit(1);
    Pair::new(left, right)
}

fn pipe() -> Pair {
    let (reader, writer) = Pipe::pair().unwrap();
    Pair::new(writer, reader)
}

fn pipe_duplex() -> Pair {
    let (left_in, right_out) = std::io::pipe().unwrap();
    let (right_in, left_out) = std::io::pipe().unwrap();
    Pair::new(
        Pipe::from_fds(Some(left_in.into()), Some(left_out.into())).unwrap(),
        Pipe::from_fds(Some(right_in.into()), Some(right_out.into())).unwrap(),
    )
}

fn shared_pipe() -> Pair {
    let (reader, writer) = std::io::pipe().unwrap();
    Pair::new(
        Pipe::from_shared_fds(None, Some(writer.into())).unwrap(),
        Pipe::from_shared_fds(Some(reader.into()), None).unwrap(),
    )
}

/// In a child with the default disposition, which a C program has and Rust's runtime changes.
#[test]
fn a_broken_pipe_raises_no_signal() {
    const ROLE: &str = "QIO_SIGPIPE_ROLE";
    let subjects = [
        Subject::pair::<Socket>("unix socket", unix_socket),
        Subject::pair::<Socket>("tcp socket", tcp_socket),
        Subject::pair::<Socket>("shared socket", shared_socket),
        Subject::pair::<Duplex>("duplex", duplex),
        Subject::one_way::<Pipe>("pipe", pipe),
        Subject::one_way::<Pipe>("shared pipe", shared_pipe),
    ];
    match std::env::var(ROLE).as_deref() {
        Ok("channels") => {
            qio_os::restore_default_sigpipe();
            for subject in &subjects {
                writing_to_a_peer_that_is_gone_is_an_error(subject);
            }
            qio_os::Capability::WriteNoSignal.refuse();
            for subject in &subjects {
                writing_to_a_peer_that_is_gone_is_an_error(subject);
            }
        }
        Ok(_) => {
            // The control: without care the signal does end the process.
            qio_os::restore_default_sigpipe();
            let (reader, mut writer) = std::io::pipe().unwrap();
            drop(reader);
            let _ = writer.write_all(b"x");
        }
        Err(_) => {
            let run = |role| {
                let mut child = Command::new(std::env::current_exe().unwrap());
                child.args(["--exact", "a_broken_pipe_raises_no_signal"]).env(ROLE, role);
                qio_testkit::scope(Duration::from_secs(30), |_| child.output().unwrap())
            };
            let output = run("channels");
            assert!(output.status.success(), "{output:?}");
            assert_eq!(
                run("control").status.signal(),
                Some(rustix::process::Signal::PIPE.as_raw())
            );
        }
    }
}
