//! Why something could not be set up.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The result of parsing, resolving, opening, connecting or listening.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a channel, listener or address could not be had: what was tried, on what, and the cause.
///
/// Reads and writes on an open channel return [`io::Result`] instead.
///
/// [`Error::report`] gives the line a user wants to read:
/// `connect tcp://127.0.0.78:9: connection refused (nothing listens there)`. `Debug` gives the same
/// line, so that a `main` that returns the error, and an `unwrap`, say what happened.
///
/// `Display` leaves out what other errors say, as is usual for errors with a
/// [`source`](StdError::source), and the hint: `connect tcp://127.0.0.78:9`. Where the reason is no
/// other error, as for an address that makes no sense, it is part of the text:
/// `parse tcp://h:80a: port "80a" is not a number from 0 to 65535, nor a service`.
///
/// ```
/// let error = "nul:".parse::<qio::Address>().unwrap_err();
/// assert_eq!(error.to_string(), "parse nul:: scheme \"nul\" is not known");
/// assert!(format!("{error:?}").contains("did you mean null?"));
/// ```
pub struct Error(Box<Parts>);

struct Parts {
    class: Class,
    attempt: Cow<'static, str>,
    subject: String,
    /// Why, where no other error says it.
    reason: Option<Cow<'static, str>>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<Cow<'static, str>>,
}

/// What kind of failure an [`Error`] is; the tool's exit codes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// The address or its options make no sense. Nothing was tried.
    Usage,
    /// A name could not be resolved.
    Resolve,
    /// Refused, unreachable, no such file, permission, in use, bad descriptor.
    Open,
    /// A deadline passed.
    Timeout,
    /// The caller gave up.
    Cancelled,
    /// A TLS handshake failed, or the peer is not who may be let in.
    Tls,
    /// An open channel failed.
    Io,
    /// The peer did not let us in, or was not let in: a password, an origin (HTTP 401 and 403).
    Denied,
    /// The peer broke a protocol, does not speak it, or answered with a refusal in its terms.
    Protocol,
}

impl Error {
    /// Makes an error from what was attempted (`"connect"`), on what, and the class.
    pub fn new(
        class: Class,
        attempt: impl Into<Cow<'static, str>>,
        subject: impl fmt::Display,
    ) -> Self {
        Self(Box::new(Parts {
            class,
            attempt: attempt.into(),
            subject: subject.to_string(),
            reason: None,
            cause: None,
            hint: None,
        }))
    }

    /// An address or options that make no sense, and why.
    pub(crate) fn usage(
        attempt: impl Into<Cow<'static, str>>,
        subject: impl fmt::Display,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut error = Self::new(Class::Usage, attempt, subject);
        error.0.reason = Some(reason.into());
        error
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds what would help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// An error of the operating system while opening, connecting or listening; the class and the
    /// hint follow from it.
    pub fn os(
        attempt: impl Into<Cow<'static, str>>,
        subject: impl fmt::Display,
        cause: io::Error,
    ) -> Self {
        let class = match cause.kind() {
            io::ErrorKind::TimedOut => Class::Timeout,
            _ => Class::Open,
        };
        let hint = hint_for(&cause);
        let error = Self::new(class, attempt, subject).because(cause);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// A deadline that passed while `attempt` was going on.
    pub fn timed_out(attempt: impl Into<Cow<'static, str>>, subject: impl fmt::Display) -> Self {
        Self::new(Class::Timeout, attempt, subject)
            .because(io::Error::new(io::ErrorKind::TimedOut, "timed out"))
    }

    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// What was tried, one verb: `"connect"`, `"listen"`, `"parse"`…
    pub fn attempt(&self) -> &str {
        &self.0.attempt
    }

    /// What it was tried on, usually an address.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What would help, if that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The error of the operating system in the chain of causes, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return Some(io.kind());
            }
            cause = error.source();
        }
        None
    }

    /// The whole story on one line: attempt, subject, reason, every cause, hint.
    pub fn report(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(move |out| {
            write!(out, "{self}")?;
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(out, ": {}", plain(error))?;
                cause = error.source();
            }
            match &self.0.hint {
                Some(hint) => write!(out, " ({hint})"),
                None => Ok(()),
            }
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { attempt, subject, reason, .. } = &*self.0;
        // An address to listen on says so itself.
        let subject = match attempt.as_ref() {
            "listen" => subject.strip_prefix("listen:").unwrap_or(subject),
            _ => subject,
        };
        write!(out, "{attempt} {subject}")?;
        match reason {
            Some(reason) => write!(out, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl From<Error> for io::Error {
    /// Keeps the kind of the underlying error and the whole text.
    fn from(error: Error) -> Self {
        let kind = match error.class() {
            Class::Usage => io::ErrorKind::InvalidInput,
            Class::Timeout => io::ErrorKind::TimedOut,
            _ => error.io_kind().unwrap_or(io::ErrorKind::Other),
        };
        Self::new(kind, error)
    }
}

/// The text of an error in the house style: lower case, without "(os error 111)".
pub fn plain(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    let text = match text.rfind(" (os error ") {
        Some(end) => &text[..end],
        None => &text,
    };
    let mut chars = text.chars();
    match chars.next() {
        // "No such file" is a sentence; "EOF" and "TLS" are names.
        Some(first) if chars.clone().next().is_some_and(|second| !second.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

fn hint_for(cause: &io::Error) -> Option<&'static str> {
    use io::ErrorKind as Kind;
    Some(match cause.kind() {
        Kind::ConnectionRefused => "nothing listens there",
        Kind::AddrNotAvailable => "no interface of this machine has that address",
        Kind::HostUnreachable => "no answer from that host on the local network",
        Kind::NetworkUnreachable => "no route to that network",
        _ => match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::MFILE) => "this process is at its limit, see ulimit -n",
            Some(rustix::io::Errno::NFILE) => "the system is at its limit of open files",
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_with_cause_and_hint() {
        let refused = io::Error::from_raw_os_error(111);
        let error = Error::os("connect", "tcp:127.0.0.78:9", refused);
        assert_eq!(
            error.report().to_string(),
            "connect tcp:127.0.0.78:9: connection refused (nothing listens there)"
        );
        assert_eq!(error.class(), Class::Open);
        assert_eq!(error.to_string(), "connect tcp:127.0.0.78:9");
    }

    #[test]
    fn what_main_and_unwrap_print_is_the_report() {
        let refused = || Error::os("connect", "unix:x", io::Error::from_raw_os_error(111));
        let report = "connect unix:x: connection refused (nothing listens there)";
        assert_eq!(format!("{:?}", refused()), report);
        assert_eq!(format!("{:#?}", refused()), report);
        let boxed: Box<dyn StdError> = refused().into();
        assert_eq!(format!("{boxed:?}"), report);
    }

    #[test]
    fn a_reason_that_is_no_other_error_is_told_once_by_every_form() {
        let error = Error::usage("parse", "x", "there is no scheme").hint("tcp: is one");
        assert_eq!(error.to_string(), "parse x: there is no scheme");
        assert!(error.source().is_none());
        let report = "parse x: there is no scheme (tcp: is one)";
        assert_eq!(error.report().to_string(), report);
        assert_eq!(format!("{error:?}"), report);
        assert_eq!(io::Error::from(error).to_string(), "parse x: there is no scheme");
    }

    #[test]
    fn the_kind_survives_the_way_through_io_error() {
        let error = Error::os("open", "file:x", io::Error::from_raw_os_error(2));
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Error>()));
    }

    #[test]
    fn names_keep_their_capitals() {
        assert_eq!(plain(&io::Error::other("EOF in header")), "EOF in header");
        assert_eq!(plain(&io::Error::other("Broken pipe")), "broken pipe");
        assert_eq!(plain(&io::Error::other("")), "");
    }
}
