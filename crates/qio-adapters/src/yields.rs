//! Letting other tasks run.

use std::future::poll_fn;
use std::task::Poll;

/// Pending once, woken at once: the executor goes through its other tasks first.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
