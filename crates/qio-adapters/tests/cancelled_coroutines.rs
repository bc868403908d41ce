//! A coroutine is dropped at each of its suspensions: no byte is lost, and nothing leaks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::{Cell, RefCell};
use std::io::Result;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::tls;
use qio::layer::ws;
use qio::transport::Socket;
use qio::watch::{PollSet, Steps};
use qio::{Channel, ChannelExt};
use qio_adapters::coroutine::Coroutine;
use qio_testkit::tls::{Local, name};
use qio_testkit::{Chaos, Job, Pair, Plan, finish, scope, soon};
use rustls::{ClientConfig, ServerConfig};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// What each side sends.
const BYTES: usize = 400;

#[test]
fn a_coroutine_dropped_anywhere_in_a_session_loses_no_byte() {
    scope(LIMIT, |_| {
        let keys = Keys::new();
        for layered in [Layered::Tls, Layered::Ws] {
            let at_most = 4000;
            let ended = (0..at_most).find(|steps| drop_after(*steps, keys.pair(layered, *steps)));
            let suspensions = ended.unwrap_or_else(|| panic!("{layered:?}: no end"));
            println!("{layered:?}: dropped at {suspensions} suspensions");
            assert!(suspensions > 20, "{layered:?}: only {suspensions} suspensions");
        }
    });
}

#[test]
fn a_coroutine_dropped_anywhere_in_a_handshake_leaks_nothing() {
    scope(LIMIT, |_| {
        let keys = Keys::new();
        for layered in [Layered::Tls, Layered::Ws] {
            for serves in [false, true] {
                let at_most = 4000;
                let ended = (0..at_most).find(|steps| keys.shake_until(layered, serves, *steps));
                let suspensions = ended.unwrap_or_else(|| panic!("{layered:?}: no end"));
                println!("{layered:?}, server {serves}: dropped at {suspensions} suspensions");
                assert!(suspensions > 5, "{layered:?}: only {suspensions} suspensions");
            }
        }
    });
}

/// Has a coroutine talk for so many steps, and whoever comes after it the rest. Says whether the
/// coroutine came to its end.
fn drop_after(steps: u32, pair: Pair) -> bool {
    let peer = pair.right;
    let peer = Job::start(move || {
        peer.write_all(&sent(1)).unwrap();
        let mut got = vec![0; BYTES];
        peer.read_exact(&mut got).unwrap();
        assert!(!peer.read_exact_or_eof(&mut [0]).unwrap(), "there is more than was written");
        peer.finish_all(soon()).unwrap();
        got
    });
    let progress = Rc::new(Progress::default());
    let (channel, keeps) = (Arc::clone(&pair.left), Rc::clone(&progress));
    let mut talks = Coroutine::new(move || talk(&*channel, &keeps)).unwrap();
    let ended = advance(&mut talks, steps).map(|result| result.unwrap()).is_some();
    drop(talks);
    assert_eq!(Rc::strong_count(&progress), 1, "step {steps}: the stack is kept");
    assert_eq!(Arc::strong_count(&pair.left), 1, "step {steps}: the channel is kept");
    talk(&*pair.left, &progress).unwrap();
    assert!(peer.finish() == sent(0), "step {steps}: the peer got other bytes");
    assert!(*progress.got.borrow() == sent(1), "step {steps}: other bytes came");
    assert!(!pair.left.read_exact_or_eof(&mut [0]).unwrap());
    ended
}

/// How far a session has come: all that outlives a coroutine.
#[derive(Default)]
struct Progress {
    got: RefCell<Vec<u8>>,
    written: Cell<usize>,
}

/// Goes on with a session from where it is: code that blocks.
fn talk(channel: &dyn Channel, progress: &Progress) -> Result<()> {
    while progress.got.borrow().len() < BYTES {
        let mut buf = [0; 7];
        let count = channel.read(&mut buf)?;
        assert_ne!(count, 0, "the end came early");
        progress.got.borrow_mut().extend_from_slice(&buf[..count]);
    }
    while progress.written.get() < BYTES {
        let from = progress.written.get();
        let count = channel.write(&sent(0)[from..BYTES.min(from + 50)])?;
        progress.written.set(from + count);
    }
    channel.finish_all(None)
}

fn sent(by: u8) -> Vec<u8> {
    (0..BYTES).map(|at| (at * 7) as u8 ^ by).collect()
}

/// Makes so many steps, and waits for what each wants; the output if it comes.
fn advance<S: Steps>(steps: &mut S, count: u32) -> Option<S::Output> {
    for _ in 0..count {
        if let Poll::Ready(output) = steps.step(Instant::now()) {
            return Some(output);
        }
        let mut set = PollSet::new();
        steps.watch(&mut set);
        set.poll(soon()).unwrap();
        steps.woken(&set);
    }
    None
}

#[derive(Clone, Copy, Debug)]
enum Layered {
    Tls,
    Ws,
}

struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Keys {
    fn new() -> Self {
        Self { client: Local::default().client(), server: Local::default().server() }
    }

    /// Two layers over difficult channels.
    fn pair(&self, layered: Layered, seed: u32) -> Pair {
        let (left, right) = Socket::pair().unwrap();
        let (left, right) = (hard(left, seed), hard(right, seed + 1));
        let serves = self.shake(layered, true, right);
        let serves = thread::spawn(move || serves().unwrap());
        let client = self.shake(layered, false, left)().unwrap();
        let server = serves.join().unwrap();
        Pair::new(client, server)
    }

    /// A handshake of one side: code that blocks.
    fn shake(
        &self,
        layered: Layered,
        serves: bool,
        below: Chaos<Socket>,
    ) -> impl FnOnce() -> Result<Arc<dyn Channel>> + Send + 'static {
        let (client, server) = (Arc::clone(&self.client), Arc::clone(&self.server));
        move || {
            Ok(match (layered, serves) {
                (Layered::Tls, false) => Arc::new(
                    finish(tls::client(below, client, name(), soon())?)?.into_layer(tls::NAME),
                ),
                (Layered::Tls, true) => {
                    Arc::new(finish(tls::server(below, server, soon())?)?.into_layer(tls::NAME))
                }
                (Layered::Ws, false) => {
                    let options = ws::ClientOptions::new("localhost");
                    Arc::new(finish(ws::client(below, options, soon())?)?.into_layer(ws::NAME))
                }
                (Layered::Ws, true) => {
                    let options = ws::ServerOptions::default();
                    Arc::new(finish(ws::server(below, options, soon()))?.into_layer(ws::NAME))
                }
            })
        }
    }

    /// Has a coroutine shake hands for so many steps. Says whether it came to its end.
    fn shake_until(&self, layered: Layered, serves: bool, steps: u32) -> bool {
        let (ours, theirs) = Socket::pair().unwrap();
        let peer = Job::start(self.shake(layered, !serves, hard(theirs, steps)));
        let mut shakes = Coroutine::new(self.shake(layered, serves, hard(ours, steps))).unwrap();
        let result = advance(&mut shakes, steps);
        drop(shakes);
        let ended = result.is_some();
        let ours = result.map(|result| result.unwrap().unwrap());
        match peer.finish() {
            // One that has said its last word is through, whether or not that was heard.
            Ok(channel) => drop(channel),
            Err(error) => assert!(!ended, "step {steps}: the handshake of the peer: {error}"),
        }
        drop(ours);
        ended
    }
}

/// A few bytes at a time, and would-block in between.
fn hard(socket: Socket, seed: u32) -> Chaos<Socket> {
    Chaos::new(socket, Plan::new(seed.into()).short(40).would_block_every(3).spurious_every(5))
}
