//! `udp://host:port`

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use rustix::net::{SocketFlags, SocketType, sockopt};

use super::{Applies, Example, OptionInfo, Scheme, count, join};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::bind::{self, is_in_use, is_not_here};
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::net::dial::{self, Local, NO_FAMILY, family};
use crate::net::inet::{FAMILY_OPTIONS, Inet};
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::net::port_owner;
use crate::net::resolver::Resolve;
use crate::net::socket_setup::{BUFFER_OPTIONS, SOCKET_OPTIONS, SocketSetup};
use crate::net::udp_peers::UdpPeers;
use crate::transport::{MessageKind, Messages};
use crate::watch::{PollSet, Steps};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "udp",
    syntax: "udp://HOST:PORT",
    summary: "UDP datagrams; a listener makes a connection of each peer",
    examples: &[
        Example::new("udp://ns.example:53", "send datagrams to a host, and receive its answers"),
        Example::new("udp://192.0.2.255:9?broadcast&bind=:9", "broadcast, from port 9"),
        Example::new("listen:udp://0.0.0.0:5353", "serve every host that sends something"),
    ],
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::HOST_AND_PORT,
    check,
    connect,
    listen: Some(listen),
};

const OPTIONS: &[&[OptionInfo]] = &[FAMILY_OPTIONS, SOCKET_OPTIONS, BUFFER_OPTIONS, &[BROADCAST]];

const BROADCAST: OptionInfo =
    OptionInfo::new("broadcast", Value::Switch, "allow sending to a broadcast address")
        .only(Applies::Connect);

fn check(address: &Address) -> std::result::Result<(), Refusal> {
    Inet::of(address)?;
    Inet::local(address)?;
    SocketSetup::check(address)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let refused = |refusal: Refusal| refusal.of("connect", request.address());
    let remote = Inet::of(address).map_err(refused)?.lookup();
    let local = Inet::local(address).map_err(refused)?;
    Ok(Opening::Steps(Box::new(Aim {
        address: request.address().to_owned(),
        local: Local::new(local.map(|local| local.datagram(true))),
        resolving: Resolve::new(remote.datagram(true)),
        setup: SocketSetup::of(address),
        broadcast: address.switch(BROADCAST.name),
    })))
}

/// The connecting of a UDP socket: the names, then the first address of the host that there is a
/// way to. No peer answers to that.
struct Aim {
    address: String,
    local: Local,
    resolving: Resolve,
    setup: SocketSetup,
    broadcast: bool,
}

impl Aim {
    fn open(&self, peer: SocketAddr) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family(peer), SocketType::DGRAM, flags, None)?;
        self.setup.apply_before_bind(fd.as_fd(), family(peer))?;
        if self.broadcast {
            sockopt::set_socket_broadcast(&fd, true)?;
        }
        if let Some(local) = self.local.of(peer) {
            dial::bind(&fd, local)?;
        }
        rustix::net::connect(&fd, &peer)?;
        Ok(fd)
    }

    fn first_of(&self, mut peers: VecDeque<SocketAddr>) -> Result<Arc<dyn Channel>> {
        peers.retain(|peer| self.local.has(*peer));
        let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, NO_FAMILY);
        for peer in peers {
            match self.open(peer) {
                Ok(fd) => {
                    event!(debug, address = %self.address, %peer, "connected");
                    let kind = MessageKind::Datagram;
                    return Ok(Arc::new(Messages::new(fd.into(), family(peer), kind)));
                }
                Err(error) => failure = error,
            }
        }
        Err(Error::os("connect", &self.address, failure))
    }
}

impl Steps for Aim {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let found = match ready!(self.local.resolve(now)) {
            Ok(()) => ready!(self.resolving.step(now)),
            Err(error) => Err(error),
        };
        Poll::Ready(match found {
            Ok(peers) => self.first_of(peers),
            Err(error) => Err(Error::new(error.class(), "connect", &self.address).because(error)),
        })
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.local {
            Local::Resolving(resolving) => resolving.watch(set),
            _ => self.resolving.watch(set),
        }
    }
}

impl OpeningSteps for Aim {
    fn missing(&self) -> &'static str {
        match self.local {
            Local::Resolving(_) => "the name of option \"bind\" was not resolved",
            _ => "the name was not resolved",
        }
    }
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let inet = Inet::of(address).map_err(|refusal| refusal.of("listen", &text))?;
    let mut found = Vec::new();
    for lookup in inet.passive_lookups() {
        found.extend(bind::resolve(&text, lookup.datagram(true), options)?);
    }
    let (setup, dual) = (SocketSetup::of(address), inet.families.are_dual());
    let mut bound: Vec<Bound> = Vec::new();
    let mut skipped = io::Error::from(io::ErrorKind::NotFound);
    for mut local in found {
        if let (0, Some(first)) = (local.port(), bound.first()) {
            // One port for all of them.
            local.set_port(first.address().port().unwrap_or(0));
        }
        match UdpPeers::bind(local, dual, setup.clone(), options.beside_peers) {
            Ok((fd, peers)) => bound.push(Bound::datagram(fd, family(local), peers)),
            Err(error) if is_not_here(&error) => skipped = error,
            Err(error) => {
                let owner = is_in_use(&error).then(|| port_owner::of_udp(local)).flatten();
                let error = Error::os("listen", &text, error);
                return Err(match owner {
                    Some(owner) => error.hint(format!("{owner} has it")),
                    None => error,
                });
            }
        }
    }
    if bound.is_empty() { Err(Error::os("listen", &text, skipped)) } else { Ok(bound) }
}
