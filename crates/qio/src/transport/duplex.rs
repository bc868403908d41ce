//! Two channels in memory, joined back to back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Result};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::channel::{Base, Channel, Features, ReadFlags, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{Event, PollSet, closed};

/// How many bytes a direction holds when nothing else is said: what a Linux pipe holds.
pub const DUPLEX_LIMIT_BYTES: usize = 64 * 1024;

/// One end of a pair in memory: what one end writes, the other reads.
///
/// Behaves like a connected socket, without descriptors to pass: bounded, with half-close,
/// shutdown and peek. No descriptor is used until somebody has to wait.
///
/// ```
/// use qio::{ChannelExt, transport::Duplex};
///
/// # fn main() -> std::io::Result<()> {
/// let (client, server) = Duplex::pair();
/// client.write_all(b"ping")?;
/// let mut text = [0; 4];
/// server.read_exact(&mut text)?;
/// server.write_all(b"pong")?;
/// drop(server);
/// client.read_exact(&mut text)?;
/// assert_eq!(&text, b"pong");
/// assert_eq!(client.read(&mut text)?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Duplex {
    base: Base,
    incoming: Arc<Flow>,
    outgoing: Arc<Flow>,
}

impl Duplex {
    /// Two connected ends that hold up to [`DUPLEX_LIMIT_BYTES`] in each direction.
    pub fn pair() -> (Self, Self) {
        Self::pair_with_limit(DUPLEX_LIMIT_BYTES)
    }

    /// Two connected ends that hold up to `limit_bytes` (at least one) in each direction.
    pub fn pair_with_limit(limit_bytes: usize) -> (Self, Self) {
        let (a, b) = (Arc::new(Flow::new(limit_bytes)), Arc::new(Flow::new(limit_bytes)));
        (Self::new("memory", Arc::clone(&a), Arc::clone(&b)), Self::new("memory", b, a))
    }

    /// One end that reads what it wrote, holding up to [`DUPLEX_LIMIT_BYTES`] in between.
    ///
    /// [`finish`](Channel::finish) is the end of the stream that it reads.
    pub fn echo() -> Self {
        let flow = Arc::new(Flow::new(DUPLEX_LIMIT_BYTES));
        Self::new("echo", Arc::clone(&flow), flow)
    }

    fn new(kind: &'static str, incoming: Arc<Flow>, outgoing: Arc<Flow>) -> Self {
        let features = Features::DUPLEX | Features::SHUTDOWN | Features::PEEK;
        Self { base: Base::new(kind, features), incoming, outgoing }
    }
}

impl Channel for Duplex {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.incoming.read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.outgoing.write(op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if interest.is_empty() {
            return self.outgoing.watch_hangup(set);
        }
        let mut ready = Readiness::empty();
        if interest.contains(Interest::READ) {
            ready |= self.incoming.watch_reading(set);
        }
        if interest.contains(Interest::WRITE) {
            ready |= self.outgoing.watch_writing(set);
        }
        ready
    }

    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        self.incoming.watch_more(seen, set)
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        // An end closed from here is an error here, and for the peer the end of what was sent.
        let close_reader = |state: &mut State| {
            state.reader_closed = true;
            state.bytes = VecDeque::new();
        };
        let close_writer = |state: &mut State| {
            state.finished = true;
            state.writer_closed = true;
        };
        if Arc::ptr_eq(&self.incoming, &self.outgoing) {
            // In one change, or who wakes in between finds one half closed and tells the other's.
            self.incoming.change(|state| {
                close_reader(state);
                close_writer(state);
            });
        } else {
            self.incoming.change(close_reader);
            self.outgoing.change(close_writer);
        }
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        if how != Shutdown::Write {
            self.incoming.change(|state| {
                state.shut = true;
                state.bytes = VecDeque::new();
            });
        }
        if how != Shutdown::Read {
            self.outgoing.change(|state| state.finished = true);
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        if self.outgoing.lock().writer_closed {
            return Err(closed());
        }
        self.outgoing.change(|state| state.finished = true);
        Ok(())
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        // In memory, closing cannot fail.
        let _ = self.close();
    }
}

/// One direction.
#[derive(Debug)]
struct Flow {
    limit: usize,
    state: Mutex<State>,
    /// Raised while a read would not block, as far as somebody waits for it.
    readable: Event,
    /// The same for a write.
    writable: Event,
    /// Raised when more has come, or the end, as far as somebody waits for that.
    more: Event,
    /// Raised when nobody will read any more.
    gone: Event,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The writer has sent its last byte.
    finished: bool,
    /// The reader wants no more.
    shut: bool,
    reader_closed: bool,
    writer_closed: bool,
    /// Somebody waits for more than there is.
    more_wanted: bool,
}

impl Flow {
    fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Mutex::default(),
            readable: Event::new(),
            writable: Event::new(),
            more: Event::new(),
            gone: Event::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let mut state = self.lock();
        if state.reader_closed {
            return Err(closed());
        }
        if state.bytes.is_empty() {
            let ended = state.finished || state.shut;
            return if ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let peek = op.flags().contains(ReadFlags::PEEK);
        let done = copy_out(&state.bytes, op);
        if !peek {
            state.bytes.drain(..done);
            self.announce(&mut state);
        }
        Ok(done)
    }

    fn write(&self, op: &WriteOp<'_, '_>) -> Result<usize> {
        let mut state = self.lock();
        if state.writer_closed {
            return Err(closed());
        }
        if state.finished || state.shut || state.reader_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut done = 0;
        for buf in op.bufs() {
            let room = self.limit - state.bytes.len();
            let part = &buf[..buf.len().min(room)];
            state.bytes.extend(part);
            done += part.len();
        }
        if done == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.announce(&mut state);
        Ok(done)
    }

    fn watch_reading(&self, set: &mut PollSet) -> Readiness {
        let state = self.lock();
        if self.is_readable(&state) {
            return Readiness::READ | state.hangup();
        }
        self.readable.lower();
        self.readable.watch(Interest::READ, set);
        Readiness::empty()
    }

    fn watch_writing(&self, set: &mut PollSet) -> Readiness {
        let state = self.lock();
        if self.is_writable(&state) {
            return Readiness::WRITE | state.hangup();
        }
        self.writable.lower();
        self.writable.watch(Interest::WRITE, set);
        Readiness::empty()
    }

    fn watch_hangup(&self, set: &mut PollSet) -> Readiness {
        if self.lock().is_unread() {
            return Readiness::HANGUP;
        }
        self.gone.watch(Interest::empty(), set);
        Readiness::empty()
    }

    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        let mut state = self.lock();
        let mut known = state.hangup();
        known.set(Readiness::READ, state.bytes.len() > seen);
        if known.is_empty() {
            state.more_wanted = true;
            self.more.lower();
            self.more.watch(Interest::READ, set);
        }
        known
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.announce(&mut state);
    }

    /// Wakes whom the new state concerns; nobody looks at a level that nobody waits on.
    fn announce(&self, state: &mut State) {
        if self.is_readable(state) {
            self.readable.raise();
        }
        if self.is_writable(state) {
            self.writable.raise();
        }
        if std::mem::take(&mut state.more_wanted) {
            self.more.raise();
        }
        if state.is_unread() {
            self.gone.raise();
        }
    }

    fn is_readable(&self, state: &State) -> bool {
        !state.bytes.is_empty() || state.finished || state.shut || state.reader_closed
    }

    fn is_writable(&self, state: &State) -> bool {
        state.bytes.len() < self.limit || state.finished || state.shut || state.reader_closed
    }
}

impl State {
    /// Whether nobody will read what is written.
    fn is_unread(&self) -> bool {
        self.shut || self.reader_closed
    }

    fn hangup(&self) -> Readiness {
        let gone = self.finished || self.shut || self.reader_closed;
        if gone { Readiness::HANGUP } else { Readiness::empty() }
    }
}

fn copy_out(bytes: &VecDeque<u8>, op: &mut ReadOp<'_, '_>) -> usize {
    let (mut front, mut back) = bytes.as_slices();
    let mut done = 0;
    for buf in op.bufs() {
        let mut room = &mut buf[..];
        while !room.is_empty() {
            if front.is_empty() {
                (front, back) = (back, &[]);
            }
            if front.is_empty() {
                return done;
            }
            let n = room.len().min(front.len());
            room[..n].copy_from_slice(&front[..n]);
            room = &mut room[n..];
            front = &front[n..];
            done += n;
        }
    }
    done
}
