//! Addresses of vsock sockets (vsock(7)), which rustix does not have.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::slice;
use std::time::Duration;

use rustix::net::SocketAddrAny;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// The address of a vsock socket, for `bind` and `connect` of rustix: the number of a machine and
/// a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the kernel's structure has no other parts")]
pub struct VsockAddr {
    /// The machine: 1 is this one, 2 the host of a virtual one, `u32::MAX` any (to bind).
    pub cid: u32,
    /// The port; `u32::MAX` is any that is free (to bind).
    pub port: u32,
}

impl VsockAddr {
    /// The address that getsockname(2), getpeername(2) or accept(2) gave; `None` when it is one of
    /// another family.
    pub fn of(address: &SocketAddrAny) -> Option<Self> {
        let len = address.addr_len() as usize;
        // SAFETY: `as_ptr` and `addr_len` are the address as the kernel has written it, whose
        // bytes rustix vouches for (`SocketAddrAny::new` is unsafe for this); it is borrowed for
        // as long as the bytes are used.
        let bytes = unsafe { slice::from_raw_parts(address.as_ptr().cast(), len) };
        parse_vsock_address(bytes).map(|(cid, port)| Self { cid, port })
    }

    fn raw(self) -> libc::sockaddr_vm {
        // SAFETY: all-zero bytes are a valid `sockaddr_vm` (integers and arrays of them). They
        // have to be zero where the kernel of the day knows no field.
        let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        // The constant fits; its type is that of another argument.
        raw.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        raw.svm_port = self.port;
        raw.svm_cid = self.cid;
        raw
    }
}

// SAFETY: `f` gets a pointer to a whole `sockaddr_vm`, valid for as long as `f` runs, and its size.
unsafe impl SocketAddrArg for VsockAddr {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let raw = self.raw();
        f(ptr::from_ref(&raw).cast(), size_of::<libc::sockaddr_vm>() as SocketAddrLen)
    }
}

/// The CID and the port in the bytes of a `sockaddr_vm`; `None` when they are too few or of
/// another family.
pub fn parse_vsock_address(address: &[u8]) -> Option<(u32, u32)> {
    let family = address.get(..size_of::<libc::sa_family_t>())?;
    if family != (libc::AF_VSOCK as libc::sa_family_t).to_ne_bytes() {
        return None;
    }
    let number = |at: usize| -> Option<u32> {
        let bytes = address.get(at..at + size_of::<u32>())?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some((
        number(offset_of!(libc::sockaddr_vm, svm_cid))?,
        number(offset_of!(libc::sockaddr_vm, svm_port))?,
    ))
}

/// Sets how long the kernel waits for a machine to answer a connect, which otherwise are two
/// seconds, also when the socket is in non-blocking mode: `SO_VM_SOCKETS_CONNECT_TIMEOUT`.
///
/// Longer than a day is a day: the kernel refuses times that it cannot count.
///
/// # Errors
///
/// What setsockopt(2) reports.
pub fn set_vsock_connect_timeout(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = limit.min(Duration::from_secs(24 * 60 * 60));
    let time = libc::timeval {
        // At most 86,400 and 999,999.
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: limit.subsec_micros() as libc::suseconds_t,
    };
    // SAFETY: `time` is valid for reads of its size, which is passed along; the descriptor is open
    // for as long as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            SO_VM_SOCKETS_CONNECT_TIMEOUT,
            ptr::from_ref(&time).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `linux/vm_sockets.h`; the one whose times are as long as those of the C library.
const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    #[test]
    fn an_address_reads_as_it_was_written() {
        for address in [
            VsockAddr { cid: 3, port: 1024 },
            VsockAddr { cid: u32::MAX, port: u32::MAX },
            VsockAddr { cid: 0, port: 0x0102_0304 },
        ] {
            assert_eq!(VsockAddr::of(&address.as_any()), Some(address));
        }
        let inet: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(VsockAddr::of(&inet.as_any()), None);
    }

    #[test]
    fn bytes_that_are_too_few_or_of_another_family_are_no_address() {
        let mut bytes = vec![0; 16];
        bytes[..2].copy_from_slice(&(libc::AF_VSOCK as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&7u32.to_ne_bytes());
        bytes[8..12].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(parse_vsock_address(&bytes), Some((3, 7)));
        assert_eq!(parse_vsock_address(&bytes[..12]), Some((3, 7)));
        for len in 0..12 {
            assert_eq!(parse_vsock_address(&bytes[..len]), None);
        }
        bytes[0] ^= 1;
        assert_eq!(parse_vsock_address(&bytes), None);
    }

    #[test]
    fn the_kernel_takes_the_address_and_the_time() {
        let made = rustix::net::socket_with(
            AddressFamily::VSOCK,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let socket = match made {
            Err(Errno::AFNOSUPPORT) => return println!("skipped: this kernel has no vsock"),
            made => made.unwrap(),
        };
        for limit in [Duration::from_millis(1500), Duration::MAX] {
            set_vsock_connect_timeout(socket.as_fd(), limit).unwrap();
        }
        assert_eq!(connect_timeout(socket.as_fd()), Duration::from_secs(24 * 60 * 60));
        set_vsock_connect_timeout(socket.as_fd(), Duration::from_secs(70)).unwrap();
        assert_eq!(connect_timeout(socket.as_fd()), Duration::from_secs(70));
        match rustix::net::bind(&socket, &VsockAddr { cid: u32::MAX, port: u32::MAX }) {
            Err(Errno::NODEV | Errno::ADDRNOTAVAIL) => {
                return println!("skipped: this machine has no vsock device");
            }
            result => result.unwrap(),
        }
        let local = VsockAddr::of(&rustix::net::getsockname(&socket).unwrap()).unwrap();
        assert_eq!(local.cid, u32::MAX);
        assert_ne!(local.port, u32::MAX);
    }

    fn connect_timeout(socket: BorrowedFd<'_>) -> Duration {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let mut size = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: `time` is valid for writes of `size` bytes, which is its size.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::AF_VSOCK,
                SO_VM_SOCKETS_CONNECT_TIMEOUT,
                ptr::from_mut(&mut time).cast(),
                &raw mut size,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap())
    }
}
