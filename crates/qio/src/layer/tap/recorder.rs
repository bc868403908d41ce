//! Where the copies go: a bounded buffer, and a thread that empties it.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use super::format::{self, Entry, FILE_HEADER, MAX_RECORD_BYTES, RECORD_HEADER};
use crate::interest::Interest;
use crate::task::Task;
use crate::watch::{Event, PollSet, Steps};

/// Writes a recording of one or more [`Tap`](super::Tap)s to a file, or to anything that can be
/// written.
///
/// Writing to a file waits for its disk, and a pipe may block for ever; so a thread of the recorder
/// writes, and taps only append to a bounded buffer. While that is full, records are left out, and
/// an [`Entry::Gap`] says how many. When a write fails (a full disk, say), the recording ends there,
/// with an event and in [`status`](Recorder::status); the channels go on.
///
/// Shared by cloning. With the last clone, and the last tap, the thread writes what is left, and
/// ends; [`draining`](Recorder::draining) waits for that, before a program exits.
///
/// Memory: nothing while idle; at most twice the limit, once for what waits and once for what is
/// being written.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

/// How much a recorder may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecorderOptions {
    /// How many bytes may wait to be written. Default: 1 MiB, what a disk writes in some
    /// milliseconds.
    pub limit_bytes: usize,
}

/// What has become of a recording so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// How many records were left out.
    pub lost_records: u64,
    /// Why the recording has ended, if it has.
    pub stopped: Option<String>,
}

/// Waits until everything is written that was recorded before: work in steps, for any loop.
///
/// The output is the error that ended the recording, if one did.
#[derive(Debug)]
pub struct Draining {
    shared: Arc<Shared>,
}

struct Inner {
    shared: Arc<Shared>,
    /// Of the first of several who share it.
    _thread: Option<Task<()>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is something for the thread to do.
    work: Condvar,
    /// Raised while nothing waits to be written.
    drained: Event,
    limit: usize,
    start: Instant,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is writing.
    writing: bool,
    /// Left out since the thread took what waited.
    gap: (u64, u64),
    streams: u32,
    /// How many record; without any, the thread writes what is left and ends.
    users: usize,
    /// The thread has ended.
    gone: bool,
    status: Status,
    failed: Option<io::ErrorKind>,
}

impl Recorder {
    /// Starts a recording that is written to `sink`.
    ///
    /// # Errors
    ///
    /// What starting a thread reports.
    pub fn new(sink: impl Write + Send + 'static, options: RecorderOptions) -> io::Result<Self> {
        let mut state = State { users: 1, ..State::default() };
        format::encode_file_header(&mut state.waiting, SystemTime::now());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            drained: Event::new(),
            limit: options.limit_bytes.max(FILE_HEADER),
            start: Instant::now(),
        });
        let worker = Arc::clone(&shared);
        let thread = Task::spawn("qio-tap", move || worker.write_to(sink))?;
        Ok(Self { inner: Arc::new(Inner { shared, _thread: Some(thread) }) })
    }

    /// Joins a recording that goes on; `None` when it has ended.
    pub(super) fn joining(shared: &Arc<Shared>) -> Option<Self> {
        let mut state = shared.lock();
        if state.gone {
            return None;
        }
        state.users += 1;
        drop(state);
        Some(Self { inner: Arc::new(Inner { shared: Arc::clone(shared), _thread: None }) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Waits until everything is written that was recorded so far.
    ///
    /// ```no_run
    /// # fn main() -> std::io::Result<()> {
    /// # let recorder: qio::layer::tap::Recorder = unimplemented!();
    /// qio::watch::run(recorder.draining(), None)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn draining(&self) -> Draining {
        Draining::of(&self.inner.shared)
    }

    /// How the recording stands.
    pub fn status(&self) -> Status {
        self.inner.shared.status()
    }

    /// The number of a new channel.
    pub(super) fn next_stream(&self) -> u32 {
        let mut state = self.inner.shared.lock();
        let stream = state.streams;
        state.streams = stream.wrapping_add(1);
        stream
    }

    /// Records what is no data.
    pub(super) fn note(&self, stream: u32, entry: &Entry) {
        let shared = &self.inner.shared;
        let len = match entry {
            Entry::Opened(text) | Entry::ReadFailed(text) | Entry::WriteFailed(text) => text.len(),
            _ => 0,
        };
        shared.append(RECORD_HEADER + len, 0, |out, start| {
            format::encode(out, start.elapsed(), stream, entry);
        });
    }

    /// Records the first `count` bytes of `bufs`.
    pub(super) fn note_data<'a>(
        &self,
        stream: u32,
        kind: u8,
        bufs: impl Iterator<Item = &'a [u8]>,
        count: usize,
    ) {
        let shared = &self.inner.shared;
        let size = count + count.div_ceil(MAX_RECORD_BYTES) * RECORD_HEADER;
        shared.append(size, count as u64, |out, start| {
            let time = start.elapsed();
            let mut left = count;
            let mut room = 0;
            for mut buf in bufs {
                while left > 0 && !buf.is_empty() {
                    if room == 0 {
                        room = left.min(MAX_RECORD_BYTES);
                        format::encode_header(out, kind, stream, time, room);
                    }
                    let (now, later) = buf.split_at(buf.len().min(room));
                    out.extend(now);
                    room -= now.len();
                    left -= now.len();
                    buf = later;
                }
            }
        });
    }
}

impl RecorderOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { limit_bytes: 1 << 20 }
    }

    /// Sets the [limit](Self::limit_bytes).
    #[must_use]
    pub fn limit_bytes(mut self, bytes: usize) -> Self {
        self.limit_bytes = bytes;
        self
    }
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Draining {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }
}

impl Shared {
    pub(super) fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// Whether nothing is written any more.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `size` bytes if there is room for them; `data` is how many of them are data.
    fn append(&self, size: usize, data: u64, encode: impl FnOnce(&mut Vec<u8>, Instant)) {
        let mut state = self.lock();
        if state.failed.is_some() {
            return;
        }
        // A smaller record that would still fit must not come before one that does not.
        if state.gap.0 > 0 || state.waiting.len() + size > self.limit {
            state.gap.0 += 1;
            state.gap.1 += data;
            state.status.lost_records += 1;
            // A record alone may be larger than the limit.
            self.work.notify_one();
            return;
        }
        encode(&mut state.waiting, self.start);
        drop(state);
        self.work.notify_one();
    }

    /// The work of the thread.
    fn write_to(&self, mut sink: impl Write) {
        let mut state = self.lock();
        loop {
            let (records, bytes) = std::mem::take(&mut state.gap);
            if records > 0 {
                let gap = Entry::Gap { records, bytes };
                format::encode(&mut state.waiting, self.start.elapsed(), u32::MAX, &gap);
            }
            if state.waiting.is_empty() {
                self.drained.raise();
                if state.users == 0 {
                    state.gone = true;
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let batch = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            let result = sink.write_all(&batch).and_then(|()| sink.flush());
            drop(batch);
            state = self.lock();
            state.writing = false;
            if let Err(error) = result {
                event!(warn, %error, "a tap cannot write: the recording ends here");
                state.failed = Some(error.kind());
                state.status.stopped = Some(error.to_string());
                state.waiting = Vec::new();
                state.gone = true;
                self.drained.raise();
                return;
            }
        }
    }
}

impl State {
    fn is_drained(&self) -> bool {
        !self.writing && self.waiting.is_empty() && self.gap.0 == 0
    }
}

impl Steps for Draining {
    type Output = io::Result<()>;

    fn step(&mut self, _now: Instant) -> Poll<io::Result<()>> {
        let state = self.shared.lock();
        if let (Some(kind), Some(text)) = (state.failed, &state.status.stopped) {
            return Poll::Ready(Err(io::Error::new(kind, text.clone())));
        }
        if state.is_drained() {
            return Poll::Ready(Ok(()));
        }
        // The thread raises it under the same lock.
        self.shared.drained.lower();
        Poll::Pending
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.shared.drained.watch(Interest::READ, set);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().users -= 1;
        self.shared.work.notify_one();
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Recorder").field("status", &self.status()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::mpsc;

    use super::super::{Reader, Record};
    use super::*;
    use crate::watch;

    /// Writes only as often as it is told to, and shows what it got.
    struct Slow {
        permits: mpsc::Receiver<io::Result<()>>,
        got: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            // Without the other end there is no limit any more.
            self.permits.recv().unwrap_or(Ok(()))?;
            self.got.lock().unwrap().extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        recorder: Recorder,
        permits: mpsc::Sender<io::Result<()>>,
        got: Arc<Mutex<Vec<u8>>>,
    }

    fn start(limit: usize) -> Fixture {
        let (permits, receiver) = mpsc::channel();
        let got = Arc::new(Mutex::new(Vec::new()));
        let sink = Slow { permits: receiver, got: Arc::clone(&got) };
        let options = RecorderOptions::new().limit_bytes(limit);
        Fixture { recorder: Recorder::new(sink, options).unwrap(), permits, got }
    }

    fn drain(recorder: &Recorder) -> io::Result<()> {
        let patience = Instant::now() + std::time::Duration::from_secs(20);
        match watch::run(recorder.draining(), Some(patience)).unwrap() {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(_) => panic!("not drained"),
        }
    }

    fn entries(bytes: &[u8]) -> Vec<Entry> {
        Reader::new(bytes).unwrap().map(|record: Result<Record, _>| record.unwrap().entry).collect()
    }

    #[test]
    fn what_finds_no_room_is_counted_in_a_gap_and_nobody_waits() {
        let Fixture { recorder, permits, got } = start(200);
        // The thread holds the header and stands still.
        while !recorder.inner.shared.lock().writing {
            std::thread::yield_now();
        }
        recorder.note_data(0, format::WRITTEN, [&[1; 100][..]].into_iter(), 100);
        recorder.note_data(0, format::WRITTEN, [&[2; 100][..]].into_iter(), 100);
        // It would fit, but comes after what does not.
        recorder.note_data(0, format::READ, [&[3; 5][..], &[4; 5]].into_iter(), 7);
        assert_eq!(recorder.status().lost_records, 2);
        assert!(recorder.inner.shared.lock().waiting.len() <= 200);
        drop(permits);
        drain(&recorder).unwrap();
        recorder.note_data(0, format::READ, [&[3; 5][..], &[4; 5]].into_iter(), 7);
        drain(&recorder).unwrap();
        let expected = [
            Entry::Written(vec![1; 100]),
            Entry::Gap { records: 2, bytes: 107 },
            Entry::Read(vec![3, 3, 3, 3, 3, 4, 4]),
        ];
        assert_eq!(entries(&got.lock().unwrap()), expected);
    }

    #[test]
    fn a_sink_that_fails_ends_the_recording_and_nothing_else() {
        let Fixture { recorder, permits, got } = start(1 << 20);
        permits.send(Ok(())).unwrap();
        drain(&recorder).unwrap();
        permits.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        recorder.note(0, &Entry::End);
        assert_eq!(drain(&recorder).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(recorder.status().stopped.is_some());
        recorder.note(0, &Entry::Closed);
        assert!(recorder.inner.shared.lock().waiting.is_empty());
        assert_eq!(entries(&got.lock().unwrap()), []);
    }

    #[test]
    fn what_is_left_is_written_after_the_last_recorder_is_gone() {
        let Fixture { recorder, permits, got } = start(1 << 20);
        recorder.note(3, &Entry::Finished);
        let draining = recorder.draining();
        drop(recorder);
        drop(permits);
        let ControlFlow::Break(result) = watch::run(draining, None).unwrap() else { panic!() };
        result.unwrap();
        assert_eq!(entries(&got.lock().unwrap()), [Entry::Finished]);
    }

    #[test]
    fn a_record_is_never_longer_than_a_reader_takes() {
        let Fixture { recorder, permits, got } = start(4 << 20);
        drop(permits);
        let data = vec![7; MAX_RECORD_BYTES + 10];
        recorder.note_data(0, format::READ, [&data[..5], &data[5..]].into_iter(), data.len());
        drain(&recorder).unwrap();
        let lens: Vec<usize> = entries(&got.lock().unwrap())
            .iter()
            .map(|entry| match entry {
                Entry::Read(bytes) => bytes.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lens, [MAX_RECORD_BYTES, 10]);
    }
}
