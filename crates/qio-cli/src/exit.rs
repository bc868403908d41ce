//! How the program ends.

use std::fmt;
use std::io;
use std::process::{ExitCode, ExitStatus};

use qio::error::{Class, plain};
use qio::layer::tls::TlsError;
use qio::layer::ws::WsError;
use qio::layer::zstd::ZstdError;

/// The statuses of the program, by class.
///
/// One table: the help topic, the manual and the code below read it.
pub(crate) const STATUSES: &[(u8, &str)] = &[
    (0, "ended as asked"),
    (1, "an input or output error after the start"),
    (2, "the command line or an address makes no sense"),
    (3, "a name could not be resolved"),
    (4, "an address could not be opened, bound or connected"),
    (5, "a timeout"),
    (6, "TLS or authorization failed"),
    (7, "the peer broke a protocol, or refused in its terms (HTTP status, WebSocket close code)"),
];

/// Why the program, or one connection, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: Option<String>,
    /// It was the limit of open files.
    limit: bool,
    /// It was that the other side took no more, and nothing else.
    refused: bool,
    /// Something could not be opened, in all attempts that it had.
    opening: bool,
}

impl Failure {
    fn new(status: u8, message: Option<String>) -> Self {
        Self { status, message, limit: false, refused: false, opening: false }
    }

    /// An input or output error after the start: what was done, on what, and the cause.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let inside = error.get_ref().map(|inside| inside as &(dyn std::error::Error + 'static));
        let mut causes = std::iter::successors(inside, |cause| cause.source());
        let status = causes.find_map(of_protocol).unwrap_or(match error.kind() {
            io::ErrorKind::TimedOut => 5,
            _ => 1,
        });
        Self::new(status, Some(format!("{what}: {}", plain(error))))
    }

    /// A peer that closed with a status which says that something went wrong.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(7, Some(message.into()))
    }

    /// A time that ran out.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(5, Some(message.into()))
    }

    /// Wrong use that the parser of the command line cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, Some(message.into()))
    }

    /// The status of a child, which has said itself what was wrong.
    pub(crate) fn of_child(status: ExitStatus) -> Option<Self> {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
        let status = u8::try_from(code & 0xff).unwrap_or(1);
        (status != 0).then(|| Self::new(status, None))
    }

    /// Ended by a signal, like a program that does not handle it.
    pub(crate) fn signal(number: i32) -> Self {
        Self::new(u8::try_from(128 + number).unwrap_or(1), None)
    }

    /// A connection that was given up because the program ends.
    pub(crate) fn cut() -> Self {
        Self::new(0, Some("cut before there was another side".to_owned()))
    }

    /// A connection whose client did not wait for its other side.
    pub(crate) fn gone() -> Self {
        Self::new(1, Some("the client has gone before there was another side".to_owned()))
    }

    /// The same, of a connection whose target took no more, and which failed for nothing else.
    pub(crate) fn refused(self) -> Self {
        Self { refused: true, ..self }
    }

    /// Whether it was no more than that the target took no more.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// The same, when it has been said already.
    pub(crate) fn said(self) -> Self {
        Self { message: None, ..self }
    }

    /// The same, of an attempt that was given up at the limit of open files.
    pub(crate) fn at_limit(self) -> Self {
        Self { limit: true, opening: false, ..self }
    }

    /// Whether it was the limit of open files, which many meet at a time.
    pub(crate) fn is_limit(&self) -> bool {
        self.limit
    }

    /// What to say, without "qio:".
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Whether it was a signal or a timeout, not something that went wrong by itself.
    pub(crate) fn is_by_decision(&self) -> bool {
        self.status == 5 || self.status > 128
    }

    /// Whether something could not be opened: all attempts that it had were made.
    pub(crate) fn is_opening(&self) -> bool {
        self.opening
    }

    /// The status to end with.
    pub(crate) fn code(&self) -> ExitCode {
        self.status.into()
    }
}

/// The status of an error that a protocol is the reason for; a connection that just ended in its
/// middle is an input or output error.
fn of_protocol(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref() {
        return match error {
            TlsError::Truncated | TlsError::Ended => None,
            _ => Some(6),
        };
    }
    if let Some(ZstdError::Invalid(_)) = cause.downcast_ref() {
        return Some(7);
    }
    match cause.downcast_ref()? {
        WsError::Violation(_) | WsError::NotText => Some(7),
        _ => None,
    }
}

impl From<qio::Error> for Failure {
    fn from(error: qio::Error) -> Self {
        let status = match error.class() {
            Class::Usage => 2,
            Class::Resolve => 3,
            Class::Open => 4,
            Class::Timeout => 5,
            Class::Tls | Class::Denied => 6,
            Class::Protocol => 7,
            _ => 1,
        };
        Self { opening: true, ..Self::new(status, Some(error.report().to_string())) }
    }
}
