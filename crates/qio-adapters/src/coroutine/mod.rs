//! Coroutines: code that looks blocking, and waits in any event loop.
//!
//! A [`Coroutine`] runs a body on a stack of its own. Where the body would block a thread
//! (`read_exact`, `accept`, a TLS handshake, [`wait`](qio::ChannelExt::wait)) it leaves its stack instead, and
//! is [`Steps`]: an adapter of an event loop, or [`qio::watch::run`], waits for what the body waits
//! for and enters it again. The same source code blocks outside of a coroutine.
//!
//! - It stays on the thread that made it, and may change loops there between two waits. What wakes
//!   it may come from any thread.
//! - One reader and one writer of a channel wait at a time, in coroutines as in threads; they may
//!   do so in two loops and threads.
//! - Dropping it cancels: its stack is unwound, as by a panic that nobody sees. Bytes that were
//!   taken from below are in the channel, not on the stack.
//! - A panic of the body comes out of the coroutine as its result ([`JoinError::Panicked`]), and
//!   touches nobody else.
//! - A channel in blocking mode waits for its first byte here, too; one that a thread outside has
//!   put into blocking mode may be a socket that blocks in the kernel, and then blocks the loop.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use qio::transport::Duplex;
//! use qio::{ChannelExt, watch};
//! use qio_adapters::coroutine::{Coroutine, spawn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (left, right) = Duplex::pair();
//! let (echo, _) = spawn(move || -> std::io::Result<()> {
//!     let mut buf = [0; 5];
//!     right.read_exact(&mut buf)?;
//!     right.write_all(&buf)
//! })?;
//! let asks = Coroutine::new(move || -> std::io::Result<[u8; 5]> {
//!     let mut answer = [0; 5];
//!     left.write_all(b"hello")?;
//!     // Without a loop, one coroutine waits inside of the other.
//!     let _ = watch::run(echo, None)?;
//!     left.read_exact(&mut answer)?;
//!     Ok(answer)
//! })?;
//! let ControlFlow::Break(answer) = watch::run(asks, None)? else { unreachable!("no deadline") };
//! assert_eq!(answer??, *b"hello");
//! # Ok(())
//! # }
//! ```

#[expect(unsafe_code, reason = "the way out of a stack is on that stack")]
mod context;
mod current;
mod join;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qio::watch::{PollSet, Steps};

use context::Context;
use current::Wakes;
pub use current::{Waker, park, waker, yield_now, yield_until};
pub use join::{Join, JoinError, Spawned, spawn};

/// A body that is entered when what it waits for is there. See the [module](self).
#[doc(alias = "qemu_coroutine_create")]
#[doc(alias = "qio_channel_set_follow_coroutine_ctx")]
pub struct Coroutine<T> {
    context: Context,
    result: Rc<RefCell<Option<T>>>,
    wakes: Arc<Wakes>,
    /// Where in the loop's set the legs of this begin.
    first_leg: usize,
}

/// How a coroutine is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CoroutineOptions {
    /// The size of the stack, in bytes; a page that may not be touched lies below it, so that one
    /// that overflows ends the program and harms nothing. Default: 256 KiB, of which the system
    /// hands out only the pages that are used. A TLS handshake needs some 64 KiB in a program
    /// without optimisation.
    pub stack_bytes: usize,
}

impl Default for CoroutineOptions {
    fn default() -> Self {
        Self { stack_bytes: 256 * 1024 }
    }
}

impl<T: 'static> Coroutine<T> {
    /// A coroutine that runs `body`, and begins with the first step.
    ///
    /// # Errors
    ///
    /// What mmap(2) reports when there is no room for a stack.
    pub fn new(body: impl FnOnce() -> T + 'static) -> io::Result<Self> {
        Self::with_options(CoroutineOptions::default(), body)
    }

    /// The same with options.
    ///
    /// # Errors
    ///
    /// As [`new`](Coroutine::new).
    pub fn with_options(
        options: CoroutineOptions,
        body: impl FnOnce() -> T + 'static,
    ) -> io::Result<Self> {
        let result = Rc::new(RefCell::new(None));
        let place = Rc::clone(&result);
        let context = Context::new(options.stack_bytes, move || {
            let value = body();
            *place.borrow_mut() = Some(value);
        })?;
        Ok(Self { context, result, wakes: Arc::default(), first_leg: 0 })
    }
}

impl<T> Coroutine<T> {
    /// Wakes the coroutine from any thread: see [`park`].
    pub fn waker(&self) -> Waker {
        Waker::new(Arc::clone(&self.wakes))
    }

    /// Enters the body until it waits for something that has not happened.
    fn enter(&mut self) -> Poll<Result<T, JoinError>> {
        for _ in 0..ROUNDS {
            let context = &mut self.context;
            let entered =
                current::during(&self.wakes, || catch_unwind(AssertUnwindSafe(|| context.enter())));
            match entered {
                Ok(true) => {}
                Ok(false) => {
                    let value = self.result.borrow_mut().take();
                    return Poll::Ready(value.ok_or(JoinError::Cancelled));
                }
                Err(panic) => return Poll::Ready(Err(JoinError::Panicked(panic))),
            }
            // Some loops report a condition only when it begins to hold.
            let holds = self.context.with_request(|request| {
                request.set.is_untried() && request.set.poll(Some(Instant::now())).is_ok() && {
                    let legs = request.set.legs();
                    legs.iter().any(|leg| !leg.fired().is_empty())
                }
            });
            if !holds {
                return Poll::Pending;
            }
        }
        // A body that never waits lets others run now and then.
        self.context.with_request(|request| request.set.wake_at(Instant::now()));
        Poll::Pending
    }
}

/// How often in a row a body is entered that waits for what is there already.
const ROUNDS: u32 = 16;

impl<T> Steps for Coroutine<T> {
    type Output = Result<T, JoinError>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        self.enter()
    }

    fn watch(&mut self, set: &mut PollSet) {
        let first_leg = &mut self.first_leg;
        self.context.with_request(|request| {
            *first_leg = set.extend(&request.set);
            if let Some(until) = request.until {
                set.wake_at(until);
            }
        });
        self.wakes.watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        let first_leg = self.first_leg;
        self.context.with_request(|request| request.set.take_marks(set, first_leg));
    }
}

impl<T> fmt::Debug for Coroutine<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Coroutine").finish_non_exhaustive()
    }
}
