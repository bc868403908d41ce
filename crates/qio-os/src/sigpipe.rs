//! Writing without SIGPIPE, whatever the host program's disposition is.
//!
//! Rust programs ignore SIGPIPE, but a library can live in a C program where the default action
//! kills the process. Sockets have `MSG_NOSIGNAL`; pipes have `RWF_NOSIGNAL` since Linux 6.18;
//! splice(2) has nothing. What has nothing runs with the signal blocked for this thread, and a
//! signal that the call raised is taken back before the old mask returns.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::io::ReadWriteFlags;

use crate::Capability;

/// Linux 6.18, `include/uapi/linux/fs.h`.
const RWF_NOSIGNAL: u32 = 0x0000_0100;

/// The offset that makes pwritev2(2) write at, and move, the current position.
const CURRENT_POSITION: u64 = u64::MAX;

/// Writes the buffers to `fd` at its current position; a broken pipe is `EPIPE` and no signal.
///
/// One attempt: partial progress, would-block and `EINTR` come back as they are. `flags` are those
/// of pwritev2(2) (`NOWAIT`); an `EOPNOTSUPP` that they cause is returned.
///
/// # Errors
///
/// What pwritev2(2) or writev(2) reports.
pub fn write_no_sigpipe(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    flags: ReadWriteFlags,
) -> rustix::io::Result<usize> {
    if Capability::WriteNoSignal.may_try() {
        let no_signal = ReadWriteFlags::from_bits_retain(RWF_NOSIGNAL);
        match rustix::io::pwritev2(fd, bufs, CURRENT_POSITION, flags | no_signal) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let result = write_shielded(fd, bufs, flags);
                // With other flags set the refusal may be theirs, not ours.
                if result != Err(rustix::io::Errno::OPNOTSUPP) {
                    Capability::WriteNoSignal.refuse();
                }
                return result;
            }
            result => return result,
        }
    }
    write_shielded(fd, bufs, flags)
}

fn write_shielded(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    flags: ReadWriteFlags,
) -> rustix::io::Result<usize> {
    shield_sigpipe(|| {
        if flags.is_empty() {
            rustix::io::writev(fd, bufs)
        } else {
            rustix::io::pwritev2(fd, bufs, CURRENT_POSITION, flags)
        }
    })
}

/// Runs `call` so that a SIGPIPE it raises in this thread never reaches the program.
///
/// Costs one system call when the signal is ignored anyway (every Rust program by default), and
/// three more when it is not. A SIGPIPE that was pending before stays pending.
pub fn shield_sigpipe<R>(call: impl FnOnce() -> R) -> R {
    if is_ignored() {
        return call();
    }
    let mut pipe_only = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `pipe_only` is valid for writes of one `sigset_t`, which sigemptyset initialises.
    unsafe { libc::sigemptyset(pipe_only.as_mut_ptr()) };
    // SAFETY: sigemptyset above cannot fail on a valid pointer, so the set is initialised.
    let mut pipe_only = unsafe { pipe_only.assume_init() };
    // SAFETY: `pipe_only` is an initialised set and SIGPIPE is a valid signal number.
    unsafe { libc::sigaddset(&raw mut pipe_only, libc::SIGPIPE) };

    let was_pending = is_pending();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `pipe_only` is initialised and `before` is valid for writes; the call changes only
    // the mask of this thread.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe_only, before.as_mut_ptr());
    }
    let result = call();
    if !was_pending {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            // SAFETY: both arguments are initialised and live on this stack; a null info pointer
            // is allowed. With a zero timeout the call returns at once when nothing is pending.
            let taken = unsafe {
                libc::sigtimedwait(&raw const pipe_only, ptr::null_mut(), &raw const at_once)
            };
            let interrupted =
                taken < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
            if !interrupted {
                break;
            }
        }
    }
    // SAFETY: `before` was filled by the successful pthread_sigmask above (it fails only for an
    // invalid `how`); a null old-mask pointer is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

/// Gives SIGPIPE its default action again, which ends the process.
///
/// For programs that want to behave like a C program towards a closed pipe, and for tests of the
/// functions above.
pub fn restore_default_sigpipe() {
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE and installs no handler code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn is_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only queries; `action` is valid for writes of one `sigaction`.
    unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all-zero bytes are a valid `sigaction`, and the call above may only have filled it.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `pending` is valid for writes of one `sigset_t`.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: `pending` was zeroed (a valid empty set) and possibly filled by the call above, and
    // SIGPIPE is a valid signal number.
    unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 }
}
