//! The pump between an engine and the channel below.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::time::Instant;

use qio_proto::Engine;

use super::inwards::{Failure, Inwards};
use super::outwards::Outwards;
use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock, try_lock};
use crate::channel::{Base, Channel, ChannelExt, Features, ReadFlags, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::PollSet;

/// A protocol over a channel: reads and writes are plain, the channel below has the wire.
///
/// Full duplex: the reader, the writer and the engine have locks of their own, and none is held
/// while anything waits. What a read makes the protocol say (a pong, a key update) goes out at
/// once, or as soon as there is room, by whoever has the writer's lock.
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
    outwards: Mutex<Outwards>,
    /// The engine has something to say, and nobody has said it.
    owes: AtomicBool,
    /// A reader waits: driving takes from below.
    reader_waits: AtomicBool,
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
        let features = below.features() & (Features::DUPLEX | Features::SHUTDOWN);
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
            outwards: Mutex::new(Outwards::default()),
            owes: AtomicBool::new(false),
            reader_waits: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    /// Looks at the engine: what was negotiated, how the peer said farewell.
    pub fn with_engine<R>(&self, look: impl FnOnce(&mut E) -> R) -> R {
        let result = look(&mut lock(&self.engine));
        self.say_what_is_owed();
        result
    }

    /// Sends what the engine has to say, unless somebody else is at it, who then does.
    fn say_what_is_owed(&self) {
        if !lock(&self.engine).wants_wire() {
            return;
        }
        self.owes.store(true, Ordering::SeqCst);
        self.pay();
    }

    fn pay(&self) {
        while self.owes.load(Ordering::SeqCst) {
            // Whoever has the lock looks at the flag again after giving it back.
            let Some(mut outwards) = try_lock(&self.outwards) else { return };
            // Cleared first: what is owed from here on is seen in the next round.
            self.owes.store(false, Ordering::SeqCst);
            // What cannot go out now waits in the engine for the next write, or for whoever waits.
            // An error comes out of the next write.
            let _ = outwards.flush(&self.below, &self.engine);
        }
    }

    /// Works on the way out, and pays what became owed meanwhile.
    fn outwards<R>(&self, work: impl FnOnce(&mut MutexGuard<'_, Outwards>) -> R) -> R {
        let result = work(&mut lock(&self.outwards));
        self.pay();
        result
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
        let relaxed = op.flags().contains(ReadFlags::RELAXED_EOF);
        let result = lock(&self.inwards).read(&self.below, &self.engine, op.bufs(), relaxed);
        self.say_what_is_owed();
        match result {
            Err(_) if self.is_closed() => Err(ErrorKind::NotConnected.into()),
            result => result,
        }
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let result = self.outwards(|out| out.write(&self.below, &self.engine, op.bufs()));
        match result {
            Err(_) if self.is_closed() => Err(ErrorKind::NotConnected.into()),
            result => result,
        }
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if self.is_closed() {
            return Readiness::from(interest) | Readiness::HANGUP;
        }
        let mut ready = Readiness::empty();
        let mut internal = Interest::empty();
        if interest.contains(Interest::READ) {
            if lock(&self.inwards).is_ready(&self.engine) {
                ready |= Readiness::READ;
            } else {
                self.reader_waits.store(true, Ordering::Release);
                internal |= Interest::READ;
            }
        }
        let (pending, failed) = {
            let outwards = lock(&self.outwards);
            (outwards.is_pending(), outwards.has_failed())
        };
        if failed {
            ready |= Readiness::from(interest & Interest::WRITE);
        } else if pending || lock(&self.engine).wants_wire() {
            internal |= Interest::WRITE;
        } else if interest.contains(Interest::WRITE) {
            ready |= self.below.watch(Interest::WRITE, set) & Readiness::from(Interest::WRITE);
        }
        if interest.is_empty() {
            return self.below.watch(interest, set);
        }
        if ready.is_empty() {
            if !internal.is_empty() {
                let now = set.internally(|set| self.below.watch(internal, set));
                if !now.is_empty() {
                    // What is ready below needs no wait, but a drive.
                    set.wake_at(Instant::now());
                }
            }
            if let Some(deadline) = lock(&self.engine).deadline() {
                set.wake_at(self.epoch + deadline);
            }
        }
        ready
    }

    fn drive(&self, now: Instant) -> Result<()> {
        self.below.drive(now)?;
        let late = {
            let mut engine = lock(&self.engine);
            let now = now.saturating_duration_since(self.epoch);
            match engine.deadline() {
                Some(deadline) if deadline <= now => engine.handle_time(now).err(),
                _ => None,
            }
        };
        let mut inwards = lock(&self.inwards);
        if let Some(late) = late {
            inwards.fail(Failure::new(ErrorKind::TimedOut, &late));
        }
        if self.reader_waits.swap(false, Ordering::AcqRel) {
            inwards.drive(&self.below, &self.engine);
        }
        drop(inwards);
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
            let shut = Failure::new(ErrorKind::BrokenPipe, &Error::from(ErrorKind::BrokenPipe));
            lock(&self.outwards).fail(shut);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let not_sent = lock(&self.outwards).close(&self.below, &self.engine);
        lock(&self.inwards).close();
        let closed = self.below.close();
        not_sent.and(closed)
    }
}
