//! Socket options that rustix does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Ties a socket to a network interface: only what comes in and goes out there is its own
/// (`SO_BINDTODEVICE` of socket(7)).
///
/// A socket that is not tied yet may be tied by everybody since Linux 5.7.
///
/// # Errors
///
/// `ENODEV` for an interface that does not exist, `EINVAL` for a name that is too long, and what
/// else setsockopt(2) reports.
pub fn bind_to_device(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes())
}

/// Leaves the choice of a local port to connect(2), which needs one that is free for that peer
/// only, where bind(2) would need one that is free for all (`IP_BIND_ADDRESS_NO_PORT` of ip(7),
/// which holds for IPv6 as well).
///
/// # Errors
///
/// What setsockopt(2) reports.
pub fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &on.to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `value` is valid for reads of `len` bytes, its length, during the call; the
    // descriptor is open for as long as it is borrowed.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_socket_is_tied_to_an_interface_that_exists() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        bind_to_device(socket.as_fd(), "lo").unwrap();
        let error = bind_to_device(socket.as_fd(), "no-such-device").unwrap_err();
        assert!([Some(libc::ENODEV), Some(libc::EPERM)].contains(&error.raw_os_error()));
        bind_address_no_port(socket.as_fd()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = bind_address_no_port(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
