//! What a certificate says, for people and for rules.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev, oid2sn};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::Fingerprint;

/// The names, dates and digest of a certificate.
///
/// Names come from whoever had the certificate signed: control characters in them are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// The subject's distinguished name (DN), `C=GB,O=Example,CN=host`: attributes in the order
    /// of the certificate, which is how QEMU and GnuTLS show it, escaped as RFC 4514 asks for.
    pub subject: String,
    /// The DN of who signed it.
    pub issuer: String,
    /// The alternative names of the subject (SAN, RFC 5280, section 4.2.1.6): for whom it stands.
    pub names: Vec<AltName>,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// The kind of its key, and the size: `RSA 2048`, `ECDSA P-256`, `Ed25519`.
    pub key: String,
    /// How it was signed: `sha256WithRSAEncryption`, `ecdsa-with-SHA256`.
    pub signature: String,
    /// Its SHA-256 digest.
    pub fingerprint: Fingerprint,
}

/// One of the names for which a certificate stands.
///
/// As text it has its kind in front, as in OpenSSL: `DNS:host.example`, `IP:192.0.2.1`,
/// `email:alice@example.org`, `URI:spiffe://example/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AltName {
    /// A host, in small letters; the first label may be `*`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A mailbox.
    Email(String),
    /// A URI.
    Uri(String),
}

impl Certificate {
    /// Parses a certificate; nothing is verified. `None` for what is no certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let names = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
            // Twice the same extension, or one that makes no sense, names nobody.
            _ => Vec::new(),
        };
        Some(Self {
            subject: distinguished_name(parsed.subject()),
            issuer: distinguished_name(parsed.issuer()),
            names,
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
            key: key(parsed.public_key()),
            signature: short_name(&parsed.signature_algorithm.algorithm),
            fingerprint: Fingerprint::of(der),
        })
    }

    /// Why the certificate cannot be used now, if so: `expired on 2024-05-01`.
    pub fn date_problem(&self) -> Option<String> {
        let now = SystemTime::now();
        if now < self.not_before {
            return Some(format!("not valid before {}", day(self.not_before)));
        }
        (now > self.not_after).then(|| format!("expired on {}", day(self.not_after)))
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Dns(name) => ("DNS", name),
            Self::Email(name) => ("email", name),
            Self::Uri(name) => ("URI", name),
            Self::Ip(address) => return write!(out, "IP:{address}"),
        };
        write!(out, "{kind}:{name}")
    }
}

/// The day of a moment, in UTC: `2026-11-22`.
pub(super) fn day(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    match ASN1Time::from_timestamp(seconds) {
        Ok(time) => {
            let date = time.to_datetime();
            format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
        }
        Err(_) => format!("{seconds} s after 1970"),
    }
}

/// The kind and size of a key.
fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|curve| curve.to_id_string()).as_deref() {
                // RFC 5480, section 2.1.1.1.
                Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
                Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
                Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
                _ => format!("ECDSA {}", point.key_size()),
            }
        }
        _ => match key.algorithm.algorithm.to_id_string().as_str() {
            // RFC 8410, section 3.
            "1.3.101.112" => "Ed25519".to_owned(),
            "1.3.101.113" => "Ed448".to_owned(),
            _ => short_name(&key.algorithm.algorithm),
        },
    }
}

/// An algorithm as the registry calls it, else by its number.
fn short_name(oid: &Oid<'_>) -> String {
    match oid.to_id_string().as_str() {
        "1.3.101.112" => "Ed25519".to_owned(),
        number => oid2sn(oid, oid_registry()).map_or_else(|_| number.to_owned(), str::to_owned),
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let moment = match time.timestamp() {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    moment.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn name(name: &GeneralName<'_>) -> Option<AltName> {
    Some(match name {
        GeneralName::DNSName(name) => AltName::Dns(printable(&name.to_ascii_lowercase())),
        GeneralName::RFC822Name(name) => AltName::Email(printable(name)),
        GeneralName::URI(uri) => AltName::Uri(printable(uri)),
        GeneralName::IPAddress(bytes) => AltName::Ip(match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok()?.into(),
            _ => <[u8; 16]>::try_from(*bytes).ok()?.into(),
        }),
        _ => return None,
    })
}

fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => out.extend(char.escape_default()),
            false => out.push(char),
        }
    }
    out
}

/// RFC 4514, section 2, but for the order, which stays.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    for rdn in name.iter_rdn() {
        let mut separator = if out.is_empty() { "" } else { "," };
        for attribute in rdn.iter() {
            out.push_str(separator);
            separator = "+";
            let kind = attribute.attr_type();
            // PKCS #9: the registry calls it "emailAddress" already, and UID by its long name.
            let known = match kind {
                kind if *kind == oid!(0.9.2342.19200300.100.1.1) => Ok("UID"),
                kind if *kind == oid!(0.9.2342.19200300.100.1.25) => Ok("DC"),
                kind if *kind == oid!(1.2.840.113549.1.9.1) => Ok("EMAIL"),
                kind => oid2abbrev(kind, oid_registry()),
            };
            match (known, attribute.as_str()) {
                (Ok(kind), Ok(value)) => {
                    out.push_str(kind);
                    out.push('=');
                    escape(value, &mut out);
                }
                // What is no text is shown as its bytes: section 2.4.
                (known, _) => {
                    match known {
                        Ok(kind) => out.push_str(kind),
                        Err(_) => out.push_str(&kind.to_id_string()),
                    }
                    out.push_str("=#");
                    for byte in attribute.as_slice() {
                        let _ = write!(out, "{byte:02X}");
                    }
                }
            }
        }
    }
    out
}

/// RFC 4514, section 2.4.
fn escape(value: &str, out: &mut String) {
    let last = value.len().saturating_sub(1);
    for (index, char) in value.char_indices() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', char]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            char if char.is_control() => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn with_subject(parts: &[(DnType, &str)]) -> Certificate {
        let names = vec!["Host.Example".to_owned(), "192.0.2.7".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            let value = DnValue::Utf8String((*value).to_owned());
            params.distinguished_name.push(kind.clone(), value);
        }
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::parse(made.der()).unwrap()
    }

    #[test]
    fn a_name_is_shown_in_the_order_of_the_certificate() {
        let certificate = with_subject(&[
            (DnType::CountryName, "UK"),
            (DnType::OrganizationName, "Example"),
            (DnType::CommonName, "qemu"),
        ]);
        assert_eq!(certificate.subject, "C=UK,O=Example,CN=qemu");
        assert_eq!(certificate.issuer, certificate.subject);
        let names: Vec<_> = certificate.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["DNS:host.example", "IP:192.0.2.7"]);
        assert_eq!(certificate.key, "ECDSA P-256");
        assert_eq!(certificate.signature, "ecdsa-with-SHA256");
    }

    #[test]
    fn a_value_cannot_look_like_another_attribute() {
        let certificate = with_subject(&[(DnType::CommonName, "mallory,CN=alice+O=x")]);
        assert_eq!(certificate.subject, r"CN=mallory\,CN=alice\+O=x");
        assert_eq!(with_subject(&[(DnType::CommonName, " #\n ")]).subject, r"CN=\ #\0A\ ");
        assert_eq!(with_subject(&[(DnType::CommonName, "#x\\")]).subject, r"CN=\#x\\");
    }

    #[test]
    fn attributes_without_a_short_name_are_shown_by_number() {
        let certificate = with_subject(&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "x")]);
        assert_eq!(certificate.subject, "1.2.3.4=#78");
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        assert!(Certificate::parse(&CertificateDer::from(vec![0x30, 0x82, 1])).is_none());
        assert!(Certificate::parse(&CertificateDer::from(Vec::new())).is_none());
    }

    #[test]
    fn days_are_counted_in_utc() {
        assert_eq!(day(SystemTime::UNIX_EPOCH), "1970-01-01");
        assert_eq!(day(SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400)), "2000-02-29");
    }
}
