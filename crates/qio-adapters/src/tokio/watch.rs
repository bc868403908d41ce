//! Watching a channel.

use std::io;
use std::ops::ControlFlow;

use qio::channel::Watch;
use qio::{Channel, Interest, Readiness};

use super::run;

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
    mut callback: impl FnMut(Readiness, &mut Watch<C>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut watch = Watch::new(channel, interest);
    loop {
        // Each run registers anew, and then the reactor tells what holds already.
        let ready = run(&mut watch).await??;
        if callback(ready, &mut watch).is_break() {
            return Ok(());
        }
        // What is always ready is not all there is.
        crate::yields::yield_once().await;
    }
}
