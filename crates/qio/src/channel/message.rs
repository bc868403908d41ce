//! What can be the matter with a message.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Error, ErrorKind};

/// What can be the matter with a message of a channel with
/// [`Features::MESSAGES`](super::Features::MESSAGES).
///
/// It is inside of an [`io::Error`](Error); [`of`](MessageError::of) finds it.
///
/// ```
/// use qio::channel::MessageError;
/// use qio::transport::{MessageKind, Messages};
/// use qio::ChannelExt;
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Messages::pair(MessageKind::Datagram)?;
/// left.send(b"much too long")?;
/// let error = right.receive(&mut [0; 4]).unwrap_err();
/// let lost = MessageError::Truncated { length_bytes: 13, room_bytes: 4 };
/// assert_eq!(MessageError::of(&error), Some(&lost));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The message has no bytes.
    ///
    /// What [`Channel::try_read`](super::Channel::try_read) gives for an empty message, because
    /// `Ok(0)` is the end and nothing else. Users do not see it:
    /// [`receive`](super::ChannelExt::receive) gives them 0 bytes, and `read` goes on to the next
    /// message.
    Empty,
    /// The message that arrived was longer than the buffers, and is lost.
    Truncated {
        /// How long it was.
        length_bytes: usize,
        /// How much the buffers take.
        room_bytes: usize,
    },
    /// The message is longer than what can be sent as one, and was not sent.
    TooLong {
        /// How long it is.
        length_bytes: usize,
    },
}

impl MessageError {
    /// What is the matter with a message, if that is what an error is about.
    pub fn of(error: &Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<MessageError> for Error {
    /// `InvalidData` for what arrived, `InvalidInput` for what was to be sent.
    #[cold]
    fn from(error: MessageError) -> Self {
        let kind = match error {
            MessageError::Empty | MessageError::Truncated { .. } => ErrorKind::InvalidData,
            MessageError::TooLong { .. } => ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => out.write_str("the message is empty"),
            Self::Truncated { length_bytes, room_bytes } => write!(
                out,
                "a message of {length_bytes} bytes came where {room_bytes} fit, and is lost"
            ),
            Self::TooLong { length_bytes } => {
                write!(out, "a message of {length_bytes} bytes is too long to be sent as one")
            }
        }
    }
}

impl StdError for MessageError {}
