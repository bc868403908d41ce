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
    mut callback: impl FnMut(Readiness, &mut Watch<C>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut watch = Watch::new(channel, interest);
    loop {
        let ready = run(&mut watch).await??;
        if callback(ready, &mut watch).is_break() {
            return Ok(());
        }
        // What is always ready is not all there is.
        crate::yields::yield_once().await;
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
        let Self { stepper, registrations } = &mut *self;
        for _ in 0..ROUNDS {
            if !stepper.is_due(Instant::now())
                && registrations.poll(stepper.set_mut(), cx)?.is_pending()
            {
                return Poll::Pending;
            }
            if let Poll::Ready(output) = stepper.turn(Instant::now()) {
                registrations.clear();
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
