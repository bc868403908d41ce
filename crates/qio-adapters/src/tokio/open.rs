//! Opening: from an address, or a channel below a layer, to a channel.

use std::fmt;
use std::io;
use std::sync::Arc;

use qio::error::Class;
use qio::layer::{Engine, Handshake, Handshaking, Layer};
use qio::net::{self, ConnectOptions};
use qio::{Address, Channel, Error};

use super::{AsyncChannel, run};

/// Opens `address`: [`net::connect`], as a future.
///
/// The time that [`ConnectOptions::timeout`] gives begins with the first poll.
///
/// # Errors
///
/// As [`net::connect`], and of class `Io` what the runtime reports.
///
/// # Cancel safety
///
/// Dropping the future cancels: sockets and programs that are half made are gone, and a server sees
/// a connection that ends. No byte is lost: what a handshake has taken goes with its connection.
///
/// # Examples
///
/// ```
/// use qio::net::{ConnectOptions, ListenOptions, listen};
/// use qio_adapters::tokio::{accept, connect};
/// use tokio::io::AsyncWriteExt;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let listener = listen(&"listen:tcp://127.0.0.1:0".parse()?, &ListenOptions::new())?;
/// let mut client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).await?;
/// let mut server = accept(&listener).await?.channel;
/// client.write_all(b"hello").await?;
/// let mut text = [0; 5];
/// assert!(server.read_exact_or_eof(&mut text).await?);
/// assert_eq!(&text, b"hello");
/// # Ok(())
/// # })
/// # }
/// ```
#[doc(alias = "qio_channel_socket_connect_async")]
pub async fn connect(
    address: &Address,
    options: &ConnectOptions,
) -> qio::Result<AsyncChannel<Arc<dyn Channel>>> {
    let waiting = |error| Error::new(Class::Io, "wait for the connect to", address).because(error);
    let channel = run(net::Connect::new(address, options)).await.map_err(waiting)??;
    AsyncChannel::new(channel).map_err(waiting)
}

/// Finishes a handshake, and gives the channel of plain bytes above it; `kind` is the layer's name,
/// like [`ws::NAME`](qio::layer::ws::NAME).
///
/// What was agreed on is asked of the layer ([`Layer::with_engine`]).
///
/// # Errors
///
/// Those of the handshake, with its own error inside, and what the runtime reports.
///
/// # Cancel safety
///
/// Dropping the future closes the channel below, as dropping a [`Handshaking`] does. To go on
/// later, [`run`] `&mut handshaking` instead: what has come so far is in there.
///
/// # Examples
///
/// ```
/// use qio::layer::ws;
/// use qio::transport::Socket;
/// use qio_adapters::tokio::handshake;
/// use tokio::io::AsyncWriteExt;
///
/// # fn main() -> std::io::Result<()> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let (near, far) = Socket::pair()?;
/// let client = ws::client(near, ws::ClientOptions::new("localhost"), None)?;
/// let server = ws::server(far, ws::ServerOptions::default(), None);
/// let (mut client, mut server) =
///     tokio::try_join!(handshake(client, ws::NAME), handshake(server, ws::NAME))?;
/// client.write_all(b"hello").await?;
/// let mut text = [0; 5];
/// assert!(server.read_exact_or_eof(&mut text).await?);
/// # Ok(())
/// # })
/// # }
/// ```
#[doc(alias = "qio_channel_tls_handshake")]
#[doc(alias = "qio_channel_websock_handshake")]
pub async fn handshake<C, H>(
    handshaking: Handshaking<C, H>,
    kind: &'static str,
) -> io::Result<AsyncChannel<Layer<C, H::Engine>>>
where
    C: Channel,
    H: Handshake,
    H::Engine: Engine + fmt::Debug + 'static,
{
    AsyncChannel::new(run(handshaking).await??.into_layer(kind))
}
