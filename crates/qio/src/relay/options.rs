//! How a relay behaves.

use std::time::Duration;

use super::Side;
use crate::layer::Framing;

/// How a relay behaves. The defaults suit a proxy for anything.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RelayOptions {
    /// Ends the relay when nothing moved in either direction for so long. Default: never.
    pub idle_timeout: Option<Duration>,
    /// What the end of one direction means for the other.
    pub half_close: HalfClose,
    /// Whether descriptors that arrive on one side are sent on with their bytes, where both sides
    /// can. Default: no; they are closed and counted.
    pub pass_fds: bool,
    /// Whether bulk data may move with splice(2). Default: yes.
    pub splice: bool,
    /// The side whose end of stream ends the relay at once, once it was passed on. Default: none.
    ///
    /// For a person at a terminal, who has nothing to say to a connection that has ended.
    pub ends_with: Option<Side>,
    /// How messages are told apart in a stream that is joined to a channel with
    /// [`Features::MESSAGES`](crate::Features::MESSAGES); between two of the same kind nothing is
    /// done. Default: not at all, and such a relay ends with an error before anything moves.
    pub framing: Option<Framing>,
}

/// What the end of one direction means for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HalfClose {
    /// The other goes on until it ends, or until nothing has moved for `limit`.
    Propagate {
        /// How long the other direction may be silent; `None` is for ever.
        limit: Option<Duration>,
    },
    /// The other may go on while it moves, and is cut when it was silent for `grace`.
    Close {
        /// How long the other direction may be silent.
        grace: Duration,
    },
}

impl HalfClose {
    /// How long half-closed silence lasts by default: ten minutes, so that a server may think for
    /// long about its answer, and a client that will never read it does not stay for ever.
    pub const DEFAULT_LIMIT: Duration = Duration::from_secs(600);
}

impl Default for HalfClose {
    fn default() -> Self {
        Self::Propagate { limit: Some(Self::DEFAULT_LIMIT) }
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            idle_timeout: None,
            half_close: HalfClose::default(),
            pass_fds: false,
            splice: true,
            ends_with: None,
            framing: None,
        }
    }
}

impl RelayOptions {
    /// Sets [`idle_timeout`](RelayOptions::idle_timeout).
    #[must_use]
    pub fn idle_timeout(mut self, limit: Option<Duration>) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Sets [`half_close`](RelayOptions::half_close).
    #[must_use]
    pub fn half_close(mut self, half_close: HalfClose) -> Self {
        self.half_close = half_close;
        self
    }

    /// Sets [`pass_fds`](RelayOptions::pass_fds).
    #[must_use]
    pub fn pass_fds(mut self, pass: bool) -> Self {
        self.pass_fds = pass;
        self
    }

    /// Sets [`ends_with`](RelayOptions::ends_with).
    #[must_use]
    pub fn ends_with(mut self, side: Option<Side>) -> Self {
        self.ends_with = side;
        self
    }

    /// Sets [`framing`](RelayOptions::framing).
    #[must_use]
    pub fn framing(mut self, framing: Option<Framing>) -> Self {
        self.framing = framing;
        self
    }

    /// Sets [`splice`](RelayOptions::splice).
    #[must_use]
    pub fn splice(mut self, splice: bool) -> Self {
        self.splice = splice;
        self
    }
}
