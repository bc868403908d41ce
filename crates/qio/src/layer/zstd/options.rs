//! How a stream is compressed.

use std::io::{Error, ErrorKind, Result};

/// How a stream is compressed, and how much memory the peer may make us use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZstdOptions {
    /// 1 (quick) to 19 (small). Default: 3, which is zstd's own.
    pub level: i32,
    /// How far back repetitions are found, as a power of two of bytes: 10 to 23. Default: 17
    /// (128 KiB), because each end keeps that much for as long as the channel lives.
    pub window_log: u32,
    /// The largest window that the peer's frame may ask for, as a power of two of bytes: 10 to 27.
    /// Default: 21 (2 MiB), what the program `zstd` makes of a pipe; RFC 8878 (section 3.1.1.1.2)
    /// recommends 23 for files from anywhere.
    pub window_log_max: u32,
}

impl ZstdOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { level: 3, window_log: 17, window_log_max: 21 }
    }

    /// Sets the [level](Self::level).
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Sets our [window](Self::window_log).
    #[must_use]
    pub fn window_log(mut self, log: u32) -> Self {
        self.window_log = log;
        self
    }

    /// Sets the [largest window](Self::window_log_max) of the peer.
    #[must_use]
    pub fn window_log_max(mut self, log: u32) -> Self {
        self.window_log_max = log;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        if !(1..=19).contains(&self.level) {
            return refuse(format!("zstd level {}: 1 to 19 is possible", self.level));
        }
        if !(10..=23).contains(&self.window_log) {
            return refuse(format!("zstd window 2^{}: 2^10 to 2^23 is possible", self.window_log));
        }
        if !(10..=27).contains(&self.window_log_max) {
            let log = self.window_log_max;
            return refuse(format!("zstd largest window 2^{log}: 2^10 to 2^27 is possible"));
        }
        Ok(())
    }
}

impl Default for ZstdOptions {
    fn default() -> Self {
        Self::new()
    }
}
