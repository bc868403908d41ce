//! Who may come in.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::address::Address;
use crate::error::Error;
use crate::transport::PeerCredentials;

/// A client, as far as the kernel vouches for it.
///
/// `Display` gives the text that names it: `tcp://192.0.2.1:51234`, `udp://192.0.2.1:51234`, or
/// `unix:/run/x.sock (process 17, user 1000)`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    local: Arc<Address>,
    remote: Option<SocketAddr>,
    /// Context and port, of a client that came through a vsock.
    vsock: Option<(u32, u32)>,
    credentials: Option<PeerCredentials>,
    groups: Vec<u32>,
}

impl Peer {
    /// A client of the socket that listens on `local`.
    pub(crate) fn new(local: Arc<Address>, remote: Option<SocketAddr>) -> Self {
        Self { local, remote, vsock: None, credentials: None, groups: Vec::new() }
    }

    /// The same, with what the kernel says about the process at the other end of a Unix socket.
    pub(crate) fn with_credentials_of(mut self, socket: BorrowedFd<'_>) -> Self {
        if let Ok((pid, uid, gid)) = qio_os::peer_credentials(socket) {
            self.credentials = Some(PeerCredentials::new(pid, uid, gid));
            // Without a list, the group of the credentials is the only one that is known.
            self.groups = qio_os::peer_groups(socket).unwrap_or_default();
        }
        self
    }

    /// The same, with the name of a client that came through a vsock.
    pub(crate) fn with_name_of(mut self, socket: BorrowedFd<'_>) -> Self {
        let name = qio_os::peer_name(socket).ok();
        self.vsock = name.and_then(|name| qio_os::parse_vsock_address(&name));
        self
    }

    /// The address that it has come to, with the port that was really bound.
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// Its address, of a TCP or UDP client; an IPv4 client of a listener on `[::]` has its IPv4 address.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote.map(|remote| match remote.ip().to_canonical() {
            ip if ip == remote.ip() => remote,
            ip => SocketAddr::new(ip, remote.port()),
        })
    }

    /// Its process, user and group, of a Unix client whose credentials can be read (`SO_PEERCRED`,
    /// unix(7)): as they were when it called connect(2).
    pub fn credentials(&self) -> Option<PeerCredentials> {
        self.credentials
    }

    /// Whether a Unix client is in a group, be it the effective one or a supplementary one
    /// (`SO_PEERGROUPS`). Nobody else is in any.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.credentials.is_some_and(|peer| peer.gid == gid) || self.groups.contains(&gid)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((cid, port)) = self.vsock {
            return write!(out, "{}", Address::vsock(cid, port));
        }
        match (self.remote, self.credentials) {
            (Some(remote), _) => write!(out, "{}", self.local.of_peer(remote)),
            (None, Some(peer)) => {
                write!(out, "{} (process {}, user {})", self.local, peer.pid, peer.uid)
            }
            (None, None) => write!(out, "{}", self.local),
        }
    }
}

/// What becomes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is handed out.
    Admit,
    /// It is closed at once; the text says why: `user 1000 is not allowed`.
    Refuse(Cow<'static, str>),
}

impl Verdict {
    /// The verdict against a client, for a reason.
    pub fn refuse(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(reason.into())
    }
}

/// A check of clients before they are handed out, see
/// [`ListenOptions::admit`](super::ListenOptions::admit).
///
/// The ready-made checks refuse whom they know nothing about: a client without credentials is none
/// of the allowed users, one without an IP address is in no network.
///
/// ```
/// use qio::net::{Admit, Verdict};
///
/// # fn main() -> qio::Result<()> {
/// let ours = Admit::networks(["192.0.2.0/24".parse()?, "::1".parse()?]);
/// let root_or_staff = Admit::users([0]).or(Admit::groups([50]));
/// let odd_processes = Admit::by(|peer| match peer.credentials() {
///     Some(peer) if peer.pid % 2 == 1 => Verdict::Admit,
///     _ => Verdict::refuse("its process has no odd number"),
/// });
/// # let _ = (ours, root_or_staff.and(odd_processes));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Admit(Arc<dyn Fn(&Peer) -> Verdict + Send + Sync>);

impl Admit {
    /// A check of one's own. It runs on the thread that accepts, between two clients: it must not
    /// wait.
    pub fn by(check: impl Fn(&Peer) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// Unix clients whose effective user is one of these.
    ///
    /// A user that does not exist in this user namespace is seen as the kernel's overflow user,
    /// 65534 by default: do not admit that one.
    pub fn users(uids: impl IntoIterator<Item = u32>) -> Self {
        let uids: Vec<u32> = uids.into_iter().collect();
        Self::by(move |peer| match peer.credentials() {
            Some(peer) if uids.contains(&peer.uid) => Verdict::Admit,
            Some(peer) => Verdict::refuse(format!("user {} is not allowed", peer.uid)),
            None => NO_CREDENTIALS,
        })
    }

    /// Unix clients that are in one of these groups, see [`Peer::is_in_group`].
    pub fn groups(gids: impl IntoIterator<Item = u32>) -> Self {
        let gids: Vec<u32> = gids.into_iter().collect();
        Self::by(move |peer| match peer.credentials() {
            Some(_) if gids.iter().any(|&gid| peer.is_in_group(gid)) => Verdict::Admit,
            Some(peer) => {
                Verdict::refuse(format!("user {} is in none of the allowed groups", peer.uid))
            }
            None => NO_CREDENTIALS,
        })
    }

    /// Clients whose IP address is in one of these networks.
    pub fn networks(networks: impl IntoIterator<Item = Network>) -> Self {
        let networks: Vec<Network> = networks.into_iter().collect();
        Self::by(move |peer| match peer.remote() {
            Some(remote) if networks.iter().any(|network| network.contains(remote.ip())) => {
                Verdict::Admit
            }
            Some(remote) => {
                Verdict::refuse(format!("{} is in none of the allowed networks", remote.ip()))
            }
            None => Verdict::refuse("it has no IP address"),
        })
    }

    /// Admits whom either check admits.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::by(move |peer| match (self.check(peer), other.check(peer)) {
            (Verdict::Refuse(one), Verdict::Refuse(two)) if one == two => Verdict::Refuse(one),
            (Verdict::Refuse(one), Verdict::Refuse(two)) => {
                Verdict::refuse(format!("{one}, and {two}"))
            }
            _ => Verdict::Admit,
        })
    }

    /// Admits whom both checks admit.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::by(move |peer| match self.check(peer) {
            Verdict::Admit => other.check(peer),
            refusal => refusal,
        })
    }

    /// What the check says about a client.
    pub fn check(&self, peer: &Peer) -> Verdict {
        (self.0)(peer)
    }
}

const NO_CREDENTIALS: Verdict = Verdict::Refuse(Cow::Borrowed("it has no credentials"));

impl fmt::Debug for Admit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Admit").finish_non_exhaustive()
    }
}

/// A network of IP addresses: `192.0.2.0/24`, `2001:db8::/32`, or one address.
///
/// IPv4 addresses that are written as IPv6 ones (`::ffff:192.0.2.1`) are IPv4 addresses, of clients
/// and of networks: `::/0` is all of IPv6 and nothing of IPv4.
///
/// ```
/// use qio::net::Network;
///
/// # fn main() -> qio::Result<()> {
/// let network: Network = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.17".parse().unwrap()));
/// assert!(network.contains("::ffff:192.0.2.17".parse().unwrap()));
/// assert!(!network.contains("192.0.3.17".parse().unwrap()));
/// let error = "192.0.2.1/24".parse::<Network>().unwrap_err();
/// assert!(error.report().to_string().contains("did you mean 192.0.2.0/24"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = Error;

    /// # Errors
    ///
    /// [`Class::Usage`](crate::error::Class::Usage) for anything else, and for a network with bits
    /// behind its prefix: nobody can tell whether the host or its network was meant.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                Error::usage("parse", text, "this is no network")
                    .hint("a network is written as 192.0.2.0/24, 2001:db8::/32 or ::1")
            })?,
        };
        if parsed.trunc() != parsed {
            return Err(Error::usage("parse", text, "bits are set behind the prefix")
                .hint(format!("did you mean {} or {}?", parsed.trunc(), parsed.addr())));
        }
        Ok(Self(canonical(parsed)))
    }
}

/// A network of IPv4 addresses that are written as IPv6 ones is one of IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(128 - 32)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(remote: &str) -> Peer {
        Peer::new(Arc::new(Address::tcp("", 1)), Some(remote.parse().unwrap()))
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn clients_are_compared_with_networks_as_what_they_really_are() {
        let check = |networks: &[&str], remote: &str| {
            let networks = networks.iter().map(|text| network(text));
            Admit::networks(networks).check(&peer(remote)) == Verdict::Admit
        };
        assert!(check(&["10.0.0.0/8"], "10.255.0.1:1"));
        assert!(check(&["10.0.0.0/8"], "[::ffff:10.255.0.1]:1"));
        assert!(check(&["::ffff:10.0.0.0/104"], "10.255.0.1:1"));
        assert!(check(&["192.0.2.1", "::1"], "[::1]:1"));
        assert!(check(&["fe80::/10"], "[fe80::1%7]:1"));
        assert!(!check(&["10.0.0.0/8"], "11.0.0.1:1"));
        assert!(!check(&["10.0.0.0/8"], "[::10.0.0.1]:1"), "compatible is not mapped");
        assert!(!check(&["::/0"], "10.0.0.1:1"));
        assert!(!check(&["::/0"], "[::ffff:10.0.0.1]:1"));
        assert!(!check(&["0.0.0.0/0"], "[2001:db8::1]:1"));
        assert!(!check(&[], "127.0.0.1:1"));
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_would_be_right() {
        let report = |text: &str| text.parse::<Network>().unwrap_err().report().to_string();
        assert_eq!(
            report("10.0.0.1/8"),
            "parse 10.0.0.1/8: bits are set behind the prefix \
             (did you mean 10.0.0.0/8 or 10.0.0.1?)"
        );
        for text in ["", "localhost", "10.0.0.0/33", "::/129", "10/8", "10.0.0.0/-1", "1.2.3.4/"] {
            assert!(report(text).contains("this is no network"), "{text}");
        }
        assert_eq!(network("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").to_string(), "::1/128");
    }

    #[test]
    fn nobody_unknown_is_let_in() {
        let refusal = |check: Admit, remote| match check.check(&peer(remote)) {
            Verdict::Refuse(reason) => reason,
            Verdict::Admit => panic!("let in"),
        };
        assert_eq!(refusal(Admit::users(0..100), "127.0.0.1:1"), "it has no credentials");
        assert_eq!(refusal(Admit::groups(0..100), "127.0.0.1:1"), "it has no credentials");
        let unix = Peer::new(Arc::new(Address::unix("/x")), None);
        let any = Admit::networks([network("0.0.0.0/0"), network("::/0")]);
        assert_eq!(any.check(&unix), Verdict::refuse("it has no IP address"));
        // Both have to be wrong for one that either may admit.
        let both = Admit::users([0]).or(Admit::networks([network("10.0.0.0/8")]));
        assert_eq!(both.check(&peer("10.0.0.1:1")), Verdict::Admit);
        assert_eq!(
            refusal(both, "127.0.0.1:1"),
            "it has no credentials, and 127.0.0.1 is in none of the allowed networks"
        );
        let both = Admit::users([0]).and(any.clone());
        assert_eq!(refusal(both, "10.0.0.1:1"), "it has no credentials");
        assert_eq!(any.clone().and(any).check(&peer("10.0.0.1:1")), Verdict::Admit);
    }
}
