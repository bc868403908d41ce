//! Bytes that are made on one side and summed up on both.

use std::ops::RangeInclusive;

/// Some bytes, in their order (FNV-1a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sum {
    /// How many.
    pub bytes: u64,
    hash: u64,
}

impl Sum {
    /// Of no bytes.
    #[expect(clippy::new_without_default, reason = "one name is enough")]
    pub fn new() -> Self {
        Self { bytes: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds what comes next.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Sizes and bytes that repeat late: the same for the same seed.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The seed may be anything but 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.number() as usize % limit
    }

    /// Bytes, as many as one of `sizes`.
    pub fn block(&mut self, sizes: RangeInclusive<usize>) -> Vec<u8> {
        let len = sizes.start() + self.below(sizes.end() - sizes.start() + 1);
        let from = self.number();
        (0..len as u64).map(|at| (from + at * 31) as u8).collect()
    }

    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
