//! Kernel features that are newer than the oldest supported kernel (5.10).

use std::sync::atomic::{AtomicU8, Ordering};

/// A kernel feature that is probed at run time and has a fallback.
///
/// A capability starts out unknown. The code that uses it tries the newer call and reports what
/// it saw; from then on every caller takes the same branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Capability {
    /// `RWF_NOSIGNAL` of pwritev2(2), Linux 6.18: a write to a broken pipe raises no signal.
    WriteNoSignal,
    /// `RWF_NOWAIT` of preadv2(2) on pipes and terminals (pipes since Linux 6.4).
    PipeNoWait,
    /// `CLOSE_RANGE_CLOEXEC` of close_range(2), Linux 5.11.
    CloseRangeCloexec,
    /// `SO_PEERPIDFD` of unix(7), Linux 6.5. No fallback: another way would be a guess.
    PeerPidfd,
}

const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;

static STATES: [AtomicU8; 4] = [const { AtomicU8::new(UNKNOWN) }; 4];

impl Capability {
    /// Every capability, for tests that run each fallback.
    pub const ALL: [Self; 4] =
        [Self::WriteNoSignal, Self::PipeNoWait, Self::CloseRangeCloexec, Self::PeerPidfd];

    /// Whether the newer call should be tried: it is known to work, or was not tried yet.
    pub fn may_try(self) -> bool {
        self.state().load(Ordering::Relaxed) != ABSENT
    }

    /// Records that the kernel refused the newer call, so that nobody tries it again.
    pub fn refuse(self) {
        self.state().store(ABSENT, Ordering::Relaxed);
    }

    /// Forgets what was seen, so that the next user probes again. For tests.
    pub fn reset(self) {
        self.state().store(UNKNOWN, Ordering::Relaxed);
    }

    fn state(self) -> &'static AtomicU8 {
        let index = match self {
            Self::WriteNoSignal => 0,
            Self::PipeNoWait => 1,
            Self::CloseRangeCloexec => 2,
            Self::PeerPidfd => 3,
        };
        &STATES[index]
    }
}

const _: () = assert!(STATES.len() == Capability::ALL.len());
