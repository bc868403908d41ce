//! Bytes arrive, all of them, in order, once.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;

use qio::{Channel, ChannelExt, Interest, WriteFlags};

use super::Subject;
use super::data::{MODES, expect, fill, pattern, receive_odd, send_odd};
use crate::soon;
use crate::{Job, Pair, Plan};

/// A large transfer in vectors of odd sizes, in both directions at once, in both modes.
pub fn a_megabyte_in_odd_vectors_goes_both_ways_at_once(subject: &Subject) {
    for mode in MODES {
        transfer(subject, subject.make().in_mode(mode), subject.megabyte());
    }
}

/// Every difficulty that is legal below leaves the bytes as they are.
pub fn every_chaos_delivers_the_same_bytes(subject: &Subject) {
    for (name, plan) in Plan::each(7) {
        let total = if name.starts_with("one byte") { 2000 } else { 40_000 };
        for mode in MODES {
            let pair = subject.make().in_chaos(plan).in_mode(mode);
            transfer(subject, pair, total.min(subject.megabyte()));
        }
    }
}

fn transfer(subject: &Subject, pair: Pair, total: usize) {
    if subject.is_sink() {
        send_odd(&*pair.left, total, 1);
    }
    if !subject.is_stream() {
        return;
    }
    let flow = |from: &Arc<dyn Channel>, to: &Arc<dyn Channel>, seed: u64| {
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        let sender = Job::start(move || {
            send_odd(&*from, total, seed);
            from.finish_all(soon()).unwrap();
        });
        let receiver = Job::start(move || {
            receive_odd(&*to, total, seed);
            assert!(!to.read_exact_or_eof(&mut [0]).unwrap(), "more than was sent");
        });
        [sender, receiver]
    };
    let there = flow(&pair.left, &pair.right, 1);
    let back = subject.is_duplex().then(|| flow(&pair.right, &pair.left, 2));
    for job in there.into_iter().chain(back.into_iter().flatten()) {
        job.finish();
    }
}

/// More buffers than one system call takes, also with empty ones in front and in between.
pub fn thousands_of_vectors_arrive_in_order(subject: &Subject) {
    if subject.is_store() {
        return;
    }
    let bytes = pattern(0, 2000);
    let one_each: Vec<&[u8]> = bytes.chunks(1).collect();
    let in_between: Vec<&[u8]> = bytes.chunks(1).flat_map(|byte| [byte, &[]]).collect();
    let in_front: Vec<&[u8]> = std::iter::repeat_n(&[][..], 1100).chain(bytes.chunks(1)).collect();
    for list in [one_each, in_between, in_front] {
        let pair = subject.make();
        let mut slices: Vec<IoSlice<'_>> = list.iter().map(|buf| IoSlice::new(buf)).collect();
        if subject.is_sink() {
            pair.left.write_vectored_all(&mut slices).unwrap();
            continue;
        }
        let right = Arc::clone(&pair.right);
        let lengths: Vec<usize> = list.iter().map(|buf| buf.len()).collect();
        let reader = Job::start(move || {
            let mut storage: Vec<Vec<u8>> = lengths.iter().map(|len| vec![0; *len]).collect();
            let mut bufs: Vec<IoSliceMut<'_>> =
                storage.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let first = right.read_vectored(&mut bufs).unwrap();
            assert!((1..=2000).contains(&first), "{first} bytes");
            let mut rest = &mut bufs[..];
            IoSliceMut::advance_slices(&mut rest, first);
            right.read_vectored_exact(rest).unwrap();
            storage.concat()
        });
        let first = pair.left.write_vectored(&slices).unwrap();
        assert!((1..=2000).contains(&first), "{first} bytes");
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, first);
        pair.left.write_vectored_all(rest).unwrap();
        // A layer may have a part of a piece left when the channel below would block.
        pair.left.flush_all(soon()).unwrap();
        assert!(reader.finish() == bytes, "other bytes than were sent");
    }
}

/// What is sent after would-block is what the retry brings, not what was refused.
pub fn a_retry_with_other_data_sends_no_stale_byte(subject: &Subject) {
    if !subject.is_stream() {
        return;
    }
    let pair = subject.make();
    let full = fill(&*pair.left);
    let mut sent = pattern(0, full);
    match pair.left.write_with(&[IoSlice::new(&[b'x'; 100])], WriteFlags::NONBLOCK, &[]) {
        // TCP may have found more room since.
        Ok(n) => sent.extend(&[b'x'; 100][..n]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    expect(&pair, &sent);
    pair.left.wait(Interest::WRITE, soon()).unwrap();
    let left = Arc::clone(&pair.left);
    let writer = Job::start(move || left.write_all(b"yz").unwrap());
    let mut got = [0; 2];
    pair.right.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"yz");
    writer.finish();
    pair.left.finish_all(soon()).unwrap();
    assert!(!pair.right.read_exact_or_eof(&mut [0]).unwrap(), "more than was sent");
}
