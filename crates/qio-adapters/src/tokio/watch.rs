//! Watching a channel.

use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use qio::channel::Watch;
use qio::{Channel, Interest, Readiness};

use super::run::Runner;
use crate::callbacks::{Watches, call_back};

/// Calls `callback` whenever one of the wanted conditions of `channel` holds, a hang-up or an
/// error, for as long as it gives `Continue`.
///
/// What the callback leaves is reported again, although tokio itself reports changes only.
///
/// # Errors
///
/// What makes waiting pointless.
///
/// # Cancel safety
///
/// Dropping the future removes the watch.
#[doc(alias = "qio_channel_add_watch")]
#[doc(alias = "qio_channel_add_watch_full")]
pub async fn watch<C: Channel>(
    channel: C,
    interest: Interest,
    callback: impl FnMut(Readiness, &mut Watch<C>) -> ControlFlow<()>,
) -> io::Result<()> {
    call_back(Runner::new(Watch::new(channel, interest)), callback).await
}

impl<C: Channel> Watches<C> for Runner<Watch<C>> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        let polled = self.poll(cx, None);
        let Poll::Ready(ready) = polled? else { return Poll::Pending };
        // What the callback leaves was reported, and will not be reported again: the next wait
        // looks first.
        self.rearm();
        // Without a deadline there is no other end.
        ready.map_or(Poll::Pending, Poll::Ready)
    }

    fn watch(&mut self) -> &mut Watch<C> {
        self.steps_mut()
    }
}
