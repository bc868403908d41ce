//! What a child process inherits.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Capability;

/// Makes the child of `command` see descriptors 0, 1 and 2 and no other.
///
/// Descriptors of well-behaved code carry CLOEXEC and vanish anyway; this also takes those that
/// some other library in the process opened without it. Descriptors that a caller's own
/// `pre_exec` hook prepares for the child must be made inheritable after this hook: hooks run in
/// the order in which they are added.
///
/// Before Linux 5.11 the list is taken before the fork, so a descriptor that another thread opens
/// without CLOEXEC between that moment and the fork is inherited.
pub fn close_other_fds_on_exec(command: &mut Command) {
    let open_now = if Capability::CloseRangeCloexec.may_try() && close_range_works() {
        Vec::new()
    } else {
        Capability::CloseRangeCloexec.refuse();
        inheritable_fds()
    };
    let use_close_range = Capability::CloseRangeCloexec.may_try();
    let hook = move || -> io::Result<()> {
        if use_close_range {
            return cloexec_range(3, libc::c_uint::MAX);
        }
        for &fd in &open_now {
            // SAFETY: F_SETFD takes an int and touches no memory; a number that was closed in
            // the meantime gives EBADF, which is what we want anyway.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec. It calls close_range(2) or fcntl(2) only, which
    // are async-signal-safe, and reads a vector that was allocated before the fork; it neither
    // allocates nor takes a lock.
    unsafe { command.pre_exec(hook) };
}

/// Makes the child of `command` the leader of a session of its own, whose controlling terminal is
/// the terminal that the child has as its standard input.
///
/// What terminals signal has its default action in the child, also where this program ignores it:
/// nohup(1) and shells that start something in the background have it ignored, and a child
/// inherits that.
///
/// Spawning fails with `ENOTTY` when the standard input is no terminal, and with `EPERM` when the
/// terminal already is that of another session.
pub fn start_session_on_stdin(command: &mut Command) {
    let hook = || -> io::Result<()> {
        rustix::process::setsid()?;
        for signal in OF_TERMINALS {
            // SAFETY: the default action is no handler, and touches no memory.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: TIOCSCTTY takes an int and touches no memory; on a descriptor that is no
        // terminal, or that is not open, it fails.
        if unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the hook runs between fork and exec, after the standard streams were put in place. It
    // calls setsid(2), signal(2) and ioctl(2) and nothing else, all of them async-signal-safe or a
    // system call: it neither allocates (an error of the operating system is a number) nor takes a
    // lock.
    unsafe { command.pre_exec(hook) };
}

/// The signals of hang-ups, keys and job control, termios(3).
const OF_TERMINALS: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

fn cloexec_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    let flags: libc::c_uint = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing: it sets a flag on descriptors
    // of this process and touches no memory.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks with a range that holds no descriptor.
fn close_range_works() -> bool {
    cloexec_range(libc::c_uint::MAX - 1, libc::c_uint::MAX).is_ok()
}

/// The descriptors above 2 that have no CLOEXEC.
fn inheritable_fds() -> Vec<libc::c_int> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| {
            // SAFETY: F_GETFD touches no memory; a number that is not open gives -1.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            fd > 2 && flags >= 0 && flags & libc::FD_CLOEXEC == 0
        })
        .collect()
}
