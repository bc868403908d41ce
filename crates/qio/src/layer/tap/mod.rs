//! A copy of what goes through a channel, with times.
//!
//! # The format
//!
//! Version 1; numbers are little-endian. A recording begins with 24 bytes: the magic
//! `QIOTAP\r\n` (which shows when line ends were changed), the version as 16 bits, 6 bytes that are
//! 0 and are not looked at, and the time of the start as 64 bits, in nanoseconds since 1970. Then
//! come records:
//!
//! | Bytes | What |
//! |---|---|
//! | 1 | the kind, below |
//! | 3 | 0, not looked at |
//! | 4 | the number of the channel: one recording may be of several |
//! | 8 | when, in nanoseconds since the start (a clock that never jumps) |
//! | 4 | the length of what follows, at most 1 MiB |
//!
//! | Kind | What | What follows |
//! |---|---|---|
//! | 1 | the channel is there | its name, UTF-8 |
//! | 2 | bytes were read | they |
//! | 3 | bytes were written | they |
//! | 4 | the end was read | nothing |
//! | 5 | our side has ended | nothing |
//! | 6 | the channel was closed | nothing |
//! | 7 | a read failed | the error, UTF-8 |
//! | 8 | a write failed | the error, UTF-8 |
//! | 9 | records are missing here | 64 bits: how many; 64 bits: how many bytes were in them |
//!
//! Other kinds may come with later versions of the same number, and are stepped over.

mod file;
mod format;
mod recorder;
mod show;

use std::fmt;
use std::io::{ErrorKind, Result, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::channel::{Base, Channel, ChannelExt, Features, ReadFlags, ReadOp, WriteOp};
use crate::interest::Interest;
use crate::interest::Readiness;
use crate::watch::PollSet;

pub use file::{Recording, recordings};
pub use format::{Entry, MAX_RECORD_BYTES, Reader, Record, TapError, VERSION};
pub use recorder::{Draining, Recorder, RecorderOptions, Status};
pub use show::Shown;

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "tap";

/// A channel whose bytes are copied to a [`Recorder`] on their way through, in both directions.
///
/// What is recorded is what the user of this channel gets and gives: above a protocol's layer the
/// plain bytes, below it the wire. Reads and writes at a position are recorded in the order in
/// which they are made; bytes that were only looked at ([`ReadFlags::PEEK`]), and descriptors, are
/// not recorded.
///
/// The stream comes first: a recorder that cannot keep up, or has failed, costs it nothing.
///
/// ```
/// use std::ops::ControlFlow;
/// use qio::layer::tap::{Entry, Reader, Recorder, RecorderOptions, Tap};
/// use qio::{ChannelExt, transport::Duplex, watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("qio-doc-tap-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("recording");
/// let recorder = Recorder::new(std::fs::File::create(&path)?, RecorderOptions::new())?;
/// let (near, far) = Duplex::pair();
/// let near = Tap::new(near, &recorder);
/// near.write_all(b"hello")?;
/// // Not before this is everything in the file.
/// let ControlFlow::Break(done) = watch::run(recorder.draining(), None)? else { unreachable!() };
/// done?;
///
/// let records: Vec<_> = Reader::new(std::fs::File::open(&path)?)?.collect::<Result<_, _>>()?;
/// assert_eq!(records[0].entry, Entry::Opened("memory".into()));
/// assert_eq!(records[1].entry, Entry::Written(b"hello".to_vec()));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tap<C> {
    base: Base,
    below: C,
    recorder: Recorder,
    /// The number of the channel in the recording.
    stream: u32,
    /// What is recorded once.
    ended: AtomicBool,
    finished: AtomicBool,
    closed: AtomicBool,
}

impl<C: Channel> Tap<C> {
    /// Records what goes through `below` from here on.
    pub fn new(below: C, recorder: &Recorder) -> Self {
        let kept = Features::DUPLEX
            | Features::FD_PASS
            | Features::SHUTDOWN
            | Features::SEEK
            | Features::PEEK
            | Features::STORAGE
            | Features::DRAINS;
        let base = Base::new(NAME, below.features() & kept);
        let name = below.name();
        base.set_name(format!("{NAME} over {name}"));
        base.set_mode(below.base().mode());
        let stream = recorder.next_stream();
        recorder.note(stream, &Entry::Opened(name));
        Self {
            base,
            below,
            recorder: recorder.clone(),
            stream,
            ended: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// The number of this channel in the recording, from 0.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// Where the copies go.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn note_once(&self, once: &AtomicBool, entry: &Entry) {
        if !once.swap(true, Ordering::Relaxed) {
            self.recorder.note(self.stream, entry);
        }
    }
}

impl<C: Channel> Channel for Tap<C> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.below)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let result = self.below.try_read(op);
        if op.flags().contains(ReadFlags::PEEK) {
            return result;
        }
        match &result {
            Ok(0) => self.note_once(&self.ended, &Entry::End),
            Ok(count) => {
                let bufs = op.bufs().iter().map(|buf| &buf[..]);
                self.recorder.note_data(self.stream, format::READ, bufs, *count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.recorder.note(self.stream, &Entry::ReadFailed(error.to_string()));
            }
        }
        result
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let result = self.below.try_write(op);
        match &result {
            Ok(count) => {
                let bufs = op.bufs().iter().map(|buf| &buf[..]);
                self.recorder.note_data(self.stream, format::WRITTEN, bufs, *count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.recorder.note(self.stream, &Entry::WriteFailed(error.to_string()));
            }
        }
        result
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.below.watch(interest, set)
    }

    fn finish(&self) -> Result<()> {
        self.below.finish()?;
        self.note_once(&self.finished, &Entry::Finished);
        Ok(())
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.below.seek(to)
    }

    fn close(&self) -> Result<()> {
        let result = self.below.close();
        self.note_once(&self.closed, &Entry::Closed);
        result
    }
}

impl<C> Drop for Tap<C> {
    fn drop(&mut self) {
        if !*self.closed.get_mut() {
            self.recorder.note(self.stream, &Entry::Closed);
        }
    }
}

impl fmt::Display for Record {
    /// A line as [`Record::text`] shows it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(out)
    }
}
