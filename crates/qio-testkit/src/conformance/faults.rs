//! What goes wrong below comes out as it is, in bounded time.

use std::io::{ErrorKind, Result};
use std::sync::Arc;

use qio::ChannelExt;

use super::Subject;
use super::data::soon;
use crate::cut::{self, Script, Side};
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
        let mut results: Vec<Result<()>> =
            [&b"abc"[..], b"de", b"fgh"].iter().map(|part| left.write_all(part)).collect();
        results.push(left.flush_all(soon()));
        results.push(left.finish_all(soon()));
        let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            assert_eq!(reader.finish(), b"abcdefgh");
            assert!(n > 5, "{n} calls for all of this");
            return;
        }
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].kind(), ErrorKind::QuotaExceeded);
        assert_eq!(failed[0].to_string(), "chaos");
        left.finish_all(soon()).unwrap();
        let got = reader.finish();
        assert!(got.len() >= 5 && b"abcdefgh".starts_with(&got[..1]), "{got:?}");
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
