//! How much memory a session of OpenSSL holds: idle, and when the peer floods a reader that has
//! stopped. OpenSSL has an allocator of its own: what is looked at is the process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;
use std::time::Instant;

use common::in_own_process;
use engines::By::{Openssl, Rustls};
use engines::{anonymous_pair, psk_pair, tls_pair, tls_pair_up_to, world};
use qio::layer::tls::{self, Version, openssl};
use qio::transport::Socket;
use qio::watch::{PollSet, Steps};
use qio::{Channel, ChannelExt, Interest, Mode};
use qio_testkit::pairs::{unix, ws_over};
use qio_testkit::{Job, Pair, resident_bytes, soon};

const FLOOD: usize = 64 << 20;

/// What both ends may hold while the one floods and the other does not read.
const BOUND: u64 = 1 << 20;

/// The bytes that come again in a while.
fn block(at: usize) -> Vec<u8> {
    (at..at + BLOCK).map(|at| (at / 4096 + at) as u8).collect()
}

const BLOCK: usize = 64 << 10;

/// Floods the right side, which waits and is driven, as by somebody who writes, and does not read.
fn flood(name: &str, pair: Pair) {
    let (from, to) = (pair.left, pair.right);
    // Once around: code, stacks of threads and buffers of the allocator are there.
    let warm = Arc::clone(&from);
    let writer = Job::start(move || warm.write_all(&block(0)).unwrap());
    to.read_exact(&mut vec![0; BLOCK]).unwrap();
    writer.finish();
    let before = resident_bytes();
    let writer = Job::start(move || {
        for at in (0..FLOOD).step_by(BLOCK) {
            from.write_all(&block(at)).unwrap();
        }
        from.flush_all(None).unwrap();
        from
    });
    let mut most = before;
    for _ in 0..200 {
        assert!(!to.wait(Interest::READ, None).unwrap().is_empty());
        to.drive(Instant::now()).unwrap();
        to.watch(Interest::READ | Interest::WRITE, &mut PollSet::new());
        most = most.max(resident_bytes());
    }
    writer.wait_until_asleep();
    most = most.max(resident_bytes()) - before;
    println!("{name}: {most} bytes at most");
    assert!(writer.is_running() && most < BOUND, "{name}: {most} bytes");
    let mut got = vec![0; BLOCK];
    for at in (0..FLOOD).step_by(BLOCK) {
        to.read_exact(&mut got).unwrap();
        assert!(got == block(at), "{name}: other bytes from {at} on");
    }
    drop((writer.finish(), to));
}

#[test]
fn a_flood_towards_a_stopped_reader_of_openssl_holds_no_memory() {
    in_own_process("a_flood_towards_a_stopped_reader_of_openssl_holds_no_memory", || {
        flood("towards the server", tls_pair(unix(), Openssl, Openssl));
        flood("towards the client", tls_pair(unix(), Openssl, Openssl).swapped());
        flood("from rustls", tls_pair(unix(), Rustls, Openssl));
        flood("tls 1.2", tls_pair_up_to(Version::Tls12, unix(), Openssl, Openssl));
        flood("over ws", tls_pair(ws_over(unix()), Openssl, Openssl));
        flood("by key", psk_pair(Version::Tls13, unix()));
        flood("anonymous", anonymous_pair(unix()));
    });
}

#[test]
fn a_flood_of_tiny_records_of_openssl_holds_no_memory() {
    in_own_process("a_flood_of_tiny_records_of_openssl_holds_no_memory", || {
        let pair = tls_pair(unix(), Openssl, Openssl);
        pair.left.write_all(&[7; 100]).unwrap();
        pair.right.read_exact(&mut [0; 100]).unwrap();
        let before = resident_bytes();
        pair.left.set_mode(Mode::NonBlocking).unwrap();
        let mut sent = 0;
        while pair.left.write(&[7]).is_ok() {
            sent += 1;
            pair.right.drive(Instant::now()).unwrap();
            pair.right.watch(Interest::READ, &mut PollSet::new());
        }
        let most = resident_bytes().saturating_sub(before);
        println!("{most} bytes for {sent} pieces");
        assert!(sent > 100 && most < 256 << 10, "{most} bytes for {sent} pieces");
        let to = pair.right;
        let reader = Job::start(move || to.read_exact(&mut vec![0; sent]).unwrap());
        pair.left.flush_all(soon()).unwrap();
        reader.finish();
    });
}

/// Both sides in turn on this thread, so that no thread's memory is counted.
fn idle_pair(
    client: &Arc<openssl::ClientContext>,
    server: &Arc<openssl::ServerContext>,
) -> (impl Channel, impl Channel) {
    let (left, right) = Socket::pair().unwrap();
    let mut client = openssl::client(left, client, &engines::localhost(), None).unwrap();
    let mut server = openssl::server(right, server, None).unwrap();
    let (mut a, mut b) = (None, None);
    while a.is_none() || b.is_none() {
        let now = Instant::now();
        if a.is_none()
            && let std::task::Poll::Ready(done) = client.step(now)
        {
            a = Some(done.unwrap().into_layer(tls::NAME));
        }
        if b.is_none()
            && let std::task::Poll::Ready(done) = server.step(now)
        {
            b = Some(done.unwrap().into_layer(tls::NAME));
        }
    }
    let (a, b) = (a.unwrap(), b.unwrap());
    a.write_all(&[7; 5000]).unwrap();
    b.read_exact(&mut [0; 5000]).unwrap();
    b.write_all(&[7; 5000]).unwrap();
    a.read_exact(&mut [0; 5000]).unwrap();
    (a, b)
}

#[test]
fn an_idle_session_of_openssl_holds_no_buffers() {
    in_own_process("an_idle_session_of_openssl_holds_no_buffers", || {
        const PAIRS: u64 = 400;
        let client = world().client().build_openssl().unwrap();
        let server = world().server().build_openssl().unwrap();
        let warm: Vec<_> = (0..50).map(|_| idle_pair(&client, &server)).collect();
        let before = resident_bytes();
        let pairs: Vec<_> = (0..PAIRS).map(|_| idle_pair(&client, &server)).collect();
        let each = (resident_bytes() - before) / (2 * PAIRS);
        println!("an idle session of openssl: {each} bytes, all told");
        // Buffers for records, one for each direction, would be 33 KiB more.
        assert!(each < 32 << 10, "{each} bytes");
        drop((warm, pairs));
    });
}
