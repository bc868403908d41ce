//! Waiting as data: descriptors to poll, deadlines, and who does the waiting.
//!
//! Nothing here calls a channel. A channel fills a [`PollSet`] with [`Leg`]s; whoever waits (this
//! thread, a coroutine, a foreign event loop) polls the legs and asks again. Things that are done
//! in several steps ([`Steps`]) describe their waiting in the same way.

mod event;
mod interrupter;
mod poll_set;
mod slot;
mod steps;
pub mod waiter;

pub use event::Event;
pub(crate) use event::LOOK_AGAIN;
pub use interrupter::Interrupter;
pub(crate) use interrupter::Interrupts;
pub use poll_set::{Leg, PollSet, SharedFd};
pub use slot::Slot;
pub(crate) use slot::{Borrowed, closed, release};
pub use steps::{Steps, run};
pub use waiter::Waiter;
