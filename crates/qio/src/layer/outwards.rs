//! From the user to the channel below.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, Result};

use qio_proto::{Engine, Frame};
use smallvec::SmallVec;

use super::failure::Failure;
use super::store::Buffer;
use super::sync::{Mutex, lock};
use super::waiting::{PARTS, Waiting};
use crate::channel::{Channel, ChannelExt, WriteFlags};

/// What was accepted, or is owed, and is not out yet.
#[derive(Debug, Default)]
pub(super) struct Outwards {
    waiting: Waiting,
    failed: Option<Failure>,
    /// The farewell was asked for.
    finished: bool,
}

/// Bytes that a channel had accepted, and that were not sent when it was closed: the source of the
/// error of `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotSent {
    /// How many bytes of the wire.
    pub bytes: usize,
}

/// How many plain bytes are sent as one piece when they leave as they are: if the channel below
/// takes a part of a piece, the rest waits here.
const PIECE_BYTES: usize = 8 * 1024;

/// How many pieces go out in one call.
const PIECES: usize = 16;

/// What is encoded at once: four records of TLS with their headers.
const WIRE_BYTES: usize = 4 * (16 * 1024 + 256);

/// Buffers below this size are put together before they are encoded.
const SMALL: usize = 4 * 1024;

/// How much is put together: what a record of TLS holds.
const GATHER_BYTES: usize = 16 * 1024;

impl Outwards {
    /// Writes once: what waits goes first, and then as much of `bufs` as can be accepted.
    pub(super) fn write<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &[IoSlice<'_>],
    ) -> Result<usize> {
        self.check()?;
        self.flush(below, engine)?;
        let len = bufs.first().map_or(0, |buf| buf.len());
        let as_it_is = lock(engine).frame(len.min(PIECE_BYTES)).is_some();
        let result = if as_it_is {
            self.send(below, engine, bufs)
        } else {
            self.encode(below, engine, bufs)
        };
        match result {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                // A piece may have gone out in part: nothing can follow it.
                Err(self.fail_below(error))
            }
            result => result,
        }
    }

    /// Takes nothing any more, and gives up what waits.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed.get_or_insert(failure);
        self.waiting.clear();
    }

    /// The same for an error of the channel below, or of what was to be sent.
    fn fail_below(&mut self, error: Error) -> Error {
        let (failure, error) = Failure::below(ErrorKind::BrokenPipe, error);
        self.fail(failure);
        error
    }

    /// Sends what waits, the engine's own words included.
    pub(super) fn flush<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
    ) -> Result<()> {
        loop {
            self.send_waiting(below)?;
            let mut engine = lock(engine);
            if !engine.wants_wire() {
                return Ok(());
            }
            let mut wire = Buffer::take(CONTROL_BYTES);
            let count = engine.poll_wire(&mut wire);
            if count == 0 {
                return Ok(());
            }
            wire.truncate(count);
            self.waiting.push(wire);
        }
    }

    /// Ends our side.
    pub(super) fn finish<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
    ) -> Result<()> {
        self.finished = true;
        lock(engine).finish();
        match self.flush(below, engine) {
            // Gone already: there is nobody to say farewell to.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        let may_end = lock(engine).may_end_wire();
        // A layer below may have taken the farewell, and hold it: nobody may come back for it.
        if may_end { below.finish() } else { below.flush() }
    }

    /// Whether something waits for room below.
    pub(super) fn is_pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a write would fail.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// One attempt to get rid of what waits, and the end.
    pub(super) fn close<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
    ) -> Result<()> {
        let _ = self.flush(below, engine);
        let bytes = self.waiting.bytes();
        self.failed = Some(Failure::new(ErrorKind::NotConnected, Closed));
        self.waiting.clear();
        match bytes {
            0 => Ok(()),
            bytes => Err(Error::other(NotSent { bytes })),
        }
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(failure) => Err(failure.error()),
            None if self.finished => Err(ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }

    fn send_waiting<C: Channel>(&mut self, below: &C) -> Result<()> {
        match self.waiting.send(below) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(self.fail_below(error)),
            result => result,
        }
    }

    /// Has the engine encode, and sends that.
    fn encode<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &[IoSlice<'_>],
    ) -> Result<usize> {
        let encoded = encode_all(&mut *lock(engine), bufs, &mut self.waiting);
        if encoded.is_err() {
            // The peer is told, if there is room for it.
            let _ = self.flush(below, engine);
        }
        let accepted = encoded?;
        match self.send_waiting(below) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    /// Sends plain bytes as they are, in pieces with headers.
    fn send<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &[IoSlice<'_>],
    ) -> Result<usize> {
        let mut left: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut frames: SmallVec<[Frame; PIECES]> = SmallVec::new();
        {
            let engine = lock(engine);
            while left > 0 && frames.len() < PIECES {
                let Some(frame) = engine.frame(left.min(PIECE_BYTES)) else { break };
                left -= frame.payload_len();
                frames.push(frame);
            }
        }
        let mut parts: SmallVec<[IoSlice<'_>; 2 * PIECES]> = SmallVec::new();
        let mut plain = Plain { bufs, skip: 0 };
        let mut pieces = frames.as_slice();
        for (index, frame) in frames.iter().enumerate() {
            let before = parts.len();
            parts.push(IoSlice::new(frame.header()));
            plain.next(frame.payload_len(), |part| parts.push(IoSlice::new(part)));
            if parts.len() > MAX_PARTS && index > 0 {
                // Too many for one call of the kernel: the piece would be cut in its middle.
                parts.truncate(before);
                pieces = &frames[..index];
                break;
            }
        }
        let mut sent = below.write_with(&parts, WriteFlags::NONBLOCK, &[])?;
        let mut accepted = 0;
        let mut plain = Plain { bufs, skip: 0 };
        for frame in pieces {
            if sent == 0 {
                break;
            }
            accepted += frame.payload_len();
            let size = frame.header().len() + frame.payload_len();
            if sent >= size {
                sent -= size;
                plain.next(frame.payload_len(), |_| ());
                continue;
            }
            // A piece that has begun must be sent to its end.
            let mut rest = Vec::with_capacity(size);
            rest.extend_from_slice(frame.header());
            plain.next(frame.payload_len(), |part| rest.extend_from_slice(part));
            rest.drain(..sent);
            self.waiting.push(Buffer::hold(rest));
            // The channel below may have taken a part for other reasons than want of room.
            match self.send_waiting(below) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => break,
            }
        }
        Ok(accepted)
    }
}

/// Encodes as much as there is room for, small buffers together.
///
/// Into one buffer, where the engine writes to that; what it makes in memory of its own anyway
/// becomes a part of its own.
fn encode_all<E: Engine>(
    engine: &mut E,
    bufs: &[IoSlice<'_>],
    waiting: &mut Waiting,
) -> Result<usize> {
    let mut accepted = 0;
    let mut wire: Option<Wire> = None;
    let mut scratch: Option<Buffer> = None;
    let mut plain = Plain { bufs, skip: 0 };
    let result = loop {
        let piece = match plain.bufs {
            [] => break Ok(()),
            [one, _, ..] if one.len() - plain.skip < SMALL => {
                let scratch = scratch.get_or_insert_with(|| Buffer::take(GATHER_BYTES));
                let mut gathered = 0;
                let mut look = Plain { ..plain };
                look.next(GATHER_BYTES, |part| {
                    scratch[gathered..gathered + part.len()].copy_from_slice(part);
                    gathered += part.len();
                });
                &scratch[..gathered]
            }
            [one, ..] => &one[plain.skip..],
        };
        if piece.is_empty() || waiting.part_count() >= PARTS {
            break Ok(());
        }
        let given = match piece.len() {
            ..SMALL => None,
            _ => engine.give_pieces(piece, &mut |piece| {
                waiting.extend(wire.take().map(Wire::into_buffer));
                waiting.push(Buffer::hold(piece));
            }),
        };
        let consumed = match given {
            Some(consumed) => consumed,
            None => wire.get_or_insert_with(Wire::new).encode(engine, piece),
        };
        match consumed {
            Ok(0) => break Ok(()),
            Ok(consumed) => {
                accepted += consumed;
                plain.next(consumed, |_| ());
            }
            Err(error) => break Err(error),
        }
    };
    waiting.extend(wire.map(Wire::into_buffer));
    match result {
        Err(error) if accepted == 0 => Err(Error::new(ErrorKind::InvalidInput, error)),
        _ => Ok(accepted),
    }
}

/// A buffer that an engine fills.
struct Wire {
    buffer: Buffer,
    end: usize,
}

impl Wire {
    fn new() -> Self {
        Self { buffer: Buffer::take(WIRE_BYTES), end: 0 }
    }

    fn encode<E: Engine>(
        &mut self,
        engine: &mut E,
        plain: &[u8],
    ) -> std::result::Result<usize, E::Error> {
        let moved = engine.handle_plain(plain, &mut self.buffer[self.end..])?;
        self.end += moved.produced;
        Ok(moved.consumed)
    }

    fn into_buffer(mut self) -> Buffer {
        self.buffer.truncate(self.end);
        self.buffer
    }
}

/// The user's buffers, from some byte on.
#[derive(Clone, Copy)]
struct Plain<'a, 'b> {
    bufs: &'a [IoSlice<'b>],
    skip: usize,
}

impl<'a> Plain<'a, '_> {
    /// Goes on by `len` bytes, and gives them in parts.
    fn next(&mut self, mut len: usize, mut give: impl FnMut(&'a [u8])) {
        while let [first, rest @ ..] = self.bufs {
            let here = &first[self.skip..];
            let part = &here[..len.min(here.len())];
            if !part.is_empty() {
                give(part);
            }
            len -= part.len();
            self.skip += part.len();
            if self.skip == first.len() {
                (self.bufs, self.skip) = (rest, 0);
            }
            if len == 0 {
                // Empty buffers are left behind.
                while let [first, rest @ ..] = self.bufs
                    && first.is_empty()
                {
                    self.bufs = rest;
                }
                return;
            }
        }
    }
}

/// Room for the engine's own words: three control frames of WebSocket, or some alerts of TLS.
const CONTROL_BYTES: usize = 1024;

/// How many parts one call of the kernel takes (`UIO_MAXIOV`, readv(2)).
const MAX_PARTS: usize = 1024;

#[derive(Clone, Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the channel is closed")
    }
}

impl StdError for Closed {}

impl fmt::Display for NotSent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes that were accepted were not sent", self.bytes)
    }
}

impl StdError for NotSent {}
