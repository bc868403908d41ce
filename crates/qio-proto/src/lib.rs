//! Protocol engines: what the protocols say, without input or output.
//!
//! An engine turns bytes of the wire into plain bytes and back. It cannot touch a socket, a clock
//! or a thread: bytes come and go as arguments, and so does time. Two engines can talk to each
//! other in a test, byte by byte, and a fuzzer can talk to one.
//!
//! - [`Engine`] is a protocol after its handshake, [`Handshake`] what comes before.
//! - [`ws`] is WebSocket (RFC 6455), as a stream of bytes with bounded memory.
//!
//! What this crate does not do: read, write, wait, or keep bytes that a caller could keep.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod engine;
pub mod ws;

pub use engine::{Engine, Frame, Handshake, MAX_FRAME_HEADER, Progress, Time};
