//! Buffers that the layers of one thread share while bytes move.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// How many buffers a thread keeps for the next user.
const KEEP: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, given back to the thread that drops it.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// How many of them count.
    len: usize,
    is_shared: bool,
}

impl Buffer {
    /// A buffer of exactly `len` bytes, with anything in it. For lengths that come again.
    pub(super) fn take(len: usize) -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            let at = free.iter().position(|buffer| buffer.len() == len)?;
            Some(free.swap_remove(at))
        });
        let bytes = kept.unwrap_or_else(|| vec![0; len]);
        Self { bytes, len, is_shared: true }
    }

    /// A buffer for what has to wait, of any length. Nobody would ask the store for that length
    /// again, and the store would fill up with what nobody asks for.
    pub(super) fn hold(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), bytes, is_shared: false }
    }

    /// Forgets what is behind the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// How much memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.is_shared {
            return;
        }
        let buffer = std::mem::take(&mut self.bytes);
        // A thread that is ending has no store any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEEP {
                free.push(buffer);
            }
        });
    }
}
