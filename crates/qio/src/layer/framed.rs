//! Messages over a stream.

use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::left_behind::LeftBehind;
use crate::channel::{
    Base, Channel, ChannelExt, Features, MessageError, ReadFlags, ReadOp, WriteFlags, WriteOp,
};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::PollSet;

/// How messages are told apart in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// The length in two bytes, the high one first, then the message: DNS over TCP (RFC 1035
    /// 4.2.2) and others. Up to 65,535 bytes.
    U16,
    /// The length in four bytes, the highest first, then the message: QEMU's `-netdev socket`. Up
    /// to [`LONGEST_FRAME_BYTES`].
    U32,
    /// The message, then a line feed, which it cannot contain. What stands behind the last line
    /// feed of a stream is a message, too. Up to [`LONGEST_FRAME_BYTES`].
    Line,
}

/// The longest message in a stream: as long as a Unix datagram is by default (`wmem_default`,
/// 208 KiB), rounded up. A longer one is an error, not a reason to reserve what a peer asks for.
pub const LONGEST_FRAME_BYTES: usize = 256 * 1024;

/// A channel of messages over a stream.
///
/// Has [`Features::MESSAGES`]. Does not pass descriptors, which belong to bytes of the stream.
///
/// - **Read**: one message, as soon as all of it is there; what came of the next one waits here. A
///   stream that ends inside a message is `UnexpectedEof`, a length over the limit `InvalidData`,
///   and both for ever: nothing behind them can be told apart.
/// - **Write**: the whole message is taken, or nothing. What the stream below does not take at
///   once waits here, at most one message; [`flush`](Channel::flush) gets it out, and
///   [`send`](ChannelExt::send) in blocking mode waits for that.
/// - **Memory**: up to two messages of [`LONGEST_FRAME_BYTES`]; nothing between messages.
///
/// ```
/// use qio::layer::{Framed, Framing};
/// use qio::transport::Duplex;
/// use qio::ChannelExt;
///
/// # fn main() -> std::io::Result<()> {
/// let (left, right) = Duplex::pair();
/// let left = Framed::new(left, Framing::U16);
/// left.send(b"question")?;
/// let mut bytes = [0; 10];
/// right.read_exact(&mut bytes)?;
/// assert_eq!(&bytes, b"\0\x08question");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Framed<C> {
    base: Base,
    below: C,
    framing: Framing,
    inbox: Mutex<Inbox>,
    /// Of the last message, what the stream has not taken yet.
    outbox: Mutex<Outbox>,
    left_behind: LeftBehind,
}

/// What came and was not read yet.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    /// Where the next message starts.
    start: usize,
    /// So much of it has no line feed.
    searched: usize,
    ended: bool,
    broken: Option<Broken>,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// Why nothing more can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Unfinished { bytes: usize },
    TooLong { bytes: usize },
}

/// Where a message is, seen from the start of what is there.
struct Frame {
    header: usize,
    length: usize,
    trailer: usize,
}

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

impl<C: Channel> Framed<C> {
    /// Keeps messages apart in the stream `below`.
    pub fn new(below: C, framing: Framing) -> Self {
        let kept = below.features() & (Features::DUPLEX | Features::SHUTDOWN);
        let base = Base::new("messages", kept | Features::MESSAGES);
        base.set_name(format!("{framing} messages over {}", below.name()));
        let (inbox, outbox) = (Mutex::default(), Mutex::default());
        Self { base, below, framing, inbox, outbox, left_behind: LeftBehind::default() }
    }

    /// Reads until a whole message is there, or until a read would block.
    fn next_frame(&self, inbox: &mut Inbox) -> Result<Option<Frame>> {
        loop {
            if let Some(broken) = inbox.broken {
                return Err(self.broken(broken));
            }
            match self.framing.split(inbox) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(broken) => {
                    inbox.broken = Some(broken);
                    continue;
                }
            }
            let left = inbox.bytes.len() - inbox.start;
            match (inbox.ended, left) {
                (false, _) => self.fill(inbox)?,
                (true, 0) => return Ok(None),
                (true, length) if self.framing == Framing::Line => {
                    return Ok(Some(Frame { header: 0, length, trailer: 0 }));
                }
                (true, bytes) => inbox.broken = Some(Broken::Unfinished { bytes }),
            }
        }
    }

    fn fill(&self, inbox: &mut Inbox) -> Result<()> {
        if inbox.start > 0 {
            inbox.bytes.drain(..inbox.start);
            inbox.start = 0;
        }
        let before = inbox.bytes.len();
        inbox.bytes.resize(before + CHUNK, 0);
        let mut bufs = [IoSliceMut::new(&mut inbox.bytes[before..])];
        let result = self.below.read_with(&mut bufs, ReadFlags::NONBLOCK, None);
        inbox.bytes.truncate(before + result.as_ref().map_or(0, |n| *n));
        inbox.ended = result? == 0;
        Ok(())
    }

    /// Whether a message, the end or an error is here already.
    fn has_message(&self, inbox: &mut Inbox) -> bool {
        let known = inbox.ended || inbox.broken.is_some();
        known || !matches!(self.framing.split(inbox), Ok(None))
    }

    fn flush_outbox(&self, outbox: &mut Outbox) -> Result<()> {
        while outbox.sent < outbox.bytes.len() {
            let bufs = [IoSlice::new(&outbox.bytes[outbox.sent..])];
            match self.below.write_with(&bufs, WriteFlags::NONBLOCK, &[])? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => outbox.sent += n,
            }
        }
        *outbox = Outbox::default();
        Ok(())
    }

    #[cold]
    fn broken(&self, broken: Broken) -> Error {
        let name = self.base.name();
        match broken {
            Broken::Unfinished { bytes } => {
                let text =
                    format!("{name}: the stream ended inside a message, {bytes} bytes of it");
                Error::new(ErrorKind::UnexpectedEof, text)
            }
            Broken::TooLong { bytes } => {
                let text = format!(
                    "{name}: a message of {bytes} bytes or more is announced, \
                     {LONGEST_FRAME_BYTES} is the limit"
                );
                Error::new(ErrorKind::InvalidData, text)
            }
        }
    }
}

impl Framing {
    /// Every framing, by its name.
    pub const ALL: &[(&str, Self)] =
        &[("u16", Self::U16), ("u32", Self::U32), ("line", Self::Line)];

    /// Finds the next message, if all of it is there.
    fn split(self, inbox: &mut Inbox) -> std::result::Result<Option<Frame>, Broken> {
        let bytes = &inbox.bytes[inbox.start..];
        let (header, length) = match (self, bytes) {
            (Self::U16, [a, b, ..]) => (2, usize::from(u16::from_be_bytes([*a, *b]))),
            (Self::U32, [a, b, c, d, ..]) => (4, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
            (Self::U16 | Self::U32, _) => return Ok(None),
            (Self::Line, bytes) => {
                let end = bytes[inbox.searched..].iter().position(|&byte| byte == b'\n');
                let length = end.map_or(bytes.len(), |end| inbox.searched + end);
                if length > LONGEST_FRAME_BYTES {
                    return Err(Broken::TooLong { bytes: length });
                }
                inbox.searched = length;
                return Ok(end.map(|_| Frame { header: 0, length, trailer: 1 }));
            }
        };
        if length > LONGEST_FRAME_BYTES {
            return Err(Broken::TooLong { bytes: length });
        }
        let complete = bytes.len() >= header + length;
        Ok(complete.then_some(Frame { header, length, trailer: 0 }))
    }

    /// What stands in front of a message and behind it.
    fn wrapping(
        self,
        bufs: &[IoSlice<'_>],
        length: usize,
    ) -> Result<([u8; 4], usize, &'static [u8])> {
        let mut header = [0; 4];
        let longest = if self == Self::U16 { usize::from(u16::MAX) } else { LONGEST_FRAME_BYTES };
        if length > longest {
            return Err(MessageError::TooLong { length_bytes: length }.into());
        }
        match self {
            Self::U16 => header[..2].copy_from_slice(&(length as u16).to_be_bytes()),
            Self::U32 => header = (length as u32).to_be_bytes(),
            Self::Line if bufs.iter().any(|buf| buf.contains(&b'\n')) => {
                let text = "a message with a line feed in it is no line";
                return Err(Error::new(ErrorKind::InvalidInput, text));
            }
            Self::Line => return Ok((header, 0, b"\n")),
        }
        Ok((header, if self == Self::U16 { 2 } else { 4 }, b""))
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, framing)| framing == self);
        out.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for Framing {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, framing)| *framing).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is not {}", names.join(" or "))
        })
    }
}

impl<C: Channel> Channel for Framed<C> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.below)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        op.require_whole(&self.base)?;
        let mut inbox = lock(&self.inbox);
        let Some(Frame { header, length, trailer }) = self.next_frame(&mut inbox)? else {
            return Ok(0);
        };
        let start = inbox.start + header;
        let room_bytes: usize = op.bufs().iter().map(|buf| buf.len()).sum();
        let mut message = &inbox.bytes[start..start + length];
        if length <= room_bytes {
            for buf in op.bufs() {
                let (now, later) = message.split_at(message.len().min(buf.len()));
                buf[..now.len()].copy_from_slice(now);
                message = later;
            }
        }
        inbox.start = start + length + trailer;
        inbox.searched = 0;
        if inbox.start == inbox.bytes.len() {
            inbox.bytes = Vec::new();
            inbox.start = 0;
        }
        let tells = self.left_behind.is_awaited() && self.base.is_waited_for(Direction::Read);
        if tells && self.has_message(&mut inbox) {
            self.left_behind.tell();
        }
        match length {
            0 => Err(MessageError::Empty.into()),
            length_bytes if length_bytes > room_bytes => {
                Err(MessageError::Truncated { length_bytes, room_bytes }.into())
            }
            length => Ok(length),
        }
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        op.require_whole(&self.base)?;
        let length = op.bufs().iter().map(|buf| buf.len()).sum();
        let (header, header_length, trailer) = self.framing.wrapping(op.bufs(), length)?;
        let mut outbox = lock(&self.outbox);
        self.flush_outbox(&mut outbox)?;
        let mut bufs = Vec::with_capacity(op.bufs().len() + 2);
        bufs.push(IoSlice::new(&header[..header_length]));
        bufs.extend_from_slice(op.bufs());
        bufs.push(IoSlice::new(trailer));
        let mut taken = self.below.write_with(&bufs, WriteFlags::NONBLOCK, &[])?;
        for buf in &bufs {
            let skipped = taken.min(buf.len());
            taken -= skipped;
            outbox.bytes.extend_from_slice(&buf[skipped..]);
        }
        Ok(length)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if interest.contains(Interest::READ) {
            let mut inbox = lock(&self.inbox);
            let is_waited_for = self.base.is_waited_for(Direction::Read);
            if is_waited_for {
                self.left_behind.begin();
            }
            if self.has_message(&mut inbox) {
                return Readiness::READ;
            }
            if is_waited_for {
                self.left_behind.watch(set);
            }
        }
        // That the stream can be read does not mean that a message is there; a try tells.
        let ready = self.below.watch(interest, set);
        let owes = !interest.is_empty() && !interest.contains(Interest::WRITE);
        if owes && !lock(&self.outbox).bytes.is_empty() {
            let now = set.internally(|set| self.below.watch(Interest::WRITE, set));
            if !now.is_empty() {
                set.wake_at(Instant::now());
            }
        }
        ready
    }

    fn drive(&self, now: Instant) -> Result<()> {
        // A failure is that of the next write.
        let _ = self.flush_outbox(&mut lock(&self.outbox));
        self.below.drive(now)
    }

    fn flush(&self) -> Result<()> {
        self.flush_outbox(&mut lock(&self.outbox))?;
        self.below.flush()
    }

    fn finish(&self) -> Result<()> {
        self.flush_outbox(&mut lock(&self.outbox))?;
        self.below.finish()
    }

    fn close(&self) -> Result<()> {
        let mut outbox = lock(&self.outbox);
        let _ = self.flush_outbox(&mut outbox);
        let unsent = outbox.bytes.len() - outbox.sent;
        *outbox = Outbox::default();
        drop(outbox);
        self.below.close()?;
        if unsent == 0 {
            return Ok(());
        }
        let text = format!("{}: closed with {unsent} bytes of a message unsent", self.base.name());
        Err(Error::new(ErrorKind::WriteZero, text))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
