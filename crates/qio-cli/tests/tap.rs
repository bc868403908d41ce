//! `qio tap show`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::ops::ControlFlow;

use common::{qio, run};
use qio::layer::tap::{Recorder, RecorderOptions, Tap};
use qio::transport::Duplex;
use qio::{ChannelExt, watch};

fn recording() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder =
        Recorder::new(File::create(file.path()).unwrap(), RecorderOptions::new()).unwrap();
    let (near, _far) = Duplex::pair();
    let near = Tap::new(near, &recorder);
    near.write_all(b"GET /\r\n").unwrap();
    drop(near);
    let ControlFlow::Break(done) = watch::run(recorder.draining(), None).unwrap() else { panic!() };
    done.unwrap();
    file
}

/// The lines without their times.
fn show(args: &[&str], file: &str) -> Vec<String> {
    let args: Vec<&str> = ["tap", "show"].iter().chain(args).copied().chain([file]).collect();
    let outcome = run(&mut qio(&args), b"");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    let line = |line: &str| line.split_once('#').map_or(line, |(_, rest)| rest).to_owned();
    outcome.text().lines().map(line).collect()
}

#[test]
fn a_recording_is_shown_as_text_and_as_hex() {
    let file = recording();
    let path = file.path().to_str().unwrap();
    let text = ["0 opened memory", "0 > 7 bytes", "    GET /\\r\\n", "0 closed"];
    assert_eq!(show(&[], path), text);
    let hex = "    00000000  47 45 54 20 2f 0d 0a                              |GET /..|";
    assert_eq!(show(&["--hex"], path)[2], hex);
}

#[test]
fn what_is_whole_of_a_damaged_recording_is_shown_and_what_is_none_is_refused() {
    let file = recording();
    let whole = std::fs::read(file.path()).unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
    let outcome = run(&mut qio(["tap", "show", path]), b"");
    assert_eq!(outcome.status, 1);
    assert!(outcome.text().ends_with("    GET /\\r\\n\n"), "{}", outcome.text());
    assert!(outcome.stderr.contains("the recording ends inside"), "{}", outcome.stderr);
    let outcome = run(&mut qio(["tap", "show", "-"]), b"#!/bin/sh\n");
    assert_eq!(outcome.status, 1);
    assert_eq!(outcome.stderr, "qio: -: not a recording of a tap\n");
}
