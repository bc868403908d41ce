//! System calls that qio needs and that have no safe form elsewhere.
//!
//! Everything else goes through [`rustix`], which is safe. A function belongs here when it needs
//! `unsafe`, or when it decides between a newer system call and its fallback: each such decision
//! is a [`Capability`] that is probed once and can be switched off, so that the fallback can be
//! tested on a newer kernel.
//!
//! What this crate does not do: keep state about descriptors, wait, retry, or know of channels.

#![deny(unsafe_op_in_unsafe_fn)]

mod account;
mod ancillary;
mod block;
mod capability;
mod close;
mod environment;
mod error_queue;
mod getaddrinfo;
mod heap;
mod inherited;
mod name;
mod peer;
mod sigpipe;
mod sockopt;
mod spawn;
mod terminal;
mod vsock;

pub use account::{group_id, user_id};
pub use ancillary::{Ancillary, Received, receive_message};
pub use block::block_device_len;
pub use capability::Capability;
pub use close::close;
pub use environment::take_variables;
pub use error_queue::{
    Confirmation, ErrorMessage, enable_zero_copy, parse_error_message, read_error_queue,
    send_zero_copy,
};
pub use getaddrinfo::{LookupError, LookupHints, lookup};
pub use heap::trim_heap;
pub use inherited::{InheritedFds, take_inherited};
pub use name::{local_name, peer_name};
pub use peer::{peer_credentials, peer_groups, peer_pidfd};
pub use sigpipe::{restore_default_sigpipe, shield_sigpipe, write_no_sigpipe};
pub use sockopt::{bind_address_no_port, bind_to_device};
pub use spawn::{close_other_fds_on_exec, start_session_on_stdin};
pub use terminal::{set_modem_lines, unsent_bytes};
pub use vsock::{VsockAddr, parse_vsock_address, set_vsock_connect_timeout};
