//! Connecting a TCP socket to the first address of a host that answers.
//!
//! Addresses are called as Happy Eyeballs (RFC 8305) has it: families in turn, one call after the
//! other without waiting for the answer for long, and the first that answers is taken. A path that
//! swallows everything, as IPv6 often was, costs a quarter of a second instead of minutes.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::call::Call;
use super::connect::OpeningSteps;
use super::observe::{ConnectEvent, ConnectObserver};
use super::resolver::{Lookup, Resolve};
use super::socket_setup::is_failed_option;
use super::tcp_socket::TcpSocket;
use crate::channel::Channel;
use crate::error::{Class, Error, Result, plain};
use crate::watch::{PollSet, Steps};

/// How long an address is given before the next one is called beside it, unless it fails earlier:
/// the value that RFC 8305 recommends (section 8).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why there is nothing to connect to.
pub(crate) const NO_FAMILY: &str = "no address of the host is of the family of option \"bind\"";

/// How many addresses are called at once. The ninth has its turn two seconds after the first at the
/// earliest: by then the first has had a SYN and its retransmission (1 s), and gives way if need
/// be. Each attempt is a descriptor, and a leg of the wait.
const MAX_ATTEMPTS: usize = 8;

/// The connecting of a TCP socket: the name, then its addresses.
pub(crate) struct Dial {
    address: String,
    socket: TcpSocket,
    deadline: Option<Instant>,
    /// The local end to connect from.
    local: Local,
    resolving: Option<Resolve>,
    /// Not tried yet.
    waiting: VecDeque<SocketAddr>,
    /// Called, and not answered yet; the oldest first.
    attempts: Vec<Attempt>,
    /// When the next address has its turn although none has failed.
    next: Option<Instant>,
    /// How many addresses were tried.
    tried: usize,
    failures: Vec<Failure>,
    observer: Option<ConnectObserver>,
}

/// The local end to connect from.
pub(crate) enum Local {
    /// The kernel chooses.
    Any,
    Resolving(Resolve),
    Known(VecDeque<SocketAddr>),
}

/// One address that was called and has not answered yet.
struct Attempt {
    peer: SocketAddr,
    /// The how-manieth it is.
    number: usize,
    call: Call,
    /// When it gives way to an address for which there is no room beside it.
    until: Option<Instant>,
}

/// What became of one address.
#[derive(Debug)]
struct Failure {
    number: usize,
    peer: SocketAddr,
    cause: io::Error,
}

/// What became of each address, in the order in which they were tried.
#[derive(Debug)]
struct Failures(Vec<Failure>);

impl Dial {
    pub(crate) fn new(
        address: &str,
        remote: Lookup,
        local: Option<Lookup>,
        socket: TcpSocket,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            address: address.to_owned(),
            socket,
            deadline,
            local: Local::new(local),
            resolving: Some(Resolve::new(remote)),
            waiting: VecDeque::new(),
            attempts: Vec::new(),
            next: None,
            tried: 0,
            failures: Vec::new(),
            observer: None,
        }
    }

    /// Has somebody told how it goes on.
    pub(crate) fn observed_by(mut self, observer: Option<&ConnectObserver>) -> Self {
        self.observer = observer.cloned();
        self
    }

    fn tell(&self, event: &ConnectEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer.tell(event);
        }
    }

    /// Both names, one after the other; their threads run side by side.
    fn resolve(&mut self, now: Instant) -> Poll<Result<()>> {
        if let Err(error) = std::task::ready!(self.local.resolve(now)) {
            return Poll::Ready(Err(self.unresolved(error)));
        }
        if let Some(resolving) = &mut self.resolving {
            let found = match std::task::ready!(resolving.step(now)) {
                Ok(found) => found,
                Err(error) => return Poll::Ready(Err(self.unresolved(error))),
            };
            self.resolving = None;
            self.waiting = interleaved(found);
            self.waiting.retain(|peer| self.local.has(*peer));
            self.waiting.make_contiguous();
            self.tell(&ConnectEvent::Resolved { addresses: self.waiting.as_slices().0 });
            if self.waiting.is_empty() {
                let text = NO_FAMILY;
                let error = Error::new(Class::Open, "connect", &self.address).because(text);
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn unresolved(&self, error: Error) -> Error {
        Error::new(error.class(), "connect", &self.address).because(error)
    }

    /// Calls an address.
    fn start(&mut self, peer: SocketAddr, now: Instant) -> io::Result<()> {
        let fd = self.socket.make(family(peer))?;
        if let Some(local) = self.local.of(peer) {
            bind(&fd, local)?;
        }
        let call = Call::start(fd.into(), &peer)?;
        // However short the deadline is, an address that does not answer leaves time for those
        // behind it.
        let shares = u32::try_from(self.waiting.len() + 1).unwrap_or(u32::MAX);
        let share = self.deadline.map(|deadline| deadline.saturating_duration_since(now) / shares);
        let delay = share.map_or(CONNECTION_ATTEMPT_DELAY, |it| it.min(CONNECTION_ATTEMPT_DELAY));
        self.next = Some(now + delay);
        let until = share.map(|share| now + share);
        let number = self.tried;
        self.attempts.push(Attempt { peer, number, call, until });
        Ok(())
    }

    /// Asks every address that was called; the first that has answered is connected.
    fn answer(&mut self) -> Option<Attempt> {
        let mut index = 0;
        while let Some(attempt) = self.attempts.get(index) {
            match attempt.outcome() {
                None => index += 1,
                Some(Ok(())) => return Some(self.attempts.remove(index)),
                Some(Err(error)) => self.give_up(index, error),
            }
        }
        None
    }

    /// Lets go of an address; the next one has its turn at once.
    fn give_up(&mut self, index: usize, cause: io::Error) {
        let Attempt { peer, number, .. } = self.attempts.remove(index);
        self.fail(number, peer, cause);
    }

    fn fail(&mut self, number: usize, peer: SocketAddr, cause: io::Error) {
        event!(debug, address = %self.address, %peer, error = %cause, "no connection");
        self.tell(&ConnectEvent::NotReached { peer, error: &cause });
        self.failures.push(Failure { number, peer, cause });
        self.next = None;
    }

    /// Whether an address can be called beside those that were.
    fn has_room(&self) -> bool {
        // A port that is asked for cannot be had twice.
        let most = if self.local.is_port() { 1 } else { MAX_ATTEMPTS };
        self.attempts.len() < most
    }

    /// The error when every address has failed.
    fn verdict(&mut self, kind: Option<io::ErrorKind>) -> Error {
        let mut failures = std::mem::take(&mut self.failures);
        if failures.len() == 1
            && let Some(failure) = failures.pop()
        {
            return Error::os("connect", &self.address, failure.cause);
        }
        // The class and the hint are those of the last one, as if it had been the only one.
        let last = failures.last().map_or(io::ErrorKind::Other, |failure| failure.cause.kind());
        failures.sort_by_key(|failure| failure.number);
        let cause = io::Error::new(kind.unwrap_or(last), Failures(failures));
        Error::os("connect", &self.address, cause)
    }
}

impl Steps for Dial {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if let Err(error) = std::task::ready!(self.resolve(now)) {
            return Poll::Ready(Err(error));
        }
        let failed_before = self.failures.len();
        loop {
            if let Some(mut attempt) = self.answer() {
                // The others are left at once.
                self.attempts.clear();
                event!(debug, address = %self.address, peer = %attempt.peer, "connected");
                let socket = attempt.call.connected(family(attempt.peer));
                return Poll::Ready(
                    socket.map_err(|error| Error::os("connect", &self.address, error)),
                );
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) && self.tried > 1 {
                // With one address, this is left to the caller and its text.
                while !self.attempts.is_empty() {
                    self.give_up(0, timed_out());
                }
                return Poll::Ready(Err(self.verdict(Some(io::ErrorKind::TimedOut))));
            }
            if self.waiting.is_empty() {
                if self.attempts.is_empty() {
                    return Poll::Ready(Err(self.verdict(None)));
                }
                return Poll::Pending;
            }
            if !self.attempts.is_empty() && self.next.is_some_and(|next| next > now) {
                return Poll::Pending;
            }
            if !self.has_room() {
                if self.attempts[0].until.is_none_or(|until| until > now) {
                    return Poll::Pending;
                }
                self.give_up(0, timed_out());
            }
            if self.local.is_port() && self.failures.len() > failed_before {
                // The wait still owns the socket that failed, which has the port until then.
                return Poll::Pending;
            }
            let Some(peer) = self.waiting.pop_front() else { continue };
            event!(debug, address = %self.address, %peer, "connecting");
            self.tell(&ConnectEvent::Calling { peer });
            match self.start(peer, now) {
                Ok(()) => self.tried += 1,
                Err(error) if is_scarcity(&error) && !self.attempts.is_empty() => {
                    // Those that were called may answer, and leave something when they fail.
                    self.waiting.push_front(peer);
                    self.next = None;
                    return Poll::Pending;
                }
                Err(error) => {
                    if is_scarcity(&error) || is_failed_option(&error) {
                        self.waiting.clear();
                    }
                    self.fail(self.tried, peer, error);
                    self.tried += 1;
                }
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        if let Local::Resolving(resolving) = &mut self.local {
            return resolving.watch(set);
        }
        if let Some(resolving) = &mut self.resolving {
            return resolving.watch(set);
        }
        for attempt in &self.attempts {
            attempt.call.watch(set);
        }
        if self.waiting.is_empty() {
            return;
        }
        let next = match self.attempts.first() {
            None => Some(Instant::now()),
            Some(_) if self.has_room() => self.next,
            Some(oldest) => oldest.until,
        };
        if let Some(next) = next {
            set.wake_at(next);
        }
    }
}

impl OpeningSteps for Dial {
    fn missing(&self) -> &'static str {
        match (&self.local, &self.resolving) {
            (Local::Resolving(_), _) => "the name of option \"bind\" was not resolved",
            (_, Some(_)) => "the name was not resolved",
            _ => "no answer",
        }
    }
}

impl Local {
    pub(crate) fn new(lookup: Option<Lookup>) -> Self {
        lookup.map_or(Self::Any, |lookup| Self::Resolving(Resolve::new(lookup)))
    }

    pub(crate) fn resolve(&mut self, now: Instant) -> Poll<Result<()>> {
        if let Self::Resolving(resolving) = self {
            *self = Self::Known(std::task::ready!(resolving.step(now))?);
        }
        Poll::Ready(Ok(()))
    }

    /// The local end from which `peer` can be reached.
    pub(crate) fn of(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let Self::Known(known) = self else { return None };
        known.iter().find(|local| local.is_ipv4() == peer.is_ipv4()).copied()
    }

    pub(crate) fn has(&self, peer: SocketAddr) -> bool {
        matches!(self, Self::Any) || self.of(peer).is_some()
    }

    /// Whether a certain port is asked for.
    fn is_port(&self) -> bool {
        matches!(self, Self::Known(known) if known.iter().any(|local| local.port() != 0))
    }
}

impl Attempt {
    /// Whether the peer has answered, and what.
    fn outcome(&self) -> Option<io::Result<()>> {
        match self.call.outcome() {
            Some(Ok(())) if self.is_talking_to_itself() => Some(Err(Errno::CONNREFUSED.into())),
            outcome => outcome,
        }
    }

    /// Whether the kernel has picked the port that was called as the local one: TCP then connects
    /// the socket to itself, although nothing listens there.
    fn is_talking_to_itself(&self) -> bool {
        let local = rustix::net::getsockname(self.call.descriptor());
        local.is_ok_and(|local| SocketAddr::try_from(local).is_ok_and(|local| local == self.peer))
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Failure { peer, cause, .. }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(out, "{separator}{peer}: {}", plain(cause))?;
        }
        Ok(())
    }
}

impl StdError for Failures {}

pub(crate) fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Families in turn, starting with that of the first address (RFC 8305, section 4, with a First
/// Address Family Count of 1); otherwise in the order in which they came (RFC 6724).
fn interleaved(found: VecDeque<SocketAddr>) -> VecDeque<SocketAddr> {
    let Some(first) = found.front().map(SocketAddr::is_ipv4) else { return found };
    let (one, other): (VecDeque<_>, VecDeque<_>) =
        found.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = VecDeque::new();
    loop {
        let before = turns.len();
        turns.extend(one.next());
        turns.extend(other.next());
        if turns.len() == before {
            return turns;
        }
    }
}

/// Binds a socket that is to be connected.
pub(crate) fn bind(fd: impl AsFd, local: SocketAddr) -> io::Result<()> {
    if local.port() == 0 {
        // Where it cannot be (Multipath TCP of old kernels), there are fewer ports, and no error.
        let _ = qio_os::bind_address_no_port(fd.as_fd());
    }
    rustix::net::bind(fd, &local).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("bind to {local}: {}", plain(&error)))
    })
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

/// Whether something is used up: the same would happen with every other address.
fn is_scarcity(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

#[cfg(test)]
mod tests;
