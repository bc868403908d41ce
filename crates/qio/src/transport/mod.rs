//! Leaf channels: what bytes finally go through.

mod duplex;
mod end;
mod iov;
mod null;
mod pipe;
mod socket;

pub use duplex::{DUPLEX_LIMIT_BYTES, Duplex};
pub use null::Null;
pub use pipe::Pipe;
pub use socket::{PeerCredentials, Socket};
