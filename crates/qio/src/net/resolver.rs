//! From names to addresses.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::task::Poll;
use std::time::Instant;

use crate::error::{Class, Error, Result};
use crate::task::Task;
use crate::watch::{PollSet, Steps};

/// The resolving of a host and port to all its addresses, in the order in which to try them.
///
/// A numeric address is ready at the first step. A name goes through getaddrinfo(3), which knows
/// `/etc/hosts` and whatever else the system is configured for, in a thread of its own. Dropping
/// it throws the answer away.
///
/// The error is of [`Class::Resolve`] and has the name as its subject.
///
/// QEMU's `QIODNSResolver`.
#[doc(alias = "qio_dns_resolver_lookup_async")]
#[derive(Debug)]
pub struct Resolve {
    host: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Known(SocketAddr),
    Asking(Task<io::Result<VecDeque<SocketAddr>>>),
    /// No thread could be had.
    Failed(Option<io::Error>),
}

impl Resolve {
    /// Starts to resolve `host`: a name, or a numeric address without brackets.
    pub fn new(host: &str, port: u16) -> Self {
        let state = match numeric(host, port) {
            Some(known) => State::Known(known),
            None => {
                let name = host.to_owned();
                let job = move || (name.as_str(), port).to_socket_addrs().map(unique);
                match Task::spawn("qio resolver", job) {
                    Ok(task) => State::Asking(task),
                    Err(error) => State::Failed(Some(error)),
                }
            }
        };
        Self { host: host.to_owned(), state }
    }

    fn failed(&self, cause: &io::Error) -> Error {
        // std wraps what getaddrinfo says: "failed to lookup address information: Name or …".
        let text = cause.to_string();
        let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
        let cause = io::Error::new(cause.kind(), text);
        Error::new(Class::Resolve, "resolve", &self.host).because(cause)
    }
}

impl Steps for Resolve {
    type Output = Result<VecDeque<SocketAddr>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let answer = match &mut self.state {
            State::Known(known) => return Poll::Ready(Ok(VecDeque::from([*known]))),
            State::Failed(error) => {
                Err(error.take().unwrap_or_else(|| io::ErrorKind::Other.into()))
            }
            State::Asking(task) => match task.step(now) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(answer)) => answer,
                Poll::Ready(Err(panicked)) => Err(io::Error::other(panicked)),
            },
        };
        Poll::Ready(match answer {
            Ok(found) if found.is_empty() => Err(self.failed(&io::Error::other("no addresses"))),
            Ok(found) => Ok(found),
            Err(error) => Err(self.failed(&error)),
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
fn unique(found: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
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
            let mut resolve = Resolve::new(host, 7);
            assert!(matches!(resolve.state, State::Known(_)), "{host}");
            let Poll::Ready(Ok(found)) = resolve.step(Instant::now()) else { panic!("{host}") };
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].port(), 7);
        }
    }

    #[test]
    fn every_address_is_kept_once_and_in_order() {
        let [a, b]: [SocketAddr; 2] = ["[::1]:1", "127.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(unique([a, b, a, b].into_iter()), [a, b]);
    }
}
