//! Two channels that are joined.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use qio::layer::ws;
use qio::transport::{Child, Command, Duplex, Pipe, Socket};
use qio::{Channel, ChannelExt};
use rustix::net::sockopt;

use crate::{Pair, finish, finished, soon};

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
    let (left_in, right_out) = io::pipe().unwrap();
    let (right_in, left_out) = io::pipe().unwrap();
    Pair::new(
        Pipe::from_fds(Some(left_in.into()), Some(left_out.into())).unwrap(),
        Pipe::from_fds(Some(right_in.into()), Some(right_out.into())).unwrap(),
    )
}

/// A child and, in place of the program that has its standard streams, this one: it takes them
/// over before the child ends, so that each side can go first.
pub fn child() -> Pair {
    let child: Child = Command::new("sh").args(["-c", "read line"]).spawn().unwrap();
    let stream = |number: u8, write: bool| -> OwnedFd {
        let path = format!("/proc/{}/fd/{number}", child.pid());
        std::fs::OpenOptions::new().read(!write).write(write).open(path).unwrap().into()
    };
    let peer = Pipe::from_fds(Some(stream(0, false)), Some(stream(1, true))).unwrap();
    child.write_all(b"\n").unwrap();
    assert!(child.wait_exit(soon()).unwrap().success());
    Pair::new(child, peer)
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

/// A layer, or a stack of them: what each side makes of a channel, in a handshake that has an end.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a layer has two sides")]
pub struct Sides {
    /// The side that begins.
    pub client: Wrap,
    /// The side that answers.
    pub server: Wrap,
}

/// One side of a layer over a channel.
pub type Wrap = fn(Arc<dyn Channel>) -> io::Result<Arc<dyn Channel>>;

impl Sides {
    /// The layer over a pair: the client is on the left, the server on the right.
    pub fn over(self, pair: Pair) -> Pair {
        let Pair { left, right } = pair;
        let server = thread::spawn(move || (self.server)(right).unwrap());
        let left = (self.client)(left).unwrap();
        Pair { left, right: server.join().unwrap() }
    }
}

/// WebSocket.
pub const WS: Sides = Sides {
    client: |below| {
        let handshake = ws::client(below, ws::ClientOptions::new("localhost"), soon())?;
        Ok(Arc::new(finish(handshake)?.into_layer(ws::NAME)))
    },
    server: |below| {
        let handshake = ws::server(below, ws::ServerOptions::default(), soon());
        Ok(Arc::new(finish(handshake)?.into_layer(ws::NAME)))
    },
};

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
