//! Pipes, FIFOs, terminals and inherited standard streams.

use std::io::{ErrorKind, Result};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::pipe::PipeFlags;

use super::end::{End, Ownership, not_opened};
use crate::channel::{Base, Channel, Features, ReadOp, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{Borrowed, PollSet, SharedFd, closed};

/// Up to two one-way descriptors as one channel: read from one, write to the other.
///
/// For pipes, FIFOs, terminals, character devices, and for a program's standard input and output.
/// A direction that was not opened is `Unsupported` to use. `finish` closes the write descriptor,
/// which is what the reader of a pipe sees as the end.
///
/// Blocking mode is never a property of the descriptors: those of our own are non-blocking, those
/// shared with other processes keep their flags, and blocking reads and writes wait in poll(2).
///
/// ```
/// use qio::{ChannelExt, transport::Pipe};
///
/// # fn main() -> std::io::Result<()> {
/// let (reader, writer) = Pipe::pair()?;
/// writer.write_all(b"done")?;
/// writer.finish_all(None)?;
/// let mut text = [0; 4];
/// reader.read_exact(&mut text)?;
/// assert_eq!(&text, b"done");
/// assert_eq!(reader.read(&mut text)?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipe {
    base: Base,
    input: Option<End>,
    output: Option<End>,
    closed: AtomicBool,
    finished: AtomicBool,
}

impl Pipe {
    /// A pipe: what the second channel writes, the first reads.
    ///
    /// # Errors
    ///
    /// What pipe(2) reports: the limit of open files.
    pub fn pair() -> Result<(Self, Self)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self::from_fds(Some(read), None)?, Self::from_fds(None, Some(write))?))
    }

    /// Takes over descriptors that no other process uses, and makes them non-blocking.
    ///
    /// # Errors
    ///
    /// What fcntl(2) and fstat(2) report.
    #[doc(alias = "qio_channel_command_new_pid")]
    pub fn from_fds(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Self> {
        Self::new("pipe", input, output, Ownership::Exclusive)
    }

    /// Takes over descriptors whose open files other processes use too: their flags are not
    /// touched.
    ///
    /// # Errors
    ///
    /// What fstat(2) reports.
    pub fn from_shared_fds(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Self> {
        Self::new("pipe", input, output, Ownership::Shared)
    }

    /// This program's standard input and output, through duplicates of descriptors 0 and 1.
    ///
    /// A program that takes the descriptors themselves ([`from_shared_fds`](Pipe::from_shared_fds))
    /// lets `finish` end its output for the next program of a pipeline; with duplicates, that
    /// happens when this program ends.
    ///
    /// # Errors
    ///
    /// What fcntl(2) reports: the limit of open files, or a closed descriptor.
    pub fn stdio() -> Result<Self> {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        Self::new("stdio", Some(input), Some(output), Ownership::Shared)
    }

    pub(super) fn new(
        kind: &'static str,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        ownership: Ownership,
    ) -> Result<Self> {
        let input = input.map(|fd| End::new(fd, Direction::Read, ownership)).transpose()?;
        let output = output.map(|fd| End::new(fd, Direction::Write, ownership)).transpose()?;
        Ok(Self::from_ends(kind, input, output))
    }

    /// Both ends of a terminal of our own, which has no half-close: neither direction can be shut
    /// down by itself.
    pub(super) fn terminal(kind: &'static str, fd: OwnedFd) -> Result<Self> {
        let second = rustix::io::fcntl_dupfd_cloexec(&fd, 3)?;
        let mut pipe = Self::new(kind, Some(fd), Some(second), Ownership::Exclusive)?;
        pipe.base = Base::new(kind, Features::DUPLEX);
        Ok(pipe)
    }

    pub(super) fn from_ends(kind: &'static str, input: Option<End>, output: Option<End>) -> Self {
        let mut features = Features::SHUTDOWN;
        features.set(Features::READ, input.is_some());
        features.set(Features::WRITE, output.is_some());
        let storage = |end: &Option<End>| end.as_ref().is_some_and(End::is_storage);
        features.set(Features::STORAGE, storage(&input) || storage(&output));
        Self {
            base: Base::new(kind, features),
            input,
            output,
            closed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }

    /// The descriptor that is written to, for what is neither reading nor writing.
    pub(super) fn descriptor(&self) -> Result<Borrowed<'_>> {
        let output = self.output.as_ref().ok_or_else(|| not_opened(Direction::Write))?;
        output.descriptor()
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }
}

impl Channel for Pipe {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let Some(input) = &self.input else { return Err(not_opened(Direction::Read)) };
        match input.read(op) {
            // Shut down by us for reading, and not closed: the end of the stream.
            Err(error) if error.kind() == ErrorKind::NotConnected => self.check_open().map(|()| 0),
            result => result,
        }
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let Some(output) = &self.output else { return Err(not_opened(Direction::Write)) };
        match output.write(op) {
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.check_open()?;
                Err(ErrorKind::BrokenPipe.into())
            }
            result => result,
        }
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let mut ready = Readiness::empty();
        if interest.contains(Interest::READ) {
            let end = self.input.as_ref();
            ready |= end.map_or(Readiness::READ | Readiness::ERROR, |end| end.watch(set));
        }
        if interest.contains(Interest::WRITE) {
            let end = self.output.as_ref();
            ready |= end.map_or(Readiness::WRITE | Readiness::ERROR, |end| end.watch(set));
        }
        if interest.is_empty()
            && let Some(output) = &self.output
        {
            ready |= output.watch_hangup(set);
        }
        ready
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        if !self.closed.swap(true, Ordering::AcqRel) {
            event!(debug, channel = %self.base.name(), "closed");
        }
        let input = self.input.as_ref().map_or(Ok(()), End::close);
        let output = self.output.as_ref().map_or(Ok(()), End::close);
        output.and(input)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.check_open()?;
        if !self.base.features().contains(Features::SHUTDOWN) {
            return Err(ErrorKind::Unsupported.into());
        }
        if let (Some(input), true) = (&self.input, how != Shutdown::Write) {
            input.close()?;
        }
        if let (Some(output), true) = (&self.output, how != Shutdown::Read) {
            output.close()?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.check_open()?;
        let Some(output) = &self.output else { return Ok(()) };
        if self.finished.swap(true, Ordering::AcqRel) { Ok(()) } else { output.finish() }
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        let end = match direction {
            Direction::Read => &self.input,
            Direction::Write => &self.output,
        };
        end.as_ref().and_then(End::splice_fd)
    }
}
