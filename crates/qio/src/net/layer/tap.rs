//! `tap+`: a copy of what goes through, in a file.

use std::io;
use std::sync::Arc;

use super::{Begin, Layer, Link, at_once};
use crate::channel::Channel;
use crate::error::Result;
use crate::layer::tap::{self, Recorder, RecorderOptions, Tap};
use crate::net::address::{Part, Refusal, Value};
use crate::net::scheme::{Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: tap::NAME,
    summary: "a copy of what goes through here, with times, for qio tap show",
    examples: &[
        Example::new("tap+tls+tcp://h:443?file=plain.tap", "what is said inside of TLS"),
        Example::new("tls+tap+tcp://h:443?file=wire.tap", "what goes over the wire"),
        Example::new(
            "listen:tap+unix:/run/x.sock?file=/var/tmp/x.tap",
            "all clients, in one recording that numbers them",
        ),
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
        "file",
        Value::Text("FILE"),
        "the recording, made anew (a new file is for its owner alone); all connections of this \
         program that name the same file are in it, each with a number",
    ),
    OptionInfo::new(
        "limit",
        Value::Size,
        "bytes that may wait for the disk; beyond it records are left out, and counted there",
    )
    .default("1M"),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    match part.is_given("file") {
        true => Ok(()),
        false => Err(Refusal::new("there is no file to record to").hint("file=FILE")),
    }
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let mut options = RecorderOptions::new();
    if let Some(limit) = part.size("limit") {
        options.limit_bytes = limit;
    }
    let file = part.values("file").last().unwrap_or_default();
    Ok(Arc::new(Begins(Recorder::to_file(file, options)?)))
}

#[derive(Debug)]
struct Begins(Recorder);

impl Begin for Begins {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        at_once(below, |below| Ok(Tap::new(below, &self.0)))
    }
}
