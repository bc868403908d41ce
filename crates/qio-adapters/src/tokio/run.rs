//! Steps as a future.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use qio::watch::{PollSet, Steps};
use qio::{Interest, Readiness};
use smallvec::SmallVec;

use super::reactor::{INLINE, Reactor, Tick, wanted};
use super::timer::Timer;

/// Works `steps` off on the current tokio runtime.
///
/// A step is made at the start, when a leg has fired, and when the deadline of the leg set has
/// passed; a wake-up for another reason costs no step. One that says that it waits while its
/// descriptors keep being ready (a regular file) is repeated a few times and then lets other tasks
/// run.
///
/// A descriptor whose peer has hung up is always ready, too. Steps that wait for it all the same
/// and make nothing of it are not repeated for ever: after four fruitless rounds the
/// registration is made anew, which forgets a hang-up that is no longer true, 10 ms later.
///
/// # Errors
///
/// The outer error is the runtime's: it shuts down, or epoll(7) takes no more descriptors
/// (`max_user_watches`). What the steps themselves report is in their output.
///
/// # Cancel safety
///
/// Dropping the future drops the steps, which cancels what they are doing. To keep them, run
/// `&mut steps`: what was done so far is in the steps, never in the future, and a new run goes on
/// from there.
///
/// # Examples
///
/// ```
/// use std::task::Poll;
/// use std::time::Instant;
///
/// use qio::watch::{PollSet, Steps};
/// use qio::{Channel, ChannelExt, Interest, Mode, transport::Socket};
///
/// /// Reads one byte.
/// struct Byte(Socket);
///
/// impl Steps for Byte {
///     type Output = std::io::Result<u8>;
///
///     fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
///         let mut byte = [0];
///         match self.0.read(&mut byte) {
///             Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Poll::Pending,
///             result => Poll::Ready(result.map(|_| byte[0])),
///         }
///     }
///
///     fn watch(&mut self, set: &mut PollSet) {
///         if !self.0.watch(Interest::READ, set).is_empty() {
///             set.wake_at(Instant::now());
///         }
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(async {
///     let (left, right) = Socket::pair()?;
///     right.set_mode(Mode::NonBlocking)?;
///     let reading = qio_adapters::tokio::run(Byte(right));
///     left.write_all(b"!")?;
///     assert_eq!(reading.await??, b'!');
///     Ok(())
/// })
/// # }
/// ```
pub fn run<S: Steps>(steps: S) -> Run<S> {
    Run { runner: Some(Runner::new(steps)) }
}

/// Works `steps` off until `deadline`.
///
/// Gives `Continue` with the steps when the deadline passed first: the work stands where it stood
/// and can be gone on with, or dropped. Everything else is as in [`run`].
///
/// # Errors
///
/// As [`run`].
///
/// # Cancel safety
///
/// As [`run`].
pub fn run_until<S: Steps>(steps: S, deadline: Instant) -> RunUntil<S> {
    RunUntil { runner: Some(Runner::new(steps)), deadline }
}

/// The future of [`run`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Run<S> {
    runner: Option<Runner<S>>,
}

// The steps are moved in and out, never pinned.
impl<S> Unpin for Run<S> {}

impl<S> Run<S> {
    /// Gives the steps back, which stand where they stood, to be run elsewhere or looked at;
    /// `None` when they are over.
    pub fn into_steps(self) -> Option<S> {
        self.runner.map(|runner| runner.steps)
    }
}

impl<S: Steps> Future for Run<S> {
    type Output = io::Result<S::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let runner = self.runner.as_mut().expect("a future is not polled after it was ready");
        let polled = runner.poll(cx, None);
        match polled {
            Poll::Ready(Ok(Some(output))) => {
                self.runner = None;
                Poll::Ready(Ok(output))
            }
            Poll::Ready(Err(error)) => {
                self.runner = None;
                Poll::Ready(Err(error))
            }
            // Without a deadline there is no other end.
            Poll::Ready(Ok(None)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// The future of [`run_until`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct RunUntil<S> {
    runner: Option<Runner<S>>,
    deadline: Instant,
}

impl<S> Unpin for RunUntil<S> {}

impl<S: Steps> Future for RunUntil<S> {
    type Output = io::Result<ControlFlow<S::Output, S>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let deadline = Some(self.deadline);
        let mut runner = self.runner.take().expect("a future is not polled after it was ready");
        match runner.poll(cx, deadline) {
            Poll::Ready(Ok(Some(output))) => Poll::Ready(Ok(ControlFlow::Break(output))),
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(ControlFlow::Continue(runner.steps))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.runner = Some(runner);
                Poll::Pending
            }
        }
    }
}

/// Steps with what they wait for.
#[derive(Debug)]
pub(super) struct Runner<S> {
    steps: S,
    /// What was asked for after the last step.
    set: PollSet,
    reactor: Reactor,
    timer: Timer,
    /// A step is due, whatever fired: the first one.
    due: bool,
    /// Legs that nobody had tried have been looked at and found ready, and are marked.
    held: bool,
    fruitless: u32,
    /// When to look at a descriptor again that keeps saying that it is closed.
    look_again: Option<Instant>,
}

impl<S: Steps> Runner<S> {
    pub(super) fn new(steps: S) -> Self {
        Self {
            steps,
            set: PollSet::new(),
            reactor: Reactor::default(),
            timer: Timer::default(),
            due: true,
            held: false,
            fruitless: 0,
            look_again: None,
        }
    }

    pub(super) fn steps_mut(&mut self) -> &mut S {
        &mut self.steps
    }

    /// Has steps that may be stepped again after their output begin anew with the next poll.
    pub(super) fn rearm(&mut self) {
        // What was reported before the last step and not cleared is reported again, and harmless.
        self.due = true;
    }

    /// `None` when `until` passed first.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        until: Option<Instant>,
    ) -> Poll<io::Result<Option<S::Output>>> {
        for _ in 0..ROUNDS {
            // What is cleared after the step is what was reported before it: what arrives while
            // the step runs is newer, and stays.
            let ticks = take(&self.reactor, &self.set, cx)?;
            let held = std::mem::take(&mut self.held);
            if !self.due && !ticks.fired && !held {
                let deadline = [self.set.deadline(), until, self.look_again];
                let deadline = deadline.into_iter().flatten().min();
                if self.timer.poll(deadline, cx).is_pending() {
                    return Poll::Pending;
                }
            } else if !self.due && !held && ticks.only_closed {
                self.fruitless += 1;
                if self.fruitless > PATIENCE {
                    let closed: SmallVec<[_; INLINE]> =
                        ticks.list.iter().map(|tick| tick.fd().clone()).collect();
                    drop(ticks);
                    closed.iter().for_each(|fd| self.reactor.forget(fd));
                    self.look_again = Some(Instant::now() + PAUSE);
                    continue;
                }
            } else {
                self.fruitless = 0;
            }
            if !self.due {
                ticks.mark(&mut self.set);
                self.steps.woken(&self.set);
            }
            self.due = false;
            self.look_again = None;

            let now = Instant::now();
            if let Poll::Ready(output) = self.steps.step(now) {
                return Poll::Ready(Ok(Some(output)));
            }
            if until.is_some_and(|until| until <= now) {
                return Poll::Ready(Ok(None));
            }
            self.set.clear();
            self.steps.watch(&mut self.set);
            // tokio reports changes only, and the last one may have been what a step saw before it
            // came to wait for this.
            self.held = self.set.is_untried() && holds(&mut self.set)?;
            match self.held {
                true => drop(ticks),
                false => ticks.settle(&self.set),
            }
            self.reactor.sync(&[&self.set])?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What was reported before a step.
struct Ticks<'a> {
    list: SmallVec<[Tick<'a>; INLINE]>,
    /// Something was that is waited for.
    fired: bool,
    /// All of that is only that a direction is closed.
    only_closed: bool,
}

impl Ticks<'_> {
    /// Marks the legs that fired, so that the steps try no others.
    fn mark(&self, set: &mut PollSet) {
        for tick in &self.list {
            for index in 0..set.legs().len() {
                let leg = &set.legs()[index];
                if !Arc::ptr_eq(leg.fd(), tick.fd()) {
                    continue;
                }
                if leg.on().is_empty() && tick.is_hung_up() {
                    set.mark(index, Readiness::HANGUP);
                } else if leg.on().contains(tick.interest()) {
                    set.mark(index, tick.interest().into());
                }
            }
        }
    }

    /// Clears what was tried and would have blocked: what is waited for after the step.
    fn settle(self, set: &PollSet) {
        for tick in self.list {
            if wanted(&[set], tick.fd()).contains(tick.interest()) {
                tick.clear();
            }
        }
    }
}

fn take<'a>(reactor: &'a Reactor, set: &PollSet, cx: &mut Context<'_>) -> io::Result<Ticks<'a>> {
    let mut ticks = Ticks { list: SmallVec::new(), fired: false, only_closed: true };
    for registration in reactor.registrations() {
        let wanted = wanted(&[set], registration.fd());
        for direction in registration.interest().directions() {
            // A direction that is not waited for now may be after the step, and is known then.
            let is_wanted = wanted.contains(Interest::from(direction));
            let polled = if is_wanted {
                registration.poll(direction, cx)
            } else {
                registration.poll(direction, &mut Context::from_waker(Waker::noop()))
            };
            if let Poll::Ready(tick) = polled {
                let tick = tick?;
                if is_wanted {
                    ticks.fired = true;
                    ticks.only_closed &= tick.is_only_closed();
                }
                ticks.list.push(tick);
            }
        }
    }
    Ok(ticks)
}

/// Whether what `set` waits for is there already.
pub(super) fn holds(set: &mut PollSet) -> io::Result<bool> {
    set.poll(Some(Instant::now()))?;
    Ok(set.legs().iter().any(|leg| !leg.fired().is_empty()))
}

/// How many steps are made in one go before other tasks get their turn.
const ROUNDS: u32 = 16;

/// How many steps in a row may make nothing of a hang-up. One is usual: the first reads the last
/// data, the second the end.
pub(super) const PATIENCE: u32 = 4;

/// How long such a descriptor is left alone.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
