//! The options of a socket that users turn.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};

use super::Socket;
use crate::channel::ChannelExt;
use crate::watch::SharedFd;

/// When TCP asks a silent peer whether it is still there, tcp(7).
///
/// By default as for every connection that [`net::connect`](crate::net::connect) makes: after 60 s, then every 10 s, and
/// the sixth question without an answer ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }
}

impl KeepAlive {
    /// The default times.
    pub fn new() -> Self {
        Self::default()
    }

    /// After how much silence to ask: whole seconds from 1 to 32767.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How long to wait for an answer: whole seconds from 1 to 32767.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How many questions without an answer end the connection: 1 to 127.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Whether TCP can keep such a time: `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of the kernel.
    pub(crate) fn can_be_kept(time: Duration) -> bool {
        time.subsec_nanos() == 0 && (1..=32_767).contains(&time.as_secs())
    }
}

/// Options. The kernel keeps them, for all who share the socket: nothing is remembered here.
impl Socket {
    /// How many bytes the kernel holds for the peer before a write has to wait, as it counts:
    /// about half of them is its own bookkeeping (socket(7), `SO_SNDBUF`).
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn send_buffer_size(&self) -> Result<usize> {
        Ok(sockopt::socket_send_buffer_size(self.descriptor()?)?)
    }

    /// Asks for room for `bytes` to be sent. The kernel doubles the number, for its bookkeeping,
    /// and raises or cuts it to what it allows (`net.core.wmem_max`): see
    /// [`send_buffer_size`](Socket::send_buffer_size) for what came of it.
    ///
    /// TCP sizes its buffer by itself until this is called. A Unix socket does not, and large
    /// writes go faster with more than the default of about 200 KiB.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for more than 2 GiB; `NotConnected` once closed.
    #[doc(alias = "qio_channel_socket_set_send_buffer")]
    pub fn set_send_buffer_size(&self, bytes: usize) -> Result<()> {
        let fd = self.descriptor()?;
        Ok(sockopt::set_socket_send_buffer_size(fd, self.buffer_size(bytes)?)?)
    }

    /// How many bytes the kernel takes from the peer unread, counted as in
    /// [`send_buffer_size`](Socket::send_buffer_size).
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn receive_buffer_size(&self) -> Result<usize> {
        Ok(sockopt::socket_recv_buffer_size(self.descriptor()?)?)
    }

    /// Asks for room for `bytes` to be received: doubled and cut (`net.core.rmem_max`) like that
    /// [to be sent](Socket::set_send_buffer_size). On a Unix socket the sender's buffer counts.
    ///
    /// # Errors
    ///
    /// As [`set_send_buffer_size`](Socket::set_send_buffer_size).
    pub fn set_receive_buffer_size(&self, bytes: usize) -> Result<()> {
        let fd = self.descriptor()?;
        Ok(sockopt::set_socket_recv_buffer_size(fd, self.buffer_size(bytes)?)?)
    }

    /// How long sent bytes may stay unacknowledged before TCP gives the connection up; `None`
    /// leaves it to the number of repetitions, about a quarter of an hour.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but TCP; `NotConnected` once closed.
    pub fn user_timeout(&self) -> Result<Option<Duration>> {
        let fd = self.tcp_descriptor("the user timeout")?;
        let millis = sockopt::tcp_user_timeout(fd)?;
        Ok((millis != 0).then(|| Duration::from_millis(millis.into())))
    }

    /// Limits how long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7); RFC 5482).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for less than a millisecond or more than 24 days; `Unsupported` for anything
    /// but TCP; `NotConnected` once closed.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        let fd = self.tcp_descriptor("the user timeout")?;
        let millis = timeout.map_or(Some(0), |timeout| {
            i32::try_from(timeout.as_millis()).ok().filter(|millis| *millis > 0)
        });
        let millis = millis.and_then(|millis| u32::try_from(millis).ok());
        let millis = millis.ok_or_else(|| self.invalid("a user timeout of 1 ms to 24 days"))?;
        Ok(sockopt::set_tcp_user_timeout(fd, millis)?)
    }

    /// The questions that TCP asks a silent peer; `None` when it asks none.
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but TCP; `NotConnected` once closed.
    pub fn keep_alive(&self) -> Result<Option<KeepAlive>> {
        let fd = self.tcp_descriptor("keep-alive")?;
        if !sockopt::socket_keepalive(&fd)? {
            return Ok(None);
        }
        let (idle, interval) = (sockopt::tcp_keepidle(&fd)?, sockopt::tcp_keepintvl(&fd)?);
        Ok(Some(KeepAlive { idle, interval, count: sockopt::tcp_keepcnt(&fd)? }))
    }

    /// Makes TCP ask a silent peer whether it is still there, or not.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for times and counts that TCP cannot keep; `Unsupported` for anything but
    /// TCP; `NotConnected` once closed.
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) -> Result<()> {
        let fd = self.tcp_descriptor("keep-alive")?;
        let Some(KeepAlive { idle, interval, count }) = keep_alive else {
            return Ok(sockopt::set_socket_keepalive(fd, false)?);
        };
        let fits = KeepAlive::can_be_kept;
        // MAX_TCP_KEEPCNT of the kernel.
        if !fits(idle) || !fits(interval) || !(1..=127).contains(&count) {
            return Err(self.invalid("keep-alive of 1 to 32767 whole seconds and 1 to 127 times"));
        }
        sockopt::set_tcp_keepidle(&fd, idle)?;
        sockopt::set_tcp_keepintvl(&fd, interval)?;
        sockopt::set_tcp_keepcnt(&fd, count)?;
        Ok(sockopt::set_socket_keepalive(&fd, true)?)
    }

    /// Over how many routers a packet goes: `IP_TTL` of ip(7), `IPV6_UNICAST_HOPS` of ipv6(7).
    ///
    /// # Errors
    ///
    /// `Unsupported` for anything but the internet's families; `NotConnected` once closed.
    pub fn hop_limit(&self) -> Result<u8> {
        let (fd, v6) = self.inet_descriptor("the hop limit")?;
        if v6 {
            return Ok(sockopt::ipv6_unicast_hops(fd)?);
        }
        Ok(u8::try_from(sockopt::ip_ttl(fd)?).unwrap_or(u8::MAX))
    }

    /// Sets over how many routers a packet may go. 1 keeps a connection in its own network.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for 0; others as [`hop_limit`](Socket::hop_limit).
    pub fn set_hop_limit(&self, hops: u8) -> Result<()> {
        let (fd, v6) = self.inet_descriptor("the hop limit")?;
        if hops == 0 {
            return Err(self.invalid("a hop limit of 1 to 255"));
        }
        if v6 {
            sockopt::set_ipv6_unicast_hops(&fd, Some(hops))?;
        }
        // Of an IPv6 socket too: its peer may have a mapped IPv4 address.
        Ok(sockopt::set_ip_ttl(&fd, hops.into())?)
    }

    /// The class of service that packets are marked with: `IP_TOS` of ip(7), `IPV6_TCLASS`.
    ///
    /// # Errors
    ///
    /// As [`hop_limit`](Socket::hop_limit).
    pub fn traffic_class(&self) -> Result<u8> {
        let (fd, v6) = self.inet_descriptor("the traffic class")?;
        if v6 {
            return Ok(u8::try_from(sockopt::ipv6_tclass(fd)?).unwrap_or(u8::MAX));
        }
        Ok(sockopt::ip_tos(fd)?)
    }

    /// Marks packets with a class of service: six bits of DSCP (RFC 2474); of the last two, which
    /// are ECN's, TCP keeps its own.
    ///
    /// # Errors
    ///
    /// As [`hop_limit`](Socket::hop_limit).
    pub fn set_traffic_class(&self, class: u8) -> Result<()> {
        let (fd, v6) = self.inet_descriptor("the traffic class")?;
        if v6 {
            sockopt::set_ipv6_tclass(&fd, class.into())?;
        }
        Ok(sockopt::set_ip_tos(&fd, class)?)
    }

    fn tcp_descriptor(&self, what: &str) -> Result<SharedFd> {
        let fd = self.descriptor()?;
        // Asked now, because a stream of an internet family may be MPTCP or SCTP as well; the
        // first has these options, too.
        let known = [Some(rustix::net::ipproto::TCP), Some(rustix::net::ipproto::MPTCP)];
        if known.contains(&sockopt::socket_protocol(&fd)?) {
            Ok(fd)
        } else {
            Err(self.unsupported(what))
        }
    }

    fn inet_descriptor(&self, what: &str) -> Result<(SharedFd, bool)> {
        let fd = self.descriptor()?;
        match sockopt::socket_domain(&fd)? {
            AddressFamily::INET => Ok((fd, false)),
            AddressFamily::INET6 => Ok((fd, true)),
            _ => Err(self.unsupported(what)),
        }
    }

    /// The kernel takes an `int`, and would read a larger number as a negative one, as the least.
    fn buffer_size(&self, bytes: usize) -> Result<usize> {
        let fits = i32::try_from(bytes).is_ok();
        fits.then_some(bytes).ok_or_else(|| self.invalid("a buffer of less than 2 GiB"))
    }

    fn unsupported(&self, what: &str) -> Error {
        let text = format!("{}: {what} is not an option of this socket", self.name());
        Error::new(ErrorKind::Unsupported, text)
    }

    fn invalid(&self, right: &str) -> Error {
        Error::new(ErrorKind::InvalidInput, format!("{}: the kernel keeps {right}", self.name()))
    }
}
