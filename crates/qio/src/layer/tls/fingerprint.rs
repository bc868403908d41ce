//! The digest that names a certificate.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// The SHA-256 digest of a certificate as it is sent (DER), by which it can be pinned.
///
/// As text: 64 hexadecimal digits, with or without colons, in any case, and with or without
/// `sha256:` in front. It is shown in small letters without colons; `openssl x509 -fingerprint
/// -sha256` shows the same with colons.
///
/// ```
/// use qio::layer::tls::Fingerprint;
///
/// let text = "AB:".repeat(31) + "CD";
/// let pin: Fingerprint = text.parse()?;
/// assert_eq!(pin.to_string(), "ab".repeat(31) + "cd");
/// # Ok::<(), qio::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The digest itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::usage("parse", format!("fingerprint {text}"), reason);
        let digits = match text.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
            _ => text,
        };
        let mut digest = [0; 32];
        let mut count = 0;
        for digit in digits.chars().filter(|&digit| digit != ':') {
            let Some(value) = digit.to_digit(16) else {
                return Err(refuse(format!("{digit:?} is not a hexadecimal digit")));
            };
            if let Some(byte) = digest.get_mut(count / 2) {
                *byte = *byte << 4 | value as u8;
            }
            count += 1;
        }
        match count {
            64 => Ok(Self(digest)),
            40 => Err(refuse("40 digits are SHA-1, which is not safe".into())
                .hint("openssl x509 -noout -fingerprint -sha256 -in FILE shows the right one")),
            _ => Err(refuse(format!("SHA-256 has 64 hexadecimal digits, these are {count}"))
                .hint("openssl x509 -noout -fingerprint -sha256 -in FILE shows it")),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

const PREFIX: &str = "sha256:";
