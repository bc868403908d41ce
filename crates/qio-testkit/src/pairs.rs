//! Two channels that are joined.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use qio::layer::ws;
use qio::transport::{Duplex, Pipe, Socket};
use rustix::net::sockopt;

use crate::{Pair, finished, soon};

/// Unix sockets.
pub fn unix() -> Pair {
    let (left, right) = Socket::pair().unwrap();
    Pair::new(left, right)
}

/// TCP sockets with small send buffers, so that filling them is quick.
pub fn tcp() -> Pair {
    let (left, right) = tcp_sockets();
    for socket in [&left, &right] {
        sockopt::set_socket_send_buffer_size(socket.descriptor().unwrap(), 64 * 1024).unwrap();
    }
    Pair::new(left, right)
}

/// TCP sockets as the kernel makes them.
pub fn tcp_sockets() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (right, _) = listener.accept().unwrap();
    let socket = |stream: TcpStream| Socket::from_fd(OwnedFd::from(stream)).unwrap();
    (socket(left), socket(right))
}

/// A pipe: the left one writes.
pub fn pipe() -> Pair {
    let (reader, writer) = Pipe::pair().unwrap();
    Pair::new(writer, reader)
}

/// Two pipes, each way one.
pub fn pipes() -> Pair {
    let (left_in, right_out) = std::io::pipe().unwrap();
    let (right_in, left_out) = std::io::pipe().unwrap();
    Pair::new(
        Pipe::from_fds(Some(left_in.into()), Some(left_out.into())).unwrap(),
        Pipe::from_fds(Some(right_in.into()), Some(right_out.into())).unwrap(),
    )
}

/// Memory.
pub fn memory() -> Pair {
    let (left, right) = Duplex::pair();
    Pair::new(left, right)
}

/// Memory that holds one byte.
pub fn tight_memory() -> Pair {
    let (left, right) = Duplex::pair_with_limit(1);
    Pair::new(left, right)
}

/// A WebSocket over a pair: the client is on the left, the server on the right.
pub fn ws_over(pair: Pair) -> Pair {
    ws_over_with(pair, ws::WsOptions::default())
}

/// A WebSocket whose server has options; the client has the defaults.
pub fn ws_over_with(pair: Pair, options: ws::WsOptions) -> Pair {
    let mut server = ws::ServerOptions::default();
    server.ws = options;
    let server = ws::server(pair.right, server, soon());
    let server = thread::spawn(move || finished(server).into_layer(ws::NAME));
    let client = ws::client(pair.left, ws::ClientOptions::new("localhost"), soon()).unwrap();
    let client = finished(client).into_layer(ws::NAME);
    Pair::new(client, server.join().unwrap())
}
