//! Listening: from an address to a stream of channels.

mod life;

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Poll;
use std::time::Instant;

use life::{Phase, State, close_all, not_listening};
use rustix::io::{Errno, FdFlags};
use rustix::net::AddressFamily;

use super::accepting::{Accepting, Backoff};
use super::address::{Address, Refusal, Role};
use super::admit::{Peer, Verdict};
pub(crate) use super::bound::{Bound, channel_of};
use super::layer::Stack;
use super::options::{ListenEvent, ListenOptions};
use super::pending::{Driver, Pool};
use super::scheme::fd::listening_kind;
use super::slots::{Held, Place, Slots};
use crate::channel::Channel;
use crate::error::{Class, Error, Result};
use crate::interest::Interest;
use crate::watch::{PollSet, Steps};

/// Listens on `address`: on all addresses of a name, with one port.
///
/// A TCP address without a host is 127.0.0.1 and nothing else; `0.0.0.0` and `[::]` must be asked
/// for. A Unix socket that nobody listens on any more is replaced, one that is alive and a file of
/// another kind never. Waits for a name to be resolved, through the current
/// [`Waiter`](crate::watch::Waiter).
///
/// ```
/// use qio::{ChannelExt, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
/// let address = &listener.local_addresses()[0];
/// let client = net::connect(address, &net::ConnectOptions::new())?;
/// let server = listener.accept(None)?.channel;
/// server.write_all(b"welcome")?;
/// # let mut buf = [0; 7];
/// # client.read_exact(&mut buf)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// `Usage` for an address that cannot be listened on, `Resolve` for a name, `Open` for the rest;
/// an address in use is told together with who uses it, as far as `/proc` shows it.
#[doc(alias = "qio_channel_socket_listen_sync")]
#[doc(alias = "qio_net_listener_open_sync")]
#[doc(alias = "qio_channel_socket_listen_async")]
pub fn listen(address: &Address, options: &ListenOptions) -> Result<Listener> {
    let listener = Listener::new(options);
    listener.add(address)?;
    Ok(listener)
}

/// Opens the sockets of an address.
fn open(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let checked = match address.role() {
        Role::Listen => address.check(),
        Role::Connect => {
            let refusal = Refusal::new("this is an address to connect to");
            Err(refusal.hint(format!("listen:{address} is one to listen on")))
        }
    };
    let refused = |refusal: Refusal| refusal.of("listen", &address.to_string());
    checked.map_err(refused)?;
    let Some(listen) = address.scheme().listen else {
        return Err(refused(Refusal::new("it cannot be listened on")));
    };
    // Before anything is bound: what the layers need may not be there.
    let stack = Stack::of(address)?;
    let mut bound = listen(address, options)?;
    if let Some(stack) = stack {
        bound = bound.into_iter().map(|bound| bound.under(address, &stack)).collect();
    }
    Ok(bound)
}

/// Listening sockets that are accepted from as one.
///
/// Everything from any number of threads at any time. Dropping closes.
///
/// ```
/// use std::time::{Duration, Instant};
/// use qio::{ChannelExt, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
/// for address in listener.local_addresses() {
///     println!("listening on {address}");
/// }
/// # let first = &listener.local_addresses()[0];
/// # let client = net::connect(first, &net::ConnectOptions::new())?;
/// let client_in_time = listener.accept(Some(Instant::now() + Duration::from_secs(5)))?;
/// println!("{} has come", client_in_time.peer);
/// client_in_time.channel.write_all(b"welcome")?;
/// // Who comes now is refused; the client that was accepted stays.
/// listener.close()?;
/// client_in_time.channel.finish_all(None)?;
/// # let mut text = [0; 7];
/// # client.read_exact(&mut text)?;
/// # assert_eq!(&text, b"welcome");
/// # Ok(())
/// # }
/// ```
///
/// It listens until it is [closed](Listener::close), and again when it is
/// [reopened](Listener::reopen). While it is [paused](Listener::pause) it accepts nobody, and
/// clients wait in the backlog. Sockets can be [added](Listener::add) all the time.
///
/// QEMU's `QIONetListener`.
#[doc(alias = "QIONetListener")]
#[derive(Debug)]
pub struct Listener {
    options: ListenOptions,
    state: RwLock<State>,
    /// How many clients may be there at a time, if that is limited.
    slots: Option<Arc<Slots>>,
    /// Whose turn it is: with one busy socket, the others are served, too.
    turn: AtomicUsize,
    /// How often a socket was left untried although it may have a client, and up to which of these
    /// times all were tried since. An edge-triggered loop is to look again while they differ.
    misses: AtomicU64,
    made_good: AtomicU64,
    refused: AtomicU64,
    pub(super) backoff: Backoff,
    /// Clients in the handshakes of layers.
    pool: Mutex<Pool>,
    /// Whether an address has, or had, layers.
    has_layers: AtomicBool,
}

/// A client that was accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection, in blocking mode and named after the peer.
    pub channel: Arc<dyn Channel>,
    /// Who it is: `tcp://127.0.0.1:51234`, or `unix:/run/x.sock (process 17, user 1000)`.
    pub peer: String,
    /// The same as data.
    pub who: Peer,
    /// The layers whose handshakes come first.
    pub(super) stack: Option<Arc<Stack>>,
}

/// Making listeners.
impl Listener {
    /// A listener without any socket yet: nobody comes until some are [added](Listener::add).
    ///
    /// ```
    /// use qio::net::{ListenOptions, Listener};
    ///
    /// # fn main() -> qio::Result<()> {
    /// let listener = Listener::new(&ListenOptions::new());
    /// listener.add(&"listen:tcp://127.0.0.1:0".parse()?)?;
    /// listener.add(&"listen:unix:@qio-example-of-two".parse()?)?;
    /// assert_eq!(listener.local_addresses().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "qio_net_listener_new")]
    pub fn new(options: &ListenOptions) -> Self {
        Self {
            options: options.clone(),
            state: RwLock::new(State::new()),
            slots: options.max_connections.map(Slots::new),
            turn: AtomicUsize::new(0),
            misses: AtomicU64::new(0),
            made_good: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            backoff: Backoff::default(),
            pool: Mutex::new(Pool::new(options.max_pending, options.handshake_timeout)),
            has_layers: AtomicBool::new(false),
        }
    }

    /// Listens on a further address, with the options of this listener. Who waits for a client
    /// waits for those that come there, too.
    ///
    /// # Errors
    ///
    /// As [`listen`]; `Open` when the listener is closed.
    #[doc(alias = "qio_net_listener_open_sync")]
    pub fn add(&self, address: &Address) -> Result<()> {
        let bound = open(address, &self.options)?;
        let mut state = self.write();
        if state.phase == Phase::Closed {
            drop(state);
            let _ = close_all(&bound.into_iter().map(Arc::new).collect::<Vec<_>>());
            let error = self.not_listening();
            return Err(Error::new(Class::Open, "listen", address).because(error));
        }
        if !address.layers().is_empty() {
            self.has_layers.store(true, Ordering::Release);
        }
        let source = reopening(address, &bound);
        state.join(address.to_string(), bound.into_iter().map(Arc::new), [source]);
        Ok(())
    }

    /// Listens with a further socket that listens already, whatever its backlog. Who waits for a
    /// client waits for those that come there, too.
    ///
    /// The socket is made non-blocking and close-on-exec. It may be shared with other processes:
    /// closing this listener does not end their listening.
    ///
    /// ```
    /// use qio::net::{ListenOptions, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::new(&ListenOptions::new());
    /// let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// listener.add_fd(socket.into()).map_err(|(error, _fd)| error)?;
    /// // What does not listen is given back as it was.
    /// let (error, _fd) = listener.add_fd(std::fs::File::open("/dev/null")?.into()).unwrap_err();
    /// assert_eq!(error.to_string(), "the descriptor is not a socket");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// With the descriptor given back untouched: `InvalidInput` when it is no socket that
    /// listens, `NotConnected` when the listener is closed.
    #[doc(alias = "qio_net_listener_add")]
    pub fn add_fd(&self, fd: OwnedFd) -> std::result::Result<(), (io::Error, OwnedFd)> {
        let kind = match listening_kind(&fd) {
            Ok(kind) => kind,
            Err(error) => return Err((error, fd)),
        };
        let mut state = self.write();
        if state.phase == Phase::Closed {
            drop(state);
            return Err((self.not_listening(), fd));
        }
        let prepared = rustix::io::ioctl_fionbio(&fd, true)
            .and_then(|()| rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC));
        if let Err(error) = prepared {
            return Err((error.into(), fd));
        }
        let bound = Bound::adopted(fd, kind);
        let name = bound.address.to_string();
        state.join(format!("listen:{name}"), [Arc::new(bound)], []);
        Ok(())
    }

    /// Takes the sockets over from another listener, which is closed without any of them being
    /// closed: clients that wait in their backlogs are accepted here, with the options of this
    /// listener.
    ///
    /// ```
    /// use qio::net::{self, ListenOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let all = net::listen(&"listen:tcp://:0".parse()?, &ListenOptions::new())?;
    /// let late = net::listen(&"listen:unix:@qio-example-of-merging".parse()?, &ListenOptions::new())?;
    /// all.merge(&late)?;
    /// assert_eq!(all.local_addresses().len(), 2);
    /// assert!(!late.is_listening());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `NotConnected` when either is closed; `InvalidInput` for itself. Nothing has changed then.
    pub fn merge(&self, other: &Self) -> io::Result<()> {
        if std::ptr::eq(self, other) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("{self}: a listener cannot be merged with itself"),
            ));
        }
        // Never both locks at a time: the other one may be merging with this one.
        if self.is_closed() {
            return Err(self.not_listening());
        }
        let mut state = other.write();
        if state.phase == Phase::Closed {
            drop(state);
            return Err(other.not_listening());
        }
        let sockets = std::mem::replace(&mut state.sockets, Arc::new([]));
        let sources = std::mem::take(&mut state.sources);
        let name = state.name.clone();
        state.close();
        drop(state);
        let mut state = self.write();
        if state.phase == Phase::Closed {
            // Closed in this very moment: so are the sockets that it would have had.
            drop(state);
            let _ = close_all(&sockets);
            return Err(self.not_listening());
        }
        if sockets.iter().any(|bound| bound.stack.is_some()) {
            self.has_layers.store(true, Ordering::Release);
        }
        state.join(name, sockets.iter().cloned(), sources);
        Ok(())
    }

    /// Sets what the names of channels accepted from now on start with, before the peer:
    /// `vnc tcp://192.0.2.1:51234`. Names appear in errors and events.
    #[doc(alias = "qio_net_listener_set_name")]
    pub fn set_name(&self, name: &str) {
        self.write().prefix = Some(name.into());
    }
}

/// Accepting.
impl Listener {
    /// The addresses that clients connect to, with the port that was really bound, and with the
    /// layers and what a client has to say of them.
    #[doc(alias = "qio_channel_socket_get_local_address")]
    #[doc(alias = "qio_net_listener_get_local_address")]
    #[doc(alias = "qio_net_listener_nsioc")]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.read().sockets.iter().map(|bound| Address::clone(&bound.reach)).collect()
    }

    /// Whether every client will have an IP address, which a check of
    /// [networks](super::Admit::networks) is made for: all sockets are TCP or UDP sockets.
    pub fn is_ip(&self) -> bool {
        self.read().sockets.iter().all(|bound| bound.is_ip())
    }

    /// Whether every client will have credentials, which a check of
    /// [users](super::Admit::users) is made for: all sockets are Unix sockets.
    pub fn is_unix(&self) -> bool {
        self.read().sockets.iter().all(|bound| bound.family == AddressFamily::UNIX)
    }

    /// How many clients were refused by [`ListenOptions::admit`] so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Accepts a client that is there already.
    ///
    /// A client that was gone before it could be accepted is not reported, nor is one that is
    /// refused: the next one is taken. Where an address has layers, a client is there when it has
    /// got through its handshakes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nobody is there, or nobody may come in: paused, or full
    /// ([`ListenOptions::max_connections`]). `NotConnected` once closed. `EMFILE` and `ENFILE`
    /// ([`is_descriptor_limit`]) mean that a client waits for which there is no descriptor: the
    /// listener stays readable, so the caller has to stop asking until some other one is closed.
    pub fn try_accept(&self) -> io::Result<Accepted> {
        if self.has_layers.load(Ordering::Acquire) {
            return match self.accepting().step(Instant::now()) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            };
        }
        match self.try_place()? {
            Some(place) => self.take().map(|accepted| accepted.holding(place)),
            None => self.take(),
        }
    }

    /// The handshakes of clients, if there are layers.
    pub(super) fn pool(&self) -> Option<MutexGuard<'_, Pool>> {
        let has_layers = self.has_layers.load(Ordering::Acquire);
        has_layers.then(|| self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for a client, if there is a limit; would-blocks when all are taken.
    pub(super) fn try_place(&self) -> io::Result<Option<Place>> {
        let Some(slots) = &self.slots else { return Ok(None) };
        if let Some(place) = slots.take() {
            return Ok(Some(place));
        }
        self.miss();
        Err(if self.is_closed() { self.not_listening() } else { ErrorKind::WouldBlock.into() })
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.is_full())
    }

    /// Accepts a client without asking for a place.
    pub(super) fn take(&self) -> io::Result<Accepted> {
        let misses = self.misses.load(Ordering::Acquire);
        let state = self.read();
        let sockets = match state.phase {
            Phase::Listening => Arc::clone(&state.sockets),
            Phase::Paused => {
                self.miss();
                return Err(ErrorKind::WouldBlock.into());
            }
            Phase::Closed => return Err(not_listening(&state)),
        };
        let prefix = state.prefix.clone();
        drop(state);
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut refusals_left = REFUSALS_AT_ONCE;
        for offset in 0..sockets.len() {
            let bound = &sockets[(first.wrapping_add(offset)) % sockets.len()];
            loop {
                let (arrival, who) = match bound.accept() {
                    Ok(client) => client,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) if self.is_closed() => return Err(self.not_listening()),
                    // Closed, and replaced since: the new ones have not been tried.
                    Err(_) if bound.slot.is_empty() => {
                        self.miss();
                        break;
                    }
                    // The kernel looks for a descriptor first, and for a client then.
                    Err(error) if is_descriptor_limit(&error) && !bound.has_client() => break,
                    Err(error) => {
                        event!(warn, listener = %self, %error, "a client cannot be accepted");
                        return Err(error);
                    }
                };
                if let Some(Verdict::Refuse(reason)) =
                    self.options.admit.as_ref().map(|admit| admit.check(&who))
                {
                    drop(arrival);
                    self.refuse(&who, &reason);
                    refusals_left -= 1;
                    if refusals_left == 0 {
                        // Others have their turn; whoever waits comes back at once.
                        self.miss();
                        return Err(ErrorKind::WouldBlock.into());
                    }
                    continue;
                }
                let accepted = bound.welcome(arrival, who, prefix.as_deref());
                event!(debug, listener = %self, peer = %accepted.peer, "accepted");
                return Ok(accepted);
            }
        }
        if self.is_closed() {
            return Err(self.not_listening());
        }
        self.made_good.fetch_max(misses, Ordering::AcqRel);
        Err(ErrorKind::WouldBlock.into())
    }

    fn refuse(&self, peer: &Peer, reason: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        event!(info, listener = %self, %peer, reason, "refused");
        self.tell(&ListenEvent::Refused { peer, reason });
    }

    /// A socket is left untried that may have a client.
    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether nothing was left untried.
    pub(super) fn tried_all(&self) -> bool {
        self.made_good.load(Ordering::Acquire) >= self.misses.load(Ordering::Acquire)
    }

    /// Adds what to poll for clients: nothing that a client could wake while it is paused or full.
    pub fn watch(&self, set: &mut PollSet) {
        match self.pool() {
            Some(mut pool) => pool.watch(self, &mut Driver::default(), set),
            None => self.watch_sockets(self.is_full(), set),
        }
    }

    /// Adds what to poll for new clients, who are of no interest while `is_full`.
    pub(super) fn watch_sockets(&self, is_full: bool, set: &mut PollSet) {
        if !self.watch_life(set) {
            return;
        }
        if is_full {
            return self.watch_places(set);
        }
        for bound in &*self.read().sockets {
            if let Some(fd) = bound.slot.share() {
                set.add(&fd, Interest::READ, Interest::READ);
            }
            if bound.has_waiting() {
                set.wake_at(Instant::now());
            }
        }
        if !self.tried_all() {
            set.wake_at(Instant::now());
        }
    }

    /// Adds what wakes when a place is free.
    pub(super) fn watch_places(&self, set: &mut PollSet) {
        match &self.slots {
            Some(slots) => slots.watch(set),
            None => set.wake_at(Instant::now()),
        }
    }

    /// Adds what changes of the listener itself wake; says whether clients are of interest.
    pub(super) fn watch_life(&self, set: &mut PollSet) -> bool {
        let state = self.read();
        match state.phase {
            Phase::Closed => set.wake_at(Instant::now()),
            Phase::Listening | Phase::Paused => state.change.watch(Interest::READ, set),
        }
        state.phase == Phase::Listening
    }

    /// Waits for a client. While it is paused, full or starved, that is waited for, too.
    ///
    /// # Errors
    ///
    /// `TimedOut` when `until` passes, or what accepting reports if it is
    /// [starved](Listener::is_starved) then; `NotConnected` once closed.
    #[doc(alias = "qio_channel_socket_accept")]
    #[doc(alias = "qio_net_listener_wait_client")]
    pub fn accept(&self, until: Option<Instant>) -> io::Result<Accepted> {
        match crate::watch::run(self.accepting(), until)? {
            std::ops::ControlFlow::Break(result) => result,
            std::ops::ControlFlow::Continue(_) => Err(self.backoff.error().unwrap_or_else(|| {
                let text = format!("{self}: no client came in time");
                io::Error::new(ErrorKind::TimedOut, text)
            })),
        }
    }

    /// The accepting of one client, for event loops.
    #[doc(alias = "qio_net_listener_set_client_func")]
    #[doc(alias = "qio_net_listener_set_client_func_full")]
    #[doc(alias = "qio_net_listener_set_client_aio_func")]
    pub fn accepting(&self) -> Accepting<'_> {
        Accepting::new(self)
    }

    /// Whether clients wait and cannot be accepted for want of descriptors or memory:
    /// [`accepting`](Listener::accepting) tries again after a while.
    pub fn is_starved(&self) -> bool {
        self.backoff.error().is_some()
    }

    pub(super) fn tell(&self, event: &ListenEvent<'_>) {
        if let Some(observer) = &self.options.observer {
            observer.tell(event);
        }
    }
}

/// How many clients are refused before others get their turn.
const REFUSALS_AT_ONCE: u32 = 32;

/// The address to listen on again: any port is the one that was chosen.
fn reopening(address: &Address, bound: &[Bound]) -> Address {
    let chosen = bound.first().and_then(|bound| bound.address.port());
    match (address.port(), chosen) {
        (None | Some(0), Some(port)) => address.clone().with_port(port),
        _ => address.clone(),
    }
}

impl Accepted {
    /// The same, with a place that is given back when the channel is closed.
    pub(super) fn holding(mut self, place: Place) -> Self {
        self.channel = Held::channel(self.channel, place);
        self
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody is left to be told; a result that matters is asked for with `close`.
        let _ = self.close();
    }
}

/// Whether an error says that the process (`EMFILE`) or the system (`ENFILE`) is at its limit of
/// open files.
pub fn is_descriptor_limit(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.read().name)
    }
}
