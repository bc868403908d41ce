//! How many calls a layer makes on the channel below, which are the system calls of a stack.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qio::channel::Base;
use qio::transport::Socket;
use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Features, Interest, Mode, ReadOp, Readiness, WriteOp};
use qio_testkit::pairs::ws_over;
use qio_testkit::tls::Local;
use qio_testkit::{Job, Pair};

/// A socket, and what was asked of it.
#[derive(Debug)]
struct Counted {
    socket: Socket,
    calls: Arc<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    reads: AtomicUsize,
    /// Reads that found nothing.
    in_vain: AtomicUsize,
    writes: AtomicUsize,
}

/// What happened meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made {
    reads: usize,
    in_vain: usize,
    writes: usize,
}

impl Calls {
    fn during(&self, work: impl FnOnce()) -> Made {
        let load = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let now = || (load(&self.reads), load(&self.in_vain), load(&self.writes));
        let before = now();
        work();
        let after = now();
        Made { reads: after.0 - before.0, in_vain: after.1 - before.1, writes: after.2 - before.2 }
    }
}

impl Channel for Counted {
    fn base(&self) -> &Base {
        self.socket.base()
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.socket)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.calls.reads.fetch_add(1, Ordering::SeqCst);
        let result = self.socket.try_read(op);
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            self.calls.in_vain.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.calls.writes.fetch_add(1, Ordering::SeqCst);
        self.socket.try_write(op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.socket.watch(interest, set)
    }

    fn finish(&self) -> Result<()> {
        self.socket.finish()
    }

    fn close(&self) -> Result<()> {
        self.socket.close()
    }
}

/// A layer over each of two sockets, and what each asks of its socket.
struct Stack {
    name: &'static str,
    pair: Pair,
    left: Arc<Calls>,
    right: Arc<Calls>,
}

fn stacks() -> [Stack; 3] {
    [
        stack("ws, from the client", ws_over),
        stack("ws, from the server", |pair| ws_over(pair.swapped()).swapped()),
        stack("tls", |pair| Local::default().over(pair)),
    ]
}

fn stack(name: &'static str, over: impl FnOnce(Pair) -> Pair) -> Stack {
    let (left, right) = Socket::pair().unwrap();
    let calls = [Arc::<Calls>::default(), Arc::default()];
    let counted = |socket, calls: &Arc<Calls>| Counted { socket, calls: Arc::clone(calls) };
    let pair = over(Pair::new(counted(left, &calls[0]), counted(right, &calls[1])));
    let [left, right] = calls;
    let stack = Stack { name, pair, left, right };
    // Tickets and the like are out of the way after a round trip.
    for (from, to) in [(&stack.pair.left, &stack.pair.right), (&stack.pair.right, &stack.pair.left)]
    {
        from.write_all(b"x").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }
    stack
}

const BLOCK: usize = 64 << 10;

/// A mebibyte, sent and then read block by block: each block is one call out, and in as many calls
/// as its pieces fill buffers (36 KiB with TLS; 8 KiB and then straight through with WebSocket).
#[test]
fn a_mebibyte_takes_a_few_calls_for_each_block() {
    for stack in stacks() {
        stack.pair.right.set_mode(Mode::NonBlocking).unwrap();
        let mut buf = vec![0; BLOCK];
        for _ in 0..16 {
            let out = stack.left.during(|| stack.pair.left.write_all(&vec![7; BLOCK]).unwrap());
            assert_eq!(out, Made { reads: 0, in_vain: 0, writes: 1 }, "{}", stack.name);
            let taken = stack.right.during(|| {
                assert_eq!(stack.pair.right.read(&mut buf).unwrap(), BLOCK, "{}", stack.name);
            });
            assert!(taken.reads <= 9 && taken.in_vain <= 1, "{}: {taken:?}", stack.name);
            assert_eq!(taken.writes, 0, "{}", stack.name);
        }
    }
}

/// A relay may wait for the next edge after a short read, as with a socket.
#[test]
fn a_short_read_has_taken_all_there_was() {
    for stack in stacks() {
        let (from, to) = (&stack.pair.left, &stack.pair.right);
        assert!(to.features().contains(Features::DRAINS), "{}", stack.name);
        to.set_mode(Mode::NonBlocking).unwrap();
        let mut buf = vec![0; 256 << 10];
        // More pieces than there is room for in a buffer of the layer, and a short one.
        for size in [1, 5000, 16 << 10, 100, 50_000] {
            from.write_all(&vec![7; size]).unwrap();
        }
        let whole = 1 + 5000 + (16 << 10) + 100 + 50_000;
        assert_eq!(to.read(&mut buf).unwrap(), whole, "{}", stack.name);
        let after = stack.right.during(|| {
            assert_eq!(to.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        });
        assert_eq!(after.in_vain, 1, "{}", stack.name);
    }
}

#[test]
fn a_message_that_is_waited_for_is_one_call_out_and_one_in() {
    const MESSAGES: usize = 100;
    for stack in stacks() {
        let (pair, name) = (stack.pair, stack.name);
        let echo = Arc::clone(&pair.right);
        let echo = Job::start(move || {
            let mut buf = [0; 100];
            for _ in 0..MESSAGES {
                echo.read_exact(&mut buf).unwrap();
                echo.write_all(&buf).unwrap();
            }
        });
        let made = stack.left.during(|| {
            for _ in 0..MESSAGES {
                pair.left.write_all(&[7; 100]).unwrap();
                pair.left.read_exact(&mut [0; 100]).unwrap();
            }
        });
        echo.finish();
        assert_eq!(made.writes, MESSAGES, "{name}");
        // A read that comes before the answer finds out about the empty socket only once.
        assert!(made.reads <= MESSAGES + 2 && made.in_vain <= 2, "{name}: {made:?}");
    }
}
