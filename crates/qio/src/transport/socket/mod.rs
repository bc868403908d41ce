//! Stream sockets.

pub(super) mod ancillary;
mod credentials;
pub(super) mod endpoint;
mod more;
mod options;
mod writer;

use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use bytes::Bytes;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, sockopt};

use self::ancillary::{
    receive_vectored, receive_with_fds, send_flagged, send_vectored, send_with_fds,
};
pub use self::endpoint::Endpoint;
pub use self::options::KeepAlive;
use self::writer::Writer;
use super::zero_copy::{Attempt, ZeroCopy};
use crate::channel::{
    Base, Channel, Confirmed, Features, Mode, ReadFlags, ReadOp, WriteFlags, WriteOp, copy_owned,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{PollSet, SharedFd, Slot, closed, release, waiter};

/// A connected stream socket: TCP, Unix, or any other family.
///
/// Features: shutdown and peek always; descriptors on Unix sockets; zero copy on TCP sockets that
/// are not shared. What the socket can do is asked of the socket itself, however it was made.
///
/// Blocking mode is `O_NONBLOCK` cleared: a read or write is one system call that waits in the
/// kernel, and that `close` and `shutdown` wake. Where a [`Waiter`](crate::watch::Waiter) is in
/// charge of the thread that makes the socket or sets its mode (a coroutine), and once the channel
/// has an [`interrupter`](crate::ChannelExt::interrupter), blocking mode tries and waits there. A
/// socket [shared](Socket::from_shared) with other processes never has its flag touched.
///
/// # Zero copy
///
/// [`write_owned`](crate::ChannelExt::write_owned) sends from the buffers themselves
/// (`MSG_ZEROCOPY`, with `SO_ZEROCOPY` set by the first such write) and keeps shares of them until
/// the kernel has confirmed the send on the error queue of the socket. That is looked at by every
/// [`flush`](Channel::flush), [`confirm`](Channel::confirm) and wait, and by an owned write while 8
/// sends or more are unconfirmed; messages of other kinds on it are thrown away. `flush` and
/// `confirm` wait for all confirmations.
///
/// - One owned write makes one send of at most 1 MiB. It never waits in the kernel.
/// - It would-blocks while 16 MiB or 1024 sends are unconfirmed, and while the kernel has no memory
///   for more notifications (`ENOBUFS`, after the queue was emptied and the send repeated). A wait
///   for [`Interest::WRITE`] is then one for confirmations.
/// - It copies, and `confirm` says so, on sockets without [`Features::ZERO_COPY`], where the kernel
///   refuses `SO_ZEROCOPY` or somebody else has set it before, and on `ENOBUFS` with nothing
///   unconfirmed: the limit (`RLIMIT_MEMLOCK`, `net.core.optmem_max`) is then used up by others or
///   too small for one send.
/// - Closing and dropping do not wait. Bytes that were accepted are sent, as ever; while the kernel
///   reads owned buffers, the descriptor (shut down) and the buffers live on, at most 100 s and for
///   64 sockets at a time; beyond that the connection is reset. A thread looks after them for as
///   long as there are any. Who wants to know confirms before closing.
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
    /// Where the owner of the descriptor in the slot is: it is told from others without being
    /// borrowed.
    address: usize,
    /// Other processes use the same open file: its flags are theirs too.
    shared: bool,
    read_shut: AtomicBool,
    /// Who waits for room in a Unix socket.
    writer: Writer,
    /// The [interests](Interest) whose wait is not simply one for the socket.
    special: AtomicU8,
    /// Made by the first owned write.
    zero_copy: OnceLock<Box<ZeroCopy>>,
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
        let mut special = Interest::empty();
        match family {
            AddressFamily::UNIX => {
                features |= Features::FD_PASS;
                special = Interest::WRITE;
            }
            // The switch and the numbers of the sends belong to all who use the open file.
            AddressFamily::INET | AddressFamily::INET6 if !shared => {
                features |= Features::ZERO_COPY;
            }
            _ => {}
        }
        let kind = match family {
            AddressFamily::UNIX => "unix socket",
            AddressFamily::INET | AddressFamily::INET6 => "tcp socket",
            AddressFamily::VSOCK => "vsock socket",
            _ => "socket",
        };
        if !shared && waiter::is_hooked() {
            // Cannot fail on a descriptor that is open.
            let _ = rustix::io::ioctl_fionbio(&fd, true);
        }
        Self {
            base: Base::new(kind, features),
            address: SharedFd::as_ptr(&fd).addr(),
            slot: Slot::from_shared(fd),
            shared,
            read_shut: AtomicBool::new(false),
            writer: Writer::default(),
            special: AtomicU8::new(special.bits()),
            zero_copy: OnceLock::new(),
        }
    }

    /// Shares ownership of the descriptor, for socket options that have no method here.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn descriptor(&self) -> Result<SharedFd> {
        self.slot.share().ok_or_else(closed)
    }

    /// How many bytes of [owned](crate::ChannelExt::write_owned) buffers were sent without a copy
    /// and not confirmed, when somebody last looked.
    pub fn unconfirmed_bytes(&self) -> usize {
        self.zero_copy.get().map_or(0, |zero_copy| zero_copy.unconfirmed_bytes())
    }

    #[inline]
    fn dont_wait(&self, this_call: bool) -> bool {
        this_call || self.shared || self.base.mode() == Mode::NonBlocking
    }

    fn wakes_writer(&self) -> bool {
        self.base.features().contains(Features::FD_PASS)
    }

    // Kept out of the readers' way, who are most of those that wait.
    #[cold]
    #[inline(never)]
    fn watch_special(&self, fd: &SharedFd, interest: Interest, set: &mut PollSet) -> Readiness {
        match self.zero_copy.get() {
            Some(zero_copy) => zero_copy.watch(fd, interest, set),
            None => self.watch_writing(fd, interest, set),
        }
    }

    /// What a writer of a Unix socket waits for: room, or that writing is shut down.
    fn watch_writing(&self, fd: &SharedFd, interest: Interest, set: &mut PollSet) -> Readiness {
        if self.writer.watch(fd, interest, set) {
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
            self.writer.wake();
        }
    }

    fn zero_copy(&self) -> &ZeroCopy {
        self.zero_copy.get_or_init(|| {
            self.special.store(Interest::all().bits(), Ordering::Release);
            Box::new(ZeroCopy::new())
        })
    }

    /// The result of a write that failed or was refused.
    #[cold]
    #[inline(never)]
    fn not_written(&self, result: rustix::io::Result<usize>) -> Result<usize> {
        if let Some(zero_copy) = self.zero_copy.get() {
            zero_copy.wait_for_room();
        }
        self.unless_closed(result)
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
        if !op.flags().is_empty() {
            return send_flagged(self, fd.as_fd(), op);
        }
        let mut flags = SendFlags::NOSIGNAL;
        if self.dont_wait(false) {
            flags |= SendFlags::DONTWAIT;
        }
        match (op.bufs(), op.fds()) {
            ([buf], []) => match retry_on_intr(|| rustix::net::send(&fd, buf, flags)) {
                Ok(n) => Ok(n),
                error => self.not_written(error),
            },
            (bufs, []) => send_vectored(self, fd.as_fd(), bufs, flags),
            (bufs, fds) => send_with_fds(self, fd.as_fd(), bufs, fds, None, flags),
        }
    }

    fn try_write_owned(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
        if self.base.features().contains(Features::ZERO_COPY) {
            let fd = self.slot.borrow()?;
            match self.zero_copy().send(fd.as_fd(), bufs) {
                Ok(Attempt::Sent(sent)) => return Ok(sent),
                Ok(Attempt::Copy) => {}
                Err(_) if self.slot.is_empty() => return Err(closed()),
                Err(error) => return Err(error),
            }
        }
        copy_owned(self, bufs, flags)
    }

    #[inline]
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let Some(fd) = self.slot.try_borrow() else {
            return Readiness::from(interest) | Readiness::HANGUP;
        };
        if self.special.load(Ordering::Acquire) & interest.bits() != 0 {
            return self.watch_special(fd.shared(), interest, set);
        }
        // Whoever reads sees a hang-up; a leg for it alone would wake for every message.
        if !interest.is_empty() {
            set.add(fd.shared(), interest, interest);
        }
        Readiness::empty()
    }

    #[inline]
    fn watch_stands(&self, interest: Interest, fd: &SharedFd) -> bool {
        !self.slot.is_empty()
            && SharedFd::as_ptr(fd).addr() == self.address
            && self.special.load(Ordering::Acquire) & interest.bits() == 0
    }

    fn drive(&self, now: Instant) -> Result<()> {
        if self.writer.is_due(now)
            && let Some(fd) = self.slot.try_borrow()
        {
            self.writer.look(fd.as_fd());
        }
        Ok(())
    }

    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        self.watch_arrivals(seen, set)
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        let Some(fd) = self.slot.take() else { return Ok(()) };
        event!(debug, channel = %self.base.name(), "closed");
        // Closing alone would not reach the peer, nor wake anyone, while a leg or a blocked call
        // still owns the descriptor. ENOTCONN: the peer was faster.
        let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
        match self.zero_copy.get() {
            Some(zero_copy) => zero_copy.close(fd),
            None => release(fd),
        }
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        let fd = self.slot.borrow()?;
        if !self.shared {
            let may_block =
                mode == Mode::Blocking && self.base.interrupts().is_none() && !waiter::is_hooked();
            rustix::io::ioctl_fionbio(&fd, !may_block)?;
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
        shut_down(fd.as_fd(), how)?;
        if how != Shutdown::Read {
            self.wake_writer();
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let fd = self.slot.borrow()?;
        shut_down(fd.as_fd(), Shutdown::Write)?;
        self.wake_writer();
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        match self.zero_copy.get() {
            Some(zero_copy) => zero_copy.flush(self.slot.borrow()?.as_fd()),
            None => Ok(()),
        }
    }

    fn confirm(&self) -> Result<Confirmed> {
        let mut confirmed = match self.zero_copy.get() {
            Some(zero_copy) => zero_copy.confirm(self.slot.borrow()?.as_fd())?,
            None => Confirmed::default(),
        };
        confirmed.copied |= self.base.take_copied();
        Ok(confirmed)
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

impl Drop for Socket {
    fn drop(&mut self) {
        // Otherwise the descriptor may simply go.
        if self.zero_copy.get().is_some_and(|zero_copy| zero_copy.unconfirmed_bytes() > 0) {
            // Nobody is left to be told.
            let _ = self.close();
        }
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

/// shutdown(2). The peer being gone already is as good as having been told.
pub(super) fn shut_down(fd: BorrowedFd<'_>, how: Shutdown) -> Result<()> {
    let how = match how {
        Shutdown::Read => rustix::net::Shutdown::Read,
        Shutdown::Write => rustix::net::Shutdown::Write,
        Shutdown::Both => rustix::net::Shutdown::Both,
    };
    match rustix::net::shutdown(fd, how) {
        Err(Errno::NOTCONN) => Ok(()),
        result => Ok(result?),
    }
}
