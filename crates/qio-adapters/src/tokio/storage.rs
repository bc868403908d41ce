//! Channels that wait for a disk.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result, SeekFrom};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use qio::{Channel, ChannelExt, Direction, Features, Interest};
use tokio::io::ReadBuf;
use tokio::task::JoinHandle;

use super::hub::Hub;
use super::put_back::PutBack;

/// One operation at a time, in another thread, with a buffer of its own.
///
/// The buffer stays here when a future is given up: what was read is there for the next read, and
/// what a write took is written.
#[derive(Debug, Default)]
pub(super) struct Storage {
    job: Option<JoinHandle<Done>>,
    /// What was read and not been fetched is `input[taken..]`.
    input: Vec<u8>,
    taken: usize,
    /// What a read that was given up had fetched; it comes before `input`.
    pub(super) put_back: PutBack,
    /// The end or the error of a read that nobody has fetched.
    read_result: Option<Result<()>>,
    output: Vec<u8>,
    write_error: Option<Error>,
}

/// What comes back from the other thread.
#[derive(Debug)]
enum Done {
    Read(Vec<u8>, Result<usize>),
    Wrote(Vec<u8>, Result<()>),
}

impl Storage {
    fn poll_job(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(job) = &mut self.job else { return Poll::Ready(()) };
        let done = ready!(Pin::new(job).poll(cx));
        self.job = None;
        match done {
            Ok(Done::Read(mut buf, result)) => {
                buf.truncate(*result.as_ref().unwrap_or(&0));
                self.input = buf;
                self.taken = 0;
                if self.input.is_empty() {
                    self.read_result = Some(result.map(drop));
                }
            }
            Ok(Done::Wrote(buf, result)) => {
                self.output = buf;
                self.write_error = result.err();
            }
            // The runtime shuts down, or the channel panicked: both halves are told.
            Err(error) => {
                self.read_result = Some(Err(Error::other(error.to_string())));
                self.write_error = Some(Error::other(error));
            }
        }
        Poll::Ready(())
    }
}

impl<C: Channel> Hub<C> {
    /// Waits for what runs in the other thread.
    fn poll_storage(
        &self,
        half: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<Option<MutexGuard<'_, Storage>>> {
        let Some(storage) = &self.storage else { return Poll::Ready(None) };
        let slot = self.slots.of(half);
        slot.start(Interest::all(), cx);
        let mut storage = lock(storage);
        let was_running = storage.job.is_some();
        ready!(storage.poll_job(&mut self.slots.any()));
        slot.stop();
        if was_running {
            // Both halves may wait for the job, and only one of them learns of its end.
            self.slots.any().waker().wake_by_ref();
        }
        Poll::Ready(Some(storage))
    }

    /// `None` for a channel that is no storage.
    pub(super) fn poll_read_storage(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Option<Result<()>>> {
        loop {
            let Some(mut storage) = ready!(self.poll_storage(Direction::Read, cx)) else {
                return Poll::Ready(None);
            };
            if !storage.put_back.is_empty() {
                let n = storage.put_back.bytes().len().min(buf.remaining());
                buf.put_slice(&storage.put_back.bytes()[..n]);
                storage.put_back.consume(n);
                return Poll::Ready(Some(Ok(())));
            }
            let rest = &storage.input[storage.taken..];
            if !rest.is_empty() || buf.remaining() == 0 {
                let n = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..n]);
                storage.taken += n;
                return Poll::Ready(Some(Ok(())));
            }
            if let Some(result) = storage.read_result.take() {
                return Poll::Ready(Some(result));
            }
            let mut input = std::mem::take(&mut storage.input);
            storage.taken = 0;
            input.resize(buf.remaining().min(CHUNK_BYTES), 0);
            let hub = Arc::clone(self);
            storage.job = Some(tokio::task::spawn_blocking(move || {
                let result = hub.channel.read(&mut input);
                Done::Read(input, result)
            }));
        }
    }

    /// `None` for a channel that is no storage. Takes the bytes at once; a failure to write them
    /// is the result of the next write or flush.
    pub(super) fn poll_write_storage(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Option<Result<usize>>> {
        let Some(mut storage) = ready!(self.poll_storage(Direction::Write, cx)) else {
            return Poll::Ready(None);
        };
        if let Some(error) = storage.write_error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut output = std::mem::take(&mut storage.output);
        output.clear();
        for buf in bufs {
            let room = CHUNK_BYTES - output.len();
            output.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let taken = output.len();
        if taken == 0 {
            storage.output = output;
            return Poll::Ready(Some(Ok(0)));
        }
        // There is one position: what was read ahead is not read as far as the user knows.
        let mut unread = 0;
        if self.channel.features().contains(Features::SEEK) {
            unread = storage.put_back.clear() + storage.input.len() - storage.taken;
            storage.taken = storage.input.len();
            storage.read_result = None;
        }
        let hub = Arc::clone(self);
        storage.job = Some(tokio::task::spawn_blocking(move || {
            let result = hub.rewind(unread).and_then(|()| hub.channel.write_all(&output));
            Done::Wrote(output, result)
        }));
        Poll::Ready(Some(Ok(taken)))
    }

    /// Waits until what was taken is written.
    pub(super) fn poll_flush_storage(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let storage = ready!(self.poll_storage(Direction::Write, cx));
        let error = storage.and_then(|mut storage| storage.write_error.take());
        Poll::Ready(error.map_or(Ok(()), Err))
    }

    fn rewind(&self, unread: usize) -> Result<()> {
        if unread == 0 {
            return Ok(());
        }
        let back = i64::try_from(unread).map_err(|_| ErrorKind::InvalidInput)?;
        self.channel.seek(SeekFrom::Current(-back)).map(drop)
    }
}

pub(super) fn lock(storage: &Mutex<Storage>) -> MutexGuard<'_, Storage> {
    storage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much is handed to the other thread at a time.
const CHUNK_BYTES: usize = 64 * 1024;
