//! One direction of a relay.

mod messages;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::pool::{Buffer, SplicePipe};
use super::{FlowRecord, RelayOptions, Side};
use crate::channel::{
    Channel, ChannelExt, FdSink, Features, MAX_FDS_PER_MESSAGE, ReadFlags, WriteFlags,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::SharedFd;

/// How many bytes one step moves before others get a turn.
const TURN_BYTES: u64 = 2 * 1024 * 1024;

/// How many messages one step moves before others get a turn; they may have no bytes.
const TURN_MESSAGES: u32 = 512;

/// After so many full buffers in a row, traffic counts as bulk.
const BULK_AFTER: u8 = 4;

/// A splice that moved less than this is a small one…
const SMALL_SPLICE: usize = 16 * 1024;

/// …and after so many of them in a row, traffic counts as bulk no more.
const SMALL_LIMIT: u8 = 8;

/// When a read gave less than there was room for, or splice(2) nothing, the source is taken for
/// drained and waited for without another attempt. Urgent data can stop both short of what is there
/// (tcp(7)), so when nothing has come for this long the source is read from once more.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// One direction: reads from a source, writes to a sink.
#[derive(Debug)]
pub(super) struct Flow {
    state: State,
    held: Held,
    /// Where descriptors go; `None` when the source cannot bring any.
    fds: Option<FdSink>,
    pass_fds: bool,
    may_splice: bool,
    /// Both channels keep messages apart.
    messages: bool,
    /// The sink has taken a message, but not got all of it out.
    flushing: bool,
    /// The message that is held was refused once, on account of an earlier one perhaps.
    refused: bool,
    /// Descriptors of messages that were lost.
    fds_lost: u64,
    /// Full buffers in a row while copying, small splices in a row while splicing.
    streak: u8,
    waits_for_source: bool,
    /// Stopped in the middle because others want a turn too.
    yielded: bool,
    second_look: Option<Instant>,
    first_byte: Option<Instant>,
    ended: Option<Ended>,
    record: FlowRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Copying,
    Splicing,
    /// The source has ended; what is held goes out, then the farewell.
    Finishing,
    Done,
}

/// What was read and not written yet.
#[derive(Debug)]
enum Held {
    Nothing,
    Bytes { buffer: Buffer, start: usize, end: usize },
    Pages { pipe: SplicePipe, bytes: usize },
    Message { buffer: Buffer, length: usize },
}

/// Which end of the flow ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    BySource,
    BySink,
}

impl Ended {
    pub(super) fn side(self, source: Side) -> Side {
        match self {
            Self::BySource => source,
            Self::BySink => source.other(),
        }
    }
}

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Bytes delivered.
    pub(super) moved: u64,
    /// Messages delivered, which may have no bytes.
    pub(super) messages: u64,
    /// The flow came to its end.
    pub(super) ended: bool,
}

/// Whether to go on within this step.
enum Next {
    GoOn,
    Wait,
}

impl Flow {
    pub(super) fn new(source: &dyn Channel, sink: &dyn Channel, options: &RelayOptions) -> Self {
        let (from, to) = (source.base().features(), sink.base().features());
        let brings_fds = from.contains(Features::FD_PASS);
        let pass_fds = options.pass_fds && brings_fds && to.contains(Features::FD_PASS);
        let fds = match (brings_fds, pass_fds) {
            (false, _) => None,
            (true, false) => Some(FdSink::discarding()),
            (true, true) => Some(FdSink::new(MAX_FDS_PER_MESSAGE)),
        };
        // A channel that is only written to never says anything, not even that it has ended.
        let state = if from.contains(Features::READ) { State::Copying } else { State::Done };
        Self {
            state,
            held: Held::Nothing,
            fds,
            pass_fds,
            messages: from.contains(Features::MESSAGES),
            flushing: false,
            refused: false,
            fds_lost: 0,
            may_splice: options.splice && !pass_fds,
            streak: 0,
            waits_for_source: true,
            yielded: false,
            second_look: None,
            first_byte: None,
            ended: None,
            record: FlowRecord::default(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn ended_at(&self) -> Option<Ended> {
        self.ended
    }

    pub(super) fn second_look(&self) -> Option<Instant> {
        self.second_look
    }

    pub(super) fn has_yielded(&self) -> bool {
        self.yielded
    }

    /// Whether a step could get further, by what is known of the two channels.
    pub(super) fn is_ready(&self, source: Readiness, sink: Readiness, now: Instant) -> bool {
        let (channel, wanted) = if self.waits_for_source {
            (source, Readiness::READ)
        } else {
            (sink, Readiness::WRITE)
        };
        let gone = Readiness::HANGUP | Readiness::ERROR;
        self.yielded
            || channel.intersects(wanted | gone)
            || self.second_look.is_some_and(|when| when <= now)
    }

    /// Adds what this flow waits for.
    pub(super) fn wants(&self, source: &mut Interest, sink: &mut Interest) {
        match self.state {
            State::Done => {}
            _ if self.waits_for_source() => *source |= Interest::READ,
            _ => *sink |= Interest::WRITE,
        }
    }

    /// Whether nothing but new data would tell that the sink is gone.
    pub(super) fn waits_for_source(&self) -> bool {
        matches!(self.state, State::Copying | State::Splicing)
            && self.waits_for_source
            && !self.holds_bytes()
            && !self.flushing
    }

    fn holds_bytes(&self) -> bool {
        matches!(
            self.held,
            Held::Bytes { .. } | Held::Pages { bytes: 1.., .. } | Held::Message { .. }
        )
    }

    /// Nobody reads what this flow would write. It has nothing to write, so nothing is lost.
    pub(super) fn sink_left(&mut self) {
        self.ended = Some(Ended::BySink);
        self.abandon();
    }

    /// Moves what can be moved without waiting.
    pub(super) fn step(&mut self, source: &dyn Channel, sink: &dyn Channel, now: Instant) -> Turn {
        let mut turn = Turn::default();
        if self.state == State::Done {
            return turn;
        }
        let delivered = self.record.bytes;
        let messages = self.record.messages;
        let mut rounds = 0;
        self.yielded = false;
        loop {
            let next = match self.state {
                State::Copying if self.messages => self.carry(source, sink, now),
                State::Copying => self.copy(source, sink, now),
                State::Splicing => self.splice(source, sink, now),
                State::Finishing => self.finish(sink),
                State::Done => Next::Wait,
            };
            turn.moved = self.record.bytes - delivered;
            turn.messages = self.record.messages - messages;
            rounds += u32::from(self.messages);
            match next {
                Next::Wait => break,
                Next::GoOn if turn.moved >= TURN_BYTES || rounds >= TURN_MESSAGES => {
                    self.yielded = true;
                    break;
                }
                Next::GoOn => {}
            }
        }
        turn.ended = self.state == State::Done;
        turn
    }

    fn copy(&mut self, source: &dyn Channel, sink: &dyn Channel, now: Instant) -> Next {
        if !matches!(self.held, Held::Nothing) {
            return self.deliver(sink);
        }
        if self.streak >= BULK_AFTER && self.may_splice {
            if splice_ends(source, sink).is_some() {
                self.become_splicing();
                return Next::GoOn;
            }
            // Asked again after as many full buffers.
            self.streak = 0;
        }
        let mut buffer = Buffer::take();
        let result = {
            let mut bufs = [IoSliceMut::new(&mut buffer)];
            source.read_with(&mut bufs, ReadFlags::NONBLOCK, self.fds.as_mut())
        };
        match result {
            Ok(0) => self.source_ended(),
            Ok(n) => {
                self.note_first_byte(now);
                let full = n == buffer.len();
                self.streak = if full { self.streak.saturating_add(1) } else { 0 };
                let short = !full && source.base().features().contains(Features::DRAINS);
                let with_fds = self.note_fds();
                self.held = Held::Bytes { buffer, start: 0, end: n };
                let next = self.deliver(sink);
                // The read has taken all there was, and the write too: wait without asking again.
                let drained = short && !with_fds && matches!(self.held, Held::Nothing);
                match next {
                    Next::GoOn if drained && self.state == State::Copying => {
                        self.second_look = Some(now + SECOND_LOOK);
                        self.wait_for_source()
                    }
                    next => next,
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.second_look = None;
                self.streak = 0;
                self.wait_for_source()
            }
            Err(error) => self.source_failed(error),
        }
    }

    fn splice(&mut self, source: &dyn Channel, sink: &dyn Channel, now: Instant) -> Next {
        if self.holds_bytes() {
            return self.deliver(sink);
        }
        let Some((from, _)) = splice_ends(source, sink) else {
            self.become_copying();
            return Next::GoOn;
        };
        if matches!(self.held, Held::Nothing) {
            match SplicePipe::take() {
                Ok(pipe) => self.held = Held::Pages { pipe, bytes: 0 },
                Err(_limit) => {
                    self.become_copying();
                    return Next::GoOn;
                }
            }
        }
        let Held::Pages { pipe, bytes } = &mut self.held else { return Next::GoOn };
        match move_pages(&from, &pipe.write, pipe.capacity) {
            // The end, or urgent data in front of which splice(2) stops: a read tells.
            Ok(0) => {
                self.become_copying();
                Next::GoOn
            }
            Ok(n) => {
                *bytes = n;
                self.second_look = None;
                self.streak = if n < SMALL_SPLICE { self.streak + 1 } else { 0 };
                let rare = self.streak >= SMALL_LIMIT;
                self.note_first_byte(now);
                let next = self.deliver(sink);
                if rare && self.state == State::Splicing {
                    self.become_copying();
                }
                next
            }
            Err(Errno::AGAIN) => {
                // An idle flow holds no pipe.
                self.release();
                match self.second_look {
                    None => self.second_look = Some(now + SECOND_LOOK),
                    // The source was said to be readable, and the step before had it all.
                    Some(when) if when > now && self.streak < SMALL_LIMIT => self.streak += 1,
                    // Nothing for long, or something that cannot be spliced: a read tells.
                    Some(_) => {
                        self.become_copying();
                        return Next::GoOn;
                    }
                }
                self.wait_for_source()
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.may_splice = false;
                self.become_copying();
                Next::GoOn
            }
            Err(error) => self.source_failed(error.into()),
        }
    }

    /// Writes what is held.
    fn deliver(&mut self, sink: &dyn Channel) -> Next {
        let result = match &mut self.held {
            Held::Nothing => return Next::GoOn,
            Held::Message { .. } => return self.deliver_message(sink),
            Held::Bytes { buffer, start, end } => {
                let bufs = [IoSlice::new(&buffer[*start..*end])];
                let result = write_with_fds(sink, &bufs, self.fds.as_ref(), self.pass_fds);
                if let Ok(n) = result {
                    *start += n;
                    self.record.bytes += n as u64;
                    if self.pass_fds
                        && let Some(fds) = &mut self.fds
                    {
                        self.record.fds_passed += fds.drain().count() as u64;
                    }
                }
                result
            }
            Held::Pages { pipe, bytes } => {
                let Some(to) = sink.splice_fd(Direction::Write) else { return self.unsplice() };
                match move_pages(&pipe.read, &to, *bytes) {
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return self.unsplice(),
                    Ok(n) => {
                        *bytes -= n;
                        self.record.bytes += n as u64;
                        self.record.spliced += n as u64;
                        Ok(n)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        };
        match result {
            Ok(0) => self.sink_failed(ErrorKind::WriteZero.into()),
            Ok(_) => {
                // A pipe is kept while splicing goes on, a buffer is not kept at all.
                match self.held {
                    Held::Bytes { start, end, .. } if start == end => self.release(),
                    Held::Pages { bytes: 0, .. } if self.state != State::Splicing => self.release(),
                    _ => {}
                }
                Next::GoOn
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.waits_for_source = false;
                self.second_look = None;
                Next::Wait
            }
            Err(error) => self.sink_failed(error),
        }
    }

    /// The sink does not take pages: gets what is in the pipe back into a buffer.
    fn unsplice(&mut self) -> Next {
        self.may_splice = false;
        let Held::Pages { pipe, bytes } = &mut self.held else { return Next::GoOn };
        match pipe.drain(*bytes) {
            Ok(buffer) => {
                let held = Held::Bytes { start: 0, end: *bytes, buffer };
                if let Held::Pages { pipe, .. } = std::mem::replace(&mut self.held, held) {
                    pipe.give_back();
                }
                self.become_copying();
                Next::GoOn
            }
            Err(error) => self.sink_failed(error),
        }
    }

    fn finish(&mut self, sink: &dyn Channel) -> Next {
        if self.holds_bytes() {
            return self.deliver(sink);
        }
        self.release();
        match sink.finish() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.waits_for_source = false;
                return Next::Wait;
            }
            // Gone already: there is nobody to say farewell to, and nothing was lost.
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::BrokenPipe) =>
            {
                self.record.error = Some(error);
            }
            _ => {}
        }
        self.state = State::Done;
        Next::Wait
    }

    fn source_ended(&mut self) -> Next {
        self.ended = Some(Ended::BySource);
        self.second_look = None;
        self.state = State::Finishing;
        Next::GoOn
    }

    fn source_failed(&mut self, error: io::Error) -> Next {
        self.ended = Some(Ended::BySource);
        self.record.error = Some(error);
        self.abandon();
        Next::Wait
    }

    fn sink_failed(&mut self, error: io::Error) -> Next {
        // A farewell that fails after the source's end does not change who ended first.
        self.ended.get_or_insert(Ended::BySink);
        self.record.error = Some(error);
        self.abandon();
        Next::Wait
    }

    /// Whether the source broke: nothing can be delivered to it either.
    pub(super) fn source_is_broken(&self) -> bool {
        self.ended == Some(Ended::BySource) && self.record.error.is_some()
    }

    /// Whether the sink broke while the source would go on.
    pub(super) fn sink_is_broken(&self) -> bool {
        self.ended == Some(Ended::BySink)
    }

    /// Ends before anything has moved.
    pub(super) fn refuse(&mut self, error: Option<io::Error>) {
        self.record.error = error;
        self.state = State::Done;
    }

    /// Gives up what is held, and ends.
    pub(super) fn abandon(&mut self) {
        self.record.messages_lost += u64::from(matches!(self.held, Held::Message { .. }));
        self.record.lost += match &self.held {
            Held::Nothing => 0,
            Held::Bytes { start, end, .. } => end - start,
            Held::Pages { bytes, .. } => *bytes,
            Held::Message { length, .. } => *length,
        } as u64;
        self.release();
        self.second_look = None;
        self.state = State::Done;
    }

    /// A close that fails is an error of what went into the channel (a full disk, say).
    pub(super) fn note_close(&mut self, result: io::Result<()>) {
        if let (Err(error), None) = (result, &self.record.error) {
            self.record.error = Some(error);
        }
    }

    pub(super) fn take_record(&mut self, started: Instant) -> FlowRecord {
        let mut record = std::mem::take(&mut self.record);
        record.first_byte = self.first_byte.map(|at| at - started);
        if !self.pass_fds {
            record.fds_dropped = self.fds.as_ref().map_or(0, FdSink::dropped) as u64;
        }
        record.fds_dropped += self.fds_lost;
        record
    }

    fn note_first_byte(&mut self, now: Instant) {
        self.first_byte.get_or_insert(now);
    }

    /// Whether descriptors came with the last read.
    fn note_fds(&mut self) -> bool {
        let Some(sink) = &self.fds else { return false };
        let seen = if self.pass_fds { 0 } else { self.record.fds_dropped };
        self.record.fds_dropped = sink.dropped() as u64;
        !sink.fds().is_empty() || self.record.fds_dropped > seen
    }

    fn wait_for_sink(&mut self) -> Next {
        self.waits_for_source = false;
        self.second_look = None;
        Next::Wait
    }

    fn wait_for_source(&mut self) -> Next {
        self.waits_for_source = true;
        Next::Wait
    }

    fn become_splicing(&mut self) {
        self.streak = 0;
        self.second_look = None;
        self.state = State::Splicing;
    }

    fn become_copying(&mut self) {
        self.streak = 0;
        if let Held::Pages { bytes: 0, .. } = self.held {
            self.release();
        }
        // Pages that are still held go out as pages: `copy` delivers before it reads.
        self.state = State::Copying;
    }

    /// Holds nothing any more. A pipe that still has bytes in it is closed.
    fn release(&mut self) {
        if let Held::Pages { pipe, bytes: 0 } = std::mem::replace(&mut self.held, Held::Nothing) {
            pipe.give_back();
        }
    }
}

/// The descriptors to splice between, when both channels give one.
fn splice_ends(source: &dyn Channel, sink: &dyn Channel) -> Option<(SharedFd, SharedFd)> {
    Some((source.splice_fd(Direction::Read)?, sink.splice_fd(Direction::Write)?))
}

fn move_pages(from: impl AsFd, to: impl AsFd, bytes: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    // A splice to a broken connection raises SIGPIPE; there is no flag against it.
    qio_os::shield_sigpipe(|| {
        loop {
            match rustix::pipe::splice(&from, None, &to, None, bytes, flags) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    })
}

fn write_with_fds(
    sink: &dyn Channel,
    bufs: &[IoSlice<'_>],
    fds: Option<&FdSink>,
    pass_fds: bool,
) -> io::Result<usize> {
    let fds = match fds {
        Some(sink) if pass_fds => sink.fds(),
        _ => &[],
    };
    if fds.is_empty() {
        return sink.write_with(bufs, WriteFlags::NONBLOCK, &[]);
    }
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    sink.write_with(bufs, WriteFlags::NONBLOCK, &fds)
}
