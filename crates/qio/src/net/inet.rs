//! What the addresses of TCP and UDP have in common: a host, a port, families.

use std::net::{IpAddr, Ipv6Addr};

use super::address::{Address, Refusal, Role, Value, parse_count};
use super::resolver::{Family, Lookup};
use super::scheme::{Applies, OptionInfo};

/// The options that choose among the addresses of a host.
pub(crate) const FAMILY_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("ipv4", Value::Switch, "use the IPv4 addresses of the host, and only those"),
    OptionInfo::new("ipv6", Value::Switch, "use the IPv6 addresses of the host, and only those"),
    OptionInfo::new("numeric", Value::Switch, "look no name up: host and port are numbers"),
];

/// The options of the ports that are bound to.
pub(crate) const PORT_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new(
        "to",
        Value::Count { from: 1, to: 65_535 },
        "take the first free port from PORT to this one",
    )
    .only(Applies::Listen),
    OptionInfo::new(
        "reuse-port",
        Value::Switch,
        "share the port with others who do (SO_REUSEPORT)",
    )
    .default("off")
    .only(Applies::Listen),
];

/// The host, the port and the families of an address that was looked at.
///
/// QEMU's `InetSocketAddress`.
#[doc(alias = "InetSocketAddress")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inet<'a> {
    /// Empty where none is named.
    pub(crate) host: &'a str,
    pub(crate) port: Port<'a>,
    pub(crate) families: Families,
    numeric: bool,
}

/// A port as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port<'a> {
    /// None: any, for a listener.
    Missing,
    Number(u16),
    /// The name of a service (RFC 6335, section 5.1), for the system to look up.
    Service(&'a str),
}

/// Which families the options `ipv4` and `ipv6` leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// Neither is given. A listener on `[::]` is one for IPv4, too.
    Any,
    /// The same, but asked for: a listener without a host is on the loopback address of each.
    Both,
    V4,
    V6,
}

impl<'a> Inet<'a> {
    /// Finds what is wrong with the target and the options of families.
    pub(crate) fn of(address: &'a Address) -> Result<Self, Refusal> {
        let host = check_host(address.target().first().map_or(&[][..], Vec::as_slice))?;
        let port = match address.target().get(1) {
            None => Port::Missing,
            Some(port) => Port::parse(port)?,
        };
        let families = Families::of(address)?;
        let numeric = address.switch("numeric");
        check_family(host, families)?;
        let inet = Self { host, port, families, numeric };
        inet.check_numeric()?;
        last_port(address, port)?;
        if address.role() == Role::Connect {
            let syntax = address.scheme().syntax;
            if host.is_empty() {
                return Err(Refusal::new("there is no host to connect to").hint(syntax));
            }
            match port {
                Port::Missing => {
                    return Err(Refusal::new("there is no port to connect to").hint(syntax));
                }
                Port::Number(0) => return Err(Refusal::new("nothing listens on port 0")),
                _ => {}
            }
        }
        Ok(inet)
    }

    /// The last port of the range that starts with [`port`](Self::port), if there is one.
    pub(crate) fn last_port(&self, address: &Address) -> Option<u16> {
        last_port(address, self.port).ok().flatten()
    }

    fn check_numeric(&self) -> Result<(), Refusal> {
        if !self.numeric {
            return Ok(());
        }
        let ip = self.host.split_once('%').map_or(self.host, |(ip, _scope)| ip);
        if !self.host.is_empty() && ip.parse::<IpAddr>().is_err() {
            let text = format!("host {:?} is a name, and option \"numeric\" is on", self.host);
            return Err(Refusal::new(text));
        }
        if let Port::Service(name) = self.port {
            let text = format!("port {name:?} is a name, and option \"numeric\" is on");
            return Err(Refusal::new(text));
        }
        Ok(())
    }

    /// What to ask for, to connect.
    pub(crate) fn lookup(&self) -> Lookup {
        Lookup::new(self.host, self.port.service())
            .family(self.families.family())
            .numeric(self.numeric)
    }

    /// What to ask for, to listen: on loopback where no host is named, since other machines have
    /// to be let in on purpose.
    pub(crate) fn passive_lookups(&self) -> Vec<Lookup> {
        let hosts: &[&'a str] = match (self.host, self.families) {
            ("", Families::Any | Families::V4) => &["127.0.0.1"],
            ("", Families::Both) => &["127.0.0.1", "::1"],
            ("", Families::V6) => &["::1"],
            (host, _) => &[host][..],
        };
        let ask = |host: &&'a str| Self { host, ..*self }.lookup().passive(true);
        hosts.iter().map(ask).collect()
    }
}

impl Inet<'_> {
    /// What to ask for the local end that option `bind` names, to connect from.
    pub(crate) fn local(address: &Address) -> Result<Option<Lookup>, Refusal> {
        let Some(text) = address.text("bind") else { return Ok(None) };
        let of_bind = |refusal: Refusal| refusal.inside("option \"bind\"");
        let (host, port) = split_local(&text);
        let host = check_host(host.as_bytes()).map_err(of_bind)?;
        let port = port.map_or(Ok(Port::Missing), |port| Port::parse(port.as_bytes()));
        let port = port.map_err(of_bind)?;
        let remote = Inet::of(address)?;
        check_family(host, remote.families).map_err(of_bind)?;
        let ip = |host: &str| host.split_once('%').map_or(host, |(ip, _)| ip).parse::<IpAddr>();
        if let (Ok(from), Ok(to)) = (ip(host), ip(remote.host))
            && from.is_ipv4() != to.is_ipv4()
        {
            let text = format!("option \"bind\": {host} and {} are of two families", remote.host);
            return Err(Refusal::new(text));
        }
        let local = Inet { host, port, ..remote };
        local.check_numeric().map_err(of_bind)?;
        Ok(Some(local.lookup().passive(true)))
    }
}

impl<'a> Port<'a> {
    fn parse(port: &'a [u8]) -> Result<Self, Refusal> {
        let bad = |text: &str| {
            Refusal::new(format!("port {text:?} is not a number from 0 to 65535, nor a service"))
        };
        let text = std::str::from_utf8(port).map_err(|_| bad(&String::from_utf8_lossy(port)))?;
        if let Some(number) = parse_count(text).and_then(|number| number.try_into().ok()) {
            return Ok(Self::Number(number));
        }
        // The registry has names that begin with a digit, and "80a" is a slip of the finger far
        // more often than one of those.
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.len() <= LONGEST_SERVICE
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
        if well_formed { Ok(Self::Service(text)) } else { Err(bad(text)) }
    }

    /// What getaddrinfo(3) is given.
    fn service(self) -> String {
        match self {
            Self::Missing => "0".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Service(name) => name.to_owned(),
        }
    }
}

/// RFC 6335 has at most 15 bytes; `/etc/services` of many systems has longer ones.
const LONGEST_SERVICE: usize = 63;

impl Families {
    /// Whether an IPv6 socket is one for IPv4, too.
    pub(crate) fn are_dual(self) -> bool {
        matches!(self, Self::Any | Self::Both)
    }

    /// The table of QEMU's `inet_ai_family_from_address`.
    fn of(address: &Address) -> Result<Self, Refusal> {
        let wish = |key| address.is_given(key).then(|| address.switch(key));
        Ok(match (wish("ipv4"), wish("ipv6")) {
            (None, None) => Self::Any,
            (Some(true), Some(true)) => Self::Both,
            (Some(false), Some(false)) => {
                return Err(Refusal::new("\"ipv4=off\" and \"ipv6=off\" leave no family"));
            }
            (Some(true), _) | (None, Some(false)) => Self::V4,
            (Some(false), _) | (None, Some(true)) => Self::V6,
        })
    }

    fn family(self) -> Family {
        match self {
            Self::Any | Self::Both => Family::Any,
            Self::V4 => Family::V4,
            Self::V6 => Family::V6,
        }
    }
}

/// The last port of a range, which must have a first one.
fn last_port(address: &Address, first: Port<'_>) -> Result<Option<u16>, Refusal> {
    let Some(last) = address.count("to").and_then(|last| u16::try_from(last).ok()) else {
        return Ok(None);
    };
    match first {
        Port::Number(0) | Port::Missing | Port::Service(_) => {
            let text = "option \"to\" ends a range of ports that has no first one";
            Err(Refusal::new(text).hint("the port is the number of the first"))
        }
        Port::Number(first) if last < first => {
            let text = format!("option \"to\": port {last} is below the first one, {first}");
            Err(Refusal::new(text))
        }
        Port::Number(_) => Ok(Some(last)),
    }
}

/// The host and the port of a local end; an IPv6 address may do without brackets where no port
/// follows.
fn split_local(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        match rest.strip_prefix(':') {
            Some(port) => return (host, Some(port)),
            None if rest.is_empty() => return (host, None),
            None => {}
        }
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn check_host(host: &[u8]) -> Result<&str, Refusal> {
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

/// A numeric host of the family that the options rule out.
fn check_family(host: &str, families: Families) -> Result<(), Refusal> {
    let ip = host.split_once('%').map_or(host, |(ip, _scope)| ip);
    let (wrong, only) = match (ip.parse::<IpAddr>(), families) {
        (Ok(IpAddr::V4(_)), Families::V6) => ("IPv4", "IPv6"),
        (Ok(IpAddr::V6(_)), Families::V4) => ("IPv6", "IPv4"),
        _ => return Ok(()),
    };
    let text = format!("host {host:?} is an {wrong} address, and the options leave only {only}");
    Err(Refusal::new(text))
}
