//! Who is at the other end.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;

use super::Socket;
use crate::channel::{ChannelExt, Features};

/// Who is at the other end of a Unix socket (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process, as it was when it connected or listened; 0 when it cannot be seen from here.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Socket {
    /// Who is at the other end.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket; `NotConnected` once closed.
    #[doc(alias = "qio_channel_get_peerpid")]
    pub fn peer_credentials(&self) -> Result<PeerCredentials> {
        if !self.features().contains(Features::FD_PASS) {
            let text = format!("{}: only unix sockets know their peer", self.name());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let fd = self.slot.borrow()?;
        let (pid, uid, gid) = qio_os::peer_credentials(fd.as_fd())?;
        Ok(PeerCredentials { pid, uid, gid })
    }
}
