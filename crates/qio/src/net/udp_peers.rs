//! One UDP socket, and a channel for each of its peers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SocketFlags, SocketType, sockopt};

use super::dial::family;
use super::socket_setup::SocketSetup;
use crate::transport::{Early, MessageKind, Messages};

/// How many datagrams wait here for their sender to be accepted. They come out of the kernel's
/// queue only while somebody else is accepted, so there are as many as fit into that (208 KiB by
/// default) at most, unless it was made larger.
const WAITING: usize = 256;

/// More than fit into the queue of a socket by default: a datagram takes 768 bytes of it at least.
const LONGEST_QUEUE: usize = 1024;

/// The peers of a UDP socket that is listened on.
///
/// The kernel sorts the datagrams: each peer gets a socket of its own, bound to the same address
/// and connected to it, which the kernel prefers to one that is not connected. All of them have
/// `SO_REUSEPORT`, so that no other user can join in; it is set after the first was bound, which
/// fails where the port is in use already, also by a listener like this.
///
/// What comes between the first datagram and the connecting of the new socket lands on the listening
/// socket, and between binding and connecting the new socket gets what is meant for others. Both
/// queues are emptied then, and each datagram goes where it belongs, in order.
#[derive(Debug)]
pub(crate) struct UdpPeers {
    local: SocketAddr,
    /// What is set on all sockets.
    setup: SocketSetup,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Datagrams of peers that have no channel yet, in the order in which they came.
    waiting: VecDeque<(SocketAddr, Box<[u8]>)>,
    /// The channels that may still live.
    accepted: HashMap<SocketAddr, Weak<Early>>,
    /// The next size of `accepted` at which those that are gone are removed.
    sweep_at: usize,
    /// The largest datagram there is.
    buffer: Vec<u8>,
}

/// The socket of a peer, where to put what came before it, and that.
type NewPeer = (OwnedFd, Arc<Early>, Vec<Box<[u8]>>);

impl UdpPeers {
    /// Binds the socket. With `dual`, `[::]` is IPv4, too.
    ///
    /// With `beside_peers` the port may be in use: peers of an earlier listener live on. Nobody but
    /// they can have it then, since every other listener like this fails.
    pub(crate) fn bind(
        local: SocketAddr,
        dual: bool,
        setup: SocketSetup,
        beside_peers: bool,
    ) -> io::Result<(OwnedFd, Self)> {
        let bind = |v6_only: Option<bool>| -> io::Result<OwnedFd> {
            let fd = socket(local, v6_only, &setup)?;
            if beside_peers {
                sockopt::set_socket_reuseport(&fd, true)?;
            }
            rustix::net::bind(&fd, &local)?;
            Ok(fd)
        };
        let fd = if dual && local.is_ipv6() && local.ip().is_unspecified() {
            // `[::]` is IPv4 too, but joins an IPv4 socket that is there already.
            match bind(Some(false)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(Some(true)),
                result => result,
            }
        } else {
            bind(local.is_ipv6().then_some(!dual))
        }?;
        sockopt::set_socket_reuseport(&fd, true)?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
        Ok((fd, Self { local, setup, state: Mutex::default() }))
    }

    /// The address that was really bound.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether there are peers to accept of whom the kernel knows nothing any more.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Whether channels of peers are alive.
    pub(crate) fn has_peers(&self) -> bool {
        self.lock().accepted.values().any(|early| early.strong_count() > 0)
    }

    /// The channel of the next new peer, which gets its first datagram first.
    pub(crate) fn accept(&self, listening: BorrowedFd<'_>) -> io::Result<(Messages, SocketAddr)> {
        let mut state = self.lock();
        loop {
            let (peer, datagram) = match state.waiting.pop_front() {
                Some(first) => first,
                None => match state.receive(listening) {
                    // Of an earlier datagram that this socket has not even sent.
                    Err(Errno::CONNREFUSED) => continue,
                    result => result?,
                },
            };
            if let Some(early) = state.accepted.get(&peer).and_then(Weak::upgrade) {
                // It was on its way to this socket while the other one was connected.
                deliver(&early, peer, datagram);
                continue;
            }
            match self.connect(&mut state, listening, peer) {
                Ok(Some((fd, early, later))) => {
                    deliver(&early, peer, datagram);
                    for datagram in later {
                        deliver(&early, peer, datagram);
                    }
                    state.remember(peer, &early);
                    let (family, kind) = (family(peer), MessageKind::Datagram);
                    let channel = Messages::new(fd.into(), family, kind).with_early(early);
                    return Ok((channel, peer));
                }
                // Whoever can send with a false address does not stop the others.
                Ok(None) => {}
                Err(error) => {
                    state.waiting.push_front((peer, datagram));
                    return Err(error);
                }
            }
        }
    }

    /// A socket for a peer, and what else has come from it so far; `None` when there is no way back
    /// to the peer.
    fn connect(
        &self,
        state: &mut State,
        listening: BorrowedFd<'_>,
        peer: SocketAddr,
    ) -> io::Result<Option<NewPeer>> {
        let v6_only = match self.local.is_ipv6() {
            true => Some(sockopt::ipv6_v6only(listening)?),
            false => None,
        };
        let fd = socket(self.local, v6_only, &self.setup)?;
        sockopt::set_socket_reuseport(&fd, true)?;
        rustix::net::bind(&fd, &self.local)?;
        if let Err(error) = rustix::net::connect(&fd, &peer) {
            if is_passing(error) {
                return Err(error.into());
            }
            event!(warn, %peer, %error, "a datagram was dropped: there is no way to its sender");
            return Ok(None);
        }
        let mut later = Vec::new();
        let (own, others): (VecDeque<_>, VecDeque<_>) =
            state.waiting.drain(..).partition(|(sender, _)| *sender == peer);
        state.waiting = others;
        later.extend(own.into_iter().map(|(_, datagram)| datagram));
        // From here on nothing of this peer comes to the listening socket, and nothing of others to
        // the new one.
        for socket in [listening, fd.as_fd()] {
            let is_new = socket.as_raw_fd() == fd.as_raw_fd();
            for _ in 0..LONGEST_QUEUE {
                let full = state.waiting.len() + later.len() >= WAITING;
                if full && !is_new {
                    // The rest is received when the next peer is accepted.
                    break;
                }
                match state.receive(socket) {
                    Err(_drained) => break,
                    // What does not belong to the peer of the new socket must not stay in it.
                    Ok((sender, _)) if full => {
                        event!(warn, peer = %sender, "a datagram was dropped: too many wait");
                        let _ = sender;
                    }
                    Ok((sender, datagram)) if sender == peer => later.push(datagram),
                    Ok(other) => state.waiting.push_back(other),
                }
            }
        }
        Ok(Some((fd, Arc::new(Early::new()), later)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn receive(&mut self, fd: BorrowedFd<'_>) -> rustix::io::Result<(SocketAddr, Box<[u8]>)> {
        self.buffer.resize(LARGEST, 0);
        loop {
            let flags = RecvFlags::DONTWAIT;
            let buffer = &mut self.buffer[..];
            let got = retry_on_intr(|| rustix::net::recvfrom(fd, &mut *buffer, flags))?;
            let (_, length, Some(sender)) = got else { continue };
            let sender = SocketAddr::try_from(sender)?;
            if sender.port() == 0 {
                // Nobody can be answered there (RFC 768), and a socket that is connected to port 0
                // would get what every port of the host sends.
                continue;
            }
            return Ok((sender, self.buffer[..length].into()));
        }
    }

    fn remember(&mut self, peer: SocketAddr, early: &Arc<Early>) {
        if self.accepted.len() >= self.sweep_at {
            self.accepted.retain(|_, early| early.strong_count() > 0);
            self.sweep_at = 64.max(2 * self.accepted.len());
        }
        self.accepted.insert(peer, Arc::downgrade(early));
    }
}

fn socket(local: SocketAddr, v6_only: Option<bool>, setup: &SocketSetup) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family(local), SocketType::DGRAM, flags, None)?;
    if let Some(v6_only) = v6_only {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    setup.apply_before_bind(fd.as_fd(), family(local))?;
    Ok(fd)
}

fn deliver(early: &Early, peer: SocketAddr, datagram: Box<[u8]>) {
    if !early.push(datagram) {
        event!(warn, %peer, "a datagram was dropped: too many came at once");
        let _ = peer;
    }
}

/// Whether the same may succeed later: there was no descriptor or no memory.
fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// A UDP datagram has at most 65,507 bytes of payload over IPv4, 65,527 over IPv6.
const LARGEST: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelExt;

    fn peers() -> (OwnedFd, UdpPeers) {
        let local = "127.0.0.1:0".parse().unwrap();
        UdpPeers::bind(local, true, SocketSetup::default(), false).unwrap()
    }

    /// The kernel may have chosen the listening socket before the other one was connected.
    #[test]
    fn a_straggler_goes_to_the_channel_of_its_peer() {
        let (fd, peers) = peers();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"first", peers.local()).unwrap();
        let (channel, peer) = peers.accept(fd.as_fd()).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        peers.lock().waiting.push_back((peer, b"straggler"[..].into()));
        let nobody = peers.accept(fd.as_fd()).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let mut buf = [0; 20];
        assert_eq!(channel.receive(&mut buf).unwrap(), Some(5));
        assert_eq!(channel.receive(&mut buf).unwrap(), Some(9));
    }

    /// What the new socket got between binding and connecting.
    #[test]
    fn what_waits_of_others_is_accepted_next() {
        let (fd, peers) = peers();
        let clients = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        for client in &clients {
            client.send_to(b"x", peers.local()).unwrap();
        }
        let (_channel, first) = peers.accept(fd.as_fd()).unwrap();
        assert!(peers.has_waiting());
        let (_channel, second) = peers.accept(fd.as_fd()).unwrap();
        assert!(!peers.has_waiting());
        let expected = clients.map(|client| client.local_addr().unwrap());
        assert_eq!([first, second], expected);
    }

    #[test]
    fn the_table_of_peers_does_not_grow_for_ever() {
        let (fd, peers) = peers();
        for _ in 0..300 {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", peers.local()).unwrap();
            drop(peers.accept(fd.as_fd()).unwrap());
        }
        assert!(peers.lock().accepted.len() <= 65, "{}", peers.lock().accepted.len());
    }
}
