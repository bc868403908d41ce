//! qio channels in foreign event loops.
//!
//! A channel says what it waits for as data: a [`PollSet`](qio::watch::PollSet) of descriptors and
//! a deadline. An adapter hands that to an event loop and nothing else: no protocol, no policy, no
//! state that outlives the wait. There is one module and one feature per loop:
//!
//! | Loop | Module and feature |
//! |---|---|
//! | tokio 1 | `tokio` |
//! | coroutines, on any of these | `coroutine` |
//!
//! `unsafe` is allowed in one module per loop, where the loop's registration demands it.

#![deny(unsafe_code)]

#[cfg(feature = "coroutine")]
pub mod coroutine;
#[cfg(feature = "tokio")]
pub mod tokio;
