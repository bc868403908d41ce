//! Joining two channels.

use std::sync::Arc;

use qio::Channel;
use qio::relay::{Relay, RelayOptions};

use super::run::{Run, run};

/// Joins two channels until both directions have ended, and says what has moved: a [`Relay`], as a
/// future of its [`Record`](qio::relay::Record).
///
/// It takes the channels themselves, since it needs no buffer of a reader: of an
/// [`AsyncChannel`](super::AsyncChannel) the one that
/// [`into_inner`](super::AsyncChannel::into_inner) gives.
///
/// # Errors
///
/// What the runtime reports. What goes wrong with a channel is in the record.
///
/// # Cancel safety
///
/// The bytes under way are in the relay. A future that is not polled for a while, or polled through
/// `&mut`, loses none; nor does one that gives its relay back
/// ([`into_steps`](super::Run::into_steps)), to be run anew. Dropping it drops the relay, which cuts
/// both connections; what that loses is told by [`Relay::cut`].
///
/// # Examples
///
/// ```
/// use qio::relay::RelayOptions;
/// use qio::transport::Socket;
/// use qio::{Channel, ChannelExt};
/// use qio_adapters::tokio::copy_bidirectional;
///
/// # fn main() -> std::io::Result<()> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let (client, left) = Socket::pair()?;
/// let (right, server) = Socket::pair()?;
/// client.write_all(b"question")?;
/// client.finish()?;
/// server.write_all(b"answer")?;
/// server.finish()?;
/// let record = copy_bidirectional(left, right, RelayOptions::default()).await?;
/// assert_eq!((record.left_to_right.bytes, record.right_to_left.bytes), (8, 6));
/// # Ok(())
/// # })
/// # }
/// ```
pub fn copy_bidirectional<L: Channel, R: Channel>(
    left: L,
    right: R,
    options: RelayOptions,
) -> Run<Relay> {
    run(Relay::new(Arc::new(left), Arc::new(right), options))
}
