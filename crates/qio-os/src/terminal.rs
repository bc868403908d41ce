//! Serial lines.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Raises (`true`) or lowers the control lines DTR and RTS of a serial line; `None` leaves one as
/// it is.
///
/// # Errors
///
/// What TIOCMBIS and TIOCMBIC of ioctl_tty(2) report: `ENOTTY` or `EINVAL` where there are no such
/// lines.
pub fn set_modem_lines(line: impl AsFd, dtr: Option<bool>, rts: Option<bool>) -> io::Result<()> {
    let asked = [(dtr, libc::TIOCM_DTR), (rts, libc::TIOCM_RTS)];
    for (request, level) in [(libc::TIOCMBIS, true), (libc::TIOCMBIC, false)] {
        let bits: libc::c_int = asked
            .iter()
            .filter(|(wanted, _)| *wanted == Some(level))
            .fold(0, |bits, (_, bit)| bits | bit);
        if bits == 0 {
            continue;
        }
        // SAFETY: both requests read one int from the pointer, which is valid for the call, and
        // write nothing.
        let result = unsafe { libc::ioctl(line.as_fd().as_raw_fd(), request, &raw const bits) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// How many written bytes a terminal has not sent yet.
///
/// # Errors
///
/// What TIOCOUTQ of ioctl_tty(2) reports: `ENOTTY` when it is no terminal, `EIO` when it has hung
/// up.
pub fn unsent_bytes(terminal: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int to the pointer, which is valid for the call.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        Ok(usize::try_from(count).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_lines_and_no_queue() {
        let null = File::open("/dev/null").unwrap();
        for level in [true, false] {
            for (dtr, rts) in [(Some(level), None), (None, Some(level))] {
                let error = set_modem_lines(&null, dtr, rts).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
            }
        }
        set_modem_lines(&null, None, None).unwrap();
        assert_eq!(unsent_bytes(&null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
