//! A rate limit for each direction of any channel.

mod bucket;

use std::io::{ErrorKind, Result, SeekFrom};
use std::net::Shutdown;
use std::num::NonZero;
use std::time::{Duration, Instant};

use super::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::channel::{Base, Channel, ChannelExt, Features, ReadFlags, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{Event, PollSet};
use bucket::Bucket;

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "throttle";

/// A channel that lets only so many bytes a second pass, in either direction.
///
/// Reads and writes are cut to what may pass; when that is nothing they would block, and
/// [`watch`](Channel::watch) has the time at which 10 ms worth of bytes may. Nothing is buffered,
/// and nothing here sleeps.
///
/// Descriptors, positions and looking at data without taking it (which is not counted) go through.
/// Storage below is announced as if it were none: it may have to wait.
///
/// ```
/// use std::num::NonZero;
/// use qio::layer::throttle::{Rate, Throttle, ThrottleOptions};
/// use qio::{Channel, ChannelExt, Mode, transport::Duplex};
///
/// # fn main() -> std::io::Result<()> {
/// let (near, far) = Duplex::pair();
/// let rate = Rate::new(NonZero::new(1000).unwrap()).burst(NonZero::new(20).unwrap());
/// let near = Throttle::new(near, ThrottleOptions::new().write(rate));
/// near.set_mode(Mode::NonBlocking)?;
/// assert_eq!(near.write(&[1; 50])?, 20);
/// assert_eq!(near.write(&[1; 50]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
/// // Waiting is not for the kernel, but for the time.
/// near.set_mode(Mode::Blocking)?;
/// near.write_all(&[1; 30])?;
/// far.read_exact(&mut [0; 50])?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Throttle<C> {
    base: Base,
    below: C,
    reads: Gate,
    writes: Gate,
    /// Raised when a wait for time is pointless from now on.
    ended: Event,
    closed: AtomicBool,
    /// Where the time of the buckets begins.
    epoch: Instant,
}

/// Which direction is limited, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThrottleOptions {
    /// The limit for what is read. Default: none.
    pub read: Option<Rate>,
    /// The limit for what is written. Default: none.
    pub write: Option<Rate>,
}

/// How many bytes may pass in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// In the long run.
    pub bytes_per_second: NonZero<u64>,
    /// At once, after a pause. Default: a tenth of a second's.
    pub burst_bytes: NonZero<u64>,
}

impl Rate {
    /// A rate with the default burst.
    pub fn new(bytes_per_second: NonZero<u64>) -> Self {
        let burst = NonZero::new(bytes_per_second.get() / 10).unwrap_or(NonZero::<u64>::MIN);
        Self { bytes_per_second, burst_bytes: burst }
    }

    /// Sets the [burst](Self::burst_bytes).
    #[must_use]
    pub fn burst(mut self, bytes: NonZero<u64>) -> Self {
        self.burst_bytes = bytes;
        self
    }
}

impl ThrottleOptions {
    /// No limit yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits what is [read](Self::read).
    #[must_use]
    pub fn read(mut self, rate: Rate) -> Self {
        self.read = Some(rate);
        self
    }

    /// Limits what is [written](Self::write).
    #[must_use]
    pub fn write(mut self, rate: Rate) -> Self {
        self.write = Some(rate);
        self
    }
}

/// One direction.
#[derive(Debug)]
struct Gate {
    bucket: Option<Mutex<Bucket>>,
    /// The last attempt was refused without asking below: whoever waits for edges there would wait
    /// for ever.
    refused: AtomicBool,
    /// Nothing passes any more that would have to be counted.
    open: AtomicBool,
}

impl Gate {
    fn new(rate: Option<Rate>) -> Self {
        Self {
            bucket: rate.map(|rate| Mutex::new(Bucket::new(rate))),
            refused: AtomicBool::new(false),
            open: AtomicBool::new(false),
        }
    }

    fn bucket(&self) -> Option<&Mutex<Bucket>> {
        self.bucket.as_ref().filter(|_| !self.open.load(Ordering::Acquire))
    }

    /// Has `attempt` move as much of `wanted` as may pass.
    fn pass(
        &self,
        now: impl FnOnce() -> Duration,
        wanted: usize,
        attempt: impl FnOnce(usize) -> Result<usize>,
    ) -> Result<usize> {
        let Some(bucket) = self.bucket() else { return attempt(wanted) };
        let allowed = lock(bucket).allows(now(), wanted);
        self.refused.store(allowed.is_err(), Ordering::Release);
        let Ok(allowed) = allowed else { return Err(ErrorKind::WouldBlock.into()) };
        let count = attempt(allowed)?;
        lock(bucket).take(count);
        Ok(count)
    }
}

impl<C: Channel> Throttle<C> {
    /// Limits `below`.
    pub fn new(below: C, options: ThrottleOptions) -> Self {
        let kept = Features::DUPLEX
            | Features::FD_PASS
            | Features::SHUTDOWN
            | Features::SEEK
            | Features::PEEK;
        let base = Base::new(NAME, below.features() & kept);
        base.set_name(format!("{NAME} over {}", below.name()));
        base.set_mode(below.base().mode());
        Self {
            base,
            below,
            reads: Gate::new(options.read),
            writes: Gate::new(options.write),
            ended: Event::new(),
            closed: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn open(&self, gate: &Gate) {
        gate.open.store(true, Ordering::Release);
        self.ended.raise();
    }
}

impl<C: Channel> Channel for Throttle<C> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.below)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        if op.flags().contains(ReadFlags::PEEK) {
            return self.below.try_read(op);
        }
        let wanted = op.bufs().iter().map(|buf| buf.len()).sum();
        self.reads.pass(
            || self.now(),
            wanted,
            |allowed| match allowed {
                all if all == wanted => self.below.try_read(op),
                part => op.up_to(part, |op| self.below.try_read(op)),
            },
        )
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let wanted = op.bufs().iter().map(|buf| buf.len()).sum();
        self.writes.pass(
            || self.now(),
            wanted,
            |allowed| match allowed {
                all if all == wanted => self.below.try_write(op),
                part => op.up_to(part, |op| self.below.try_write(op)),
            },
        )
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        if interest.is_empty() {
            return self.below.watch(interest, set);
        }
        let mut ready = Readiness::empty();
        let mut passing = Interest::empty();
        for (direction, gate) in [(Interest::READ, &self.reads), (Interest::WRITE, &self.writes)] {
            if !interest.contains(direction) {
                continue;
            }
            let Some(bucket) = gate.bucket() else {
                passing |= direction;
                continue;
            };
            let allowed = lock(bucket).allows(self.now(), usize::MAX);
            match allowed {
                Ok(_) if gate.refused.load(Ordering::Acquire) => ready |= direction.into(),
                Ok(_) => passing |= direction,
                Err(then) => {
                    set.wake_at(self.epoch + then);
                    self.ended.watch(Interest::empty(), set);
                }
            }
        }
        if !passing.is_empty() {
            ready |= self.below.watch(passing, set);
        }
        ready
    }

    fn finish(&self) -> Result<()> {
        self.below.finish()
    }

    fn seek(&self, to: SeekFrom) -> Result<u64> {
        self.below.seek(to)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.below.shutdown(how)?;
        if how != Shutdown::Write {
            self.open(&self.reads);
        }
        if how != Shutdown::Read {
            self.open(&self.writes);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.below.close();
        self.open(&self.reads);
        self.open(&self.writes);
        result
    }
}
