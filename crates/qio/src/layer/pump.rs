//! The pump between an engine and the channel below.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::time::Instant;

use qio_proto::{Engine, Time};

use super::failure::Failure;
use super::handover::Handover;
use super::inwards::{How, Inwards, Outlook};
use super::left_behind::LeftBehind;
use super::outwards::Outwards;
use super::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::channel::{
    AsChannel as _, Base, Channel, ChannelExt, Features, Mode, ReadFlags, ReadOp, WriteOp,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{PollSet, waiter};

/// A protocol over a channel: reads and writes are plain, the channel below has the wire.
///
/// Full duplex: the reader, the writer and the engine have locks of their own, and none is held
/// while anything waits. What a read makes the protocol say (a pong, a key update) goes out at
/// once, or as soon as there is room, by whoever has the writer's lock. Only the reader takes bytes
/// from below: whoever else drives the channel leaves them where the reader's wait sees them. What a
/// write leaves behind for want of room goes out with the next call, or by whoever waits, also by a
/// reader that waits already.
///
/// Memory: nothing while idle. While bytes wait, inwards the engine's
/// [`inbound_bytes`](Engine::inbound_bytes); outwards what was accepted and does not fit below:
/// one piece of 8 KiB where plain bytes leave as they are, else 65 KiB.
///
/// The end of the stream is the protocol's farewell. A wire that ends without one is an error
/// (`UnexpectedEof`), because something may be missing, unless
/// [`ReadFlags::RELAXED_EOF`] asks for less.
#[derive(Debug)]
pub struct Layer<C, E> {
    base: Base,
    below: C,
    engine: Mutex<E>,
    inwards: Mutex<Inwards>,
    outwards: Handover<Outwards>,
    /// The channel was driven: who wants to read looks below.
    driven: AtomicBool,
    /// What a reader that waits would not know.
    left_behind: LeftBehind,
    closed: AtomicBool,
    /// Where the engine's time begins.
    epoch: Instant,
}

impl<C: Channel, E: Engine + fmt::Debug + 'static> Layer<C, E> {
    /// Puts an engine over a channel; `kind` is the layer's name in front of that of the channel.
    pub fn new(kind: &'static str, below: C, engine: E) -> Self {
        Self::with_rest(kind, below, engine, &[])
    }

    /// The same with bytes of the wire that were read already, behind a handshake.
    pub(super) fn with_rest(kind: &'static str, below: C, mut engine: E, rest: &[u8]) -> Self {
        let kept = Features::DUPLEX | Features::SHUTDOWN | Features::DRAINS;
        let features = below.features() & kept;
        let base = Base::new(kind, features);
        base.set_name(format!("{kind} over {}", below.name()));
        base.set_mode(below.base().mode());
        // The first look sets the clock; nothing can be late yet.
        let _ = engine.handle_time(std::time::Duration::ZERO);
        Self {
            base,
            below,
            engine: Mutex::new(engine),
            inwards: Mutex::new(Inwards::new(rest)),
            outwards: Handover::default(),
            driven: AtomicBool::new(false),
            left_behind: LeftBehind::default(),
            closed: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    /// Looks at the engine: what was negotiated, how the peer said farewell.
    #[doc(alias = "qio_channel_tls_get_session")]
    pub fn with_engine<R>(&self, look: impl FnOnce(&mut E) -> R) -> R {
        let result = look(&mut lock(&self.engine));
        self.say_what_is_owed();
        result
    }

    /// Sends what the engine has to say, unless somebody else is at it, who then does.
    fn say_what_is_owed(&self) {
        if lock(&self.engine).wants_wire() {
            self.outwards.owe(|outwards| self.pay(outwards));
        }
    }

    fn pay(&self, outwards: &mut Outwards) {
        // What cannot go out now waits in the engine for the next write, or for whoever waits.
        // An error comes out of the next write.
        let _ = outwards.flush(&self.below, &self.engine);
        self.note_what_is_left(outwards);
    }

    /// Works on the way out, and pays what became owed meanwhile.
    fn outwards<R>(&self, work: impl FnOnce(&mut Outwards) -> R) -> R {
        let work = |outwards: &mut Outwards| {
            let result = work(outwards);
            self.note_what_is_left(outwards);
            result
        };
        self.outwards.with(work, |outwards| self.pay(outwards))
    }

    /// Tells a reader that waits already to wait for room, too: the writer may have nothing more to
    /// write, and wait for the answer to what is still here.
    ///
    /// Under the writer's lock, like the look of a wait that begins: one of the two sees the other.
    fn note_what_is_left(&self, outwards: &Outwards) {
        self.base.note_held_output(outwards.is_pending());
        if !self.base.is_waited_for(Direction::Read) {
            return;
        }
        let below = || self.below.flush().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        if outwards.is_pending() || below() {
            self.left_behind.tell();
        }
    }

    fn handle_time(&self, now: Time) {
        let is_late = || lock(&self.engine).deadline().is_some_and(|deadline| deadline <= now);
        if !is_late() {
            return;
        }
        // A user that does not read makes no silent peer.
        let has_arrivals = self.has_arrivals();
        let mut engine = lock(&self.engine);
        if has_arrivals {
            engine.handle_arrival();
        }
        let result = engine.handle_time(now);
        drop(engine);
        if let Err(late) = result {
            lock(&self.inwards).fail(Failure::new(ErrorKind::TimedOut, late));
        }
    }

    /// Whether the peer has sent something that the user has not taken yet.
    fn has_arrivals(&self) -> bool {
        if lock(&self.inwards).look(&self.below, &self.engine, false) == Outlook::Plain {
            return true;
        }
        let mut set = PollSet::new();
        let ready = self.below.watch(Interest::READ, &mut set);
        let now = Instant::now();
        let fires = |set: &mut PollSet| {
            set.poll(Some(now)).is_ok() && set.legs().iter().any(|leg| !leg.fired().is_empty())
        };
        !ready.is_empty() || fires(&mut set)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl<C: Channel, E: Engine + fmt::Debug + 'static> Channel for Layer<C, E> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.below)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let how = How {
            relaxed: op.flags().contains(ReadFlags::RELAXED_EOF),
            waits: !op.flags().contains(ReadFlags::NONBLOCK)
                && self.base.mode() == Mode::Blocking
                && waiter::polls(),
        };
        // Looking below is what a read does.
        self.driven.store(false, Ordering::Release);
        let (result, leaves) = {
            let mut inwards = lock(&self.inwards);
            let result = inwards.read(&self.below, &self.engine, op.bufs(), how);
            let tells = self.left_behind.is_awaited() && self.base.is_waited_for(Direction::Read);
            (result, tells && inwards.has_plain(&self.engine))
        };
        if leaves {
            self.left_behind.tell();
        }
        self.say_what_is_owed();
        match result {
            Err(_) if self.is_closed() => Err(ErrorKind::NotConnected.into()),
            result => result,
        }
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let result = self.outwards(|out| out.write(&self.below, &self.engine, op.bufs()));
        let mut station = Some(self.as_channel());
        while let Some(channel) = station {
            if channel.base().holds_output() {
                op.note_held();
                break;
            }
            station = channel.inner();
        }
        match result {
            Err(_) if self.is_closed() => Err(ErrorKind::NotConnected.into()),
            result => result,
        }
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if self.is_closed() {
            return Readiness::from(interest) | Readiness::HANGUP;
        }
        if interest.is_empty() {
            return self.below.watch(interest, set);
        }
        let mut ready = Readiness::empty();
        let mut internal = Interest::empty();
        if interest.contains(Interest::READ) {
            let looks = self.driven.swap(false, Ordering::AcqRel);
            match lock(&self.inwards).look(&self.below, &self.engine, looks) {
                Outlook::Plain => {
                    ready |= Readiness::READ;
                    if looks && self.base.is_waited_for_by_several(Direction::Read) {
                        // What the others wait for has gone from the channel below.
                        self.left_behind.tell();
                    }
                }
                // Whatever comes is for the user.
                Outlook::Passes => ready |= self.below.watch(Interest::READ, set),
                Outlook::Wire => internal |= Interest::READ,
            }
            if looks {
                self.say_what_is_owed();
            }
        }
        // Outside of a wait, an event loop knows what was written, and asks again.
        let tells = self.base.is_waited_for(Direction::Read) && ready.is_empty();
        if tells {
            // Before the last look: what is left behind from here on is told.
            self.left_behind.begin();
            if interest.contains(Interest::READ) && lock(&self.inwards).has_plain(&self.engine) {
                ready |= Readiness::READ;
            }
        }
        let (pending, failed) = {
            let outwards = self.outwards.lock();
            (outwards.is_pending(), outwards.has_failed())
        };
        // After the lock was given back: what was owed to its holder shows up here.
        let is_owed = !failed && !pending && lock(&self.engine).wants_wire();
        if is_owed {
            // Nobody has tried: there may be room.
            set.mark_untried();
        }
        let pending = !failed && (pending || is_owed);
        if pending {
            internal |= Interest::WRITE;
        } else if interest.contains(Interest::WRITE) {
            ready |= match failed {
                true => Readiness::WRITE,
                false => self.below.watch(Interest::WRITE, set) & Readiness::from(Interest::WRITE),
            };
        }
        if ready.is_empty() {
            if !internal.is_empty() {
                let now = set.internally(|set| self.below.watch(internal, set));
                if !now.is_empty() {
                    // What is ready below needs no wait, but a drive.
                    set.wake_at(Instant::now());
                }
            }
            if tells && !pending {
                self.left_behind.watch(set);
            }
            if let Some(deadline) = lock(&self.engine).deadline() {
                set.wake_at(self.epoch + deadline);
            }
        }
        ready
    }

    fn drive(&self, now: Instant) -> Result<()> {
        self.below.drive(now)?;
        self.handle_time(now.saturating_duration_since(self.epoch));
        // The bytes below are left to the reader: its wait would not wake up for what is gone, and
        // it knows no other way to learn of it.
        self.driven.store(true, Ordering::Release);
        // What fails is told by the next write.
        let _ = self.outwards(|outwards| outwards.flush(&self.below, &self.engine));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.outwards(|outwards| outwards.flush(&self.below, &self.engine))?;
        self.below.flush()
    }

    fn finish(&self) -> Result<()> {
        if self.is_closed() {
            return Err(ErrorKind::NotConnected.into());
        }
        if !self.below.features().contains(Features::WRITE) {
            // There is no way for a farewell.
            return self.below.finish();
        }
        self.outwards(|outwards| outwards.finish(&self.below, &self.engine))
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        if self.is_closed() {
            return Err(Error::from(ErrorKind::NotConnected));
        }
        if how != Shutdown::Write {
            // First: who reads the end of the wire because of it reads an end.
            lock(&self.inwards).shut();
        }
        self.below.shutdown(how)?;
        if how != Shutdown::Read {
            let (shut, _) = Failure::below(ErrorKind::BrokenPipe, ErrorKind::BrokenPipe.into());
            self.outwards.lock().fail(shut);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let not_sent = self.outwards.lock().close(&self.below, &self.engine);
        lock(&self.inwards).close();
        let closed = self.below.close();
        not_sent.and(closed)
    }
}
