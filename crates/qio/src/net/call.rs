//! A connect(2) that waits for its answer.

use std::io;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{AddressFamily, sockopt};

use crate::channel::Channel;
use crate::interest::Interest;
use crate::transport::Socket;
use crate::watch::{PollSet, SharedFd};

/// A stream socket whose peer was called; it is given up with this, unless it was answered.
pub(crate) struct Call {
    fd: SharedFd,
    answered: bool,
}

impl Call {
    /// Calls `peer` from a socket in non-blocking mode.
    pub(crate) fn start(fd: SharedFd, peer: &impl SocketAddrArg) -> rustix::io::Result<Self> {
        match rustix::net::connect(&fd, peer) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Self { fd, answered: false }),
            Err(error) => Err(error),
        }
    }

    /// Whether the peer has answered, and what.
    pub(crate) fn outcome(&self) -> Option<io::Result<()>> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        match rustix::event::poll(&mut fds, Some(&at_once)) {
            Ok(0) | Err(Errno::INTR) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error.into())),
        }
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => Some(Ok(())),
            Ok(Err(error)) | Err(error) => Some(Err(error.into())),
        }
    }

    /// Adds the wait for the answer.
    pub(crate) fn watch(&self, set: &mut PollSet) {
        set.add(&self.fd, Interest::WRITE, Interest::WRITE);
    }

    pub(crate) fn descriptor(&self) -> &SharedFd {
        &self.fd
    }

    /// The channel of a socket of this family, once it was answered.
    pub(crate) fn connected(&mut self, family: AddressFamily) -> io::Result<Arc<dyn Channel>> {
        rustix::io::ioctl_fionbio(&self.fd, false)?;
        self.answered = true;
        Ok(Arc::new(Socket::connected(SharedFd::clone(&self.fd), family)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            // A wait that was forgotten may still own the descriptor; the peer is left now.
            let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        }
    }
}
