//! Who is at the other end of a Unix socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Capability;

/// The process, user and group at the other end of a connected Unix socket, as they were when it
/// connected (or listened): `SO_PEERCRED` of unix(7).
///
/// The process id is 0 when the peer lives in a pid namespace that this process cannot see, which
/// is why rustix's function, whose process ids are never 0, does not fit.
///
/// # Errors
///
/// What getsockopt(2) reports.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    let mut peer = MaybeUninit::<libc::ucred>::zeroed();
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is valid for writes of `size` bytes, which is its size, and `size` is a valid
    // in-out pointer; the descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            peer.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid `ucred` (three integers), and the call only filled it.
    let peer = unsafe { peer.assume_init() };
    Ok((peer.pid, peer.uid, peer.gid))
}

/// A descriptor of the process at the other end of a connected Unix socket: `SO_PEERPIDFD`, Linux
/// 6.5. Unlike its number it cannot come to mean another process.
///
/// # Errors
///
/// `Unsupported` where the kernel has no such option; else what getsockopt(2) reports: `ENODATA`
/// for a socket that does not know its peer, and before Linux 6.16 an error when the process is
/// gone.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !Capability::PeerPidfd.may_try() {
        return Err(without_pidfd());
    }
    let mut number: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `number` is valid for writes of `size` bytes, which is its size, and `size` is a
    // valid in-out pointer; the descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
            Capability::PeerPidfd.refuse();
            return Err(without_pidfd());
        }
        return Err(error);
    }
    // SAFETY: the call succeeded, so that the kernel has made the descriptor for this process
    // (closed on exec) and told its number here alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn without_pidfd() -> io::Error {
    let text = "this kernel gives no descriptor of a peer's process (Linux 6.5 and newer do)";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// The supplementary groups of the process at the other end of a connected Unix socket, as they
/// were when it connected (or listened): `SO_PEERGROUPS` of socket(7).
///
/// # Errors
///
/// What getsockopt(2) reports: `ENODATA` when the socket has no peer.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // Enough for almost everybody; who has more is asked again.
    let mut groups = vec![0; 64];
    loop {
        let mut size = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: `groups` is valid for writes of `size` bytes, which is the size of its elements
        // (integers, for which any bytes will do), and `size` is a valid in-out pointer; the
        // descriptor is open for as long as it is borrowed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = size as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
