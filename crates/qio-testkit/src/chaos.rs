//! A channel that makes every legal difficulty.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Result, SeekFrom};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use qio::channel::Base;
use qio::watch::{PollSet, SharedFd};
use qio::{
    Bytes, Channel, Confirmed, Direction, Interest, Mode, ReadFlags, ReadOp, Readiness, WriteFlags,
    WriteOp,
};

/// What a [`Chaos`] channel does; nothing of it breaks the contract of a channel.
///
/// Reads and writes are counted separately, so that a reader and a writer in two threads meet the
/// same difficulties in every run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    seed: u64,
    longest: Option<usize>,
    would_block_every: Option<u64>,
    for_edges: bool,
    spurious_every: Option<u64>,
    failure: Option<(u64, ErrorKind)>,
}

impl Plan {
    /// No difficulty yet; `seed` chooses the sizes of [`short`](Plan::short).
    pub fn new(seed: u64) -> Self {
        let (longest, would_block_every, spurious_every, failure) = (None, None, None, None);
        let for_edges = false;
        Self { seed, longest, would_block_every, for_edges, spurious_every, failure }
    }

    /// Reads and writes move one byte.
    #[must_use]
    pub fn one_byte(self) -> Self {
        self.short(1)
    }

    /// Reads and writes move between 1 and `longest` bytes.
    #[must_use]
    pub fn short(mut self, longest: usize) -> Self {
        self.longest = Some(longest.max(1));
        self
    }

    /// Every `n`-th read, and every `n`-th write, would block; `n` is at least 2.
    #[must_use]
    pub fn would_block_every(mut self, n: u64) -> Self {
        self.would_block_every = Some(n.max(2));
        self
    }

    /// A would-block for no reason is owned up to by the next watch, which says that the direction
    /// is ready: the kernel, which was not asked, sends no edge for it. Loops that look for levels
    /// find out by themselves.
    #[must_use]
    pub fn for_edges(mut self) -> Self {
        self.for_edges = true;
        self
    }

    /// Every `n`-th watch says that what is wanted holds, without having looked.
    #[must_use]
    pub fn spurious_every(mut self, n: u64) -> Self {
        self.spurious_every = Some(n.max(1));
        self
    }

    /// The `n`-th call that moves anything (read, write, finish, flush; from 1) fails once.
    #[must_use]
    pub fn fail_at(mut self, n: u64, kind: ErrorKind) -> Self {
        self.failure = Some((n, kind));
        self
    }

    /// Every difficulty by itself, and all at once; no failure.
    pub fn each(seed: u64) -> [(&'static str, Self); 5] {
        let new = Self::new(seed);
        [
            ("one byte at a time", new.one_byte()),
            ("would-block at every second call", new.would_block_every(2)),
            ("spurious readiness", new.spurious_every(2)),
            ("short reads and writes", new.short(700)),
            ("all at once", new.short(300).would_block_every(3).spurious_every(2)),
        ]
    }
}

/// A channel in front of another that follows a [`Plan`].
#[derive(Debug)]
pub struct Chaos<C> {
    inner: C,
    plan: Plan,
    reads: Attempts,
    writes: Attempts,
    watches: AtomicU64,
    calls: AtomicU64,
}

#[derive(Debug, Default)]
struct Attempts {
    count: AtomicU64,
    /// The last one would-blocked for no reason.
    refused: AtomicBool,
}

impl<C: Channel> Chaos<C> {
    /// Puts `plan` in front of `inner`.
    pub fn new(inner: C, plan: Plan) -> Self {
        let (reads, writes) = (Attempts::default(), Attempts::default());
        let (watches, calls) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner, plan, reads, writes, watches, calls }
    }

    /// How often it was asked what to wait for.
    pub fn watch_count(&self) -> u64 {
        self.watches.load(Ordering::Relaxed)
    }

    /// How many reads and writes were attempted.
    pub fn attempts(&self) -> u64 {
        self.reads() + self.writes.count.load(Ordering::Relaxed)
    }

    /// How many reads were attempted.
    pub fn reads(&self) -> u64 {
        self.reads.count.load(Ordering::Relaxed)
    }

    /// Fails as planned.
    fn call(&self) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.plan.failure {
            Some((at, kind)) if at == call => Err(std::io::Error::new(kind, "chaos")),
            _ => Ok(()),
        }
    }

    /// How many bytes this attempt may move.
    fn room(&self, attempts: &Attempts) -> Result<usize> {
        self.call()?;
        let attempt = attempts.count.fetch_add(1, Ordering::Relaxed) + 1;
        let refused = self.plan.would_block_every.is_some_and(|n| attempt.is_multiple_of(n));
        attempts.refused.store(refused, Ordering::Relaxed);
        if refused {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(self.plan.longest.map_or(usize::MAX, |longest| {
            let random = scramble(self.plan.seed.wrapping_add(attempt));
            usize::try_from(random % longest as u64).unwrap() + 1
        }))
    }
}

#[deny(clippy::missing_trait_methods, reason = "a forgotten method would change its meaning")]
impl<C: Channel> Channel for Chaos<C> {
    fn base(&self) -> &Base {
        self.inner.base()
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        let room = self.room(&self.reads)?;
        let wanted: usize = op.bufs().iter().map(|buf| buf.len()).sum();
        // A look shows all there is.
        if wanted <= room || op.flags().contains(ReadFlags::PEEK) {
            return self.inner.try_read(op);
        }
        let mut taken = vec![0; room];
        let n = self.inner.try_read(&mut op.forward(&mut [IoSliceMut::new(&mut taken)]))?;
        let mut rest = &taken[..n];
        for buf in op.bufs() {
            let (now, later) = rest.split_at(rest.len().min(buf.len()));
            buf[..now.len()].copy_from_slice(now);
            rest = later;
        }
        Ok(n)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let mut room = self.room(&self.writes)?;
        let mut bufs = Vec::new();
        for buf in op.bufs() {
            let part = &buf[..buf.len().min(room)];
            room -= part.len();
            bufs.push(IoSlice::new(part));
            if room == 0 {
                break;
            }
        }
        self.inner.try_write(&mut op.forward(&bufs))
    }

    fn try_write_owned(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
        let mut room = self.room(&self.writes)?;
        let mut parts = Vec::new();
        for buf in bufs {
            let part = buf.slice(..buf.len().min(room));
            room -= part.len();
            parts.push(part);
            if room == 0 {
                break;
            }
        }
        self.inner.try_write_owned(&parts, flags)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        let watch = self.watches.fetch_add(1, Ordering::Relaxed) + 1;
        if self.plan.spurious_every.is_some_and(|n| watch.is_multiple_of(n)) {
            return interest.into();
        }
        let mut refused = Readiness::empty();
        if self.plan.for_edges {
            let set = |attempts: &Attempts| attempts.refused.load(Ordering::Relaxed);
            refused.set(Readiness::READ, set(&self.reads));
            refused.set(Readiness::WRITE, set(&self.writes));
            refused &= interest.into();
        }
        if refused.is_empty() { self.inner.watch(interest, set) } else { refused }
    }

    // There may always be a difficulty again.
    fn watch_stands(&self, _: Interest, _: &SharedFd) -> bool {
        false
    }

    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        self.inner.watch_more(seen, set)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        self.inner.set_mode(mode)
    }

    fn drive(&self, now: Instant) -> Result<()> {
        self.inner.drive(now)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.inner.shutdown(how)
    }

    fn finish(&self) -> Result<()> {
        self.call()?;
        self.inner.finish()
    }

    fn flush(&self) -> Result<()> {
        self.call()?;
        self.inner.flush()
    }

    fn confirm(&self) -> Result<Confirmed> {
        self.call()?;
        self.inner.confirm()
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.inner.seek(to)
    }

    fn set_delay(&self, delay: bool) {
        self.inner.set_delay(delay);
    }

    fn set_cork(&self, cork: bool) {
        self.inner.set_cork(cork);
    }

    fn splice_fd(&self, _direction: Direction) -> Option<SharedFd> {
        // Bytes that go around would meet no difficulty.
        None
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.inner)
    }
}

/// A number that looks random and depends on `n` alone (SplitMix64).
pub(crate) fn scramble(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use qio::transport::Duplex;
    use qio::{ChannelExt, WriteFlags};

    use super::*;

    fn sizes(seed: u64) -> Vec<std::result::Result<usize, ErrorKind>> {
        let (left, _right) = Duplex::pair();
        let left = Chaos::new(left, Plan::new(seed).short(50).would_block_every(4));
        let bufs = [IoSlice::new(&[0; 30]), IoSlice::new(&[0; 30])];
        let write = |_| left.write_with(&bufs, WriteFlags::NONBLOCK, &[]);
        (0..20).map(|i| write(i).map_err(|error| error.kind())).collect()
    }

    #[test]
    fn a_seed_gives_the_same_difficulties_again() {
        assert_eq!(sizes(1), sizes(1));
        assert_ne!(sizes(1), sizes(2));
        assert_eq!(sizes(1)[3], Err(ErrorKind::WouldBlock));
        assert!(sizes(1).iter().flatten().all(|n| (1..=50).contains(n)));
    }

    #[test]
    fn a_planned_failure_comes_once() {
        let (left, right) = Duplex::pair();
        let left = Chaos::new(left, Plan::new(0).fail_at(2, ErrorKind::Other));
        left.write_all(b"a").unwrap();
        assert_eq!(left.write_all(b"b").unwrap_err().kind(), ErrorKind::Other);
        left.write_all(b"c").unwrap();
        let mut got = [0; 2];
        right.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ac");
    }

    #[test]
    fn a_spurious_watch_has_not_looked() {
        let (left, _right) = Duplex::pair();
        let left = Chaos::new(left, Plan::new(0).spurious_every(2));
        let mut set = PollSet::new();
        assert_eq!(left.watch(Interest::READ, &mut set), Readiness::empty());
        assert_eq!(set.legs().len(), 1);
        assert_eq!(left.watch(Interest::READ, &mut set), Readiness::READ);
        assert_eq!(left.attempts(), 0);
    }
}
