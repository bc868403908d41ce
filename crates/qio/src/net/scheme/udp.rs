//! `udp://host:port`

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, sockopt};

use super::{Applies, Example, OptionInfo, Scheme, count, join};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::net::dial::family;
use crate::net::inet::{FAMILY_OPTIONS, Inet};
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::net::resolver::Resolve;
use crate::net::{bind, udp_peers::UdpPeers};
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
    check: |address| Inet::of(address).and_then(|_| local(address)).map(drop),
    connect,
    listen: Some(listen),
};

const OPTIONS: &[&[OptionInfo]] = &[FAMILY_OPTIONS, &[BIND, BROADCAST]];

const BIND: OptionInfo = OptionInfo::new(
    "bind",
    Value::Text("HOST:PORT"),
    "the local address to send from, in numbers; either part may be left out",
)
.only(Applies::Connect);

const BROADCAST: OptionInfo =
    OptionInfo::new("broadcast", Value::Switch, "allow sending to a broadcast address")
        .only(Applies::Connect);

/// What the option `bind` names: an address, a port, or both.
fn local(address: &Address) -> std::result::Result<Option<(Option<IpAddr>, u16)>, Refusal> {
    let Some(text) = address.is_given("bind").then(|| address.text("bind")).flatten() else {
        return Ok(None);
    };
    let port = |port: &str| match port {
        "" => Some(0),
        port => port.parse().ok(),
    };
    let parsed = if let Ok(address) = text.parse::<SocketAddr>() {
        Some((Some(address.ip()), address.port()))
    } else if let Some(number) = text.strip_prefix(':') {
        port(number).map(|port| (None, port))
    } else {
        let host = text.strip_suffix(':').unwrap_or(&text);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().ok().map(|ip| (Some(ip), 0))
    };
    let wrong = || {
        Refusal::new(format!("option \"bind\": {text:?} is not a local address in numbers"))
            .hint("192.0.2.1:5000, 192.0.2.1, [2001:db8::1]:5000 or :5000")
    };
    parsed.map(Some).ok_or_else(wrong)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let refused = |refusal: Refusal| refusal.of("connect", request.address());
    let inet = Inet::of(address).map_err(refused)?;
    Ok(Opening::Steps(Box::new(Aim {
        address: request.address().to_owned(),
        resolving: Resolve::new(inet.lookup().datagram(true)),
        local: local(address).map_err(refused)?,
        broadcast: address.switch("broadcast"),
    })))
}

/// The connecting of a UDP socket: the name, then the first of its addresses that there is a way
/// to. No peer answers to that.
struct Aim {
    address: String,
    resolving: Resolve,
    local: Option<(Option<IpAddr>, u16)>,
    broadcast: bool,
}

impl Aim {
    fn open(&self, peer: SocketAddr) -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(family(peer), SocketType::DGRAM, flags, None)?;
        if self.broadcast {
            sockopt::set_socket_broadcast(&fd, true)?;
        }
        if let Some((ip, port)) = self.local {
            let any = if peer.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            let local = SocketAddr::new(ip.unwrap_or(any), port);
            if local.is_ipv4() != peer.is_ipv4() {
                return Err(Errno::AFNOSUPPORT);
            }
            rustix::net::bind(&fd, &local)?;
        }
        rustix::net::connect(&fd, &peer)?;
        Ok(fd)
    }

    fn first_of(&self, peers: VecDeque<SocketAddr>) -> Result<Arc<dyn Channel>> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for peer in peers {
            match self.open(peer) {
                Ok(fd) => {
                    event!(debug, address = %self.address, %peer, "connected");
                    let kind = MessageKind::Datagram;
                    return Ok(Arc::new(Messages::new(fd.into(), family(peer), kind)));
                }
                Err(error) => failure = error.into(),
            }
        }
        Err(Error::os("connect", &self.address, failure))
    }
}

impl Steps for Aim {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        self.resolving.step(now).map(|found| match found {
            Ok(peers) => self.first_of(peers),
            Err(error) => Err(Error::new(error.class(), "connect", &self.address).because(error)),
        })
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.resolving.watch(set);
    }
}

impl OpeningSteps for Aim {
    fn missing(&self) -> &'static str {
        "the name was not resolved"
    }
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let inet = Inet::of(address).map_err(|refusal| refusal.of("listen", &text))?;
    let mut found = Vec::new();
    for lookup in inet.passive_lookups() {
        found.extend(bind::resolve(&text, lookup.datagram(true), options)?);
    }
    let mut bound: Vec<Bound> = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for mut local in found {
        if let (0, Some(first)) = (local.port(), bound.first()) {
            // One port for all of them.
            local.set_port(first.address().port().unwrap_or(0));
        }
        match UdpPeers::bind(local) {
            Ok((fd, peers)) => {
                let address = Address::of_datagram_socket(peers.local());
                bound.push(Bound::datagram(fd, family(local), address, peers));
            }
            Err(error @ (Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => failure = error.into(),
            Err(error) => return Err(Error::os("listen", &text, error.into())),
        }
    }
    if bound.is_empty() { Err(Error::os("listen", &text, failure)) } else { Ok(bound) }
}
