//! What two sides have agreed on.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ProtocolVersion};

use super::{Certificate, Fingerprint};

/// What the two sides have agreed on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The version of the protocol.
    pub version: Option<ProtocolVersion>,
    /// The cipher suite.
    pub suite: Option<CipherSuite>,
    /// Its name, where rustls may have none.
    pub(super) suite_name: Option<&'static str>,
    /// The application's protocol (ALPN, RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The peer's certificate, and those that lead to its root, as they were sent.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// What the first of them says.
    pub peer: Option<Certificate>,
    /// The name that the client asked for (SNI): known to a server whose configuration comes from
    /// [`ServerSettings`](super::ServerSettings).
    pub server_name: Option<String>,
    /// The user by whose key the two sides know each other, in a session with pre-shared keys (PSK).
    /// Control characters in it are escaped.
    pub psk_user: Option<String>,
    /// Whether an earlier session goes on.
    pub resumed: bool,
}

impl Facts {
    /// The version as people write it: `TLS 1.3`.
    pub fn version_text(&self) -> Option<String> {
        Some(match self.version? {
            ProtocolVersion::TLSv1_2 => "TLS 1.2".into(),
            ProtocolVersion::TLSv1_3 => "TLS 1.3".into(),
            other => format!("{other:?}"),
        })
    }

    /// The cipher suite as IANA calls it: `TLS_AES_256_GCM_SHA384`.
    pub fn suite_text(&self) -> Option<String> {
        if let Some(name) = self.suite_name {
            return Some(name.to_owned());
        }
        let text = format!("{:?}", self.suite?);
        // Those of TLS 1.3 have the version in their name in rustls only.
        Some(match text.strip_prefix("TLS13_") {
            Some(rest) => format!("TLS_{rest}"),
            None => text,
        })
    }

    /// The application's protocol as text; bytes that are none are escaped.
    pub fn alpn_text(&self) -> Option<String> {
        self.alpn.as_ref().map(|name| name.escape_ascii().to_string())
    }

    /// The distinguished name of the peer.
    pub fn peer_subject(&self) -> Option<&str> {
        self.peer.as_ref().map(|peer| peer.subject.as_str())
    }

    /// The digest of the peer's certificate.
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.peer.as_ref().map(|peer| peer.fingerprint)
    }
}
