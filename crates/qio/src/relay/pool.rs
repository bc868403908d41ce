//! Buffers and pipes that relays of one thread share.

use std::cell::RefCell;
use std::io::{ErrorKind, Result};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::layer::LONGEST_FRAME_BYTES;

/// The size of a relay's buffer: what a pipe holds and a TCP read gives at once when data flows.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// How much a splice pipe is asked to hold; the kernel may give less.
///
/// Larger pipes mean fewer system calls, until the pages fall out of the processor's cache.
const PIPE_BYTES: usize = 512 * 1024;

/// The size of the buffer for a message: no channel here has longer ones unless the administrator
/// allows it (a Unix datagram is limited by `wmem_default`, 208 KiB), nor does a framing.
pub(super) const MESSAGE_BYTES: usize = LONGEST_FRAME_BYTES;

/// How many of each a thread keeps for the next user.
const KEEP: usize = 4;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::EMPTY) };
}

struct Pool {
    buffers: Vec<Box<[u8]>>,
    message_buffers: Vec<Box<[u8]>>,
    pipes: Vec<SplicePipe>,
}

impl Pool {
    const EMPTY: Self =
        Self { buffers: Vec::new(), message_buffers: Vec::new(), pipes: Vec::new() };
}

/// A buffer, given back when dropped if it is of the common size.
#[derive(Debug)]
pub(super) struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    pub(super) fn take() -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.buffers.pop());
        Self(Some(pooled.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())))
    }

    pub(super) fn take_for_message() -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.message_buffers.pop());
        Self(Some(pooled.unwrap_or_else(|| vec![0; MESSAGE_BYTES].into_boxed_slice())))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(buffer) = self.0.take() else { return };
        keep(|pool| {
            let buffers = match buffer.len() {
                BUFFER_BYTES => &mut pool.buffers,
                MESSAGE_BYTES => &mut pool.message_buffers,
                _ => return None,
            };
            (buffers.len() < KEEP).then(|| buffers.push(buffer))
        });
    }
}

/// A pipe to splice through.
#[derive(Debug)]
pub(super) struct SplicePipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    pub(super) capacity: usize,
}

impl SplicePipe {
    /// An empty pipe, from the pool or new.
    pub(super) fn take() -> Result<Self> {
        if let Some(pipe) = POOL.with_borrow_mut(|pool| pool.pipes.pop()) {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users have a quota of pipe pages (pipe(7)); what the kernel gives by default does too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        let capacity = rustix::pipe::fcntl_getpipe_size(&write)?;
        Ok(Self { read, write, capacity })
    }

    /// Reads `bytes`, which must be what the pipe holds, into a buffer of that size.
    pub(super) fn drain(&self, bytes: usize) -> Result<Buffer> {
        let mut buffer = vec![0; bytes].into_boxed_slice();
        let mut done = 0;
        while done < bytes {
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.read, &mut buffer[done..]))? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(Buffer(Some(buffer)))
    }

    /// Gives an empty pipe back.
    pub(super) fn give_back(self) {
        keep(|pool| (pool.pipes.len() < KEEP).then(|| pool.pipes.push(self)));
    }
}

/// Puts something into the pool, unless the thread is ending and the pool is gone.
fn keep(put: impl FnOnce(&mut Pool) -> Option<()>) {
    let _ = POOL.try_with(|pool| put(&mut pool.borrow_mut()));
}
