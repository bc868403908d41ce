//! One end of something that is not a socket we own: a pipe, a FIFO, a terminal, a device.

use std::io::{Error, ErrorKind, IoSlice, IsTerminal, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use qio_os::Capability;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::iov::{one_call, one_call_mut};
use super::terminal;
use crate::channel::{ReadOp, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{Borrowed, LOOK_AGAIN, PollSet, SharedFd, Slot, release};

/// Whether other processes use the same open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Ours alone: `O_NONBLOCK` is set on it.
    Exclusive,
    /// An inherited terminal, pipe or socket: its flags are not touched.
    Shared,
}

/// One readable or writable end.
///
/// Never blocks: an end of our own is non-blocking, a shared one is read and written with
/// `RWF_NOWAIT`, or after poll(2) said that it would not block.
///
/// Waits go to an epoll descriptor of the end's own, which watches the real one. So a forgotten
/// leg keeps only the epoll descriptor alive: `close` closes the real one at once, the peer sees
/// it, and every leg fires.
#[derive(Debug)]
pub(super) struct End {
    direction: Direction,
    kind: Kind,
    ownership: Ownership,
    slot: Slot,
    /// The descriptor of a terminal that was opened anew. Its number stays taken until the close.
    shared: Option<Slot>,
    poller: Mutex<Poller>,
    /// Waits for the other side to go, and for nothing else.
    farewell: Mutex<Poller>,
    /// The end of the stream was read.
    ended: AtomicBool,
    /// A FIFO that nobody has opened for writing reads as ended without being so.
    had_writer: AtomicBool,
    no_wait_refused: AtomicBool,
}

/// What the descriptor is, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pipe,
    Socket,
    /// Never waits: a regular file, a block device.
    Storage,
    Terminal,
    Device,
}

#[derive(Debug)]
enum Poller {
    /// Nobody has waited yet.
    Idle,
    Watching(SharedFd),
    /// epoll(7) refuses the descriptor, which poll(2) calls always ready.
    AlwaysReady,
    Closed,
}

/// How many bytes poll(2) promises room for when it calls a pipe writable (pipe(7)).
const PIPE_BUF: usize = 4096;

const CURRENT_POSITION: u64 = u64::MAX;

impl End {
    pub(super) fn new(fd: OwnedFd, direction: Direction, ownership: Ownership) -> Result<Self> {
        let kind = Self::prepare(fd.as_fd(), ownership)?;
        if ownership == Ownership::Shared
            && kind == Kind::Terminal
            && let Some(own) = terminal::reopen(fd.as_fd(), direction)
        {
            let mut end = Self::with_kind(own, direction, Ownership::Exclusive, kind);
            end.shared = Some(Slot::new(fd));
            return Ok(end);
        }
        Ok(Self::with_kind(fd, direction, ownership, kind))
    }

    /// Makes the descriptor fit to be an end; when that fails, nothing was changed.
    pub(super) fn prepare(fd: BorrowedFd<'_>, ownership: Ownership) -> Result<Kind> {
        let kind = match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
            FileType::Fifo => Kind::Pipe,
            FileType::Socket => Kind::Socket,
            FileType::RegularFile | FileType::BlockDevice | FileType::Directory => Kind::Storage,
            _ if fd.is_terminal() => Kind::Terminal,
            _ => Kind::Device,
        };
        if ownership == Ownership::Exclusive && kind != Kind::Storage {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(kind)
    }

    /// An end of a descriptor that was prepared.
    pub(super) fn with_kind(
        fd: OwnedFd,
        direction: Direction,
        ownership: Ownership,
        kind: Kind,
    ) -> Self {
        Self {
            direction,
            kind,
            ownership,
            slot: Slot::new(fd),
            shared: None,
            poller: Mutex::new(Poller::Idle),
            farewell: Mutex::new(Poller::Idle),
            ended: AtomicBool::new(false),
            had_writer: AtomicBool::new(true),
            no_wait_refused: AtomicBool::new(false),
        }
    }

    /// The end of a FIFO that may have no writer yet: no writer is not the end of the stream.
    pub(super) fn awaiting_writer(self) -> Self {
        self.had_writer.store(false, Ordering::Relaxed);
        self
    }

    /// The descriptor, for what is neither reading nor writing.
    pub(super) fn descriptor(&self) -> Result<Borrowed<'_>> {
        self.slot.borrow()
    }

    pub(super) fn is_storage(&self) -> bool {
        self.kind == Kind::Storage
    }

    pub(super) fn read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        if self.ended.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let bufs = one_call_mut(op.bufs());
        let mut seems_over = false;
        let n = loop {
            let result = if self.may_block() {
                self.without_blocking(fd.as_fd(), |flags| {
                    rustix::io::preadv2(&fd, bufs, CURRENT_POSITION, flags)
                })
            } else {
                rustix::io::readv(&fd, bufs)
            };
            match result {
                Err(Errno::INTR) => {}
                // A terminal whose other side is gone.
                Err(Errno::IO) if self.kind == Kind::Terminal => break 0,
                Ok(0) if !self.had_writer.load(Ordering::Relaxed) => {
                    if !poll_now(fd.as_fd(), PollFlags::IN)? {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                    // The first writer came, perhaps after the read: there may be bytes of it. It
                    // is asked twice, because poll(2) reads the number of writers without a lock,
                    // and one that is just opening is counted as come before it is there
                    // (fifo_open and pipe_poll of the kernel).
                    self.had_writer.store(seems_over, Ordering::Relaxed);
                    seems_over = true;
                }
                result => break result?,
            }
        };
        if n == 0 && self.kind != Kind::Storage {
            self.ended.store(true, Ordering::Relaxed);
        } else if n > 0 {
            self.had_writer.store(true, Ordering::Relaxed);
        }
        Ok(n)
    }

    pub(super) fn write(&self, op: &WriteOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        let bufs = one_call(op.bufs());
        loop {
            let result = if self.may_block() {
                self.without_blocking(fd.as_fd(), |flags| {
                    if flags.is_empty() {
                        self.write_what_poll_promised(fd.as_fd(), &bufs[0])
                    } else {
                        qio_os::write_no_sigpipe(fd.as_fd(), bufs, flags)
                    }
                })
            } else {
                qio_os::write_no_sigpipe(fd.as_fd(), bufs, ReadWriteFlags::empty())
            };
            match result {
                Err(Errno::INTR) => {}
                // A terminal whose other side is gone. The error has other reasons too: a program
                // in the background that nobody can bring to the front may not write.
                Err(Errno::IO) if self.kind == Kind::Terminal && has_hung_up(fd.as_fd())? => {
                    return Err(ErrorKind::BrokenPipe.into());
                }
                result => return Ok(result?),
            }
        }
    }

    pub(super) fn watch(&self, set: &mut PollSet) -> Readiness {
        let interest = Interest::from(self.direction);
        if self.ended.load(Ordering::Relaxed) {
            return interest.into();
        }
        let mut poller = lock(&self.poller);
        if let (Poller::Idle, Some(fd)) = (&*poller, self.slot.share()) {
            let events = match self.direction {
                Direction::Read => epoll::EventFlags::IN,
                Direction::Write => epoll::EventFlags::OUT,
            };
            *poller = match start_watching(fd.as_fd(), events) {
                Ok(watching) => watching,
                Err(_limit) => return self.look_now_and_then(fd.as_fd(), set),
            };
        }
        match &*poller {
            Poller::Watching(epoll) => {
                set.add(epoll, Interest::READ, interest);
                Readiness::empty()
            }
            Poller::AlwaysReady => interest.into(),
            Poller::Idle | Poller::Closed => Readiness::from(interest) | Readiness::HANGUP,
        }
    }

    /// At the limit of open files nothing can be made that watches: the wait goes on by looking.
    fn look_now_and_then(&self, fd: BorrowedFd<'_>, set: &mut PollSet) -> Readiness {
        let wanted = match self.direction {
            Direction::Read => PollFlags::IN,
            Direction::Write => PollFlags::OUT,
        };
        if poll_now(fd, wanted) == Ok(false) {
            set.wake_at(Instant::now() + LOOK_AGAIN);
            return Readiness::empty();
        }
        Interest::from(self.direction).into()
    }

    /// Adds what fires when the other side is gone, whatever could be read or written.
    ///
    /// A file has no other side, and at the limit of open files none can be watched: nothing is
    /// added then, and the next attempt tells.
    pub(super) fn watch_hangup(&self, set: &mut PollSet) -> Readiness {
        let mut farewell = lock(&self.farewell);
        if let (Poller::Idle, Some(fd)) = (&*farewell, self.slot.share()) {
            // Errors and hang-ups are reported without being asked for.
            match start_watching(fd.as_fd(), epoll::EventFlags::empty()) {
                Ok(watching) => *farewell = watching,
                Err(_) => return Readiness::empty(),
            }
        }
        match &*farewell {
            Poller::Watching(epoll) => {
                set.add(epoll, Interest::READ, Interest::empty());
                Readiness::empty()
            }
            Poller::AlwaysReady => Readiness::empty(),
            Poller::Idle | Poller::Closed => Readiness::HANGUP,
        }
    }

    /// Closes the end for good; the first call gets the result.
    pub(super) fn close(&self) -> Result<()> {
        let (mut poller, mut farewell) = (lock(&self.poller), lock(&self.farewell));
        let Some(fd) = self.slot.take() else { return Ok(()) };
        drop(self.shared.as_ref().and_then(Slot::take));
        for poller in [&mut *poller, &mut *farewell] {
            if let Poller::Watching(epoll) = std::mem::replace(poller, Poller::Closed) {
                // Where other processes share the open file, closing our descriptor would leave it
                // in the epoll descriptor.
                let _ = epoll::delete(&epoll, &fd);
                // Made when the watching began.
                if let Ok(ready) = always_ready() {
                    let data = epoll::EventData::new_u64(0);
                    let _ = epoll::add(&epoll, ready, data, epoll::EventFlags::IN);
                }
            }
        }
        drop((poller, farewell));
        release(fd)
    }

    /// Ends the stream for the peer: a pipe is closed, a socket is shut down for writing.
    pub(super) fn finish(&self) -> Result<()> {
        if self.kind == Kind::Socket {
            let fd = self.slot.borrow()?;
            return match rustix::net::shutdown(&fd, rustix::net::Shutdown::Write) {
                Ok(()) | Err(Errno::NOTCONN) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        self.close()
    }

    pub(super) fn splice_fd(&self) -> Option<SharedFd> {
        // Pipes honour SPLICE_F_NONBLOCK also where the open file is shared.
        let fits = match self.kind {
            Kind::Pipe => true,
            Kind::Storage => self.ownership == Ownership::Exclusive,
            Kind::Socket | Kind::Terminal | Kind::Device => false,
        };
        // What splice(2) calls the end is not one before the first writer came.
        let certain =
            !self.ended.load(Ordering::Relaxed) && self.had_writer.load(Ordering::Relaxed);
        if fits && certain { self.slot.share() } else { None }
    }

    fn may_block(&self) -> bool {
        self.ownership == Ownership::Shared && self.kind != Kind::Storage
    }

    /// Makes an attempt on an open file whose `O_NONBLOCK` is not ours to set: with `RWF_NOWAIT`
    /// where the file supports it, else after poll(2) (`attempt` then gets no flags).
    fn without_blocking(
        &self,
        fd: BorrowedFd<'_>,
        mut attempt: impl FnMut(ReadWriteFlags) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<usize> {
        if Capability::PipeNoWait.may_try() && !self.no_wait_refused.load(Ordering::Relaxed) {
            match attempt(ReadWriteFlags::NOWAIT) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.no_wait_refused.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        let wanted = match self.direction {
            Direction::Read => PollFlags::IN,
            Direction::Write => PollFlags::OUT,
        };
        if poll_now(fd, wanted)? { attempt(ReadWriteFlags::empty()) } else { Err(Errno::AGAIN) }
    }

    /// Writes as much as poll(2), which has just said that there is room, makes room of.
    fn write_what_poll_promised(
        &self,
        fd: BorrowedFd<'_>,
        buf: &[u8],
    ) -> rustix::io::Result<usize> {
        let write = |part: &[u8]| {
            qio_os::write_no_sigpipe(fd, &[IoSlice::new(part)], ReadWriteFlags::empty())
        };
        let buf = &buf[..buf.len().min(PIPE_BUF)];
        if self.kind != Kind::Terminal {
            return write(buf);
        }
        // A terminal promises room for one byte, and would wait for the rest in the kernel.
        let mut done = write(&buf[..1])?;
        while done < buf.len() && poll_now(fd, PollFlags::OUT) == Ok(true) {
            match write(&buf[done..=done]) {
                Ok(n) => done += n,
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Nobody is left to be told; a result that matters is asked for with `close`.
        let _ = self.close();
    }
}

fn lock(poller: &Mutex<Poller>) -> MutexGuard<'_, Poller> {
    poller.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_watching(fd: BorrowedFd<'_>, events: epoll::EventFlags) -> Result<Poller> {
    // At the limit of open files it could not be made any more when it is needed.
    always_ready()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    match epoll::add(&epoll, fd, epoll::EventData::new_u64(0), events) {
        Ok(()) => Ok(Poller::Watching(SharedFd::new(epoll))),
        Err(Errno::PERM) => Ok(Poller::AlwaysReady),
        Err(error) => Err(error.into()),
    }
}

/// Whether an attempt would not block now (also because the peer is gone).
fn poll_now(fd: BorrowedFd<'_>, wanted: PollFlags) -> rustix::io::Result<bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    Ok(rustix::event::poll(&mut fds, Some(&at_once))? > 0)
}

/// Whether nobody has the other side of a terminal open.
pub(super) fn has_hung_up(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    rustix::event::poll(&mut fds, Some(&at_once))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}

/// A descriptor that is always readable, made once: it is what ends the waits on a closed end.
pub(super) fn always_ready() -> Result<&'static OwnedFd> {
    static READY: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(ready) = READY.get() {
        return Ok(ready);
    }
    let ready = rustix::event::eventfd(1, EventfdFlags::CLOEXEC)?;
    Ok(READY.get_or_init(|| ready))
}

/// The error of using a direction that was not opened.
#[cold]
pub(super) fn not_opened(direction: Direction) -> Error {
    let text = match direction {
        Direction::Read => "opened for writing only",
        Direction::Write => "opened for reading only",
    };
    Error::new(ErrorKind::Unsupported, text)
}
