//! close(2) with its result.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

/// Closes a descriptor and reports what close(2) said.
///
/// `Drop` of an [`OwnedFd`] throws the result away; for a file on a network file system or with a
/// quota it can be the only place where a failed write shows up. The descriptor is gone in any
/// case, also after an error (Linux), so the call is never repeated.
///
/// # Errors
///
/// What close(2) reports, except `EINTR`, which on Linux means that the descriptor was closed.
pub fn close(fd: OwnedFd) -> io::Result<()> {
    let raw = fd.into_raw_fd();
    // SAFETY: `raw` came out of an `OwnedFd` that was consumed on the line above, so it is open
    // and nobody else will close or use it.
    if unsafe { libc::close(raw) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    #[test]
    fn a_bad_descriptor_is_an_error_and_nothing_else() {
        // SAFETY: the number is above every limit of open files, so it names nothing that anybody
        // could own; it is given to close(2) alone.
        let bad = unsafe { OwnedFd::from_raw_fd(i32::MAX) };
        assert_eq!(close(bad).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
