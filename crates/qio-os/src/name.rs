//! The addresses that a socket is bound and connected to, as the kernel gives them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The address that a socket is bound to, as the bytes of its `sockaddr`: getsockname(2).
///
/// rustix has both of these, but its conversion of a Unix address that fills the structure to the
/// last byte panics (1.1), and it does not know virtual sockets.
///
/// # Errors
///
/// What getsockname(2) reports.
pub fn local_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut name = Name::new();
    // SAFETY: `storage` is valid for writes of `len` bytes, which is its size, and `len` is a valid
    // in-out pointer; the descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockname(socket.as_raw_fd(), name.storage.as_mut_ptr().cast(), &raw mut name.len)
    };
    name.filled(result)
}

/// The address that a socket is connected to, as the bytes of its `sockaddr`: getpeername(2).
///
/// # Errors
///
/// What getpeername(2) reports: `ENOTCONN` without a peer.
pub fn peer_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut name = Name::new();
    // SAFETY: as in `local_name`.
    let result = unsafe {
        libc::getpeername(socket.as_raw_fd(), name.storage.as_mut_ptr().cast(), &raw mut name.len)
    };
    name.filled(result)
}

struct Name {
    storage: MaybeUninit<libc::sockaddr_storage>,
    len: libc::socklen_t,
}

impl Name {
    fn new() -> Self {
        let len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        Self { storage: MaybeUninit::zeroed(), len }
    }

    fn filled(self, result: libc::c_int) -> io::Result<Vec<u8>> {
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let all = self.storage.as_ptr().cast::<u8>();
        // SAFETY: the storage was zeroed as a whole, and any bytes are a `u8`; the slice covers its
        // size, and `self` outlives it.
        let all = unsafe { std::slice::from_raw_parts(all, size_of_val(&self.storage)) };
        // The kernel gives the length that the address has, also when it had to cut it off.
        Ok(all[..all.len().min(self.len as usize)].to_vec())
    }
}
