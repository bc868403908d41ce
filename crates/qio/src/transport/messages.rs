//! Sockets that keep messages apart.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketFlags, SocketType,
    sockopt,
};

use super::early::Early;
use super::iov::IOV_MAX;
use super::socket::ancillary::{receive_beside, send_beside, sender};
use super::socket::{Endpoint, endpoint, shut_down};
use super::socket_file::SocketFile;
use crate::channel::{
    Base, Channel, Features, MessageError, Mode, PeerCredentials, ReadFlags, ReadOp, WriteOp,
};
use crate::interest::{Interest, Readiness};
use crate::watch::{Event, PollSet, SharedFd, Slot, closed, release};

/// A connected socket that keeps messages apart: UDP, Unix datagrams, Unix `SOCK_SEQPACKET`.
///
/// What [`Features::MESSAGES`] says holds. Features: messages, shutdown and peek always;
/// descriptors on Unix sockets.
///
/// - **The end.** A `SOCK_SEQPACKET` connection ends as a stream does. A datagram socket never
///   learns that its peer has gone: [`finish`](Channel::finish) ends our side, the peer sees
///   nothing of it. On a seqpacket socket the kernel reports empty messages and the end alike: an
///   empty message with nothing but the end behind it is taken for the end.
/// - **Nobody there.** `ConnectionRefused` from a UDP socket is about an earlier message, which
///   found nobody (ICMP, RFC 1122 4.1.3.3). It is reported once, by a read or a write that has moved
///   nothing; the socket goes on. On a Unix datagram socket it is the answer to this very write,
///   and the last one: the kernel undoes the connection, and every later write is `NotConnected`.
/// - **Modes.** `O_NONBLOCK` is neither needed nor touched: a wait is one in poll(2), so a socket
///   may be shared with other processes.
///
/// ```
/// use qio::transport::{MessageKind, Messages};
/// use qio::{Channel, ChannelExt};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Messages::pair(MessageKind::SeqPacket)?;
/// left.send(b"one")?;
/// left.send(b"")?;
/// left.send(b"three")?;
/// left.finish()?;
/// let mut buf = [0; 64];
/// assert_eq!(right.receive(&mut buf)?, Some(3));
/// assert_eq!(right.receive(&mut buf)?, Some(0));
/// assert_eq!(right.receive(&mut buf)?, Some(5));
/// assert_eq!(right.receive(&mut buf)?, None);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "qio_channel_socket_dgram_sync")]
#[doc(alias = "qio_channel_socket_dgram_async")]
#[derive(Debug)]
pub struct Messages {
    base: Base,
    slot: Slot,
    kind: MessageKind,
    read_shut: AtomicBool,
    write_shut: AtomicBool,
    /// Raised with `write_shut`: a writer that waits for a full peer hears nothing of it from
    /// poll(2) (unix_dgram_poll).
    writer_wake: Event,
    /// What came before there was a socket of our own.
    early: Option<Arc<Early>>,
    /// The file of our own name.
    file: Option<SocketFile>,
}

/// What a socket of [`Messages`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageKind {
    /// `SOCK_DGRAM`: no connection, and no end.
    Datagram,
    /// `SOCK_SEQPACKET`: a connection, with an end.
    SeqPacket,
}

impl MessageKind {
    fn socket_type(self) -> SocketType {
        match self {
            Self::Datagram => SocketType::DGRAM,
            Self::SeqPacket => SocketType::SEQPACKET,
        }
    }
}

impl Messages {
    /// Takes over a connected socket that keeps messages apart; other processes may use it, too.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the descriptor given back when it is no such socket, has no peer, or
    /// listens.
    pub fn from_fd(fd: OwnedFd) -> std::result::Result<Self, (Error, OwnedFd)> {
        match probe(fd.as_fd()) {
            Ok((family, kind)) => Ok(Self::new(fd.into(), family, kind)),
            Err(error) => Err((error, fd)),
        }
    }

    /// Two connected Unix sockets.
    ///
    /// # Errors
    ///
    /// What socketpair(2) reports: the limit of open files.
    pub fn pair(kind: MessageKind) -> Result<(Self, Self)> {
        let family = AddressFamily::UNIX;
        let flags = SocketFlags::CLOEXEC;
        let (left, right) = rustix::net::socketpair(family, kind.socket_type(), flags, None)?;
        let new = |fd: OwnedFd| Self::new(fd.into(), family, kind);
        Ok((new(left), new(right)))
    }

    /// Takes over what was just connected or accepted.
    pub(crate) fn new(fd: SharedFd, family: AddressFamily, kind: MessageKind) -> Self {
        let mut features =
            Features::DUPLEX | Features::SHUTDOWN | Features::PEEK | Features::MESSAGES;
        if family == AddressFamily::UNIX {
            features |= Features::FD_PASS;
        }
        let name = match (family, kind) {
            (AddressFamily::UNIX, MessageKind::Datagram) => "unix datagram socket",
            (AddressFamily::UNIX, MessageKind::SeqPacket) => "unix seqpacket socket",
            _ => "udp socket",
        };
        Self {
            base: Base::new(name, features),
            slot: Slot::from_shared(fd),
            kind,
            read_shut: AtomicBool::new(false),
            write_shut: AtomicBool::new(false),
            writer_wake: Event::new(),
            early: None,
            file: None,
        }
    }

    /// Gives first what came before there was this socket.
    pub(crate) fn with_early(mut self, early: Arc<Early>) -> Self {
        self.early = Some(early);
        self
    }

    /// Removes the file of the name that the socket was just bound to, when it is closed.
    pub(crate) fn with_file(mut self, path: Option<&Path>) -> Result<Self> {
        self.file = path.map(SocketFile::at).transpose()?;
        Ok(self)
    }

    /// Whether there is a connection with an end.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// What the socket is bound to, asked of the kernel now.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn local_address(&self) -> Result<Endpoint> {
        endpoint::local(self.slot.borrow()?.as_fd())
    }

    /// What the socket is connected to, asked of the kernel now.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed, or when the peer is gone.
    pub fn peer_address(&self) -> Result<Endpoint> {
        endpoint::peer(self.slot.borrow()?.as_fd())
    }

    /// Who is at the other end: of a seqpacket connection, or of a pair.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket, and for datagrams whose sender the kernel
    /// does not know; `NotConnected` once closed.
    pub fn peer_credentials(&self) -> Result<PeerCredentials> {
        self.require_unix("only unix sockets know their peer")?;
        let fd = self.slot.borrow()?;
        match qio_os::peer_credentials(fd.as_fd())? {
            // What a socket has that nobody has accepted or paired.
            (0, NO_ID, NO_ID) => Err(self.unsupported("the sender of datagrams is not known")),
            (pid, uid, gid) => Ok(PeerCredentials::new(pid, uid, gid)),
        }
    }

    /// Asks the kernel to say with every message who sent it (`SO_PASSCRED`, unix(7)), as
    /// [`Socket::set_receive_credentials`](super::Socket::set_receive_credentials) does; a
    /// [receive with a sink](crate::ChannelExt::receive_with) then learns the
    /// [sender](crate::FdSink::sender).
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket; `NotConnected` once closed.
    pub fn set_receive_credentials(&self, receive: bool) -> Result<()> {
        self.require_unix("only unix sockets carry credentials")?;
        Ok(sockopt::set_socket_passcred(self.slot.borrow()?, receive)?)
    }

    fn require_unix(&self, reason: &str) -> Result<()> {
        let is_unix = self.base.features().contains(Features::FD_PASS);
        if is_unix { Ok(()) } else { Err(self.unsupported(reason)) }
    }

    fn unsupported(&self, reason: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("{}: {reason}", self.base.name()))
    }

    /// Shares ownership of the descriptor, for socket options that have no method here.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn descriptor(&self) -> Result<SharedFd> {
        self.slot.share().ok_or_else(closed)
    }

    /// What a read means that brought no byte.
    #[cold]
    fn nothing(&self, fd: BorrowedFd<'_>, with_fds: bool) -> Result<usize> {
        if self.slot.is_empty() {
            return Err(closed());
        }
        let ended = self.read_shut.load(Ordering::Relaxed)
            || (self.kind == MessageKind::SeqPacket && !with_fds && has_ended(fd)?);
        if ended { Ok(0) } else { Err(MessageError::Empty.into()) }
    }

    fn receive(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        // The length that is reported is then that of the message (recv(2)).
        let mut flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let peek = op.flags().contains(ReadFlags::PEEK);
        if peek {
            flags |= RecvFlags::PEEK;
        }
        let make_blocking = op.flags().contains(ReadFlags::BLOCKING_FDS);
        let (bufs, sink) = op.parts();
        let room_bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        let too_long = |length_bytes| length_bytes > room_bytes && !peek;
        let lost = |length_bytes| MessageError::Truncated { length_bytes, room_bytes }.into();
        let failed = |error: Errno| if self.slot.is_empty() { closed() } else { error.into() };

        let Some(sink) = sink else {
            let mut control = RecvAncillaryBuffer::default();
            let got = retry_on_intr(|| rustix::net::recvmsg(&fd, bufs, &mut control, flags));
            let got = got.map_err(failed)?;
            // Credentials that nobody looks at are cut off, too.
            let lost_fds = got.flags.contains(ReturnFlags::CTRUNC)
                && !sockopt::socket_passcred(&fd).unwrap_or(false);
            if lost_fds && !peek {
                event!(
                    warn,
                    channel = %self.base.name(),
                    "descriptors came that nobody asked for, and were closed"
                );
            }
            return match got.bytes {
                0 => self.nothing(fd.as_fd(), lost_fds),
                length if too_long(length) => Err(lost(length)),
                length => Ok(length.min(room_bytes)),
            };
        };
        let before = sink.fds().len();
        let dropped = sink.dropped();
        let got = receive_beside(fd.as_fd(), bufs, sink, make_blocking, flags).map_err(failed)?;
        let length = got.checked(sink, before)?;
        if too_long(length) {
            // They belong to a message that nobody gets.
            sink.truncate(before);
            return Err(lost(length));
        }
        match length {
            0 => self.nothing(fd.as_fd(), sink.fds().len() > before || sink.dropped() > dropped),
            length => Ok(length.min(room_bytes)),
        }
    }

    fn send(&self, bufs: &[IoSlice<'_>], op: &WriteOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        // A blocked call would not always be woken by our own shutdown (unix_wait_for_peer).
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match send_beside(fd.as_fd(), bufs, op.fds(), sender(op.flags()), flags) {
            Ok(sent) => Ok(sent),
            Err(_) if self.slot.is_empty() => Err(closed()),
            Err(Errno::MSGSIZE) => {
                let length_bytes = bufs.iter().map(|buf| buf.len()).sum();
                Err(MessageError::TooLong { length_bytes }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the file of our own name. Nobody is left to be told why not.
    fn remove_file(&self) {
        if let Some(file) = &self.file {
            let _ = file.remove();
        }
    }

    /// Wakes a writer that waits for room, after the socket was shut down for writing.
    fn wake_writer(&self) {
        self.write_shut.store(true, Ordering::Release);
        self.writer_wake.raise();
    }
}

impl Channel for Messages {
    #[inline]
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        op.require_whole(&self.base)?;
        if self.slot.is_empty() {
            return Err(closed());
        }
        if self.read_shut.load(Ordering::Relaxed) {
            return Ok(0);
        }
        if let Some(result) = self.early.as_ref().and_then(|early| early.read(op)) {
            return result;
        }
        if op.bufs().len() <= IOV_MAX {
            return self.receive(op);
        }
        // More than one call takes, and a second call would give the next message.
        let mut whole = vec![0; op.bufs().iter().map(|buf| buf.len()).sum()];
        let n = self.receive(&mut op.forward(&mut [IoSliceMut::new(&mut whole)]))?;
        scatter(&whole[..n], op.bufs());
        Ok(n)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        op.require_whole(&self.base)?;
        if op.bufs().len() <= IOV_MAX {
            return self.send(op.bufs(), op);
        }
        let whole: Vec<u8> = op.bufs().iter().flat_map(|buf| buf.iter()).copied().collect();
        self.send(&[IoSlice::new(&whole)], op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let Some(fd) = self.slot.try_borrow() else {
            return Readiness::from(interest) | Readiness::HANGUP;
        };
        let mut ready = Readiness::empty();
        if interest.contains(Interest::READ)
            && self.early.as_ref().is_some_and(|early| !early.is_empty())
        {
            ready |= Readiness::READ;
        }
        if !interest.contains(Interest::WRITE) {
            // Whoever reads sees a hang-up; a leg for it alone would wake for every message.
            if !interest.is_empty() {
                set.add(fd.shared(), interest, interest);
            }
            return ready;
        }
        if self.write_shut.load(Ordering::Acquire) {
            ready |= Readiness::WRITE;
            if interest.contains(Interest::READ) {
                set.add(fd.shared(), Interest::READ, Interest::READ);
            }
            return ready;
        }
        set.add(fd.shared(), interest, interest);
        self.writer_wake.watch(Interest::WRITE, set);
        ready
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        let Some(fd) = self.slot.take() else { return Ok(()) };
        event!(debug, channel = %self.base.name(), "closed");
        // Wakes every wait on it, although a leg may still own the descriptor.
        let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
        self.wake_writer();
        self.remove_file();
        release(fd)
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        drop(self.slot.borrow()?);
        self.base.set_mode(mode);
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let fd = self.slot.borrow()?;
        if how != Shutdown::Write {
            self.read_shut.store(true, Ordering::Relaxed);
        }
        shut_down(fd.as_fd(), how)?;
        if how != Shutdown::Read {
            self.wake_writer();
        }
        Ok(())
    }

    /// Ends our side. The peer of a seqpacket connection reads the end; nobody else can tell.
    fn finish(&self) -> Result<()> {
        let fd = self.slot.borrow()?;
        shut_down(fd.as_fd(), Shutdown::Write)?;
        self.wake_writer();
        Ok(())
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        if !self.slot.is_empty() {
            self.remove_file();
        }
    }
}

/// What kind of message socket it is, and of which family.
fn probe(fd: BorrowedFd<'_>) -> Result<(AddressFamily, MessageKind)> {
    let invalid = |text| Error::new(ErrorKind::InvalidInput, text);
    let kind = sockopt::socket_type(fd).map_err(|error| match error {
        Errno::NOTSOCK => invalid("the descriptor is not a socket"),
        error => error.into(),
    })?;
    let family = sockopt::socket_domain(fd)?;
    let inet = family == AddressFamily::INET || family == AddressFamily::INET6;
    let kind = match kind {
        SocketType::DGRAM if inet || family == AddressFamily::UNIX => MessageKind::Datagram,
        SocketType::SEQPACKET if family == AddressFamily::UNIX => MessageKind::SeqPacket,
        _ => return Err(invalid("the socket is not one for messages (UDP or Unix)")),
    };
    if sockopt::socket_acceptconn(fd)? {
        return Err(invalid("the socket listens, it is not connected"));
    }
    match rustix::net::getpeername(fd) {
        Err(Errno::NOTCONN) => Err(invalid("the socket is not connected")),
        Err(error) => Err(error.into()),
        Ok(_) => Ok((family, kind)),
    }
}

/// Whether a seqpacket connection has ended and has nothing left to read.
fn has_ended(fd: BorrowedFd<'_>) -> Result<bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    // An end that comes now is behind the message that was read; the next read tells.
    let ended = retry_on_intr(|| rustix::event::poll(&mut fds, Some(&at_once)))? > 0;
    Ok(ended && rustix::io::ioctl_fionread(fd)? == 0)
}

/// Copies a message, which fits, into buffers.
pub(super) fn scatter(mut message: &[u8], bufs: &mut [IoSliceMut<'_>]) {
    for buf in bufs {
        let (now, later) = message.split_at(message.len().min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        message = later;
    }
}

/// The user and group of nobody (`overflow` of no mapping: -1).
const NO_ID: u32 = u32::MAX;
