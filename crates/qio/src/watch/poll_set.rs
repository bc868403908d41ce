//! The set of descriptors and the deadline that somebody waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;
use smallvec::SmallVec;

use crate::interest::{Interest, Readiness};

/// A descriptor that a channel, a call in flight and the waits on it own together.
pub type SharedFd = Arc<OwnedFd>;

/// How many legs a set holds without allocation: a channel of two descriptors with two
/// interrupters.
const INLINE_LEGS: usize = 4;

/// poll(2)'s answer for a descriptor that is not open.
const INVALID: u8 = PollFlags::NVAL.bits() as u8;

/// One descriptor to poll.
///
/// A leg shares ownership of its descriptor, and the number keeps naming the same open file until
/// the last owner drops it: a forgotten leg can never poll somebody else's descriptor.
#[derive(Clone, Debug)]
pub struct Leg {
    fd: SharedFd,
    on: Interest,
    grants: Interest,
    fired: Readiness,
}

impl Leg {
    #[inline]
    fn new(fd: &SharedFd, on: Interest, grants: Interest) -> Self {
        Self { fd: Arc::clone(fd), on, grants, fired: Readiness::empty() }
    }

    /// The descriptor.
    pub fn fd(&self) -> &SharedFd {
        &self.fd
    }

    /// What to poll it for.
    pub fn on(&self) -> Interest {
        self.on
    }

    /// What its firing means to the user of the channel; empty when it only gives the channel a
    /// reason to [`drive`](crate::Channel::drive) itself.
    pub fn grants(&self) -> Interest {
        self.grants
    }

    /// What was [marked](PollSet::mark), or found by poll(2).
    pub fn fired(&self) -> Readiness {
        // A descriptor that is not open, which an owned one always is, is an error like another.
        let invalid = self.fired.bits() & INVALID != 0;
        let fired = self.fired & Readiness::all();
        if invalid { fired | Readiness::ERROR } else { fired }
    }

    /// What the firing means to the user of the channel: nothing when the leg did not fire, or
    /// grants nothing.
    ///
    /// A leg that stands for both directions grants the one that fired. Hang-up and errors are
    /// reported together with all that the leg grants, because the next attempt will not block.
    #[inline]
    pub fn granted(&self) -> Readiness {
        const DATA: u8 = Interest::all().bits();
        if self.on == self.grants && self.fired.bits() & !DATA == 0 {
            return self.fired & Readiness::from(self.grants);
        }
        self.granted_otherwise()
    }

    #[inline(never)]
    fn granted_otherwise(&self) -> Readiness {
        let fired = self.fired();
        if fired.is_empty() || self.grants.is_empty() {
            return Readiness::empty();
        }
        Readiness::from(self.grants) | (fired & (Readiness::HANGUP | Readiness::ERROR))
    }

    #[inline]
    fn poll_flags(&self) -> PollFlags {
        PollFlags::from_bits_retain(self.on.bits().into())
    }

    #[inline]
    fn note(&mut self, revents: PollFlags) {
        self.fired = Readiness::from_bits_retain(revents.bits() as u8);
    }
}

// Interest, readiness and poll(2) use the same bits.
const _: () = assert!(
    Interest::READ.bits() as u16 == PollFlags::IN.bits()
        && Interest::WRITE.bits() as u16 == PollFlags::OUT.bits()
        && Readiness::READ.bits() as u16 == PollFlags::IN.bits()
        && Readiness::WRITE.bits() as u16 == PollFlags::OUT.bits()
        && Readiness::HANGUP.bits() as u16 == PollFlags::HUP.bits()
        && Readiness::ERROR.bits() as u16 == PollFlags::ERR.bits()
);

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What to wait for: at most a handful of [`Leg`]s and the earliest deadline.
///
/// Made to be kept and refilled: the first four legs need no allocation.
///
/// One thread that waits for two channels, without an event loop:
///
/// ```
/// use qio::transport::Socket;
/// use qio::watch::PollSet;
/// use qio::{Channel, ChannelExt, Interest, Readiness};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, left_peer) = Socket::pair()?;
/// let (right, _right_peer) = Socket::pair()?;
/// left_peer.write_all(b"x")?;
///
/// let mut set = PollSet::new();
/// // What holds now without asking the kernel needs no wait.
/// let mut ready = left.watch(Interest::READ, &mut set);
/// let legs_of_left = set.legs().len();
/// ready |= right.watch(Interest::READ, &mut set);
/// if ready.is_empty() {
///     set.poll(None)?;
/// }
/// let (of_left, of_right) = set.legs().split_at(legs_of_left);
/// assert!(of_left.iter().any(|leg| leg.fired().contains(Readiness::READ)));
/// assert!(of_right.iter().all(|leg| leg.fired().is_empty()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct PollSet {
    legs: Legs,
    deadline: Option<Instant>,
    internal: bool,
    untried: bool,
}

impl PollSet {
    /// An empty set.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes every leg and the deadline.
    #[inline]
    pub fn clear(&mut self) {
        self.legs = Legs::None;
        self.deadline = None;
        self.untried = false;
    }

    /// Adds the legs and the deadline of another set, and gives the index of the first of them:
    /// what fires of them is [marked](PollSet::mark) there by [`take_marks`](PollSet::take_marks).
    pub fn extend(&mut self, other: &Self) -> usize {
        let first = self.legs().len();
        for leg in other.legs() {
            self.add(leg.fd(), leg.on(), leg.grants());
        }
        if let Some(deadline) = other.deadline {
            self.wake_at(deadline);
        }
        first
    }

    /// Marks the legs of this set by what fired of those that `other` got from it, from index
    /// `first` on.
    pub fn take_marks(&mut self, other: &Self, first: usize) {
        let theirs = other.legs().get(first..).unwrap_or_default();
        for (leg, theirs) in self.legs.as_mut_slice().iter_mut().zip(theirs) {
            leg.fired |= theirs.fired;
        }
    }

    /// Notes that the legs were not tried: a condition that holds already may have been reported
    /// before. An edge-triggered loop looks before it waits for the next edge.
    pub fn mark_untried(&mut self) {
        self.untried = true;
    }

    /// Whether the legs were [not tried](PollSet::mark_untried) since they fired last.
    pub fn is_untried(&self) -> bool {
        self.untried
    }

    /// Adds a descriptor: poll it for `on`; when it fires, the user of the channel has `grants`.
    #[doc(alias = "qio_channel_create_fd_watch")]
    #[doc(alias = "qio_channel_create_socket_watch")]
    #[doc(alias = "qio_channel_create_fd_pair_watch")]
    #[inline]
    pub fn add(&mut self, fd: &SharedFd, on: Interest, grants: Interest) {
        if let Legs::None = self.legs {
            self.legs = Legs::One(Leg::new(fd, on, grants));
        } else {
            self.add_more(fd, on, grants);
        }
    }

    #[inline(never)]
    fn add_more(&mut self, fd: &SharedFd, on: Interest, grants: Interest) {
        let grants = if self.internal { Interest::empty() } else { grants };
        self.legs.spread().push(Leg::new(fd, on, grants));
    }

    /// Asks to be driven again at `when` at the latest; the earliest such time counts.
    pub fn wake_at(&mut self, when: Instant) {
        self.legs.spread();
        self.deadline = Some(self.deadline.map_or(when, |earlier| earlier.min(when)));
    }

    /// Runs `fill` so that the legs it adds mean nothing to the user of this channel.
    ///
    /// For layers: that the socket below has bytes says nothing about plaintext. When such a leg
    /// fires, the waiter drives the channel and asks it again.
    pub fn internally<R>(&mut self, fill: impl FnOnce(&mut Self) -> R) -> R {
        self.legs.spread();
        let before = std::mem::replace(&mut self.internal, true);
        let result = fill(self);
        self.internal = before;
        result
    }

    /// Forgets what fired, and waits for the same again.
    #[inline]
    pub fn forget_fired(&mut self) {
        for leg in self.legs.as_mut_slice() {
            leg.fired = Readiness::empty();
        }
    }

    /// The one leg there is, if it is polled for `interest` and grants that, and there is nothing else
    /// to wait for.
    #[inline]
    pub fn one_leg_for(&self, interest: Interest) -> Option<&Leg> {
        match &self.legs {
            Legs::One(leg) if leg.on == interest && leg.grants == interest => Some(leg),
            _ => None,
        }
    }

    /// The descriptors to poll.
    #[inline]
    pub fn legs(&self) -> &[Leg] {
        match &self.legs {
            Legs::None => &[],
            Legs::One(leg) => std::slice::from_ref(leg),
            Legs::Several(legs) => legs,
        }
    }

    /// The time at which to drive and ask again, although nothing fired.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether nothing could ever end a wait on this set.
    pub fn is_empty(&self) -> bool {
        self.legs().is_empty() && self.deadline.is_none()
    }

    /// Records that the leg at `index` fired. For event loops that poll by their own means.
    #[inline]
    pub fn mark(&mut self, index: usize, fired: Readiness) {
        if let Some(leg) = self.legs.as_mut_slice().get_mut(index) {
            leg.fired |= fired;
        }
    }

    /// What the legs that fired mean to the user of the channel.
    #[inline]
    pub fn granted(&self) -> Readiness {
        if let Legs::One(leg) = &self.legs {
            return leg.granted();
        }
        self.legs().iter().fold(Readiness::empty(), |all, leg| all | leg.granted())
    }

    /// Blocks this thread in poll(2) until a leg fires, or until the earlier of `until` and the
    /// set's own deadline has passed, and records what fired.
    ///
    /// Returns at once when the time has passed already, after having looked once.
    ///
    /// # Errors
    ///
    /// What poll(2) reports (`ENOMEM`); `InvalidInput` when the set is empty and `until` is `None`,
    /// because the wait would never end.
    #[inline]
    pub fn poll(&mut self, until: Option<Instant>) -> io::Result<()> {
        match (&mut self.legs, until) {
            (Legs::One(leg), None) => poll_one(leg, None),
            _ => self.poll_many(until),
        }
    }

    #[inline(never)]
    fn poll_many(&mut self, until: Option<Instant>) -> io::Result<()> {
        let until = match (until, self.deadline) {
            (Some(until), Some(own)) => Some(until.min(own)),
            (until, own) => until.or(own),
        };
        if let Legs::One(leg) = &mut self.legs {
            return poll_one(leg, until);
        }
        if self.legs().is_empty() && until.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "nothing to wait for: no descriptor and no deadline",
            ));
        }
        let fired: SmallVec<[PollFlags; INLINE_LEGS]> = {
            let mut fds: SmallVec<[PollFd<'_>; INLINE_LEGS]> =
                self.legs().iter().map(|leg| PollFd::new(&leg.fd, leg.poll_flags())).collect();
            poll_until(&mut fds, until)?;
            fds.iter().map(PollFd::revents).collect()
        };
        for (leg, revents) in self.legs.as_mut_slice().iter_mut().zip(fired) {
            leg.note(revents);
        }
        Ok(())
    }
}

/// The legs of a set.
// The plain tag is quicker to look at than one hidden in the vector's capacity.
#[derive(Clone, Debug, Default)]
#[repr(u8)]
enum Legs {
    #[default]
    None,
    /// The common case, which costs no more than itself: one leg that means what it says, and no
    /// deadline beside it.
    One(Leg),
    Several(SmallVec<[Leg; INLINE_LEGS]>),
}

impl Legs {
    /// The legs as a vector, for everything but the common case.
    fn spread(&mut self) -> &mut SmallVec<[Leg; INLINE_LEGS]> {
        if !matches!(self, Self::Several(_)) {
            let first = match std::mem::take(self) {
                Self::One(leg) => Some(leg),
                _ => None,
            };
            *self = Self::Several(first.into_iter().collect());
        }
        match self {
            Self::Several(legs) => legs,
            Self::None | Self::One(_) => unreachable!("turned into a vector above"),
        }
    }

    #[inline]
    fn as_mut_slice(&mut self) -> &mut [Leg] {
        match self {
            Self::None => &mut [],
            Self::One(leg) => std::slice::from_mut(leg),
            Self::Several(legs) => legs,
        }
    }
}

#[inline(always)]
fn poll_one(leg: &mut Leg, until: Option<Instant>) -> io::Result<()> {
    let mut fds = [PollFd::new(&leg.fd, leg.poll_flags())];
    poll_until(&mut fds, until)?;
    let revents = fds[0].revents();
    leg.note(revents);
    Ok(())
}

#[inline]
fn poll_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    match until {
        None => retry_on_intr(|| rustix::event::poll(fds, None))?,
        Some(until) => retry_on_intr(|| {
            let left = timespec(until.saturating_duration_since(Instant::now()));
            rustix::event::poll(fds, Some(&left))
        })?,
    };
    Ok(())
}

#[inline]
fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_for_both_directions_grants_the_one_that_fired() {
        let fd =
            SharedFd::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
        let both = Interest::READ | Interest::WRITE;
        let granted = |on, grants, fired| {
            let mut set = PollSet::new();
            set.add(&fd, on, grants);
            set.mark(0, fired);
            set.granted()
        };
        assert_eq!(granted(both, both, Readiness::WRITE), Readiness::WRITE);
        assert_eq!(granted(both, both, Readiness::READ), Readiness::READ);
        let gone = Readiness::WRITE | Readiness::HANGUP;
        assert_eq!(granted(both, both, gone), gone | Readiness::READ);
        // A layer that reads below to let its user write.
        assert_eq!(granted(Interest::READ, Interest::WRITE, Readiness::READ), Readiness::WRITE);
        assert_eq!(granted(Interest::READ, Interest::empty(), Readiness::READ), Readiness::empty());

        let mut set = PollSet::new();
        set.add(&fd, both, both);
        set.poll(None).unwrap();
        assert_eq!(set.granted(), Readiness::WRITE, "an eventfd at 0 can be written, not read");
    }
}
