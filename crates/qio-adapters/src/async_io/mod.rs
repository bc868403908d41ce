//! Channels and steps as futures on async-io, the reactor of smol and of whoever uses it.
//!
//! [`run`] works off anything that is done in [`Steps`](qio::watch::Steps); [`AsyncChannel`] is a
//! channel as [`AsyncRead`](futures_io::AsyncRead) and [`AsyncWrite`](futures_io::AsyncWrite) of
//! `futures-io`. Any executor will do: the reactor has a thread of its own.
//!
//! Descriptors are registered while something waits for them. Those that epoll(7) refuses (regular
//! files, `/dev/null`) are always ready, as poll(2) has it; one that is registered already is
//! waited for through a duplicate.
//!
//! ```
//! use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
//! use qio::transport::Socket;
//! use qio_adapters::async_io::AsyncChannel;
//!
//! # fn main() -> std::io::Result<()> {
//! let (left, right) = Socket::pair()?;
//! let (mut left, mut right) = (AsyncChannel::new(left)?, AsyncChannel::new(right)?);
//! future::block_on(async {
//!     left.write_all(b"hello").await?;
//!     left.close().await?; // ends our side; reading goes on
//!     let mut text = String::new();
//!     right.read_to_string(&mut text).await?;
//!     assert_eq!(text, "hello");
//!     Ok(())
//! })
//! # }
//! ```

mod channel;
mod reactor;
mod run;

pub use channel::AsyncChannel;
pub use run::{Run, run, watch};
