//! Legs registered with the reactor of async-io.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use async_io::{Async, Timer};
use qio::watch::{Leg, PollSet, SharedFd};
use qio::{Interest, Readiness};
use rustix::event::epoll;
use smallvec::SmallVec;

/// What one future waits for.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    legs: SmallVec<[Registered; 2]>,
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Registered {
    fd: SharedFd,
    on: Interest,
    /// `None` where epoll(7) refuses the descriptor: it is always ready.
    source: Option<Async<SharedFd>>,
}

impl Registrations {
    /// Registers the legs of `set`, and only those, in their order.
    pub(super) fn sync(&mut self, set: &PollSet) -> io::Result<()> {
        // What goes has to be gone before what comes: the same descriptor, for something else.
        self.legs.retain(|known| set.legs().iter().any(|leg| known.is_for(leg)));
        let mut known = std::mem::take(&mut self.legs);
        for leg in set.legs() {
            let at = known.iter().position(|known| known.is_for(leg));
            self.legs.push(match at {
                Some(at) => known.remove(at),
                None => Registered::new(leg)?,
            });
        }
        match (set.deadline(), &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(deadline), Some(timer)) => timer.set_at(deadline),
            (Some(deadline), timer) => *timer = Some(Timer::at(deadline)),
        }
        Ok(())
    }

    /// Marks in `set` what has fired; pending when nothing has, and the time has not passed.
    pub(super) fn poll(&mut self, set: &mut PollSet, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut any = false;
        for (index, leg) in self.legs.iter().enumerate() {
            let fired = leg.poll(cx)?;
            any |= !fired.is_empty();
            set.mark(index, fired);
        }
        if let Some(timer) = &mut self.timer {
            any |= set.deadline().is_some_and(|deadline| deadline <= Instant::now())
                || Pin::new(timer).poll(cx).is_ready();
        }
        if any { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Registered {
    fn is_for(&self, leg: &Leg) -> bool {
        Arc::ptr_eq(&self.fd, leg.fd()) && self.on == leg.on()
    }

    fn new(leg: &Leg) -> io::Result<Self> {
        let fd = match leg.on().is_empty() {
            true => SharedFd::new(hang_up(leg.fd())?),
            false => Arc::clone(leg.fd()),
        };
        let source = match Async::new_nonblocking(Arc::clone(&fd)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let duplicate = SharedFd::new(fd.as_fd().try_clone_to_owned()?);
                Some(Async::new_nonblocking(duplicate)?)
            }
            // EPERM: epoll_ctl(2) takes no regular files.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            result => Some(result?),
        };
        Ok(Self { fd: Arc::clone(leg.fd()), on: leg.on(), source })
    }

    fn poll(&self, cx: &mut Context<'_>) -> io::Result<Readiness> {
        let Some(source) = &self.source else { return Ok(self.on.into()) };
        let mut fired = Readiness::empty();
        // A leg for nothing is one for a descriptor that becomes readable with the hang-up.
        let reads = self.on.contains(Interest::READ) || self.on.is_empty();
        if reads && let Poll::Ready(result) = source.poll_readable(cx) {
            result?;
            fired |= if self.on.is_empty() { Readiness::HANGUP } else { Readiness::READ };
        }
        if self.on.contains(Interest::WRITE)
            && let Poll::Ready(result) = source.poll_writable(cx)
        {
            result?;
            fired |= Readiness::WRITE;
        }
        Ok(fired)
    }
}

/// A descriptor that becomes readable when `fd` hangs up or fails: async-io waits for input or for
/// room only, which epoll(7) need not be asked for to report these.
fn hang_up(fd: &SharedFd) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::empty())?;
    Ok(epoll)
}
