//! An identity out of nothing.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

use super::{Fingerprint, Identity};
use crate::error::{Class, Error, Result};

/// A certificate that nobody but itself has signed, with its key; both are only in memory.
///
/// Nobody believes it by its names: the peer has to [pin](super::ClientSettings::pin) its
/// fingerprint, which has to be brought to it on a safe way.
///
/// ```
/// use qio::layer::tls::{ClientSettings, SelfSigned, ServerSettings};
///
/// let made = SelfSigned::generate(["localhost", "127.0.0.1"])?;
/// let server = ServerSettings::new().identity(made.identity()).build()?;
/// let client = ClientSettings::new().pin(made.fingerprint()).build()?;
/// # Ok::<(), qio::Error>(())
/// ```
pub struct SelfSigned {
    certificate: String,
    key: String,
    fingerprint: Fingerprint,
}

impl SelfSigned {
    /// Makes a key (ECDSA, P-256) and a certificate for these names and IP addresses, the first of
    /// which is also its common name. It is valid from yesterday on, for clocks that are behind,
    /// and for ten years.
    ///
    /// # Errors
    ///
    /// Of class `Usage` for a name that no certificate can have, and when there is none.
    pub fn generate<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let subject = || format!("certificate for {}", names.join(", "));
        let Some(first) = names.first().filter(|first| !first.is_empty()) else {
            return Err(Error::usage("make", "certificate", "it needs a name"));
        };
        let failed =
            |error: rcgen::Error| Error::new(Class::Usage, "make", subject()).because(error);
        let mut params = CertificateParams::new(names.clone()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, first);
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY * 3653).into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            fingerprint: Fingerprint::of(certificate.der()),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What a server, or a client, shows.
    pub fn identity(&self) -> Identity {
        Identity::pem(self.certificate.as_bytes(), self.key.as_bytes())
    }

    /// What the peer pins.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate, without the key, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SelfSigned")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
