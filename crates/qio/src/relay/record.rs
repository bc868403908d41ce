//! What a relay did.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a relay did, from its start to its end.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record {
    /// From the left channel to the right one.
    pub left_to_right: FlowRecord,
    /// From the right channel to the left one.
    pub right_to_left: FlowRecord,
    /// Why it ended.
    pub end: End,
    /// Whose end of stream or error came first; `None` when the relay itself ended it.
    pub ended_by: Option<Side>,
    /// From the first step to the last.
    pub duration: Duration,
}

impl Record {
    /// The first error of either direction.
    pub fn error(&self) -> Option<&io::Error> {
        self.left_to_right.error.as_ref().or(self.right_to_left.error.as_ref())
    }

    /// Bytes that were read and could not be delivered, in both directions.
    pub fn lost(&self) -> u64 {
        self.left_to_right.lost + self.right_to_left.lost
    }

    /// Messages that came and could not be delivered, in both directions.
    pub fn messages_lost(&self) -> u64 {
        self.left_to_right.messages_lost + self.right_to_left.messages_lost
    }
}

/// What went in one direction.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct FlowRecord {
    /// Bytes delivered.
    pub bytes: u64,
    /// How many of them moved with splice(2).
    pub spliced: u64,
    /// Bytes that were read and could not be delivered.
    pub lost: u64,
    /// Messages delivered, by channels that keep them apart.
    pub messages: u64,
    /// Messages that came and could not be delivered: too long for the relay or for the sink, or
    /// nobody was there. Their bytes are counted in [`lost`](FlowRecord::lost).
    pub messages_lost: u64,
    /// Why the first of them was lost. The relay went on.
    pub loss: Option<io::Error>,
    /// How often the network said that nobody receives what is sent to the source or to the sink.
    pub refusals: u64,
    /// Descriptors sent on.
    pub fds_passed: u64,
    /// Descriptors that arrived and were closed.
    pub fds_dropped: u64,
    /// When the first byte was read, counted from the start.
    pub first_byte: Option<Duration>,
    /// What ended the direction, when it was not the end of the stream.
    pub error: Option<io::Error>,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Both directions came to their end, or failed (see [`FlowRecord::error`]).
    Finished,
    /// Nothing moved for the idle timeout.
    Idle,
    /// One direction had ended, and the other was silent for too long.
    HalfClosed,
    /// The owner of the relay cut it.
    Cut,
}

/// One of the two channels of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a relay has two sides")]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// How many bytes have been delivered so far.
#[derive(Debug, Default)]
pub struct Progress {
    left_to_right: AtomicU64,
    right_to_left: AtomicU64,
}

impl Progress {
    /// Bytes delivered from left to right.
    pub fn left_to_right(&self) -> u64 {
        self.left_to_right.load(Ordering::Relaxed)
    }

    /// Bytes delivered from right to left.
    pub fn right_to_left(&self) -> u64 {
        self.right_to_left.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, there: u64, back: u64) {
        self.left_to_right.fetch_add(there, Ordering::Relaxed);
        self.right_to_left.fetch_add(back, Ordering::Relaxed);
    }
}
