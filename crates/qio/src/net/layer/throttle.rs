//! `throttle+`: a rate limit for each direction.

use std::io;
use std::num::NonZero;
use std::sync::Arc;

use super::{Begin, Layer, Link, at_once};
use crate::channel::Channel;
use crate::error::Result;
use crate::layer::throttle::{self, Rate, Throttle, ThrottleOptions};
use crate::net::address::{Part, Refusal, Value};
use crate::net::scheme::{Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: throttle::NAME,
    summary: "a limit for the bytes that pass in a second, for each connection by itself",
    examples: &[
        Example::new("throttle+tcp://db.example:5432?rate=1M", "a megabyte a second each way"),
        Example::new(
            "listen:throttle+tcp://:7001?write-rate=64Ki&burst=4k",
            "send clients 64 KiB a second, and at most 4 KiB at once",
        ),
        Example::new("throttle+tls+tcp://h:443?read-rate=200k", "200 kB a second of plain bytes"),
    ],
    options: OPTIONS,
    in_target: None,
    is_local: true,
    missing: "",
    check,
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo::new(
        "rate",
        Value::Rate,
        "bytes a second in each direction; k, M, G are powers of 1000, Ki, Mi, Gi of 1024",
    ),
    OptionInfo::new("read-rate", Value::Rate, "for what is read from this side [default: rate]"),
    OptionInfo::new("write-rate", Value::Rate, "for what is written to it [default: rate]"),
    OptionInfo::new(
        "burst",
        Value::Size,
        "bytes that may pass at once after a pause [default: those of 0.1 s]",
    ),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    match ["rate", "read-rate", "write-rate"].iter().any(|key| part.is_given(key)) {
        true => Ok(()),
        false => Err(Refusal::new("nothing is limited")
            .hint("rate=1M is a megabyte a second each way, read-rate and write-rate are for one")),
    }
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let burst = part.size("burst").and_then(|burst| NonZero::new(burst as u64));
    let limit = |key: &str| {
        let rate = Rate::new(part.rate(key).or_else(|| part.rate("rate"))?);
        Some(burst.map_or(rate, |burst| rate.burst(burst)))
    };
    let mut options = ThrottleOptions::new();
    (options.read, options.write) = (limit("read-rate"), limit("write-rate"));
    Ok(Arc::new(Begins(options)))
}

#[derive(Debug)]
struct Begins(ThrottleOptions);

impl Begin for Begins {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        at_once(below, |below| Ok(Throttle::new(below, self.0)))
    }
}
