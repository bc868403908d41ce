//! What the suite is run over.

use std::fmt;
use std::sync::Arc;

use qio::{Channel, ChannelExt, Features, Mode};

use crate::{Chaos, Ledger, Plan};

/// How the two channels of a [`Pair`] are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every check decides about each")]
pub enum Relation {
    /// Each reads what the other writes.
    Pair,
    /// The right one reads what the left one writes.
    OneWay,
    /// Both are the same channel, which reads what it wrote.
    Echo,
    /// Both are the same channel, which takes everything and gives nothing.
    Sink,
    /// Both are the same channel with a position: what was written can be sought and read.
    Store,
}

/// Two channels to be tested, or the same one twice.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pair {
    /// The one that writes where only one can.
    pub left: Arc<dyn Channel>,
    /// The one that reads where only one can.
    pub right: Arc<dyn Channel>,
}

impl Pair {
    /// Two channels.
    pub fn new(left: impl Channel, right: impl Channel) -> Self {
        Self { left: Arc::new(left), right: Arc::new(right) }
    }

    /// The same channel twice.
    pub fn same(channel: impl Channel) -> Self {
        let channel = Arc::new(channel);
        Self { left: Arc::clone(&channel) as _, right: channel }
    }

    /// The left one on the right.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { left: self.right, right: self.left }
    }

    /// Puts a [`Chaos`] with `plan` in front of both.
    #[must_use]
    pub fn in_chaos(self, plan: Plan) -> Self {
        if Arc::ptr_eq(&self.left, &self.right) {
            drop(self.right);
            Self::same(Chaos::new(self.left, plan))
        } else {
            Self::new(Chaos::new(self.left, plan), Chaos::new(self.right, plan))
        }
    }

    /// Sets the mode of both.
    #[must_use]
    pub fn in_mode(self, mode: Mode) -> Self {
        self.left.set_mode(mode).unwrap();
        self.right.set_mode(mode).unwrap();
        self
    }
}

/// A kind of channel: how to make a pair of it, and how the two are joined.
#[derive(Clone, Copy)]
pub struct Subject {
    name: &'static str,
    relation: Relation,
    make: fn() -> Pair,
    finds: fn(&dyn Channel) -> bool,
    volume: usize,
    chaos: Option<Plan>,
    farewell: bool,
}

impl fmt::Debug for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Subject")
            .field("name", &self.name)
            .field("relation", &self.relation)
            .field("chaos", &self.chaos)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// Two channels of which each reads what the other writes; `T` is what the left one is.
    pub fn pair<T: Channel>(name: &'static str, make: fn() -> Pair) -> Self {
        Self::new::<T>(name, Relation::Pair, make)
    }

    /// A left one that writes and a right one that reads.
    pub fn one_way<T: Channel>(name: &'static str, make: fn() -> Pair) -> Self {
        Self::new::<T>(name, Relation::OneWay, make)
    }

    /// One that reads what it wrote.
    pub fn echo<T: Channel>(name: &'static str, make: fn() -> Pair) -> Self {
        Self::new::<T>(name, Relation::Echo, make)
    }

    /// One that takes everything and gives nothing.
    pub fn sink<T: Channel>(name: &'static str, make: fn() -> Pair) -> Self {
        Self::new::<T>(name, Relation::Sink, make)
    }

    /// One with a position, empty at first: a file, a buffer.
    pub fn store<T: Channel>(name: &'static str, make: fn() -> Pair) -> Self {
        Self::new::<T>(name, Relation::Store, make)
    }

    fn new<T: Channel>(name: &'static str, relation: Relation, make: fn() -> Pair) -> Self {
        let finds = |channel: &dyn Channel| channel.find::<T>().is_some();
        Self { name, relation, make, finds, volume: 1 << 20, chaos: None, farewell: false }
    }

    /// How many bytes stand for a megabyte, where each costs two changes of thread.
    #[must_use]
    pub fn volume(mut self, bytes: usize) -> Self {
        self.volume = bytes;
        self
    }

    /// A stream that ends without [`finish`](Channel::finish) is cut off, and an error to read.
    #[must_use]
    pub fn with_farewell(mut self) -> Self {
        self.farewell = true;
        self
    }

    /// The same channels behind short reads and writes that would block now and then.
    #[must_use]
    pub fn in_chaos(mut self) -> Self {
        self.chaos = Some(Plan::new(1).short(5000).would_block_every(3));
        self
    }

    /// The name for messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A new pair.
    pub fn make(&self) -> Pair {
        let pair = (self.make)();
        match self.chaos {
            Some(plan) => pair.in_chaos(plan),
            None => pair,
        }
    }

    /// Whether `channel` shows the innermost channel of the subject.
    pub(super) fn is_found_in(&self, channel: &dyn Channel) -> bool {
        (self.finds)(channel)
    }

    /// Ends the stream, so that the peer reads the end.
    pub(super) fn end(&self, channel: &dyn Channel) {
        if self.farewell {
            channel.finish_all(crate::soon()).unwrap();
        }
        super::close(channel);
    }

    /// Whether what a reader got is what it gets when the peer has gone without a word.
    pub(super) fn is_cut_off<T>(&self, result: &std::io::Result<T>, end: &T) -> bool
    where
        T: PartialEq,
    {
        match result {
            Ok(got) => !self.farewell && got == end,
            Err(error) => {
                let kind = error.kind();
                self.farewell
                    && (kind == std::io::ErrorKind::UnexpectedEof || super::data::is_gone(kind))
            }
        }
    }

    pub(super) fn is_chaotic(&self) -> bool {
        self.chaos.is_some()
    }

    pub(super) fn megabyte(&self) -> usize {
        self.volume
    }

    /// Whether each side reads what the other writes.
    pub(super) fn is_duplex(&self) -> bool {
        self.relation == Relation::Pair
    }

    /// Whether there are two channels, of which one may go and leave the other.
    pub(super) fn has_peer(&self) -> bool {
        matches!(self.relation, Relation::Pair | Relation::OneWay)
    }

    /// Whether the right side reads what the left one writes, and waits for it.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.relation, Relation::Pair | Relation::OneWay | Relation::Echo)
    }

    pub(super) fn is_store(&self) -> bool {
        self.relation == Relation::Store
    }

    pub(super) fn is_sink(&self) -> bool {
        self.relation == Relation::Sink
    }

    /// Whether both sides can do that.
    pub(super) fn has(&self, features: Features) -> bool {
        let pair = self.make();
        (pair.left.features() & pair.right.features()).contains(features)
    }

    /// Makes a pair only to see that its descriptors have close-on-exec.
    pub(super) fn make_pair_watched_by(&self, ledger: &Ledger) {
        let pair = self.make();
        ledger.check_close_on_exec();
        drop(pair);
    }
}
