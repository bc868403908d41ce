//! Bulk transfer over TCP: owned writes, sent without a copy, beside ordinary ones, in pairs.
//!
//! `cargo bench -p qio --bench zero_copy [-- --quick]`
//!
//! CPU is that of the sending thread alone, in the kernel and outside.
//!
//! On loopback the kernel copies in any case, only later: what is measured is what asking costs.
//! A pair of virtual devices (as root, where ip(8) and unshare(1) can make one) copies on the
//! receiving side, which is not the sender's work on real hardware either.

mod paired;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use paired::{Spread, alternate};
use qio::transport::Socket;
use qio::{Bytes, ChannelExt, Confirmed};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};

/// The name of the peer's network namespace, in the process that has a device to it.
const PEER: &str = "QIO_BENCH_PEER";

const SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let (pairs, bytes) = if quick { (3, 32 << 20) } else { (15, 256 << 20) };
    if let Ok(peer) = std::env::var(PEER) {
        return table("veth", &listen_in(&peer), pairs, bytes);
    }
    println!("{pairs} pairs of {} MiB each\n", bytes >> 20);
    println!(
        "| transfer | copy GB/s | owned GB/s | owned / copy | quartiles | min..max \
         | CPU owned / copy | the kernel |"
    );
    println!("|---|---:|---:|---:|---|---|---:|---|");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    table("loopback", &listener, pairs, bytes);
    if !in_own_network(quick) {
        println!("\nno virtual devices: that needs root, ip(8) and unshare(1)");
    }
}

fn table(medium: &str, listener: &TcpListener, pairs: usize, bytes: usize) {
    let address = listener.local_addr().expect("address");
    for size in SIZES {
        let run = |kind| transfer(listener, address, size, bytes, kind);
        let runs = alternate(pairs, || run(Kind::Copy), || run(Kind::Owned));
        let speed = |run: &Run| bytes as f64 / run.wall.as_secs_f64() / 1e9;
        let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
        println!(
            "| {medium}, {} KiB | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
            size >> 10,
            Spread::of(runs.iter().map(|(copy, _)| speed(copy))).median(),
            Spread::of(runs.iter().map(|(_, owned)| speed(owned))).median(),
            Spread::of(runs.iter().map(|(copy, owned)| ratio(copy.wall, owned.wall))),
            Spread::of(runs.iter().map(|(copy, owned)| ratio(owned.cpu, copy.cpu))).median(),
            match runs.last() {
                Some((_, Run { confirmed: Confirmed { copied: true, .. }, .. })) => "copied",
                _ => "did not copy",
            }
        );
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Copy,
    Owned,
}

#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    cpu: Duration,
    confirmed: Confirmed,
}

/// One run: from the first byte to the last that has arrived, and for owned writes to the
/// confirmation of the last.
fn transfer(
    listener: &TcpListener,
    address: SocketAddr,
    size: usize,
    bytes: usize,
    kind: Kind,
) -> Run {
    let socket = |stream: TcpStream| {
        Socket::from_fd(OwnedFd::from(stream)).map_err(|(error, _)| error).expect("a socket")
    };
    let left = socket(TcpStream::connect(address).expect("connect"));
    let right = socket(listener.accept().expect("accept").0);
    let block = Bytes::from(vec![7; size]);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            start.wait();
            let began = cpu();
            for _ in 0..bytes / size {
                match kind {
                    Kind::Copy => left.write_all(&block),
                    Kind::Owned => left.write_all_owned(std::slice::from_ref(&block)),
                }
                .expect("write");
            }
            let confirmed = left.confirm_all(None).expect("confirm");
            (cpu().saturating_sub(began), confirmed)
        });
        start.wait();
        let began = Instant::now();
        let mut buf = vec![0; 256 << 10];
        let mut rest = bytes / size * size;
        while rest > 0 {
            match right.read(&mut buf).expect("read") {
                0 => panic!("the stream ended early"),
                n => rest -= n,
            }
        }
        let (cpu, confirmed) = sender.join().expect("the sender");
        Run { wall: began.elapsed(), cpu, confirmed }
    })
}

/// What this thread has used up.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}

/// Runs this program again with a virtual device to a second namespace.
fn in_own_network(quick: bool) -> bool {
    let peer = format!("qiobench{}", std::process::id());
    let script = format!(
        "ip netns add {peer} && trap 'ip netns del {peer}' EXIT && \
         ip link add v0 type veth peer name v1 netns {peer} && \
         ip addr add 10.99.0.1/24 dev v0 && ip link set v0 up && \
         ip -n {peer} addr add 10.99.0.2/24 dev v1 && ip -n {peer} link set v1 up && \
         {PEER}={peer} \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    command.arg(std::env::current_exe().expect("this program"));
    if quick {
        command.arg("--quick");
    }
    command.status().is_ok_and(|status| status.success())
}

/// A listener in the other namespace, of which this thread is back.
fn listen_in(peer: &str) -> TcpListener {
    let here = std::fs::File::open("/proc/self/ns/net").expect("a namespace");
    let there = std::fs::File::open(format!("/var/run/netns/{peer}")).expect("a namespace");
    let enter = |file: &std::fs::File| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    };
    enter(&there);
    let listener = TcpListener::bind("10.99.0.2:0").expect("listen");
    enter(&here);
    listener
}
