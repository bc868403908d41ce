//! What rustls tells those who verify and choose, and not the owner of a connection.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;

use super::TrustedBy;

/// What was seen during a handshake.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The certificates that were refused, as the peer has shown them.
    pub(super) refused: Vec<CertificateDer<'static>>,
    pub(super) trusted_by: Option<TrustedBy>,
    /// Lists of revoked certificates were looked at.
    pub(super) knows_revoked: bool,
    /// The server asked for a certificate.
    pub(super) is_asked: bool,
    /// It was shown one.
    pub(super) shows: bool,
}

thread_local! {
    /// Whoever verifies does not know the connection, but runs inside the call of its engine, on
    /// the same thread, which fetches this.
    static NOTES: RefCell<Notes> = const { RefCell::new(Notes::none()) };
}

/// Takes a note for the engine that calls.
pub(super) fn note(write: impl FnOnce(&mut Notes)) {
    NOTES.with_borrow_mut(write);
}

/// The notes of the last call.
pub(super) fn take() -> Notes {
    NOTES.replace(Notes::none())
}

impl Notes {
    const fn none() -> Self {
        Self {
            refused: Vec::new(),
            trusted_by: None,
            knows_revoked: false,
            is_asked: false,
            shows: false,
        }
    }

    /// Adds what came later.
    pub(super) fn add(&mut self, later: Self) {
        if !later.refused.is_empty() {
            self.refused = later.refused;
        }
        self.trusted_by = later.trusted_by.or(self.trusted_by);
        self.knows_revoked |= later.knows_revoked;
        self.is_asked |= later.is_asked;
        self.shows |= later.shows;
    }
}

/// A chain that outlives the message it came in.
pub(super) fn owned(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Vec<CertificateDer<'static>> {
    let all = std::iter::once(end_entity).chain(intermediates);
    all.map(|certificate| certificate.clone().into_owned()).collect()
}
