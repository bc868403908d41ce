//! TLS over any channel, both roles.
//!
//! [`ClientSettings`] and [`ServerSettings`] say whom to believe and who we are, and make the
//! configurations that [`client`] and [`server`] take; a [`Reloadable`] makes them anew from files
//! that have changed. [`Authorization`] says who of those with a good certificate may come in, and
//! [`Facts`] what was agreed on.
//!
//! rustls does it, or with the feature `openssl` the engine of OpenSSL
#![cfg_attr(feature = "openssl", doc = "([`openssl`])")]
//! for pre-shared keys and what else rustls does not have. The settings are the same.
//!
//! Key material is never shown, by `Debug`, in errors or events; it is logged only where
//! [`key_log`](ClientSettings::key_log) was asked for.

mod authorization;
mod certificate;
mod client_settings;
mod direct;
mod directory;
mod engine;
mod error;
mod facts;
mod fingerprint;
mod identity;
mod notes;
#[cfg(feature = "openssl")]
pub mod openssl;
mod pem;
mod provider;
mod record;
mod reload;
mod self_signed;
mod server_settings;
mod settings;
mod side;
mod trust;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

pub use authorization::{Authorization, Denied, Pattern};
pub use certificate::{AltName, Certificate};
pub use client_settings::ClientSettings;
pub use direct::direct;
pub(crate) use directory::Directory;
pub use engine::{ClientTls, ServerTls, Tls};
pub use error::TlsError;
pub use facts::{Facts, TrustedBy};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use provider::Provider;
pub use reload::Reloadable;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
pub use self_signed::SelfSigned;
pub use server_settings::{ClientCertificates, ServerSettings};
pub(crate) use settings::Common;
pub use settings::Version;
pub use side::{Client, Server, Side};
pub use trust::Trust;

use super::Handshaking;
use crate::channel::Channel;
use crate::error::{Class, Error};

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "tls";

/// Speaks TLS as a client over `below`, with the server that `name` names.
///
/// The configuration says whom to trust and who we are; it is shared by any number of
/// connections, which resume each other's sessions.
///
/// # Errors
///
/// `InvalidInput` for a name that TLS cannot send, or a configuration that cannot be used.
#[doc(alias = "qio_channel_tls_new_client")]
#[doc(alias = "qio_channel_tls_handshake")]
pub fn client<C: Channel>(
    below: C,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    deadline: Option<Instant>,
) -> io::Result<Handshaking<C, ClientTls>> {
    let tls = Tls::client(config, name).map_err(unusable)?;
    Ok(Handshaking::new(below, tls, deadline))
}

/// Speaks TLS as a server over `below`.
///
/// # Errors
///
/// `InvalidInput` for a configuration that cannot be used.
#[doc(alias = "qio_channel_tls_new_server")]
pub fn server<C: Channel>(
    below: C,
    config: Arc<ServerConfig>,
    deadline: Option<Instant>,
) -> io::Result<Handshaking<C, ServerTls>> {
    let tls = Tls::server(config).map_err(unusable)?;
    Ok(Handshaking::new(below, tls, deadline))
}

/// The error of a handshake that failed, for who opens: what was attempted on what, of class
/// [`Tls`](Class::Tls) or [`Timeout`](Class::Timeout), and what would help.
///
/// A connection that fails below TLS keeps the class of its own error.
pub fn handshake_error(
    attempt: &'static str,
    subject: impl std::fmt::Display,
    error: io::Error,
) -> Error {
    let Some(tls) = TlsError::find(&error) else {
        return Error::os(attempt, subject, error);
    };
    let hint = tls.hint();
    let error = Error::new(Class::Tls, attempt, subject).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn unusable(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, TlsError::from(error))
}
