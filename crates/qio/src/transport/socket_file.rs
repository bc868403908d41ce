//! The file of a Unix socket's name.

use std::io::Result;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The file of a Unix socket, as it was when bind(2) made it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Remembers the file at `path`.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }

    /// Opens the file with these flags, unless it is no longer this one (`ENOENT`).
    pub(crate) fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) == self.identity { Ok(fd) } else { Err(Errno::NOENT) }
    }

    /// Removes the file if it is still this one. While the socket is open: its inode is not given
    /// to another file meanwhile, which would then be taken for this one.
    pub(crate) fn remove(&self) -> Result<()> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::unlink(&self.path) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

fn identity(path: &Path) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}
