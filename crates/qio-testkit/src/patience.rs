//! How long what must happen may take.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use qio::watch::{Steps, run};

/// Long enough for what must happen at once, on the slowest machine.
pub fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(10))
}

/// What the steps come to.
///
/// # Panics
///
/// When that is an error. Steps without a deadline of their own may wait for ever.
pub fn finished<T>(steps: impl Steps<Output = std::io::Result<T>>) -> T {
    finish(steps).unwrap()
}

/// The same, or the error that they come to.
///
/// # Errors
///
/// Those of the steps, and of waiting.
pub fn finish<T>(steps: impl Steps<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match run(steps, None)? {
        ControlFlow::Break(result) => result,
        ControlFlow::Continue(_) => unreachable!("there is no deadline here"),
    }
}
