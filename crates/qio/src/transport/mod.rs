//! Leaf channels: what bytes finally go through.

mod buffer;
mod child;
mod duplex;
mod early;
mod end;
mod fifo;
mod file;
mod from_fd;
mod iov;
mod messages;
mod null;
mod pipe;
mod serial;
mod socket;
mod socket_file;
mod terminal;
mod zero_copy;

pub use buffer::Buffer;
pub use child::{Access, Child, Command, PtyOptions, Stderr, WindowSize};
pub use duplex::{DUPLEX_LIMIT_BYTES, Duplex};
pub(crate) use early::Early;
pub use fifo::OpenFifo;
pub use file::File;
pub use from_fd::{from_fd, from_shared_fd};
pub use messages::{MessageKind, Messages};
pub use null::Null;
pub use pipe::Pipe;
pub use serial::{FlowControl, Parity, Serial, SerialOptions};
pub use socket::{Endpoint, KeepAlive, Socket};
pub(crate) use socket_file::SocketFile;

pub use crate::channel::PeerCredentials;
