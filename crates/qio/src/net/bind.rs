//! Listening TCP sockets on all addresses of a host.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, ipproto, sockopt};

use super::address::Address;
use super::cancel::Cancel;
use super::dial::family;
use super::listener::Bound;
use super::options::ListenOptions;
use super::port_owner;
use super::resolver::{Lookup, Resolve};
use super::tuning::Tuning;
use crate::error::{Class, Error, Result};
use crate::watch::{PollSet, Steps, waiter};

/// The addresses of a host, waited for.
pub(crate) fn resolve(
    text: &str,
    lookup: Lookup,
    options: &ListenOptions,
) -> Result<VecDeque<SocketAddr>> {
    let deadline = options.timeout.and_then(|limit| Instant::now().checked_add(limit));
    let mut resolve = Resolve::new(lookup);
    let mut set = PollSet::new();
    loop {
        let now = Instant::now();
        if options.cancel.as_ref().is_some_and(Cancel::is_triggered) {
            return Err(Error::new(Class::Cancelled, "listen", text).because("given up on request"));
        }
        if let Poll::Ready(result) = resolve.step(now) {
            return result
                .map_err(|error| Error::new(error.class(), "listen", text).because(error));
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            let error = Error::timed_out("listen", text);
            let limit = options.timeout.unwrap_or_default();
            return Err(error.hint(format!("the name was not resolved within {limit:?}")));
        }
        set.clear();
        resolve.watch(&mut set);
        if let Some(cancel) = &options.cancel {
            cancel.watch(&mut set);
        }
        waiter::park(&mut set, deadline)
            .map_err(|error| Error::new(Class::Io, "wait for the name of", text).because(error))?;
    }
}

/// Listens on every address, with one port for all of them.
///
/// An address that this machine does not have is left out as long as there is another.
pub(crate) fn all(
    text: &str,
    addresses: Vec<SocketAddr>,
    tuning: Tuning,
    backlog: u32,
) -> Result<Vec<Bound>> {
    let any_port = addresses.len() > 1 && addresses.iter().all(|address| address.port() == 0);
    // The port that is free for the first address may be taken for the second.
    let mut tries_left = if any_port { 32 } else { 1 };
    loop {
        tries_left -= 1;
        match try_all(&addresses, tuning, backlog) {
            Ok(bound) => return Ok(bound),
            Err((_, error)) if tries_left > 0 && is_in_use(&error) => {}
            Err((address, error)) => {
                let owner = if is_in_use(&error) { port_owner::of_tcp(address) } else { None };
                let error = Error::os("listen", text, error);
                return Err(match owner {
                    Some(owner) => error.hint(format!("{owner} listens there")),
                    None => error,
                });
            }
        }
    }
}

fn try_all(
    addresses: &[SocketAddr],
    tuning: Tuning,
    backlog: u32,
) -> std::result::Result<Vec<Bound>, (SocketAddr, io::Error)> {
    let mut bound = Vec::new();
    let mut port = 0;
    let mut skipped = None;
    for &address in addresses {
        let mut address = address;
        if address.port() == 0 {
            address.set_port(port);
        }
        match one(address, tuning, backlog) {
            Ok((fd, local)) => {
                port = local.port();
                bound.push(Bound::own(fd, family(address), Address::of_socket(local)));
            }
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if !bound.is_empty() => {}
            Err(error @ (Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {
                skipped = Some((address, error.into()));
            }
            Err(error) => return Err((address, error.into())),
        }
    }
    match skipped {
        Some(skipped) if bound.is_empty() => Err(skipped),
        _ => Ok(bound),
    }
}

fn one(
    address: SocketAddr,
    tuning: Tuning,
    backlog: u32,
) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let listen = |v6_only: Option<bool>| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(ipproto::TCP);
        let fd = rustix::net::socket_with(family(address), SocketType::STREAM, flags, protocol)?;
        // A restarted server need not wait until the old connections are forgotten.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if let Some(v6_only) = v6_only {
            sockopt::set_ipv6_v6only(&fd, v6_only)?;
        }
        tuning.apply(&fd)?;
        rustix::net::bind(&fd, &address)?;
        // With SO_REUSEADDR, that an address is in use may show only here.
        rustix::net::listen(&fd, backlog)?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
        Ok((fd, local))
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` is IPv4 too, but joins an IPv4 listener that is there already.
        return match listen(Some(false)) {
            Err(Errno::ADDRINUSE) => listen(Some(true)),
            result => result,
        };
    }
    listen(None)
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_port_is_the_same_port_on_every_address() {
        let addresses = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"];
        let addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
        let tuning = Tuning::of(&Address::tcp("", 0));
        let bound = all("listen:tcp://x:0", addresses, tuning, 1).unwrap();
        let ports: Vec<_> = bound.iter().map(|bound| bound.address().port().unwrap()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|&port| port == ports[0]), "{ports:?}");
    }

    #[test]
    fn an_address_that_is_not_here_is_left_out_while_there_is_another() {
        let tuning = Tuning::of(&Address::tcp("", 0));
        let here = "127.0.0.1:0".parse().unwrap();
        let elsewhere = "203.0.113.1:0".parse().unwrap();
        for addresses in [vec![here, elsewhere], vec![elsewhere, here]] {
            assert_eq!(all("x", addresses, tuning, 1).unwrap().len(), 1);
        }
        let error = all("listen:tcp://x:0", vec![elsewhere], tuning, 1).unwrap_err();
        assert_eq!(
            error.report().to_string(),
            "listen tcp://x:0: cannot assign requested address \
             (no interface of this machine has that address)"
        );
    }
}
