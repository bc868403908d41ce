//! How much memory the layers hold: idle, and when the peer floods a reader that has stopped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::ErrorKind;
use std::num::NonZero;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qio::layer::tap::{Recorder, RecorderOptions, Tap};
use qio::layer::throttle::{Rate, Throttle, ThrottleOptions};
use qio::layer::{Layer, tls, ws};
use qio::transport::Socket;
use qio::watch::{PollSet, Steps};
use qio::{Channel, ChannelExt, Interest, Mode};
use qio_testkit::Job;
use qio_testkit::tls::{Local, name};
use rustls::{ClientConfig, ServerConfig};

/// Counts the bytes that the process holds.
struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: usize, sign: isize) {
    HELD.fetch_add(sign * bytes as isize, Ordering::Relaxed);
}

// SAFETY: every method hands its arguments unchanged to `System`, which is a `GlobalAlloc`, and its
// result back; counting touches nothing but an integer and cannot unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller promises for `layout` what `System::alloc` demands (a size above 0).
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        // SAFETY: `old` came from one of these methods, so from `System`, with `layout`; the
        // caller promises a valid new size.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: `old` came from one of these methods, so from `System`, with `layout`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The count is of the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn held() -> isize {
    HELD.load(Ordering::Relaxed)
}

type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

fn configs() -> Configs {
    static CONFIGS: OnceLock<Configs> = OnceLock::new();
    CONFIGS
        .get_or_init(|| {
            let local = Local::default();
            (local.client(), local.server())
        })
        .clone()
}

type TlsPair<C> = (Layer<C, tls::ClientTls>, Layer<C, tls::ServerTls>);
type WsPair<C> = (Layer<C, ws::WebSocket>, Layer<C, ws::WebSocket>);

/// Both sides in turn on this thread, so that no thread's memory is counted.
fn both<A, B>(
    mut left: impl Steps<Output = std::io::Result<A>>,
    mut right: impl Steps<Output = std::io::Result<B>>,
) -> (A, B) {
    let (mut a, mut b) = (None, None);
    while a.is_none() || b.is_none() {
        let now = Instant::now();
        if a.is_none()
            && let std::task::Poll::Ready(done) = left.step(now)
        {
            a = Some(done.unwrap());
        }
        if b.is_none()
            && let std::task::Poll::Ready(done) = right.step(now)
        {
            b = Some(done.unwrap());
        }
    }
    (a.unwrap(), b.unwrap())
}

fn tls_pair<C: Channel>(left: C, right: C) -> TlsPair<C> {
    let (client, server) = configs();
    let name = name();
    let client = tls::client(left, client, name, None).unwrap();
    let (client, server) = both(client, tls::server(right, server, None).unwrap());
    let pair = (client.into_layer(tls::NAME), server.into_layer(tls::NAME));
    exchange(&pair.0, &pair.1);
    pair
}

fn ws_pair<C: Channel>(left: C, right: C) -> WsPair<C> {
    let client = ws::client(left, ws::ClientOptions::new("localhost"), None).unwrap();
    let (client, server) = both(client, ws::server(right, ws::ServerOptions::default(), None));
    let pair = (client.into_layer(ws::NAME), server.into_layer(ws::NAME));
    exchange(&pair.0, &pair.1);
    pair
}

/// A round trip, with what the handshake has left to be read, and the would-block after it.
fn exchange(left: &dyn Channel, right: &dyn Channel) {
    for (from, to) in [(left, right), (right, left)] {
        from.write_all(&[7; 5000]).unwrap();
        to.read_exact(&mut [0; 5000]).unwrap();
        to.set_mode(Mode::NonBlocking).unwrap();
        assert_eq!(to.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        to.set_mode(Mode::Blocking).unwrap();
    }
}

/// What one of the two ends of `make` holds, its own size included.
fn held_by_one<T>(make: impl Fn(Socket, Socket) -> T) -> isize {
    const PAIRS: isize = 32;
    let sockets = || Socket::pair().unwrap();
    let make = || {
        let (left, right) = sockets();
        Box::new(make(left, right))
    };
    // Sessions to resume, buffers of this thread, and the like.
    let warm: Vec<_> = (0..32).map(|_| make()).collect();
    let before = held();
    let pairs: Vec<_> = (0..PAIRS).map(|_| make()).collect();
    let each = (held() - before) / (2 * PAIRS);
    drop((warm, pairs));
    each
}

#[test]
fn an_idle_websocket_holds_less_than_a_kibibyte() {
    let _alone = alone();
    let each = held_by_one(ws_pair);
    println!("an idle websocket over a socket: {each} bytes");
    assert!(each <= 1024, "{each} bytes");
}

#[test]
fn an_idle_tls_connection_holds_less_than_12_kibibytes() {
    let _alone = alone();
    let each = held_by_one(tls_pair);
    println!("an idle tls connection over a socket: {each} bytes");
    assert!(each <= 12 * 1024, "{each} bytes");
}

const FLOOD: usize = 64 << 20;

/// What both ends may hold while the one floods and the other does not read.
const BOUND: isize = 1 << 20;

fn pattern(at: usize) -> u8 {
    (at / 4096 + at) as u8
}

/// Floods `to`, which waits and is driven, as by somebody who writes, and does not read.
fn flood(name: &str, from: impl Channel, to: impl Channel) {
    const BLOCK: usize = 64 << 10;
    let before = held();
    let writer = Job::start(move || {
        let mut block = vec![0; BLOCK];
        for at in (0..FLOOD).step_by(BLOCK) {
            for (offset, byte) in block.iter_mut().enumerate() {
                *byte = pattern(at + offset);
            }
            from.write_all(&block).unwrap();
        }
        from.flush_all(None).unwrap();
        from
    });
    let mut most = 0;
    for _ in 0..200 {
        assert!(!to.wait(Interest::READ, None).unwrap().is_empty());
        to.drive(Instant::now()).unwrap();
        to.watch(Interest::READ | Interest::WRITE, &mut PollSet::new());
        most = most.max(held() - before);
    }
    writer.wait_until_asleep();
    most = most.max(held() - before);
    println!("{name}: {most} bytes at most");
    assert!(writer.is_running() && most < BOUND, "{name}: {most} bytes");
    let mut block = vec![0; BLOCK];
    for at in (0..FLOOD).step_by(BLOCK) {
        to.read_exact(&mut block).unwrap();
        let same = block.iter().enumerate().all(|(offset, byte)| *byte == pattern(at + offset));
        assert!(same, "{name}: other bytes from {at} on");
    }
    drop((writer.finish(), to));
}

#[test]
fn a_flood_towards_a_stopped_reader_of_a_websocket_holds_no_memory() {
    let _alone = alone();
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = ws_pair(left, right);
    flood("ws, towards the server", client, server);
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = ws_pair(left, right);
    flood("ws, towards the client", server, client);
}

#[test]
fn a_flood_towards_a_stopped_reader_of_tls_holds_no_memory() {
    let _alone = alone();
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = tls_pair(left, right);
    flood("tls, towards the server", client, server);
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = tls_pair(left, right);
    flood("tls, towards the client", server, client);
}

#[test]
fn a_flood_towards_a_stopped_reader_of_tls_over_websocket_holds_no_memory() {
    let _alone = alone();
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = ws_pair(left, right);
    // One type for both sides of the layer above.
    let (client, server): (Arc<dyn Channel>, Arc<dyn Channel>) =
        (Arc::new(client), Arc::new(server));
    let (client, server) = tls_pair(client, server);
    flood("tls over ws", client, server);
}

#[test]
fn a_flood_towards_a_stopped_reader_of_a_throttle_or_a_tap_holds_no_memory() {
    let _alone = alone();
    let (left, right) = Socket::pair().unwrap();
    let rate = Rate::new(NonZero::new(4 << 30).unwrap());
    let options = ThrottleOptions::new().read(rate).write(rate);
    flood("throttle", Throttle::new(left, options), Throttle::new(right, options));
    let (left, right) = Socket::pair().unwrap();
    let recorder = Recorder::new(std::io::sink(), RecorderOptions::new()).unwrap();
    flood("tap", Tap::new(left, &recorder), Tap::new(right, &recorder));
}

#[test]
fn a_flood_of_tiny_frames_and_records_holds_no_memory() {
    let _alone = alone();
    let (left, right) = Socket::pair().unwrap();
    tiny("ws", ws_pair(left, right));
    let (left, right) = Socket::pair().unwrap();
    tiny("tls", tls_pair(left, right));
}

/// One byte a piece, until nothing fits any more, towards somebody who does not read.
fn tiny<A: Channel, B: Channel>(name: &str, (from, to): (A, B)) {
    let before = held();
    from.set_mode(Mode::NonBlocking).unwrap();
    let mut sent = 0;
    while from.write(&[7]).is_ok() {
        sent += 1;
        to.drive(Instant::now()).unwrap();
        to.watch(Interest::READ, &mut PollSet::new());
    }
    let most = held() - before;
    println!("{name}: {most} bytes for {sent} pieces");
    assert!(most < 128 << 10, "{name}: {most} bytes");
    let reader = Job::start(move || to.read_exact(&mut vec![0; sent]).unwrap());
    from.flush_all(Some(Instant::now() + Duration::from_secs(10))).unwrap();
    reader.finish();
}
