//! The state that every channel has.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;

use super::Features;
use crate::interest::{Direction, Interest};
use crate::watch::Interrupts;

/// Whether reads and writes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "complete by nature")]
pub enum Mode {
    /// A read waits for the first byte, a write until something was taken.
    Blocking,
    /// They return `WouldBlock` instead.
    NonBlocking,
}

/// Name, features, mode, and who waits: the part that all channels share.
///
/// QEMU keeps the same in the parent object `QIOChannel`.
#[derive(Debug)]
pub struct Base {
    kind: &'static str,
    features: Features,
    non_blocking: AtomicBool,
    waiting: AtomicU8,
    /// How many watches of event loops there are, to read and to write.
    watches: [AtomicU32; 2],
    copied: AtomicBool,
    name: ArcSwapOption<String>,
    corks: Mutex<u32>,
    interrupts: OnceLock<Arc<Interrupts>>,
    closed: AtomicBool,
    holds_output: AtomicBool,
}

impl Base {
    /// The state of a new channel in blocking mode; `kind` is its name until it gets a better one.
    ///
    /// A channel goes both ways unless `features` names just one of [`Features::READ`] and
    /// [`Features::WRITE`].
    #[doc(alias = "qio_channel_set_feature")]
    pub fn new(kind: &'static str, features: Features) -> Self {
        let one_way = features.intersects(Features::DUPLEX);
        let features = if one_way { features } else { features | Features::DUPLEX };
        Self {
            kind,
            features,
            non_blocking: AtomicBool::new(false),
            waiting: AtomicU8::new(0),
            watches: [AtomicU32::new(0), AtomicU32::new(0)],
            copied: AtomicBool::new(false),
            name: ArcSwapOption::empty(),
            corks: Mutex::new(0),
            interrupts: OnceLock::new(),
            closed: AtomicBool::new(false),
            holds_output: AtomicBool::new(false),
        }
    }

    /// What the channel can do.
    #[inline]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The name that appears in errors and events.
    pub fn name(&self) -> String {
        self.name.load().as_deref().map_or_else(|| self.kind.to_owned(), Clone::clone)
    }

    /// Gives the channel a name; accepted and wrapping channels derive theirs from it.
    #[doc(alias = "qio_channel_set_name")]
    pub fn set_name(&self, name: impl Into<String>) {
        self.name.store(Some(Arc::new(name.into())));
    }

    /// The current mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        if self.non_blocking.load(Ordering::Relaxed) { Mode::NonBlocking } else { Mode::Blocking }
    }

    /// Records the mode. For implementations of [`Channel::set_mode`](super::Channel::set_mode).
    pub fn set_mode(&self, mode: Mode) {
        self.non_blocking.store(mode == Mode::NonBlocking, Ordering::Relaxed);
    }

    /// Records that bytes of an owned write were copied. For implementations of
    /// [`Channel::try_write_owned`](super::Channel::try_write_owned).
    pub fn note_copied(&self) {
        self.copied.store(true, Ordering::Relaxed);
    }

    /// Whether bytes of an owned write were copied since the last call. For implementations of
    /// [`Channel::confirm`](super::Channel::confirm).
    pub fn take_copied(&self) -> bool {
        self.copied.swap(false, Ordering::Relaxed)
    }

    /// Marks that somebody waits for `interest` until the guard is dropped.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` when somebody does already: one reader and one writer at a time.
    #[inline]
    pub(crate) fn begin_wait(&self, interest: Interest) -> io::Result<Waiting<'_>> {
        let before = self.waiting.fetch_or(interest.bits(), Ordering::Acquire);
        let taken = before & interest.bits();
        if taken == 0 {
            return Ok(Waiting { base: self, interest });
        }
        // Take back only what this call added.
        self.waiting.fetch_and(!(interest.bits() & !taken), Ordering::Release);
        Err(self.busy(taken))
    }

    /// Whether somebody waits for the direction, or an event loop watches for it.
    pub(crate) fn is_waited_for(&self, direction: Direction) -> bool {
        self.waiting.load(Ordering::Acquire) & Interest::from(direction).bits() != 0
            || self.watches[direction as usize].load(Ordering::Acquire) > 0
    }

    /// Whether more than one does.
    pub(crate) fn is_waited_for_by_several(&self, direction: Direction) -> bool {
        let waits = self.waiting.load(Ordering::Acquire) & Interest::from(direction).bits() != 0;
        u32::from(waits) + self.watches[direction as usize].load(Ordering::Acquire) > 1
    }

    /// Notes that an event loop watches for `interest`; it need not be the only one.
    pub(crate) fn begin_watch(&self, interest: Interest) {
        for direction in interest.directions() {
            self.watches[direction as usize].fetch_add(1, Ordering::Acquire);
        }
    }

    /// Takes back one [`begin_watch`](Base::begin_watch).
    pub(crate) fn end_watch(&self, interest: Interest) {
        for direction in interest.directions() {
            self.watches[direction as usize].fetch_sub(1, Ordering::Release);
        }
    }

    /// Records that the channel is being closed, before anybody is woken by it. For implementations
    /// of [`Channel::close`](super::Channel::close) that close no channel below.
    pub fn note_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether that was recorded.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Records whether something that was written rests in the channel until there is room below,
    /// for layers above. For implementations of [`Channel::try_write`](super::Channel::try_write)
    /// that take more than they get rid of; who writes to them is told by
    /// [`WriteOp::note_held`](super::WriteOp::note_held).
    pub fn note_held_output(&self, holds: bool) {
        self.holds_output.store(holds, Ordering::Release);
    }

    pub(crate) fn holds_output(&self) -> bool {
        self.holds_output.load(Ordering::Acquire)
    }

    /// What ends waits from elsewhere, where that was asked for.
    #[inline]
    pub(crate) fn interrupts(&self) -> Option<&Interrupts> {
        self.interrupts.get().map(|interrupts| &**interrupts)
    }

    /// Makes waits that begin from now on end when they are interrupted.
    pub(crate) fn make_interruptible(&self) -> &Arc<Interrupts> {
        self.interrupts.get_or_init(Arc::default)
    }

    /// Changes how many keep the channel corked; the change and what follows from it are one step.
    pub(crate) fn change_corks(&self, change: impl FnOnce(&mut u32)) {
        change(&mut self.corks.lock().unwrap_or_else(PoisonError::into_inner));
    }

    #[cold]
    fn busy(&self, taken: u8) -> io::Error {
        let who = if taken & Interest::READ.bits() != 0 { "reader" } else { "writer" };
        let text = format!("{}: another {who} waits already, and there can be one", self.name());
        io::Error::new(io::ErrorKind::ResourceBusy, text)
    }
}

/// Somebody waits on the channel.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    base: &'a Base,
    interest: Interest,
}

impl Drop for Waiting<'_> {
    #[inline]
    fn drop(&mut self) {
        self.base.waiting.fetch_and(!self.interest.bits(), Ordering::Release);
    }
}
