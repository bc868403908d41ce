//! Where sockets go that are closed while the kernel still reads their buffers.
//!
//! close(2) lets the kernel send what it has accepted, and takes away the means to learn when it
//! is done. For copied bytes that is all right. But memory that was sent from and is given back to
//! its owner may be written to, and then something else goes out in its place, with a correct
//! checksum. Waiting would block who closes; throwing the connection away would lose bytes that
//! were accepted; keeping the memory for ever would leak it. So the descriptor, shut down both
//! ways, and the buffers stay together here until the kernel has confirmed them, within limits of
//! time and number. Beyond these the connection is reset, which gives the buffers back at once.
//!
//! A thread waits for that, which ends when there is nothing left to wait for.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::alarm::Alarm;
use super::ledger::Ledger;
use super::{Held, Released, drain};
use crate::interest::Interest;
use crate::watch::{Event, LOOK_AGAIN, PollSet, SharedFd};

/// How long a closed socket may go on: about as long as the kernel tries by itself for one whose
/// peer does not answer (`tcp_orphan_retries`, tcp(7)).
const LINGER: Duration = Duration::from_secs(100);

/// How many closed sockets may go on; above, those that came first are reset. With 16 MiB each at
/// most, they hold 1 GiB at the very most.
const LINGERING: usize = 64;

/// Keeps the socket and its buffers until they are confirmed, without making the caller wait.
pub(super) fn adopt(fd: SharedFd, unconfirmed: Ledger<Held>) {
    let lingering = Lingering::new(fd, unconfirmed, Instant::now() + LINGER);
    let mut keeper = lock();
    keeper.arrived.push(lingering);
    if let Some(wake) = &keeper.running {
        wake.raise();
        return;
    }
    let wake = Arc::new(Event::new());
    let seen = Arc::clone(&wake);
    // Without a thread they wait here for the next one that comes.
    let thread =
        std::thread::Builder::new().name("qio-linger".to_owned()).spawn(move || run(&seen));
    keeper.running = thread.is_ok().then_some(wake);
}

static KEEPER: Mutex<Keeper> = Mutex::new(Keeper { arrived: Vec::new(), running: None });

struct Keeper {
    arrived: Vec<Lingering>,
    /// Raised while `arrived` has something that the thread has not seen.
    running: Option<Arc<Event>>,
}

fn lock() -> MutexGuard<'static, Keeper> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: ends when nothing lingers.
fn run(wake: &Event) {
    let mut all: Vec<Lingering> = Vec::new();
    let mut set = PollSet::new();
    loop {
        let surplus = all.len().saturating_sub(LINGERING);
        for lingering in all.iter_mut().take(surplus) {
            lingering.reset_at = lingering.reset_at.map(|_| Instant::now());
        }
        all.retain_mut(|lingering| !lingering.is_done(Instant::now()));
        {
            let mut keeper = lock();
            wake.lower();
            if keeper.arrived.is_empty() && all.is_empty() {
                keeper.running = None;
                return;
            }
            if !keeper.arrived.is_empty() {
                all.append(&mut keeper.arrived);
                continue;
            }
        }
        set.clear();
        wake.watch(Interest::empty(), &mut set);
        all.iter().for_each(|lingering| lingering.watch(&mut set));
        if set.poll(None).is_err() {
            // No memory for the list of descriptors: look again when there may be some.
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

struct Lingering {
    fd: SharedFd,
    unconfirmed: Ledger<Held>,
    /// `None` at the limit of open files.
    alarm: Option<Alarm>,
    /// `None` once it was reset.
    reset_at: Option<Instant>,
}

impl Lingering {
    fn new(fd: SharedFd, unconfirmed: Ledger<Held>, reset_at: Instant) -> Self {
        let alarm = Alarm::new(&fd).ok();
        Self { fd, unconfirmed, alarm, reset_at: Some(reset_at) }
    }

    /// Whether the buffers are free.
    fn is_done(&mut self, now: Instant) -> bool {
        if let Some(alarm) = &self.alarm {
            alarm.reset();
        }
        let mut released = Released::new();
        let mut drained = drain(self.fd.as_fd(), &mut self.unconfirmed, &mut released);
        let is_late = self.reset_at.is_some_and(|at| at <= now);
        if !self.unconfirmed.is_settled() && (is_late || drained.is_err()) {
            // Not by closing, which would take the confirmations away: what a network card is
            // sending at this moment is confirmed when it has done so.
            let _ = rustix::net::connect_unspec(&self.fd);
            self.reset_at = None;
            drained =
                drained.and_then(|()| drain(self.fd.as_fd(), &mut self.unconfirmed, &mut released));
        }
        // Where the account is of no use, the reset was all that could be done.
        self.unconfirmed.is_settled() || drained.is_err()
    }

    fn watch(&self, set: &mut PollSet) {
        match &self.alarm {
            Some(alarm) => set.add(alarm.fd(), Interest::READ, Interest::empty()),
            None => set.wake_at(Instant::now() + LOOK_AGAIN),
        }
        if let Some(at) = self.reset_at {
            set.wake_at(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use bytes::Bytes;

    use super::*;

    /// A connection whose reader takes nothing, with as much sent as goes in.
    fn stuffed() -> (SharedFd, Ledger<Held>, TcpStream, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let fd = SharedFd::new(OwnedFd::from(sender));
        assert!(qio_os::enable_zero_copy(fd.as_fd()).unwrap());
        let mut ledger = Ledger::new();
        let block = Bytes::from(vec![7; 1 << 20]);
        let mut total = 0;
        while let Ok(sent) = qio_os::send_zero_copy(fd.as_fd(), &[IoSlice::new(&block)]) {
            ledger.sent(Held::from_elem(block.clone(), 1), sent);
            total += sent;
        }
        (fd, ledger, receiver, total)
    }

    #[test]
    fn a_hang_up_does_not_make_the_keeper_spin() {
        let (fd, ledger, _receiver, _) = stuffed();
        rustix::net::shutdown(&fd, rustix::net::Shutdown::Both).unwrap();
        let now = Instant::now();
        let mut lingering = Lingering::new(fd, ledger, now + LINGER);
        assert!(!lingering.is_done(now));
        let mut set = PollSet::new();
        lingering.watch(&mut set);
        set.poll(Some(now + Duration::from_millis(30))).unwrap();
        assert!(set.legs().iter().all(|leg| leg.fired().is_empty()), "{set:?}");
    }

    #[test]
    fn what_is_late_is_reset_and_gives_its_buffers_back() {
        let (fd, ledger, mut receiver, total) = stuffed();
        let now = Instant::now();
        let mut lingering = Lingering::new(fd, ledger, now + LINGER);
        assert!(!lingering.is_done(now), "the peer reads nothing");
        assert!(!lingering.is_done(now + LINGER - Duration::from_millis(1)));
        let mut late = lingering.is_done(now + LINGER);
        let mut set = PollSet::new();
        while !late {
            set.clear();
            lingering.watch(&mut set);
            set.poll(None).unwrap();
            late = lingering.is_done(now + LINGER);
        }
        assert!(lingering.reset_at.is_none());
        let mut got = Vec::new();
        let error = receiver.read_to_end(&mut got).expect_err("the connection was reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(got.len() < total && got.iter().all(|&byte| byte == 7));
    }
}
