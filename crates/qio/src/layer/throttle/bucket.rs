//! How many bytes may pass, as a state machine that is told the time.

use std::time::Duration;

use super::Rate;

/// A token bucket: full at the start, filled with the rate, never above the burst.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: u64,
    burst: u64,
    /// What a wait is for: 10 ms of bytes, or wakes would come with every byte.
    portion: u64,
    /// In billionths of a byte, so that no time is lost to rounding.
    level: u128,
    filled: Duration,
}

const UNIT: u128 = 1_000_000_000;

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let (rate, burst) = (rate.bytes_per_second.get(), rate.burst_bytes.get());
        let portion = (rate / 100).clamp(1, burst);
        let level = u128::from(burst) * UNIT;
        Self { rate, burst, portion, level, filled: Duration::ZERO }
    }

    /// How many bytes of `wanted` may pass now, at least one; else when to ask again.
    pub(super) fn allows(&mut self, now: Duration, wanted: usize) -> Result<usize, Duration> {
        self.fill(now);
        let there = self.level / UNIT;
        let enough = u128::from(self.portion).min(wanted as u128);
        if there >= enough {
            return Ok(usize::try_from(there).unwrap_or(usize::MAX).min(wanted));
        }
        let missing = u128::from(self.portion) * UNIT - self.level;
        let nanos = missing.div_ceil(u128::from(self.rate));
        // The portion is at most 10 ms of bytes, or one byte: 584 years are not reached.
        Err(now.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }

    /// `count` bytes have passed.
    pub(super) fn take(&mut self, count: usize) {
        self.level = self.level.saturating_sub(count as u128 * UNIT);
    }

    fn fill(&mut self, now: Duration) {
        // Clocks of two threads may be read in one order and told in the other.
        let passed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        let more = passed.as_nanos().saturating_mul(self.rate.into());
        self.level = self.level.saturating_add(more).min(u128::from(self.burst) * UNIT);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;

    fn bucket(rate: u64, burst: u64) -> Bucket {
        let rate = Rate::new(NonZero::new(rate).unwrap());
        Bucket::new(rate.burst(NonZero::new(burst).unwrap()))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Moves `len` bytes, in attempts of at most `chunk`, and gives how long it took.
    fn time_for(bucket: &mut Bucket, mut len: usize, chunk: usize) -> (Duration, usize) {
        let (mut now, mut waits) = (Duration::ZERO, 0);
        while len > 0 {
            match bucket.allows(now, len.min(chunk)) {
                Ok(count) => {
                    assert!((1..=len.min(chunk)).contains(&count));
                    bucket.take(count);
                    len -= count;
                }
                Err(then) => {
                    assert!(then > now);
                    (now, waits) = (then, waits + 1);
                }
            }
        }
        (now, waits)
    }

    #[test]
    fn the_rate_is_kept_to_the_nanosecond() {
        for chunk in [1, 7, 1000, 1 << 20] {
            let (took, _) = time_for(&mut bucket(10 << 20, 1 << 16), (1 << 20) + (1 << 16), chunk);
            let late = took.abs_diff(ms(100));
            assert!(late <= ms(10), "{took:?} in steps of {chunk}");
        }
        let (took, waits) = time_for(&mut bucket(1000, 10), 3010, 1 << 20);
        assert_eq!(took, Duration::from_secs(3));
        assert_eq!(waits, 300, "one for each 10 ms of bytes");
    }

    #[test]
    fn a_full_bucket_lets_a_burst_pass_and_holds_no_more() {
        let mut bucket = bucket(1000, 500);
        assert_eq!(bucket.allows(ms(0), 900), Ok(500));
        bucket.take(500);
        assert_eq!(bucket.allows(ms(0), 900), Err(ms(10)));
        assert_eq!(bucket.allows(ms(10), 900), Ok(10));
        assert_eq!(bucket.allows(ms(3_600_000), 900), Ok(500));
    }

    #[test]
    fn a_small_piece_passes_as_soon_as_there_is_room_for_it() {
        let mut bucket = bucket(1000, 500);
        bucket.take(500);
        assert_eq!(bucket.allows(ms(3), 3), Ok(3));
        assert_eq!(bucket.allows(ms(3), 4), Err(ms(10)));
    }

    #[test]
    fn a_rate_below_a_byte_in_ten_ms_waits_for_whole_bytes() {
        let mut bucket = bucket(1, 1);
        assert_eq!(bucket.allows(ms(0), 5), Ok(1));
        bucket.take(1);
        assert_eq!(bucket.allows(ms(300), 5), Err(ms(1000)));
        assert_eq!(bucket.allows(ms(1000), 5), Ok(1));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = bucket(1000, 100);
        assert_eq!(bucket.allows(ms(50), 100), Ok(100));
        bucket.take(100);
        assert_eq!(bucket.allows(ms(20), 1), Err(ms(30)));
        assert!(bucket.allows(ms(50), 1).is_err());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut bucket = bucket(u64::MAX, u64::MAX);
        assert_eq!(bucket.allows(Duration::from_secs(u64::MAX), usize::MAX), Ok(usize::MAX));
        bucket.take(usize::MAX);
        assert!(bucket.allows(Duration::from_secs(u64::MAX), 1).is_err());
    }
}
