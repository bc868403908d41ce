//! An answer on its way.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use super::reply::{Body, Reply};
use super::request::Request;
use super::visiting::Visit;
use crate::channel::{Channel, ChannelExt, WriteFlags};

/// An answer that is being sent.
pub(super) struct Sending {
    /// What is in memory of it, and how much of that is sent.
    bytes: Vec<u8>,
    at: usize,
    /// How much of the head is not sent.
    head_left: usize,
    /// What is in a file of it.
    rest: Option<FilePart>,
    /// The connection ends with it.
    pub(super) closes: bool,
    /// Nobody is told of it: whoever asks for health asks often.
    pub(super) is_quiet: bool,
    pub(super) visit: Visit,
}

/// What is left of a file.
struct FilePart {
    file: File,
    from: u64,
    left: u64,
}

/// How long nothing of an answer may be taken: as long as in common servers. What is taken lies in
/// the buffers of the kernel, and a third of those has to become free for the next part.
pub(super) const STALLED: Duration = Duration::from_secs(60);

/// How much of a file is in memory at a time, while it is sent.
const CHUNK: usize = 64 * 1024;

/// How much is sent before others have their turn.
pub(super) const BYTES_A_TURN: usize = 4 * CHUNK;

impl Sending {
    /// Begins to send a reply to a request.
    pub(super) fn new(request: &Request, reply: Reply, time: SystemTime) -> Self {
        let closes = reply.must_close || !request.keeps_alive;
        let mut bytes = reply.head(time, closes);
        let head_left = bytes.len();
        let visit = Visit {
            method: request.method.clone(),
            path: request.path.clone(),
            status: reply.status,
            bytes: 0,
            is_complete: false,
        };
        let mut rest = None;
        if request.method != "HEAD" {
            match reply.body {
                Body::Absent => {}
                Body::Bytes(body) => bytes.extend(body),
                Body::File { file, from, len } => rest = Some(FilePart { file, from, left: len }),
            }
        }
        Self { bytes, at: 0, head_left, rest, closes, is_quiet: false, visit }
    }

    /// Sends what can be sent now; says whether that is all.
    pub(super) fn advance<C: Channel>(
        &mut self,
        below: &C,
        bytes_left: &mut usize,
        deadline: &mut Option<Instant>,
        now: Instant,
    ) -> io::Result<bool> {
        loop {
            self.fill()?;
            let bytes = &self.bytes[self.at..];
            if bytes.is_empty() {
                return Ok(true);
            }
            if *bytes_left == 0 {
                return Ok(false);
            }
            let count = below.write_with(&[IoSlice::new(bytes)], WriteFlags::NONBLOCK, &[])?;
            let of_head = count.min(self.head_left);
            self.head_left -= of_head;
            self.visit.bytes += (count - of_head) as u64;
            self.at += count;
            *bytes_left = bytes_left.saturating_sub(count);
            *deadline = now.checked_add(STALLED);
        }
    }

    /// Reads the next part of the file, when everything before it is sent, or there is only the head.
    fn fill(&mut self) -> io::Result<()> {
        let Some(part) = self.rest.as_mut().filter(|part| part.left > 0) else { return Ok(()) };
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        } else if self.at > 0 || self.bytes.len() != self.head_left {
            return Ok(());
        }
        let end = self.bytes.len();
        let wanted = part.left.min(CHUNK as u64) as usize;
        self.bytes.resize(end + wanted, 0);
        let result = part.file.read_at(&mut self.bytes[end..], part.from);
        self.bytes.truncate(end + *result.as_ref().unwrap_or(&0));
        match result {
            // It is shorter than it was. The client has been told a length, and has to see that
            // this is not it: the connection ends here.
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the file has become shorter")),
            Ok(count) => {
                part.from += count as u64;
                part.left -= count as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Err(error) => Err(error),
        }
    }
}
