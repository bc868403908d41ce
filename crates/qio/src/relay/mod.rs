//! Joins two channels: what one reads, the other writes.

mod flow;
mod options;
mod pool;
mod record;

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

pub use options::{HalfClose, RelayOptions};
pub use pool::BUFFER_BYTES;
pub use record::{End, FlowRecord, Progress, Record, Side};

use crate::channel::{Channel, Features};
use crate::interest::{Interest, Readiness};
use crate::layer::{Framed, Framing};
use crate::watch::{PollSet, Steps};
use flow::{Flow, Turn};

/// Joins two channels until both directions have ended.
///
/// Each direction goes its own way: it reads into one buffer and writes from it, as much as the
/// slower side takes. When traffic has proved to be bulk, and both ends give a descriptor
/// ([`Channel::splice_fd`]), pages move with splice(2) instead. The end of one direction is passed
/// on with [`Channel::finish`], after the last byte, while the other goes on
/// ([`HalfClose`] says for how long). At the end both channels are closed.
///
/// Between two channels with [`Features::MESSAGES`] messages go one by one, empty ones too, each
/// in one write. One that is too long for the relay (256 KiB) or for the sink is lost, counted and
/// told in the record, and so is one that nobody receives; the relay goes on. A channel of messages and a
/// stream are joined with a [framing](RelayOptions::framing) only.
///
/// A relay owns no loop: it is made of [`Steps`]. Run it with [`run`](crate::watch::run) on a
/// thread, or in an event loop through an adapter. Dropping it cuts both connections.
///
/// Memory: while bytes wait for a slow side, one buffer of [`BUFFER_BYTES`] or one pipe in each
/// direction; nothing while idle.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use qio::relay::{End, Relay, RelayOptions};
/// use qio::{Channel, ChannelExt, transport::Socket, watch};
///
/// # fn main() -> std::io::Result<()> {
/// let (client, left) = Socket::pair()?;
/// let (right, server) = Socket::pair()?;
/// client.write_all(b"question")?;
/// client.finish()?;
/// server.write_all(b"answer")?;
/// server.finish()?;
///
/// let relay = Relay::new(Arc::new(left), Arc::new(right), RelayOptions::default());
/// let ControlFlow::Break(record) = watch::run(relay, None)? else { unreachable!() };
///
/// assert_eq!(record.left_to_right.bytes, 8);
/// assert_eq!(record.right_to_left.bytes, 6);
/// assert!(matches!(record.end, End::Finished));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Relay {
    left: Arc<dyn Channel>,
    right: Arc<dyn Channel>,
    there: Flow,
    back: Flow,
    options: RelayOptions,
    started: Instant,
    last_active: Instant,
    ended_by: Option<Side>,
    progress: Arc<Progress>,
    /// Which legs of the last set belong to which channel.
    legs: Legs,
    /// What was ready when the set was filled, and what has become ready since. All, when nobody
    /// has looked: then everything is tried.
    ready: Ready,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    left: Readiness,
    right: Readiness,
    /// Whether nobody reads what would be written to a side; `None` when nobody has looked.
    left_gone: Option<bool>,
    right_gone: Option<bool>,
}

impl Ready {
    const UNKNOWN: Self =
        Self { left: Readiness::all(), right: Readiness::all(), left_gone: None, right_gone: None };
}

/// Where the legs of a channel end in the set; those of the next one begin there.
#[derive(Clone, Copy, Debug, Default)]
struct Legs {
    left: usize,
    right: usize,
    left_gone: usize,
}

impl Relay {
    /// Joins `left` and `right`.
    ///
    /// Their mode does not matter: the relay never lets a call wait.
    pub fn new(left: Arc<dyn Channel>, right: Arc<dyn Channel>, options: RelayOptions) -> Self {
        let now = Instant::now();
        let (left, right, refused) = match_ends(left, right, options.framing);
        let (mut there, mut back) =
            (Flow::new(&*left, &*right, &options), Flow::new(&*right, &*left, &options));
        if refused.is_some() {
            there.refuse(refused);
            back.refuse(None);
        }
        Self {
            there,
            back,
            left,
            right,
            options,
            started: now,
            last_active: now,
            ended_by: None,
            progress: Arc::default(),
            legs: Legs::default(),
            ready: Ready::UNKNOWN,
        }
    }

    /// Counters that another thread can look at while the relay runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Closes both channels now, and says what had moved.
    ///
    /// Bytes that were read and not written count as lost.
    pub fn cut(mut self) -> Record {
        self.end(End::Cut, Instant::now())
    }

    fn end(&mut self, end: End, now: Instant) -> Record {
        // What could not be said while closing is said of the direction into that channel.
        self.there.abandon();
        self.back.abandon();
        let (into_right, into_left) = (self.right.close(), self.left.close());
        self.there.note_close(into_right);
        self.back.note_close(into_left);
        let record = Record {
            left_to_right: self.there.take_record(self.started),
            right_to_left: self.back.take_record(self.started),
            end,
            ended_by: self.ended_by,
            duration: now - self.started,
        };
        event!(
            debug,
            left = %self.left.base().name(),
            right = %self.right.base().name(),
            left_to_right = record.left_to_right.bytes,
            right_to_left = record.right_to_left.bytes,
            lost = record.lost(),
            end = ?record.end,
            "relay ended"
        );
        record
    }

    /// The time at which the silence becomes too long, and what that means.
    fn patience(&self) -> Option<(Instant, End)> {
        let ended = |flow: &Flow| flow.is_done() && flow.ended_at().is_some();
        let half_closed = ended(&self.there) != ended(&self.back);
        let idle = self.options.idle_timeout.map(|limit| (limit, End::Idle));
        let half = match self.options.half_close {
            HalfClose::Propagate { limit } if half_closed => limit,
            HalfClose::Close { grace } if half_closed => Some(grace),
            _ => None,
        };
        let half = half.map(|limit| (limit, End::HalfClosed));
        [idle, half]
            .into_iter()
            .flatten()
            // A time too far away to be represented never comes.
            .filter_map(|(limit, end)| Some((self.last_active.checked_add(limit)?, end)))
            .min_by_key(|(when, _)| *when)
    }
}

impl Steps for Relay {
    type Output = Record;

    fn step(&mut self, now: Instant) -> Poll<Record> {
        // What makes waiting on a channel pointless shows up in its next read or write.
        let _ = self.left.drive(now);
        let _ = self.right.drive(now);

        let Ready { left, right, left_gone, right_gone } =
            std::mem::replace(&mut self.ready, Ready::UNKNOWN);
        let (mut there, mut back) = (Turn::default(), Turn::default());
        if self.there.is_ready(left, right, now) {
            there = self.there.step(&*self.left, &*self.right, now);
        }
        if self.back.is_ready(right, left, now) {
            back = self.back.step(&*self.right, &*self.left, now);
        }
        // A sink may go while its flow has nothing to write. What it had written before is read
        // first: the other flow had its turn.
        for (flow, turn, sink, gone) in [
            (&mut self.there, &mut there, &self.right, right_gone),
            (&mut self.back, &mut back, &self.left, left_gone),
        ] {
            if flow.waits_for_source() && gone.unwrap_or_else(|| is_gone(&**sink)) {
                flow.sink_left();
                turn.ended = true;
            }
        }
        let moved = there.moved + back.moved;
        let messages = there.messages + back.messages;
        if moved > 0 {
            self.progress.add(there.moved, back.moved);
        }
        if self.ended_by.is_none() {
            self.ended_by = match (self.there.ended_at(), self.back.ended_at()) {
                (Some(end), _) => Some(end.side(Side::Left)),
                (None, Some(end)) => Some(end.side(Side::Right)),
                (None, None) => None,
            };
        }
        // Who can write no more bytes should not be left writing: a child gets its EPIPE, the peer
        // of a Unix socket too.
        for (turn, flow, source) in
            [(&there, &self.there, &self.left), (&back, &self.back, &self.right)]
        {
            if turn.ended && flow.sink_is_broken() {
                let _ = source.shutdown(Shutdown::Read);
            }
        }
        // The end of a direction counts as life: the time of the other starts there.
        if moved > 0 || messages > 0 || there.ended || back.ended {
            self.last_active = now;
        }
        let broken = self.there.source_is_broken() || self.back.source_is_broken();
        let last_word = match self.options.ends_with {
            Some(Side::Left) => self.there.is_done(),
            Some(Side::Right) => self.back.is_done(),
            None => false,
        };
        if broken || last_word || (self.there.is_done() && self.back.is_done()) {
            return Poll::Ready(self.end(End::Finished, now));
        }
        match self.patience() {
            Some((when, end)) if when <= now => Poll::Ready(self.end(end, now)),
            _ => Poll::Pending,
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        let (mut left, mut right) = (Interest::empty(), Interest::empty());
        self.there.wants(&mut left, &mut right);
        self.back.wants(&mut right, &mut left);
        let left = ask(&*self.left, left, set);
        self.legs.left = set.legs().len();
        let right = ask(&*self.right, right, set);
        self.legs.right = set.legs().len();
        let left_gone = self.back.waits_for_source() && watch_hangup(&*self.left, set);
        self.legs.left_gone = set.legs().len();
        let right_gone = self.there.waits_for_source() && watch_hangup(&*self.right, set);
        self.ready =
            Ready { left, right, left_gone: Some(left_gone), right_gone: Some(right_gone) };

        let go_on = self.there.has_yielded() || self.back.has_yielded();
        if go_on || left_gone || right_gone || !(left | right).is_empty() {
            set.wake_at(self.last_active);
        }
        let looks = [self.there.second_look(), self.back.second_look()];
        let patience = self.patience().map(|(when, _)| when);
        for when in looks.into_iter().flatten().chain(patience) {
            set.wake_at(when);
        }
    }

    fn woken(&mut self, set: &PollSet) {
        for (index, leg) in set.legs().iter().enumerate() {
            // A leg that grants nothing moved something inside a layer: anything may be ready.
            let ready = if leg.grants().is_empty() && !leg.fired().is_empty() {
                Readiness::all()
            } else {
                leg.granted()
            };
            let fired = !leg.fired().is_empty();
            if index < self.legs.left {
                self.ready.left |= ready;
            } else if index < self.legs.right {
                self.ready.right |= ready;
            } else if fired && index < self.legs.left_gone {
                self.ready.left_gone = Some(true);
            } else if fired {
                self.ready.right_gone = Some(true);
            }
        }
    }
}

/// A stream among channels of messages gets a framing, or there is an error.
fn match_ends(
    left: Arc<dyn Channel>,
    right: Arc<dyn Channel>,
    framing: Option<Framing>,
) -> (Arc<dyn Channel>, Arc<dyn Channel>, Option<io::Error>) {
    let is_apart = |channel: &dyn Channel| channel.base().features().contains(Features::MESSAGES);
    let framed = |stream, framing| Arc::new(Framed::new(stream, framing)) as Arc<dyn Channel>;
    match (is_apart(&*left), is_apart(&*right), framing) {
        (true, false, Some(framing)) => (left, framed(right, framing), None),
        (false, true, Some(framing)) => (framed(left, framing), right, None),
        (apart, together, None) if apart != together => {
            let (messages, stream) = if apart { (&left, &right) } else { (&right, &left) };
            let text = format!(
                "{} keeps messages apart and {} does not: a framing is needed",
                messages.base().name(),
                stream.base().name()
            );
            let error = io::Error::new(io::ErrorKind::Unsupported, text);
            (left, right, Some(error))
        }
        _ => (left, right, None),
    }
}

/// What is ready now of what is wanted; the set gets what to poll otherwise.
fn ask(channel: &dyn Channel, wanted: Interest, set: &mut PollSet) -> Readiness {
    if wanted.is_empty() { Readiness::empty() } else { channel.watch(wanted, set) }
}

/// Whether nobody reads what would be written; the set gets what fires when that becomes so.
fn watch_hangup(channel: &dyn Channel, set: &mut PollSet) -> bool {
    channel.watch(Interest::empty(), set).contains(Readiness::HANGUP)
}

/// The same, asked of the kernel.
fn is_gone(channel: &dyn Channel) -> bool {
    let mut set = PollSet::new();
    if watch_hangup(channel, &mut set) {
        return true;
    }
    let looked = !set.legs().is_empty() && set.poll(Some(Instant::now())).is_ok();
    looked && set.legs().iter().any(|leg| !leg.fired().is_empty())
}
