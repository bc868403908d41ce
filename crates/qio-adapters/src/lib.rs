//! qio channels in foreign event loops.
//!
//! A channel says what it waits for as data: a [`PollSet`](qio::watch::PollSet) of descriptors and
//! a deadline. An adapter hands that to an event loop and nothing else: no protocol, no policy, no
//! state that outlives the wait. There is one module and one feature per loop:
//!
//! | Loop | Module and feature |
//! |---|---|
//! | tokio 1 | `tokio` |
//! | async-io (smol) | `async-io` |
//! | calloop 0.14 | `calloop` |
//! | GLib 2 (gtk-rs) | `glib` |
//! | coroutines, on any of these | `coroutine` |
//!
//! `unsafe` is allowed in one module per loop, where the loop's registration demands it.

#![deny(unsafe_code)]

#[cfg(feature = "async-io")]
pub mod async_io;
#[cfg(any(feature = "async-io", feature = "tokio"))]
mod callbacks;
#[cfg(feature = "calloop")]
pub mod calloop;
#[cfg(feature = "coroutine")]
pub mod coroutine;
#[cfg(feature = "glib")]
pub mod glib;
#[cfg(any(feature = "async-io", feature = "calloop", feature = "glib"))]
mod stepper;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(all(
    doctest,
    feature = "async-io",
    feature = "calloop",
    feature = "coroutine",
    feature = "glib",
    feature = "tokio"
))]
#[doc = include_str!("../../../docs/manual/loops.md")]
struct ManualLoops;
