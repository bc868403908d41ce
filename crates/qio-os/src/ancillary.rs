//! What travels beside the bytes of a message: descriptors and credentials, unix(7).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, ReturnFlags};

/// The most descriptors that one message carries: `SCM_MAX_FD`, unix(7).
const MAX_FDS: usize = 253;

/// One thing that came beside the bytes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ancillary {
    /// A descriptor, `SCM_RIGHTS`.
    Fd(OwnedFd),
    /// The sender's process, user and group, `SCM_CREDENTIALS`. The process is 0 when it cannot be
    /// seen from here, or when nobody asked for credentials as the message was sent.
    Credentials(i32, u32, u32),
}

/// What [`receive_message`] brought.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Received {
    /// How many bytes.
    pub bytes: usize,
    /// Something beside them did not fit, and is lost: `MSG_CTRUNC`.
    pub truncated: bool,
}

/// Receives bytes with what came beside them: recvmsg(2), with room for at least `room` descriptors
/// (at most 253; a few more may fit) and for credentials.
///
/// `take` gets the descriptors, in order and closed on exec, and the credentials if the socket
/// reports them (`SO_PASSCRED`), in the order of the message. Of `flags`, those that say how to
/// read count.
///
/// rustix's form reads credentials into a type whose process is never 0, which that of a sender in
/// another pid namespace is.
///
/// # Errors
///
/// What recvmsg(2) reports, `EINTR` too.
#[inline]
pub fn receive_message(
    socket: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    room: usize,
    flags: RecvFlags,
    mut take: impl FnMut(Ancillary),
) -> rustix::io::Result<Received> {
    // Aligned like a `cmsghdr`, whose first field is a word.
    let mut control = [MaybeUninit::<usize>::uninit(); SPACE / WORD];
    let wanted = OTHER_SPACE + if room == 0 { 0 } else { space(room.min(MAX_FDS) * 4) };
    let control = &mut control[..wanted / WORD];
    // The kernel skips the bytes between two messages, and those behind the last one.
    control.fill(MaybeUninit::new(0));
    let (bytes, got, returned) = receive(socket, bufs, control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let control = control.as_ptr().cast::<u8>();
    // SAFETY: the first `got` bytes were all initialized above, whether the kernel has written
    // over them or not, and `receive` bounds `got` by the length of the slice; the array lives on
    // and nobody writes to it while the slice is used.
    let mut control = unsafe { std::slice::from_raw_parts(control, got) };
    while let Some(((kind, data), rest)) = split_first(control) {
        match kind {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS | SCM_PIDFD) => {
                for number in data.chunks_exact(4) {
                    let number = i32::from_ne_bytes([number[0], number[1], number[2], number[3]]);
                    if number < 0 {
                        // In place of a process descriptor that could not be made: its error.
                        continue;
                    }
                    // SAFETY: the kernel has just made this descriptor for this process and told
                    // its number here alone, and each number is looked at once.
                    let fd = unsafe { OwnedFd::from_raw_fd(number) };
                    // A sender's process descriptor, which somebody else may have asked the
                    // kernel for (`SO_PASSPIDFD`), is not one that was sent, and is closed.
                    if kind.1 == libc::SCM_RIGHTS {
                        take(Ancillary::Fd(fd));
                    }
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                if let Some((pid, uid, gid)) = credentials(data) {
                    take(Ancillary::Credentials(pid, uid, gid));
                }
            }
            _ => {}
        }
        control = rest;
    }
    Ok(Received { bytes, truncated: returned.contains(ReturnFlags::CTRUNC) })
}

/// `include/linux/socket.h`; Linux 6.5.
const SCM_PIDFD: i32 = 4;

const WORD: usize = size_of::<usize>();

/// The head of a control message, cmsg(3): the length as a word, level and type.
const HEAD: usize = WORD + 8;

/// The space for credentials and for a process descriptor, which come unasked if somebody has told
/// the socket so, and must not push out what was asked for.
const OTHER_SPACE: usize = space(size_of::<libc::ucred>()) + space(4);

const SPACE: usize = OTHER_SPACE + space(MAX_FDS * 4);

/// `CMSG_SPACE` of cmsg(3).
const fn space(bytes: usize) -> usize {
    HEAD + bytes.next_multiple_of(WORD)
}

/// The system call: bytes read, bytes of control messages (never more than there is room for),
/// flags.
#[inline]
fn receive(
    socket: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    control: &mut [MaybeUninit<usize>],
    flags: RecvFlags,
) -> rustix::io::Result<(usize, usize, ReturnFlags)> {
    let room = size_of_val(control);
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and integers.
    let message = unsafe { message.assume_init_mut() };
    // `IoSliceMut` has the layout of an `iovec` on Unix, as the standard library promises.
    message.msg_iov = bufs.as_mut_ptr().cast();
    message.msg_iovlen = bufs.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    // SAFETY: `message` points to `bufs` and `control`, which are valid for writes for as long as
    // the call runs, each with its length; the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags.bits() as _) };
    let Ok(bytes) = usize::try_from(result) else {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    };
    #[expect(clippy::unnecessary_cast, reason = "musl has another type for it")]
    let got = (message.msg_controllen as usize).min(room);
    Ok((bytes, got, ReturnFlags::from_bits_retain(message.msg_flags as _)))
}

/// A control message: level and type, and its data.
type Message<'a> = ((i32, i32), &'a [u8]);

/// The first control message, and what follows.
#[inline]
fn split_first(control: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let (len, rest) = control.split_first_chunk::<WORD>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::from_ne_bytes(*len).checked_sub(HEAD)?.min(rest.len());
    let kind = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
    Some(((kind, &rest[..len]), &rest[len.next_multiple_of(WORD).min(rest.len())..]))
}

fn credentials(data: &[u8]) -> Option<(i32, u32, u32)> {
    let (pid, rest) = data.split_first_chunk::<4>()?;
    let (uid, rest) = rest.split_first_chunk::<4>()?;
    let gid = rest.first_chunk::<4>()?;
    Some((i32::from_ne_bytes(*pid), u32::from_ne_bytes(*uid), u32::from_ne_bytes(*gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEAD + data.len()).to_ne_bytes().to_vec();
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        bytes
    }

    #[test]
    fn spaces_are_those_of_the_c_library() {
        for bytes in [0, 4, 8, 12, 4 * 15, 4 * 16, 4 * 253] {
            // SAFETY: a computation on a number.
            assert_eq!(space(bytes), unsafe { libc::CMSG_SPACE(bytes as _) } as usize);
        }
    }

    #[test]
    fn control_messages_come_apart_and_none_is_read_past_its_end() {
        let mut both = message(libc::SCM_CREDENTIALS, &[7; 12]);
        both.extend(message(libc::SCM_RIGHTS, &[1, 0, 0, 0, 2, 0, 0, 0]));
        let ((first, data), rest) = split_first(&both).unwrap();
        assert_eq!((first, data), ((libc::SOL_SOCKET, libc::SCM_CREDENTIALS), &[7; 12][..]));
        let ((second, data), rest) = split_first(rest).unwrap();
        assert_eq!((second, data.len()), ((libc::SOL_SOCKET, libc::SCM_RIGHTS), 8));
        assert!(rest.is_empty() && split_first(rest).is_none());
        // Cut off anywhere, with a length that says more, or less than its own head.
        for end in 0..both.len() {
            let mut rest = &both[..end];
            while let Some(((_, data), next)) = split_first(rest) {
                assert!(data.len() <= end && next.len() < rest.len());
                rest = next;
            }
        }
        both[..WORD].copy_from_slice(&3usize.to_ne_bytes());
        assert!(split_first(&both).is_none());
        both[..WORD].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert!(split_first(&both).is_some_and(|(_, rest)| rest.is_empty()));
        assert_eq!(credentials(&[0; 11]), None);
    }
}
