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
    /// The peer's certificate, and those that lead to its root, as they were sent. After a
    /// handshake that has failed because of them, those that were refused: nothing they say is
    /// known to be true.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// What the first of them says.
    pub peer: Option<Certificate>,
    /// Why the peer's certificate was accepted; `None` while it was not, where there is none, and
    /// in a session that goes on. Known where the configuration comes from
    /// [`ClientSettings`](super::ClientSettings) or [`ServerSettings`](super::ServerSettings).
    pub trusted_by: Option<TrustedBy>,
    /// Whether lists of revoked certificates were looked at.
    pub knows_revoked: bool,
    /// Whether the server has asked for a certificate of ours. Known to a client whose
    /// configuration is for rustls and comes from [`ClientSettings`](super::ClientSettings).
    pub is_asked_for_certificate: bool,
    /// Whether it was shown one.
    pub shows_certificate: bool,
    /// The name that the client asked for (SNI): known to clients of rustls, and to a server whose
    /// configuration comes from [`ServerSettings`](super::ServerSettings).
    pub server_name: Option<String>,
    /// The user by whose key the two sides know each other, in a session with pre-shared keys (PSK).
    /// Control characters in it are escaped.
    pub psk_user: Option<String>,
    /// Whether an earlier session goes on.
    pub resumed: bool,
}

/// Why a certificate was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrustedBy {
    /// An authority that the system trusts has signed it.
    System,
    /// An authority that was named has signed it.
    Authority,
    /// It is pinned.
    Pin,
    /// Nothing was verified: [`Trust::Anybody`](super::Trust::Anybody).
    Nobody,
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
