//! The rarer reads and writes: with several buffers, and with what travels beside the bytes.
//!
//! Functions of their own, so that the stack space for their control messages is not part of every
//! read and write.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use qio_os::Ancillary;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, UCred, sockopt,
};

use super::Socket;
use crate::channel::{
    FdSink, MAX_FDS_PER_MESSAGE, PeerCredentials, ReadFlags, ReadOp, WriteFlags, WriteOp,
};
use crate::transport::iov::{one_call, one_call_mut};

#[inline(never)]
pub(super) fn receive_vectored(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    flags: RecvFlags,
) -> Result<usize> {
    let bufs = one_call_mut(bufs);
    let mut control = RecvAncillaryBuffer::default();
    match retry_on_intr(|| rustix::net::recvmsg(fd, bufs, &mut control, flags)) {
        Ok(got) if got.bytes > 0 => {
            // Credentials that nobody looks at are cut off, too.
            let cut_off = got.flags.contains(ReturnFlags::CTRUNC);
            if cut_off && !sockopt::socket_passcred(fd).unwrap_or(false) {
                event!(
                    warn,
                    channel = %socket.base.name(),
                    "descriptors came that nobody asked for, and were closed"
                );
            }
            Ok(got.bytes)
        }
        end => socket.unless_closed(end.map(|got| got.bytes)),
    }
}

#[inline(never)]
pub(super) fn receive_with_fds(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    op: &mut ReadOp<'_, '_>,
    flags: RecvFlags,
) -> Result<usize> {
    let make_blocking = op.flags().contains(ReadFlags::BLOCKING_FDS);
    let (bufs, sink) = op.parts();
    let Some(sink) = sink else { return Err(ErrorKind::InvalidInput.into()) };
    let bufs = one_call_mut(bufs);
    let before = sink.fds().len();
    match receive_beside(fd, bufs, sink, make_blocking, flags) {
        Ok(got) if got.bytes > 0 => got.checked(sink, before),
        got => socket.unless_closed(got.map(|got| got.bytes)),
    }
}

/// What a read with a sink brought; the descriptors are in the sink already.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Beside {
    /// How many bytes; more than there was room for, if the flags ask for that.
    pub(in crate::transport) bytes: usize,
    sender: Option<PeerCredentials>,
    /// Descriptors came for which there was no room.
    overflow: bool,
    /// Whether all descriptors have the mode that was asked for.
    mode: rustix::io::Result<()>,
}

/// Receives bytes, and what comes beside them into a sink.
pub(in crate::transport) fn receive_beside(
    fd: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    sink: &mut FdSink,
    make_blocking: bool,
    flags: RecvFlags,
) -> rustix::io::Result<Beside> {
    let room = sink.room().min(MAX_FDS_PER_MESSAGE);
    let (mut sender, mut overflow, mut mode) = (None, false, Ok(()));
    let got = retry_on_intr(|| {
        qio_os::receive_message(fd, bufs, room, flags, |came| match came {
            Ancillary::Fd(fd) => {
                if make_blocking && mode.is_ok() {
                    mode = rustix::io::ioctl_fionbio(&fd, false);
                }
                overflow |= sink.push(fd).is_err();
            }
            Ancillary::Credentials(pid, uid, gid) => {
                sender = Some(PeerCredentials::new(pid, uid, gid));
            }
            _ => {}
        })
    })?;
    Ok(Beside { bytes: got.bytes, sender, overflow: overflow || got.truncated, mode })
}

impl Beside {
    /// The bytes, unless something beside them is lost; tells the sink who has sent them. `before`
    /// is how many descriptors it had.
    pub(in crate::transport) fn checked(self, sink: &mut FdSink, before: usize) -> Result<usize> {
        sink.set_sender(self.sender);
        if self.mode.is_err() {
            // Nobody gets descriptors in another mode than was asked for.
            sink.truncate(before);
        }
        self.mode?;
        if self.overflow { Err(too_many_fds(sink)) } else { Ok(self.bytes) }
    }
}

#[cold]
fn too_many_fds(sink: &FdSink) -> Error {
    let text = format!(
        "more descriptors arrived than there was room for ({} taken): the rest is lost",
        sink.fds().len()
    );
    Error::new(ErrorKind::InvalidData, text)
}

#[inline(never)]
pub(super) fn send_vectored(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    flags: SendFlags,
) -> Result<usize> {
    let mut control = SendAncillaryBuffer::default();
    let bufs = one_call(bufs);
    match retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags)) {
        Ok(n) => Ok(n),
        error => socket.not_written(error),
    }
}

#[inline(never)]
pub(super) fn send_with_fds(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    sender: Option<UCred>,
    flags: SendFlags,
) -> Result<usize> {
    match send_beside(fd, one_call(bufs), fds, sender, flags) {
        Ok(n) => Ok(n),
        error => socket.unless_closed(error),
    }
}

/// Sends bytes with what goes beside them.
pub(in crate::transport) fn send_beside(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    sender: Option<UCred>,
    flags: SendFlags,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SEND_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The space is that of the largest message, and the number was checked against it.
    let mut fits = fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds));
    if let Some(sender) = sender {
        fits &= control.push(SendAncillaryMessage::ScmCredentials(sender));
    }
    debug_assert!(fits, "checked when the operation was made");
    retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags))
}

/// Who we are, if a write says so.
pub(in crate::transport) fn sender(flags: WriteFlags) -> Option<UCred> {
    flags.contains(WriteFlags::CREDENTIALS).then(|| UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::geteuid(),
        gid: rustix::process::getegid(),
    })
}

/// A write with flags, which leaves the plain one a single look at whether there are any.
#[inline(never)]
pub(super) fn send_flagged(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    op: &WriteOp<'_, '_>,
) -> Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    if socket.dont_wait(op.flags().contains(WriteFlags::NONBLOCK)) {
        flags |= SendFlags::DONTWAIT;
    }
    match (op.bufs(), op.fds(), sender(op.flags())) {
        // What layers and relays do all the time.
        ([buf], [], None) => match retry_on_intr(|| rustix::net::send(fd, buf, flags)) {
            Ok(n) => Ok(n),
            error => socket.not_written(error),
        },
        (bufs, [], None) => send_vectored(socket, fd, bufs, flags),
        (bufs, fds, sender) => send_with_fds(socket, fd, bufs, fds, sender, flags),
    }
}

const SEND_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS_PER_MESSAGE), ScmCredentials(1));
