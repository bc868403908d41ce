//! What the conformance suite asks of channels, asked through tokio: of each kind, plain and in
//! chaos.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use qio::transport::{Command, Duplex, Pipe};
use qio::{Channel, ChannelExt, Features, WriteFlags};
use qio_adapters::tokio::{AsyncChannel, ReadHalf, WriteHalf};
use qio_testkit::{Pair, Plan, pairs, scope};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Builder;

const LIMIT: Duration = Duration::from_secs(20);

type Async = AsyncChannel<Arc<dyn Channel>>;

/// A kind of channel.
#[derive(Clone, Copy)]
struct Row {
    make: fn() -> Pair,
    relation: Relation,
    /// How many bytes stand for a megabyte.
    volume: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// Each reads what the other writes.
    Pair,
    /// The right one reads what the left one writes.
    OneWay,
    /// Both are the same channel, which reads what it wrote.
    Echo,
}

macro_rules! checks {
    ($($check:ident,)*) => {
        mod plain {
            use super::*;
            $(#[test] fn $check() { in_tokio(|| super::super::$check(ROW, None)); })*
        }
        mod in_chaos {
            use super::*;
            $(#[test] fn $check() {
                let plan = Plan::new(1).short(5000).would_block_every(3).for_edges();
                in_tokio(|| super::super::$check(ROW, Some(plan)));
            })*
        }
    };
}

macro_rules! rows {
    ($($row:ident: $relation:ident of $make:path, $volume:expr;)*) => {
        $(mod $row {
            use super::*;
            const ROW: Row = Row { make: $make, relation: Relation::$relation, volume: $volume };
            checks! {
                a_megabyte_in_odd_vectors_goes_both_ways_at_once,
                the_end_comes_after_all_data_and_stays,
                a_half_closed_channel_reads_the_whole_answer,
                a_close_from_elsewhere_ends_every_pending_future,
                a_shutdown_from_elsewhere_ends_every_pending_future,
            }
        })*
    };
}

rows! {
    unix_socket: Pair of pairs::unix, 1 << 20;
    tcp_socket: Pair of tcp, 1 << 20;
    pipe_duplex: Pair of pairs::pipes, 1 << 20;
    pipe: OneWay of pairs::pipe, 1 << 20;
    duplex: Pair of pairs::memory, 1 << 20;
    tight_duplex: Pair of pairs::tight_memory, 8000;
    echo: Echo of echo, 1 << 20;
    child: Pair of child, 1 << 20;
}

fn tcp() -> Pair {
    let (left, right) = pairs::tcp_sockets();
    Pair::new(left, right)
}

fn echo() -> Pair {
    Pair::same(Duplex::echo())
}

/// A child whose standard streams this program has taken over before it ended.
fn child() -> Pair {
    let child = Command::new("sh").args(["-c", "read line"]).spawn().unwrap();
    let stream = |number: u8, write: bool| -> OwnedFd {
        let path = format!("/proc/{}/fd/{number}", child.pid());
        std::fs::OpenOptions::new().read(!write).write(write).open(path).unwrap().into()
    };
    let peer = Pipe::from_fds(Some(stream(0, false)), Some(stream(1, true))).unwrap();
    child.write_all(b"\n").unwrap();
    assert!(child.wait_exit(None).unwrap().success());
    Pair::new(child, peer)
}

impl Row {
    fn make(self, chaos: Option<Plan>) -> Pair {
        let pair = (self.make)();
        match chaos {
            Some(plan) => pair.in_chaos(plan),
            None => pair,
        }
    }

    fn is_duplex(self) -> bool {
        self.relation == Relation::Pair
    }
}

/// Runs a check on both kinds of runtime, in a frame that sees leaks and hangs.
fn in_tokio<F: Future<Output = ()>>(check: impl Fn() -> F) {
    // What tokio makes once and keeps: the socket of its signals, where another crate of the
    // workspace turns them on.
    drop(Builder::new_current_thread().enable_all().build().unwrap());
    scope(LIMIT, |_| {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(check());
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(2).enable_all().build().unwrap().block_on(check());
    });
}

/// The channel for this side; one that is its own peer is shared by both.
fn on_tokio(channel: &Arc<dyn Channel>) -> Async {
    AsyncChannel::new(Arc::clone(channel)).unwrap()
}

fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8).collect()
}

/// Sends the pattern in vectors of odd sizes, some of them empty.
async fn send_odd(to: &mut (impl AsyncWrite + Unpin), total: usize) {
    let mut sent = 0;
    while sent < total {
        let block = pattern(sent, (total - sent).min(20_011));
        let (a, rest) = block.split_at(block.len() / 7);
        let (b, c) = rest.split_at(rest.len() / 3);
        let bufs = [a, &[], b, c].map(IoSlice::new);
        let n = to.write_vectored(&bufs).await.unwrap();
        assert!((1..=block.len()).contains(&n), "{n} bytes of {}", block.len());
        sent += n;
    }
}

async fn receive(from: &mut (impl AsyncRead + Unpin), total: usize) {
    let mut received = 0;
    while received < total {
        let mut block = vec![0; (total - received).min(9001)];
        from.read_exact(&mut block).await.unwrap();
        assert!(block == pattern(received, block.len()), "other bytes after {received}");
        received += block.len();
    }
}

async fn read_end(from: &mut (impl AsyncRead + Unpin)) {
    for _ in 0..3 {
        assert_eq!(from.read(&mut [0; 4]).await.unwrap(), 0);
    }
}

/// A large transfer, in both directions at once where there are two.
async fn a_megabyte_in_odd_vectors_goes_both_ways_at_once(row: Row, chaos: Option<Plan>) {
    let pair = row.make(chaos);
    let total = row.volume;
    let (left_in, left_out) = on_tokio(&pair.left).into_split();
    let (right_in, right_out) = if row.relation == Relation::Echo {
        // One set of registrations for both.
        (left_in, None)
    } else {
        let (right_in, right_out) = on_tokio(&pair.right).into_split();
        (right_in, row.is_duplex().then_some((right_out, left_in)))
    };
    let flow = |mut from: WriteHalf<_>, mut to: ReadHalf<_>| {
        let sender = tokio::spawn(async move {
            send_odd(&mut from, total).await;
            from.shutdown().await.unwrap();
        });
        let receiver = tokio::spawn(async move {
            receive(&mut to, total).await;
            read_end(&mut to).await;
        });
        [sender, receiver]
    };
    let there = flow(left_out, right_in);
    let back = right_out.map(|(from, to)| flow(from, to));
    for task in there.into_iter().chain(back.into_iter().flatten()) {
        task.await.unwrap();
    }
}

/// The peer writes and goes: all of it, then the end, for ever.
async fn the_end_comes_after_all_data_and_stays(row: Row, chaos: Option<Plan>) {
    if row.relation == Relation::Echo {
        return;
    }
    let pair = row.make(chaos);
    let total = 30_000.min(row.volume);
    let (mut left, mut right) = (on_tokio(&pair.left), on_tokio(&pair.right));
    drop(pair);
    let sender = tokio::spawn(async move {
        send_odd(&mut left, total).await;
        left.flush().await.unwrap();
        drop(left);
    });
    receive(&mut right, total).await;
    read_end(&mut right).await;
    sender.await.unwrap();
    read_end(&mut right).await;
}

/// Half-close: the peer reads the end, and its whole answer arrives.
async fn a_half_closed_channel_reads_the_whole_answer(row: Row, chaos: Option<Plan>) {
    if !row.is_duplex() {
        return;
    }
    let pair = row.make(chaos);
    let answer = 200_000.min(row.volume);
    let (mut left, mut right) = (on_tokio(&pair.left), on_tokio(&pair.right));
    let peer = tokio::spawn(async move {
        let mut request = String::new();
        right.read_to_string(&mut request).await.unwrap();
        send_odd(&mut right, answer).await;
        right.shutdown().await.unwrap();
        request
    });
    left.write_all(b"request").await.unwrap();
    left.shutdown().await.unwrap();
    assert_eq!(left.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    receive(&mut left, answer).await;
    read_end(&mut left).await;
    assert_eq!(peer.await.unwrap(), "request");
}

/// Writes until nothing more is taken.
fn fill(channel: &dyn Channel) {
    for size in [4096, 1] {
        let mut refused = 0;
        // A chaos channel refuses once, for no reason.
        while refused < 2 {
            match channel.write_with(&[IoSlice::new(&vec![0; size])], WriteFlags::NONBLOCK, &[]) {
                Ok(_) => refused = 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Runs every task that can run, and looks at the descriptors, some rounds long.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// A close by another thread ends what waits for the channel, as an error of a closed channel.
async fn a_close_from_elsewhere_ends_every_pending_future(row: Row, chaos: Option<Plan>) {
    let pair = row.make(chaos);
    let mut reader = on_tokio(&pair.right);
    let reading = tokio::spawn(async move { reader.read(&mut [0; 8]).await });
    settle().await;
    assert!(!reading.is_finished());
    let right = Arc::clone(&pair.right);
    std::thread::spawn(move || right.close().unwrap()).join().unwrap();
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), ErrorKind::NotConnected);

    let pair = row.make(chaos);
    let mut writer = on_tokio(&pair.left);
    fill(&*pair.left);
    let writing = tokio::spawn(async move { writer.write_all(&vec![0; 32 << 20]).await });
    settle().await;
    assert!(!writing.is_finished());
    let left = Arc::clone(&pair.left);
    std::thread::spawn(move || left.close().unwrap()).join().unwrap();
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
}

/// So does a shutdown: a read ends, a write fails.
async fn a_shutdown_from_elsewhere_ends_every_pending_future(row: Row, chaos: Option<Plan>) {
    let pair = row.make(chaos);
    assert!(pair.left.features().contains(Features::SHUTDOWN));
    let mut reader = on_tokio(&pair.right);
    let reading = tokio::spawn(async move { reader.read(&mut [0; 8]).await });
    settle().await;
    assert!(!reading.is_finished());
    let right = Arc::clone(&pair.right);
    std::thread::spawn(move || right.shutdown(Shutdown::Both).unwrap()).join().unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), 0);

    let pair = row.make(chaos);
    let mut writer = on_tokio(&pair.left);
    fill(&*pair.left);
    let writing = tokio::spawn(async move { writer.write_all(&vec![0; 32 << 20]).await });
    settle().await;
    assert!(!writing.is_finished());
    let left = Arc::clone(&pair.left);
    std::thread::spawn(move || left.shutdown(Shutdown::Both).unwrap()).join().unwrap();
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

/// A program that copies its input: everything comes back, then the end.
#[test]
fn a_child_that_copies_is_an_echo() {
    in_tokio(|| async {
        let child = Arc::new(Command::new("cat").spawn().unwrap());
        let (mut reader, mut writer) = AsyncChannel::new(Arc::clone(&child)).unwrap().into_split();
        let sender = tokio::spawn(async move {
            send_odd(&mut writer, 1 << 20).await;
            writer.shutdown().await.unwrap();
        });
        receive(&mut reader, 1 << 20).await;
        read_end(&mut reader).await;
        sender.await.unwrap();
        // Ended and reaped, so that nothing of it is left behind.
        assert!(child.wait_exit(None).unwrap().success());
    });
}
