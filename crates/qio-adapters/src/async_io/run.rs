//! Steps as a future.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use qio::channel::Watch;
use qio::watch::Steps;
use qio::{Channel, Interest, Readiness};

use super::reactor::Registrations;
use crate::callbacks::{Watches, call_back};
use crate::stepper::Stepper;

/// Works `steps` off: connecting, accepting, a handshake, a relay, a coroutine.
///
/// # Errors
///
/// The outer error is the reactor's: it takes no more descriptors. What the steps themselves report
/// is in their output.
///
/// # Cancel safety
///
/// Dropping the future drops the steps, which cancels what they are doing. To keep them, run
/// `&mut steps`: what was done so far is in the steps, never in the future.
pub fn run<S: Steps>(steps: S) -> Run<S> {
    Run { stepper: Stepper::new(steps), registrations: Registrations::default() }
}

/// Calls `callback` whenever one of the wanted conditions of `channel` holds, a hang-up or an
/// error, for as long as it gives `Continue`.
///
/// # Errors
///
/// What makes waiting pointless.
///
/// # Cancel safety
///
/// Dropping the future removes the watch.
#[doc(alias = "qio_channel_add_watch")]
pub async fn watch<C: Channel>(
    channel: C,
    interest: Interest,
    callback: impl FnMut(Readiness, &mut Watch<C>) -> ControlFlow<()>,
) -> io::Result<()> {
    call_back(run(Watch::new(channel, interest)), callback).await
}

impl<C: Channel> Watches<C> for Run<Watch<C>> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        // The registrations stay: with every wait the reactor looks at what is there.
        self.poll_steps(cx)?
    }

    fn watch(&mut self) -> &mut Watch<C> {
        self.stepper.steps_mut()
    }
}

/// The future of [`run`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Run<S> {
    stepper: Stepper<S>,
    registrations: Registrations,
}

// The steps are never pinned.
impl<S> Unpin for Run<S> {}

impl<S: Steps> Future for Run<S> {
    type Output = io::Result<S::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_steps(cx);
        if polled.is_ready() {
            self.registrations.clear();
        }
        polled
    }
}

impl<S: Steps> Run<S> {
    fn poll_steps(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<S::Output>> {
        let Self { stepper, registrations } = self;
        for _ in 0..ROUNDS {
            if !stepper.is_due() && registrations.poll(stepper.set_mut(), cx)?.is_pending() {
                return Poll::Pending;
            }
            if let Poll::Ready(output) = stepper.turn(Instant::now()) {
                return Poll::Ready(Ok(output));
            }
            registrations.sync(stepper.set())?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How many steps are made in one go before other tasks get their turn.
const ROUNDS: u32 = 16;
