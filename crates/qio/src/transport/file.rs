//! Regular files and block devices.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Result, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::end::not_opened;
use super::iov::{one_call, one_call_mut};
use crate::channel::{Base, Channel, Features, ReadOp, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{PollSet, SharedFd, Slot, closed, release};

/// A regular file or a block device.
///
/// Always ready: reads and writes never would-block, but they may wait for a disk
/// ([`Features::STORAGE`]), in either mode. The end of the file is a position, not a state: a read
/// at the end gives 0, and data again once there is some. `close` never waits for the disk either:
/// what must survive a crash is asked for with [`sync`](File::sync).
///
/// A file that was opened for appending writes at its end only; a write at an offset is
/// `Unsupported` there, because the kernel would append it.
///
/// QEMU's `QIOChannelFile`.
///
/// ```
/// use std::fs::OpenOptions;
/// use std::io::SeekFrom;
/// use qio::{Channel, ChannelExt, transport::File};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("state");
/// let file = File::open(&path, OpenOptions::new().read(true).write(true).create_new(true))?;
/// file.write_all(b"hello")?;
/// file.seek(SeekFrom::Start(1))?;
/// let mut buf = [0; 4];
/// file.read_exact(&mut buf)?;
/// assert_eq!(&buf, b"ello");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOChannelFile")]
#[derive(Debug)]
pub struct File {
    base: Base,
    slot: Slot,
    /// `O_APPEND`: the kernel chooses where writes go.
    append: bool,
}

impl File {
    /// Opens the file at `path`, with CLOEXEC.
    ///
    /// A FIFO, a device that is no block device, a socket or a directory is refused; the first two
    /// are for [`Pipe`](super::Pipe).
    ///
    /// # Errors
    ///
    /// What open(2) reports, and what [`from_fd`](File::from_fd) refuses.
    #[doc(alias = "qio_channel_file_new_path")]
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> crate::Result<Self> {
        let path = path.as_ref();
        let failed =
            |cause| crate::Error::os("open", format_args!("file:{}", path.display()), cause);
        // Opening a FIFO waits for its other end, without a limit, before it could be refused.
        if let Ok(stat) = rustix::fs::stat(path) {
            check_type(FileType::from_raw_mode(stat.st_mode)).map_err(failed)?;
        }
        let file = options.open(path).map_err(failed)?;
        Self::from_fd(file.into()).map_err(|(cause, _fd)| failed(cause))
    }

    /// Takes over the descriptor of a regular file or a block device.
    ///
    /// The position belongs to the open file: where other processes share it, they move it too.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the descriptor given back, untouched, when it is anything else.
    #[doc(alias = "qio_channel_file_new_fd")]
    #[doc(alias = "qio_channel_file_new_dupfd")]
    pub fn from_fd(fd: OwnedFd) -> std::result::Result<Self, (Error, OwnedFd)> {
        match probe(fd.as_fd()) {
            Ok((features, append)) => {
                Ok(Self { base: Base::new("file", features), slot: Slot::new(fd), append })
            }
            Err(error) => Err((error, fd)),
        }
    }

    /// How many bytes the file has, or the block device holds.
    ///
    /// # Errors
    ///
    /// What fstat(2) reports; `NotConnected` once closed.
    #[expect(clippy::len_without_is_empty, reason = "asks the kernel, and can fail")]
    pub fn len(&self) -> Result<u64> {
        let fd = self.slot.borrow()?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
            return qio_os::block_device_len(fd.as_fd());
        }
        Ok(stat.st_size.try_into().unwrap_or(0))
    }

    /// Waits until data and metadata are on the disk: fsync(2).
    ///
    /// # Errors
    ///
    /// What fsync(2) reports: writes that failed after they had been accepted.
    pub fn sync(&self) -> Result<()> {
        let fd = self.slot.borrow()?;
        repeat(|| rustix::fs::fsync(&fd))
    }

    /// Waits until the data is on the disk, and what is needed to read it: fdatasync(2).
    ///
    /// # Errors
    ///
    /// As [`sync`](File::sync).
    pub fn sync_data(&self) -> Result<()> {
        let fd = self.slot.borrow()?;
        repeat(|| rustix::fs::fdatasync(&fd))
    }

    /// Shares ownership of the descriptor, for calls that have no method here.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn descriptor(&self) -> Result<SharedFd> {
        self.slot.share().ok_or_else(closed)
    }

    fn require(&self, feature: Features, direction: Direction) -> Result<()> {
        if self.base.features().contains(feature) { Ok(()) } else { Err(not_opened(direction)) }
    }
}

impl Channel for File {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        self.require(Features::READ, Direction::Read)?;
        let offset = op.offset();
        let bufs = one_call_mut(op.bufs());
        repeat(|| match offset {
            Some(offset) => rustix::io::preadv(&fd, bufs, offset),
            None => rustix::io::readv(&fd, bufs),
        })
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let fd = self.slot.borrow()?;
        self.require(Features::WRITE, Direction::Write)?;
        let offset = op.offset();
        let bufs = one_call(op.bufs());
        if offset.is_some() && self.append {
            let text = "opened for appending: a write cannot choose its place";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        repeat(|| match offset {
            Some(offset) => rustix::io::pwritev(&fd, bufs, offset),
            None => rustix::io::writev(&fd, bufs),
        })
    }

    fn watch(&self, interest: Interest, _set: &mut PollSet) -> Readiness {
        let ready = Readiness::from(interest);
        if self.slot.is_empty() { ready | Readiness::HANGUP } else { ready }
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        self.slot.take().map_or(Ok(()), release)
    }

    fn finish(&self) -> Result<()> {
        self.slot.borrow().map(drop)
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        let fd = self.slot.borrow()?;
        if !self.base.features().contains(Features::SEEK) {
            return Err(ErrorKind::Unsupported.into());
        }
        let to = match to {
            SeekFrom::Start(offset) => rustix::fs::SeekFrom::Start(offset),
            SeekFrom::Current(offset) => rustix::fs::SeekFrom::Current(offset),
            SeekFrom::End(offset) => rustix::fs::SeekFrom::End(offset),
        };
        Ok(rustix::fs::seek(&fd, to)?)
    }

    /// The file itself, at its position. Splicing from or to it may wait for a disk, like every
    /// read and write of a [`Features::STORAGE`] channel.
    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        let features = self.base.features();
        let fits = match direction {
            Direction::Read => features.contains(Features::READ),
            // splice(2) refuses to append.
            Direction::Write => features.contains(Features::WRITE) && !self.append,
        };
        if fits { self.slot.share() } else { None }
    }
}

/// What a descriptor can do, and whether it appends; an error when it is not a file.
fn probe(fd: BorrowedFd<'_>) -> Result<(Features, bool)> {
    check_type(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))?;
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if flags.contains(OFlags::PATH) {
        let text = "the descriptor names a file, it does not open it (O_PATH)";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    let access = flags & OFlags::ACCMODE;
    let mut features = Features::STORAGE;
    features.set(Features::READ, access != OFlags::WRONLY);
    features.set(Features::WRITE, access != OFlags::RDONLY);
    features.set(Features::SEEK, rustix::fs::tell(fd).is_ok());
    Ok((features, flags.contains(OFlags::APPEND)))
}

fn check_type(kind: FileType) -> Result<()> {
    let text = match kind {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "it is a directory",
        FileType::Fifo => "it is a FIFO, which is opened as a pipe",
        FileType::CharacterDevice => "it is a character device, which is opened as a pipe",
        FileType::Socket => "it is a socket, which is connected to",
        _ => "it is neither a file nor a block device",
    };
    Err(Error::new(ErrorKind::InvalidInput, text))
}

fn repeat<R>(mut call: impl FnMut() -> rustix::io::Result<R>) -> Result<R> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
