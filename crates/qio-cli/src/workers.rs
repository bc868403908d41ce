//! The event loops that connections run on.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

/// One event loop a thread; each connection stays on the one that it is given to.
///
/// Nothing is shared or stolen between the loops, so a connection costs no more system calls than
/// on a single thread.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// The current loop alone, or `threads` further ones.
    pub(crate) fn start(threads: u16) -> io::Result<Self> {
        let mut handles = Vec::new();
        if threads == 1 {
            handles.push(Handle::current());
        } else {
            for number in 1..=threads {
                let runtime = event_loop()?;
                handles.push(runtime.handle().clone());
                thread::Builder::new()
                    .name(format!("qio-worker-{number}"))
                    .spawn(move || runtime.block_on(pending::<()>()))?;
            }
        }
        Ok(Self { handles, next: AtomicUsize::new(0) })
    }

    /// All loops.
    pub(crate) fn all(&self) -> &[Handle] {
        &self.handles
    }

    /// The loop for the next connection.
    pub(crate) fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}

/// An event loop on one thread.
pub(crate) fn event_loop() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}
