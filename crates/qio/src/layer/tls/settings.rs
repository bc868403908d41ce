//! What both roles have settings for.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, ring};

use super::{Authorization, Identity, Trust};
use crate::error::{Error, Result};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Version {
    /// TLS 1.2, RFC 5246.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) trust: Option<Trust>,
    pub(super) crl_files: Vec<PathBuf>,
    pub(super) identities: Vec<Identity>,
    pub(super) authorization: Option<Authorization>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) min_version: Version,
    pub(super) max_version: Version,
    pub(super) resumes: bool,
    pub(super) logs_keys: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            trust: None,
            crl_files: Vec::new(),
            identities: Vec::new(),
            authorization: None,
            alpn: Vec::new(),
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            resumes: true,
            logs_keys: false,
        }
    }
}

impl Common {
    pub(super) fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>> {
        let wanted = self.min_version..=self.max_version;
        let all =
            [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)];
        let versions: Vec<_> =
            all.into_iter().filter(|(version, _)| wanted.contains(version)).collect();
        if versions.is_empty() {
            let reason = "the lowest version is above the highest";
            return Err(Error::usage("configure", "TLS versions", reason));
        }
        Ok(versions.into_iter().map(|(_, version)| version).collect())
    }

    /// RFC 7301, section 3.1: names of 1 to 255 bytes.
    pub(super) fn check_alpn(&self) -> Result<()> {
        match self.alpn.iter().find(|name| name.is_empty() || name.len() > 255) {
            None => Ok(()),
            Some(name) => {
                let reason = format!("a name has 1 to 255 bytes, this one has {}", name.len());
                Err(Error::usage("configure", "ALPN", reason))
            }
        }
    }
}

/// The cryptography that the process has chosen, else ring.
pub(super) fn provider() -> Arc<CryptoProvider> {
    match CryptoProvider::get_default() {
        Some(provider) => Arc::clone(provider),
        None => Arc::new(ring::default_provider()),
    }
}

/// The version exists in every provider, or it is the provider's fault.
pub(super) fn unsupported(error: rustls::Error) -> Error {
    Error::usage("configure", "TLS", error.to_string())
}
