//! The opening handshake, RFC 6455, section 4: one HTTP request and its answer.

mod client;
mod server;
mod tokens;

use alloc::format;
use alloc::string::String;
use core::error::Error;
use core::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

pub use client::{Answer, ClientHandshake, ClientOptions, Response};
pub use server::{Origins, Refusal, Request, ServerHandshake, ServerOptions};

/// Why there is no WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// This server does not take the client, and has told it so.
    Refused(Refusal),
    /// The server answered with another status than 101.
    Status {
        /// The status of HTTP.
        code: u16,
        /// What the server calls it.
        reason: String,
    },
    /// What the peer sent is not what RFC 6455 asks for.
    Malformed(&'static str),
    /// The header has more bytes than the limit.
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// The connection ended in the middle.
    Truncated,
    /// An option cannot be sent: a line break in a header, say.
    BadOption(&'static str),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("websocket handshake: ")?;
        match self {
            Self::Refused(refusal) => write!(out, "the client was refused, {refusal}"),
            Self::Status { code, reason } if reason.is_empty() => {
                write!(out, "the server answered {code}")
            }
            Self::Status { code, reason } => write!(out, "the server answered {code} {reason:?}"),
            Self::Malformed(what) => out.write_str(what),
            Self::TooLong { limit_bytes } => {
                write!(out, "the header has more than {limit_bytes} bytes")
            }
            Self::Truncated => out.write_str("the connection ended in the middle"),
            Self::BadOption(what) => out.write_str(what),
        }
    }
}

impl Error for HandshakeError {}

/// The longest header by default: 4 KiB, which is more than any browser sends without cookies of
/// other services; the smallest limit of common servers is 8 KiB for everything.
pub(super) const DEFAULT_LIMIT: usize = 4096;

/// How many header fields are looked at.
const MAX_FIELDS: usize = 64;

/// Finds the end of a header that comes in pieces, looking at each byte once.
#[derive(Clone, Copy, Debug, Default)]
struct HeaderEnd {
    seen: usize,
}

impl HeaderEnd {
    /// Where the header in front of `wire` ends, if it does.
    fn find(&mut self, wire: &[u8]) -> Option<usize> {
        let from = self.seen.saturating_sub(END.len() - 1);
        self.seen = wire.len();
        let at = wire.get(from..)?.windows(END.len()).position(|part| part == END)?;
        Some(from + at + END.len())
    }
}

const END: &[u8] = b"\r\n\r\n";

/// What the server answers to the client's key.
fn accept_key(key: &str) -> String {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# concatenating /key/, defined
    //# above in step 4 in Section 4.2.2, with the string "258EAFA5-
    //# E914-47DA-95CA-C5AB0DC85B11", taking the SHA-1 hash of this
    //# concatenated value to obtain a 20-byte value and base64-
    //# encoding
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.finalize())
}

/// A user and a password: RFC 7617. The password is in no error and in no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct BasicAuth {
    user: String,
    password: String,
}

impl BasicAuth {
    /// A user, whose name has no colon, and the password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }

    /// Whether that is the value of an Authorization field for this user and password. Takes a time
    /// that does not depend on where they differ.
    pub fn is(&self, given: &str) -> bool {
        let expected = self.field();
        let pairs = given.bytes().zip(expected.bytes());
        let differ = pairs.fold(0, |all, (one, two)| all | (one ^ two));
        given.len() == expected.len() && differ == 0
    }

    /// The value of an Authorization field.
    fn field(&self) -> String {
        let Self { user, password } = self;
        format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
    }
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BasicAuth").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
