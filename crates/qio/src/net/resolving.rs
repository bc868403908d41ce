//! From an address with names to addresses with numbers.

use std::fmt;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use super::address::{Address, Refusal, Role};
use super::cancel::Cancel;
use super::inet::{FAMILY_OPTIONS, Inet};
use super::options::ConnectOptions;
use super::resolver::{Lookup, Resolve};
use crate::error::{Class, Error, Result};
use crate::watch::{PollSet, Steps, run};

/// Resolves `address` and waits for it: the same address once for each that the host has, with
/// numbers for host and port and with every option as it was given.
///
/// An address of any other kind (`unix:`, `fd:`, …) resolves to itself. Addresses to listen on are
/// resolved as [`listen`](super::listen) does it. Waits through the current
/// [`Waiter`](crate::watch::Waiter).
///
/// ```
/// use qio::net::{self, ConnectOptions};
///
/// # fn main() -> qio::Result<()> {
/// let address = "listen:tcp://:7001?ipv4&backlog=16".parse()?;
/// let found = net::resolve(&address, &ConnectOptions::new())?;
/// assert_eq!(found[0].to_string(), "listen:tcp://127.0.0.1:7001?ipv4&backlog=16");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// By [`Class`]: `Usage` for an address that makes no sense, `Resolve` for a name, `Timeout` after
/// [`ConnectOptions::timeout`], `Cancelled`.
#[doc(alias = "qio_dns_resolver_lookup_sync")]
pub fn resolve(address: &Address, options: &ConnectOptions) -> Result<Vec<Address>> {
    match run(Resolving::new(address, options), None) {
        Ok(ControlFlow::Break(result)) => result,
        // Without a deadline of its own, `run` goes on until there is a result.
        Ok(ControlFlow::Continue(_)) => Err(Error::timed_out("resolve", address)),
        Err(error) => Err(Error::new(Class::Io, "wait for the name of", address).because(error)),
    }
}

/// The resolving of an address, in steps; see [`resolve`].
///
/// The deadline counts from the making of it. Dropping it throws the answers away.
#[doc(alias = "qio_dns_resolver_lookup_async")]
#[doc(alias = "qio_dns_resolver_lookup_result")]
pub struct Resolving {
    address: Address,
    /// What was wrong with it.
    refused: Option<Error>,
    /// Not asked yet; the last one first.
    lookups: Vec<Lookup>,
    asking: Option<Resolve>,
    found: Vec<SocketAddr>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
}

impl Resolving {
    /// Starts to look up. What is wrong with the address comes out of the first step.
    pub fn new(address: &Address, options: &ConnectOptions) -> Self {
        let cancelled = options.cancel.as_ref().is_some_and(Cancel::is_triggered);
        let lookups = match address.check() {
            Ok(()) if cancelled => Ok(Vec::new()),
            Ok(()) => lookups(address),
            Err(refusal) => Err(refusal),
        };
        let (mut lookups, refused) = match lookups {
            Ok(lookups) => (lookups, None),
            Err(refusal) => (Vec::new(), Some(refusal.of("resolve", &address.to_string()))),
        };
        lookups.reverse();
        Self {
            address: address.clone(),
            refused,
            asking: lookups.pop().map(Resolve::new),
            lookups,
            found: Vec::new(),
            limit: options.timeout,
            // A time that no clock can show never comes.
            deadline: options.timeout.and_then(|limit| Instant::now().checked_add(limit)),
            cancel: options.cancel.clone(),
        }
    }

    fn try_finish(&mut self, now: Instant) -> Poll<Result<()>> {
        while let Some(asking) = &mut self.asking {
            match ready!(asking.step(now)) {
                Ok(found) => self.found.extend(found),
                Err(error) => {
                    let class = error.class();
                    let error = Error::new(class, "resolve", &self.address).because(error);
                    return Poll::Ready(Err(error));
                }
            }
            self.asking = self.lookups.pop().map(Resolve::new);
        }
        Poll::Ready(Ok(()))
    }
}

impl Steps for Resolving {
    type Output = Result<Vec<Address>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if let Some(refused) = self.refused.take() {
            return Poll::Ready(Err(refused));
        }
        if self.cancel.as_ref().is_some_and(Cancel::is_triggered) {
            let error = Error::new(Class::Cancelled, "resolve", &self.address);
            return Poll::Ready(Err(error.because("given up on request")));
        }
        match self.try_finish(now) {
            Poll::Pending if self.deadline.is_some_and(|deadline| deadline <= now) => {
                let limit = self.limit.unwrap_or_default();
                let error = Error::timed_out("resolve", &self.address);
                Poll::Ready(Err(error.hint(format!("no answer within {limit:?}"))))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if !is_inet(&self.address) => {
                Poll::Ready(Ok(vec![self.address.clone()]))
            }
            Poll::Ready(Ok(())) => {
                let found = self.found.drain(..);
                Poll::Ready(Ok(found.map(|found| numeric(&self.address, found)).collect()))
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.asking {
            Some(asking) => asking.watch(set),
            None => set.wake_at(Instant::now()),
        }
        if let Some(deadline) = self.deadline {
            set.wake_at(deadline);
        }
        if let Some(cancel) = &self.cancel {
            cancel.watch(set);
        }
    }
}

impl fmt::Debug for Resolving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolving")
            .field("address", &self.address)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Whether the target is a host and a port: then the host has families to choose from.
fn is_inet(address: &Address) -> bool {
    let family = FAMILY_OPTIONS[0].name;
    address.scheme().options.iter().any(|option| option.name == family)
}

fn lookups(address: &Address) -> std::result::Result<Vec<Lookup>, Refusal> {
    if !is_inet(address) {
        return Ok(Vec::new());
    }
    let inet = Inet::of(address)?;
    Ok(match address.role() {
        Role::Connect => vec![inet.lookup()],
        Role::Listen => inet.passive_lookups(),
    })
}

/// The same address with numbers.
fn numeric(address: &Address, found: SocketAddr) -> Address {
    let host = match found {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        found => found.ip().to_string(),
    };
    address.with_target(vec![host.into_bytes(), found.port().to_string().into_bytes()])
}
