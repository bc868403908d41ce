//! The channel that holds nothing.

use std::io::Result;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::channel::{Base, Channel, Features, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{PollSet, closed};

/// Reads the end of the stream, accepts every byte, and is always ready.
///
/// After `close` both reading and writing are errors.
///
/// ```
/// use qio::{ChannelExt, transport::Null};
///
/// # fn main() -> std::io::Result<()> {
/// let null = Null::new();
/// null.write_all(b"nobody reads this")?;
/// assert_eq!(null.read(&mut [0; 8])?, 0);
/// # Ok(())
/// # }
/// ```
///
/// QEMU's `QIOChannelNull`.
#[doc(alias = "QIOChannelNull")]
#[derive(Debug)]
pub struct Null {
    base: Base,
    closed: AtomicBool,
}

impl Null {
    /// A new one.
    #[doc(alias = "qio_channel_null_new")]
    pub fn new() -> Self {
        Self {
            base: Base::new("null", Features::DUPLEX | Features::SHUTDOWN),
            closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(closed()) } else { Ok(()) }
    }
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl Channel for Null {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, _op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.check_open().map(|()| 0)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.check_open()?;
        Ok(op.bufs().iter().map(|buf| buf.len()).sum())
    }

    fn watch(&self, interest: Interest, _set: &mut PollSet) -> Readiness {
        interest.into()
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        self.closed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn shutdown(&self, _how: Shutdown) -> Result<()> {
        self.check_open()
    }

    fn finish(&self) -> Result<()> {
        self.check_open()
    }
}
