//! Stream sockets.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrAny, SocketType, sockopt,
};

use super::iov::{one_call, one_call_mut};
use crate::channel::{
    Base, Channel, FdSink, Features, MAX_FDS_PER_MESSAGE, Mode, ReadFlags, ReadOp, WriteFlags,
    WriteOp,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{Event, PollSet, SharedFd, Slot, closed, release};

/// A connected stream socket: TCP, Unix, or any other family.
///
/// Features: shutdown and peek always; descriptors on Unix sockets. What the socket can do is
/// asked of the socket itself, however it was made.
///
/// Blocking mode is `O_NONBLOCK` cleared: a read or write is one system call that waits in the
/// kernel, and that `close` and `shutdown` wake. A socket [shared](Socket::from_shared) with other
/// processes never has its flag touched.
///
/// QEMU's `QIOChannelSocket`.
///
/// ```
/// use qio::{ChannelExt, transport::Socket};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Socket::pair()?;
/// left.write_all(b"ping")?;
/// let mut buf = [0; 4];
/// right.read_exact(&mut buf)?;
/// assert_eq!(&buf, b"ping");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOChannelSocket")]
#[derive(Debug)]
pub struct Socket {
    base: Base,
    slot: Slot,
    /// Other processes use the same open file: its flags are theirs too.
    shared: bool,
    read_shut: AtomicBool,
    write_shut: AtomicBool,
    /// Raised with `write_shut`: poll(2) does not call a full Unix socket writable when it is shut
    /// down for writing (unix_poll), so nothing else would wake its writer.
    writer_wake: Event,
}

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
    /// Takes over a connected stream socket.
    ///
    /// The channel starts in blocking mode and clears `O_NONBLOCK`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the descriptor given back when it is no socket, no stream, or listens.
    #[doc(alias = "qio_channel_socket_new_fd")]
    pub fn from_fd(fd: OwnedFd) -> std::result::Result<Self, (Error, OwnedFd)> {
        let socket = Self::adopt(fd, false)?;
        // An error here means that the descriptor is no longer open, which an owner rules out.
        let _ = socket.set_mode(Mode::Blocking);
        Ok(socket)
    }

    /// Takes over a connected stream socket that other processes use too (an inherited one).
    ///
    /// Its flags are never changed; blocking mode waits in poll(2) instead.
    ///
    /// # Errors
    ///
    /// As [`from_fd`](Socket::from_fd).
    pub fn from_shared(fd: OwnedFd) -> std::result::Result<Self, (Error, OwnedFd)> {
        Self::adopt(fd, true)
    }

    /// Two connected Unix sockets.
    ///
    /// # Errors
    ///
    /// What socketpair(2) reports: the limit of open files.
    pub fn pair() -> Result<(Self, Self)> {
        let (left, right) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let family = AddressFamily::UNIX;
        Ok((Self::new(left.into(), family, false), Self::new(right.into(), family, false)))
    }

    /// Takes over what `connect` or `accept` just made, which needs no questions: a connected
    /// stream socket of this family, without `O_NONBLOCK`.
    pub(crate) fn connected(fd: SharedFd, family: AddressFamily) -> Self {
        Self::new(fd, family, false)
    }

    fn adopt(fd: OwnedFd, shared: bool) -> std::result::Result<Self, (Error, OwnedFd)> {
        match stream_family(&fd) {
            Ok(family) => Ok(Self::new(fd.into(), family, shared)),
            Err(error) => Err((error, fd)),
        }
    }

    fn new(fd: SharedFd, family: AddressFamily, shared: bool) -> Self {
        let mut features =
            Features::DUPLEX | Features::SHUTDOWN | Features::PEEK | Features::DRAINS;
        if family == AddressFamily::UNIX {
            features |= Features::FD_PASS;
        }
        let kind = match family {
            AddressFamily::UNIX => "unix socket",
            AddressFamily::INET | AddressFamily::INET6 => "tcp socket",
            _ => "socket",
        };
        Self {
            base: Base::new(kind, features),
            slot: Slot::from_shared(fd),
            shared,
            read_shut: AtomicBool::new(false),
            write_shut: AtomicBool::new(false),
            writer_wake: Event::new(),
        }
    }

    /// The local address.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn local_addr(&self) -> Result<SocketAddrAny> {
        Ok(rustix::net::getsockname(self.slot.borrow()?)?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed, or when the peer is gone.
    pub fn peer_addr(&self) -> Result<SocketAddrAny> {
        rustix::net::getpeername(self.slot.borrow()?)?.ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Who is at the other end.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but a Unix socket; `NotConnected` once closed.
    #[doc(alias = "qio_channel_get_peerpid")]
    pub fn peer_credentials(&self) -> Result<PeerCredentials> {
        if !self.base.features().contains(Features::FD_PASS) {
            let text = format!("{}: only unix sockets know their peer", self.base.name());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let fd = self.slot.borrow()?;
        let (pid, uid, gid) = qio_os::peer_credentials(fd.as_fd())?;
        Ok(PeerCredentials { pid, uid, gid })
    }

    /// Shares ownership of the descriptor, for socket options that have no method here.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn descriptor(&self) -> Result<SharedFd> {
        self.slot.share().ok_or_else(closed)
    }

    #[inline]
    fn dont_wait(&self, this_call: bool) -> bool {
        this_call || self.shared || self.base.mode() == Mode::NonBlocking
    }

    fn wakes_writer(&self) -> bool {
        self.base.features().contains(Features::FD_PASS)
    }

    /// What a writer of a Unix socket waits for: room, or that writing is shut down.
    #[inline(never)]
    fn watch_writing(&self, fd: &SharedFd, interest: Interest, set: &mut PollSet) -> Readiness {
        if !self.write_shut.load(Ordering::Acquire) {
            set.add(fd, interest, interest);
            self.writer_wake.watch(Interest::WRITE, set);
            return Readiness::empty();
        }
        if interest.contains(Interest::READ) {
            set.add(fd, Interest::READ, Interest::READ);
        }
        Readiness::WRITE
    }

    /// Wakes a writer that waits for room, after the socket was shut down for writing.
    fn wake_writer(&self) {
        if self.wakes_writer() {
            self.write_shut.store(true, Ordering::Release);
            self.writer_wake.raise();
        }
    }

    /// Whether descriptors may come to a read that does not ask for them, and somebody listens who
    /// wants to know.
    #[cfg(feature = "tracing")]
    fn may_lose_fds(&self) -> bool {
        self.base.features().contains(Features::FD_PASS)
            && tracing::enabled!(target: "qio", tracing::Level::WARN)
    }

    /// The result of a call, unless the channel was closed meanwhile: what ended a call that slept
    /// in the kernel is then our own shutdown, and looks like the peer's.
    #[cold]
    #[inline(never)]
    fn unless_closed(&self, result: rustix::io::Result<usize>) -> Result<usize> {
        if self.slot.is_empty() { Err(closed()) } else { Ok(result?) }
    }
}

impl Channel for Socket {
    #[inline]
    fn base(&self) -> &Base {
        &self.base
    }

    #[inline]
    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        let mut flags = RecvFlags::empty();
        if self.dont_wait(op.flags().contains(ReadFlags::NONBLOCK)) {
            flags |= RecvFlags::DONTWAIT;
        }
        if op.flags().contains(ReadFlags::PEEK) {
            flags |= RecvFlags::PEEK;
        }
        if self.read_shut.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match op.parts() {
            // Only this way does the kernel say that descriptors came and were thrown away.
            #[cfg(feature = "tracing")]
            (bufs, None) if self.may_lose_fds() => receive_vectored(self, fd.as_fd(), bufs, flags),
            ([buf], None) => match retry_on_intr(|| rustix::net::recv(&fd, &mut **buf, flags)) {
                Ok((n, _)) if n > 0 => Ok(n),
                end => self.unless_closed(end.map(|(n, _)| n)),
            },
            (bufs, None) => receive_vectored(self, fd.as_fd(), bufs, flags),
            (_, Some(_)) => receive_with_fds(self, fd.as_fd(), op, flags),
        }
    }

    #[inline]
    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        let mut flags = SendFlags::NOSIGNAL;
        if self.dont_wait(op.flags().contains(WriteFlags::NONBLOCK)) {
            flags |= SendFlags::DONTWAIT;
        }
        match (op.bufs(), op.fds()) {
            ([buf], []) => match retry_on_intr(|| rustix::net::send(&fd, buf, flags)) {
                Ok(n) => Ok(n),
                error => self.unless_closed(error),
            },
            (bufs, []) => send_vectored(self, fd.as_fd(), bufs, flags),
            (bufs, fds) => send_with_fds(self, fd.as_fd(), bufs, fds, flags),
        }
    }

    #[inline]
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let Some(fd) = self.slot.try_borrow() else {
            return Readiness::from(interest) | Readiness::HANGUP;
        };
        if interest.contains(Interest::WRITE) && self.wakes_writer() {
            return self.watch_writing(fd.shared(), interest, set);
        }
        // Whoever reads sees a hang-up; a leg for it alone would wake for every message.
        if !interest.is_empty() {
            set.add(fd.shared(), interest, interest);
        }
        Readiness::empty()
    }

    fn close(&self) -> Result<()> {
        let Some(fd) = self.slot.take() else { return Ok(()) };
        event!(debug, channel = %self.base.name(), "closed");
        // Closing alone would not reach the peer, nor wake anyone, while a leg or a blocked call
        // still owns the descriptor. ENOTCONN: the peer was faster.
        let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
        release(fd)
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        let fd = self.slot.borrow()?;
        if !self.shared {
            rustix::io::ioctl_fionbio(&fd, mode == Mode::NonBlocking)?;
        }
        self.base.set_mode(mode);
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let fd = self.slot.borrow()?;
        if how != Shutdown::Write {
            // TCP would deliver what arrives after SHUT_RD; an end of stream is an end.
            self.read_shut.store(true, Ordering::Relaxed);
        }
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        ignore_disconnected(rustix::net::shutdown(&fd, how))?;
        if how != rustix::net::Shutdown::Read {
            self.wake_writer();
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let fd = self.slot.borrow()?;
        ignore_disconnected(rustix::net::shutdown(&fd, rustix::net::Shutdown::Write))?;
        self.wake_writer();
        Ok(())
    }

    fn set_delay(&self, delay: bool) {
        if let Ok(fd) = self.slot.borrow() {
            // A hint: other families than TCP refuse it.
            let _ = sockopt::set_tcp_nodelay(&fd, !delay);
        }
    }

    fn set_cork(&self, cork: bool) {
        if let Ok(fd) = self.slot.borrow() {
            let _ = sockopt::set_tcp_cork(&fd, cork);
        }
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        // splice(2) from a socket waits in spite of SPLICE_F_NONBLOCK unless the socket itself is
        // non-blocking, and it drops the descriptors of a Unix message without a word.
        let loses_fds =
            direction == Direction::Read && self.base.features().contains(Features::FD_PASS);
        if self.shared || self.base.mode() == Mode::Blocking || loses_fds {
            return None;
        }
        if direction == Direction::Read && self.read_shut.load(Ordering::Relaxed) {
            return None;
        }
        self.slot.share()
    }
}

fn stream_family(fd: &OwnedFd) -> Result<AddressFamily> {
    let invalid = |text| Error::new(ErrorKind::InvalidInput, text);
    let kind = sockopt::socket_type(fd).map_err(|error| match error {
        Errno::NOTSOCK => invalid("the descriptor is not a socket"),
        error => error.into(),
    })?;
    if kind != SocketType::STREAM {
        return Err(invalid("the socket is not a stream socket"));
    }
    if sockopt::socket_acceptconn(fd)? {
        return Err(invalid("the socket listens, it is not connected"));
    }
    Ok(sockopt::socket_domain(fd)?)
}

/// The peer being gone already is as good as having been told.
pub(super) fn ignore_disconnected(result: rustix::io::Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOTCONN) => Ok(()),
        result => Ok(result?),
    }
}

// The rarer forms are functions of their own, so that the stack space for their control messages
// is not part of every read and write.

#[inline(never)]
fn receive_vectored(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    flags: RecvFlags,
) -> Result<usize> {
    let bufs = one_call_mut(bufs);
    let mut control = RecvAncillaryBuffer::default();
    match retry_on_intr(|| rustix::net::recvmsg(fd, bufs, &mut control, flags)) {
        Ok(got) if got.bytes > 0 => {
            if got.flags.contains(ReturnFlags::CTRUNC) {
                event!(
                    warn,
                    channel = %socket.base.name(),
                    "descriptors came that nobody asked for, and were closed"
                );
            }
            Ok(got.bytes)
        }
        end => socket.unless_closed(end.map(|got| got.bytes)),
    }
}

#[inline(never)]
fn receive_with_fds(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    op: &mut ReadOp<'_, '_>,
    flags: RecvFlags,
) -> Result<usize> {
    let make_blocking = op.flags().contains(ReadFlags::BLOCKING_FDS);
    let (bufs, sink) = op.parts();
    let Some(sink) = sink else { return Err(ErrorKind::InvalidInput.into()) };
    let bufs = one_call_mut(bufs);
    let mut space = [MaybeUninit::uninit(); FD_CONTROL_BYTES];
    let room = match sink.room().min(MAX_FDS_PER_MESSAGE) {
        0 => 0,
        room => rustix::cmsg_space!(ScmRights(room)),
    };
    let mut control = RecvAncillaryBuffer::new(&mut space[..room]);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = match retry_on_intr(|| rustix::net::recvmsg(fd, bufs, &mut control, flags)) {
        Ok(got) if got.bytes > 0 => got,
        got => return socket.unless_closed(got.map(|got| got.bytes)),
    };
    take_fds(&mut control, sink, make_blocking)?;
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(too_many_fds(sink));
    }
    Ok(got.bytes)
}

/// Moves what arrived into the sink; what does not fit is closed, and an error. All of it is closed
/// when the mode of one cannot be changed: nobody gets descriptors in another mode than was asked for.
pub(super) fn take_fds(
    control: &mut RecvAncillaryBuffer<'_>,
    sink: &mut FdSink,
    make_blocking: bool,
) -> Result<()> {
    let before = sink.fds().len();
    let mut result = Ok(());
    let mut mode = Ok(());
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(fds) = message else { continue };
        for fd in fds {
            if make_blocking {
                mode = mode.and(rustix::io::ioctl_fionbio(&fd, false));
            }
            if sink.push(fd).is_err() {
                result = Err(too_many_fds(sink));
            }
        }
    }
    if mode.is_err() {
        sink.truncate(before);
    }
    Ok(mode?).and(result)
}

#[cold]
pub(super) fn too_many_fds(sink: &FdSink) -> Error {
    let text = format!(
        "more descriptors arrived than there was room for ({} taken): the rest is lost",
        sink.fds().len()
    );
    Error::new(ErrorKind::InvalidData, text)
}

#[inline(never)]
fn send_vectored(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    flags: SendFlags,
) -> Result<usize> {
    let mut control = SendAncillaryBuffer::default();
    let bufs = one_call(bufs);
    match retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags)) {
        Ok(n) => Ok(n),
        error => socket.unless_closed(error),
    }
}

#[inline(never)]
fn send_with_fds(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); FD_CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The space is that of the largest message, and the number was checked against it.
    let fits = control.push(SendAncillaryMessage::ScmRights(fds));
    debug_assert!(fits, "checked when the operation was made");
    let bufs = one_call(bufs);
    match retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags)) {
        Ok(n) => Ok(n),
        error => socket.unless_closed(error),
    }
}

pub(super) const FD_CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_FDS_PER_MESSAGE));
