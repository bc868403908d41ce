//! What can be wrong with the peer, or with us.

use std::error::Error;
use std::fmt;

/// Why there is no TLS, or no more of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake, a certificate or a record is not as it must be.
    Protocol(rustls::Error),
    /// The connection ended without close_notify: more may have been meant to come (RFC 8446,
    /// section 6.1).
    Truncated,
    /// The connection ended during the handshake.
    Unfinished,
    /// The user wrote after our side had ended.
    Ended,
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => write!(out, "tls: {error}"),
            Self::Truncated => out.write_str("tls: the peer left without close_notify"),
            Self::Unfinished => out.write_str("tls: the peer left during the handshake"),
            Self::Ended => out.write_str("tls: our side has ended"),
        }
    }
}

impl Error for TlsError {}
