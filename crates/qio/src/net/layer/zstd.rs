//! `zstd+`: compression, RFC 8878.

use std::io;
use std::sync::Arc;

use super::{Begin, Layer, Link, at_once};
use crate::channel::Channel;
use crate::error::Result;
use crate::layer::zstd::{self, ZstdOptions};
use crate::net::address::{Part, Refusal, Value};
use crate::net::scheme::{Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: zstd::NAME,
    summary: "compression (RFC 8878) on both sides; every write is out when it returns",
    examples: &[
        Example::new("zstd+tcp://h:7001", "to a server that compresses, too"),
        Example::new("listen:zstd+tls+tcp://:7001?cert=cert.pem&level=9", "compressed, then TLS"),
        Example::new("zstd+file:log.zst?write&create", "a file for the program zstd"),
    ],
    options: OPTIONS,
    in_target: None,
    is_local: false,
    missing: "",
    check,
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("level", Value::Count { from: 1, to: 19 }, "1 is quick, 19 is small")
        .default("3"),
    OptionInfo::new(
        "window",
        Value::Size,
        "how far back repetitions are found, a power of two from 1k to 8M: each end keeps as much \
         memory, and the sender some 2 MiB",
    )
    .default("128k"),
    OptionInfo::new(
        "max-window",
        Value::Size,
        "the largest window that the peer may ask for, to 128M",
    )
    .default("2M"),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    options(part).map(drop)
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let options = options(part).map_err(|refusal| {
        let attempt = if part.address().is_listening() { "listen" } else { "connect" };
        refusal.of(attempt, &part.address().to_string())
    })?;
    Ok(Arc::new(Begins(options)))
}

fn options(part: &Part<'_>) -> std::result::Result<ZstdOptions, Refusal> {
    let mut options = ZstdOptions::new();
    if let Some(level) = part.count("level").and_then(|level| level.try_into().ok()) {
        options.level = level;
    }
    for (key, log, largest) in
        [("window", &mut options.window_log, 23), ("max-window", &mut options.window_log_max, 27)]
    {
        let Some(bytes) = part.size(key) else { continue };
        if !bytes.is_power_of_two() || !(10..=largest).contains(&bytes.ilog2()) {
            let largest = (1 << largest) >> 20;
            return Err(Refusal::new(format!(
                "option {key:?}: {bytes} is no power of two from 1k to {largest}M"
            )));
        }
        *log = bytes.ilog2();
    }
    Ok(options)
}

#[derive(Debug)]
struct Begins(ZstdOptions);

impl Begin for Begins {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        at_once(below, |below| zstd::layer(below, self.0))
    }

    fn reach(&self) -> Vec<(&'static str, String)> {
        let ours = self.0.window_log;
        match ours > ZstdOptions::new().window_log_max {
            true => vec![("max-window", (1_u64 << ours).to_string())],
            false => Vec::new(),
        }
    }
}
