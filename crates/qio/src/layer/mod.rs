//! Protocol layers over any channel.
//!
//! An [`Engine`](qio_proto::Engine) says what a protocol means, a [`Layer`] is the pump between it
//! and the channel below: the only place where an engine meets a channel.

mod handover;
mod handshaking;
mod inwards;
mod outwards;
mod pump;
mod store;
mod sync;
#[cfg(feature = "tls")]
pub mod tls;
pub mod ws;

pub use handshaking::{Established, Handshaking};
pub use outwards::NotSent;
pub use pump::Layer;
