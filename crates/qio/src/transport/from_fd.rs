//! The channel that fits a descriptor.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::end::{End, Ownership};
use super::{File, Messages, Pipe, Socket};
use crate::channel::Channel;
use crate::interest::Direction;

/// Makes the channel that fits a descriptor which no other process uses.
///
/// A connected stream socket becomes a [`Socket`], one that keeps messages apart (UDP, Unix datagrams,
/// Unix seqpacket) becomes [`Messages`], a regular file or a block device a [`File`], a
/// pipe, a FIFO, a terminal or another character device a [`Pipe`] of the directions that the
/// descriptor was opened for.
///
/// # Errors
///
/// `InvalidInput` with the descriptor given back, untouched, when no stream of bytes goes through
/// it: listening and unconnected sockets, directories, and the descriptors of epoll(7),
/// eventfd(2), pidfd_open(2) and the like. `EMFILE` when a terminal that is read and written needs
/// a second descriptor and there is none.
#[doc(alias = "qio_channel_new_fd")]
pub fn from_fd(fd: OwnedFd) -> std::result::Result<Arc<dyn Channel>, (Error, OwnedFd)> {
    adopt(fd, Ownership::Exclusive)
}

/// Makes the channel that fits a descriptor whose open file other processes use too (an inherited
/// one): its flags are never changed.
///
/// # Errors
///
/// As [`from_fd`].
pub fn from_shared_fd(fd: OwnedFd) -> std::result::Result<Arc<dyn Channel>, (Error, OwnedFd)> {
    adopt(fd, Ownership::Shared)
}

fn adopt(
    fd: OwnedFd,
    ownership: Ownership,
) -> std::result::Result<Arc<dyn Channel>, (Error, OwnedFd)> {
    match kind(fd.as_fd()) {
        Ok(Kind::Socket) => {
            let socket = match ownership {
                Ownership::Exclusive => Socket::from_fd(fd)?,
                Ownership::Shared => Socket::from_shared(fd)?,
            };
            Ok(Arc::new(socket))
        }
        Ok(Kind::Messages) => Ok(Arc::new(Messages::from_fd(fd)?)),
        Ok(Kind::File) => Ok(Arc::new(File::from_fd(fd)?)),
        Ok(Kind::Pipe) => Ok(Arc::new(pipe(fd, ownership)?)),
        Err(error) => Err((error, fd)),
    }
}

enum Kind {
    Socket,
    Messages,
    File,
    Pipe,
}

fn kind(fd: BorrowedFd<'_>) -> Result<Kind> {
    let refused = |text| Err(Error::new(ErrorKind::InvalidInput, text));
    // Newer kernels say "regular file" for some of what has no name.
    if ANONYMOUS.contains(&rustix::fs::fstatfs(fd)?.f_type) {
        return refused("no stream of bytes goes through the descriptor");
    }
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if flags.contains(OFlags::PATH) {
        return refused("the descriptor names a file, it does not open it (O_PATH)");
    }
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(Kind::File),
        FileType::Fifo | FileType::CharacterDevice => Ok(Kind::Pipe),
        FileType::Socket => match rustix::net::getpeername(fd) {
            // A listening socket has no peer either, and gets a better text from `Socket`.
            Err(Errno::NOTCONN) if !rustix::net::sockopt::socket_acceptconn(fd)? => {
                refused("the socket is not connected")
            }
            _ if rustix::net::sockopt::socket_type(fd)? == SocketType::STREAM => Ok(Kind::Socket),
            _ => Ok(Kind::Messages),
        },
        FileType::Directory => refused("the descriptor is that of a directory"),
        _ => refused("no stream of bytes goes through the descriptor"),
    }
}

fn pipe(fd: OwnedFd, ownership: Ownership) -> std::result::Result<Pipe, (Error, OwnedFd)> {
    // All that can fail comes first: a refused descriptor is given back as it was.
    let (access, second) = match access(fd.as_fd()) {
        Ok(prepared) => prepared,
        Err(error) => return Err((error, fd)),
    };
    let kind = match End::prepare(fd.as_fd(), ownership) {
        Ok(kind) => kind,
        Err(error) => return Err((error, fd)),
    };
    let end = |fd, direction| Some(End::with_kind(fd, direction, ownership, kind));
    let (input, output) = match access {
        OFlags::WRONLY => (None, end(fd, Direction::Write)),
        _ => (end(fd, Direction::Read), second.and_then(|fd| end(fd, Direction::Write))),
    };
    Ok(Pipe::from_ends("pipe", input, output))
}

/// What the descriptor was opened for, and a second one for writing when that is both.
fn access(fd: BorrowedFd<'_>) -> Result<(OFlags, Option<OwnedFd>)> {
    let access = rustix::fs::fcntl_getfl(fd)? & OFlags::ACCMODE;
    let second =
        if access == OFlags::RDWR { Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?) } else { None };
    Ok((access, second))
}

/// File systems whose files are no storage: `ANON_INODE_FS_MAGIC` (epoll, eventfd, timerfd,
/// signalfd, inotify…) and `PID_FS_MAGIC`, `include/uapi/linux/magic.h`.
const ANONYMOUS: [rustix::fs::FsWord; 2] = [0x0904_1934, 0x5049_4446];
