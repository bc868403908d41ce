//! From names to addresses.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::Poll;
use std::time::Instant;

use qio_os::{LookupError, LookupHints};

use crate::crew::Crew;
use crate::error::{Class, Error, Result};
use crate::task::Task;
use crate::watch::{PollSet, Steps};

/// What to look up: a host, a service, and which answers are wanted.
///
/// ```
/// use qio::net::{Family, Lookup};
///
/// let lookup = Lookup::new("localhost", "80").family(Family::V4);
/// assert_eq!(lookup.service, "80");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lookup {
    /// A name, or a numeric address without brackets.
    pub host: String,
    /// A port number, or the name of a service (`/etc/services`).
    pub service: String,
    /// Which addresses are wanted.
    pub family: Family,
    /// No name is looked up: host and service must be numbers.
    pub numeric: bool,
    /// The addresses are to be bound to.
    pub passive: bool,
    /// The service is one of UDP instead of TCP.
    pub datagram: bool,
}

/// Which addresses of a host are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the internet protocol has two versions in use")]
pub enum Family {
    /// Of both families.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The resolving of a host and service to all addresses, in the order in which to try them.
///
/// A numeric address with a numeric port is ready at the first step. Anything else goes through
/// getaddrinfo(3), which knows `/etc/hosts` and whatever else the system is configured for
/// (nsswitch.conf(5)), in one of at most 32 threads; when all wait for name servers, it stands in a
/// line. Dropping it throws the answer away.
///
/// The error is of [`Class::Resolve`] and has the name as its subject.
///
/// QEMU's `QIODNSResolver`.
#[doc(alias = "qio_dns_resolver_lookup_async")]
#[derive(Debug)]
pub struct Resolve {
    lookup: Lookup,
    state: State,
}

#[derive(Debug)]
enum State {
    Known(SocketAddr),
    Asking(Task<std::result::Result<VecDeque<SocketAddr>, LookupError>>),
    /// No thread could be had.
    Failed(Option<io::Error>),
}

/// A getaddrinfo(3) that waits for a name server cannot be interrupted: without a bound, clients that
/// come and go would leave a thread each behind. 32 let a slow name stand in few others' way.
static CREW: Crew = Crew::new("qio resolver", 32);

impl Lookup {
    /// All addresses of `host` for TCP, to connect to.
    pub fn new(host: impl Into<String>, service: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            service: service.into(),
            family: Family::Any,
            numeric: false,
            passive: false,
            datagram: false,
        }
    }

    /// Sets [`family`](Lookup::family).
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Sets [`numeric`](Lookup::numeric).
    #[must_use]
    pub fn numeric(mut self, numeric: bool) -> Self {
        self.numeric = numeric;
        self
    }

    /// Sets [`passive`](Lookup::passive).
    #[must_use]
    pub fn passive(mut self, passive: bool) -> Self {
        self.passive = passive;
        self
    }

    /// Sets [`datagram`](Lookup::datagram).
    #[must_use]
    pub fn datagram(mut self, datagram: bool) -> Self {
        self.datagram = datagram;
        self
    }

    /// The answer, when it takes no asking.
    fn known(&self) -> Option<SocketAddr> {
        let port = u16::try_from(super::address::parse_count(&self.service)?).ok()?;
        let known = numeric(&self.host, port)?;
        self.family.has(known).then_some(known)
    }

    /// Blocks until there is an answer.
    fn ask(&self) -> std::result::Result<VecDeque<SocketAddr>, LookupError> {
        let mut hints = LookupHints::new();
        hints.v4 = match self.family {
            Family::Any => None,
            Family::V4 => Some(true),
            Family::V6 => Some(false),
        };
        hints.numeric = self.numeric;
        hints.passive = self.passive;
        hints.datagram = self.datagram;
        qio_os::lookup(&self.host, &self.service, hints).map(unique)
    }
}

impl Family {
    fn has(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl Resolve {
    /// Starts to look up.
    pub fn new(lookup: Lookup) -> Self {
        let state = match lookup.known() {
            Some(known) => State::Known(known),
            None => {
                let job = lookup.clone();
                match Task::queue(&CREW, move || job.ask()) {
                    Ok(task) => State::Asking(task),
                    Err(error) => State::Failed(Some(error)),
                }
            }
        };
        Self { lookup, state }
    }

    fn failed(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(Class::Resolve, "resolve", &self.lookup.host).because(cause)
    }

    fn refused(&self, cause: LookupError) -> Error {
        if cause.is_service() {
            let transport = if self.lookup.datagram { "UDP" } else { "TCP" };
            let text = format!("{transport} has no service {:?}", self.lookup.service);
            return self.failed(text).hint("the names are in /etc/services");
        }
        self.failed(cause)
    }
}

impl Steps for Resolve {
    type Output = Result<VecDeque<SocketAddr>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.state {
            State::Known(known) => Ok(VecDeque::from([*known])),
            State::Failed(error) => {
                let error = error.take().unwrap_or_else(|| io::ErrorKind::Other.into());
                Err(self.failed(error))
            }
            State::Asking(task) => match task.step(now) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(found))) if found.is_empty() => {
                    Err(self.failed("there are no addresses"))
                }
                Poll::Ready(Ok(Ok(found))) => Ok(found),
                Poll::Ready(Ok(Err(error))) => Err(self.refused(error)),
                Poll::Ready(Err(panicked)) => Err(self.failed(panicked)),
            },
        })
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.state {
            State::Asking(task) => task.watch(set),
            State::Known(_) | State::Failed(_) => set.wake_at(Instant::now()),
        }
    }
}

/// A numeric address, also with a numeric scope (`fe80::1%2`).
fn numeric(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (ip, scope) = host.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let scope = super::address::parse_count(scope)?.try_into().ok()?;
    Some(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// The same addresses, each once: `/etc/hosts` may name one in several lines.
fn unique(found: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let mut addresses = VecDeque::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push_back(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_thread() {
        for host in ["127.0.0.1", "::1", "fe80::1%1"] {
            let mut resolve = Resolve::new(Lookup::new(host, "7"));
            assert!(matches!(resolve.state, State::Known(_)), "{host}");
            let Poll::Ready(Ok(found)) = resolve.step(Instant::now()) else { panic!("{host}") };
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].port(), 7);
        }
    }

    #[test]
    fn every_address_is_kept_once_and_in_order() {
        let [a, b]: [SocketAddr; 2] = ["[::1]:1", "127.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(unique(vec![a, b, a, b]), [a, b]);
    }
}
