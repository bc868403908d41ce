//! A watch on a channel, for event loops.

use std::fmt;
use std::io;
use std::task::Poll;
use std::time::Instant;

use super::Channel;
use crate::interest::{Interest, Readiness};
use crate::watch::{PollSet, Steps};

/// A watch on a channel: what an adapter registers with an event loop, for as long as it is there.
///
/// The loop asks [`look`](Watch::look) what holds already and what to poll, polls, marks what fired
/// ([`PollSet::mark`]) and asks [`settle`](Watch::settle) what that means to the user of the
/// channel. After a callback it looks again: a record of TLS that is read in four parts is reported
/// four times, though the socket has nothing more.
///
/// Hang-up and errors are reported without being asked for; after the channel was closed from here,
/// by whomever, nothing is. A watch for nothing else
/// ([`Interest::empty`]) reports the hang-up once, and then rests: there is nothing the callback
/// could do to end the condition.
///
/// A channel may have any number of watches, in any loops and threads, also beside who
/// [waits](super::ChannelExt::wait); each event goes to all who watch for it.
///
/// As [`Steps`] it comes to the readiness, and may be stepped, or asked what it waits for, again for
/// the next one.
///
/// ```
/// use std::sync::Arc;
///
/// use qio::channel::Watch;
/// use qio::transport::Socket;
/// use qio::watch::PollSet;
/// use qio::{ChannelExt, Interest, Readiness};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Socket::pair()?;
/// let mut watch = Watch::new(Arc::new(left), Interest::READ);
/// right.write_all(b"x")?;
///
/// let mut set = PollSet::new();
/// let mut ready = watch.look(&mut set);
/// while ready.is_empty() {
///     set.poll(None)?; // the loop's part
///     ready = watch.settle(&mut set)?;
/// }
/// assert_eq!(ready, Readiness::READ);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "qio_channel_create_watch")]
#[doc(alias = "qio_channel_add_watch_source")]
#[doc(alias = "qio_channel_attach_aio_context")]
#[doc(alias = "qio_channel_detach_aio_context")]
pub struct Watch<C: Channel> {
    channel: C,
    interest: Interest,
    /// What fired and was not told yet, for the steps.
    fired: Readiness,
    /// A step is made because something has happened, not because it is the first.
    woken: bool,
    /// Nothing was tried before the last step, or it drove the channel: what is waited for may be
    /// there already, and have been reported.
    untried: bool,
    /// The hang-up that alone was watched for was told.
    rests: bool,
}

impl<C: Channel> Watch<C> {
    /// A watch for `interest`; hang-up and errors come without being asked for.
    pub fn new(channel: C, interest: Interest) -> Self {
        channel.base().begin_watch(interest);
        let fired = Readiness::empty();
        Self { channel, interest, fired, woken: false, untried: true, rests: false }
    }

    /// The channel that is watched.
    pub fn channel(&self) -> &C {
        &self.channel
    }

    /// What is watched for.
    pub fn interest(&self) -> Interest {
        self.interest
    }

    /// Watches for something else from the next look on.
    pub fn set_interest(&mut self, interest: Interest) {
        self.channel.base().begin_watch(interest);
        self.channel.base().end_watch(self.interest);
        self.interest = interest;
        self.rests = false;
    }

    /// Says what holds now. If that is nothing, `set` has what to wait for; a watch that rests adds
    /// nothing.
    pub fn look(&mut self, set: &mut PollSet) -> Readiness {
        if self.rests || self.is_over() {
            return Readiness::empty();
        }
        let ready = self.ask(set);
        self.note(ready)
    }

    /// Says what it means by itself that legs of `set` fired; if that is nothing, only
    /// [`settle`](Watch::settle) can tell. For loops that make a callback of what fired and look
    /// again after it.
    #[inline]
    pub fn fired(&mut self, set: &PollSet) -> Readiness {
        if self.interest.is_empty() {
            return self.fired_for_nothing_else(set);
        }
        let fired = set.granted();
        if fired.is_empty() || self.is_over() { Readiness::empty() } else { fired }
    }

    #[inline(never)]
    fn fired_for_nothing_else(&mut self, set: &PollSet) -> Readiness {
        let fired = hangup_in(set);
        if fired.is_empty() || self.is_over() { Readiness::empty() } else { self.note(fired) }
    }

    /// Whether `set`, which a look has filled, stands as it is after a callback
    /// ([`Channel::watch_stands`]); if not, [`look`](Watch::look) has to be asked again.
    #[inline]
    pub fn stands(&self, set: &PollSet) -> bool {
        let leg = set.one_leg_for(self.interest);
        !self.interest.is_empty()
            && leg.is_some_and(|leg| self.channel.watch_stands(self.interest, leg.fd()))
    }

    /// Says what it means that legs of `set` fired, or that its deadline has passed. If that is
    /// nothing, the channel has been driven, and `set` has what to wait for now.
    ///
    /// # Errors
    ///
    /// What makes waiting pointless: of [`Channel::drive`].
    pub fn settle(&mut self, set: &mut PollSet) -> io::Result<Readiness> {
        let fired = self.fired(set);
        if !fired.is_empty() {
            return Ok(fired);
        }
        if !self.rests && !self.is_over() {
            self.channel.drive(Instant::now())?;
        }
        set.clear();
        Ok(self.look(set))
    }

    /// Whether the channel was closed from here: nothing is reported any more.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.channel.base().is_closed() || self.channel.inner().is_some_and(is_closed)
    }

    fn ask(&self, set: &mut PollSet) -> Readiness {
        let ready = self.channel.watch(self.interest, set);
        if !(self.interest.is_empty() && ready.is_empty() && set.is_empty()) {
            return ready;
        }
        // A channel whose hang-up shows in the next read does not offer to tell it alone. But
        // poll(2) tells it of any descriptor, whatever that is polled for.
        for interest in [Interest::WRITE, Interest::READ] {
            let mut polled = PollSet::new();
            let ready = self.channel.watch(interest, &mut polled);
            if ready.contains(Readiness::HANGUP) {
                return Readiness::HANGUP;
            }
            for leg in polled.legs() {
                set.add(leg.fd(), Interest::empty(), Interest::empty());
            }
            if !set.is_empty() {
                break;
            }
        }
        Readiness::empty()
    }

    #[inline(always)]
    fn fired_in(&self, set: &PollSet) -> Readiness {
        if self.interest.is_empty() { hangup_in(set) } else { set.granted() }
    }

    #[inline(always)]
    fn note(&mut self, ready: Readiness) -> Readiness {
        self.rests = self.interest.is_empty() && !ready.is_empty();
        ready
    }
}

/// What fired means to a watch for the hang-up alone.
fn hangup_in(set: &PollSet) -> Readiness {
    let gone = Readiness::HANGUP | Readiness::ERROR;
    set.legs().iter().fold(Readiness::empty(), |all, leg| match leg.fired() {
        // The channel's own way to tell: it fires for nothing else.
        fired if !leg.on().is_empty() && !fired.is_empty() => all | Readiness::HANGUP,
        fired => all | (fired & gone),
    })
}

/// Whether this channel, or one below it, was closed from here.
fn is_closed(mut channel: &dyn Channel) -> bool {
    loop {
        if channel.base().is_closed() {
            return true;
        }
        match channel.inner() {
            Some(below) => channel = below,
            None => return false,
        }
    }
}

impl<C: Channel> Steps for Watch<C> {
    type Output = io::Result<Readiness>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if self.rests || self.is_over() {
            self.fired = Readiness::empty();
            return Poll::Pending;
        }
        let was_woken = std::mem::replace(&mut self.woken, true);
        let drives = was_woken && self.fired.is_empty();
        // A callback may have left something.
        self.untried = drives || !was_woken;
        if drives {
            self.channel.drive(now)?;
        }
        let fired = std::mem::replace(&mut self.fired, Readiness::empty());
        let ready = match fired.is_empty() {
            true => self.look(&mut PollSet::new()),
            false => self.note(fired),
        };
        if ready.is_empty() {
            return Poll::Pending;
        }
        self.woken = false;
        Poll::Ready(Ok(ready))
    }

    fn watch(&mut self, set: &mut PollSet) {
        if self.rests {
            return;
        }
        self.fired = self.ask(set);
        if self.untried {
            set.mark_untried();
        }
        if self.fired.is_empty() {
            return;
        }
        // What was closed reports that at once, which is told to nobody.
        if self.is_over() {
            self.fired = Readiness::empty();
            return;
        }
        set.wake_at(Instant::now());
    }

    fn woken(&mut self, set: &PollSet) {
        self.woken = true;
        self.fired |= self.fired_in(set);
    }
}

impl<C: Channel> Drop for Watch<C> {
    fn drop(&mut self) {
        self.channel.base().end_watch(self.interest);
    }
}

impl<C: Channel> fmt::Debug for Watch<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watch")
            .field("channel", &self.channel.base().name())
            .field("interest", &self.interest)
            .field("rests", &self.rests)
            .finish_non_exhaustive()
    }
}
