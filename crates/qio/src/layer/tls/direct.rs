//! Records taken where they are made.
//!
//! The interface of rustls without buffers ([`rustls::unbuffered`]) makes a record in memory of its
//! own and copies it into ours, which at 16 KiB costs an eighth of all sending. The suites here are
//! those of another provider, but what they encrypt between the two ends of [`collect`] is kept
//! from rustls, which gets a hollow record in its place: a header that announces no bytes. Keys,
//! sequence numbers, their limits and every message of the protocol's own stay with rustls.

use std::cell::RefCell;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage,
    OutboundPlainMessage, PrefixedPayload, Tls12AeadAlgorithm, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};
use smallvec::SmallVec;

use super::record::{HEADER_BYTES, record_size};

/// Suites, each with its own that hands records over. rustls wants suites that live for ever: each
/// is made once for the process, however many configurations there are.
static SUITES: Mutex<Vec<(SupportedCipherSuite, SupportedCipherSuite)>> = Mutex::new(Vec::new());

/// Room for a key update (RFC 8446, section 4.6.3) and for a hollow record: where there is not
/// enough, rustls says so before it encrypts.
const BESIDE_BYTES: usize = 256;

/// Gives the same cryptography, with which channels send without one copy of each record.
///
/// The settings here do that by themselves; this is for configurations that are made with
/// `rustls::ClientConfig::builder_with_provider` or its counterpart of servers. Such a
/// configuration does everywhere else what it would do without.
///
/// ```
/// use std::sync::Arc;
///
/// use qio::layer::tls;
/// use rustls::crypto::ring;
///
/// let provider = Arc::new(tls::direct(ring::default_provider()));
/// let config = rustls::ClientConfig::builder_with_provider(provider);
/// # let _ = config;
/// ```
#[must_use]
pub fn direct(mut provider: CryptoProvider) -> CryptoProvider {
    for suite in &mut provider.cipher_suites {
        *suite = direct_suite(*suite);
    }
    provider
}

fn direct_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let mut suites = SUITES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = suites.iter().find(|(of, direct)| is_same(*of, suite) || is_same(*direct, suite));
    if let Some((_, direct)) = known {
        return *direct;
    }
    let direct = match suite {
        SupportedCipherSuite::Tls12(of) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&of.common),
                aead_alg: Box::leak(Box::new(Direct(of.aead_alg))),
                ..*of
            })))
        }
        SupportedCipherSuite::Tls13(of) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&of.common),
                aead_alg: Box::leak(Box::new(Direct(of.aead_alg))),
                ..*of
            })))
        }
    };
    suites.push((suite, direct));
    direct
}

fn is_same(left: SupportedCipherSuite, right: SupportedCipherSuite) -> bool {
    match (left, right) {
        (SupportedCipherSuite::Tls12(left), SupportedCipherSuite::Tls12(right)) => {
            ptr::eq(left, right)
        }
        (SupportedCipherSuite::Tls13(left), SupportedCipherSuite::Tls13(right)) => {
            ptr::eq(left, right)
        }
        _ => false,
    }
}

fn common(of: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon { ..*of }
}

/// An algorithm whose records are handed over.
struct Direct<A: 'static + ?Sized>(&'static A);

#[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
impl Tls13AeadAlgorithm for Direct<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(DirectEncrypter(self.0.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
impl Tls12AeadAlgorithm for Direct<dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(DirectEncrypter(self.0.encrypter(key, iv, extra)))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct DirectEncrypter(Box<dyn MessageEncrypter>);

#[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
impl MessageEncrypter for DirectEncrypter {
    fn encrypt(
        &mut self,
        plain: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, rustls::Error> {
        let is_data = plain.typ == ContentType::ApplicationData;
        // Whatever the cryptography of somebody else does meanwhile is none of the collector's.
        let collected = take_collected();
        let record = self.0.encrypt(plain, sequence)?;
        let Some(mut records) = collected else { return Ok(record) };
        // Messages of the protocol's own go the usual way: rustls may keep them.
        let (record, kept) = if is_data {
            let hollow = PrefixedPayload::with_capacity(0);
            (OutboundOpaqueMessage::new(record.typ, record.version, hollow), Some(record.encode()))
        } else {
            (record, None)
        };
        records.extend(kept);
        COLLECTED.set(Some(records));
        Ok(record)
    }

    fn encrypted_payload_len(&self, len: usize) -> usize {
        // What is asked for is the room in the buffer that rustls writes to.
        if is_collecting() { 0 } else { self.0.encrypted_payload_len(len) }
    }
}

type Records = SmallVec<[Vec<u8>; 1]>;

thread_local! {
    /// The records that were kept from rustls; `None` when nobody collects.
    static COLLECTED: RefCell<Option<Records>> = const { RefCell::new(None) };
}

fn is_collecting() -> bool {
    // A thread that is ending has none any more.
    COLLECTED.try_with(|records| records.borrow().is_some()).unwrap_or(false)
}

fn take_collected() -> Option<Records> {
    COLLECTED.try_with(RefCell::take).ok().flatten()
}

/// Gives all that `encrypt` has rustls write, in records of their own, or why there is nothing.
///
/// `encrypt` gets room for what rustls says beside the data, and gives how much rustls has written
/// to it.
pub(super) fn collect<E>(
    encrypt: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    mut give: impl FnMut(Vec<u8>),
) -> Result<(), E> {
    let mut beside = [0; BESIDE_BYTES];
    let (written, records) = {
        let end = Collecting::begin();
        (encrypt(&mut beside)?, end.records())
    };
    let mut records = records.into_iter();
    let mut rest = &beside[..written];
    while let Some(size) = record_size(rest) {
        let (record, behind) = rest.split_at(size.min(rest.len()));
        rest = behind;
        if size > HEADER_BYTES {
            give(record.to_vec());
        } else if let Some(record) = records.next() {
            give(record);
        }
    }
    debug_assert!(records.next().is_none(), "each has a hollow one");
    Ok(())
}

/// While it lives, records are collected.
struct Collecting;

impl Collecting {
    fn begin() -> Self {
        debug_assert!(!is_collecting(), "one at a time in a thread");
        // Where this fails, rustls has not enough room for a whole record, and says so.
        let _ = COLLECTED.try_with(|records| records.replace(Some(SmallVec::new())));
        Self
    }

    fn records(&self) -> Records {
        take_collected().unwrap_or_default()
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        drop(take_collected());
    }
}
