//! Protocol layers over any channel.
//!
//! An [`Engine`] says what a protocol means, a [`Layer`] is the pump between it
//! and the channel below: the only place where an engine meets a channel. [`Framed`] needs neither:
//! it tells messages apart in a stream.

mod failure;
mod framed;
mod handover;
mod handshaking;
mod inwards;
mod left_behind;
mod outwards;
mod pump;
mod store;
mod sync;
pub mod tap;
pub mod throttle;
#[cfg(feature = "tls")]
pub mod tls;
mod waiting;
pub mod web;
pub mod ws;
#[cfg(feature = "zstd")]
pub mod zstd;

pub use framed::{Framed, Framing, LONGEST_FRAME_BYTES};
pub(crate) use handshaking::refuse_messages;
pub use handshaking::{Established, Handshaking};
pub use outwards::NotSent;
pub use pump::Layer;
pub use qio_proto::{Engine, Frame, Handshake, Progress, Time};
