//! Whether the peer's certificate is good.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssl::nid::Nid;
use openssl::ssl::{SslContextBuilder, SslFiletype, SslRef, SslVerifyMode};
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags};
use openssl::x509::{X509, X509Name, X509Ref, X509StoreContextRef, X509VerifyResult};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error as RustlsError};

use super::super::trust::revocations;
use super::super::{Authorization, Certificate, Fingerprint, TlsError, Trust, TrustedBy};
use super::verdict::Verdict;
use crate::error::{Error, Result};

/// Whom one configuration believes: OpenSSL verifies the chain, the dates and the name, this
/// what it does not know.
#[derive(Debug)]
pub(super) struct Check {
    pins: Option<Vec<Fingerprint>>,
    /// Nobody has to sign.
    believes_all: bool,
    authorization: Option<Authorization>,
    mode: SslVerifyMode,
    /// Why a certificate is accepted that is.
    pub(super) trusted_by: TrustedBy,
    /// There are lists of revoked certificates.
    pub(super) knows_revoked: bool,
}

impl Check {
    /// Puts what is believed into a context that is being built; what a server demands of clients
    /// is in `mode`.
    pub(super) fn install(
        builder: &mut SslContextBuilder,
        trust: &Trust,
        crl_files: &[PathBuf],
        authorization: Option<Authorization>,
        mode: SslVerifyMode,
    ) -> Result<Arc<Self>> {
        let failed = |error| super::context::unusable(&error);
        let mut store = X509StoreBuilder::new().map_err(failed)?;
        let mut names = Stack::<X509Name>::new().map_err(failed)?;
        let signs = trust.each_root(&mut |der| {
            let Ok(root) = X509::from_der(&der) else { return false };
            let named = root.subject_name().to_owned().and_then(|name| names.push(name));
            named.is_ok() && store.add_cert(root).is_ok()
        })?;
        // As with rustls, whatever is trusted is a root: also who signs for somebody else.
        let mut flags = X509VerifyFlags::PARTIAL_CHAIN;
        let knows_revoked = signs && !crl_files.is_empty();
        if knows_revoked {
            // The files are read twice; here it is said what is wrong with them.
            revocations(crl_files)?;
            for path in crl_files {
                load_revocations(&mut store, path)?;
            }
            flags |= X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
        }
        store.set_flags(flags).map_err(failed)?;
        builder.set_cert_store(store.build());
        // Clients are told who has to have signed their certificates.
        builder.set_client_ca_list(names);
        Ok(Arc::new(Self {
            pins: trust.pins(),
            believes_all: !signs,
            authorization,
            mode,
            trusted_by: trust.why(),
            knows_revoked,
        }))
    }

    /// Has the certificates of one connection checked; `name` is what a server's must have.
    pub(super) fn attach(
        self: &Arc<Self>,
        ssl: &mut SslRef,
        name: Option<&ServerName<'static>>,
        verdict: &Arc<Verdict>,
    ) -> std::result::Result<(), openssl::error::ErrorStack> {
        let name = name.filter(|_| !self.believes_all);
        let param = ssl.param_mut();
        match name {
            // The common name counts where there is no alternative name of a host: as in QEMU, and
            // what OpenSSL does by itself.
            Some(ServerName::DnsName(host)) => {
                param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
                param.set_host(host.as_ref().trim_end_matches('.'))?;
            }
            Some(ServerName::IpAddress(address)) => {
                param.set_ip(std::net::IpAddr::from(*address))?;
            }
            _ => {}
        }
        let (check, verdict, name) = (Arc::clone(self), Arc::clone(verdict), name.cloned());
        ssl.set_verify_callback(self.mode, move |is_good, context| {
            match check.judge(is_good, context, name.as_ref(), &verdict) {
                Ok(()) => true,
                Err(error) => {
                    verdict.refuse(error);
                    false
                }
            }
        });
        Ok(())
    }

    /// Looks at what OpenSSL has found out about one certificate of the chain: something is wrong
    /// with it, or at the end, from the root to the peer's own, that nothing is.
    fn judge(
        &self,
        is_good: bool,
        context: &mut X509StoreContextRef,
        name: Option<&ServerName<'static>>,
        verdict: &Verdict,
    ) -> std::result::Result<(), TlsError> {
        if !is_good {
            let found = context.error();
            // An authority without a list has revoked nothing.
            if self.believes_all || found.as_raw() == UNABLE_TO_GET_CRL {
                context.set_error(X509VerifyResult::OK);
                return Ok(());
            }
            return Err(explain(found, context.current_cert(), name));
        }
        if context.error_depth() == 0 {
            let checked = context.current_cert().map_or(Err(unreadable()), |own| self.admit(own));
            // OpenSSL has an alert for it: it was no fault of the certificate.
            checked
                .inspect_err(|_| context.set_error(X509VerifyResult::APPLICATION_VERIFICATION))?;
            verdict.pass();
        }
        Ok(())
    }

    /// The pins and the rules, behind all other checks: who it is must be certain before.
    fn admit(&self, own: &X509Ref) -> std::result::Result<(), TlsError> {
        let der = CertificateDer::from(own.to_der().map_err(|_| unreadable())?);
        if let Some(pins) = &self.pins {
            let is = Fingerprint::of(&der);
            if !pins.contains(&is) {
                return Err(TlsError::Unpinned(is));
            }
        }
        if let Some(rules) = &self.authorization {
            let peer = Certificate::parse(&der).ok_or_else(unreadable)?;
            rules.check_certificate(Some(&peer)).map_err(TlsError::Denied)?;
        }
        Ok(())
    }
}

fn load_revocations(store: &mut X509StoreBuilder, path: &Path) -> Result<()> {
    let refuse = |reason: &str| Error::usage("read", path.display(), reason.to_owned());
    if path.to_str().is_none() {
        return Err(refuse("the name of a file for OpenSSL must be text"));
    }
    let lookup = store.add_lookup(X509Lookup::file());
    match lookup.and_then(|lookup| lookup.load_crl_file(path, SslFiletype::PEM)) {
        Ok(1..) => Ok(()),
        _ => Err(refuse("a list of revoked certificates in it is damaged")),
    }
}

/// In the words that rustls has for the same.
fn explain(
    found: X509VerifyResult,
    certificate: Option<&X509Ref>,
    name: Option<&ServerName<'static>>,
) -> TlsError {
    let parsed = certificate
        .and_then(|certificate| certificate.to_der().ok())
        .and_then(|der| Certificate::parse(&CertificateDer::from(der)));
    let error = match (found.as_raw(), parsed, name) {
        (CERT_HAS_EXPIRED, Some(parsed), _) => CertificateError::ExpiredContext {
            time: UnixTime::now(),
            not_after: unix(parsed.not_after),
        },
        (CERT_NOT_YET_VALID, Some(parsed), _) => CertificateError::NotValidYetContext {
            time: UnixTime::now(),
            not_before: unix(parsed.not_before),
        },
        (HOSTNAME_MISMATCH | IP_ADDRESS_MISMATCH, Some(parsed), Some(name)) => {
            CertificateError::NotValidForNameContext {
                expected: name.clone(),
                presented: names(&parsed, certificate),
            }
        }
        (CRL_HAS_EXPIRED, ..) => CertificateError::ExpiredRevocationList,
        (CERT_REVOKED, ..) => CertificateError::Revoked,
        (CERT_SIGNATURE_FAILURE, ..) => CertificateError::BadSignature,
        (INVALID_PURPOSE, ..) => CertificateError::InvalidPurpose,
        (
            UNABLE_TO_GET_ISSUER_CERT
            | DEPTH_ZERO_SELF_SIGNED_CERT
            | SELF_SIGNED_CERT_IN_CHAIN
            | UNABLE_TO_GET_ISSUER_CERT_LOCALLY
            | UNABLE_TO_VERIFY_LEAF_SIGNATURE
            | CERT_UNTRUSTED,
            ..,
        ) => CertificateError::UnknownIssuer,
        _ => {
            let reason = found.error_string();
            let text = format!("the peer's certificate is not accepted: {reason}");
            return TlsError::Failed(text);
        }
    };
    RustlsError::InvalidCertificate(error).into()
}

/// Whom a certificate is for; the common name where there is nothing else.
fn names(parsed: &Certificate, certificate: Option<&X509Ref>) -> Vec<String> {
    if !parsed.names.is_empty() {
        // Without the kind in front: `host.example`.
        let bare = |name: String| match name.split_once(':') {
            Some((_, name)) => name.to_owned(),
            None => name,
        };
        return parsed.names.iter().map(|name| bare(name.to_string())).collect();
    }
    let subject = certificate.map(X509Ref::subject_name);
    let common = subject.and_then(|subject| subject.entries_by_nid(Nid::COMMONNAME).last());
    let text = common.and_then(|entry| entry.data().to_string().ok());
    vec![match text {
        // What is no text for people is shown as what it is.
        Some(text) => format!("the common name {}", text.escape_debug()),
        None => "nobody".into(),
    }]
}

fn unix(time: std::time::SystemTime) -> UnixTime {
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}

fn unreadable() -> TlsError {
    RustlsError::InvalidCertificate(CertificateError::BadEncoding).into()
}

// `X509_V_ERR_…` of x509_vfy.h.
const UNABLE_TO_GET_ISSUER_CERT: i32 = 2;
const UNABLE_TO_GET_CRL: i32 = 3;
const CERT_SIGNATURE_FAILURE: i32 = 7;
const CERT_NOT_YET_VALID: i32 = 9;
const CERT_HAS_EXPIRED: i32 = 10;
const CRL_HAS_EXPIRED: i32 = 12;
const DEPTH_ZERO_SELF_SIGNED_CERT: i32 = 18;
const SELF_SIGNED_CERT_IN_CHAIN: i32 = 19;
const UNABLE_TO_GET_ISSUER_CERT_LOCALLY: i32 = 20;
const UNABLE_TO_VERIFY_LEAF_SIGNATURE: i32 = 21;
const CERT_REVOKED: i32 = 23;
const INVALID_PURPOSE: i32 = 26;
const CERT_UNTRUSTED: i32 = 27;
const HOSTNAME_MISMATCH: i32 = 62;
const IP_ADDRESS_MISMATCH: i32 = 64;
