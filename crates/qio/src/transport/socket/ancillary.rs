//! The rarer reads and writes: with several buffers, and with what travels beside the bytes.
//!
//! Functions of their own, so that the stack space for their control messages is not part of every
//! read and write.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::Socket;
use crate::channel::{FdSink, MAX_FDS_PER_MESSAGE, ReadFlags, ReadOp};
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
            if got.flags.contains(ReturnFlags::CTRUNC) {
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
    let mut space = [MaybeUninit::uninit(); FD_CONTROL_BYTES];
    let room = match sink.room().min(MAX_FDS_PER_MESSAGE) {
        0 => 0,
        room => rustix::cmsg_space!(ScmRights(room)),
    };
    let mut control = RecvAncillaryBuffer::new(&mut space[..room]);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = match retry_on_intr(|| rustix::net::recvmsg(fd, bufs, &mut control, flags)) {
        Ok(got) if got.bytes > 0 => got,
        got => return socket.unless_closed(got.map(|got| got.bytes)),
    };
    take_fds(&mut control, sink, make_blocking)?;
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(too_many_fds(sink));
    }
    Ok(got.bytes)
}

/// Moves what arrived into the sink; what does not fit is closed, and an error. All of it is closed
/// when the mode of one cannot be changed: nobody gets descriptors in another mode than was asked for.
fn take_fds(
    control: &mut RecvAncillaryBuffer<'_>,
    sink: &mut FdSink,
    make_blocking: bool,
) -> Result<()> {
    let before = sink.fds().len();
    let mut result = Ok(());
    let mut mode = Ok(());
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(fds) = message else { continue };
        for fd in fds {
            if make_blocking {
                mode = mode.and(rustix::io::ioctl_fionbio(&fd, false));
            }
            if sink.push(fd).is_err() {
                result = Err(too_many_fds(sink));
            }
        }
    }
    if mode.is_err() {
        sink.truncate(before);
    }
    Ok(mode?).and(result)
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
        error => socket.unless_closed(error),
    }
}

#[inline(never)]
pub(super) fn send_with_fds(
    socket: &Socket,
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); FD_CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The space is that of the largest message, and the number was checked against it.
    let fits = control.push(SendAncillaryMessage::ScmRights(fds));
    debug_assert!(fits, "checked when the operation was made");
    let bufs = one_call(bufs);
    match retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut control, flags)) {
        Ok(n) => Ok(n),
        error => socket.unless_closed(error),
    }
}

const FD_CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_FDS_PER_MESSAGE));
