//! What an operation may ask of a channel.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::BorrowedFd;

use super::{Base, Channel, Features, MAX_FDS_PER_MESSAGE, ReadFlags, WriteFlags};

#[inline]
pub(super) fn check_read<C: Channel + ?Sized>(
    channel: &C,
    flags: ReadFlags,
    with_fds: bool,
) -> Result<()> {
    if flags.contains(ReadFlags::PEEK) {
        require(channel, Features::PEEK, "peeking")?;
        if with_fds {
            return Err(invalid(channel.as_channel(), "a peek cannot take descriptors"));
        }
    }
    if with_fds { require(channel, Features::FD_PASS, "receiving descriptors") } else { Ok(()) }
}

#[inline]
pub(super) fn check_write<C: Channel + ?Sized>(
    channel: &C,
    flags: WriteFlags,
    fds: &[BorrowedFd<'_>],
) -> Result<()> {
    if flags.contains(WriteFlags::CREDENTIALS) {
        require(channel, Features::FD_PASS, "sending credentials")?;
    }
    if fds.is_empty() {
        return Ok(());
    }
    require(channel, Features::FD_PASS, "sending descriptors")?;
    if fds.len() > MAX_FDS_PER_MESSAGE {
        let text = format!(
            "{} descriptors in one message, the kernel takes {MAX_FDS_PER_MESSAGE}",
            fds.len()
        );
        return Err(invalid(channel.as_channel(), &text));
    }
    Ok(())
}

#[inline]
pub(super) fn require<C: Channel + ?Sized>(
    channel: &C,
    feature: Features,
    what: &str,
) -> Result<()> {
    let base = channel.base();
    if base.features().contains(feature) { Ok(()) } else { Err(unsupported(base, what)) }
}

#[cold]
pub(super) fn unsupported(base: &Base, what: &str) -> Error {
    let text = format!("{}: {what} is not supported by this channel", base.name());
    Error::new(ErrorKind::Unsupported, text)
}

#[cold]
pub(super) fn invalid(channel: &dyn Channel, text: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{}: {text}", channel.base().name()))
}
