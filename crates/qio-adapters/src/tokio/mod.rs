//! Channels and steps as futures on tokio 1.
//!
//! [`run`] works off anything that is done in [`Steps`](qio::watch::Steps): connecting, accepting,
//! a relay. [`AsyncChannel`] is a channel as [`AsyncRead`](tokio::io::AsyncRead) and
//! [`AsyncWrite`](tokio::io::AsyncWrite). [`connect`], [`accept`], [`incoming`], [`handshake`] and
//! [`copy_bidirectional`] are the usual steps, run.
//!
//! Both register descriptors with the runtime on which they are polled while they have to wait,
//! for the directions they wait for and no others, and deregister them when they wait for them no
//! longer or are dropped. Descriptors that epoll(7) refuses (regular files, `/dev/null`) are always
//! ready, as poll(2) has it. Several futures may wait for the same descriptor: each further one
//! registers a duplicate.
//!
//! # Panics
//!
//! Polling a future of this module outside of a runtime, or on a runtime without
//! [`enable_io`](tokio::runtime::Builder::enable_io), panics as soon as it has to wait for a
//! descriptor; on a runtime without [`enable_time`](tokio::runtime::Builder::enable_time), as soon
//! as it has to wait for a time.

mod accept;
mod channel;
mod hub;
mod open;
mod put_back;
#[expect(unsafe_code, reason = "tokio cannot check that a descriptor stays what it is")]
mod reactor;
mod relay;
mod run;
mod slots;
mod storage;
mod timer;
mod watch;
mod whole;

pub use accept::{Accepted, Incoming, accept, incoming};
pub use channel::{AsyncChannel, ReadHalf, ReuniteError, WriteHalf};
pub use open::{connect, handshake};
pub use relay::copy_bidirectional;
pub use run::{Run, RunUntil, run, run_until};
pub use watch::watch;
