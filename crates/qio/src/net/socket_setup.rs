//! What is set on an internet socket of any kind before it is bound or connected.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::{AddressFamily, sockopt};

use super::address::{Address, Refusal, Value};
use super::scheme::{Applies, OptionInfo};
use crate::error::plain;

/// The options of internet sockets, below TCP and UDP.
pub(crate) const SOCKET_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("bind", Value::Text("HOST[:PORT]"), "the local address to connect from")
        .only(Applies::Connect),
    OptionInfo::new("device", Value::Text("NAME"), "use this network interface only"),
    OptionInfo::new("ttl", Value::Count { from: 1, to: 255 }, "routers that a packet may pass"),
    OptionInfo::new(
        "tos",
        Value::Count { from: 0, to: 255 },
        "type of service of packets; the two lowest bits are TCP's own",
    ),
];

/// The options of sockets of every family.
pub(crate) const BUFFER_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("sndbuf", Value::Size, "send buffer, which the kernel doubles (SO_SNDBUF)"),
    OptionInfo::new("rcvbuf", Value::Size, "receive buffer, which the kernel doubles (SO_RCVBUF)"),
];

/// The options of an address that are set on its sockets, see [`SOCKET_OPTIONS`]; `bind` is in
/// [`Inet::local`](super::inet::Inet::local).
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketSetup {
    device: Option<String>,
    send_buffer_bytes: Option<usize>,
    receive_buffer_bytes: Option<usize>,
    ttl: Option<u8>,
    tos: Option<u8>,
}

/// An option that the kernel refused: it would refuse it for every other address of a host, too.
#[derive(Debug)]
pub(crate) struct OptionFailed {
    option: String,
    cause: io::Error,
}

impl SocketSetup {
    /// What the options of an address ask for.
    pub(crate) fn of(address: &Address) -> Self {
        let byte = |key| address.count(key).and_then(|count| count.try_into().ok());
        Self {
            device: address.text("device").map(Into::into),
            send_buffer_bytes: address.size("sndbuf"),
            receive_buffer_bytes: address.size("rcvbuf"),
            ttl: byte("ttl"),
            tos: byte("tos"),
        }
    }

    /// Finds what the kernel would refuse.
    pub(crate) fn check(address: &Address) -> Result<(), Refusal> {
        let Some(name) = address.text("device") else { return Ok(()) };
        // `dev_valid_name` of the kernel.
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.len() > DEVICE_BYTES || name.contains(bad) || name == "." || name == ".." {
            let text = format!("option \"device\": {name:?} is no name of an interface");
            return Err(Refusal::new(text).hint("see ip link"));
        }
        Ok(())
    }

    /// Sets the sizes of the buffers, of a socket of any family.
    ///
    /// # Errors
    ///
    /// Names the option; [`OptionFailed`] is inside.
    pub(crate) fn apply_buffers(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer_bytes {
            sockopt::set_socket_send_buffer_size(socket, bytes)
                .map_err(|error| failed(format!("sndbuf={bytes}"), error))?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            sockopt::set_socket_recv_buffer_size(socket, bytes)
                .map_err(|error| failed(format!("rcvbuf={bytes}"), error))?;
        }
        Ok(())
    }

    /// Sets everything. Connections that a listening socket accepts inherit it (socket(7), ip(7)).
    ///
    /// Buffers have their size from here on because the window scale of a TCP connection is fixed
    /// when it is set up (tcp(7)).
    ///
    /// # Errors
    ///
    /// Names the option; [`OptionFailed`] is inside.
    pub(crate) fn apply_before_bind(
        &self,
        socket: BorrowedFd<'_>,
        family: AddressFamily,
    ) -> io::Result<()> {
        if let Some(name) = &self.device {
            qio_os::bind_to_device(socket, name)
                .map_err(|error| failed(format!("device={name}"), error))?;
        }
        self.apply_buffers(socket)?;
        let v6 = family == AddressFamily::INET6;
        // An IPv6 socket has IPv4 peers, too, unless it was told otherwise.
        if let Some(ttl) = self.ttl {
            let mut result = sockopt::set_ip_ttl(socket, ttl.into());
            if v6 {
                result = result.and(sockopt::set_ipv6_unicast_hops(socket, Some(ttl)));
            }
            result.map_err(|error| failed(format!("ttl={ttl}"), error))?;
        }
        if let Some(tos) = self.tos {
            let mut result = sockopt::set_ip_tos(socket, tos);
            if v6 {
                result = result.and(sockopt::set_ipv6_tclass(socket, tos.into()));
            }
            result.map_err(|error| failed(format!("tos={tos}"), error))?;
        }
        Ok(())
    }
}

/// `IFNAMSIZ` of the kernel, without the NUL.
const DEVICE_BYTES: usize = 15;

/// The error of an option that could not be set.
pub(crate) fn failed(option: impl Into<String>, cause: impl Into<io::Error>) -> io::Error {
    let cause = cause.into();
    io::Error::new(cause.kind(), OptionFailed { option: option.into(), cause })
}

/// Whether an option could not be set.
pub(crate) fn is_failed_option(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<OptionFailed>())
}

impl fmt::Display for OptionFailed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "option {:?}: {}", self.option, plain(&self.cause))
    }
}

impl StdError for OptionFailed {}
