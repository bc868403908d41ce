//! What can be wrong with a compressed stream.

use std::error::Error as StdError;
use std::fmt;

/// What can be wrong with a compressed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZstdError {
    /// The peer sends something else, or asks for a larger window than it may: the text is
    /// zstd's.
    Invalid(&'static str),
    /// The stream has ended inside of the peer's frame, or before it.
    Truncated,
    /// Our side has ended already.
    Ended,
    /// The compressor failed: the text is zstd's.
    Compressor(&'static str),
}

impl fmt::Display for ZstdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(out, "the peer sends no valid zstd frame: {what}"),
            Self::Truncated => out.write_str("the stream ends inside of a zstd frame"),
            Self::Ended => out.write_str("our side of the stream has ended"),
            Self::Compressor(what) => write!(out, "the compressor failed: {what}"),
        }
    }
}

impl StdError for ZstdError {}
