//! From the channel below to the user.

use std::io::{Error, ErrorKind, IoSliceMut, Result};

use qio_proto::{Engine, Progress};
use smallvec::SmallVec;

use super::store::Buffer;
use super::sync::{Mutex, lock};
use crate::channel::{Channel, ChannelExt, ReadFlags};

/// The bytes of the wire that the engine has not consumed, and how the stream stands.
#[derive(Debug)]
pub(super) struct Inwards {
    wire: Option<Buffer>,
    start: usize,
    end: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// The peer has said farewell.
    Ended,
    /// The wire ended without one: an end for those who asked for a relaxed one.
    Truncated(Failure),
    Failed(Failure),
    Closed,
}

/// What a read would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Plain bytes, an end or an error.
    Plain,
    /// What comes from below, as it comes.
    Passes,
    /// Nothing, before more of the wire was looked at.
    Wire,
}

/// An error that is told to everybody who asks.
#[derive(Debug)]
pub(super) struct Failure {
    kind: ErrorKind,
    text: String,
    /// With the protocol's own error inside, for who is told first: it cannot be copied.
    first: Option<Error>,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        Self { kind, text: error.to_string(), first: None }
    }

    fn typed(kind: ErrorKind, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let text = error.to_string();
        Self { kind, text, first: Some(Error::new(kind, error)) }
    }

    fn error(&mut self) -> Error {
        self.first.take().unwrap_or_else(|| self.repeated())
    }

    /// The same, for who needs no more than the words.
    pub(super) fn repeated(&self) -> Error {
        Error::new(self.kind, self.text.clone())
    }
}

impl Inwards {
    /// With bytes of the wire that came behind the handshake.
    pub(super) fn new(rest: &[u8]) -> Self {
        let wire = (!rest.is_empty()).then(|| {
            let mut wire = Buffer::take(rest.len());
            wire.copy_from_slice(rest);
            wire
        });
        Self { wire, start: 0, end: rest.len(), state: State::Open }
    }

    /// Reads once: what is here, else what comes from below without waiting.
    pub(super) fn read<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &mut [IoSliceMut<'_>],
        relaxed: bool,
    ) -> Result<usize> {
        loop {
            let (done, through, size) = {
                let engine = &mut *lock(engine);
                let done = self.take(engine, bufs, 0);
                (done, self.passthrough(engine), engine.inbound_bytes())
            };
            if done > 0 {
                return Ok(done);
            }
            match &mut self.state {
                State::Open => {}
                State::Ended => return Ok(0),
                State::Truncated(_) if relaxed => return Ok(0),
                State::Truncated(failure) | State::Failed(failure) => return Err(failure.error()),
                State::Closed => return Err(ErrorKind::NotConnected.into()),
            }
            if through == 0 {
                self.fill(below, engine, size)?;
                continue;
            }
            let done = self.read_through(below, engine, bufs, through, size)?;
            if done > 0 {
                return Ok(done);
            }
        }
    }

    /// What a read would find; takes from below before that if `looks`, until there is something.
    pub(super) fn look<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        looks: bool,
    ) -> Outlook {
        loop {
            let size = {
                let engine = &mut *lock(engine);
                // What comes before the next plain byte may be all there is.
                self.settle(engine);
                if !matches!(self.state, State::Open) || engine.is_readable(self.rest()) {
                    return Outlook::Plain;
                }
                if self.passthrough(engine) > 0 {
                    return Outlook::Passes;
                }
                engine.inbound_bytes()
            };
            // What is wrong is told by the next read.
            if looks {
                match self.fill(below, engine, size) {
                    Ok(()) => continue,
                    Err(error) => {
                        if let State::Failed(failure) = &mut self.state {
                            failure.first = Some(error);
                        }
                    }
                }
            }
            return match self.state {
                State::Open => Outlook::Wire,
                _ => Outlook::Plain,
            };
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if matches!(self.state, State::Open) {
            self.state = State::Failed(failure);
        }
    }

    /// Reads give the end from here on.
    pub(super) fn shut(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Ended;
        }
        self.release();
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.release();
    }

    fn rest(&self) -> &[u8] {
        self.wire.as_deref().map_or(&[], |wire| &wire[self.start..self.end])
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn release(&mut self) {
        self.wire = None;
        (self.start, self.end) = (0, 0);
    }

    /// How many plain bytes are next in the channel below.
    fn passthrough<E: Engine>(&self, engine: &E) -> usize {
        match self.state {
            State::Open if self.is_empty() => engine.passthrough(),
            _ => 0,
        }
    }

    /// Has the engine handle what comes before the next plain byte.
    fn settle<E: Engine>(&mut self, engine: &mut E) {
        if matches!(self.state, State::Open) {
            while self.work(engine, &mut []).consumed > 0 {}
            self.tidy(engine);
        }
    }

    /// Has the engine work on what is here, and gives the plain bytes, which go behind the first
    /// `done` bytes of `bufs`.
    fn take<E: Engine>(
        &mut self,
        engine: &mut E,
        bufs: &mut [IoSliceMut<'_>],
        mut done: usize,
    ) -> usize {
        if !matches!(self.state, State::Open) {
            return done;
        }
        let mut skip = done;
        'bufs: for buf in bufs {
            let before = skip.min(buf.len());
            skip -= before;
            let mut room = &mut buf[before..];
            while !room.is_empty() {
                let moved = self.work(engine, room);
                done += moved.produced;
                room = &mut room[moved.produced..];
                if moved == Progress::default() {
                    break 'bufs;
                }
            }
        }
        self.tidy(engine);
        done
    }

    /// One call of the engine.
    fn work<E: Engine>(&mut self, engine: &mut E, room: &mut [u8]) -> Progress {
        let wire = self.wire.as_deref_mut().unwrap_or_default();
        match engine.handle_wire(&mut wire[self.start..self.end], room) {
            Ok(moved) => {
                self.start += moved.consumed;
                moved
            }
            Err(error) => {
                self.state = State::Failed(Failure::typed(ErrorKind::InvalidData, error));
                Progress::default()
            }
        }
    }

    fn tidy<E: Engine>(&mut self, engine: &E) {
        if matches!(self.state, State::Open) && engine.has_ended() {
            self.state = State::Ended;
        }
        if self.is_empty() || matches!(self.state, State::Ended) {
            self.release();
        }
    }

    /// Reads more of the wire, into a buffer of `size` bytes.
    fn fill<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        size: usize,
    ) -> Result<()> {
        let room = self.make_room(size)?;
        match below.read_with(&mut [IoSliceMut::new(room)], ReadFlags::NONBLOCK, None) {
            Ok(0) => self.end_wire(engine),
            Ok(count) => self.end += count,
            Err(error) => return Err(self.note(error)),
        }
        Ok(())
    }

    /// Reads payload straight into the user's buffers, and what may follow it into ours.
    fn read_through<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &mut [IoSliceMut<'_>],
        through: usize,
        size: usize,
    ) -> Result<usize> {
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let payload = through.min(room);
        let mut rest = (room > through).then(|| Buffer::take(size));
        let result = {
            let mut targets: SmallVec<[IoSliceMut<'_>; 8]> = SmallVec::new();
            let mut left = payload;
            for buf in bufs.iter_mut() {
                let len = left.min(buf.len());
                if len > 0 {
                    targets.push(IoSliceMut::new(&mut buf[..len]));
                }
                left -= len;
            }
            if let Some(rest) = &mut rest {
                targets.push(IoSliceMut::new(rest));
            }
            below.read_with(&mut targets, ReadFlags::NONBLOCK, None)
        };
        let count = match result.map_err(|error| self.note(error))? {
            0 => {
                self.end_wire(engine);
                return Ok(0);
            }
            count => count,
        };
        let mut left = count.min(payload);
        {
            let mut engine = lock(engine);
            for buf in bufs.iter_mut() {
                let len = left.min(buf.len());
                engine.transform(&mut buf[..len]);
                left -= len;
            }
        }
        if count <= payload {
            return Ok(count);
        }
        (self.wire, self.start, self.end) = (rest, 0, count - payload);
        Ok(self.take(&mut *lock(engine), bufs, payload))
    }

    /// Remembers an error of the channel below: who waits must see that a read has something to say.
    fn note(&mut self, error: Error) -> Error {
        if error.kind() != ErrorKind::WouldBlock {
            self.state = State::Failed(Failure::new(error.kind(), &error));
        } else if !self.is_empty() {
            return error;
        }
        self.release();
        error
    }

    fn end_wire<E: Engine>(&mut self, engine: &Mutex<E>) {
        self.state = match lock(engine).handle_end() {
            Ok(()) => State::Ended,
            Err(error) => State::Truncated(Failure::typed(ErrorKind::UnexpectedEof, error)),
        };
        self.release();
    }

    /// Room behind what is here, in a buffer of at least `size` bytes.
    fn make_room(&mut self, size: usize) -> Result<&mut [u8]> {
        let kept = self.start..self.end;
        let needs_other = self.wire.as_ref().is_none_or(|wire| wire.len() < size);
        if needs_other {
            let mut other = Buffer::take(size.max(kept.len() + 1));
            if let Some(wire) = &self.wire {
                other[..kept.len()].copy_from_slice(&wire[kept.clone()]);
            }
            (self.wire, self.start, self.end) = (Some(other), 0, kept.len());
        } else if let Some(wire) = &mut self.wire
            && kept.end == wire.len()
        {
            if kept.start == 0 {
                let text = "the peer sends a piece that is longer than the protocol allows";
                self.state = State::Failed(Failure::new(
                    ErrorKind::InvalidData,
                    &Error::new(ErrorKind::InvalidData, text),
                ));
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
            wire.copy_within(kept.clone(), 0);
            (self.start, self.end) = (0, kept.len());
        }
        let end = self.end;
        Ok(self.wire.as_deref_mut().map_or(&mut [], |wire| &mut wire[end..]))
    }
}
