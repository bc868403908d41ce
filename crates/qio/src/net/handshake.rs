//! Handshakes with clients, many at a time.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::listener::{Accepted, Listener};
use super::pending::{Driver, Pool};
use crate::channel::Channel;
use crate::error::Result;
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
/// ([`HandshakeFailed`](super::ListenEvent::HandshakeFailed)). A client counts for
/// [`max_connections`](super::ListenOptions::max_connections) when it is handed out; while all
/// those places are taken, nobody is accepted, and who got through waits for a place.
///
/// Where the address of the listener has layers, their handshakes come first; time and number are
/// those of this then, for all handshakes of a client together.
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
    pool: Pool,
    driver: Driver,
}

impl<L, F> Handshakes<L, F>
where
    L: Deref<Target = Listener>,
    F: FnMut(&Accepted) -> Result<Handshake>,
{
    /// At most 256 handshakes at a time unless [set](Handshakes::limit): an attacker who opens a
    /// thousand connections a second leaves an honest client a quarter of one.
    pub const DEFAULT_LIMIT: usize = super::DEFAULT_PENDING;

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
            pool: Pool::new(Self::DEFAULT_LIMIT, Self::DEFAULT_TIMEOUT),
            driver: Driver::default(),
        }
    }

    /// Sets how many handshakes there may be at a time, at least 1.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.pool.limit = limit.max(1);
        self
    }

    /// Sets how long each handshake may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.pool.timeout = timeout;
        self
    }

    /// How many handshakes are going on.
    pub fn pending(&self) -> usize {
        self.pool.pending()
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
}

impl<L, F> Steps for Handshakes<L, F>
where
    L: Deref<Target = Listener>,
    F: FnMut(&Accepted) -> Result<Handshake>,
{
    type Output = io::Result<Accepted>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let Self { listener, begin, pool, driver } = self;
        let mut begin = |client: &Accepted| begin(client).map(Some);
        let result = pool.step(listener, driver, &mut begin, now);
        pool.take_news().tell(listener);
        result
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.pool.watch(&self.listener, &mut self.driver, set);
    }

    fn woken(&mut self, set: &PollSet) {
        self.pool.woken(&mut self.driver, set);
    }
}

impl<L, F> fmt::Debug for Handshakes<L, F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Handshakes")
            .field("limit", &self.pool.limit)
            .field("timeout", &self.pool.timeout)
            .field("pending", &self.pool.pending())
            .finish_non_exhaustive()
    }
}
