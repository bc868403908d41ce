//! What goes wrong below comes out as it is, in bounded time.

use std::io::ErrorKind;
use std::sync::Arc;

use qio::ChannelExt;

use super::Subject;
use crate::cut::{self, Script, Side};
use crate::soon;
use crate::{Chaos, Job, Plan};

/// For every n: when the n-th call below fails, one call fails, with that error.
pub fn a_failure_at_any_call_comes_out_as_it_is(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    for n in 1.. {
        let pair = subject.make();
        let plan = Plan::new(0).short(2).fail_at(n, ErrorKind::QuotaExceeded);
        let right = Arc::clone(&pair.right);
        let reader = Job::start(move || {
            let mut bytes = Vec::new();
            let mut buf = [0; 16];
            while let Ok(more @ 1..) = right.read(&mut buf) {
                bytes.extend(&buf[..more]);
            }
            bytes
        });
        let left = Chaos::new(Arc::clone(&pair.left), plan);
        let parts = [&b"abc"[..], b"de", b"fgh"];
        let results = parts.map(|part| left.write_all(part));
        let at_end = [left.flush_all(soon()), left.finish_all(soon())];
        let failures: Vec<_> =
            results.iter().chain(&at_end).filter_map(|r| r.as_ref().err()).collect();
        if failures.is_empty() {
            assert_eq!(reader.finish(), b"abcdefgh");
            assert!(n > 5, "{n} calls for all of this");
            return;
        }
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].kind(), ErrorKind::QuotaExceeded);
        assert_eq!(failures[0].to_string(), "chaos");
        left.finish_all(soon()).unwrap();
        // What succeeded is there whole, what failed up to where it did.
        let got = reader.finish();
        let mut rest = &got[..];
        for (part, result) in parts.iter().zip(&results) {
            let common = part.iter().zip(rest).take_while(|(a, b)| a == b).count();
            assert!(common == part.len() || result.is_err(), "{got:?} without {part:?}");
            rest = &rest[common..];
        }
        assert!(rest.is_empty(), "{got:?}");
    }
}

/// The peer goes after every byte of a session: every call ends, with the end or an error.
pub fn a_cut_at_any_byte_ends_every_call(subject: &Subject) {
    if let Some(script) = session(subject) {
        cut::after_every_byte(&|| subject.make(), &script);
    }
}

/// The local channel is closed, or dropped, at every step of a session.
pub fn a_close_at_any_step_ends_every_call(subject: &Subject) {
    if let Some(script) = session(subject) {
        cut::at_every_step(&|| subject.make(), &script);
    }
}

fn session(subject: &Subject) -> Option<Script> {
    let one_way = || Script::new().turn(Side::Left, b"hello").turn(Side::Left, b"and good bye");
    if subject.is_duplex() {
        let there = Script::new().turn(Side::Left, b"hello").turn(Side::Right, b"hi");
        Some(
            there
                .turn(Side::Left, b"how are you")
                .turn(Side::Right, b"fine")
                .turn(Side::Left, b"!"),
        )
    } else {
        subject.has_peer().then(one_way)
    }
}
