//! Channels over channels.

mod framed;

pub use framed::{Framed, Framing, LONGEST_FRAME_BYTES};
