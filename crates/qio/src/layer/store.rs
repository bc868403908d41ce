//! Buffers that the layers of one thread share while bytes move.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// How many buffers a thread keeps for the next user.
const KEEP: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, given back to the thread that drops it.
#[derive(Debug)]
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// A buffer of exactly `len` bytes, with anything in it.
    pub(super) fn take(len: usize) -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            let at = free.iter().position(|buffer| buffer.len() == len)?;
            Some(free.swap_remove(at))
        });
        Self(kept.unwrap_or_else(|| vec![0; len].into_boxed_slice()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that is ending has no store any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEEP {
                free.push(buffer);
            }
        });
    }
}
