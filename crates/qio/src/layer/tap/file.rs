//! Recordings in files, each shared by all who name it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};

use super::recorder::Shared;
use super::{Draining, Recorder, RecorderOptions, Status};
use crate::error::{Error, Result};

/// A recording that goes to a file.
#[derive(Clone, Debug)]
pub struct Recording {
    path: PathBuf,
    /// Which file it is: one may have several paths.
    file: (u64, u64),
    shared: Arc<Shared>,
}

/// Those that go on, and the last ones that failed.
static RECORDINGS: Mutex<Vec<Recording>> = Mutex::new(Vec::new());

/// How many recordings that have failed are remembered.
const REMEMBERED: usize = 16;

impl Recorder {
    /// Records to a file, which is made anew; while somebody else in this process records to it,
    /// that recording goes on, with further channels and with its own options.
    ///
    /// Only its owner may read and write a file that is made: it holds all that was said. A FIFO
    /// must have a reader.
    ///
    /// # Errors
    ///
    /// Of class `Open`, with the path.
    pub fn to_file(path: impl AsRef<Path>, options: RecorderOptions) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error: io::Error| Error::os("record to", path.display(), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
        // A FIFO that nobody reads is found out, not waited for.
        let opened = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::RUSR | Mode::WUSR);
        let fd = opened.map_err(|error| match error {
            rustix::io::Errno::NXIO => failed(io::Error::new(ErrorKind::NotFound, NO_READER)),
            error => failed(error.into()),
        })?;
        let status = rustix::fs::fstat(&fd).map_err(|error| failed(error.into()))?;
        let file = (status.st_dev, status.st_ino);
        let mut recordings = lock();
        let known = recordings.iter().find(|known| known.file == file);
        if let Some(recorder) = known.and_then(|known| Self::joining(&known.shared)) {
            return Ok(recorder);
        }
        if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
            rustix::fs::ftruncate(&fd, 0).map_err(|error| failed(error.into()))?;
        }
        rustix::io::ioctl_fionbio(&fd, false).map_err(|error| failed(error.into()))?;
        let recorder = Self::new(File::from(fd), options).map_err(failed)?;
        tidy(&mut recordings, file);
        let shared = Arc::clone(recorder.shared());
        recordings.push(Recording { path: path.to_owned(), file, shared });
        Ok(recorder)
    }
}

/// Forgets what is of no use: the last recording of this file, and those that are whole.
fn tidy(recordings: &mut Vec<Recording>, file: (u64, u64)) {
    recordings.retain(|one| {
        one.file != file && (!one.shared.is_gone() || one.status() != Status::default())
    });
    let failed = recordings.iter().filter(|one| one.shared.is_gone()).count();
    let mut surplus = failed.saturating_sub(REMEMBERED);
    recordings.retain(|one| {
        let goes = surplus > 0 && one.shared.is_gone();
        surplus -= usize::from(goes);
        !goes
    });
}

/// The recordings of this process that go to files ([`Recorder::to_file`]): those that go on, those
/// whose rest is being written, and the last ones that failed.
///
/// Before a program exits, it waits for each of them:
///
/// ```
/// use std::time::{Duration, Instant};
/// use qio::layer::tap;
///
/// # fn main() -> std::io::Result<()> {
/// let until = Instant::now() + Duration::from_secs(10);
/// for recording in tap::recordings() {
///     qio::watch::run(recording.draining(), Some(until))?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn recordings() -> Vec<Recording> {
    lock().clone()
}

impl Recording {
    /// The file, as it was named first.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until everything is written that was recorded so far.
    pub fn draining(&self) -> Draining {
        Draining::of(&self.shared)
    }

    /// How the recording stands.
    pub fn status(&self) -> Status {
        self.shared.status()
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Recording>> {
    RECORDINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

const NO_READER: &str = "nobody reads from it";

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::{Entry, Reader, Tap};
    use super::*;
    use crate::channel::ChannelExt;
    use crate::transport::Duplex;
    use crate::watch;

    fn entries(path: &Path) -> Vec<(u32, Entry)> {
        let records = Reader::new(File::open(path).unwrap()).unwrap();
        records.map(|record| record.map(|record| (record.stream, record.entry)).unwrap()).collect()
    }

    fn drain(path: &Path) {
        let all = recordings();
        let recording = all.iter().find(|one| one.path() == path).unwrap();
        let ControlFlow::Break(done) = watch::run(recording.draining(), None).unwrap() else {
            panic!("no deadline");
        };
        done.unwrap();
    }

    #[test]
    fn all_who_name_a_file_are_in_one_recording_and_the_next_one_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "what was there before").unwrap();
        std::os::unix::fs::symlink(&path, &other).unwrap();
        let first = Recorder::to_file(&path, RecorderOptions::new()).unwrap();
        let second = Recorder::to_file(&other, RecorderOptions::new()).unwrap();
        for recorder in [&first, &second] {
            Tap::new(Duplex::pair().0, recorder).write_all(b"x").unwrap();
        }
        drop(first);
        Tap::new(Duplex::pair().0, &second).write_all(b"y").unwrap();
        drop(second);
        drain(&path);
        let streams: Vec<_> = entries(&path)
            .into_iter()
            .filter_map(|(stream, entry)| match entry {
                Entry::Written(bytes) => Some((stream, bytes)),
                _ => None,
            })
            .collect();
        assert_eq!(streams, [(0, b"x".to_vec()), (1, b"x".to_vec()), (2, b"y".to_vec())]);
        // Its thread may still be on its way to its end: whoever comes then goes on with it.
        let gone = || recordings().iter().all(|one| one.path() != path || one.shared.is_gone());
        while !gone() {
            std::thread::yield_now();
        }
        drop(Recorder::to_file(&path, RecorderOptions::new()).unwrap());
        drain(&path);
        assert_eq!(entries(&path), []);
    }

    #[test]
    fn a_fifo_without_a_reader_and_a_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        for (path, why) in [(&*fifo, NO_READER), (folder.path(), "is a directory")] {
            let error = Recorder::to_file(path, RecorderOptions::new()).unwrap_err();
            let text = format!("record to {}: {why}", path.display());
            assert_eq!(error.report().to_string(), text);
        }
    }
}
