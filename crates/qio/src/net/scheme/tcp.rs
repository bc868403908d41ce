//! `tcp://host:port`

use super::{Applies, Example, OptionInfo, RETRY_OPTIONS, Scheme, count, join};
use crate::error::Result;
use crate::net::address::{Address, Form, Value};
use crate::net::bind;
use crate::net::connect::{Opening, Request};
use crate::net::dial::Dial;
use crate::net::inet::{FAMILY_OPTIONS, Inet};
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::net::tuning::{TUNING_OPTIONS, Tuning};

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
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::HOST_AND_PORT,
    check: |address| Inet::of(address).and_then(|_| Tuning::check(address)),
    connect,
    listen: Some(listen),
};

const OPTIONS: &[&[OptionInfo]] = &[FAMILY_OPTIONS, TUNING_OPTIONS, &[BACKLOG], RETRY_OPTIONS];

/// The kernel cuts it down to `net.core.somaxconn`, which is 4096 since Linux 5.4.
pub(super) const BACKLOG: OptionInfo = OptionInfo::new(
    "backlog",
    Value::Count { from: 1, to: i32::MAX as u64 },
    "connections that may wait to be accepted",
)
.default("4096")
.only(Applies::Listen);

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let inet = Inet::of(address).map_err(|refusal| refusal.of("connect", request.address()))?;
    let dial = Dial::new(request.address(), inet.lookup(), Tuning::of(address), request.deadline());
    Ok(Opening::Steps(Box::new(dial)))
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let inet = Inet::of(address).map_err(|refusal| refusal.of("listen", &text))?;
    let mut found = Vec::new();
    for lookup in inet.passive_lookups() {
        found.extend(bind::resolve(&text, lookup, options)?);
    }
    let backlog = address.count("backlog").unwrap_or(4096);
    bind::all(&text, found, Tuning::of(address), backlog)
}
