//! What a socket knows about its sends without a copy.

mod alarm;
mod ledger;
mod linger;

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use qio_os::ErrorMessage;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::{Errno, retry_on_intr};
use smallvec::SmallVec;

use alarm::Alarm;
use ledger::Ledger;

use super::iov::IOV_MAX;
use crate::channel::Confirmed;
use crate::interest::{Interest, Readiness};
use crate::watch::{LOOK_AGAIN, PollSet, SharedFd, closed, release};

/// How many bytes of one socket may be unconfirmed: four times the send buffer that Linux gives a
/// TCP socket at most by default (`net.ipv4.tcp_wmem`), so that this limit is met only where that
/// was raised.
pub(super) const UNCONFIRMED_BYTES: usize = 16 << 20;

/// How many sends of one socket may be unconfirmed: 16 KiB each make up the limit of bytes, and what
/// is much smaller is better copied (above 10 KiB it pays, says msg_zerocopy.rst of Linux).
pub(super) const UNCONFIRMED_SENDS: usize = 1024;

/// How much is given to the kernel at once. It counts the whole of a send against
/// `RLIMIT_MEMLOCK` (8 MiB by default), also what it does not take.
const SEND_BYTES: usize = 1 << 20;

/// How many sends may be unconfirmed without a look at what was confirmed, which is a system call
/// for each message and one more.
const LOOK_EVERY: usize = 8;

/// The sends of one socket that had owned buffers written to it.
///
/// The lock is held over attempts, none of which waits, so that the numbers of the kernel and ours
/// go together; and never while the owner of a buffer is told that it is free.
#[derive(Debug)]
pub(super) struct ZeroCopy {
    state: Mutex<State>,
}

/// The buffers of one send.
type Held = SmallVec<[Bytes; 1]>;

/// Buffers to let go of after unlocking.
type Released = Vec<Held>;

#[derive(Debug)]
struct State {
    support: Support,
    ledger: Ledger<Held>,
    waits_for: WaitsFor,
    alarm: Option<Alarm>,
    /// What the kernel said that made no sense: nothing can be confirmed any more.
    broken: Option<String>,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    Untried,
    Present,
    Absent,
}

/// What the last attempt that would have blocked needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// Room in the send buffer.
    Room,
    /// More confirmations than these.
    More(u64),
    /// All confirmations.
    All,
}

/// What became of an attempt.
pub(super) enum Attempt {
    Sent(usize),
    /// The bytes are to be sent with a copy.
    Copy,
}

impl ZeroCopy {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                support: Support::Untried,
                ledger: Ledger::new(),
                waits_for: WaitsFor::Room,
                alarm: None,
                broken: None,
                closed: false,
            }),
        }
    }

    /// Sends once, or says that the bytes must be copied.
    pub(super) fn send(&self, fd: BorrowedFd<'_>, bufs: &[Bytes]) -> Result<Attempt> {
        self.with(|state, released| {
            if state.support == Support::Untried {
                // On already: others have sent, and the numbers are not known.
                let enabled = matches!(qio_os::enable_zero_copy(fd), Ok(true));
                state.support = if enabled { Support::Present } else { Support::Absent };
            }
            if state.support == Support::Absent {
                return Ok(Attempt::Copy);
            }
            if state.ledger.sends() >= LOOK_EVERY {
                state.drain(fd, released)?;
            }
            let room = UNCONFIRMED_BYTES.saturating_sub(state.ledger.bytes());
            if room == 0 || state.ledger.sends() >= UNCONFIRMED_SENDS {
                return state.refuse(WaitsFor::More(state.ledger.confirmed()));
            }
            let slices = first_bytes(bufs, room.min(SEND_BYTES));
            let mut result = retry_on_intr(|| qio_os::send_zero_copy(fd, &slices));
            if result == Err(Errno::NOBUFS) {
                // The memory for notifications is that of those that nobody has read.
                state.drain(fd, released)?;
                result = retry_on_intr(|| qio_os::send_zero_copy(fd, &slices));
            }
            match result {
                Ok(sent) => {
                    state.ledger.sent(held(bufs, sent), sent);
                    Ok(Attempt::Sent(sent))
                }
                Err(Errno::AGAIN) => state.refuse(WaitsFor::Room),
                Err(Errno::NOBUFS) if !state.ledger.is_settled() => {
                    state.refuse(WaitsFor::More(state.ledger.confirmed()))
                }
                // The limit is used up by others (it is one for all processes of a user), or below
                // what a single send needs: waiting might never end.
                Err(Errno::NOBUFS) => Ok(Attempt::Copy),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Gives would-block until every send was confirmed.
    pub(super) fn flush(&self, fd: BorrowedFd<'_>) -> Result<()> {
        self.with(|state, released| state.settle(fd, released))
    }

    /// The same, and what has happened since the last call.
    pub(super) fn confirm(&self, fd: BorrowedFd<'_>) -> Result<Confirmed> {
        self.with(|state, released| {
            state.settle(fd, released)?;
            let (sends, copied) = state.ledger.take();
            Ok(Confirmed { copied, sends })
        })
    }

    /// How many bytes were not confirmed when somebody last looked.
    pub(super) fn unconfirmed_bytes(&self) -> usize {
        self.lock().ledger.bytes()
    }

    /// An ordinary write was refused, and waits for room, whatever was waited for before.
    pub(super) fn wait_for_room(&self) {
        self.lock().waits_for = WaitsFor::Room;
    }

    /// Says what holds now, asking the kernel, or adds to `set` what to poll.
    ///
    /// While notifications may come, poll(2) reports an error on the socket that is none, and that
    /// nobody asked for. So the legs of such a socket grant nothing: whoever waits comes back here,
    /// where the notifications are taken away, and the error with them.
    pub(super) fn watch(&self, fd: &SharedFd, interest: Interest, set: &mut PollSet) -> Readiness {
        let mut released = Released::new();
        let mut state = self.lock();
        let ready = state.watch(fd, interest, set, &mut released);
        drop(state);
        ready
    }

    /// Closes the socket; buffers that the kernel still reads live on with it.
    pub(super) fn close(&self, fd: SharedFd) -> Result<()> {
        let mut released = Released::new();
        let mut state = self.lock();
        state.closed = true;
        if !state.ledger.is_settled() {
            // An error is the end of the account, and of nothing else here.
            let _ = state.drain(fd.as_fd(), &mut released);
        }
        if let Some(alarm) = state.alarm.take() {
            alarm.end(&fd);
        }
        let unconfirmed = state.ledger.split_off();
        let is_broken = state.broken.is_some();
        drop(state);
        if is_broken {
            // Nothing will tell when the buffers are free, and that was reported: a reset makes it so.
            let _ = rustix::net::connect_unspec(&fd);
        }
        if is_broken || unconfirmed.is_settled() {
            return release(fd);
        }
        linger::adopt(fd, unconfirmed);
        Ok(())
    }

    fn with<R>(&self, body: impl FnOnce(&mut State, &mut Released) -> Result<R>) -> Result<R> {
        let mut released = Released::new();
        let mut state = self.lock();
        let result = if state.closed { Err(closed()) } else { body(&mut state, &mut released) };
        drop(state);
        // Only now: an owner may do what it likes when it gets its memory back.
        drop(released);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes every message off the error queue.
    fn drain(&mut self, fd: BorrowedFd<'_>, released: &mut Released) -> Result<()> {
        if self.broken.is_none()
            && let Err(error) = drain(fd, &mut self.ledger, released)
        {
            self.broken = Some(error.to_string());
        }
        let Some(text) = &self.broken else { return Ok(()) };
        // They are of no use any more, and would wake everybody for ever.
        while qio_os::read_error_queue(fd).is_ok() {}
        Err(Error::new(ErrorKind::InvalidData, text.clone()))
    }

    fn settle(&mut self, fd: BorrowedFd<'_>, released: &mut Released) -> Result<()> {
        if !self.ledger.is_settled() {
            self.drain(fd, released)?;
        }
        if self.ledger.is_settled() { Ok(()) } else { self.refuse(WaitsFor::All) }
    }

    #[cold]
    fn refuse<R>(&mut self, waits_for: WaitsFor) -> Result<R> {
        self.waits_for = waits_for;
        Err(ErrorKind::WouldBlock.into())
    }

    fn watch(
        &mut self,
        fd: &SharedFd,
        interest: Interest,
        set: &mut PollSet,
        released: &mut Released,
    ) -> Readiness {
        let writing = interest.contains(Interest::WRITE);
        let mut alarm_set = Ok(());
        if !self.ledger.is_settled() {
            if writing {
                alarm_set = self.set_alarm(fd);
            }
            let drained = self.drain(fd.as_fd(), released);
            if drained.is_err() && writing && self.waits_for != WaitsFor::Room {
                // The next attempt fails with it.
                return Readiness::WRITE;
            }
        }
        if self.ledger.is_settled() {
            self.waits_for = WaitsFor::Room;
        }
        // A writer of a settled socket waits for what its next attempt needs, and nobody else sends.
        if !self.ledger.is_settled() || interest.contains(Interest::READ) {
            let ready = self.ready(fd, interest, released);
            if !ready.is_empty() {
                return ready;
            }
        }
        if interest.contains(Interest::READ) {
            set.add(fd, Interest::READ, Interest::empty());
        }
        if writing && self.ledger.is_settled() {
            set.add(fd, Interest::WRITE, Interest::WRITE);
        } else if writing {
            match (&self.alarm, alarm_set) {
                (Some(alarm), Ok(())) => set.add(alarm.fd(), Interest::READ, Interest::empty()),
                // At the limit of open files: the wait goes on by looking.
                _ => set.wake_at(Instant::now() + LOOK_AGAIN),
            }
        }
        Readiness::empty()
    }

    /// Makes the alarm ring for what the writer waits for, from now on.
    fn set_alarm(&mut self, fd: &SharedFd) -> Result<()> {
        if self.alarm.is_none() {
            self.alarm = Some(Alarm::new(fd)?);
        }
        let Some(alarm) = &mut self.alarm else { return Ok(()) };
        let events = match self.waits_for {
            WaitsFor::Room => epoll::EventFlags::OUT,
            WaitsFor::More(_) | WaitsFor::All => epoll::EventFlags::empty(),
        };
        alarm.listen(fd, events)?;
        alarm.reset();
        Ok(())
    }

    /// What of the interest holds, after the error queue was emptied.
    fn ready(&mut self, fd: &SharedFd, interest: Interest, released: &mut Released) -> Readiness {
        let mut of_socket = interest;
        if self.waits_for != WaitsFor::Room {
            of_socket -= Interest::WRITE;
        }
        if let WaitsFor::More(before) = self.waits_for
            && interest.contains(Interest::WRITE)
            && self.ledger.confirmed() != before
        {
            return Readiness::WRITE;
        }
        if of_socket.is_empty() {
            return Readiness::empty();
        }
        loop {
            let events = poll_now(fd, of_socket);
            let ready = Readiness::from_bits_truncate(events.bits() as u8);
            if ready.intersects(of_socket.into()) || !ready.contains(Readiness::ERROR) {
                return ready & (Readiness::from(of_socket) | Readiness::HANGUP);
            }
            // Another notification, or an error that waits to be fetched.
            let before = self.ledger.confirmed();
            if self.drain(fd.as_fd(), released).is_err() || self.ledger.confirmed() == before {
                return Readiness::from(of_socket) | Readiness::ERROR;
            }
        }
    }
}

/// Takes every message off the error queue of a socket.
fn drain(fd: BorrowedFd<'_>, ledger: &mut Ledger<Held>, released: &mut Released) -> Result<()> {
    loop {
        match qio_os::read_error_queue(fd) {
            Ok(ErrorMessage::ZeroCopy(confirmation)) => ledger.confirm(confirmation, released)?,
            // An ICMP error or a timestamp, which somebody asked for by other means.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn poll_now(fd: &SharedFd, interest: Interest) -> PollFlags {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, PollFlags::from_bits_retain(interest.bits().into()))];
    match retry_on_intr(|| rustix::event::poll(&mut fds, Some(&at_once))) {
        Ok(_) => fds[0].revents(),
        // No memory: try, then.
        Err(_) => PollFlags::from_bits_retain(interest.bits().into()),
    }
}

/// The buffers up to `limit` bytes.
fn first_bytes(bufs: &[Bytes], limit: usize) -> SmallVec<[IoSlice<'_>; 8]> {
    let mut left = limit;
    let parts = bufs.iter().take(IOV_MAX).map(|buf| {
        let part = &buf[..buf.len().min(left)];
        left -= part.len();
        IoSlice::new(part)
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// Shares of the buffers that the first `sent` bytes are in.
fn held(bufs: &[Bytes], sent: usize) -> Held {
    let mut left = sent;
    let mut held = Held::new();
    for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(buf.len());
        held.push(buf.clone());
    }
    held
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;

    fn pair() -> (SharedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (SharedFd::new(OwnedFd::from(left)), listener.accept().unwrap().0)
    }

    fn kind(result: Result<Attempt>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn bytes_and_sends_that_are_not_confirmed_have_a_limit() {
        let byte = [Bytes::from_static(b"x")];
        for (sends, bytes) in [(1, UNCONFIRMED_BYTES), (UNCONFIRMED_SENDS, 1)] {
            let zero_copy = ZeroCopy::new();
            let pretend = |sends: usize| {
                let ledger = &mut zero_copy.lock().ledger;
                (0..sends).for_each(|_| ledger.sent(Held::new(), bytes));
            };
            pretend(sends - 1);
            let (fd, _peer) = pair();
            assert!(matches!(zero_copy.send(fd.as_fd(), &byte), Ok(Attempt::Sent(1))));

            pretend(1);
            let full = zero_copy.send(fd.as_fd(), &byte);
            assert_eq!(kind(full), Some(ErrorKind::WouldBlock));
        }
    }

    #[test]
    fn the_last_send_within_the_limit_of_bytes_is_cut_to_it() {
        let (fd, _peer) = pair();
        let zero_copy = ZeroCopy::new();
        zero_copy.lock().ledger.sent(Held::new(), UNCONFIRMED_BYTES - 5);
        let sent = zero_copy.send(fd.as_fd(), &[Bytes::from_static(b"more than five")]);
        assert!(matches!(sent, Ok(Attempt::Sent(5))));
    }

    #[test]
    fn nothing_is_sent_once_the_account_was_closed() {
        let (fd, _peer) = pair();
        let zero_copy = ZeroCopy::new();
        zero_copy.close(SharedFd::clone(&fd)).unwrap();
        // A call that borrowed the descriptor before the close, and came to the lock after it.
        let late = zero_copy.send(fd.as_fd(), &[Bytes::from_static(b"x")]);
        assert_eq!(kind(late), Some(ErrorKind::NotConnected));
        let late = zero_copy.confirm(fd.as_fd()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotConnected);
    }
}
