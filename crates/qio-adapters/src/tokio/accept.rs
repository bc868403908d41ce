//! Accepting: clients of a listener, one or all.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use qio::Channel;
use qio::net::{self, Accepting, Listener, Peer};
use tokio::task::coop;

use super::run::Runner;
use super::{AsyncChannel, run};

/// A client that was accepted: [`net::Accepted`], as an async channel.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection, named after the peer.
    pub channel: AsyncChannel<Arc<dyn Channel>>,
    /// Who it is: `tcp://127.0.0.1:51234`, or `unix:/run/x.sock (process 17, user 1000)`.
    pub peer: String,
    /// The same as data.
    pub who: Peer,
}

impl Accepted {
    fn new(accepted: net::Accepted) -> io::Result<Self> {
        let net::Accepted { channel, peer, who, .. } = accepted;
        Ok(Self { channel: AsyncChannel::new(channel)?, peer, who })
    }
}

/// Waits for a client. While the listener is paused, full or starved, that is waited for, too.
///
/// # Errors
///
/// As [`Listener::accept`] without a deadline: `NotConnected` once closed; and what the runtime
/// reports.
///
/// # Cancel safety
///
/// Dropping the future takes nobody away: who has not been handed out waits for the next call, also
/// in the midst of the handshakes of layers.
#[doc(alias = "qio_channel_socket_accept")]
#[doc(alias = "qio_net_listener_wait_client")]
pub async fn accept(listener: &Listener) -> io::Result<Accepted> {
    Accepted::new(run(listener.accepting()).await??)
}

/// The clients of `listener` as they come.
///
/// # Examples
///
/// ```
/// use qio::net::{ConnectOptions, ListenOptions, listen};
/// use qio_adapters::tokio::{connect, incoming};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let listener = listen(&"listen:tcp://127.0.0.1:0".parse()?, &ListenOptions::new())?;
/// # let client = connect(&listener.local_addresses()[0], &ConnectOptions::new()).await?;
/// let mut clients = incoming(&listener);
/// while let Some(client) = clients.next().await {
///     println!("{} has come", client?.peer);
///     // Ends the stream. A server would go on for ever.
///     listener.close()?;
/// }
/// # Ok(())
/// # })
/// # }
/// ```
#[doc(alias = "qio_net_listener_set_client_func")]
pub fn incoming(listener: &Listener) -> Incoming<'_> {
    Incoming { runner: Some(Runner::new(listener.accepting())) }
}

/// The [`Stream`] of [`incoming`]. It ends when the listener is closed, and after an error.
///
/// Any number of them may accept from one listener; each client comes out of one. Between two
/// clients the listener stays registered with the runtime, and handshakes that have begun go on
/// whenever the stream is polled.
///
/// # Cancel safety
///
/// Dropping it takes nobody away.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<'a> {
    runner: Option<Runner<Accepting<'a>>>,
}

impl Incoming<'_> {
    /// The next client; `None` is the end.
    ///
    /// # Errors
    ///
    /// As [`accept`]; of a listener that was closed it is the end instead.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: it has taken nobody away.
    pub async fn next(&mut self) -> Option<io::Result<Accepted>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Incoming<'_> {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(runner) = &mut self.runner else { return Poll::Ready(None) };
        // In a flood of clients others have their turn, too.
        let budget = ready!(coop::poll_proceed(cx));
        let result = match ready!(runner.poll(cx, None)) {
            Ok(Some(result)) => result,
            // Without a deadline there is no other end.
            Ok(None) => return Poll::Pending,
            Err(error) => Err(error),
        };
        budget.made_progress();
        match result {
            Ok(accepted) => {
                runner.rearm();
                Poll::Ready(Some(Accepted::new(accepted)))
            }
            Err(error) => {
                self.runner = None;
                let closed = error.kind() == io::ErrorKind::NotConnected;
                Poll::Ready((!closed).then_some(Err(error)))
            }
        }
    }
}
