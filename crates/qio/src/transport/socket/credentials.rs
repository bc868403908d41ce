//! Who is at the other end, and who sent what.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt;

use super::Socket;
use crate::channel::{ChannelExt, Features, PeerCredentials};

impl Socket {
    /// Who is at the other end: the process that connected, or that listened (`SO_PEERCRED`,
    /// unix(7)).
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket; `NotConnected` once closed.
    #[doc(alias = "qio_channel_get_peerpid")]
    pub fn peer_credentials(&self) -> Result<PeerCredentials> {
        self.require_unix("only unix sockets know their peer")?;
        let fd = self.slot.borrow()?;
        let (pid, uid, gid) = qio_os::peer_credentials(fd.as_fd())?;
        Ok(PeerCredentials::new(pid, uid, gid))
    }

    /// A descriptor of the process at the other end (`SO_PEERPIDFD`): it never comes to mean
    /// another process, as the number can, and poll(2) says when that process ends.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket, and before Linux 6.5: there is no other way
    /// that cannot meet the wrong process. What getsockopt(2) reports, which before Linux 6.16 is
    /// an error for a process that is gone. `NotConnected` once closed.
    pub fn peer_pidfd(&self) -> Result<OwnedFd> {
        self.require_unix("only unix sockets know their peer")?;
        qio_os::peer_pidfd(self.slot.borrow()?.as_fd())
    }

    /// Asks the kernel to say with every message who sent it (`SO_PASSCRED`, unix(7)).
    ///
    /// A read [with a sink](ChannelExt::read_with) then learns the
    /// [sender](crate::FdSink::sender), which need not be the process that connected. What was
    /// sent before anybody asked is told as process 0, unless it was sent with
    /// [`WriteFlags::CREDENTIALS`](crate::WriteFlags::CREDENTIALS). The option belongs to the open
    /// file: on a [shared](Socket::from_shared) socket the other processes get it, too.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket; `NotConnected` once closed.
    pub fn set_receive_credentials(&self, receive: bool) -> Result<()> {
        self.require_unix("only unix sockets carry credentials")?;
        Ok(sockopt::set_socket_passcred(self.slot.borrow()?, receive)?)
    }

    fn require_unix(&self, reason: &str) -> Result<()> {
        if self.features().contains(Features::FD_PASS) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, format!("{}: {reason}", self.name())))
    }
}
