//! The conformance suite over every transport, plain and in chaos.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use qio::transport::{Duplex, Null, Pipe, Socket};
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
