//! What can be wrong with the peer, or with us.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use super::certificate::day;
use super::identity::ONLY_SAN;
use super::trust::Reason;
use super::{Denied, Fingerprint};

/// Why there is no TLS, or no more of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake, a certificate or a record is not as it must be.
    Protocol(rustls::Error),
    /// The same in the words of OpenSSL, where rustls has no words for it.
    Failed(String),
    /// The two sides do not have the same pre-shared key (PSK) for this user.
    WrongKey,
    /// The peer has a good certificate, or needs none, but may not come in.
    Denied(Denied),
    /// The peer's certificate is not one of those that are pinned, but this one.
    Unpinned(Fingerprint),
    /// The peer does not speak TLS; this is the beginning of what it sent.
    NotTls(Vec<u8>),
    /// The connection ended without close_notify: more may have been meant to come (RFC 8446,
    /// section 6.1).
    Truncated,
    /// The connection ended during the handshake.
    Unfinished,
    /// The user wrote after our side had ended.
    Ended,
}

impl TlsError {
    /// The TLS error in an error of a handshake or of a channel, if there is one.
    pub fn find(error: &io::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn Error + 'static)> =
            error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    /// What would help, if that is known.
    pub fn hint(&self) -> Option<&'static str> {
        use CertificateError as Certificate;
        Some(match self {
            Self::Protocol(rustls::Error::InvalidCertificate(error)) => match error {
                Certificate::UnknownIssuer => {
                    "name the certificate of its authority, or pin its fingerprint"
                }
                Certificate::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                    "the engine of OpenSSL (feature \"openssl\") looks at the common name, too"
                }
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    "connect to a name that the certificate has, or say which name it must have"
                }
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => {
                    "the certificate must be renewed, or a clock is wrong"
                }
                error if is_authority(error) => {
                    "the server needs another one, or this one is pinned by its fingerprint"
                }
                _ => return None,
            },
            Self::Protocol(rustls::Error::NoCertificatesPresented) => {
                "the client must be given a certificate and its key"
            }
            Self::Protocol(rustls::Error::AlertReceived(alert)) => match alert {
                rustls::AlertDescription::CertificateRequired => {
                    "the server wants to see a certificate of ours"
                }
                rustls::AlertDescription::UnknownCA => {
                    "the peer does not know the authority that signed our certificate"
                }
                rustls::AlertDescription::AccessDenied => {
                    "the peer knows our certificate and does not let us in"
                }
                rustls::AlertDescription::UnknownPSKIdentity => {
                    "the server has no key for this user: say which user it shall be"
                }
                _ => return None,
            },
            Self::WrongKey => "the lines of this user must be the same in the files of both sides",
            Self::NotTls(_) => "connect without TLS, or to the port of the service that speaks it",
            _ => return None,
        })
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match super::trust::take_reason(&error) {
            None => Self::Protocol(error),
            Some(Reason::Denied(denied)) => Self::Denied(denied),
            Some(Reason::Unpinned(is)) => Self::Unpinned(is),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("tls: ")?;
        match self {
            Self::Protocol(rustls::Error::InvalidCertificate(error)) => {
                write_certificate_error(error, out)
            }
            Self::Protocol(rustls::Error::NoCertificatesPresented) => {
                out.write_str("the client has no certificate")
            }
            Self::Protocol(rustls::Error::AlertReceived(alert)) => {
                write!(out, "the peer refuses: alert {alert:?}")
            }
            Self::Protocol(error) => write!(out, "{error}"),
            Self::Failed(text) => out.write_str(text),
            Self::WrongKey => {
                out.write_str("the two sides do not have the same pre-shared key (PSK)")
            }
            Self::Denied(denied) => write!(out, "{denied}"),
            Self::Unpinned(is) => {
                write!(out, "the peer's certificate has the fingerprint {is}, which is not pinned")
            }
            Self::NotTls(sent) => {
                write!(out, "the peer does not speak TLS (it sent: {})", sent.escape_ascii())
            }
            Self::Truncated => out.write_str("the peer left without close_notify"),
            Self::Unfinished => out.write_str("the peer left during the handshake"),
            Self::Ended => out.write_str("our side has ended"),
        }
    }
}

/// Says it with dates and names, as far as they are known.
fn write_certificate_error(error: &CertificateError, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    use CertificateError as Certificate;
    match error {
        Certificate::UnknownIssuer => {
            out.write_str("the peer's certificate is not signed by an authority that is trusted")
        }
        Certificate::Revoked => out.write_str("the peer's certificate was revoked"),
        Certificate::Expired => out.write_str("the peer's certificate has expired"),
        Certificate::ExpiredContext { not_after, .. } => {
            write!(out, "the peer's certificate expired on {}", date(*not_after))
        }
        Certificate::NotValidYetContext { not_before, .. } => {
            write!(out, "the peer's certificate is not valid before {}", date(*not_before))
        }
        Certificate::ExpiredRevocationListContext { next_update, .. } => {
            write!(
                out,
                "the list of revoked certificates is out of date since {}",
                date(*next_update)
            )
        }
        Certificate::NotValidForNameContext { expected, presented } => {
            let name = expected.to_str();
            write!(out, "the peer's certificate is not for {name}, ")?;
            match presented.as_slice() {
                [] => write!(out, "it names no host: {ONLY_SAN}"),
                names => {
                    let names: Vec<_> = names.iter().map(|name| bare(name)).collect();
                    write!(out, "only for {}", names.join(", "))
                }
            }
        }
        error if is_authority(error) => {
            out.write_str("the peer's certificate is that of an authority, and cannot be its own")
        }
        error => write!(out, "the peer's certificate is not accepted: {error}"),
    }
}

/// Whether the peer shows the certificate of an authority as its own, which rustls has no word of its
/// own for.
fn is_authority(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity"))
}

/// `DnsName("localhost")` of webpki as `localhost`.
fn bare(name: &str) -> &str {
    match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"'),
        None => name,
    }
}

fn date(time: UnixTime) -> String {
    day(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

impl Error for TlsError {}
