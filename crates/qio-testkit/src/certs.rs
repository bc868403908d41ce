//! Certificates for tests, made when they are needed.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wanted {
    /// The subject's common name.
    pub common_name: String,
    /// The names of hosts and addresses.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// A certificate with its key, PEM.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
    serial: SerialNumber,
}

impl Authority {
    /// Makes one with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate for a server or a client.
    pub fn issue(&self, wanted: Wanted) -> Issued {
        let mut params = CertificateParams::new(wanted.names).unwrap();
        params.distinguished_name = named(&wanted.common_name);
        params.not_before = wanted.not_before.into();
        params.not_after = wanted.not_after.into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        // The first bytes of the public point: unique, and positive.
        let mut serial = key.public_key_raw()[1..9].to_vec();
        serial[0] &= 0x7f;
        serial[0] |= 1;
        let serial = SerialNumber::from(serial);
        params.serial_number = Some(serial.clone());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), serial }
    }

    /// Revokes certificates: the list, PEM, valid for a day.
    pub fn revoke(&self, revoked: &[&Issued]) -> String {
        let now = SystemTime::now();
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: (now - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + HOUR * 24).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Wanted {
    /// A certificate that is good for a day, for these hosts and addresses.
    pub fn new(common_name: &str, names: &[&str]) -> Self {
        Self {
            common_name: common_name.into(),
            names: names.iter().map(|&name| name.into()).collect(),
            not_before: SystemTime::now() - HOUR,
            not_after: SystemTime::now() + HOUR * 24,
        }
    }

    /// The same, but its time is over since an hour.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.not_before = SystemTime::now() - HOUR * 48;
        self.not_after = SystemTime::now() - HOUR;
        self
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Example");
    name.push(DnType::CommonName, common_name);
    name
}

const HOUR: Duration = Duration::from_secs(60 * 60);
