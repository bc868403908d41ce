//! Opening a FIFO without waiting for its other end.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::end::{End, Ownership};
use super::pipe::Pipe;
use crate::interest::Direction;
use crate::watch::{PollSet, Steps};

/// The opening of a FIFO for writing, which succeeds when a reader has it open.
///
/// The kernel announces a reader to nobody but a blocked open(2), which could not be given up. So
/// this looks again, after 1 ms at first and every 50 ms at last.
///
/// A terminal or another character device opens at once. Made by
/// [`Pipe::open_fifo_write`]; dropping it gives up.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::time::{Duration, Instant};
/// use qio::{transport::Pipe, watch::run};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("fifo");
/// # rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU)?;
/// let until = Instant::now() + Duration::from_millis(5);
/// match run(Pipe::open_fifo_write(&path), Some(until))? {
///     ControlFlow::Break(opened) => println!("{:?}", opened?),
///     ControlFlow::Continue(_opening) => println!("nobody reads yet"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OpenFifo {
    path: PathBuf,
    /// When to look again, and how long to wait after that.
    next: Option<Instant>,
    pause: Duration,
}

/// Short enough that a reader that is about to come costs no delay that anybody notices.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Twenty system calls a second are nothing, and a twentieth of a second is still prompt.
const LAST_PAUSE: Duration = Duration::from_millis(50);

impl Pipe {
    /// Opens the reading end of the FIFO at `path`, at once.
    ///
    /// Until the first writer has come, a read would-blocks; once the last one has gone, it gives
    /// the end of the stream, for good. A terminal or another character device is fine too, and
    /// never becomes the controlling terminal.
    ///
    /// # Errors
    ///
    /// What open(2) reports; anything else at `path` is refused.
    pub fn open_fifo_read(path: impl AsRef<Path>) -> crate::Result<Self> {
        open_read(path.as_ref())
    }

    /// Starts to open the writing end of the FIFO at `path`, which is done when there is a reader.
    ///
    /// Never blocks: the result is [`Steps`](crate::watch::Steps), to be worked off by
    /// [`run`](crate::watch::run) or an event loop.
    pub fn open_fifo_write(path: impl AsRef<Path>) -> OpenFifo {
        OpenFifo::new(path.as_ref())
    }
}

impl OpenFifo {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), next: None, pause: FIRST_PAUSE }
    }

    fn attempt(&self) -> Result<Option<Pipe>> {
        let end = match open(&self.path, OFlags::WRONLY) {
            Ok(fd) => end(fd, Direction::Write)?,
            Err(Errno::NXIO) if is_fifo(&self.path)? => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Pipe::from_ends("fifo", None, Some(end))))
    }
}

impl Steps for OpenFifo {
    type Output = crate::Result<Pipe>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if self.next.is_some_and(|next| next > now) {
            return Poll::Pending;
        }
        match self.attempt() {
            Ok(Some(pipe)) => Poll::Ready(Ok(pipe)),
            Ok(None) => {
                self.next = Some(now + self.pause);
                self.pause = LAST_PAUSE.min(self.pause * 2);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(failed(&self.path, error))),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        set.wake_at(self.next.unwrap_or_else(Instant::now));
    }
}

/// Opens the reading end, which needs no writer.
fn open_read(path: &Path) -> crate::Result<Pipe> {
    open(path, OFlags::RDONLY)
        .map_err(Error::from)
        .and_then(|fd| end(fd, Direction::Read))
        .map(|end| Pipe::from_ends("fifo", Some(end), None))
        .map_err(|error| failed(path, error))
}

fn open(path: &Path, access: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn end(fd: OwnedFd, direction: Direction) -> Result<End> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd.as_fd())?.st_mode);
    match (kind, direction) {
        (FileType::Fifo, Direction::Read) => {
            Ok(End::new(fd, direction, Ownership::Exclusive)?.awaiting_writer())
        }
        (FileType::Fifo | FileType::CharacterDevice, _) => {
            End::new(fd, direction, Ownership::Exclusive)
        }
        _ => {
            Err(Error::new(ErrorKind::InvalidInput, "it is neither a FIFO nor a character device"))
        }
    }
}

/// `ENXIO` also comes from sockets and from devices that are not there.
fn is_fifo(path: &Path) -> Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode) == FileType::Fifo)
}

fn failed(path: &Path, cause: Error) -> crate::Error {
    crate::Error::os("open", format_args!("pipe:{}", path.display()), cause)
}
