//! Messages of WebSockets, from a client to a server, both on tokio.

use std::thread;

use fastwebsockets::{Frame, Payload, Role as FastRole, WebSocket};
use futures_util::{SinkExt as _, StreamExt as _};
use qio::layer::ws;
use qio_adapters::tokio::AsyncChannel;
use qio_testkit::finished;
use tokio::task::spawn_local;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use crate::rows::{move_all, sockets, streams, timed};
use crate::transfer::Cost;

pub(crate) fn qio(bytes: usize, size: usize) -> Cost {
    let make = || {
        let (left, right) = sockets();
        let server = ws::server(right, ws::ServerOptions::default(), None);
        let server = thread::spawn(move || finished(server).into_layer(ws::NAME));
        let client = ws::client(left, ws::ClientOptions::new("localhost"), None);
        let client = finished(client.expect("a client")).into_layer(ws::NAME);
        let server = server.join().expect("the server");
        (AsyncChannel::new(client).expect("a channel"), AsyncChannel::new(server).expect("one"))
    };
    timed(make, |(client, server)| move_all(client, server, bytes, size))
}

pub(crate) fn tungstenite(bytes: usize, size: usize) -> Cost {
    timed(streams, |[left, right]| async move {
        let mut client = WebSocketStream::from_raw_socket(left, Role::Client, None).await;
        let mut server = WebSocketStream::from_raw_socket(right, Role::Server, None).await;
        let sends = spawn_local(async move {
            let block = vec![7; size];
            for _ in 0..bytes / size {
                client.send(Message::binary(block.clone())).await.expect("send");
            }
            client
        });
        let mut left = bytes / size * size;
        while left > 0 {
            let message = server.next().await.expect("a message").expect("receive");
            left -= message.len();
        }
        drop(sends.await.expect("the sender"));
    })
}

pub(crate) fn fast(bytes: usize, size: usize) -> Cost {
    timed(streams, |[left, right]| async move {
        let mut client = WebSocket::after_handshake(left, FastRole::Client);
        let mut server = WebSocket::after_handshake(right, FastRole::Server);
        let sends = spawn_local(async move {
            let block = vec![7; size];
            for _ in 0..bytes / size {
                // Lent, like to the others: it could mask in place what may be lost by that.
                let frame = Frame::binary(Payload::Borrowed(&block));
                client.write_frame(frame).await.expect("send");
            }
            client
        });
        let mut left = bytes / size * size;
        while left > 0 {
            left -= server.read_frame().await.expect("receive").payload.len();
        }
        drop(sends.await.expect("the sender"));
    })
}
