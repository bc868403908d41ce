//! How the program ends.

use std::fmt;
use std::io;
use std::process::{ExitCode, ExitStatus};

use qio::error::{Class, plain};

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
    (7, "the peer broke a protocol"),
];

/// Why the program, or one connection, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: Option<String>,
}

impl Failure {
    /// An input or output error after the start: what was done, on what, and the cause.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::TimedOut { 5 } else { 1 };
        Self { status, message: Some(format!("{what}: {}", plain(error))) }
    }

    /// A time that ran out.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self { status: 5, message: Some(message.into()) }
    }

    /// Wrong use that the parser of the command line cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { status: 2, message: Some(message.into()) }
    }

    /// The status of a child, which has said itself what was wrong.
    pub(crate) fn of_child(status: ExitStatus) -> Option<Self> {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
        let status = u8::try_from(code & 0xff).unwrap_or(1);
        (status != 0).then_some(Self { status, message: None })
    }

    /// Ended by a signal, like a program that does not handle it.
    pub(crate) fn signal(number: i32) -> Self {
        Self { status: u8::try_from(128 + number).unwrap_or(1), message: None }
    }

    /// A connection that was given up because the program ends.
    pub(crate) fn cut() -> Self {
        Self { status: 0, message: Some("cut before there was another side".to_owned()) }
    }

    /// What to say, without "qio:".
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Whether it was a signal or a timeout, not something that went wrong by itself.
    pub(crate) fn is_by_decision(&self) -> bool {
        self.status == 5 || self.status > 128
    }

    /// Whether another attempt could go better.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.status, 3..=5)
    }

    /// The status to end with.
    pub(crate) fn code(&self) -> ExitCode {
        self.status.into()
    }
}

impl From<qio::Error> for Failure {
    fn from(error: qio::Error) -> Self {
        let status = match error.class() {
            Class::Usage => 2,
            Class::Resolve => 3,
            Class::Open => 4,
            Class::Timeout => 5,
            _ => 1,
        };
        Self { status, message: Some(error.report().to_string()) }
    }
}
