//! One listening socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::address::Address;
use super::admit::Peer;
use super::layer::Stack;
use super::listener::Accepted;
use super::socket_setup::SocketSetup;
use super::tuning::Tuning;
use super::udp_peers::UdpPeers;
use crate::channel::Channel;
use crate::transport::{MessageKind, Messages, Socket, SocketFile};
use crate::watch::{Slot, release};

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) slot: Slot,
    pub(super) family: AddressFamily,
    kind: SocketType,
    pub(super) address: Arc<Address>,
    /// How clients reach it: the address, and what stands over it.
    pub(super) reach: Arc<Address>,
    pub(super) stack: Option<Arc<Stack>>,
    /// What clients do not inherit from it.
    buffers: SocketSetup,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// Made here; TCP options were set for all connections.
    Own,
    /// Made here, with a file that goes when the socket goes.
    File(SocketFile),
    /// Handed over: other processes may listen with it after us.
    Inherited,
    /// A UDP socket, which every peer gets one of its own beside.
    Datagram(UdpPeers),
}

/// Who has come, before it is known whether it may come in.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A connection.
    Connection(OwnedFd),
    /// A peer without one, and what it has sent so far.
    Peer(Messages),
}

impl Bound {
    /// A TCP socket of our own that listens, in non-blocking mode, with all options set.
    pub(crate) fn own(fd: OwnedFd, family: AddressFamily, address: Address) -> Self {
        Self::new(fd, (family, SocketType::STREAM), address, Origin::Own)
    }

    /// A Unix socket of our own; `file` is `None` for an abstract name.
    pub(crate) fn unix(
        fd: OwnedFd,
        kind: SocketType,
        address: Address,
        file: Option<SocketFile>,
    ) -> Self {
        let origin = file.map_or(Origin::Own, Origin::File);
        Self::new(fd, (AddressFamily::UNIX, kind), address, origin)
    }

    /// The same, of which clients get buffers of these sizes: a Unix socket that is accepted inherits
    /// nothing (unix_stream_connect of the kernel).
    pub(crate) fn with_buffers(mut self, buffers: SocketSetup) -> Self {
        self.buffers = buffers;
        self
    }

    /// A UDP socket of our own, in non-blocking mode.
    pub(crate) fn datagram(fd: OwnedFd, family: AddressFamily, peers: UdpPeers) -> Self {
        let address = Address::of_datagram_socket(peers.local());
        Self::new(fd, (family, SocketType::DGRAM), address, Origin::Datagram(peers))
    }

    /// A socket of this family and type that was handed over, in non-blocking mode.
    pub(crate) fn inherited(
        fd: OwnedFd,
        kind: (AddressFamily, SocketType),
        address: Address,
    ) -> Self {
        Self::new(fd, kind, address, Origin::Inherited)
    }

    /// A socket that listens and was handed over, in non-blocking mode.
    pub(super) fn adopted(fd: OwnedFd, kind: (AddressFamily, SocketType)) -> Self {
        let local = rustix::net::getsockname(&fd).ok().filter(|_| is_ip(kind.0));
        let local = local.and_then(|local| SocketAddr::try_from(local).ok());
        let number = fd.as_raw_fd().unsigned_abs();
        let local = local.map_or_else(|| Address::fd(number), Address::of_socket);
        Self::inherited(fd, kind, local)
    }

    fn new(
        fd: OwnedFd,
        (family, kind): (AddressFamily, SocketType),
        address: Address,
        origin: Origin,
    ) -> Self {
        let address = Arc::new(address);
        let reach = Arc::clone(&address);
        Self {
            slot: Slot::new(fd),
            family,
            kind,
            address,
            reach,
            stack: None,
            buffers: SocketSetup::default(),
            origin,
        }
    }

    /// The same under the layers of the address that was listened on.
    pub(super) fn under(mut self, address: &Address, stack: &Arc<Stack>) -> Self {
        self.reach = Arc::new(stack.reach(address, &self.address));
        self.stack = Some(Arc::clone(stack));
        self
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn is_ip(&self) -> bool {
        is_ip(self.family)
    }

    pub(super) fn accept(&self) -> io::Result<(Arrival, Peer)> {
        let fd = self.slot.borrow()?;
        if let Origin::Datagram(peers) = &self.origin {
            let (channel, peer) = peers.accept(fd.as_fd())?;
            let who = Peer::new(Arc::clone(&self.address), Some(peer));
            return Ok((Arrival::Peer(channel), who));
        }
        let (fd, peer) = loop {
            match accept_once(fd.as_fd(), self.family) {
                Ok(accepted) => break accepted,
                // The client was gone before we came; accept(2) lists what TCP reports so.
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NONET,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut peer = Peer::new(Arc::clone(&self.address), peer);
        if self.family == AddressFamily::UNIX {
            peer = peer.with_credentials_of(fd.as_fd());
        } else if self.family == AddressFamily::VSOCK {
            peer = peer.with_name_of(fd.as_fd());
        }
        Ok((Arrival::Connection(fd), peer))
    }

    /// Makes a channel of a client.
    pub(super) fn welcome(&self, arrival: Arrival, who: Peer, prefix: Option<&str>) -> Accepted {
        let channel = match arrival {
            Arrival::Peer(channel) => Arc::new(channel),
            Arrival::Connection(fd) => self.channel(fd),
        };
        let peer = who.to_string();
        channel.base().set_name(match prefix {
            Some(prefix) => format!("{prefix} {peer}"),
            None => peer.clone(),
        });
        Accepted { channel, peer, who, stack: self.stack.clone() }
    }

    fn channel(&self, fd: OwnedFd) -> Arc<dyn Channel> {
        if matches!(self.origin, Origin::Inherited) && self.family != AddressFamily::UNIX {
            // Who made the socket may have set nothing. A client that has hung up already makes
            // this fail, and is found out when it is read from.
            let _ = Tuning::of(&Address::tcp("", 0)).apply(&fd);
        }
        // The kernel caps what is too large, and refuses nothing else.
        let _ = self.buffers.apply_buffers(fd.as_fd());
        channel_of(fd, self.family, self.kind)
    }

    /// Whether a client waits of whom the kernel knows nothing any more.
    pub(super) fn has_waiting(&self) -> bool {
        matches!(&self.origin, Origin::Datagram(peers) if peers.has_waiting())
    }

    /// Whether peers that it has accepted share its port, also after it was closed.
    pub(super) fn has_peers(&self) -> bool {
        matches!(&self.origin, Origin::Datagram(peers) if peers.has_peers())
    }

    /// Whether a client waits.
    pub(super) fn has_client(&self) -> bool {
        let Some(fd) = self.slot.try_borrow() else { return false };
        if self.has_waiting() {
            return true;
        }
        let mut fds = [PollFd::new(&*fd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // When in doubt, there is one.
        !matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(0))
    }

    pub(super) fn close(&self) -> io::Result<()> {
        let Some(fd) = self.slot.take() else { return Ok(()) };
        let mut result = Ok(());
        if let Origin::File(file) = &self.origin {
            // While the socket still listens: nobody else takes it for a dead one meanwhile.
            result = file.remove();
        }
        if !matches!(self.origin, Origin::Inherited) {
            // Wakes every wait on it, and refuses clients although a wait may still own it.
            let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
        }
        result.and(release(fd))
    }
}

/// The channel of a connected socket of this type, in blocking mode.
pub(crate) fn channel_of(fd: OwnedFd, family: AddressFamily, kind: SocketType) -> Arc<dyn Channel> {
    match kind {
        SocketType::SEQPACKET => Arc::new(Messages::new(fd.into(), family, MessageKind::SeqPacket)),
        _ => Arc::new(Socket::connected(fd.into(), family)),
    }
}

/// A Unix client is not asked for its address: most have none, and the conversion of one that fills
/// its structure to the last byte panics in rustix 1.1.
fn accept_once(
    fd: BorrowedFd<'_>,
    family: AddressFamily,
) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    if is_ip(family) {
        let (fd, peer) = rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC)?;
        return Ok((fd, peer.and_then(|peer| peer.try_into().ok())));
    }
    Ok((rustix::net::accept_with(fd, SocketFlags::CLOEXEC)?, None))
}

fn is_ip(family: AddressFamily) -> bool {
    family == AddressFamily::INET || family == AddressFamily::INET6
}
