//! Leaf channels: what bytes finally go through.

mod buffer;
mod duplex;
mod end;
mod file;
mod iov;
mod null;
mod pipe;
mod socket;

pub use buffer::Buffer;
pub use duplex::{DUPLEX_LIMIT_BYTES, Duplex};
pub use file::File;
pub use null::Null;
pub use pipe::Pipe;
pub use socket::{PeerCredentials, Socket};
