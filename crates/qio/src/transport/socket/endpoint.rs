//! What a socket is bound and connected to.

use std::ffi::OsString;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::net::AddressFamily;

use super::Socket;

/// One end of a connection, as the kernel names it.
///
/// Printed in the forms that addresses have (`unix:/run/x`, `unix:@name`, `vsock:2:1024`), the
/// internet's without a scheme (`[::1]:80`), because TCP is not all that has such an end.
///
/// ```
/// use qio::transport::{Endpoint, Socket};
///
/// # fn main() -> std::io::Result<()> {
/// let (left, _right) = Socket::pair()?;
/// assert_eq!(left.local_address()?, Endpoint::UnixUnnamed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A host and a port, of either family.
    Inet(SocketAddr),
    /// A Unix socket with a file, unix(7). Relative to the directory of whoever bound it.
    UnixPath(PathBuf),
    /// A Unix socket with a name outside of the file system, which may hold any byte.
    UnixAbstract(Vec<u8>),
    /// A Unix socket without a name, as most clients are, and both ends of a pair.
    UnixUnnamed,
    /// A virtual socket, vsock(7).
    Vsock {
        /// The machine: 2 is the host.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A family that has no form here, by its number (`AF_…`).
    Other(u16),
}

impl Endpoint {
    /// Reads what getsockname(2) or getpeername(2) gave.
    fn of_name(name: &[u8]) -> Option<Self> {
        let (family, rest) = name.split_first_chunk::<2>()?;
        let family = u16::from_ne_bytes(*family);
        Some(match AddressFamily::from_raw(family) {
            AddressFamily::INET => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Self::Inet((ip, u16::from_be_bytes(*port)).into())
            }
            AddressFamily::INET6 => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let (flow, rest) = rest.split_first_chunk::<4>()?;
                let (ip, rest) = rest.split_first_chunk::<16>()?;
                let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
                let (port, ip) = (u16::from_be_bytes(*port), Ipv6Addr::from(*ip));
                // As it lies in memory, like std has it.
                let flow = u32::from_ne_bytes(*flow);
                Self::Inet(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            AddressFamily::UNIX => Self::of_unix(rest),
            AddressFamily::VSOCK => {
                let (cid, port) = qio_os::parse_vsock_address(name)?;
                Self::Vsock { cid, port }
            }
            _ => Self::Other(family),
        })
    }

    fn of_unix(name: &[u8]) -> Self {
        match name {
            [] => Self::UnixUnnamed,
            // As long as the kernel says, NUL bytes and all.
            [0, name @ ..] => Self::UnixAbstract(name.to_vec()),
            // A path of 108 bytes fills the structure and has no NUL of its own.
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Self::UnixPath(OsString::from_vec(path[..end].to_vec()).into())
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(out),
            Self::UnixPath(path) => {
                out.write_str("unix:")?;
                write_escaped(out, path.as_os_str().as_bytes())
            }
            Self::UnixAbstract(name) => {
                out.write_str("unix:@")?;
                write_escaped(out, name)
            }
            Self::UnixUnnamed => out.write_str("unix:"),
            Self::Vsock { cid, port } => write!(out, "vsock:{cid}:{port}"),
            Self::Other(family) => write!(out, "address family {family}"),
        }
    }
}

/// With `%XX` for what a line or an address cannot hold as it is.
fn write_escaped(out: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        match byte {
            b'%' | b'?' => write!(out, "%{byte:02X}")?,
            byte if byte.is_ascii_graphic() => write!(out, "{}", char::from(*byte))?,
            byte => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl Socket {
    /// What the socket is bound to, asked of the kernel now.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    #[doc(alias = "qio_channel_socket_get_local_address")]
    pub fn local_address(&self) -> Result<Endpoint> {
        local(self.slot.borrow()?.as_fd())
    }

    /// What the socket is connected to, asked of the kernel now.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed, or when the peer is gone (a TCP connection that was reset, or
    /// ended by both sides).
    #[doc(alias = "qio_channel_socket_get_remote_address")]
    pub fn peer_address(&self) -> Result<Endpoint> {
        peer(self.slot.borrow()?.as_fd())
    }
}

/// What a socket is bound to.
pub(in crate::transport) fn local(fd: BorrowedFd<'_>) -> Result<Endpoint> {
    understood(qio_os::local_name(fd)?)
}

/// What a socket is connected to.
pub(in crate::transport) fn peer(fd: BorrowedFd<'_>) -> Result<Endpoint> {
    understood(qio_os::peer_name(fd)?)
}

fn understood(name: Vec<u8>) -> Result<Endpoint> {
    Endpoint::of_name(&name)
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "the kernel gave an address cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(family: AddressFamily, rest: &[u8]) -> Vec<u8> {
        [&family.as_raw().to_ne_bytes(), rest].concat()
    }

    #[test]
    fn a_name_that_is_cut_short_is_none_and_an_unknown_family_is_its_number() {
        assert_eq!(Endpoint::of_name(&[]), None);
        assert_eq!(Endpoint::of_name(&[1]), None);
        for (family, whole) in
            [(AddressFamily::INET, 6), (AddressFamily::INET6, 26), (AddressFamily::VSOCK, 10)]
        {
            for short in 0..whole {
                assert_eq!(Endpoint::of_name(&name(family, &vec![0; short])), None, "{family:?}");
            }
            assert!(Endpoint::of_name(&name(family, &vec![0; whole])).is_some(), "{family:?}");
        }
        let netlink = Endpoint::of_name(&name(AddressFamily::NETLINK, &[0; 10])).unwrap();
        assert_eq!(netlink, Endpoint::Other(16));
        assert_eq!(netlink.to_string(), "address family 16");
    }

    #[test]
    fn each_form_prints_what_an_address_would_be_written_as() {
        let mut vsock = vec![0, 0];
        vsock.extend(1024u32.to_ne_bytes());
        vsock.extend(2u32.to_ne_bytes());
        let cases = [
            (name(AddressFamily::INET, &[0, 80, 127, 0, 0, 1]), "127.0.0.1:80"),
            (name(AddressFamily::VSOCK, &vsock), "vsock:2:1024"),
            (name(AddressFamily::UNIX, b""), "unix:"),
            (name(AddressFamily::UNIX, b"/run/a b?\0"), "unix:/run/a%20b%3F"),
            (name(AddressFamily::UNIX, b"/without-a-nul"), "unix:/without-a-nul"),
            (name(AddressFamily::UNIX, b"\0a\0b"), "unix:@a%00b"),
            (name(AddressFamily::UNIX, b"\0"), "unix:@"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Endpoint::of_name(&bytes).unwrap().to_string(), text);
        }
    }
}
