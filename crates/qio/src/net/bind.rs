//! Listening TCP sockets on all addresses of a host.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::address::Address;
use super::cancel::Cancel;
use super::dial::family;
use super::listener::Bound;
use super::options::ListenOptions;
use super::port_owner;
use super::resolver::{Lookup, Resolve};
use super::tcp_socket::TcpSocket;
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

/// What listening sockets are made with.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) socket: TcpSocket,
    /// Whether `[::]` is IPv4, too.
    pub(crate) dual: bool,
    pub(crate) backlog: u32,
    pub(crate) reuse_port: bool,
    /// The last port to try, where one may be taken for another.
    pub(crate) last_port: Option<u16>,
}

impl Binding {
    /// Listens on every address, with one port for all of them.
    ///
    /// An address that this machine does not have is left out as long as there is another.
    pub(crate) fn listen(&self, text: &str, addresses: Vec<SocketAddr>) -> Result<Vec<Bound>> {
        match (self.last_port, addresses.first().map(SocketAddr::port)) {
            (Some(last), Some(first)) => self.listen_in_range(text, addresses, first, last),
            _ => self.listen_on(text, &addresses),
        }
    }

    /// With the first port that nobody has.
    fn listen_in_range(
        &self,
        text: &str,
        mut addresses: Vec<SocketAddr>,
        first: u16,
        last: u16,
    ) -> Result<Vec<Bound>> {
        for port in first..=last {
            addresses.iter_mut().for_each(|address| address.set_port(port));
            match self.try_all(&addresses) {
                Ok(bound) => return Ok(bound),
                Err((_, error)) if is_in_use(&error) => {}
                Err((_, error)) => return Err(Error::os("listen", text, error)),
            }
        }
        let cause = format!("all ports from {first} to {last} are in use");
        let cause = io::Error::new(io::ErrorKind::AddrInUse, cause);
        Err(Error::os("listen", text, cause))
    }

    fn listen_on(&self, text: &str, addresses: &[SocketAddr]) -> Result<Vec<Bound>> {
        let any_port = addresses.len() > 1 && addresses.iter().all(|address| address.port() == 0);
        // The port that is free for the first address may be taken for the second.
        let mut tries_left = if any_port { 32 } else { 1 };
        loop {
            tries_left -= 1;
            match self.try_all(addresses) {
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
        &self,
        addresses: &[SocketAddr],
    ) -> std::result::Result<Vec<Bound>, (SocketAddr, io::Error)> {
        let mut bound = Vec::new();
        let mut port = 0;
        let mut skipped = None;
        for &address in addresses {
            let mut address = address;
            if address.port() == 0 {
                address.set_port(port);
            }
            match self.one(address) {
                Ok((fd, local)) => {
                    port = local.port();
                    bound.push(Bound::own(fd, family(address), Address::of_socket(local)));
                }
                Err(error) if is_not_here(&error) => skipped = Some((address, error)),
                Err(error) => return Err((address, error)),
            }
        }
        match skipped {
            Some(skipped) if bound.is_empty() => Err(skipped),
            _ => Ok(bound),
        }
    }

    fn one(&self, address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
        let joins = self.dual && address.is_ipv6() && address.ip().is_unspecified();
        match self.listening(address, !self.dual) {
            // `[::]` is IPv4 too, but joins an IPv4 listener that is there already.
            Err(error) if joins && is_in_use(&error) => self.listening(address, true),
            result => result,
        }
    }

    fn listening(&self, address: SocketAddr, v6_only: bool) -> io::Result<(OwnedFd, SocketAddr)> {
        let fd = self.socket.make(family(address))?;
        // A restarted server need not wait until the old connections are forgotten.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if self.reuse_port {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, v6_only)?;
        }
        rustix::net::bind(&fd, &address)?;
        // With SO_REUSEADDR, that an address is in use may show only here.
        rustix::net::listen(&fd, i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
        Ok((fd, local))
    }
}

pub(crate) fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Whether this machine does not have the address, or not the family.
pub(crate) fn is_not_here(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        let socket = TcpSocket::of(&Address::tcp("", 0));
        Binding { socket, dual: true, backlog: 1, reuse_port: false, last_port: None }
    }

    #[test]
    fn any_port_is_the_same_port_on_every_address() {
        let addresses = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"];
        let addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
        let bound = binding().listen("listen:tcp://x:0", addresses).unwrap();
        let ports: Vec<_> = bound.iter().map(|bound| bound.address().port().unwrap()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|&port| port == ports[0]), "{ports:?}");
    }

    #[test]
    fn an_address_that_is_not_here_is_left_out_while_there_is_another() {
        let here = "127.0.0.1:0".parse().unwrap();
        let elsewhere = "203.0.113.1:0".parse().unwrap();
        for addresses in [vec![here, elsewhere], vec![elsewhere, here]] {
            assert_eq!(binding().listen("x", addresses).unwrap().len(), 1);
        }
        let error = binding().listen("listen:tcp://x:0", vec![elsewhere]).unwrap_err();
        assert_eq!(
            error.report().to_string(),
            "listen tcp://x:0: cannot assign requested address \
             (no interface of this machine has that address)"
        );
    }
}
