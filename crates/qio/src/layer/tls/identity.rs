//! Who we are: certificates with their keys.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate};
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Certificate;
use super::notes::note;
use super::pem::{Pem, Source};
use crate::error::{Error, Result};

/// A certificate, those that lead to its root, and the private key.
///
/// Files are read when settings are built, and again at every reload. What is shown of an identity
/// are the names of its files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(super) certificates: Source,
    pub(super) key: Source,
}

impl Identity {
    /// From two files in PEM: the certificate with those that lead to its root (each signed by
    /// the next; the root itself can be left out), and the private key (PKCS #8, PKCS #1 or SEC 1,
    /// not encrypted). Both may be the same file.
    pub fn files(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificates: Source::File(certificates.into()), key: Source::File(key.into()) }
    }

    /// From PEM in memory.
    pub fn pem(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { certificates: Source::Memory(certificates.into()), key: Source::Memory(key.into()) }
    }

    /// Reads the certificate; the key is not looked at.
    ///
    /// # Errors
    ///
    /// When there is none in the file.
    pub fn certificate(&self) -> Result<Certificate> {
        let pem = self.certificates.read()?;
        let chain = pem.certificates()?;
        Certificate::parse(&chain[0]).ok_or_else(|| pem.refuse("the certificate is damaged"))
    }

    /// What a user should know about the certificate though it can be used: that its time is over
    /// or has not come, that it names no host.
    ///
    /// # Errors
    ///
    /// As of [`certificate`](Self::certificate).
    pub fn warnings(&self) -> Result<Vec<String>> {
        let certificate = self.certificate()?;
        let subject = &certificate.subject;
        let about =
            |text: String| format!("{}: certificate of {subject} {text}", self.certificates);
        let mut warnings: Vec<_> = certificate.date_problem().map(about).into_iter().collect();
        if certificate.names.is_empty() {
            warnings.push(about(format!("names no host: {ONLY_SAN}")));
        }
        Ok(warnings)
    }

    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
        let pem = self.certificates.read()?;
        let chain = pem.certificates()?;
        let key_pem = self.key.read()?;
        let key = provider.key_provider.load_private_key(key_pem.key()?).map_err(|_| {
            // The error may say what is in the key.
            unusable_key(&key_pem)
        })?;
        let loaded = CertifiedKey::new(chain, key);
        match loaded.keys_match() {
            Ok(()) | Err(RustlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Arc::new(loaded))
            }
            Err(RustlsError::InconsistentKeys(_)) => Err(foreign_key(&key_pem, &pem)),
            Err(_) => Err(pem.refuse("the first certificate is damaged")),
        }
    }
}

pub(super) fn unusable_key(key: &Pem) -> Error {
    key.refuse("the private key is damaged, or of a kind that is not supported")
        .hint("RSA of at least 2048 bits, ECDSA with P-256 or P-384, or Ed25519 is")
}

pub(super) fn foreign_key(key: &Pem, certificate: &Pem) -> Error {
    key.refuse(format!("the key does not belong to the certificate in {}", certificate.subject()))
        .hint("the certificate that belongs to the key comes first in its file")
}

/// Why a common name is no name of a host: RFC 6125, section 6.4.4, RFC 9525, section 2.
pub(super) const ONLY_SAN: &str =
    "only subjectAltName counts, the common name (CN) is not looked at";

thread_local! {
    /// The name in the last hello of a client. rustls tells it to who chooses a certificate only,
    /// who does not know the connection; but is called by its engine, on the same thread.
    static ASKED_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The name that a client has just asked for, during a call of the engine.
pub(super) fn take_asked_name() -> Option<String> {
    ASKED_NAME.take()
}

/// Chooses among the identities of a server by the name that the client asks for.
pub(super) struct ServerIdentities(pub(super) Vec<Arc<CertifiedKey>>);

impl rustls::server::ResolvesServerCert for ServerIdentities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_sign = |identity: &&Arc<CertifiedKey>| {
            identity.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        ASKED_NAME.set(hello.server_name().map(str::to_owned));
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| {
            let mut named = self.0.iter().filter(|identity| is_named(identity, &name));
            named.find(can_sign)
        });
        named.or_else(|| self.0.iter().find(can_sign)).or(self.0.first()).cloned()
    }
}

fn is_named(identity: &CertifiedKey, name: &ServerName<'_>) -> bool {
    identity.end_entity_cert().is_ok_and(|certificate| is_for(certificate, name))
}

/// Whether a certificate is for this name, whoever has signed it.
pub(super) fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let certificate = ParsedCertificate::try_from(certificate);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

/// Chooses among the identities of a client by who signed them.
pub(super) struct ClientIdentities(pub(super) Vec<Arc<CertifiedKey>>);

impl rustls::client::ResolvesClientCert for ClientIdentities {
    fn resolve(&self, roots: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let can_sign =
            |identity: &&Arc<CertifiedKey>| identity.key.choose_scheme(schemes).is_some();
        let is_signed = |identity: &&Arc<CertifiedKey>| {
            identity.cert.iter().any(|certificate| is_signed_by(certificate, roots))
        };
        let mut fitting = self.0.iter().filter(can_sign);
        // Without a fitting one the server shall say what is wrong with the first.
        let chosen = fitting.clone().find(is_signed).or_else(|| fitting.next()).cloned();
        note(|notes| (notes.is_asked, notes.shows) = (true, chosen.is_some()));
        chosen
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

fn is_signed_by(certificate: &CertificateDer<'_>, issuers: &[&[u8]]) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| issuers.contains(&parsed.issuer().as_raw()))
}

impl fmt::Debug for ServerIdentities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} identities", self.0.len())
    }
}

impl fmt::Debug for ClientIdentities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} identities", self.0.len())
    }
}
