//! What is on its way out, and not taken below yet.

use std::io::{ErrorKind, IoSlice, Result};

use smallvec::SmallVec;

use super::store::Buffer;
use crate::channel::{Channel, ChannelExt, WriteFlags};

/// How many parts wait before no more plain bytes are taken; what a protocol has to say beside them
/// may be a few more.
pub(super) const PARTS: usize = 4;

/// Whole pieces of the wire, in their order; of the first one, the rest.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    parts: SmallVec<[Buffer; PARTS]>,
    /// How much of the first part is gone.
    start: usize,
}

impl Waiting {
    /// Appends a part; an empty one is nothing.
    pub(super) fn push(&mut self, part: Buffer) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    pub(super) fn extend(&mut self, parts: impl IntoIterator<Item = Buffer>) {
        parts.into_iter().for_each(|part| self.push(part));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn part_count(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum::<usize>() - self.start
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends all of it, and gives the memory back; what would block stays.
    pub(super) fn send<C: Channel>(&mut self, below: &C) -> Result<()> {
        while !self.is_empty() {
            match self.send_once(below) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) => {
                    if error.kind() == ErrorKind::WouldBlock {
                        self.park();
                    }
                    return Err(error);
                }
            }
        }
        // Nothing is kept, no room for parts either.
        self.clear();
        Ok(())
    }

    fn send_once<C: Channel>(&self, below: &C) -> Result<usize> {
        let mut bufs: SmallVec<[IoSlice<'_>; PARTS]> =
            self.parts.iter().map(|part| IoSlice::new(part)).collect();
        bufs[0].advance(self.start);
        below.write_with(&bufs, WriteFlags::NONBLOCK, &[])
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
        let mut gone = 0;
        while let Some(part) = self.parts.get(gone)
            && part.len() <= self.start
        {
            self.start -= part.len();
            gone += 1;
        }
        self.parts.drain(..gone);
    }

    /// Keeps no more memory than what waits needs.
    fn park(&mut self) {
        for (index, part) in self.parts.iter_mut().enumerate() {
            let start = if index == 0 { std::mem::take(&mut self.start) } else { 0 };
            let waiting = &part[start..];
            if waiting.len() < part.memory_bytes() / 2 {
                *part = Buffer::hold(waiting.to_vec());
            } else if start > 0 {
                self.start = start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Duplex;

    /// Sends parts of these sizes over a pipe that holds so many bytes, and compares what comes.
    fn send(sizes: &[usize], room: usize) -> Waiting {
        let (below, peer) = Duplex::pair_with_limit(room);
        let mut waiting = Waiting::default();
        let mut whole = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let part: Vec<u8> = (0..*size).map(|at| (index * 50 + at) as u8).collect();
            whole.extend_from_slice(&part);
            // Every other one has memory to spare, which it must not keep.
            waiting.push(match index % 2 {
                0 => Buffer::hold(part),
                _ => {
                    let mut buffer = Buffer::take(size + 100);
                    buffer[..*size].copy_from_slice(&part);
                    buffer.truncate(*size);
                    buffer
                }
            });
        }
        assert_eq!(waiting.bytes(), whole.len());
        let mut got = Vec::new();
        while got.len() < whole.len() {
            match waiting.send(&below) {
                Ok(()) => assert!(waiting.is_empty()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    // The pipe is full.
                    assert_eq!(got.len() + room + waiting.bytes(), whole.len());
                    assert!(waiting.parts.iter().all(|part| part.memory_bytes() < 64));
                }
            }
            let mut buf = vec![0; room];
            let count = peer.read(&mut buf).unwrap();
            got.extend_from_slice(&buf[..count]);
        }
        assert!(got == whole, "{sizes:?} through {room}");
        waiting
    }

    #[test]
    fn parts_go_out_in_order_whatever_is_taken_at_once() {
        for room in [1, 2, 3, 5, 7, 10, 64] {
            for sizes in [&[1][..], &[10], &[3, 1, 40, 1, 5], &[1; 9], &[0, 2, 0, 3]] {
                let waiting = send(sizes, room);
                assert_eq!((waiting.part_count(), waiting.bytes()), (0, 0));
                assert!(!waiting.parts.spilled(), "it holds no memory");
            }
        }
    }
}
