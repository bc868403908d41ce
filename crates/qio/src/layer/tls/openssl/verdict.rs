//! What was found out about the peer's certificate during a handshake.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::TlsError;

/// What the check of one connection tells its engine.
///
/// The check runs inside a call of the engine, but belongs to OpenSSL: they share this.
#[derive(Debug, Default)]
pub(super) struct Verdict(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unchecked,
    Good,
    Refused(TlsError),
}

impl Verdict {
    pub(super) fn refuse(&self, error: TlsError) {
        *self.lock() = State::Refused(error);
    }

    /// Nothing is wrong with the certificate; what was refused stays so.
    pub(super) fn pass(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Unchecked) {
            *state = State::Good;
        }
    }

    pub(super) fn is_good(&self) -> bool {
        matches!(*self.lock(), State::Good)
    }

    pub(super) fn refusal(&self) -> Option<TlsError> {
        match &*self.lock() {
            State::Refused(error) => Some(error.clone()),
            State::Unchecked | State::Good => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
