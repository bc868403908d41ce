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
    let room = sink.room().min(MAX_FDS_PER_MESSAGE);
    let before = sink.fds().len();
    let (mut sender, mut overflow, mut mode) = (None, false, Ok(()));
    let received = retry_on_intr(|| {
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
    });
    let got = match received {
        Ok(got) if got.bytes > 0 => got,
        got => return socket.unless_closed(got.map(|got| got.bytes)),
    };
    sink.set_sender(sender);
    if mode.is_err() {
        // Nobody gets descriptors in another mode than was asked for.
        sink.truncate(before);
    }
    mode?;
    if overflow || got.truncated {
        return Err(too_many_fds(sink));
    }
    Ok(got.bytes)
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
    let mut space = [MaybeUninit::uninit(); SEND_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The space is that of the largest message, and the number was checked against it.
    let mut fits = fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds));
    if let Some(sender) = sender {
        fits &= control.push(SendAncillaryMessage::ScmCredentials(sender));
    }
    debug_assert!(fits, "checked when the operation was made");
    let bufs = one_call(bufs);
    match retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags)) {
        Ok(n) => Ok(n),
        error => socket.unless_closed(error),
    }
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
    let sender = op.flags().contains(WriteFlags::CREDENTIALS).then(|| UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::geteuid(),
        gid: rustix::process::getegid(),
    });
    match (op.fds(), sender) {
        ([], None) => send_vectored(socket, fd, op.bufs(), flags),
        (fds, sender) => send_with_fds(socket, fd, op.bufs(), fds, sender, flags),
    }
}

const SEND_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS_PER_MESSAGE), ScmCredentials(1));
