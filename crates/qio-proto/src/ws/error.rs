//! What can be wrong with a peer.

use alloc::borrow::Cow;
use alloc::string::String;
use core::error::Error;
use core::fmt;

/// What ended a WebSocket before its farewell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WsError {
    /// The peer broke the protocol, and was told so with a Close frame.
    Violation(Violation),
    /// The connection ended without a Close frame: more may have been meant to come.
    Truncated,
    /// The peer did not answer a ping in time.
    Silent,
    /// The user wrote after our side had ended.
    Ended,
    /// The user wrote bytes that are no UTF-8, where messages are text.
    NotText,
}

/// How the peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    status: u16,
    what: Cow<'static, str>,
}

/// Why a side closed the connection: RFC 6455, section 7.1.5 and 7.1.6.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// The status code; `None` when the Close frame had none.
    pub status: Option<u16>,
    /// The reason in words, for a log; it is the peer's text.
    pub reason: String,
}

/// Status codes of RFC 6455, section 7.4.1.
pub mod status {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// A server goes down, or a page is left.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A kind of data that is not accepted.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is no UTF-8.
    pub const NOT_TEXT: u16 = 1007;
    /// Something that is not allowed here.
    pub const POLICY: u16 = 1008;
    /// A message that is too big.
    pub const TOO_BIG: u16 = 1009;
}

impl Violation {
    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(status::PROTOCOL, what)
    }

    pub(crate) const fn new(status: u16, what: &'static str) -> Self {
        Self { status, what: Cow::Borrowed(what) }
    }

    /// The status of the Close frame that told the peer.
    pub fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (closed with status {})", self.what, self.status)
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => write!(out, "websocket: {violation}"),
            Self::Truncated => out.write_str("websocket: the peer left without a Close frame"),
            Self::Silent => out.write_str("websocket: no pong in time"),
            Self::Ended => out.write_str("websocket: our side has ended"),
            Self::NotText => {
                out.write_str("websocket: the bytes are no UTF-8, and messages are text")
            }
        }
    }
}

impl Error for WsError {}

impl fmt::Display for Close {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(out, "status {status}")?,
            None => out.write_str("no status")?,
        }
        if self.reason.is_empty() { Ok(()) } else { write!(out, ", {:?}", self.reason) }
    }
}
