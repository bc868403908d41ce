//! Handshakes with clients, many at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::listener::{Accepted, Listener};
use super::options::ListenEvent;
use crate::channel::{Channel, Mode};
use crate::error::{Class, Error, Result};
use crate::watch::{PollSet, Steps};

/// A handshake: steps from an accepted channel to the one that is handed out.
pub type Handshake = Box<dyn Steps<Output = Result<Arc<dyn Channel>>> + Send>;

/// The accepting of clients that have to go through a handshake before they are handed out.
///
/// A step may be made again after `Ready`: each gives one client, in the order in which they get
/// through. Handshakes go on during each step, side by side, and the slow ones do not hold up the
/// others:
///
/// - one that fails, or takes longer than its [time](Handshakes::timeout), is closed;
/// - when there are too [many](Handshakes::limit), the oldest has to make room. Whoever opens
///   connections without going on fills the places only with connections of his own: an honest
///   client gets in all the same, and has as much time as the attacker needs to fill all places
///   anew. (If the newest were refused instead, or nobody accepted, an honest client would have to
///   wait behind everything that the attacker has opened before.)
///
/// Each that is closed is told to the observer
/// ([`HandshakeFailed`](ListenEvent::HandshakeFailed)). A client counts for
/// [`max_connections`](super::ListenOptions::max_connections) when it is handed out; while all
/// those places are taken, nobody is accepted, and who got through waits for a place.
///
/// Dropping this closes all clients that were not handed out.
///
/// ```
/// use std::sync::Arc;
/// use std::task::Poll;
/// use std::time::{Duration, Instant};
///
/// use qio::net::{self, Accepted, Handshake, Handshakes, ListenOptions};
/// use qio::watch::{PollSet, Steps};
/// use qio::{Channel, ChannelExt, Error, Interest, error::Class};
///
/// /// Waits for a greeting of one byte.
/// struct Greeting(Arc<dyn Channel>);
///
/// impl Steps for Greeting {
///     type Output = qio::Result<Arc<dyn Channel>>;
///
///     fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
///         let mut byte = [0];
///         Poll::Ready(match self.0.read(&mut byte) {
///             Ok(1) if byte == *b"!" => Ok(Arc::clone(&self.0)),
///             Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Poll::Pending,
///             _ => Err(Error::new(Class::Io, "greet", self.0.name())),
///         })
///     }
///
///     fn watch(&mut self, set: &mut PollSet) {
///         if !self.0.watch(Interest::READ, set).is_empty() {
///             set.wake_at(Instant::now());
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = net::listen(&"listen:tcp://:0".parse()?, &ListenOptions::new())?;
/// let greet = |client: &Accepted| Ok(Box::new(Greeting(client.channel.clone())) as Handshake);
/// let mut clients = Handshakes::new(&listener, greet).limit(100).timeout(Duration::from_secs(3));
/// # let address = &listener.local_addresses()[0];
/// # let silent = net::connect(address, &net::ConnectOptions::new())?;
/// # let polite = net::connect(address, &net::ConnectOptions::new())?;
/// # polite.write_all(b"!hello")?;
/// let client = clients.accept(None)?;
/// # let mut text = [0; 5];
/// client.channel.read_exact(&mut text)?;
/// # Ok(())
/// # }
/// ```
pub struct Handshakes<L, F> {
    listener: L,
    begin: F,
    limit: usize,
    timeout: Duration,
    /// Oldest first, and so in the order of their deadlines.
    pending: VecDeque<Pending>,
    /// Got through, and not handed out yet.
    done: VecDeque<Accepted>,
    /// Who is due is known: told by the loop, or everybody was tried in the step before.
    knows_due: bool,
}

struct Pending {
    client: Accepted,
    handshake: Handshake,
    /// A time that no clock can show never comes.
    deadline: Option<Instant>,
    /// What it waits for.
    set: PollSet,
    /// Where its legs begin in the set of all.
    first_leg: usize,
    is_due: bool,
}

/// How many clients are accepted before others get their turn.
const AT_ONCE: usize = 16;

impl<L, F> Handshakes<L, F>
where
    L: Deref<Target = Listener>,
    F: FnMut(&Accepted) -> Result<Handshake>,
{
    /// At most 256 handshakes at a time unless [set](Handshakes::limit): an attacker who opens a
    /// thousand connections a second leaves an honest client a quarter of one.
    pub const DEFAULT_LIMIT: usize = 256;

    /// 10 seconds for each unless [set](Handshakes::timeout): as long as connecting may take.
    pub const DEFAULT_TIMEOUT: Duration = super::DEFAULT_TIMEOUT;

    /// Accepts from `listener`; `begin` makes the handshake of each client.
    ///
    /// The channel is in non-blocking mode during the handshake. What comes out is set to blocking
    /// mode before it is handed out.
    pub fn new(listener: L, begin: F) -> Self {
        Self {
            listener,
            begin,
            limit: Self::DEFAULT_LIMIT,
            timeout: Self::DEFAULT_TIMEOUT,
            pending: VecDeque::new(),
            done: VecDeque::new(),
            knows_due: false,
        }
    }

    /// Sets how many handshakes there may be at a time, at least 1.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.max(1);
        self
    }

    /// Sets how long each handshake may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many handshakes are going on.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Waits for a client that has got through its handshake.
    ///
    /// # Errors
    ///
    /// As [`Listener::accept`].
    pub fn accept(&mut self, until: Option<Instant>) -> io::Result<Accepted> {
        match crate::watch::run(&mut *self, until)? {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(_) => Err(self.listener.backoff.error().unwrap_or_else(|| {
                let text = format!("{}: no client came in time", *self.listener);
                io::Error::new(ErrorKind::TimedOut, text)
            })),
        }
    }

    /// Accepts clients and begins their handshakes.
    fn begin_some(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            // Who got through is handed out first, so that there are never many of them.
            if self.listener.is_full() || !self.done.is_empty() {
                self.listener.miss();
                return Ok(());
            }
            let client = match self.listener.attempt(now, Listener::take) {
                Poll::Ready(client) => client?,
                Poll::Pending => return Ok(()),
            };
            let begun = in_mode(&client.channel, Mode::NonBlocking);
            match begun.and_then(|()| (self.begin)(&client)) {
                Ok(handshake) => {
                    if self.pending.len() + self.done.len() >= self.limit
                        && let Some(oldest) = self.pending.pop_front()
                    {
                        let error =
                            Error::new(Class::Cancelled, "handshake with", &oldest.client.who);
                        let error = error.because("given up for a newer client");
                        self.fail(&oldest.client, &error);
                    }
                    self.pending.push_back(Pending {
                        client,
                        handshake,
                        deadline: now.checked_add(self.timeout),
                        set: PollSet::new(),
                        first_leg: 0,
                        is_due: true,
                    });
                    // Most have sent their first bytes by now.
                    self.advance(self.pending.len() - 1, now);
                }
                Err(error) => self.fail(&client, &error),
            }
        }
        // There may be more; others have their turn first.
        self.listener.miss();
        Ok(())
    }

    /// Moves one handshake along; says whether it is still going on.
    fn advance(&mut self, index: usize, now: Instant) -> bool {
        let pending = &mut self.pending[index];
        let is_due = pending.is_due || pending.set.deadline().is_some_and(|at| at <= now);
        let polled = if is_due { pending.handshake.step(now) } else { Poll::Pending };
        let result = match polled {
            Poll::Ready(result) => result,
            Poll::Pending if pending.deadline.is_some_and(|deadline| deadline <= now) => {
                let error = Error::timed_out("handshake with", &pending.client.who);
                Err(error.hint(format!("it was not done within {:?}", self.timeout)))
            }
            Poll::Pending => {
                if is_due {
                    pending.is_due = false;
                    pending.set.clear();
                    pending.handshake.watch(&mut pending.set);
                }
                return true;
            }
        };
        let Some(Pending { mut client, .. }) = self.pending.remove(index) else { return false };
        let ready = result.and_then(|channel| in_mode(&channel, Mode::Blocking).map(|()| channel));
        match ready {
            Ok(channel) => {
                client.channel = channel;
                self.done.push_back(client);
            }
            Err(error) => self.fail(&client, &error),
        }
        false
    }

    fn fail(&self, client: &Accepted, error: &Error) {
        // Whoever else owns it: it is over.
        let _ = client.channel.close();
        event!(info, peer = %client.peer, error = %error.report(), "a handshake failed");
        self.listener.tell(&ListenEvent::HandshakeFailed { peer: &client.who, error });
    }

    /// Hands out who got through, if there is a place.
    fn hand_out(&mut self) -> io::Result<Option<Accepted>> {
        if self.done.is_empty() {
            return Ok(None);
        }
        match self.listener.try_place() {
            Ok(place) => Ok(self.done.pop_front().map(|client| match place {
                Some(place) => client.holding(place),
                None => client,
            })),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn in_mode(channel: &dyn Channel, mode: Mode) -> Result<()> {
    let result = channel.set_mode(mode);
    result.map_err(|error| {
        Error::new(Class::Io, "handshake with", channel.base().name()).because(error)
    })
}

impl<L, F> Steps for Handshakes<L, F>
where
    L: Deref<Target = Listener>,
    F: FnMut(&Accepted) -> Result<Handshake>,
{
    type Output = io::Result<Accepted>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let all_due = !self.knows_due;
        let mut index = 0;
        while index < self.pending.len() {
            self.pending[index].is_due |= all_due;
            index += usize::from(self.advance(index, now));
        }
        let handed_out = self.begin_some(now).and_then(|()| self.hand_out());
        // What was due was tried above; after this, it takes a leg that fires.
        self.knows_due = true;
        match handed_out.transpose() {
            Some(Err(error)) => {
                self.pending.clear();
                self.done.clear();
                Poll::Ready(Err(error))
            }
            Some(client) => Poll::Ready(client),
            None => Poll::Pending,
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        // From here on, the loop either says who is due, or it may be anybody.
        self.knows_due = false;
        let is_full = self.listener.is_full();
        if !self.listener.watch_backoff(set) {
            self.listener.watch_unless(is_full, set);
        }
        if !self.done.is_empty() {
            self.listener.watch_places(set);
        }
        for pending in &mut self.pending {
            pending.first_leg = set.legs().len();
            for leg in pending.set.legs() {
                set.add(leg.fd(), leg.on(), leg.grants());
            }
            if let Some(at) = pending.set.deadline() {
                set.wake_at(at);
            }
        }
        if let Some(deadline) = self.pending.front().and_then(|oldest| oldest.deadline) {
            set.wake_at(deadline);
        }
    }

    fn woken(&mut self, set: &PollSet) {
        self.knows_due = true;
        for pending in &mut self.pending {
            for index in 0..pending.set.legs().len() {
                let leg = set.legs().get(pending.first_leg + index);
                let Some(fired) = leg.map(|leg| leg.fired()) else { continue };
                if !fired.is_empty() {
                    pending.is_due = true;
                    pending.set.mark(index, fired);
                }
            }
            if pending.is_due {
                pending.handshake.woken(&pending.set);
            }
        }
    }
}

impl<L, F> fmt::Debug for Handshakes<L, F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Handshakes")
            .field("limit", &self.limit)
            .field("timeout", &self.timeout)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}
