//! The numbers of users and groups.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// The number of the user with this name, as the system is configured to find it (nsswitch.conf);
/// `None` when there is no such user.
///
/// Blocks for as long as a name service takes.
///
/// # Errors
///
/// What getpwnam_r(3) reports.
pub fn user_id(name: &OsStr) -> io::Result<Option<u32>> {
    find(name, |name, buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: the name is NUL-terminated, `entry` and `found` are valid for writes, and
        // `buffer` is for as many bytes as it has; all outlive the call.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: the function has set `found` to null or to `entry`, which it then has filled.
        let entry = unsafe { found.as_ref() };
        (code, entry.map(|entry| entry.pw_uid))
    })
}

/// The number of the group with this name, as [`user_id`].
///
/// # Errors
///
/// What getgrnam_r(3) reports.
pub fn group_id(name: &OsStr) -> io::Result<Option<u32>> {
    find(name, |name, buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: the name is NUL-terminated, `entry` and `found` are valid for writes, and
        // `buffer` is for as many bytes as it has; all outlive the call.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: the function has set `found` to null or to `entry`, which it then has filled.
        let entry = unsafe { found.as_ref() };
        (code, entry.map(|entry| entry.gr_gid))
    })
}

/// Asks with a larger buffer for as long as the entry does not fit.
fn find(
    name: &OsStr,
    ask: impl Fn(&CStr, &mut [c_char]) -> (i32, Option<u32>),
) -> io::Result<Option<u32>> {
    // A name with a NUL byte in it is nobody's.
    let Ok(name) = CString::new(name.as_bytes()) else { return Ok(None) };
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        match ask(&name, &mut buffer) {
            (_, Some(number)) => return Ok(Some(number)),
            (libc::EINTR, None) => {}
            (libc::ERANGE, None) if buffer.len() < LAST_BUFFER => {
                buffer.resize(buffer.len() * 4, 0);
            }
            // getpwnam_r(3) lists these for "not found", besides 0.
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, None) => return Ok(None),
            (code, None) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// An ordinary entry fits.
const FIRST_BUFFER: usize = 1024;

/// A group with some hundred thousand members fits.
const LAST_BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_else_by_a_made_up_name() {
        assert_eq!(user_id(OsStr::new("root")).unwrap(), Some(0));
        assert_eq!(group_id(OsStr::new("root")).unwrap(), Some(0));
        for name in ["", "no such account", "root\0"] {
            assert_eq!(user_id(OsStr::new(name)).unwrap(), None, "{name}");
            assert_eq!(group_id(OsStr::new(name)).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_is_asked_for_again() {
        let asked = std::cell::RefCell::new(Vec::new());
        let found = find(OsStr::new("x"), |_, buffer| {
            asked.borrow_mut().push(buffer.len());
            if buffer.len() < 10_000 { (libc::ERANGE, None) } else { (0, Some(7)) }
        });
        assert_eq!(found.unwrap(), Some(7));
        assert_eq!(*asked.borrow(), [1024, 4096, 16384]);
        let error = find(OsStr::new("x"), |_, _| (libc::ERANGE, None)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ERANGE));
        let error = find(OsStr::new("x"), |_, _| (libc::EIO, None)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
}
