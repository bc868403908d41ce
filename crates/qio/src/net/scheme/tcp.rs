//! `tcp://host:port`

use super::{Applies, Example, OptionInfo, RETRY_OPTIONS, Scheme, count, join};
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::bind::{self, Binding};
use crate::net::connect::{Opening, Request};
use crate::net::dial::Dial;
use crate::net::inet::{FAMILY_OPTIONS, Inet, PORT_OPTIONS};
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::net::socket_setup::{BUFFER_OPTIONS, SOCKET_OPTIONS};
use crate::net::tcp_socket::{MPTCP, TcpSocket};
use crate::net::tuning::TUNING_OPTIONS;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "tcp",
    syntax: "tcp://HOST:PORT",
    summary: "a TCP connection; a listener without a host is on 127.0.0.1 only",
    examples: &[
        Example::new("tcp://db.example:5432", "connect to a host by name"),
        Example::new("tcp://[::1]:7001?nodelay=off", "connect to an IPv6 address"),
        Example::new("listen:tcp://:7001", "listen on the loopback interface"),
        Example::new("listen:tcp://0.0.0.0:7001", "listen on all IPv4 interfaces"),
        Example::new("listen:tcp://:7001?to=7010", "listen on the first of ten ports that is free"),
    ],
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::HOST_AND_PORT,
    check,
    connect,
    listen: Some(listen),
};

const OPTIONS: &[&[OptionInfo]] = &[
    FAMILY_OPTIONS,
    SOCKET_OPTIONS,
    BUFFER_OPTIONS,
    TUNING_OPTIONS,
    &[MPTCP],
    PORT_OPTIONS,
    &[BACKLOG],
    RETRY_OPTIONS,
];

/// The kernel cuts it down to `net.core.somaxconn`, which is 4096 since Linux 5.4.
pub(super) const BACKLOG: OptionInfo = OptionInfo::new(
    "backlog",
    Value::Count { from: 1, to: i32::MAX as u64 },
    "connections that may wait to be accepted",
)
.default("4096")
.only(Applies::Listen);

fn check(address: &Address) -> std::result::Result<(), Refusal> {
    Inet::of(address)?;
    Inet::local(address)?;
    TcpSocket::check(address)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let refused = |refusal: Refusal| refusal.of("connect", request.address());
    let remote = Inet::of(address).map_err(refused)?.lookup();
    let local = Inet::local(address).map_err(refused)?;
    let socket = TcpSocket::of(address);
    let dial = Dial::new(request.address(), remote, local, socket, request.deadline());
    Ok(Opening::Steps(Box::new(dial.observed_by(request.observer()))))
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let inet = Inet::of(address).map_err(|refusal| refusal.of("listen", &text))?;
    let mut found = Vec::new();
    for lookup in inet.passive_lookups() {
        found.extend(bind::resolve(&text, lookup, options)?);
    }
    let binding = Binding {
        socket: TcpSocket::of(address),
        dual: inet.families.are_dual(),
        backlog: address.count("backlog").unwrap_or(4096),
        reuse_port: address.switch("reuse-port"),
        last_port: inet.last_port(address),
    };
    binding.listen(&text, found)
}
