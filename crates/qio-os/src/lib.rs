//! System calls that qio needs and that have no safe form elsewhere.
//!
//! Everything else goes through [`rustix`], which is safe. A function belongs here when it needs
//! `unsafe`, or when it decides between a newer system call and its fallback: each such decision
//! is a [`Capability`] that is probed once and can be switched off, so that the fallback can be
//! tested on a newer kernel.
//!
//! What this crate does not do: keep state about descriptors, wait, retry, or know of channels.

#![deny(unsafe_op_in_unsafe_fn)]

mod block;
mod capability;
mod close;
mod error_queue;
mod heap;
mod inherited;
mod peer;
mod sigpipe;
mod spawn;

pub use block::block_device_len;
pub use capability::Capability;
pub use close::close;
pub use error_queue::{
    Confirmation, ErrorMessage, enable_zero_copy, parse_error_message, read_error_queue,
    send_zero_copy,
};
pub use heap::trim_heap;
pub use inherited::{InheritedFds, take_inherited};
pub use peer::peer_credentials;
pub use sigpipe::{restore_default_sigpipe, shield_sigpipe, write_no_sigpipe};
pub use spawn::close_other_fds_on_exec;
