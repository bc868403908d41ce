//! Writes to a broken pipe with the default action of SIGPIPE, which ends the process.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use qio_os::{Capability, restore_default_sigpipe, shield_sigpipe, write_no_sigpipe};
use rustix::io::{Errno, ReadWriteFlags};

fn broken_pipe() -> OwnedFd {
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    write.into()
}

fn write_to(pipe: &OwnedFd) -> rustix::io::Result<usize> {
    write_no_sigpipe(pipe.as_fd(), &[IoSlice::new(b"x")], ReadWriteFlags::empty())
}

fn pipe_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is valid for writes of one `sigset_t`.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above, and SIGPIPE is a valid signal.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn is_blocked() -> bool {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a null new mask only queries; `mask` is valid for writes.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr()) };
    // SAFETY: filled by the call above.
    unsafe { libc::sigismember(mask.as_ptr(), libc::SIGPIPE) == 1 }
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `pending` is valid for writes.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: filled by the call above.
    unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 }
}

#[test]
fn both_ways_of_writing_give_an_error_and_no_signal() {
    restore_default_sigpipe();
    let pipe = broken_pipe();
    for _ in 0..2 {
        assert_eq!(write_to(&pipe), Err(Errno::PIPE));
    }
    Capability::WriteNoSignal.refuse();
    for _ in 0..2 {
        assert_eq!(write_to(&pipe), Err(Errno::PIPE));
    }
    assert!(!Capability::WriteNoSignal.may_try(), "the fallback was what ran");
    Capability::WriteNoSignal.reset();
    assert!(!is_blocked());
    assert!(!is_pending());
}

#[test]
fn a_signal_that_was_pending_before_stays_pending() {
    restore_default_sigpipe();
    let pipe_only = pipe_set();
    // SAFETY: the set is initialised; a null old mask is allowed. The mask is this thread's.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe_only, ptr::null_mut()) };
    // SAFETY: SIGPIPE is a valid signal, and blocked in this thread, to which it goes.
    unsafe { libc::raise(libc::SIGPIPE) };
    let pipe = broken_pipe();
    let result = shield_sigpipe(|| rustix::io::write(&pipe, b"x"));
    assert_eq!(result, Err(Errno::PIPE));
    assert!(is_pending() && is_blocked());
}

#[test]
fn a_mask_that_blocked_the_signal_blocks_it_afterwards_and_nothing_is_left() {
    restore_default_sigpipe();
    let pipe_only = pipe_set();
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe_only, ptr::null_mut()) };
    let pipe = broken_pipe();
    assert_eq!(shield_sigpipe(|| rustix::io::write(&pipe, b"x")), Err(Errno::PIPE));
    assert!(is_blocked());
    assert!(!is_pending(), "the signal of the write was taken back");
}
