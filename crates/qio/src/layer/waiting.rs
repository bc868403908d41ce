//! What is on its way out, and not taken below yet.

use std::io::{ErrorKind, IoSlice, Result};

use smallvec::SmallVec;

use super::store::Buffer;
use crate::channel::{Channel, ChannelExt, WriteFlags};

/// Whole pieces of the wire, in their order; of the first one, the rest.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    parts: SmallVec<[Buffer; PARTS]>,
    /// How much of the first part is gone.
    start: usize,
}

/// How many parts there are at once without memory of their own.
pub(super) const PARTS: usize = 4;

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

    /// How many parts.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// How many bytes.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum::<usize>() - self.start
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.start = 0;
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
            if waiting.len() < part.size() / 2 {
                *part = Buffer::hold(waiting.to_vec());
            } else if start > 0 {
                self.start = start;
            }
        }
    }
}
