//! Listening: from an address to a stream of channels.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::address::{Address, Refusal, Role};
use super::options::ListenOptions;
use super::tuning::Tuning;
use super::udp_peers::UdpPeers;
use crate::channel::Channel;
use crate::error::Result;
use crate::interest::Interest;
use crate::transport::{MessageKind, Messages, Socket};
use crate::watch::{Event, PollSet, Slot, Steps, release};

/// Listens on `address`: on all addresses of a name, with one port.
///
/// A TCP address without a host is 127.0.0.1 and nothing else; `0.0.0.0` and `[::]` must be asked
/// for. A Unix socket that nobody listens on any more is replaced, one that is alive and a file of
/// another kind never. Waits for a name to be resolved, through the current
/// [`Waiter`](crate::watch::Waiter).
///
/// ```
/// use qio::{ChannelExt, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
/// let address = &listener.local_addresses()[0];
/// let client = net::connect(address, &net::ConnectOptions::new())?;
/// let server = listener.accept(None)?.channel;
/// server.write_all(b"welcome")?;
/// # let mut buf = [0; 7];
/// # client.read_exact(&mut buf)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// `Usage` for an address that cannot be listened on, `Resolve` for a name, `Open` for the rest;
/// an address in use is told together with who uses it, as far as `/proc` shows it.
#[doc(alias = "qio_channel_socket_listen_sync")]
#[doc(alias = "qio_net_listener_open_sync")]
pub fn listen(address: &Address, options: &ListenOptions) -> Result<Listener> {
    let checked = match address.role() {
        Role::Listen => address.check(),
        Role::Connect => {
            let refusal = Refusal::new("this is an address to connect to");
            Err(refusal.hint(format!("listen:{address} is one to listen on")))
        }
    };
    let refused = |refusal: Refusal| refusal.of("listen", &address.to_string());
    checked.map_err(refused)?;
    let Some(listen) = address.scheme().listen else {
        return Err(refused(Refusal::new("it cannot be listened on")));
    };
    Ok(Listener::new(address.to_string(), listen(address, options)?))
}

/// Listening sockets that are accepted from as one.
///
/// `try_accept` from any number of threads, `close` from any. Dropping closes.
///
/// ```
/// use std::time::{Duration, Instant};
/// use qio::{ChannelExt, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
/// for address in listener.local_addresses() {
///     println!("listening on {address}");
/// }
/// # let first = &listener.local_addresses()[0];
/// # let client = net::connect(first, &net::ConnectOptions::new())?;
/// let client_in_time = listener.accept(Some(Instant::now() + Duration::from_secs(5)))?;
/// println!("{} has come", client_in_time.peer);
/// client_in_time.channel.write_all(b"welcome")?;
/// // Who comes now is refused; the client that was accepted stays.
/// listener.close()?;
/// client_in_time.channel.finish_all(None)?;
/// # let mut text = [0; 7];
/// # client.read_exact(&mut text)?;
/// # assert_eq!(&text, b"welcome");
/// # Ok(())
/// # }
/// ```
///
/// QEMU's `QIONetListener`.
#[doc(alias = "QIONetListener")]
#[derive(Debug)]
pub struct Listener {
    name: String,
    sockets: Vec<Bound>,
    /// Whose turn it is: with one busy socket, the others are served, too.
    turn: AtomicUsize,
    closed: AtomicBool,
    /// Ends the waits on sockets that cannot be shut down.
    closing: Event,
}

/// A client that was accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection, in blocking mode and named after the peer.
    pub channel: Arc<dyn Channel>,
    /// Who it is: `tcp://127.0.0.1:51234`, or `unix:/run/x.sock (process 17, user 1000)`.
    pub peer: String,
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Bound {
    slot: Slot,
    family: AddressFamily,
    address: Address,
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

/// The file of a Unix socket, as it was when it was made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    fn new(name: String, sockets: Vec<Bound>) -> Self {
        Self {
            name,
            sockets,
            turn: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            closing: Event::new(),
        }
    }

    /// The addresses that clients connect to, with the port that was really bound.
    #[doc(alias = "qio_channel_socket_get_local_address")]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|bound| bound.address.clone()).collect()
    }

    /// Accepts a client that is there already.
    ///
    /// A client that was gone before it could be accepted is not reported: the next one is taken.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nobody is there; `NotConnected` once closed. `EMFILE` and `ENFILE`
    /// ([`is_descriptor_limit`]) mean that a client waits for which there is no descriptor: the
    /// listener stays readable, so the caller has to stop asking until some other one is closed.
    pub fn try_accept(&self) -> io::Result<Accepted> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..self.sockets.len() {
            let bound = &self.sockets[(first.wrapping_add(offset)) % self.sockets.len()];
            match bound.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if self.is_closed() => return Err(self.not_listening()),
                Ok(accepted) => {
                    event!(debug, listener = %self.name, peer = %accepted.peer, "accepted");
                    return Ok(accepted);
                }
                Err(error) => {
                    event!(warn, listener = %self.name, %error, "a client cannot be accepted");
                    return Err(error);
                }
            }
        }
        if self.is_closed() { Err(self.not_listening()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// Adds what to poll for clients.
    pub fn watch(&self, set: &mut PollSet) {
        let mut inherited = false;
        for bound in &self.sockets {
            if let Some(fd) = bound.slot.share() {
                set.add(&fd, Interest::READ, Interest::READ);
            }
            match &bound.origin {
                Origin::Inherited => inherited = true,
                Origin::Datagram(peers) if peers.has_waiting() => set.wake_at(Instant::now()),
                _ => {}
            }
        }
        if inherited {
            self.closing.watch(Interest::READ, set);
        }
        // After the legs: what is closed from here on wakes them.
        if self.is_closed() {
            set.wake_at(Instant::now());
        }
    }

    /// Waits for a client.
    ///
    /// # Errors
    ///
    /// `TimedOut` when `until` passes; others as [`try_accept`](Listener::try_accept), but never
    /// `WouldBlock`.
    #[doc(alias = "qio_channel_socket_accept")]
    #[doc(alias = "qio_net_listener_wait_client")]
    pub fn accept(&self, until: Option<Instant>) -> io::Result<Accepted> {
        match crate::watch::run(self.accepting(), until)? {
            std::ops::ControlFlow::Break(result) => result,
            std::ops::ControlFlow::Continue(_) => {
                let text = format!("{}: no client came in time", self.name);
                Err(io::Error::new(ErrorKind::TimedOut, text))
            }
        }
    }

    /// The accepting of one client, for event loops.
    pub fn accepting(&self) -> Accepting<'_> {
        Accepting { listener: self }
    }

    /// Stops listening, from any thread; who waits for a client wakes up with an error.
    ///
    /// Connections that were accepted go on, those that were not are refused. The file of a Unix
    /// socket is removed if it is still the one that was made here. Idempotent: the first call
    /// gets the result, later ones `Ok`.
    ///
    /// # Errors
    ///
    /// What removing the file reports, except that there is none.
    #[doc(alias = "qio_net_listener_disconnect")]
    pub fn close(&self) -> io::Result<()> {
        self.closed.store(true, Ordering::Release);
        let mut result = Ok(());
        for bound in &self.sockets {
            result = result.and(bound.close());
        }
        self.closing.raise();
        result
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[cold]
    fn not_listening(&self) -> io::Error {
        io::Error::new(ErrorKind::NotConnected, format!("{}: the listener is closed", self.name))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody is left to be told; a result that matters is asked for with `close`.
        let _ = self.close();
    }
}

/// The accepting of one client. Dropping it takes nobody away.
#[derive(Debug)]
pub struct Accepting<'a> {
    listener: &'a Listener,
}

impl Steps for Accepting<'_> {
    type Output = io::Result<Accepted>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        match self.listener.try_accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.listener.watch(set);
    }
}

/// Whether an error says that the process (`EMFILE`) or the system (`ENFILE`) is at its limit of
/// open files.
pub fn is_descriptor_limit(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

impl Bound {
    /// A TCP socket of our own that listens, in non-blocking mode, with all options set.
    pub(crate) fn own(fd: OwnedFd, family: AddressFamily, address: Address) -> Self {
        Self { slot: Slot::new(fd), family, address, origin: Origin::Own }
    }

    /// A Unix socket of our own; `file` is `None` for an abstract name.
    pub(crate) fn unix(fd: OwnedFd, address: Address, file: Option<SocketFile>) -> Self {
        let origin = file.map_or(Origin::Own, Origin::File);
        Self { slot: Slot::new(fd), family: AddressFamily::UNIX, address, origin }
    }

    /// A socket that was handed over, in non-blocking mode.
    pub(crate) fn inherited(fd: OwnedFd, family: AddressFamily, address: Address) -> Self {
        Self { slot: Slot::new(fd), family, address, origin: Origin::Inherited }
    }

    /// A UDP socket of our own.
    pub(crate) fn datagram(
        fd: OwnedFd,
        family: AddressFamily,
        address: Address,
        peers: UdpPeers,
    ) -> Self {
        Self { slot: Slot::new(fd), family, address, origin: Origin::Datagram(peers) }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    fn accept(&self) -> io::Result<Accepted> {
        let fd = self.slot.borrow()?;
        if let Origin::Datagram(peers) = &self.origin {
            let (channel, peer) = peers.accept(fd.as_fd())?;
            let peer = Address::of_datagram_socket(peer).to_string();
            channel.base().set_name(peer.clone());
            return Ok(Accepted { channel: Arc::new(channel), peer });
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
        if matches!(self.origin, Origin::Inherited) && self.family != AddressFamily::UNIX {
            // Who made the socket may have set nothing. A client that has hung up already makes
            // this fail, and is found out when it is read from.
            let _ = Tuning::of(&Address::tcp("", 0)).apply(&fd);
        }
        let peer = match peer {
            Some(peer) => Address::of_socket(peer).to_string(),
            None => match qio_os::peer_credentials(fd.as_fd()) {
                Ok((pid, uid, _)) => format!("{} (process {pid}, user {uid})", self.address),
                Err(_) => self.address.to_string(),
            },
        };
        let channel = channel_of(fd, self.family, self.address.socket_type());
        channel.base().set_name(peer.clone());
        Ok(Accepted { channel, peer })
    }

    fn close(&self) -> io::Result<()> {
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

/// The channel of a connected socket of this type.
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
    if family == AddressFamily::INET || family == AddressFamily::INET6 {
        let (fd, peer) = rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC)?;
        return Ok((fd, peer.and_then(|peer| peer.try_into().ok())));
    }
    Ok((rustix::net::accept_with(fd, SocketFlags::CLOEXEC)?, None))
}

impl SocketFile {
    /// Remembers the file at `path`, which is absolute.
    pub(crate) fn at(path: PathBuf) -> rustix::io::Result<Self> {
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }

    /// Removes the file if it is still this one.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::unlink(&self.path) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

fn identity(path: &PathBuf) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)
    }
}
