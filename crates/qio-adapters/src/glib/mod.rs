//! Channels and steps as sources of a GLib main context, for programs on gtk-rs and the like.
//!
//! [`watch`] makes a `GSource` of a channel: its callback gets the readiness and the [`Watch`] with
//! the channel, and keeps or removes the watch. [`run`] makes one of anything that is done in
//! [`Steps`]. A source is attached to one context ([`glib::Source::attach`]), runs in its thread,
//! and is removed there by `destroy`, or by its [`SourceId`](glib::SourceId). It shows the name of
//! the channel (`g_source_get_name`), and has a priority.
//!
//! A source may be made in one thread and attached to the context of another: the callback is
//! `Send`. For what must stay on this thread (coroutines, widgets), [`watch_local`] and [`run_local`]
//! make sources that panic elsewhere.
//!
//! GLib polls by levels: what a callback leaves is reported again; a layer that holds bytes is
//! asked before every poll. After a source is removed, or its channel was closed, nothing is
//! called. A panic in a callback ends the program, as in every callback of GLib.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::{Arc, Mutex};
//!
//! use glib::{MainContext, Priority};
//! use qio::transport::Socket;
//! use qio::{ChannelExt, Interest};
//! use qio_adapters::glib::watch;
//!
//! # fn main() -> std::io::Result<()> {
//! let (left, right) = Socket::pair()?;
//! let got = Arc::new(Mutex::new(Vec::new()));
//! let sink = Arc::clone(&got);
//! let source = watch(Arc::new(right), Interest::READ, Priority::DEFAULT, move |ready, watch| {
//!     let mut buf = [0; 5];
//!     match ready.and_then(|_| watch.channel().read(&mut buf)) {
//!         Ok(count) => sink.lock().unwrap().extend_from_slice(&buf[..count]),
//!         Err(_) => return ControlFlow::Break(()),
//!     }
//!     ControlFlow::Continue(())
//! });
//! let context = MainContext::new();
//! source.attach(Some(&context));
//! left.write_all(b"hello")?;
//! while got.lock().unwrap().is_empty() {
//!     context.iteration(true);
//! }
//! assert_eq!(*got.lock().unwrap(), b"hello");
//! # Ok(())
//! # }
//! ```

#[expect(unsafe_code, reason = "a source is a table of C functions")]
mod native;

use std::io;
use std::ops::ControlFlow;
use std::task::Poll;
use std::time::Instant;

use glib::thread_guard::ThreadGuard;
use glib::{IOCondition, Priority, Source};
use qio::channel::Watch;
use qio::watch::Steps;
use qio::{Channel, ChannelExt, Interest, Readiness};

use self::native::{Dispatch, Polls};
use crate::stepper::{Repeats, Stepper};

/// A source that calls `callback` when one of the wanted conditions of `channel` holds, a hang-up
/// or an error, for as long as the callback gives `Continue`.
///
/// The callback gets an error when waiting is pointless; the source is removed then.
#[doc(alias = "qio_channel_create_watch")]
#[doc(alias = "qio_channel_add_watch_full")]
#[doc(alias = "qio_channel_add_watch_source")]
pub fn watch<C: Channel>(
    channel: C,
    interest: Interest,
    priority: Priority,
    mut callback: impl FnMut(io::Result<Readiness>, &mut Watch<C>) -> ControlFlow<()> + Send + 'static,
) -> Source {
    let name = channel.name();
    let stepper = Stepper::new(Watch::new(channel, interest));
    let told = move |ready: io::Result<Readiness>, watch: &mut Watch<C>| {
        let failed = ready.is_err();
        let next = callback(ready, watch);
        if failed { ControlFlow::Break(()) } else { next }
    };
    let inside = Inside { stepper, repeats: Some(Repeats::WATCH), callback: told };
    native::new(Box::new(inside), &name, priority)
}

/// A source that works `steps` off and calls `done` with what they come to.
///
/// Destroying the source drops the steps, which cancels what they are doing.
pub fn run<S: Steps + Send + 'static>(
    steps: S,
    priority: Priority,
    done: impl FnOnce(S::Output) + Send + 'static,
) -> Source {
    native::new(Box::new(once(steps, done)), "qio steps", priority)
}

/// [`watch`] with a callback that stays on this thread. The source panics in another one, also when
/// it is destroyed there.
pub fn watch_local<C: Channel>(
    channel: C,
    interest: Interest,
    priority: Priority,
    callback: impl FnMut(io::Result<Readiness>, &mut Watch<C>) -> ControlFlow<()> + 'static,
) -> Source {
    let callback = ThreadGuard::new(callback);
    let mut callback = callback;
    watch(channel, interest, priority, move |ready, watch| callback.get_mut()(ready, watch))
}

/// [`run`] with steps that stay on this thread: a [coroutine](crate::coroutine). The source panics
/// in another one, also when it is destroyed there.
pub fn run_local<S: Steps + 'static>(
    steps: S,
    priority: Priority,
    done: impl FnOnce(S::Output) + 'static,
) -> Source {
    let inside = ThreadGuard::new(once(steps, done));
    native::new(Box::new(Local(inside)), "qio steps", priority)
}

/// Steps and what is told of them.
struct Inside<S: Steps, F> {
    stepper: Stepper<S>,
    /// Where there is more to come after an output.
    repeats: Option<Repeats<S>>,
    callback: F,
}

fn once<S: Steps>(
    steps: S,
    done: impl FnOnce(S::Output),
) -> Inside<S, impl FnMut(S::Output, &mut S) -> ControlFlow<()>> {
    let mut done = Some(done);
    let callback = move |output, _: &mut S| {
        if let Some(done) = done.take() {
            done(output);
        }
        ControlFlow::Break(())
    };
    Inside { stepper: Stepper::new(steps), repeats: None, callback }
}

impl<S: Steps, F: FnMut(S::Output, &mut S) -> ControlFlow<()>> Dispatch for Inside<S, F> {
    fn prepare(&mut self, polls: &mut Polls<'_>) -> bool {
        if !self.stepper.has_changed() && self.stepper.waits_for_legs() {
            return false;
        }
        self.stepper.ask_again();
        if self.stepper.is_due() {
            return true;
        }
        let set = self.stepper.set();
        polls.set_fds(set.legs().iter().map(|leg| (leg.fd(), condition(leg.on()))));
        polls.set_ready_time(set.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_micros();
            // Rounded up: a turn before its time would be made in vain.
            glib::monotonic_time()
                .saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
                .saturating_add(1)
        }));
        self.stepper.note_told();
        false
    }

    fn check(&mut self, polls: &mut Polls<'_>) -> bool {
        let mut any = false;
        for (index, fired) in polls.fired().enumerate() {
            if !fired.is_empty() {
                any = true;
                self.stepper.set_mut().mark(index, readiness(fired));
            }
        }
        any
    }

    fn dispatch(&mut self) -> ControlFlow<()> {
        let output = match &self.repeats {
            Some(repeats) => self.stepper.turn_of(repeats),
            None => self.stepper.turn(Instant::now()),
        };
        if let Poll::Ready(output) = output {
            (self.callback)(output, self.stepper.steps_mut())?;
            if let Some(repeats) = &self.repeats {
                self.stepper.rearm(repeats);
            }
        }
        ControlFlow::Continue(())
    }
}

/// What must not leave the thread.
struct Local<D>(ThreadGuard<D>);

impl<D: Dispatch> Dispatch for Local<D> {
    fn prepare(&mut self, polls: &mut Polls<'_>) -> bool {
        self.0.get_mut().prepare(polls)
    }

    fn check(&mut self, polls: &mut Polls<'_>) -> bool {
        self.0.get_mut().check(polls)
    }

    fn dispatch(&mut self) -> ControlFlow<()> {
        self.0.get_mut().dispatch()
    }
}

fn condition(on: Interest) -> IOCondition {
    let mut condition = IOCondition::empty();
    condition.set(IOCondition::IN, on.contains(Interest::READ));
    condition.set(IOCondition::OUT, on.contains(Interest::WRITE));
    // Not asked for, and reported all the same.
    condition | IOCondition::HUP | IOCondition::ERR
}

// GLib and readiness use the bits of poll(2), GLib for a descriptor that is not open, too, which is an
// error like another to a leg.
fn readiness(fired: IOCondition) -> Readiness {
    Readiness::from_bits_retain(fired.bits() as u8)
}

const _: () = assert!(
    Readiness::READ.bits() as u32 == IOCondition::IN.bits()
        && Readiness::WRITE.bits() as u32 == IOCondition::OUT.bits()
        && Readiness::HANGUP.bits() as u32 == IOCondition::HUP.bits()
        && Readiness::ERROR.bits() as u32 == IOCondition::ERR.bits()
);
