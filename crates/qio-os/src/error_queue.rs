//! Sending without a copy, and the error queue on which the kernel says when it is done.
//!
//! `Documentation/networking/msg_zerocopy.rst` of Linux describes the interface: with
//! `SO_ZEROCOPY` set, each successful send with `MSG_ZEROCOPY` takes the next number of a 32-bit
//! counter, and messages on the error queue name the numbers whose buffers the kernel has let go
//! of.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendFlags};

/// The sends whose buffers the kernel does not need any more.
///
/// The numbers count the zero-copy sends of the socket from 0, modulo 2^32; both ends belong to
/// the range, and `last` is below `first` when the range goes over the end of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confirmation {
    /// The first send (`ee_info`).
    pub first: u32,
    /// The last send, which belongs to the range (`ee_data`).
    pub last: u32,
    /// The kernel copied after all (`SO_EE_CODE_ZEROCOPY_COPIED`), as it does on loopback.
    pub copied: bool,
}

/// One message of an error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorMessage {
    /// Zero-copy sends were completed.
    ZeroCopy(Confirmation),
    /// Something else: an ICMP error, a timestamp.
    Other,
}

/// Lets `MSG_ZEROCOPY` have an effect on this socket (`SO_ZEROCOPY`, socket(7)).
///
/// Gives `false` when it was on already: somebody else may have sent before, and the numbers of
/// later sends are not known.
///
/// # Errors
///
/// `ENOTSUPP` (524, which has no name outside of the kernel), `EOPNOTSUPP` or `ENOPROTOOPT` where
/// the kind of socket or the kernel cannot; others of setsockopt(2).
pub fn enable_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is valid for writes of `size` bytes, which is its size, and `size` is a valid
    // in-out pointer; the descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if value != 0 {
        return Ok(false);
    }
    value = 1;
    // SAFETY: `value` is valid for reads of the size that is given, which is its size; the
    // descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

/// Sends with `MSG_ZEROCOPY`, without waiting and without a signal.
///
/// One attempt: partial progress, would-block and `EINTR` come back as they are. The kernel goes on
/// reading the memory after the call. That is no matter of memory safety, because it holds the
/// pages; but what is written there before the [`Confirmation`] may go out instead.
///
/// # Errors
///
/// What sendmsg(2) reports. `ENOBUFS`: the memory for notifications (`net.core.optmem_max`) is
/// used up, or more memory would be pinned than `RLIMIT_MEMLOCK` allows.
pub fn send_zero_copy(socket: BorrowedFd<'_>, bufs: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    let zero_copy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as _);
    let flags = zero_copy | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, bufs, &mut SendAncillaryBuffer::default(), flags)
}

/// Takes one message off the error queue of a socket (`MSG_ERRQUEUE`, recv(2)), without waiting.
///
/// The queue belongs to the open socket: whoever takes a message has taken it from everybody.
///
/// # Errors
///
/// `WouldBlock` when there is none. `InvalidData` when the message was cut off or makes no sense:
/// it is gone then.
pub fn read_error_queue(socket: BorrowedFd<'_>) -> io::Result<ErrorMessage> {
    // Aligned for the headers in it. The message has the extended error and an address (44 bytes
    // for IPv6) and may have timestamps.
    let mut control = [0u64; CONTROL_BYTES / size_of::<u64>()];
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: all-zero bytes are a valid `msghdr`: integers and null pointers.
    let message = unsafe { message.assume_init_mut() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the header names no buffers and no address, and a control buffer that is valid for
    // writes of the length given with it; both live on this stack until the call has returned.
    let result = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Its type differs between C libraries.
    let filled: usize = message.msg_controllen as _;
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut bytes = [0u8; CONTROL_BYTES];
    for (bytes, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(control) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    let filled = &bytes[..filled.min(CONTROL_BYTES)];
    parse_error_message(filled, truncated)
}

/// Reads the control data of one message of an error queue, as recvmsg(2) leaves it.
///
/// Takes both `IP_RECVERR` and `IPV6_RECVERR`; what is of another level, type or origin is
/// [`ErrorMessage::Other`]. `truncated` is `MSG_CTRUNC` of the message.
///
/// # Errors
///
/// `InvalidData` when the data was truncated, when a header claims more than there is or less than
/// itself, and when an extended error is too short.
pub fn parse_error_message(control: &[u8], truncated: bool) -> io::Result<ErrorMessage> {
    if truncated {
        return Err(malformed("was cut off"));
    }
    let mut rest = control;
    let mut found = ErrorMessage::Other;
    // What is too short for a header is padding.
    while rest.len() >= HEADER_BYTES {
        let len = usize::from_ne_bytes(array(rest, 0));
        let level = i32::from_ne_bytes(array(rest, size_of::<usize>()));
        let kind = i32::from_ne_bytes(array(rest, size_of::<usize>() + size_of::<i32>()));
        if len < HEADER_BYTES || len > rest.len() {
            return Err(malformed("has a part of an impossible length"));
        }
        let is_error = matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        );
        if is_error && let Some(confirmation) = parse_extended(&rest[HEADER_BYTES..len])? {
            found = ErrorMessage::ZeroCopy(confirmation);
        }
        // The last part may go without its padding.
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    Ok(found)
}

/// `struct sock_extended_err`, `include/uapi/linux/errqueue.h`: errno (4 bytes), origin, type,
/// code and padding (1 each), info and data (4 each). The address of the offender follows.
fn parse_extended(bytes: &[u8]) -> io::Result<Option<Confirmation>> {
    if bytes.len() < EXTENDED_BYTES {
        return Err(malformed("has an error that is too short"));
    }
    let (origin, code) = (bytes[4], bytes[6]);
    if origin != SO_EE_ORIGIN_ZEROCOPY {
        return Ok(None);
    }
    Ok(Some(Confirmation {
        first: u32::from_ne_bytes(array(bytes, 8)),
        last: u32::from_ne_bytes(array(bytes, 12)),
        copied: code & SO_EE_CODE_ZEROCOPY_COPIED != 0,
    }))
}

/// The bytes from `at` on, of which the caller knows that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cold]
fn malformed(what: &str) -> io::Error {
    let text = format!("a message on the error queue {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// `struct cmsghdr`: length (a `size_t`), level and type (4 bytes each).
const HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<i32>();
const EXTENDED_BYTES: usize = 16;
const CONTROL_BYTES: usize = 512;
// `include/uapi/linux/errqueue.h`.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

const _: () = assert!(HEADER_BYTES == size_of::<libc::cmsghdr>());
const _: () = assert!(EXTENDED_BYTES == size_of::<libc::sock_extended_err>());

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    const V4: (i32, i32) = (libc::SOL_IP, libc::IP_RECVERR);
    const V6: (i32, i32) = (libc::SOL_IPV6, libc::IPV6_RECVERR);

    fn part((level, kind): (i32, i32), data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    fn extended(origin: u8, code: u8, first: u32, last: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, origin, 0, code, 0];
        bytes.extend(first.to_ne_bytes());
        bytes.extend(last.to_ne_bytes());
        // The address of the offender.
        bytes.resize(bytes.len() + 28, 0);
        bytes
    }

    fn zero_copy(first: u32, last: u32, copied: bool) -> ErrorMessage {
        ErrorMessage::ZeroCopy(Confirmation { first, last, copied })
    }

    fn parse(bytes: &[u8]) -> ErrorMessage {
        parse_error_message(bytes, false).unwrap()
    }

    #[test]
    fn confirmations_of_both_families_are_understood() {
        for family in [V4, V6] {
            for (code, copied) in [(0, false), (1, true), (0xFE, false), (0xFF, true)] {
                let message = part(family, &extended(5, code, 3, 8));
                assert_eq!(parse(&message), zero_copy(3, 8, copied));
            }
            let around = part(family, &extended(5, 0, u32::MAX, 1));
            assert_eq!(parse(&around), zero_copy(u32::MAX, 1, false));
        }
    }

    #[test]
    fn messages_of_other_kinds_are_told_apart() {
        assert_eq!(parse(&[]), ErrorMessage::Other);
        // SO_EE_ORIGIN_NONE, _LOCAL, _ICMP, _ICMP6, _TXSTATUS, _TXTIME.
        for origin in [0, 1, 2, 3, 4, 6, 255] {
            for family in [V4, V6] {
                let message = part(family, &extended(origin, 1, 3, 8));
                assert_eq!(parse(&message), ErrorMessage::Other, "origin {origin}");
            }
        }
        let error = extended(5, 0, 3, 8);
        let others = [
            (libc::SOL_SOCKET, libc::IP_RECVERR),
            (libc::SOL_IP, libc::IPV6_RECVERR),
            (libc::SOL_IPV6, libc::IP_RECVERR),
            (libc::SOL_IP, libc::IP_TTL),
        ];
        for other in others {
            assert_eq!(parse(&part(other, &error)), ErrorMessage::Other, "{other:?}");
        }
    }

    #[test]
    fn a_confirmation_is_found_behind_and_before_other_parts() {
        let timestamp = part((libc::SOL_SOCKET, libc::SCM_TIMESTAMPING), &[1; 48]);
        let odd = part((libc::SOL_SOCKET, libc::SO_TIMESTAMP), &[1; 3]);
        let error = part(V6, &extended(5, 1, 3, 8));
        for parts in [[&timestamp, &odd, &error], [&error, &odd, &timestamp]] {
            let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
            assert_eq!(parse(&bytes), zero_copy(3, 8, true));
        }
        // The last part without its padding, and what is too short for a header.
        let last = [&error[..], &part(V4, &[0; 17])[..HEADER_BYTES + 17]].concat();
        assert_eq!(parse(&last), zero_copy(3, 8, true));
        assert_eq!(parse(&[&error[..], &[0; HEADER_BYTES - 1]].concat()), zero_copy(3, 8, true));
    }

    #[test]
    fn truncated_and_malformed_messages_are_errors() {
        let kind = |bytes: &[u8], truncated| match parse_error_message(bytes, truncated) {
            Ok(message) => panic!("{message:?}"),
            Err(error) => error.kind(),
        };
        let whole = part(V4, &extended(5, 0, 3, 8));
        assert_eq!(kind(&whole, true), io::ErrorKind::InvalidData);
        // The header claims more than there is.
        for len in HEADER_BYTES..whole.len() - size_of::<usize>() {
            assert_eq!(kind(&whole[..len], false), io::ErrorKind::InvalidData, "{len}");
        }
        // The extended error is too short.
        for len in 0..EXTENDED_BYTES {
            let short = part(V6, &extended(5, 0, 3, 8)[..len]);
            assert_eq!(kind(&short, false), io::ErrorKind::InvalidData, "{len}");
        }
        // The header claims less than itself, or nearly everything.
        for claimed in [0, 1, HEADER_BYTES - 1, usize::MAX, usize::MAX - 7, isize::MAX as usize] {
            let mut bytes = whole.clone();
            bytes[..size_of::<usize>()].copy_from_slice(&claimed.to_ne_bytes());
            assert_eq!(kind(&bytes, false), io::ErrorKind::InvalidData, "{claimed}");
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        // A small generator is enough: lengths and types are what matters.
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let mut bytes = part(if next() % 2 == 0 { V4 } else { V6 }, &extended(5, 0, 3, 8));
            for _ in 0..next() % 4 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() as usize % (bytes.len() + 1));
            let _ = parse_error_message(&bytes, false);
        }
    }

    #[test]
    fn a_send_is_confirmed_on_the_error_queue() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                println!("skipped: no {host}");
                continue;
            };
            let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_receiver, _) = listener.accept().unwrap();
            let empty = read_error_queue(sender.as_fd()).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
            assert!(enable_zero_copy(sender.as_fd()).unwrap());
            assert!(!enable_zero_copy(sender.as_fd()).unwrap(), "it was on already");
            let block = [7; 4096];
            assert_eq!(send_zero_copy(sender.as_fd(), &[IoSlice::new(&block)]).unwrap(), 4096);
            let mut fds = [rustix::event::PollFd::new(&sender, rustix::event::PollFlags::empty())];
            let limit = rustix::event::Timespec { tv_sec: 15, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
            // The loopback device copies, always.
            assert_eq!(read_error_queue(sender.as_fd()).unwrap(), zero_copy(0, 0, true));
        }
    }

    #[test]
    fn a_socket_that_cannot_says_so() {
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(enable_zero_copy(left.as_fd()).is_err());
        let error = read_error_queue(left.as_fd()).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidData);
    }
}
