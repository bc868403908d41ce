//! The conformance suite over the layers, plain and in chaos.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::ws;
use qio::transport::{Duplex, Pipe, Socket};
use qio::watch::{Steps, run};
use qio::{Channel, ChannelExt};
use qio_testkit::{Pair, Subject, conformance};
use rustix::net::sockopt;

conformance!(
    ws_over_unix,
    Subject::pair::<Socket>("ws over unix", || ws_pair(unix())).with_farewell()
);
conformance!(
    ws_over_tcp,
    Subject::pair::<Socket>("ws over tcp", || ws_pair(tcp())).with_farewell()
);
conformance!(
    ws_over_pipes,
    Subject::pair::<Pipe>("ws over pipes", || ws_pair(pipes())).with_farewell()
);
conformance!(
    ws_over_memory,
    Subject::pair::<Duplex>("ws over memory", || ws_pair(memory())).with_farewell()
);
conformance!(
    ws_server_side,
    Subject::pair::<Socket>("ws server side", || swapped(ws_pair(tcp()))).with_farewell()
);
conformance!(
    ws_over_ws,
    Subject::pair::<Socket>("ws over ws", || ws_pair(ws_pair(unix()))).with_farewell()
);

/// The client on the left, the server on the right.
fn ws_pair(pair: Pair) -> Pair {
    let server = ws::server(pair.right, ws::ServerOptions::default(), soon());
    let server = thread::spawn(move || finished(server).into_layer(ws::NAME));
    let client = ws::client(pair.left, ws::ClientOptions::new("localhost"), soon()).unwrap();
    let client = finished(client).into_layer(ws::NAME);
    Pair::new(client, server.join().unwrap())
}

fn finished<T>(steps: impl Steps<Output = std::io::Result<T>>) -> T {
    match run(steps, None).unwrap() {
        ControlFlow::Break(result) => result.unwrap(),
        ControlFlow::Continue(_) => unreachable!("it has a deadline of its own"),
    }
}

fn swapped(pair: Pair) -> Pair {
    Pair::new(pair.right, pair.left)
}

fn unix() -> Pair {
    let (left, right) = Socket::pair().unwrap();
    Pair::new(left, right)
}

fn tcp() -> Pair {
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

fn pipes() -> Pair {
    let (left_in, right_out) = std::io::pipe().unwrap();
    let (right_in, left_out) = std::io::pipe().unwrap();
    Pair::new(
        Pipe::from_fds(Some(left_in.into()), Some(left_out.into())).unwrap(),
        Pipe::from_fds(Some(right_in.into()), Some(right_out.into())).unwrap(),
    )
}

fn memory() -> Pair {
    let (left, right) = Duplex::pair();
    Pair::new(left, right)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(10))
}

#[test]
fn the_socket_below_is_found() {
    let pair = ws_pair(ws_pair(unix()));
    let left: Arc<dyn Channel> = pair.left;
    assert!(left.find::<Socket>().is_some());
    assert_eq!(left.name(), "ws over ws over unix socket");
}
