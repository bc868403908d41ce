//! What OpenSSL calls an error, in the words of this house.

use openssl::error::ErrorStack;
use rustls::{AlertDescription, Error as RustlsError};

use super::super::TlsError;
use super::engine::PASSED_OVER;

/// Why a handshake or a record failed; `psk` says that the sides are about to know each other by
/// pre-shared keys.
///
/// Only the reasons of OpenSSL are told, never the data beside them.
pub(super) fn explain(stack: &ErrorStack, psk: bool) -> TlsError {
    // The first is the cause, the rest is what followed from it.
    let Some(first) = stack.errors().iter().find(|error| error.library_code() == LIBRARY) else {
        return match stack.errors().first().and_then(|error| error.reason()) {
            Some(reason) => TlsError::Failed(reason.to_ascii_lowercase()),
            None => TlsError::Failed("OpenSSL gives up and does not say why".into()),
        };
    };
    let code = first.reason_code();
    if let Ok(alert @ 0..=255) = u8::try_from(code.wrapping_sub(ALERTS)) {
        let alert = AlertDescription::from(alert);
        use AlertDescription as Alert;
        // The words that peers have for a key that differs: RFC 4279, section 2, for TLS 1.2; of
        // binders (RFC 8446, section 4.2.11) GnuTLS says the second, OpenSSL the third.
        let of_key = [Alert::BadRecordMac, Alert::DecryptError, Alert::IllegalParameter];
        return match psk && of_key.contains(&alert) {
            true => TlsError::WrongKey,
            false => RustlsError::AlertReceived(alert).into(),
        };
    }
    let text = match code {
        NO_CERTIFICATE => return RustlsError::NoCertificatesPresented.into(),
        CERTIFICATE_VERIFY_FAILED if psk => PASSED_OVER,
        NO_APPLICATION_PROTOCOL => return RustlsError::NoApplicationProtocol.into(),
        BAD_RECORD_MAC | DIGEST_CHECK_FAILED | BINDER_DOES_NOT_VERIFY if psk => {
            return TlsError::WrongKey;
        }
        UNSUPPORTED_PROTOCOL | UNKNOWN_PROTOCOL | VERSION_TOO_LOW => {
            "the two sides have no version of TLS in common"
        }
        NO_SHARED_CIPHER => "the two sides have no cipher suite in common",
        // Of TLS 1.3, where who has no such key would have to show a certificate.
        NO_SUITABLE_SIGNATURE_ALGORITHM | PSK_IDENTITY_NOT_FOUND if psk => {
            "there is no pre-shared key for this user"
        }
        _ => match first.reason() {
            Some(reason) => return TlsError::Failed(reason.to_ascii_lowercase()),
            None => return TlsError::Failed(format!("error {code} of OpenSSL")),
        },
    };
    TlsError::Failed(text.into())
}

/// `ERR_LIB_SSL` of err.h.
const LIBRARY: i32 = 20;

/// What is added to the number of an alert: `SSL_AD_REASON_OFFSET` of ssl.h.
const ALERTS: i32 = 1000;

// `SSL_R_…` of sslerr.h.
const NO_SUITABLE_SIGNATURE_ALGORITHM: i32 = 118;
const CERTIFICATE_VERIFY_FAILED: i32 = 134;
const DIGEST_CHECK_FAILED: i32 = 149;
const NO_SHARED_CIPHER: i32 = 193;
const NO_CERTIFICATE: i32 = 199;
const PSK_IDENTITY_NOT_FOUND: i32 = 223;
const NO_APPLICATION_PROTOCOL: i32 = 235;
const BINDER_DOES_NOT_VERIFY: i32 = 253;
const UNKNOWN_PROTOCOL: i32 = 252;
const UNSUPPORTED_PROTOCOL: i32 = 258;
const BAD_RECORD_MAC: i32 = 281;
const VERSION_TOO_LOW: i32 = 396;
