//! Messages that came before there was a socket for them.

use std::collections::VecDeque;
use std::io::Result;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::messages::scatter;
use crate::channel::{MessageError, ReadFlags, ReadOp};

/// How many messages wait…
const MESSAGES: usize = 64;

/// …and how many bytes, in all: four of the largest datagrams.
const BYTES: usize = 256 * 1024;

/// The messages of a new peer that the listening socket had received, for the reader of the new
/// channel. Bounded: what does not fit is dropped, as the kernel does with its queue.
///
/// Nothing announces a message that is put in while the reader waits already: that would cost every
/// client a descriptor, for what happens (if ever) within microseconds of its coming. The reader
/// finds it together with the next.
#[derive(Debug, Default)]
pub(crate) struct Early {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Early {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Puts a message behind the others; `false` when there is no room for it.
    pub(crate) fn push(&self, message: Box<[u8]>) -> bool {
        let mut queue = self.lock();
        let fits =
            queue.messages.len() < MESSAGES && message.len() <= BYTES.saturating_sub(queue.bytes);
        if fits {
            queue.bytes += message.len();
            queue.messages.push_back(message);
        }
        fits
    }

    /// The first message; `None` when there is none.
    pub(super) fn read(&self, op: &mut ReadOp<'_, '_>) -> Option<Result<usize>> {
        let mut queue = self.lock();
        let first = queue.messages.front()?;
        let length_bytes = first.len();
        let peek = op.flags().contains(ReadFlags::PEEK);
        let room_bytes: usize = op.bufs().iter().map(|buf| buf.len()).sum();
        if length_bytes <= room_bytes || peek {
            scatter(&first[..length_bytes.min(room_bytes)], op.bufs());
        }
        if !peek {
            queue.bytes -= length_bytes;
            queue.messages.pop_front();
            if queue.messages.is_empty() {
                // An allocation for the life of a connection is one too many.
                queue.messages = VecDeque::new();
            }
        }
        Some(match length_bytes {
            0 => Err(MessageError::Empty.into()),
            _ if length_bytes > room_bytes && !peek => {
                Err(MessageError::Truncated { length_bytes, room_bytes }.into())
            }
            _ => Ok(length_bytes.min(room_bytes)),
        })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().messages.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
