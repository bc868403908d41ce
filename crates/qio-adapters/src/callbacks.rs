//! Calling back for every readiness of a watch, as a future.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};

use qio::channel::Watch;
use qio::{Channel, Readiness};

/// What works a watch off in a loop, and keeps its registrations from one readiness to the next.
pub(crate) trait Watches<C: Channel> {
    /// Gives the next readiness.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Readiness>>;

    fn watch(&mut self) -> &mut Watch<C>;
}

/// Calls `callback` with every readiness, for as long as it gives `Continue`.
pub(crate) async fn call_back<C: Channel>(
    mut watches: impl Watches<C>,
    mut callback: impl FnMut(Readiness, &mut Watch<C>) -> ControlFlow<()>,
) -> io::Result<()> {
    poll_fn(|cx| {
        for _ in 0..CALLS {
            let ready = ready!(watches.poll_ready(cx))?;
            if callback(ready, watches.watch()).is_break() {
                return Poll::Ready(Ok(()));
            }
        }
        // What is always ready is not all there is.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// How many calls are made in one go before other tasks get their turn.
const CALLS: u32 = 4;
