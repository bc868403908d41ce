//! What opening and listening take besides an address.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qio_os::InheritedFds;

use super::address::Address;
use super::admit::{Admit, Peer};
use super::cancel::Cancel;
use super::layer::Prepared;
use super::observe::{ConnectEvent, ConnectObserver};
use super::reconnect::Retry;
use super::scheme::fd;
use crate::error::{Error, Result};
use crate::layer::web::Visit;

/// How long opening may take when nothing else is said: long enough for two lost SYN packets and
/// their retransmissions (after 1 s and 3 s) on any usable path, short enough to be noticed.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many clients may be in their handshakes at a time when nothing else is said: an attacker who
/// opens a thousand connections a second leaves an honest client a quarter of one.
pub const DEFAULT_PENDING: usize = 256;

/// How [`connect`](super::connect) opens an address.
///
/// ```
/// use std::time::Duration;
/// use qio::net::{Cancel, ConnectOptions};
///
/// let cancel = Cancel::new();
/// let options = ConnectOptions::new().timeout(Duration::from_secs(3)).cancel(cancel.clone());
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// How long an attempt may take, resolving included; `None` is for ever. [`DEFAULT_TIMEOUT`]
    /// unless set.
    pub timeout: Option<Duration>,
    /// Whether and when there is another attempt after a failure that
    /// [may pass](super::may_pass). There is none unless this or the address (`retry=`,
    /// `reconnect-ms=`) says so; what both say, the address decides.
    pub retry: Option<Retry>,
    /// Where `fd:` finds its descriptors; without it, `fd:` is an error.
    pub inherited: Option<Inherited>,
    /// How another thread gives the attempt up.
    pub cancel: Option<Cancel>,
    /// Who is told how the opening goes on.
    pub observer: Option<ConnectObserver>,
    /// What layers have read from files.
    pub(super) prepared: Prepared,
}

/// How [`listen`](super::listen) opens an address, and whom it lets in.
///
/// ```
/// use qio::net::{Admit, ListenEvent, ListenOptions};
///
/// # fn main() -> qio::Result<()> {
/// let options = ListenOptions::new()
///     .admit(Admit::networks(["127.0.0.0/8".parse()?]))
///     .max_connections(100)
///     .observe(|event| match event {
///         ListenEvent::Refused { peer, reason } => println!("{peer}: {reason}"),
///         ListenEvent::Starved { error } => println!("clients wait: {error}"),
///         _ => {}
///     });
/// # let listener = qio::net::listen(&"listen:tcp://:0".parse()?, &options)?;
/// # drop(listener);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// How long resolving the name may take; `None` is for ever. [`DEFAULT_TIMEOUT`] unless set.
    pub timeout: Option<Duration>,
    /// Where `fd:` finds its descriptors; without it, `fd:` is an error.
    pub inherited: Option<Inherited>,
    /// How another thread gives resolving up.
    pub cancel: Option<Cancel>,
    /// Who is let in; without it, everybody is.
    pub admit: Option<Admit>,
    /// How many accepted channels there may be at a time; without it, as many as come.
    pub max_connections: Option<usize>,
    /// How long the handshakes of a client may take together, where the address has layers.
    /// [`DEFAULT_TIMEOUT`] unless set: as long as connecting may take.
    pub handshake_timeout: Duration,
    /// How many clients may be in their handshakes at a time; for a newer one the oldest has to
    /// make room. [`DEFAULT_PENDING`] unless set.
    ///
    /// As many may be shown files beside them (`web=` of WebSocket), where the oldest one that asks
    /// for nothing goes first. They take no place of [`max_connections`](Self::max_connections),
    /// and no room from handshakes.
    pub max_pending: usize,
    /// Who is told what happens to clients that are not handed out.
    pub observer: Option<Observer>,
    /// The port may be in use by the UDP peers of a listener that was closed and is reopened.
    pub(super) beside_peers: bool,
}

/// Something that is told what happens to clients that are not handed out, see
/// [`ListenOptions::observe`].
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&ListenEvent<'_>) + Send + Sync>);

/// What a listener tells its observer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenEvent<'a> {
    /// A client was closed because a check refused it.
    Refused {
        /// Who it was.
        peer: &'a Peer,
        /// Why.
        reason: &'a str,
    },
    /// Clients wait and cannot be accepted, for want of descriptors or memory. Told at the start
    /// and every 10 seconds while it lasts.
    Starved {
        /// What accepting reported.
        error: &'a std::io::Error,
    },
    /// Clients are accepted again.
    Recovered,
    /// A client has asked for a file instead of a WebSocket, and was answered. It is none of the
    /// clients that are handed out, unless it asks for a WebSocket later.
    Answered {
        /// Who it was.
        peer: &'a Peer,
        /// What was asked for, and what became of it.
        visit: &'a Visit,
    },
    /// A client was closed because its handshake failed, took too long, or had to make room.
    HandshakeFailed {
        /// Who it was.
        peer: &'a Peer,
        /// Why: of [`Class::Timeout`](crate::error::Class::Timeout) when it took too long, of
        /// [`Class::Cancelled`](crate::error::Class::Cancelled) when it had to make room.
        error: &'a Error,
    },
}

/// A table of inherited descriptors that several attempts share: each descriptor is taken once.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    table: Arc<Mutex<InheritedFds>>,
}

impl ConnectOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            timeout: Some(DEFAULT_TIMEOUT),
            retry: None,
            inherited: None,
            cancel: None,
            observer: None,
            prepared: Prepared::default(),
        }
    }

    /// Sets how long an attempt may take; `None` is for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Sets whether and when there is another attempt; `None` is never.
    #[must_use]
    pub fn retry(mut self, retry: impl Into<Option<Retry>>) -> Self {
        self.retry = retry.into();
        self
    }

    /// Sets where `fd:` finds its descriptors.
    #[must_use]
    pub fn inherited(mut self, table: impl Into<Inherited>) -> Self {
        self.inherited = Some(table.into());
        self
    }

    /// Sets what gives the attempt up.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Sets who is told how the opening goes on: addresses, the transport, and each layer with what
    /// its handshake has brought.
    ///
    /// Runs on the thread that makes the steps: it must not wait.
    ///
    /// ```
    /// use qio::net::{self, ConnectEvent, ConnectOptions};
    ///
    /// # fn main() -> qio::Result<()> {
    /// let options = ConnectOptions::new().observe(|event| match event {
    ///     ConnectEvent::Calling { peer } => println!("calling {peer}"),
    ///     ConnectEvent::LayerStarted { layer } => println!("{layer} handshake"),
    ///     _ => {}
    /// });
    /// # net::connect(&qio::Address::null(), &options)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&ConnectEvent<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(ConnectObserver::new(observer));
        self
    }

    /// Forgets what the layers of addresses have read from files.
    ///
    /// These options and their clones read certificates, keys and passwords of an address once, at
    /// its first attempt; after this they read them again. TLS sessions can be resumed until then.
    pub fn reload(&self) {
        self.prepared.forget();
    }

    /// Finds out early what would fail in each attempt to connect to `address`: that a file which
    /// a layer of it needs is not there, or makes no sense. Nothing is connected.
    ///
    /// # Errors
    ///
    /// As [`connect`](super::connect) reports it.
    pub fn prepare(&self, address: &Address) -> Result<()> {
        let text = address.to_string();
        address.check().map_err(|refusal| refusal.of("connect", &text))?;
        self.prepared.of(address, &text).map(drop)
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ListenOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            timeout: Some(DEFAULT_TIMEOUT),
            inherited: None,
            cancel: None,
            admit: None,
            max_connections: None,
            handshake_timeout: DEFAULT_TIMEOUT,
            max_pending: DEFAULT_PENDING,
            observer: None,
            beside_peers: false,
        }
    }

    /// Sets how long resolving the name may take; `None` is for ever.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Sets where `fd:` finds its descriptors.
    #[must_use]
    pub fn inherited(mut self, table: impl Into<Inherited>) -> Self {
        self.inherited = Some(table.into());
        self
    }

    /// Sets what gives resolving up.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Sets who is let in: each client is checked before it is handed out, and closed at once if
    /// it is refused.
    #[must_use]
    pub fn admit(mut self, admit: Admit) -> Self {
        self.admit = Some(admit);
        self
    }

    /// Sets how many accepted channels there may be at a time (at least 1); `None` is as many as
    /// come.
    ///
    /// Further clients wait in the backlog of the kernel until a channel is closed or dropped.
    #[must_use]
    pub fn max_connections(mut self, limit: impl Into<Option<usize>>) -> Self {
        self.max_connections = limit.into();
        self
    }

    /// Sets how long the handshakes of a client may take together.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many clients may be in their handshakes at a time, at least 1.
    #[must_use]
    pub fn max_pending(mut self, limit: usize) -> Self {
        self.max_pending = limit;
        self
    }

    /// Sets who is told what happens to clients that are not handed out.
    ///
    /// Runs on the thread that accepts, between two clients: it must not wait.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&ListenEvent<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer(Arc::new(observer)));
        self
    }
}

impl Observer {
    pub(crate) fn tell(&self, event: &ListenEvent<'_>) {
        (self.0)(event);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Inherited {
    /// The table, to add descriptors or to take them out.
    pub fn lock(&self) -> MutexGuard<'_, InheritedFds> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out early what connecting to `address` would fail for: that its descriptor is not
    /// here. Nothing is taken, and an address that needs no descriptor is fine.
    ///
    /// # Errors
    ///
    /// As [`connect`](super::connect) reports it.
    pub fn check(&self, address: &Address) -> Result<()> {
        fd::check_there(address, self)
    }
}

impl From<InheritedFds> for Inherited {
    fn from(table: InheritedFds) -> Self {
        Self { table: Arc::new(Mutex::new(table)) }
    }
}
