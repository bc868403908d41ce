//! `tcp://host:port`

use std::net::Ipv6Addr;

use super::{Applies, Example, OptionInfo, RECONNECT_MS, RETRY, Scheme};
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Role, Value, parse_count};
use crate::net::bind;
use crate::net::connect::{Opening, Request};
use crate::net::dial::Dial;
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::net::tuning::Tuning;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "tcp",
    syntax: "tcp://HOST:PORT",
    summary: "a TCP connection; a listener without a host is on 127.0.0.1 only",
    examples: &[
        Example::new("tcp://db.example:5432", "connect to a host by name"),
        Example::new("tcp://[::1]:7001?nodelay=off", "connect to an IPv6 address"),
        Example::new("listen:tcp://:7001", "listen on the loopback interface"),
        Example::new("listen:tcp://0.0.0.0:7001", "listen on all IPv4 interfaces"),
    ],
    options: &[
        OptionInfo::new("nodelay", Value::Switch, "send small writes at once (TCP_NODELAY)")
            .default("on"),
        OptionInfo::new("keep-alive", Value::Switch, "notice a dead peer by probing it")
            .default("on"),
        OptionInfo::new("keep-alive-idle", Value::Duration, "silence before the first probe")
            .default("60s"),
        OptionInfo::new("keep-alive-interval", Value::Duration, "time between two probes")
            .default("10s"),
        OptionInfo::new(
            "keep-alive-count",
            Value::Count { from: 1, to: 127 },
            "unanswered probes after which the peer is dead",
        )
        .default("6"),
        BACKLOG,
        RETRY,
        RECONNECT_MS,
    ],
    form: Form::HOST_AND_PORT,
    check: |address| Target::of(address).map(drop),
    connect,
    listen: Some(listen),
};

/// The kernel cuts it down to `net.core.somaxconn`, which is 4096 since Linux 5.4.
pub(super) const BACKLOG: OptionInfo = OptionInfo::new(
    "backlog",
    Value::Count { from: 1, to: i32::MAX as u64 },
    "connections that may wait to be accepted",
)
.default("4096")
.only(Applies::Listen);

/// A host (empty for loopback) and a port.
struct Target<'a> {
    host: &'a str,
    port: u16,
}

impl<'a> Target<'a> {
    fn of(address: &'a Address) -> std::result::Result<Self, Refusal> {
        Tuning::check(address)?;
        let host = check_host(address.target().first().map_or(&[][..], Vec::as_slice))?;
        let port = address.target().get(1).map(|port| check_port(port)).transpose()?;
        match (address.role(), port) {
            (Role::Connect, _) if host.is_empty() => {
                Err(Refusal::new("there is no host to connect to").hint(SCHEME.syntax))
            }
            (Role::Connect, None) => {
                Err(Refusal::new("there is no port to connect to").hint(SCHEME.syntax))
            }
            (Role::Connect, Some(0)) => Err(Refusal::new("nothing listens on port 0")),
            (_, port) => Ok(Self { host, port: port.unwrap_or(0) }),
        }
    }
}

fn check_host(host: &[u8]) -> std::result::Result<&str, Refusal> {
    let Ok(text) = std::str::from_utf8(host) else {
        return Err(Refusal::new(format!("host {:?} is not UTF-8", String::from_utf8_lossy(host))));
    };
    // A DNS name has at most 253 bytes; 255 is its form on the wire.
    if text.len() > 255 {
        return Err(Refusal::new(format!("the host has {} bytes, at most 255 fit", text.len())));
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || "/[]?#@".contains(c);
    if let Some(bad) = text.chars().find(|&c| bad(c)) {
        return Err(Refusal::new(format!("host {text:?} contains {bad:?}")));
    }
    let ip = text.split_once('%').map_or(text, |(ip, _scope)| ip);
    if text.contains(':') && ip.parse::<Ipv6Addr>().is_err() {
        return Err(Refusal::new(format!("host {text:?} is not an IPv6 address")));
    }
    Ok(text)
}

fn check_port(port: &[u8]) -> std::result::Result<u16, Refusal> {
    let text = String::from_utf8_lossy(port);
    parse_count(&text)
        .and_then(|port| port.try_into().ok())
        .ok_or_else(|| Refusal::new(format!("port {text:?} is not a number from 0 to 65535")))
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let target = Target::of(address).map_err(|refusal| refusal.of("connect", request.address()))?;
    let tuning = Tuning::of(address);
    let target = (target.host, target.port);
    Ok(Opening::Steps(Box::new(Dial::new(request.address(), target, tuning, request.deadline()))))
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let target = Target::of(address).map_err(|refusal| refusal.of("listen", &text))?;
    // Other machines have to be let in on purpose. ::1 is left out because a listener that names
    // no host has one address, whatever the machine is configured for.
    let host = if target.host.is_empty() { "127.0.0.1" } else { target.host };
    let found = bind::resolve(&text, (host, target.port), options)?;
    let backlog = address.count("backlog").unwrap_or(4096);
    bind::all(&text, found.into(), Tuning::of(address), backlog)
}
