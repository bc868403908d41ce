//! Trying again: how often, and after which pauses.

use std::error::Error as StdError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use qio_os::LookupError;
use rustix::io::Errno;

use super::address::{Address, Value};
use super::options::ConnectOptions;
use super::scheme::{Applies, OptionInfo};
use crate::error::{Class, Error};

/// How often, and after which pauses, something that failed is tried again.
///
/// The value is a plan and holds no state: [`start`](Retry::start) makes the [`Backoff`] that
/// counts. As [`ConnectOptions::retry`] it makes [`connect`](super::connect) try again after a
/// failure that [may pass](may_pass).
///
/// ```
/// use std::time::{Duration, Instant};
/// use qio::net::{Jitter, Retry};
///
/// let plan = Retry::exponential(Duration::from_millis(100), Duration::from_secs(5)).attempts(3);
/// let now = Instant::now();
/// let mut backoff = plan.start(now);
/// assert_eq!(backoff.next_pause(now), Some(Duration::from_millis(100)));
/// assert_eq!(backoff.next_pause(now), Some(Duration::from_millis(200)));
/// backoff.reset(now);
/// assert_eq!(backoff.next_pause(now), Some(Duration::from_millis(100)));
///
/// // Thousands of clients that lost the same server should not come back at the same moment.
/// let crowd = plan.jitter(Jitter::Full);
/// # let _ = crowd;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// The pause after the first failure. 100 ms unless set: nobody notices it, and a server that
    /// restarts needs about that.
    pub first: Duration,
    /// What each pause is multiplied by to give the next one; 1 keeps it. 2 unless set.
    pub factor: u32,
    /// The longest pause. 5 s unless set: a server that came back is found while somebody waits.
    pub longest: Duration,
    /// How chance changes the pauses. Not at all unless set.
    pub jitter: Jitter,
    /// How many further attempts there are after the first one; `None`, as unless set, is for
    /// ever.
    pub attempts: Option<u32>,
    /// How long everything together may go on: no pause begins that would end later. `None`, as
    /// unless set, is for ever.
    pub within: Option<Duration>,
    /// What chance starts from, so that tests can repeat it; from the system unless set.
    pub seed: Option<u64>,
}

/// How chance changes a pause, so that many who failed together do not all come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Not at all: the pause as planned.
    #[default]
    None,
    /// Anything from nothing to the pause as planned: spreads a crowd best.
    Full,
    /// Anything from half the pause to all of it: never comes back at once.
    Equal,
}

/// The state of a [`Retry`]: which pause comes next.
#[derive(Clone, Debug)]
pub struct Backoff {
    plan: Retry,
    next: Duration,
    failures: u32,
    until: Option<Instant>,
    random: Random,
}

impl Retry {
    /// Pauses of 100 ms, 200 ms, 400 ms… up to 5 s, without end.
    pub fn new() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// The same pause every time, without end.
    pub fn fixed(pause: Duration) -> Self {
        Self { factor: 1, ..Self::exponential(pause, pause) }
    }

    /// Pauses that double from `first` to `longest`, without end.
    pub fn exponential(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            factor: 2,
            longest,
            jitter: Jitter::None,
            attempts: None,
            within: None,
            seed: None,
        }
    }

    /// Sets what each pause is multiplied by to give the next one.
    #[must_use]
    pub fn factor(mut self, factor: u32) -> Self {
        self.factor = factor;
        self
    }

    /// Sets how chance changes the pauses.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets how many further attempts there are; `None` is for ever.
    #[must_use]
    pub fn attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.attempts = attempts.into();
        self
    }

    /// Sets how long everything together may go on; `None` is for ever.
    #[must_use]
    pub fn within(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.within = limit.into();
        self
    }

    /// Sets what chance starts from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts to count, when the first attempt starts.
    pub fn start(&self, now: Instant) -> Backoff {
        // The keys of a hasher are the one source of chance that std has.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let mut backoff = Backoff {
            plan: self.clone(),
            next: Duration::ZERO,
            failures: 0,
            until: None,
            random: Random(seed),
        };
        backoff.reset(now);
        backoff
    }

    /// What the options of an address and those of the caller say together.
    pub(crate) fn asked_for(address: &Address, options: &ConnectOptions) -> Option<Self> {
        let count = address.text("retry").map(|text| text.parse().ok());
        let mut plan = match (address.reconnect_pause(), &options.retry) {
            (None, None) if count.is_none() => return None,
            (None, plan) => plan.clone().unwrap_or_default(),
            (Some(pause), Some(plan)) => {
                Self { first: pause, longest: pause, factor: 1, ..plan.clone() }
            }
            (Some(pause), None) if count.is_some() => Self::fixed(pause),
            // Nobody has said for how long: for as long as a single attempt may take.
            (Some(pause), None) => Self::fixed(pause).within(options.timeout),
        };
        if let Some(count) = count {
            plan.attempts = count;
        }
        Some(plan)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// After a failure: how long to wait before the next attempt. `None` when there is none.
    pub fn next_pause(&mut self, now: Instant) -> Option<Duration> {
        if self.plan.attempts.is_some_and(|attempts| self.failures >= attempts) {
            return None;
        }
        let pause = self.random.jittered(self.next, self.plan.jitter);
        if let Some(until) = self.until
            && now.checked_add(pause).is_none_or(|end| end >= until)
        {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.next = self.next.saturating_mul(self.plan.factor).min(self.plan.longest);
        Some(pause)
    }

    /// Starts again from the beginning, after a success that lasted: not after one that ended at
    /// once, which would turn a server that hangs up on everybody into a busy loop.
    pub fn reset(&mut self, now: Instant) {
        self.next = self.plan.first.min(self.plan.longest);
        self.failures = 0;
        // A time that no clock can show never comes.
        self.until = self.plan.within.and_then(|limit| now.checked_add(limit));
    }

    /// How many pauses were given out since the start, or since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When everything together is over.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// Whether another attempt could go better without anybody changing the address: the peer refused
/// the connection, was unreachable or did not answer in time, the socket file is not there yet, or
/// the name server had no time.
///
/// What makes no sense, is not allowed or was given up does not pass, and neither does the limit
/// of open files ([`is_descriptor_limit`](super::is_descriptor_limit)), which is no matter of the
/// peer.
pub fn may_pass(error: &Error) -> bool {
    match error.class() {
        Class::Timeout => true,
        Class::Resolve => is_busy_name_server(error),
        Class::Open => os_error(error).is_some_and(|cause| {
            use io::ErrorKind as Kind;
            match cause.kind() {
                Kind::ConnectionRefused
                | Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::HostUnreachable
                | Kind::NetworkUnreachable
                | Kind::NetworkDown
                | Kind::TimedOut => true,
                // The kernel has not seen the file; a program that is not there stays away.
                Kind::NotFound => {
                    error.attempt() != "run"
                        && cause.raw_os_error() == Some(Errno::NOENT.raw_os_error())
                }
                _ => cause.raw_os_error() == Some(Errno::HOSTDOWN.raw_os_error()),
            }
        }),
        _ => false,
    }
}

/// The deepest error of the operating system in the chain of causes.
fn os_error(error: &Error) -> Option<&io::Error> {
    let mut found = None;
    let mut cause = error.source();
    while let Some(error) = cause {
        found = error.downcast_ref().or(found);
        cause = error.source();
    }
    found
}

/// Whether getaddrinfo(3) said `EAI_AGAIN`.
fn is_busy_name_server(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(lookup) = error.downcast_ref::<LookupError>() {
            return lookup.may_pass();
        }
        cause = error.source();
    }
    false
}

impl Address {
    /// What the option `reconnect-ms` says: how long after the end of a connection, or after a
    /// failure to open it, it is opened again. `None` when it is not given, or 0.
    #[doc(alias = "reconnect-ms")]
    pub fn reconnect_pause(&self) -> Option<Duration> {
        self.count("reconnect-ms").filter(|&ms| ms > 0).map(|ms| Duration::from_millis(ms.into()))
    }
}

/// The options of schemes that open something which may not be there yet.
pub(crate) const RETRY_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new(
        "retry",
        Value::CountOrForever,
        "try again up to N times when it cannot be opened for now",
    )
    .only(Applies::Connect),
    // QEMU's name. A day is the longest pause, so that a number with too many zeros is noticed.
    OptionInfo::new(
        "reconnect-ms",
        Value::Count { from: 0, to: 86_400_000 },
        "milliseconds from a failure or the end until it is opened again, 0 is never",
    )
    .only(Applies::Connect),
];

/// SplitMix64: eight lines are enough to spread clients in time.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Anything from nothing to `longest`, both included.
    fn up_to(&mut self, longest: Duration) -> Duration {
        // Pauses of more than 584 years are all the same.
        let nanoseconds = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let scaled = (u128::from(self.next()) * (u128::from(nanoseconds) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanoseconds))
    }

    fn jittered(&mut self, pause: Duration, jitter: Jitter) -> Duration {
        match jitter {
            Jitter::None => pause,
            Jitter::Full => self.up_to(pause),
            Jitter::Equal => pause / 2 + self.up_to(pause - pause / 2),
        }
    }
}
