//! A channel that outlives the relays it is part of.

use std::io::Result;
use std::net::Shutdown;
use std::sync::Arc;

use qio::channel::Base;
use qio::watch::{PollSet, SharedFd};
use qio::{Channel, Direction, Interest, Mode, ReadOp, Readiness, WriteOp};

/// Standard input and output while connections come and go: a relay that ends closes its channels,
/// and this one stays open all the same.
#[derive(Debug)]
pub(crate) struct Kept<C>(pub(crate) Arc<C>);

impl<C: Channel> Channel for Kept<C> {
    fn base(&self) -> &Base {
        self.0.base()
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.0.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.0.try_write(op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.0.watch(interest, set)
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        self.0.set_mode(mode)
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        self.0.splice_fd(direction)
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&*self.0)
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn shutdown(&self, _how: Shutdown) -> Result<()> {
        Ok(())
    }
}
