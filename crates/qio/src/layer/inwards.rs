//! From the channel below to the user.

use std::io::{Error, ErrorKind, IoSliceMut, Result};

use qio_proto::{Engine, Progress};
use smallvec::SmallVec;

use super::failure::Failure;
use super::store::Buffer;
use super::sync::{Mutex, lock};
use crate::channel::{Channel, ChannelExt, Features, ReadFlags};

/// The bytes of the wire that the engine has not consumed, and how the stream stands.
#[derive(Debug)]
pub(super) struct Inwards {
    wire: Option<Buffer>,
    start: usize,
    end: usize,
    state: State,
    /// The last read below has taken all there was.
    drained: bool,
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

/// How to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// A wire that ends without a farewell is an end.
    pub(super) relaxed: bool,
    /// After a would-block the caller waits with poll(2), which knows of everything that came.
    pub(super) waits: bool,
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

impl Inwards {
    /// With bytes of the wire that came behind the handshake.
    pub(super) fn new(rest: &[u8]) -> Self {
        let wire = (!rest.is_empty()).then(|| Buffer::hold(rest.to_vec()));
        Self { wire, start: 0, end: rest.len(), state: State::Open, drained: false }
    }

    /// Reads once: what is here, and what comes from below without waiting.
    ///
    /// Below is asked until it has no more when the caller counts on that, else until there is
    /// something.
    pub(super) fn read<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &mut [IoSliceMut<'_>],
        how: How,
    ) -> Result<usize> {
        let drains = !how.waits && below.features().contains(Features::DRAINS);
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut done = 0;
        let mut is_over = !drains;
        loop {
            let (through, size) = {
                let engine = &mut *lock(engine);
                done = self.take(engine, bufs, done);
                (self.passthrough(engine), engine.inbound_bytes())
            };
            if done == room || (done > 0 && is_over) {
                return Ok(done);
            }
            match &self.state {
                State::Open => {}
                // What is wrong is told by the next read.
                _ if done > 0 => return Ok(done),
                State::Ended => return Ok(0),
                State::Truncated(_) if how.relaxed => return Ok(0),
                State::Truncated(failure) | State::Failed(failure) => return Err(failure.error()),
                State::Closed => return Err(ErrorKind::NotConnected.into()),
            }
            // Who waits with poll(2) does so without another look at what is empty.
            if how.waits && std::mem::take(&mut self.drained) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let result = match through {
                0 => self.fill(below, engine, size),
                through => {
                    self.read_through(below, engine, bufs, done, through, size).map(|more| {
                        done += more;
                    })
                }
            };
            match result {
                Ok(()) => is_over |= self.drained,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
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
                if self.holds_plain(engine) {
                    return Outlook::Plain;
                }
                if self.passthrough(engine) > 0 {
                    return Outlook::Passes;
                }
                engine.inbound_bytes()
            };
            // What is wrong is told by the next read.
            if looks && self.fill(below, engine, size).is_ok() {
                continue;
            }
            return match self.state {
                State::Open => Outlook::Wire,
                _ => Outlook::Plain,
            };
        }
    }

    /// Whether plain bytes, an end or an error are here already.
    pub(super) fn has_plain<E: Engine>(&mut self, engine: &Mutex<E>) -> bool {
        self.holds_plain(&mut *lock(engine))
    }

    fn holds_plain<E: Engine>(&mut self, engine: &mut E) -> bool {
        // What comes before the next plain byte may be all there is.
        self.settle(engine);
        !matches!(self.state, State::Open) || engine.is_readable(self.rest())
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
                self.state = State::Failed(Failure::new(ErrorKind::InvalidData, error));
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
        let len = room.len();
        match below.read_with(&mut [IoSliceMut::new(room)], ReadFlags::NONBLOCK, None) {
            Ok(0) => self.end_wire(engine),
            Ok(count) => {
                self.end += count;
                self.note_count(below, count, len);
            }
            Err(error) => return Err(self.note(error)),
        }
        Ok(())
    }

    /// Reads payload straight into the user's buffers, behind the first `done` bytes, and what may
    /// follow it into ours. Gives how much of the former.
    fn read_through<C: Channel, E: Engine>(
        &mut self,
        below: &C,
        engine: &Mutex<E>,
        bufs: &mut [IoSliceMut<'_>],
        done: usize,
        through: usize,
        size: usize,
    ) -> Result<usize> {
        let room = bufs.iter().map(|buf| buf.len()).sum::<usize>() - done;
        let payload = through.min(room);
        let mut rest = (room >= through).then(|| Buffer::take(size));
        let asked = payload + rest.as_ref().map_or(0, |rest| rest.len());
        let result = {
            let mut targets: SmallVec<[IoSliceMut<'_>; 8]> = SmallVec::new();
            for_each_part(bufs, done, payload, |part| targets.push(IoSliceMut::new(part)));
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
        self.note_count(below, count, asked);
        let plain = count.min(payload);
        {
            let mut engine = lock(engine);
            for_each_part(bufs, done, plain, |part| engine.transform(part));
        }
        if count > payload {
            (self.wire, self.start, self.end) = (rest, 0, count - payload);
        }
        Ok(plain)
    }

    fn note_count<C: Channel>(&mut self, below: &C, count: usize, asked: usize) {
        self.drained = count < asked && below.features().contains(Features::DRAINS);
    }

    /// Remembers an error of the channel below: who waits must see that a read has something to say.
    fn note(&mut self, error: Error) -> Error {
        if error.kind() == ErrorKind::WouldBlock {
            if self.is_empty() {
                self.release();
            } else {
                self.park();
            }
            return error;
        }
        let (failure, error) = Failure::below(error.kind(), error);
        self.state = State::Failed(failure);
        self.release();
        error
    }

    /// Keeps no more memory than what waits needs.
    fn park(&mut self) {
        let waiting = self.rest();
        if self.wire.as_ref().is_some_and(|wire| waiting.len() < wire.len() / 2) {
            let parked = Buffer::hold(waiting.to_vec());
            (self.start, self.end) = (0, parked.len());
            self.wire = Some(parked);
        }
    }

    fn end_wire<E: Engine>(&mut self, engine: &Mutex<E>) {
        self.state = match lock(engine).handle_end() {
            Ok(()) => State::Ended,
            Err(error) => State::Truncated(Failure::new(ErrorKind::UnexpectedEof, error)),
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
                let error = Error::new(ErrorKind::InvalidData, text);
                let (failure, error) = Failure::below(ErrorKind::InvalidData, error);
                self.state = State::Failed(failure);
                return Err(error);
            }
            wire.copy_within(kept.clone(), 0);
            (self.start, self.end) = (0, kept.len());
        }
        let end = self.end;
        Ok(self.wire.as_deref_mut().map_or(&mut [], |wire| &mut wire[end..]))
    }
}

/// The parts of the buffers that hold `len` bytes behind the first `skip`.
fn for_each_part<'a>(
    bufs: &'a mut [IoSliceMut<'_>],
    mut skip: usize,
    mut len: usize,
    mut work: impl FnMut(&'a mut [u8]),
) {
    for buf in bufs {
        let before = skip.min(buf.len());
        skip -= before;
        let part = &mut buf[before..];
        let here = len.min(part.len());
        if here > 0 {
            work(&mut part[..here]);
        }
        len -= here;
    }
}
