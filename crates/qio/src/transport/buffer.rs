//! Memory that behaves like a file.

use std::io::{Error, ErrorKind, Result, SeekFrom};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::{Base, Channel, Features, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{PollSet, closed};

/// A file in memory, of limited size: it grows with what is written past its end.
///
/// One position serves reading and writing, as in a file. Seeking past the end is allowed; a write
/// there fills the gap with zeros, a read there gives 0. A write that does not fit below the limit
/// is partial; one of which nothing fits is `StorageFull`. Always ready, never blocks. `close`
/// frees the memory.
///
/// QEMU's `QIOChannelBuffer`.
///
/// ```
/// use std::io::SeekFrom;
/// use qio::{Channel, ChannelExt, transport::Buffer};
///
/// # fn main() -> std::io::Result<()> {
/// let buffer = Buffer::new(1024);
/// buffer.write_all(b"hello")?;
/// buffer.seek(SeekFrom::Start(0))?;
/// let mut buf = [0; 5];
/// buffer.read_exact(&mut buf)?;
/// assert_eq!(&buf, b"hello");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOChannelBuffer")]
#[derive(Debug)]
pub struct Buffer {
    base: Base,
    limit: usize,
    /// `None` once closed.
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    position: u64,
}

/// The largest position of a file (`loff_t`), and of a buffer.
const MAX_POSITION: u64 = i64::MAX as u64;

impl Buffer {
    /// An empty buffer that grows up to `limit_bytes`.
    #[doc(alias = "qio_channel_buffer_new")]
    pub fn new(limit_bytes: usize) -> Self {
        Self::from_vec(Vec::new(), limit_bytes)
    }

    /// An empty buffer with room for `capacity_bytes` from the start, that grows up to
    /// `limit_bytes`.
    pub fn with_capacity(capacity_bytes: usize, limit_bytes: usize) -> Self {
        Self::from_vec(Vec::with_capacity(capacity_bytes.min(limit_bytes)), limit_bytes)
    }

    /// A buffer that holds `bytes`, with the position at the start; it grows up to `limit_bytes`,
    /// or not at all when it holds more than that already.
    pub fn from_vec(bytes: Vec<u8>, limit_bytes: usize) -> Self {
        Self {
            base: Base::new("buffer", Features::DUPLEX | Features::SEEK),
            limit: limit_bytes.max(bytes.len()),
            state: Mutex::new(Some(State { bytes, position: 0 })),
        }
    }

    /// A copy of all bytes, wherever the position is.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.with_state(|state| Ok(state.bytes.clone()))
    }

    /// All bytes, wherever the position is; nothing once closed.
    pub fn into_bytes(self) -> Vec<u8> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.unwrap_or_default().bytes
    }

    /// How many bytes the buffer holds.
    ///
    /// # Errors
    ///
    /// `NotConnected` once closed.
    #[expect(clippy::len_without_is_empty, reason = "a closed buffer is not an empty one")]
    pub fn len(&self) -> Result<usize> {
        self.with_state(|state| Ok(state.bytes.len()))
    }

    fn with_state<R>(&self, body: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        body(self.lock().as_mut().ok_or_else(closed)?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel for Buffer {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.with_state(|state| {
            let done = state.read(op, op.offset().unwrap_or(state.position));
            if op.offset().is_none() {
                state.position += done as u64;
            }
            Ok(done)
        })
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.with_state(|state| {
            let done = state.write(op, op.offset().unwrap_or(state.position), self.limit)?;
            if op.offset().is_none() {
                state.position += done as u64;
            }
            Ok(done)
        })
    }

    fn watch(&self, interest: Interest, _set: &mut PollSet) -> Readiness {
        let ready = Readiness::from(interest);
        if self.lock().is_none() { ready | Readiness::HANGUP } else { ready }
    }

    fn close(&self) -> Result<()> {
        self.base.note_closed();
        *self.lock() = None;
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.with_state(|_| Ok(()))
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.with_state(|state| {
            let position = match to {
                SeekFrom::Start(offset) => Some(offset),
                SeekFrom::Current(offset) => state.position.checked_add_signed(offset),
                SeekFrom::End(offset) => (state.bytes.len() as u64).checked_add_signed(offset),
            };
            match position {
                Some(position) if position <= MAX_POSITION => {
                    state.position = position;
                    Ok(position)
                }
                _ => Err(Error::new(ErrorKind::InvalidInput, "no such position in a file")),
            }
        })
    }
}

impl State {
    fn read(&self, op: &mut ReadOp<'_, '_>, from: u64) -> usize {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let mut rest = self.bytes.get(from..).unwrap_or_default();
        let before = rest.len();
        for buf in op.bufs() {
            let n = buf.len().min(rest.len());
            let (part, behind) = rest.split_at(n);
            buf[..n].copy_from_slice(part);
            rest = behind;
        }
        before - rest.len()
    }

    fn write(&mut self, op: &WriteOp<'_, '_>, from: u64, limit: usize) -> Result<usize> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let wanted = op.bufs().iter().fold(0, |sum: usize, buf| sum.saturating_add(buf.len()));
        let done = wanted.min(limit.saturating_sub(from));
        if done == 0 {
            return Err(full(limit));
        }
        let end = from + done;
        if end > self.bytes.len() {
            let more = end - self.bytes.len();
            self.bytes.try_reserve(more).map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
            self.bytes.resize(end, 0);
        }
        let mut room = &mut self.bytes[from..end];
        for buf in op.bufs() {
            let n = buf.len().min(room.len());
            let (part, behind) = room.split_at_mut(n);
            part.copy_from_slice(&buf[..n]);
            room = behind;
        }
        Ok(done)
    }
}

#[cold]
fn full(limit: usize) -> Error {
    let text = format!("the buffer is at its limit of {limit} bytes");
    Error::new(ErrorKind::StorageFull, text)
}
