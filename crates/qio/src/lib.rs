//! I/O channels: one object for sockets, files, pipes, child processes and what is layered on
//! them.
//!
//! A [`Channel`] makes single attempts and says what to wait for; [`ChannelExt`] is what users
//! call: reads and writes in all their forms, which wait through the current
//! [`Waiter`](watch::Waiter). [`Address`] names anything that can be opened, [`net::connect`] and
//! [`net::listen`] open it, [`Relay`] joins two channels.
//!
//! ```
//! use qio::net::{ConnectOptions, connect};
//! use qio::{Address, ChannelExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let echo = connect(&"echo:".parse()?, &ConnectOptions::new())?;
//! echo.write_all(b"who is there?")?;
//! let mut answer = [0; 13];
//! echo.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"who is there?");
//! # Ok(())
//! # }
//! ```
//!
//! Everything here works without an event loop and in any: the crate `qio-adapters` has the
//! adapters. Linux only.

#![forbid(unsafe_code)]

#[macro_use]
mod trace;

pub mod channel;
mod crew;
pub mod error;
pub mod interest;
pub mod layer;
pub mod net;
pub mod relay;
mod task;
pub mod transport;
pub mod watch;

pub use bytes::Bytes;
pub use channel::{
    Channel, ChannelExt, Confirmed, FdSink, Features, Io, Mode, ReadFlags, ReadOp, WriteFlags,
    WriteOp,
};
pub use error::{Error, Result};
pub use interest::{Direction, Interest, Readiness};
pub use net::Address;
pub use qio_os::InheritedFds;
pub use relay::Relay;
pub use task::{Panicked, Task};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/manual/waiting.md")]
struct ManualWaiting;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/manual/layering.md")]
struct ManualLayering;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/manual/descriptors.md")]
struct ManualDescriptors;

#[cfg(all(doctest, feature = "openssl"))]
#[doc = include_str!("../../../docs/manual/tls.md")]
struct ManualTls;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/manual/writing-a-channel.md")]
struct ManualWritingAChannel;
