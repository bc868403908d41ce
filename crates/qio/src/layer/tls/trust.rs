//! Whom we believe.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as RustlsError,
    RootCertStore, SignatureScheme,
};

use super::notes::{note, owned};
use super::pem::Source;
use super::{Authorization, Certificate, Denied, Fingerprint, TrustedBy};
use crate::error::{Class, Error, Result};

/// Whose certificates are believed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Trust {
    /// Those signed by who the system trusts: the distribution's store, or what `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` name.
    #[default]
    System,
    /// Those signed by one of the certificates in these files, PEM, any number in each.
    Files(Vec<PathBuf>),
    /// The same from PEM in memory.
    Pem(Vec<u8>),
    /// Those with one of these fingerprints, whatever they say: names, dates and who signed them
    /// are not looked at. That the peer has the key is.
    Pinned(Vec<Fingerprint>),
    /// Any: **insecure**, because whoever stands between the two sides can read and change
    /// everything. That the peer has the key of its certificate is still checked.
    Anybody,
}

impl Trust {
    /// The roots; `None` where nobody has to sign.
    fn roots(&self) -> Result<Option<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        let signs = self.each_root(&mut |certificate| roots.add(certificate).is_ok())?;
        Ok(signs.then_some(roots))
    }

    /// Gives each of the roots to `add`, which says whether it can be used; `false` where nobody
    /// has to sign.
    pub(super) fn each_root(
        &self,
        add: &mut dyn FnMut(CertificateDer<'static>) -> bool,
    ) -> Result<bool> {
        match self {
            Self::System => {
                let loaded = rustls_native_certs::load_native_certs();
                // One that cannot be used does not spoil the others.
                if loaded.certs.into_iter().filter(|root| add(root.clone())).count() == 0 {
                    let mut error = Error::new(Class::Open, "read", "the system's certificates");
                    error = match loaded.errors.into_iter().next() {
                        Some(cause) => error.because(cause),
                        None => error.because("there are none"),
                    };
                    let hint = "install ca-certificates, or name a file with the certificate of \
                                the authority";
                    return Err(error.hint(hint));
                }
            }
            Self::Files(paths) => {
                if paths.is_empty() {
                    return Err(Error::usage("trust", "certificates", "no file is named"));
                }
                for path in paths {
                    add_all(add, &Source::File(path.clone()))?;
                }
            }
            Self::Pem(text) => add_all(add, &Source::Memory(text.clone()))?,
            Self::Pinned(pins) if pins.is_empty() => {
                return Err(Error::usage("trust", "fingerprints", "there are none"));
            }
            Self::Pinned(_) | Self::Anybody => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the name in the certificate must be the right one.
    pub(super) fn checks_names(&self) -> bool {
        !matches!(self, Self::Pinned(_) | Self::Anybody)
    }

    pub(super) fn why(&self) -> TrustedBy {
        match self {
            Self::System => TrustedBy::System,
            Self::Files(_) | Self::Pem(_) => TrustedBy::Authority,
            Self::Pinned(_) => TrustedBy::Pin,
            Self::Anybody => TrustedBy::Nobody,
        }
    }

    pub(super) fn pins(&self) -> Option<Vec<Fingerprint>> {
        match self {
            Self::Pinned(pins) => Some(pins.clone()),
            _ => None,
        }
    }
}

fn add_all(add: &mut dyn FnMut(CertificateDer<'static>) -> bool, source: &Source) -> Result<()> {
    let pem = source.read()?;
    for (index, certificate) in pem.certificates()?.into_iter().enumerate() {
        if !add(certificate) {
            return Err(pem.refuse(format!("certificate {} in it is damaged", index + 1)));
        }
    }
    Ok(())
}

/// Reads lists of revoked certificates.
pub(super) fn revocations(files: &[PathBuf]) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let mut lists = Vec::new();
    for path in files {
        lists.append(&mut Source::File(path.clone()).read()?.revocations()?);
    }
    Ok(lists)
}

/// What both roles check alike.
#[derive(Debug)]
struct Check {
    pins: Option<Vec<Fingerprint>>,
    why: TrustedBy,
    /// There are lists of revoked certificates.
    knows_revoked: bool,
    authorization: Option<Authorization>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Check {
    fn new(
        trust: &Trust,
        knows_revoked: bool,
        authorization: Option<Authorization>,
        provider: &CryptoProvider,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { pins: trust.pins(), why: trust.why(), knows_revoked, authorization, algorithms }
    }

    /// Notes what became of a certificate.
    fn noted<T>(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        result: std::result::Result<T, RustlsError>,
    ) -> std::result::Result<T, RustlsError> {
        note(|notes| match &result {
            Ok(_) => {
                notes.trusted_by = Some(self.why);
                notes.knows_revoked = self.knows_revoked;
            }
            Err(_) => notes.refused = owned(end_entity, intermediates),
        });
        result
    }

    /// The digest, where that is what counts.
    fn check_pin(&self, certificate: &CertificateDer<'_>) -> std::result::Result<(), RustlsError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let is = Fingerprint::of(certificate);
        if pins.contains(&is) {
            return Ok(());
        }
        Err(explain(CertificateError::ApplicationVerificationFailure, Reason::Unpinned(is)))
    }

    /// The rules, behind all other checks: who it is must be certain before.
    fn authorize(&self, certificate: &CertificateDer<'_>) -> std::result::Result<(), RustlsError> {
        let Some(rules) = &self.authorization else { return Ok(()) };
        let Some(peer) = Certificate::parse(certificate) else {
            return Err(CertificateError::BadEncoding.into());
        };
        rules.check_certificate(Some(&peer)).map_err(|denied| {
            explain(CertificateError::ApplicationVerificationFailure, Reason::Denied(denied))
        })
    }
}

/// Why a certificate was refused, where rustls has no words for it.
#[derive(Debug)]
pub(super) enum Reason {
    Denied(Denied),
    Unpinned(Fingerprint),
}

thread_local! {
    /// The reason of the last refusal. The error that rustls has for it decides which alert the
    /// peer gets and cannot carry a reason, and a verifier does not know its connection; but it
    /// runs inside the call of the engine, on the same thread, which fetches it from here.
    static REASON: RefCell<Option<Reason>> = const { RefCell::new(None) };
}

fn explain(error: CertificateError, reason: Reason) -> RustlsError {
    REASON.set(Some(reason));
    error.into()
}

/// The reason for an error that the engine has just been given.
pub(super) fn take_reason(error: &RustlsError) -> Option<Reason> {
    match error {
        RustlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            REASON.take()
        }
        _ => None,
    }
}

/// Verifies servers.
#[derive(Debug)]
pub(super) struct ServerCheck {
    chain: Option<Arc<WebPkiServerVerifier>>,
    check: Check,
}

impl ServerCheck {
    pub(super) fn new(
        trust: &Trust,
        crl_files: &[PathBuf],
        authorization: Option<Authorization>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self> {
        let lists = revocations(crl_files)?;
        let knows_revoked = !lists.is_empty();
        let chain = match trust.roots()? {
            None => None,
            Some(roots) => {
                let builder = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(provider),
                )
                .with_crls(lists)
                .allow_unknown_revocation_status()
                .enforce_revocation_expiration();
                Some(builder.build().map_err(|error| unusable(crl_files, &error))?)
            }
        };
        let check = Check::new(trust, knows_revoked, authorization, provider);
        Ok(Self { chain, check })
    }
}

/// The roots are fine by now: a list of revoked certificates is not.
fn unusable(crl_files: &[PathBuf], error: &dyn std::error::Error) -> Error {
    let files: Vec<_> = crl_files.iter().map(|path| path.display().to_string()).collect();
    Error::usage("read", files.join(", "), error.to_string())
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, RustlsError> {
        let verify = || {
            self.check.check_pin(end_entity)?;
            if let Some(chain) = &self.chain {
                let (name, ocsp) = (server_name, ocsp_response);
                chain.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
            }
            self.check.authorize(end_entity)?;
            Ok(ServerCertVerified::assertion())
        };
        self.check.noted(end_entity, intermediates, verify())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, cert, dss, &self.check.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, cert, dss, &self.check.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.check.algorithms.supported_schemes()
    }
}

/// Verifies clients.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    check: Check,
    is_mandatory: bool,
}

impl ClientCheck {
    pub(super) fn new(
        trust: &Trust,
        crl_files: &[PathBuf],
        authorization: Option<Authorization>,
        is_mandatory: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self> {
        let lists = revocations(crl_files)?;
        let knows_revoked = !lists.is_empty();
        let chain = match trust.roots()? {
            None => None,
            Some(roots) => {
                let builder = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(provider),
                )
                .with_crls(lists)
                .allow_unknown_revocation_status()
                .enforce_revocation_expiration();
                Some(builder.build().map_err(|error| unusable(crl_files, &error))?)
            }
        };
        let check = Check::new(trust, knows_revoked, authorization, provider);
        Ok(Self { chain, check, is_mandatory })
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, RustlsError> {
        let verify = || {
            self.check.check_pin(end_entity)?;
            if let Some(chain) = &self.chain {
                chain.verify_client_cert(end_entity, intermediates, now)?;
            }
            self.check.authorize(end_entity)?;
            Ok(ClientCertVerified::assertion())
        };
        self.check.noted(end_entity, intermediates, verify())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, cert, dss, &self.check.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, cert, dss, &self.check.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.check.algorithms.supported_schemes()
    }
}
