//! Channels and steps as event sources of calloop.
//!
//! [`watch`] makes a source of a channel: its callback gets the readiness and the
//! [`Watch`] with the channel, and keeps or removes the watch by the [`PostAction`] that it gives.
//! [`run`] makes one of anything that is done in [`Steps`] (a connect, an accept, a handshake, a
//! relay, a coroutine), which gives its output once and is removed.
//!
//! Both poll by levels: what a callback leaves is reported again, also where a layer holds it.
//! Descriptors that epoll(7) refuses (regular files, `/dev/null`) are always ready, as poll(2) has
//! it; one that is in the loop already is watched through a duplicate.
//!
//! A source does not ask to be called before the loop sleeps: calloop 0.14 calls one that does once
//! more in each turn for every time that it was registered anew, and remembers each of them. What is
//! due at once is a timer instead.
//!
//! A source belongs to the loop it was inserted into, and is removed by its
//! [`RegistrationToken`](calloop::RegistrationToken) there; after that, and after the channel was
//! closed, nothing is called. A loop takes sources from its own thread only; [`remote`] makes
//! what inserts them from others.
//!
//! ```
//! use std::sync::Arc;
//!
//! use calloop::{EventLoop, PostAction};
//! use qio::transport::Socket;
//! use qio::{ChannelExt, Interest};
//! use qio_adapters::calloop::watch;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (left, right) = Socket::pair()?;
//! let mut events = EventLoop::<Vec<u8>>::try_new()?;
//! events.handle().insert_source(watch(Arc::new(right), Interest::READ), |ready, watch, got| {
//!     if ready.is_err() {
//!         return PostAction::Remove;
//!     }
//!     let mut buf = [0; 5];
//!     match watch.channel().read(&mut buf) {
//!         Ok(count) => got.extend_from_slice(&buf[..count]),
//!         Err(_) => return PostAction::Remove,
//!     }
//!     PostAction::Continue
//! })?;
//! left.write_all(b"hello")?;
//! let mut got = Vec::new();
//! while got.is_empty() {
//!     events.dispatch(None, &mut got)?;
//! }
//! assert_eq!(got, b"hello");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll as StepPoll;
use std::time::Instant;

use calloop::channel::{Event as Sent, SyncSender, sync_channel};
use calloop::generic::Generic;
use calloop::timer::{TimeoutAction, Timer};
use calloop::{
    EventSource, Interest as LoopInterest, LoopHandle, Mode, Poll, PostAction, Readiness as Fired,
    Token, TokenFactory,
};
use qio::channel::Watch;
use qio::watch::{Leg, SharedFd, Steps};
use qio::{Channel, Interest, Readiness};
use smallvec::SmallVec;

use crate::stepper::{Repeats, Stepper};

/// A source that reports when one of the wanted conditions of `channel` holds, a hang-up or an
/// error. The channel should be in [`Mode::NonBlocking`](qio::Mode::NonBlocking).
///
/// The event is an error when waiting is pointless; the source is removed then.
#[doc(alias = "qio_channel_add_watch")]
#[doc(alias = "qio_channel_add_watch_full")]
#[doc(alias = "qio_channel_set_aio_fd_handler")]
pub fn watch<C: Channel>(channel: C, interest: Interest) -> Source<Watch<C>> {
    Source::new(Watch::new(channel, interest), Some(Repeats::WATCH))
}

/// A source that works `steps` off and gives their output, once.
///
/// Removing the source drops the steps, which cancels what they are doing.
pub fn run<S: Steps>(steps: S) -> Source<S> {
    Source::new(steps, None)
}

/// An event source of calloop over steps: made by [`watch`] and [`run`].
///
/// What the callback gives says how a watch goes on; after the output of other steps the source is
/// removed whatever it says.
pub struct Source<S: Steps> {
    stepper: Stepper<S>,
    /// Where there is more to come after an output.
    repeats: Option<Repeats<S>>,
    legs: SmallVec<[Registered; 2]>,
    /// When a turn is due although no descriptor fires.
    timer: Option<Timer>,
}

/// A leg that the loop polls.
#[derive(Debug)]
struct Registered {
    fd: SharedFd,
    on: Interest,
    /// `None` where epoll(7) refuses the descriptor: it is always ready.
    source: Option<Generic<SharedFd>>,
}

/// How many turns are made in one go before others get theirs.
const TURNS: u32 = 4;

impl<S: Steps> Source<S> {
    fn new(steps: S, repeats: Option<Repeats<S>>) -> Self {
        let legs = SmallVec::new();
        Self { stepper: Stepper::new(steps), repeats, legs, timer: None }
    }

    /// What is worked off: the [`Watch`] with its channel.
    pub fn steps(&self) -> &S {
        self.stepper.steps()
    }

    /// Whether the loop polls what is waited for, and comes back in time.
    fn is_registered(&self) -> bool {
        let timer = self.timer.as_ref().and_then(Timer::current_deadline);
        let is_timed = match self.is_due_at_once() {
            true => timer.is_some(),
            false => timer == self.stepper.set().deadline(),
        };
        let legs = self.stepper.set().legs();
        is_timed
            && self.legs.len() == legs.len()
            && self.legs.iter().zip(legs).all(|(known, leg)| known.is_for(leg))
    }

    /// Whether the next turn waits for nothing: the first one, and where a descriptor is always
    /// ready.
    fn is_due_at_once(&self) -> bool {
        let is_always_ready = |leg: &Registered| leg.source.is_none() && !leg.on.is_empty();
        !self.stepper.waits() || self.legs.iter().any(is_always_ready)
    }

    /// Marks the leg whose registration `token` is of, or what the timer stands for.
    #[inline]
    fn mark(&mut self, fired: Fired, token: Token) -> io::Result<()> {
        let mut closes = false;
        for (index, leg) in self.legs.iter_mut().enumerate() {
            let Some(source) = &mut leg.source else { continue };
            let mut readiness = Readiness::empty();
            source.process_events(fired, token, |fired, _| {
                readiness.set(Readiness::READ, fired.readable);
                readiness.set(Readiness::WRITE, fired.writable);
                Ok(PostAction::Continue)
            })?;
            // A hang-up is reported as both, also where one is polled for, or nothing.
            closes |= !(readiness - Readiness::from(leg.on)).is_empty();
            self.stepper.set_mut().mark(index, readiness & Readiness::from(leg.on));
        }
        if closes {
            self.stepper.set_mut().poll(Some(Instant::now()))?;
        }
        if self.timer.is_some() {
            self.mark_time(fired, token)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn mark_time(&mut self, fired: Fired, token: Token) -> io::Result<()> {
        let Some(timer) = &mut self.timer else { return Ok(()) };
        let mut is_time = false;
        timer.process_events(fired, token, |_, ()| {
            is_time = true;
            TimeoutAction::Drop
        })?;
        if is_time {
            self.timer = None;
            for (index, leg) in self.legs.iter().enumerate() {
                if leg.source.is_none() {
                    self.stepper.set_mut().mark(index, leg.on.into());
                }
            }
        }
        Ok(())
    }

    /// Has the loop poll what is waited for now.
    fn sync(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        // Somebody else may have it registered anew, after a change.
        self.stepper.refill();
        let wanted = self.stepper.set().legs();
        // A descriptor can be registered once: what goes has to be gone before what comes.
        self.legs.retain(|known| {
            let stays = wanted.iter().any(|leg| known.is_for(leg));
            if let (false, Some(source)) = (stays, &mut known.source) {
                // Dropping it would do; not of a descriptor that was closed, which is gone already.
                let _ = source.unregister(poll);
            }
            stays
        });
        let mut known = std::mem::take(&mut self.legs);
        for leg in wanted {
            let at = known.iter().position(|known| known.is_for(leg));
            let registered = match at.map(|at| known.remove(at)) {
                Some(mut same) => {
                    if let Some(source) = &mut same.source {
                        source.reregister(poll, tokens)?;
                    }
                    same
                }
                None => Registered::new(leg, poll, tokens)?,
            };
            self.legs.push(registered);
        }
        if let Some(mut timer) = self.timer.take() {
            timer.unregister(poll)?;
        }
        let timer = match self.stepper.set().deadline() {
            _ if self.is_due_at_once() => Some(Timer::immediate()),
            deadline => deadline.map(Timer::from_deadline),
        };
        if let Some(mut timer) = timer {
            timer.register(poll, tokens)?;
            self.timer = Some(timer);
        }
        self.stepper.note_told();
        Ok(())
    }
}

impl Registered {
    fn is_for(&self, leg: &Leg) -> bool {
        Arc::ptr_eq(&self.fd, leg.fd()) && self.on == leg.on()
    }

    fn new(leg: &Leg, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<Self> {
        let register = |fd: &SharedFd, poll: &mut Poll, tokens: &mut TokenFactory| {
            let mut source = Generic::new(Arc::clone(fd), interest(leg.on()), Mode::Level);
            source.register(poll, tokens).map(|()| source).map_err(io::Error::from)
        };
        let source = match register(leg.fd(), poll, tokens) {
            // Another source of this loop polls the same descriptor.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let duplicate = SharedFd::new(leg.fd().as_fd().try_clone_to_owned()?);
                Some(register(&duplicate, poll, tokens)?)
            }
            // EPERM: epoll_ctl(2) takes no regular files.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            result => Some(result?),
        };
        Ok(Self { fd: Arc::clone(leg.fd()), on: leg.on(), source })
    }
}

fn interest(on: Interest) -> LoopInterest {
    LoopInterest { readable: on.contains(Interest::READ), writable: on.contains(Interest::WRITE) }
}

impl<S: Steps> EventSource for Source<S> {
    type Event = S::Output;
    type Metadata = S;
    type Ret = PostAction;
    type Error = io::Error;

    fn process_events<F>(
        &mut self,
        fired: Fired,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction>
    where
        F: FnMut(S::Output, &mut S) -> PostAction,
    {
        self.mark(fired, token)?;
        for _ in 0..TURNS {
            let output = match &self.repeats {
                Some(repeats) => self.stepper.turn_of(repeats),
                None => self.stepper.turn(Instant::now()),
            };
            if let StepPoll::Ready(output) = output {
                let action = callback(output, self.stepper.steps_mut());
                let Some(repeats) = &self.repeats else { return Ok(PostAction::Remove) };
                if matches!(action, PostAction::Remove | PostAction::Disable) {
                    return Ok(action);
                }
                self.stepper.rearm(repeats);
            }
            // The rest is told when the others have had their turn.
            if !self.stepper.is_due() {
                break;
            }
        }
        let is_told = !self.stepper.has_changed() && self.timer.is_none();
        Ok(match is_told || self.is_registered() {
            true => PostAction::Continue,
            false => PostAction::Reregister,
        })
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.sync(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.sync(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        for leg in &mut self.legs {
            if let Some(source) = &mut leg.source {
                source.unregister(poll)?;
            }
        }
        self.legs.clear();
        match self.timer.take() {
            Some(mut timer) => timer.unregister(poll),
            None => Ok(()),
        }
    }
}

impl<S: Steps + fmt::Debug> fmt::Debug for Source<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Source").field("stepper", &self.stepper).finish_non_exhaustive()
    }
}

/// Inserts sources into a loop, from any thread.
pub struct Remote<Data>(SyncSender<Insert<Data>>);

type Insert<Data> = Box<dyn FnOnce(&LoopHandle<'static, Data>, &mut Data) + Send>;

/// What is waiting to be done in the loop at most: who asks for more waits.
const QUEUED: usize = 1024;

/// Makes what inserts sources into the loop of `handle` from other threads. Call it in the thread
/// of the loop.
///
/// # Errors
///
/// What inserting a source reports.
pub fn remote<Data: 'static>(handle: &LoopHandle<'static, Data>) -> io::Result<Remote<Data>> {
    let (sender, receiver) = sync_channel::<Insert<Data>>(QUEUED);
    // The loop owns the source, which must not own the loop.
    let inside = handle.downgrade();
    handle
        .insert_source(receiver, move |sent, (), data| {
            if let (Sent::Msg(insert), Some(handle)) = (sent, inside.upgrade()) {
                insert(&handle, data);
            }
        })
        .map_err(|error| io::Error::other(error.error))?;
    Ok(Remote(sender))
}

impl<Data> Remote<Data> {
    /// Has the loop call `insert` with its handle, in its own thread and soon.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the loop is gone.
    pub fn call(
        &self,
        insert: impl FnOnce(&LoopHandle<'static, Data>, &mut Data) + Send + 'static,
    ) -> io::Result<()> {
        self.0.send(Box::new(insert)).map_err(|_| io::ErrorKind::NotConnected.into())
    }
}

impl<Data> Clone for Remote<Data> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Data> fmt::Debug for Remote<Data> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Remote")
    }
}
