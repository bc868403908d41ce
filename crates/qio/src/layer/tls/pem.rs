//! Files of certificates and keys, and what is wrong with them.

use std::fs;
use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};
use std::{fmt, str};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::error::{Error, Result};

/// Where PEM text comes from. Never shows what is in it.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Memory(Vec<u8>),
}

/// PEM text that was read.
pub(super) struct Pem {
    subject: String,
    text: Vec<u8>,
}

impl Source {
    pub(super) fn read(&self) -> Result<Pem> {
        let subject = self.to_string();
        match self {
            Self::Memory(text) => Ok(Pem { subject, text: text.clone() }),
            Self::File(path) => match fs::read(path) {
                Ok(text) => Ok(Pem { subject, text }),
                Err(error) => Err(Error::os("read", subject, error)),
            },
        }
    }
}

impl Pem {
    /// The file, for errors.
    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// At least one certificate.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.all("a certificate", "CERTIFICATE")
    }

    /// At least one list of revoked certificates.
    pub(super) fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>> {
        self.all("a list of revoked certificates (CRL)", "X509 CRL")
    }

    /// The first private key.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        if self.is_encrypted_key() {
            let reason = "the private key is encrypted, which is not supported";
            return Err(self.refuse(reason).hint(
                "openssl pkey -in FILE -out NEW writes it without a password; \
                 guard it with the permissions of the file",
            ));
        }
        let mut keys: Vec<PrivateKeyDer<'static>> = self.all("a private key", "PRIVATE KEY")?;
        Ok(keys.swap_remove(0))
    }

    fn all<T: PemObject>(&self, what: &str, label: &str) -> Result<Vec<T>> {
        let found: std::result::Result<Vec<T>, _> = T::pem_slice_iter(&self.text).collect();
        match found {
            // The text of the error may quote the file.
            Err(_) => Err(self.refuse("this is not valid PEM")),
            Ok(found) if found.is_empty() => Err(self.missing(what, label)),
            Ok(found) => Ok(found),
        }
    }

    fn missing(&self, what: &str, label: &str) -> Error {
        let labels = self.labels();
        let is = match labels.first() {
            Some(label) if label.ends_with("PRIVATE KEY") => "this is a private key",
            Some(&"CERTIFICATE" | &"X509 CERTIFICATE" | &"TRUSTED CERTIFICATE") => {
                "this is a certificate"
            }
            Some(&"CERTIFICATE REQUEST" | &"NEW CERTIFICATE REQUEST") => {
                "this is a request for a certificate, which nobody has signed"
            }
            Some(&"X509 CRL") => "this is a list of revoked certificates (CRL)",
            Some(&"PUBLIC KEY" | &"RSA PUBLIC KEY") => "this is a public key",
            Some(&("EC PARAMETERS" | "DH PARAMETERS")) => "these are parameters for keys",
            Some(&("PKCS7" | "CMS")) => "this is a PKCS #7 bundle",
            Some(_) => "this is something else",
            None if self.text.iter().all(u8::is_ascii_whitespace) => "the file is empty",
            // A SEQUENCE: X.690, section 8.9.
            None if self.text.starts_with(&[0x30]) => "this is DER (binary), not PEM,",
            None => "there is no PEM in it",
        };
        let error = self.refuse(format!("{is} where {what} belongs"));
        error.hint(format!("it begins with -----BEGIN {label}-----"))
    }

    fn is_encrypted_key(&self) -> bool {
        // PKCS #8, and the form of old OpenSSL (RFC 1421, section 4.6.1.1).
        let old = b"Proc-Type: 4,ENCRYPTED";
        self.labels().contains(&"ENCRYPTED PRIVATE KEY")
            || self.text.windows(old.len()).any(|window| window == old)
    }

    /// What the sections say they are.
    fn labels(&self) -> Vec<&str> {
        let lines = self.text.split(|&byte| byte == b'\n').filter_map(|line| {
            let line = str::from_utf8(line).ok()?.trim();
            line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")
        });
        lines.collect()
    }

    /// An error about this file.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::usage("read", &self.subject, reason.into())
    }
}

/// Whether there is such a file; what cannot be told is told by reading it.
pub(super) fn is_there(path: &Path) -> bool {
    !matches!(fs::metadata(path), Err(error) if is_missing(&error))
}

fn is_missing(error: &IoError) -> bool {
    error.kind() == ErrorKind::NotFound
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Memory(_) => out.write_str("PEM in memory"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}
