//! What both roles have in a context of OpenSSL.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use openssl::bn::BigNum;
use openssl::dh::Dh;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
};
use openssl::x509::X509;

use super::super::identity::{foreign_key, unusable_key};
use super::super::settings::{Common, Credentials};
use super::super::{Identity, Version};
use crate::error::{Error, Result};

/// A context with what both roles can be told, but for certificates and keys.
pub(super) fn begin(
    method: SslMethod,
    common: &Common,
    credentials: &Credentials,
) -> Result<SslContextBuilder> {
    common.check_alpn()?;
    common.check_versions()?;
    let mut max_version = common.max_version;
    if *credentials == Credentials::Anonymous {
        if common.min_version > Version::Tls12 {
            let reason = "an anonymous session is one of TLS 1.2, later versions have none";
            return Err(Error::usage("configure", "TLS versions", reason));
        }
        max_version = Version::Tls12;
    }
    let mut builder = SslContextBuilder::new(method).map_err(|error| unusable(&error))?;
    configure(&mut builder, common, max_version, credentials).map_err(|error| unusable(&error))?;
    if common.logs_keys {
        log_keys(&mut builder)?;
    }
    Ok(builder)
}

fn configure(
    builder: &mut SslContextBuilder,
    common: &Common,
    max_version: Version,
    credentials: &Credentials,
) -> std::result::Result<(), ErrorStack> {
    // Buffers are given back when they are empty; roots of our own are not shown.
    builder.set_mode(
        SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::NO_AUTO_CHAIN,
    );
    builder.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    // Nothing is kept for sessions: they are in the tickets of clients.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_min_proto_version(Some(number(common.min_version)))?;
    builder.set_max_proto_version(Some(number(max_version)))?;
    // Whatever the system's openssl.cnf says: settings are arguments. OpenSSL puts anonymous
    // suites below every level of security, with reason.
    let (level, suites) = match credentials {
        Credentials::Certificates => (2, CERTIFICATE_SUITES),
        Credentials::Psk(_) => (2, PSK_SUITES),
        Credentials::Anonymous => (0, ANONYMOUS_SUITES),
    };
    builder.set_security_level(level);
    builder.set_cipher_list(suites)?;
    builder.set_ciphersuites(match credentials {
        // What such a key goes with: RFC 8446, section 4.2.11.
        Credentials::Psk(_) => "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256",
        _ => "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256",
    })?;
    if *credentials != Credentials::Certificates {
        // GnuTLS, so QEMU, knows no anonymous suites of elliptic curves with AES-GCM.
        builder.set_tmp_dh(&*finite_field()?)?;
    }
    Ok(())
}

/// The names of ALPN as they are sent: RFC 7301, section 3.1.
pub(super) fn alpn(common: &Common) -> Vec<u8> {
    let mut out = Vec::new();
    for name in &common.alpn {
        // Checked to be short enough.
        out.extend(u8::try_from(name.len()));
        out.extend_from_slice(name);
    }
    out
}

/// Shows an identity, read anew.
pub(super) fn identify(builder: &mut SslContextBuilder, identity: &Identity) -> Result<()> {
    let pem = identity.certificates.read()?;
    let chain = pem.certificates()?;
    let key_pem = identity.key.read()?;
    let der = key_pem.key()?;
    // The error may say what is in the key.
    let key = PKey::private_key_from_der(der.secret_der()).map_err(|_| unusable_key(&key_pem))?;
    for (index, der) in chain.iter().enumerate() {
        let damaged = |_| pem.refuse(format!("certificate {} in it is damaged", index + 1));
        let certificate = X509::from_der(der).map_err(damaged)?;
        if index > 0 {
            builder.add_extra_chain_cert(certificate).map_err(damaged)?;
        } else {
            let weak = |_| pem.refuse("the key of the certificate is too weak");
            builder.set_certificate(&certificate).map_err(weak)?;
            let public = certificate.public_key().map_err(damaged)?;
            if !key.public_eq(&public) {
                return Err(foreign_key(&key_pem, &pem));
            }
            builder.set_private_key(&key).map_err(|_| unusable_key(&key_pem))?;
        }
    }
    Ok(())
}

/// A context that cannot be made: of a library that is built otherwise, or out of memory.
pub(super) fn unusable(error: &ErrorStack) -> Error {
    let reason = error.errors().first().and_then(|error| error.reason());
    let reason = reason.unwrap_or("it gives no reason").to_ascii_lowercase();
    Error::usage("configure", "TLS", format!("OpenSSL refuses: {reason}"))
}

/// As rustls does it: appends, and says nothing where it cannot write.
fn log_keys(builder: &mut SslContextBuilder) -> Result<()> {
    let Some(path) = env::var_os("SSLKEYLOGFILE") else { return Ok(()) };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let file = file.map_err(|error| Error::os("open", path.display(), error))?;
    let file = Mutex::new(file);
    builder.set_keylog_callback(move |_, line| {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece: other processes append, too. Who cannot be told is not stopped.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    });
    Ok(())
}

/// The group of 2048 bits of RFC 3526, section 3.
fn finite_field() -> std::result::Result<Dh<openssl::pkey::Params>, ErrorStack> {
    Dh::from_pqg(BigNum::get_rfc3526_prime_2048()?, None, BigNum::from_u32(2)?)
}

fn number(version: Version) -> SslVersion {
    match version {
        Version::Tls12 => SslVersion::TLS1_2,
        Version::Tls13 => SslVersion::TLS1_3,
    }
}

/// Those of rustls.
const CERTIFICATE_SUITES: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// Those with a key of the session's own first: who steals the pre-shared key later cannot read
/// what was recorded before.
const PSK_SUITES: &str = "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:\
    DHE-PSK-AES128-GCM-SHA256:DHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:\
    ECDHE-PSK-AES128-CBC-SHA256:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256:\
    PSK-CHACHA20-POLY1305";

const ANONYMOUS_SUITES: &str = "ADH-AES256-GCM-SHA384:ADH-AES128-GCM-SHA256:AECDH-AES256-SHA:\
    AECDH-AES128-SHA";
