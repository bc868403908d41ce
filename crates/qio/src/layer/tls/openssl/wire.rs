//! The wire of an engine that wants to read and write: memory.

use std::io::{self, ErrorKind, Read, Write};

/// What has come and was not read, and what was written and has not gone.
///
/// Holds no memory while both are empty.
#[derive(Debug, Default)]
pub(super) struct Wire {
    inbound: Vec<u8>,
    taken: usize,
    outbound: Vec<u8>,
    /// What is written is forgotten.
    muted: bool,
}

impl Wire {
    /// Gives something to read.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.inbound.extend_from_slice(bytes);
    }

    /// How much was written and waits.
    pub(super) fn waiting(&self) -> usize {
        self.outbound.len()
    }

    /// Takes what was written, as far as it fits.
    pub(super) fn take(&mut self, wire: &mut [u8]) -> usize {
        let count = self.outbound.len().min(wire.len());
        wire[..count].copy_from_slice(&self.outbound[..count]);
        if count == self.outbound.len() {
            self.outbound = Vec::new();
        } else {
            self.outbound.drain(..count);
        }
        count
    }

    /// Forgets what is written from here on: nothing follows a farewell.
    pub(super) fn mute(&mut self) {
        self.muted = true;
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = &self.inbound[self.taken..];
        if rest.is_empty() {
            // Not the end, of which only the owner knows.
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.inbound.len() {
            (self.inbound, self.taken) = (Vec::new(), 0);
        }
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if !self.muted {
            self.outbound.extend_from_slice(buf);
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
