//! What both roles have settings for.

use std::path::PathBuf;

use rustls::SupportedProtocolVersion;

use super::directory::Directory;
use super::{Authorization, Identity, Provider, Trust};
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

/// The settings that are the same for both roles, in the `impl` of either.
macro_rules! settings_of_both_roles {
    () => {
        /// Believes who is signed by a certificate in this file (PEM, any number in it), and nobody
        /// else; the same as [`Trust::Files`] with one file.
        #[must_use]
        pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
            self.trust(Trust::Files(vec![path.into()]))
        }

        /// Believes this certificate, whatever it says, beside others that are pinned.
        #[must_use]
        pub fn pin(mut self, fingerprint: Fingerprint) -> Self {
            match &mut self.common.trust {
                Some(Trust::Pinned(pins)) => pins.push(fingerprint),
                trust => *trust = Some(Trust::Pinned(vec![fingerprint])),
            }
            self
        }

        /// Adds a file with lists of revoked certificates (CRL, PEM). Certificates of authorities
        /// without a list are accepted; a list that is out of date revokes all of its authority.
        #[must_use]
        pub fn crl_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.common.crl_files.push(path.into());
            self
        }

        /// The lowest version; TLS 1.2 by default.
        #[must_use]
        pub fn min_version(mut self, version: Version) -> Self {
            self.common.min_version = version;
            self
        }

        /// The highest version; TLS 1.3 by default.
        #[must_use]
        pub fn max_version(mut self, version: Version) -> Self {
            self.common.max_version = version;
            self
        }

        /// Whose cryptography rustls uses; by default what the process has installed, else that of
        /// ring. The engine of OpenSSL has its own.
        #[must_use]
        pub fn provider(mut self, provider: Provider) -> Self {
            self.common.provider = provider;
            self
        }

        /// Talks by keys that both sides have (PSK, RFC 4279; RFC 8446, section 4.2.11) instead of
        /// certificates: this file has a line `user:key` for each user, the key in hexadecimal
        /// digits, as `psktool` of GnuTLS and QEMU (`keys.psk`) have it. Who has a key of the file
        /// is believed.
        ///
        /// rustls has no keys of this kind: only `build_openssl` (feature `openssl`) takes them.
        #[doc(alias = "tls-creds-psk")]
        #[must_use]
        pub fn psk_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.common.psk_file = Some(path.into());
            self
        }

        /// Talks without knowing to whom: **nobody is authenticated, on neither side**. Who only
        /// listens learns nothing; who stands between the two sides can read and change
        /// everything, and nobody will notice. TLS 1.2 only, because TLS 1.3 has no such thing.
        /// Off by default; meant for QEMU's `tls-creds-anon`.
        ///
        /// rustls does not do this: only `build_openssl` (feature `openssl`) does.
        #[doc(alias = "tls-creds-anon")]
        #[must_use]
        pub fn anonymous(mut self, yes: bool) -> Self {
            self.common.anonymous = yes;
            self
        }

        /// Whether the keys of every session are appended to the file that the environment variable
        /// `SSLKEYLOGFILE` names, for Wireshark: **who reads the file reads the connections**. Off by
        /// default, whatever the environment says.
        #[must_use]
        pub fn key_log(mut self, logs: bool) -> Self {
            self.common.logs_keys = logs;
            self
        }
    };
}
pub(super) use settings_of_both_roles;

/// What both roles can be told.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) directory: Option<Directory>,
    pub(crate) trust: Option<Trust>,
    pub(crate) crl_files: Vec<PathBuf>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) min_version: Version,
    pub(crate) max_version: Version,
    pub(crate) resumes: bool,
    pub(crate) logs_keys: bool,
    pub(crate) psk_file: Option<PathBuf>,
    pub(crate) anonymous: bool,
    pub(crate) provider: Provider,
}

/// How the two sides know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    Certificates,
    /// By keys in this file.
    Psk(PathBuf),
    /// Not at all.
    Anonymous,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            directory: None,
            trust: None,
            crl_files: Vec::new(),
            identities: Vec::new(),
            authorization: None,
            alpn: Vec::new(),
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            resumes: true,
            logs_keys: false,
            psk_file: None,
            anonymous: false,
            provider: Provider::default(),
        }
    }
}

impl Common {
    /// How the sides know each other; `role` is what a directory calls us.
    pub(crate) fn credentials(&self, role: &str) -> Result<Credentials> {
        let refuse = |reason: &'static str| Err(Error::usage("configure", "TLS", reason));
        let of_certificates = self.trust.is_some()
            || self.authorization.is_some()
            || !self.identities.is_empty()
            || !self.crl_files.is_empty();
        match (&self.psk_file, self.anonymous, &self.directory) {
            (Some(_), true, _) => refuse("a session with pre-shared keys (PSK) is not anonymous"),
            (Some(_), _, Some(_)) => {
                refuse("pre-shared keys (PSK) are named twice: in a file and in a directory")
            }
            (Some(_), ..) if of_certificates => {
                refuse("with pre-shared keys (PSK) there are no certificates")
            }
            (_, true, directory) if of_certificates || directory.is_some() => {
                refuse("an anonymous session has no certificates")
            }
            (Some(file), ..) => Ok(Credentials::Psk(file.clone())),
            (_, true, _) => Ok(Credentials::Anonymous),
            (.., Some(directory)) if !of_certificates => Ok(match directory.keys(role) {
                Some(file) => Credentials::Psk(file),
                None => Credentials::Certificates,
            }),
            _ => Ok(Credentials::Certificates),
        }
    }

    /// What rustls can do.
    pub(super) fn require_certificates(&self, role: &str) -> Result<()> {
        let what = match self.credentials(role)? {
            Credentials::Certificates => return Ok(()),
            Credentials::Psk(_) => "pre-shared keys (PSK)",
            Credentials::Anonymous => "anonymous sessions",
        };
        let error = Error::usage("configure", "TLS", format!("rustls has no {what}"));
        Err(error.hint("the engine of OpenSSL has them, by the feature \"openssl\""))
    }

    pub(super) fn check_versions(&self) -> Result<()> {
        if self.min_version > self.max_version {
            let reason = "the lowest version is above the highest";
            return Err(Error::usage("configure", "TLS versions", reason));
        }
        Ok(())
    }

    pub(super) fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>> {
        let wanted = self.min_version..=self.max_version;
        let all =
            [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)];
        self.check_versions()?;
        let versions = all.into_iter().filter(|(version, _)| wanted.contains(version));
        Ok(versions.map(|(_, version)| version).collect())
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

/// The version exists in every provider, or it is the provider's fault.
pub(super) fn unsupported(error: rustls::Error) -> Error {
    Error::usage("configure", "TLS", error.to_string())
}
