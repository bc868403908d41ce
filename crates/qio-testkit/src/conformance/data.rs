//! What goes through, and the movements that many checks share.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use qio::transport::Socket;
use qio::{Channel, ChannelExt, Features, Interest, Mode, WriteFlags};

use super::Pair;
use crate::chaos::scramble;
use crate::soon;

pub(super) const MODES: [Mode; 2] = [Mode::Blocking, Mode::NonBlocking];

/// A short time that passes for nothing.
pub(super) fn a_moment() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(5))
}

/// Bytes of which each tells its place: a loss, a repetition or a swap shows.
pub(super) fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8).collect()
}

/// Bytes in which nothing repeats: no compression makes them fewer.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Sends `total` bytes in vectors of odd sizes.
pub(super) fn send_odd(channel: &dyn Channel, total: usize, seed: u64) {
    let mut sent = 0;
    while sent < total {
        let sizes = odd_sizes(seed.wrapping_add(sent as u64), total - sent);
        let block = pattern(sent, sizes.iter().sum());
        let mut rest = &block[..];
        let mut bufs: Vec<IoSlice<'_>> = Vec::new();
        for size in sizes {
            let (buf, later) = rest.split_at(size);
            bufs.push(IoSlice::new(buf));
            rest = later;
        }
        channel.write_vectored_all(&mut bufs).unwrap();
        sent += block.len();
    }
}

/// Receives what [`send_odd`] sends, in vectors of other sizes.
pub(super) fn receive_odd(channel: &dyn Channel, total: usize, seed: u64) {
    let mut received = 0;
    while received < total {
        let sizes = odd_sizes(seed.wrapping_sub(received as u64), total - received);
        let mut block = vec![0; sizes.iter().sum()];
        let mut rest = &mut block[..];
        let mut bufs: Vec<IoSliceMut<'_>> = Vec::new();
        for size in sizes {
            let (buf, later) = rest.split_at_mut(size);
            bufs.push(IoSliceMut::new(buf));
            rest = later;
        }
        channel.read_vectored_exact(&mut bufs).unwrap();
        assert!(block == pattern(received, block.len()), "other bytes after {received}");
        received += block.len();
    }
}

/// Up to 20 sizes, some of them 0, whose sum is between 1 and `at_most`.
fn odd_sizes(seed: u64, at_most: usize) -> Vec<usize> {
    let count = scramble(seed) % 20 + 1;
    let mut rest = at_most;
    let mut sizes = Vec::new();
    for i in 0..count {
        let size = match scramble(seed.wrapping_mul(64).wrapping_add(i)) {
            random if random.is_multiple_of(5) => 0,
            random => (random >> 8) as usize % 9001,
        };
        sizes.push(size.min(rest));
        rest -= size.min(rest);
    }
    if rest == at_most {
        sizes.push(1);
    }
    sizes
}

/// Writes until nothing more is taken, and tells how much was; it is the [`pattern`] from 0.
///
/// TCP and terminals find more room for a while, as the kernel passes the data on: they are full
/// when nothing has changed for a while after that.
pub(super) fn fill(channel: &dyn Channel) -> usize {
    let mut total = fill_once(channel, 0);
    // Linux delays an acknowledgement, which makes room, by up to 40 ms.
    let socket = channel.find::<Socket>();
    let delays = socket.is_some_and(|socket| !socket.features().contains(Features::FD_PASS));
    let mut quiet = Duration::from_millis(if delays { 60 } else { 5 });
    loop {
        let before = total;
        // A terminal has room for a byte before it says that it is writable.
        let _ = channel.wait(Interest::WRITE, Some(Instant::now() + quiet));
        total = fill_once(channel, total);
        if total == before {
            return total;
        }
        quiet = quiet.max(Duration::from_millis(30));
    }
}

fn fill_once(channel: &dyn Channel, mut total: usize) -> usize {
    // A pipe may refuse a page and still take a byte.
    for size in [4096, 1] {
        let mut refused = 0;
        // A chaos channel refuses once, for no reason.
        while refused < 2 {
            let block = pattern(total, size);
            match channel.write_with(&[IoSlice::new(&block)], WriteFlags::NONBLOCK, &[]) {
                Ok(n) => {
                    total += n;
                    refused = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => refused += 1,
                Err(error) => panic!("write after {total} bytes: {error}"),
            }
            assert!(total < 64 << 20, "a channel without a reader takes without bound");
        }
    }
    total
}

/// Reads `len` bytes and compares them with the [`pattern`] from 0.
pub(super) fn drain(pair: &Pair, len: usize) {
    expect(pair, &pattern(0, len));
}

/// Reads what the writer has accepted, while the writer gets rid of it.
pub(super) fn expect(pair: &Pair, sent: &[u8]) {
    let mut got = vec![0; sent.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| pair.left.flush_all(soon()).unwrap());
        pair.right.read_exact(&mut got).unwrap();
    });
    assert!(got == sent, "other bytes than were accepted");
}

/// Reads once more, as often as it would block, and gives what comes.
pub(super) fn read_soon(channel: &dyn Channel, buf: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match channel.read(buf) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                channel.wait(Interest::READ, soon())?;
            }
            result => return result,
        }
    }
}

/// Writes until an error comes, and gives its kind.
pub(super) fn write_until_error(channel: &dyn Channel) -> ErrorKind {
    for _ in 0..10_000 {
        match channel.write(&[7; 512]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if let Err(error) = channel.wait(Interest::WRITE, soon()) {
                    return error.kind();
                }
            }
            Err(error) => return error.kind(),
            Ok(_) => {}
        }
    }
    panic!("the writer never learns that nobody reads");
}

/// Whether an error says that the connection is gone.
pub(super) fn is_gone(kind: ErrorKind) -> bool {
    use ErrorKind as Kind;
    matches!(kind, Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted)
}

/// Closes; that bytes which were accepted are not sent any more is no failure.
pub(crate) fn close(channel: &dyn Channel) {
    let Err(error) = channel.close() else { return };
    let not_sent = error.get_ref().is_some_and(|inner| inner.is::<qio::layer::NotSent>());
    assert!(not_sent, "close: {error}");
}
