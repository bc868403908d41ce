//! TLS by OpenSSL, for what rustls does not have: pre-shared keys, sessions that authenticate
//! nobody, and common names.
//!
//! The settings are those of rustls: [`ClientSettings::build_openssl`] and
//! [`ServerSettings::build_openssl`] make of them what [`client`] and [`server`] take. The
//! channels are alike: one engine talks to the other, and to itself.
//!
//! | | rustls | OpenSSL |
//! |---|---|---|
//! | certificates (x509) | yes | yes |
//! | pre-shared keys (PSK), TLS 1.2 and 1.3 | no | yes |
//! | anonymous sessions, TLS 1.2: **insecure** | no | yes |
//! | name of a server in CN, where no alternative name is one of a host | no | yes |
//! | sessions resumed by clients | yes | no, only by servers |
//! | a client's choice among several certificates | yes | no, an error |
//! | changing our own key ([`refresh_keys`](super::Tls::refresh_keys)) | yes | no; a peer that asks for it gets it |
//! | alert for a peer that the rules keep out | `access_denied` | `handshake_failure` |
//!
//! What the settings do not say is the same whatever the system's `openssl.cnf` says of it.
//! Renegotiation (TLS 1.2) is refused.
//!
//! ```no_run
//! use qio::layer::tls::{ClientSettings, ServerSettings};
//!
//! let server = ServerSettings::new().psk_file("/etc/qio/keys.psk").build_openssl()?;
//! let client = ClientSettings::new().psk_file("keys.psk").psk_user("alice").build_openssl()?;
//! # Ok::<(), qio::Error>(())
//! ```
//!
//! [`ClientSettings::build_openssl`]: super::ClientSettings::build_openssl
//! [`ServerSettings::build_openssl`]: super::ServerSettings::build_openssl

mod check;
mod client_context;
mod context;
mod engine;
mod failure;
mod psk;
mod server_context;
mod verdict;
mod wire;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use ::openssl::error::ErrorStack;
pub use client_context::ClientContext;
pub use engine::OpensslTls;
use rustls::pki_types::ServerName;
pub use server_context::ServerContext;

use crate::channel::Channel;
use crate::layer::Handshaking;

/// Speaks TLS as a client over `below`, with the server that `name` names.
///
/// # Errors
///
/// `InvalidInput` for a name that cannot be sent.
#[doc(alias = "qio_channel_tls_new_client")]
pub fn client<C: Channel>(
    below: C,
    context: &Arc<ClientContext>,
    name: &ServerName<'static>,
    deadline: Option<Instant>,
) -> io::Result<Handshaking<C, OpensslTls>> {
    let tls = context.engine(name).map_err(|error| unusable(&error))?;
    Ok(Handshaking::new(below, tls, deadline))
}

/// Speaks TLS as a server over `below`.
///
/// # Errors
///
/// `InvalidInput` where OpenSSL cannot begin.
#[doc(alias = "qio_channel_tls_new_server")]
pub fn server<C: Channel>(
    below: C,
    context: &Arc<ServerContext>,
    deadline: Option<Instant>,
) -> io::Result<Handshaking<C, OpensslTls>> {
    let tls = context.engine().map_err(|error| unusable(&error))?;
    Ok(Handshaking::new(below, tls, deadline))
}

fn unusable(error: &ErrorStack) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, failure::explain(error, false))
}

#[cfg(test)]
mod tests;
