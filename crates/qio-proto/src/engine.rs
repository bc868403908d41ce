//! What the owner of a connection and a protocol say to each other.

use alloc::vec::Vec;
use core::error::Error;
use core::time::Duration;

/// A point in time: what has passed since a moment that the owner of an engine has chosen.
pub type Time = Duration;

/// A protocol after its handshake, without input or output.
///
/// Between the wire and the user stands an owner (a pump) that keeps the bytes of the wire and
/// calls the engine:
///
/// - inwards: [`handle_wire`](Engine::handle_wire) with what has come, until it makes no progress;
/// - outwards: [`handle_plain`](Engine::handle_plain), [`give_pieces`](Engine::give_pieces) or
///   [`frame`](Engine::frame) with what the user writes, and [`poll_wire`](Engine::poll_wire) for what the protocol itself has to say.
///
/// # Contract
///
/// - **Bounded.** An engine keeps a bounded number of bytes, whatever the peer sends. What it
///   does not consume stays with the owner, who offers it again.
/// - **Whole pieces.** What goes out is written in whole frames or records: once a part is
///   written, the plain bytes of the whole piece are consumed. The owner sends the rest of a
///   piece before anything else.
/// - **Errors are final.** After an error, only [`poll_wire`](Engine::poll_wire) makes sense: the
///   engine may have something to say about it to the peer.
pub trait Engine: Send {
    /// What can be wrong with the peer; it is told again at every further call.
    type Error: Error + Clone + Send + Sync + 'static;

    /// Takes bytes of the wire from the front of `wire`, and gives plain bytes.
    ///
    /// `wire` may be changed in place, also where it is not consumed; what is not consumed must be
    /// the front of `wire` the next time, unchanged. With an empty `plain`, everything is handled
    /// that comes before the next plain byte.
    ///
    /// No progress at all, with room in `plain`, means that more of the wire is needed than there
    /// is.
    fn handle_wire(&mut self, wire: &mut [u8], plain: &mut [u8]) -> Result<Progress, Self::Error>;

    /// Whether [`handle_wire`](Engine::handle_wire) would give a plain byte, or an error, when
    /// offered the rest of the wire. Asked after a call with an empty `plain`.
    fn is_readable(&self, wire: &[u8]) -> bool;

    /// How much of the wire must be offered at once for progress to be certain: the owner's buffer
    /// has that size.
    fn inbound_bytes(&self) -> usize;

    /// How many bytes that come next on the wire, behind what was offered and consumed, are plain
    /// bytes that only [`transform`](Engine::transform) has to see: the owner may read them
    /// straight into the user's buffers.
    fn passthrough(&self) -> usize {
        0
    }

    /// Turns bytes of the wire into plain bytes, where they are; at most
    /// [`passthrough`](Engine::passthrough).
    fn transform(&mut self, payload: &mut [u8]) {
        let _ = payload;
    }

    /// Whether the peer has said that nothing more comes.
    fn has_ended(&self) -> bool;

    /// Whether the wire may be ended in our direction, once the farewell is out.
    fn may_end_wire(&self) -> bool {
        true
    }

    /// The wire has ended.
    ///
    /// # Errors
    ///
    /// When the protocol asks for a farewell, and there was none.
    fn handle_end(&mut self) -> Result<(), Self::Error>;

    /// Writes what the protocol itself has to say to the front of `wire`, in whole pieces, and
    /// gives their length.
    fn poll_wire(&mut self, wire: &mut [u8]) -> usize;

    /// Whether [`poll_wire`](Engine::poll_wire) has something.
    fn wants_wire(&self) -> bool;

    /// Takes plain bytes from the front of `plain`, and writes what becomes of them to the front
    /// of `wire`, in whole pieces.
    ///
    /// No progress means that `wire` is too small for a piece.
    ///
    /// # Errors
    ///
    /// After a farewell of ours, or after an error.
    fn handle_plain(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<Progress, Self::Error>;

    /// Takes plain bytes from the front of `plain`, as [`handle_plain`](Engine::handle_plain) does,
    /// and gives what becomes of them in memory of its own: for an engine that makes its pieces
    /// there anyway, and would have to copy them. The result is how much was taken; `None` when
    /// nothing was, and [`handle_plain`](Engine::handle_plain) has to be asked.
    ///
    /// At most one piece carries plain bytes. What the protocol has to say before it is given, too,
    /// also where the result is `None` or an error: the owner sends all that was given, in its
    /// order.
    ///
    /// # Errors
    ///
    /// Those of [`handle_plain`](Engine::handle_plain).
    fn give_pieces(
        &mut self,
        plain: &[u8],
        give: &mut dyn FnMut(Vec<u8>),
    ) -> Option<Result<usize, Self::Error>> {
        let _ = (plain, give);
        None
    }

    /// The header of a piece that carries up to `len` plain bytes as they are; `None` when the
    /// protocol has to see them ([`handle_plain`](Engine::handle_plain)).
    ///
    /// Whoever sends a part of the piece must send all of it.
    fn frame(&self, len: usize) -> Option<Frame> {
        let _ = len;
        None
    }

    /// Ends our side: a farewell goes out through [`poll_wire`](Engine::poll_wire), and no plain
    /// bytes after it. Idempotent.
    fn finish(&mut self);

    /// When [`handle_time`](Engine::handle_time) wants to be called.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Something has come that was not offered yet, because the user does not read: the peer is
    /// there.
    fn handle_arrival(&mut self) {}

    /// Tells the time: once at the start, and when [`deadline`](Engine::deadline) has come.
    ///
    /// # Errors
    ///
    /// When the peer had to answer by now.
    fn handle_time(&mut self, now: Time) -> Result<(), Self::Error> {
        let _ = now;
        Ok(())
    }
}

/// What comes before a protocol can carry plain bytes.
///
/// The owner offers what has come to [`handle_wire`](Handshake::handle_wire), sends what
/// [`poll_wire`](Handshake::poll_wire) gives, and takes the engine when
/// [`is_done`](Handshake::is_done) and all is sent. After an error it sends what there still is
/// (the reason, for the peer), and gives up.
pub trait Handshake: Send {
    /// The protocol after the handshake.
    type Engine: Engine;
    /// Why there is none.
    type Error: Error + Send + Sync + 'static;

    /// Takes bytes of the wire from the front of `wire`, and gives how many.
    ///
    /// What is not consumed is offered again, with more behind it. What follows the handshake is
    /// left to the engine.
    fn handle_wire(&mut self, wire: &mut [u8]) -> Result<usize, Self::Error>;

    /// How much of the wire may have to be kept for one call: more is a peer that never ends.
    fn limit_bytes(&self) -> usize;

    /// The wire has ended before the handshake has.
    fn handle_end(&mut self) -> Self::Error;

    /// Writes what has to be sent to the front of `wire`, as far as it fits.
    fn poll_wire(&mut self, wire: &mut [u8]) -> usize;

    /// Whether [`poll_wire`](Handshake::poll_wire) has something.
    fn wants_wire(&self) -> bool;

    /// Whether the peer has agreed to everything.
    fn is_done(&self) -> bool;

    /// The engine of a handshake that [is done](Handshake::is_done).
    fn into_engine(self) -> Self::Engine;
}

/// What one call has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "complete by nature")]
pub struct Progress {
    /// Bytes that were taken from the front of the input.
    pub consumed: usize,
    /// Bytes that were written to the front of the output.
    pub produced: usize,
}

/// The longest header of a [`Frame`]: that of WebSocket, RFC 6455, section 5.2.
pub const MAX_FRAME_HEADER: usize = 14;

/// A header, and how many plain bytes follow it as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    header: [u8; MAX_FRAME_HEADER],
    header_len: u8,
    payload_len: usize,
}

impl Frame {
    pub(crate) fn new(header: &[u8], payload_len: usize) -> Self {
        let mut frame = Self { header: [0; MAX_FRAME_HEADER], header_len: 0, payload_len };
        for (to, from) in frame.header.iter_mut().zip(header) {
            *to = *from;
            frame.header_len += 1;
        }
        frame
    }

    /// What goes before the plain bytes.
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// How many plain bytes follow.
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }
}
