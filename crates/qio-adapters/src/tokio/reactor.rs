//! Descriptors registered with the tokio reactor.

use std::borrow::Borrow;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use qio::watch::{Leg, PollSet, SharedFd};
use qio::{Direction, Interest};
use smallvec::SmallVec;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{Interest as TokioInterest, Ready};

/// How many registrations are held without allocation: as many as a leg set has inline.
pub(super) const INLINE: usize = 4;

/// The registrations of one owner: one per descriptor that it waits for.
#[derive(Debug, Default)]
pub(super) struct Reactor {
    registrations: SmallVec<[Arc<Registration>; INLINE]>,
    /// Whether to register for both directions at once, if that is known.
    pub(super) is_duplex: Option<bool>,
}

impl Reactor {
    pub(super) fn registrations(&self) -> &[Arc<Registration>] {
        &self.registrations
    }

    /// Makes the registrations those of the legs in `sets`. Says whether one was made: what waits
    /// on it for another owner's sake has to be polled again.
    ///
    /// A descriptor is told from another by its owner, never by its number: the same number may
    /// have come back as another file.
    pub(super) fn sync<S: Borrow<PollSet>>(&mut self, sets: &[S]) -> io::Result<bool> {
        let legs = |fd: &SharedFd| wanted(sets, fd);
        self.registrations.retain(|known| !legs(known.fd()).is_empty());
        let mut changed = false;
        for leg in sets.iter().flat_map(|set| set.borrow().legs()) {
            let at = self.registrations.iter().position(|known| Arc::ptr_eq(known.fd(), leg.fd()));
            match at {
                Some(at) if self.registrations[at].interest.contains(polled_for(leg)) => continue,
                Some(at) => {
                    // The interest only grows: which direction is waited for may alternate with
                    // every message, and each change costs two system calls.
                    let interest = self.registrations[at].interest | legs(leg.fd());
                    self.registrations.remove(at);
                    self.add(leg.fd(), interest)?;
                }
                None => self.add(leg.fd(), legs(leg.fd()))?,
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Drops what is known about a descriptor; the next [`sync`](Reactor::sync) starts anew.
    pub(super) fn forget(&mut self, fd: &SharedFd) {
        self.registrations.retain(|known| !Arc::ptr_eq(known.fd(), fd));
    }

    fn add(&mut self, fd: &SharedFd, mut interest: Interest) -> io::Result<()> {
        if self.is_duplex == Some(true) {
            interest = Interest::all();
        }
        self.registrations.push(Arc::new(Registration::new(fd, interest)?));
        Ok(())
    }
}

/// One descriptor in the reactor, for the directions that somebody waits for.
///
/// Not for both directions at all times: a Unix socket becomes writable whenever its peer reads,
/// and the reactor would wake for every message sent. TCP says so to who lacked room, and to no
/// others.
#[derive(Debug)]
pub(super) struct Registration {
    fd: SharedFd,
    interest: Interest,
    /// `None` when epoll(7) refuses the descriptor: it is always ready.
    io: Option<AsyncFd<SharedFd>>,
}

impl Registration {
    fn new(fd: &SharedFd, interest: Interest) -> io::Result<Self> {
        let io = match register(Arc::clone(fd), interest) {
            Ok(io) => Some(io),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            // Another owner on this runtime waits for it, and epoll(7) takes a number only once.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Some(register(Arc::new(fd.try_clone()?), interest)?)
            }
            Err(error) => return Err(error),
        };
        Ok(Self { fd: Arc::clone(fd), interest, io })
    }

    pub(super) fn fd(&self) -> &SharedFd {
        &self.fd
    }

    pub(super) fn interest(&self) -> Interest {
        self.interest
    }

    /// Whether the reactor knows when it is ready: epoll(7) took it.
    pub(super) fn is_polled(&self) -> bool {
        self.io.is_some()
    }

    /// Whether something has been reported for `direction` and not been cleared.
    pub(super) fn is_ready(&self, direction: Direction) -> bool {
        let interest = match direction {
            Direction::Read => TokioInterest::READABLE,
            Direction::Write => TokioInterest::WRITABLE,
        };
        self.io.as_ref().is_none_or(|io| io.try_io(interest, |_| Ok(())).is_ok())
    }

    /// Whether urgent data has arrived, ever: a read ends before its mark although there is more.
    pub(super) fn is_urgent(&self) -> bool {
        let urgent = |io: &AsyncFd<_>| io.try_io(TokioInterest::PRIORITY, |_| Ok(()));
        self.io.as_ref().is_some_and(|io| urgent(io).is_ok())
    }

    /// What has been reported for `direction` and not been cleared; stores the waker otherwise.
    pub(super) fn poll(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Tick<'_>>> {
        let Some(io) = &self.io else {
            return Poll::Ready(Ok(Tick { registration: self, direction, guard: None }));
        };
        let polled = match direction {
            Direction::Read => io.poll_read_ready(cx),
            Direction::Write => io.poll_write_ready(cx),
        };
        polled.map_ok(|guard| Tick { registration: self, direction, guard: Some(guard) })
    }
}

/// A reported readiness, and when it was reported: clearing it leaves a newer one alone.
#[derive(Debug)]
pub(super) struct Tick<'a> {
    registration: &'a Registration,
    direction: Direction,
    guard: Option<AsyncFdReadyGuard<'a, SharedFd>>,
}

impl Tick<'_> {
    pub(super) fn fd(&self) -> &SharedFd {
        &self.registration.fd
    }

    pub(super) fn interest(&self) -> Interest {
        self.direction.into()
    }

    /// Whether nothing is left of it but that a direction was closed, which tokio never clears.
    pub(super) fn is_only_closed(&self) -> bool {
        let open = Ready::READABLE | Ready::WRITABLE;
        self.guard.as_ref().is_some_and(|guard| (guard.ready() & open).is_empty())
    }

    /// The peer is gone, or there is an error: no write will do any more.
    pub(super) fn is_hung_up(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.ready().is_write_closed())
    }

    /// The descriptor was tried after the tick was taken, and would have blocked.
    pub(super) fn clear(mut self) {
        if let Some(guard) = &mut self.guard {
            guard.clear_ready();
        }
    }
}

/// What the legs of `sets` poll `fd` for.
pub(super) fn wanted<S: Borrow<PollSet>>(sets: &[S], fd: &SharedFd) -> Interest {
    let legs = sets.iter().flat_map(|set| set.borrow().legs());
    legs.filter(|leg| Arc::ptr_eq(leg.fd(), fd))
        .fold(Interest::empty(), |wanted, leg| wanted | polled_for(leg))
}

/// A leg for nothing waits for a hang-up or an error, which are always reported. tokio reports them
/// to writers; the room that is there at the start is noted once.
fn polled_for(leg: &Leg) -> Interest {
    if leg.on().is_empty() { Interest::WRITE } else { leg.on() }
}

fn register(fd: SharedFd, interest: Interest) -> io::Result<AsyncFd<SharedFd>> {
    let readable = TokioInterest::READABLE | TokioInterest::PRIORITY;
    let interest = if interest == Interest::READ {
        readable
    } else if interest == Interest::WRITE {
        TokioInterest::WRITABLE
    } else {
        readable | TokioInterest::WRITABLE
    };
    // SAFETY: The number must stay open and keep naming the same open file as long as the `AsyncFd`
    // lives. The `AsyncFd` owns a share of the `OwnedFd`: the number is closed when the last share
    // is dropped, not before, and an `OwnedFd` behind an `Arc` with other shares cannot be taken
    // out or replaced. qio never puts another file on a number it has handed out (no `dup3` over
    // it). `as_raw_fd` of an `Arc<OwnedFd>` always gives the number of that one `OwnedFd`.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
