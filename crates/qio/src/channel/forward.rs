//! Shared ownership of a channel is a channel.

use std::io::{Result, SeekFrom};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{Base, Channel, Confirmed, Mode, ReadOp, WriteFlags, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{PollSet, SharedFd};

/// Forwards every method but `inner`, which names what is forwarded to: a walk through the layers
/// sees the channel inside the `Arc` as a station of its own.
macro_rules! forward_to_target {
    ($($generics:tt)*) => {
        $($generics)* {
            #[inline]
            fn base(&self) -> &Base {
                (**self).base()
            }

            #[inline]
            fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
                (**self).try_read(op)
            }

            #[inline]
            fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
                (**self).try_write(op)
            }

            fn try_write_owned(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
                (**self).try_write_owned(bufs, flags)
            }

            #[inline]
            fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
                (**self).watch(interest, set)
            }

            #[inline]
            fn watch_stands(&self, interest: Interest, fd: &SharedFd) -> bool {
                (**self).watch_stands(interest, fd)
            }

            fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
                (**self).watch_more(seen, set)
            }

            fn close(&self) -> Result<()> {
                (**self).close()
            }

            fn set_mode(&self, mode: Mode) -> Result<()> {
                (**self).set_mode(mode)
            }

            fn drive(&self, now: Instant) -> Result<()> {
                (**self).drive(now)
            }

            fn shutdown(&self, how: Shutdown) -> Result<()> {
                (**self).shutdown(how)
            }

            fn finish(&self) -> Result<()> {
                (**self).finish()
            }

            fn flush(&self) -> Result<()> {
                (**self).flush()
            }

            fn confirm(&self) -> Result<Confirmed> {
                (**self).confirm()
            }

            fn seek(&self, to: SeekFrom) -> Result<u64> {
                (**self).seek(to)
            }

            fn set_delay(&self, delay: bool) {
                (**self).set_delay(delay);
            }

            fn set_cork(&self, cork: bool) {
                (**self).set_cork(cork);
            }

            fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
                (**self).splice_fd(direction)
            }

            fn inner(&self) -> Option<&dyn Channel> {
                Some(&**self)
            }
        }
    };
}

forward_to_target! {
    #[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
    impl<C: Channel> Channel for Arc<C>
}
forward_to_target! {
    #[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
    impl Channel for Arc<dyn Channel>
}
