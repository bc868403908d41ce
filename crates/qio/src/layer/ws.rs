//! WebSocket over any channel, both roles.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use qio_proto::ws::KeySource;
pub use qio_proto::ws::{
    Answer, BasicAuth, ClientHandshake, ClientOptions, Close, HandshakeError, Origins, Refusal,
    Request, Response, ServerHandshake, ServerOptions, Violation, WebSocket, WsError, WsOptions,
    status,
};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Handshaking, Layer};
use crate::channel::{Channel, ChannelExt};

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "ws";

/// Waits for a client's handshake on `below`, and answers it.
///
/// ```
/// use std::ops::ControlFlow;
/// use qio::layer::ws;
/// use qio::{ChannelExt, transport::Socket, watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = Socket::pair()?;
/// let server = std::thread::spawn(move || -> std::io::Result<()> {
///     let handshake = ws::server(far, ws::ServerOptions::default(), None);
///     let ControlFlow::Break(done) = watch::run(handshake, None)? else { unreachable!() };
///     let channel = done?.into_layer(ws::NAME);
///     let mut text = [0; 5];
///     channel.read_exact(&mut text)?;
///     channel.write_all(&text)
/// });
/// let handshake = ws::client(near, ws::ClientOptions::new("localhost"), None)?;
/// let ControlFlow::Break(done) = watch::run(handshake, None)? else { unreachable!() };
/// let channel = done?.into_layer(ws::NAME);
/// channel.write_all(b"hello")?;
/// let mut text = [0; 5];
/// channel.read_exact(&mut text)?;
/// assert_eq!(&text, b"hello");
/// # server.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "qio_channel_websock_new_server")]
#[doc(alias = "qio_channel_websock_handshake")]
pub fn server<C: Channel>(
    below: C,
    options: ServerOptions,
    deadline: Option<Instant>,
) -> Handshaking<C, ServerHandshake> {
    Handshaking::new(below, ServerHandshake::new(options), deadline)
}

/// Asks the server at the other end of `below` for a WebSocket.
///
/// # Errors
///
/// `InvalidInput` for options that would break the request; what getrandom(2) reports.
pub fn client<C: Channel>(
    below: C,
    options: ClientOptions,
    deadline: Option<Instant>,
) -> io::Result<Handshaking<C, ClientHandshake>> {
    let mut nonce = [0; 16];
    random(&mut nonce)?;
    let handshake = ClientHandshake::new(options, nonce, keys()?)
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    Ok(Handshaking::new(below, handshake, deadline))
}

/// Why the peer has closed the WebSocket that a channel is, or is over; `None` while it has not, and
/// where there is none. For channels of `net::connect` and listeners, which
/// are over an `Arc<dyn Channel>`.
pub fn peer_close(channel: &dyn Channel) -> Option<Close> {
    let layer: &Layer<Arc<dyn Channel>, WebSocket> = channel.find()?;
    layer.with_engine(|engine| engine.peer_close().cloned())
}

/// Ends our side of such a WebSocket with a status and a reason, and then that of the channel below,
/// like [`finish`](Channel::finish); another channel is just finished.
///
/// # Errors
///
/// As [`finish`](Channel::finish); after `WouldBlock` that is to be called again.
pub fn close(channel: &dyn Channel, status: u16, reason: &str) -> io::Result<()> {
    if let Some(layer) = channel.find::<Layer<Arc<dyn Channel>, WebSocket>>() {
        layer.with_engine(|engine| engine.close(status, reason));
    }
    channel.finish()
}

/// Masking keys that nobody can predict (RFC 6455, section 10.3), made some at a time.
fn keys() -> io::Result<KeySource> {
    let mut store = [[0; 4]; 16];
    random(store.as_flattened_mut())?;
    let mut next = 0;
    Ok(Box::new(move |key| {
        if next == store.len() {
            next = 0;
            // It worked when the connection was made. Keys that are used again hide nothing from
            // a script that sees them, and this is the only thing that they are for.
            let _ = random(store.as_flattened_mut());
        }
        *key = store[next];
        next += 1;
    }))
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done +=
            rustix::io::retry_on_intr(|| getrandom(&mut bytes[done..], GetRandomFlags::empty()))?;
    }
    Ok(())
}
