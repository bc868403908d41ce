//! What a caller waits for, and what it is told.

use bitflags::bitflags;

bitflags! {
    /// The conditions a caller asks a channel for.
    ///
    /// QEMU's `G_IO_IN` and `G_IO_OUT` as an argument. Hang-up and errors are never asked for:
    /// they are always reported (see [`Readiness`]).
    ///
    /// The bits are those of poll(2), so that a leg costs no translation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Interest: u8 {
        /// A read would not block: there is data, the end of the stream, or an error to fetch.
        const READ = 1;
        /// A write would not block: there is room, or an error to fetch.
        const WRITE = 4;
    }
}

bitflags! {
    /// The conditions that hold.
    ///
    /// Readiness is a hint to try: another reader may have been faster, and the attempt may still
    /// would-block. Its absence is not a hint: a channel that would not block is always reported.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Readiness: u8 {
        /// A read would not block.
        const READ = 1;
        /// A write would not block.
        const WRITE = 4;
        /// The peer is gone, or the channel was closed. Data that came before may still be read.
        const HANGUP = 16;
        /// An error waits to be fetched by the next read or write.
        const ERROR = 8;
    }
}

impl Interest {
    /// The directions of which one wants to know.
    pub fn directions(self) -> impl Iterator<Item = Direction> {
        [Direction::Read, Direction::Write]
            .into_iter()
            .filter(move |&direction| self.contains(direction.into()))
    }
}

impl From<Interest> for Readiness {
    /// The readiness that says exactly what was asked for.
    fn from(interest: Interest) -> Self {
        Self::from_bits_retain(interest.bits())
    }
}

/// One of the two ways bytes go through a channel, seen from its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a channel has two directions")]
pub enum Direction {
    /// From the channel to its user.
    Read,
    /// From the user into the channel.
    Write,
}

impl From<Direction> for Interest {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Read => Self::READ,
            Direction::Write => Self::WRITE,
        }
    }
}
