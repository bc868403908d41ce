//! One timer that is moved as seldom as possible.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

/// Waits for a deadline that moves with every message.
///
/// The timer of the runtime is touched only when the deadline comes to lie before the time it is
/// armed for, or when it has fired: a deadline that moves away lets it fire and looks again. An
/// idle timeout thus costs one firing per timeout, and nothing per message.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// What the timer is armed for; `None` when it has fired.
    armed: Option<Instant>,
}

impl Timer {
    /// Ready when `deadline` has passed; `None` never does.
    pub(super) fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        loop {
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            let sleep = self.arm(deadline);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
        }
    }

    fn arm(&mut self, deadline: Instant) -> &mut Pin<Box<Sleep>> {
        let sleep = self.sleep.get_or_insert_with(|| {
            self.armed = Some(deadline);
            Box::pin(tokio::time::sleep_until(deadline.into()))
        });
        if self.armed.is_none_or(|armed| deadline < armed) {
            sleep.as_mut().reset(deadline.into());
            self.armed = Some(deadline);
        }
        sleep
    }
}
