//! TLS over any channel, both roles.

mod engine;
mod error;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

pub use engine::{Client, ClientTls, Facts, Server, ServerTls, Side, Tls};
pub use error::TlsError;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::Handshaking;
use crate::channel::Channel;

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

fn unusable(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, TlsError::from(error))
}
