//! I/O channels: one object for sockets, files, pipes, child processes and what is layered on
//! them.

#![forbid(unsafe_code)]

pub mod channel;
pub mod error;
pub mod interest;
pub mod net;
pub mod relay;
mod task;
pub mod transport;
pub mod watch;

pub use channel::{
    Channel, ChannelExt, FdSink, Features, Io, Mode, ReadFlags, ReadOp, WriteFlags, WriteOp,
};
pub use error::{Error, Result};
pub use interest::{Direction, Interest, Readiness};
pub use net::Address;
pub use qio_os::InheritedFds;
pub use relay::Relay;
pub use task::{Panicked, Task};
