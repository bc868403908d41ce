//! How the TCP sockets of an address are made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::address::{Address, Refusal, Value};
use super::scheme::OptionInfo;
use super::socket_setup::{SocketSetup, failed};
use super::tuning::Tuning;

/// Multipath TCP (RFC 8684): one connection over several paths, or plain TCP where the peer or the
/// way to it knows nothing of it.
pub(crate) const MPTCP: OptionInfo =
    OptionInfo::new("mptcp", Value::Switch, "use several paths where the peer can (Multipath TCP)")
        .default("off");

/// What every TCP socket of an address has in common, whether it connects or listens.
#[derive(Clone, Debug)]
pub(crate) struct TcpSocket {
    tuning: Tuning,
    setup: SocketSetup,
    mptcp: bool,
}

impl TcpSocket {
    /// What the options of a `tcp:` address ask for.
    pub(crate) fn of(address: &Address) -> Self {
        Self {
            tuning: Tuning::of(address),
            setup: SocketSetup::of(address),
            mptcp: address.switch(MPTCP.name),
        }
    }

    /// Finds what the kernel would refuse, and what contradicts itself.
    pub(crate) fn check(address: &Address) -> Result<(), Refusal> {
        Tuning::check(address).and_then(|()| SocketSetup::check(address))
    }

    /// Makes a socket in non-blocking mode, with everything set that belongs on it before it is
    /// bound or connected.
    ///
    /// # Errors
    ///
    /// As socket(2); the errors of options name them.
    pub(crate) fn make(&self, family: AddressFamily) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = if self.mptcp { ipproto::MPTCP } else { ipproto::TCP };
        let fd = match rustix::net::socket_with(family, SocketType::STREAM, flags, Some(protocol)) {
            // A kernel that was built without it, and one where it is switched off.
            Err(error @ (Errno::PROTONOSUPPORT | Errno::NOPROTOOPT)) if self.mptcp => {
                let kind = io::Error::from(error).kind();
                let text = "this system makes no such sockets, see sysctl net.mptcp.enabled";
                return Err(failed("mptcp", io::Error::new(kind, text)));
            }
            result => result?,
        };
        self.tuning.apply(&fd)?;
        self.setup.apply_before_bind(fd.as_fd(), family)?;
        Ok(fd)
    }
}
