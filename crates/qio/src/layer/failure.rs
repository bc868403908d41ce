//! A failure that is told again.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::Arc;

/// An error that is told to everybody who asks, each time with the same type inside.
#[derive(Clone)]
pub(super) struct Failure {
    kind: ErrorKind,
    cause: Arc<dyn Fn() -> Box<dyn StdError + Send + Sync> + Send + Sync>,
}

impl Failure {
    pub(super) fn new<E>(kind: ErrorKind, error: E) -> Self
    where
        E: StdError + Clone + Send + Sync + 'static,
    {
        Self { kind, cause: Arc::new(move || Box::new(error.clone())) }
    }

    /// An error of the channel below: what is told from now on, and to the first who asks.
    pub(super) fn below(kind: ErrorKind, error: Error) -> (Self, Error) {
        let number = error.raw_os_error();
        let first = error.kind();
        let told = Told(Arc::new(error));
        let first = match number {
            Some(number) => Error::from_raw_os_error(number),
            None => Error::new(first, told.clone()),
        };
        (Self::new(kind, told), first)
    }

    pub(super) fn error(&self) -> Error {
        Error::new(self.kind, (self.cause)())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.kind, (self.cause)())
    }
}

/// An error of the channel below, shared by all who are told.
#[derive(Clone, Debug)]
struct Told(Arc<Error>);

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // An `io::Error` shows the sources of what is in it, and not that itself.
        match self.0.get_ref() {
            Some(inside) => Some(inside),
            None => Some(&*self.0),
        }
    }
}
