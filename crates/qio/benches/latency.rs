//! Plain timings of small operations, with criterion: `cargo bench -p qio --bench latency`.
//!
//! Good for seeing a change over time on one machine. What is promised is measured by
//! `instructions` and `throughput`, which compare with raw system calls in the same run.

use criterion::{Criterion, criterion_group, criterion_main};
use qio::transport::{Duplex, Socket};
use qio::{Channel, ChannelExt, Interest};

fn small_operations(criterion: &mut Criterion) {
    let (left, right) = Socket::pair().expect("socketpair");
    let (left, right): (&dyn Channel, &dyn Channel) = (&left, &right);
    let mut buf = [0; 64];
    criterion.bench_function("socket: write + read, 1 byte", |bencher| {
        bencher.iter(|| {
            left.write(b"x").expect("write");
            right.read(&mut buf).expect("read")
        });
    });
    criterion.bench_function("socket: write_all + read_exact, 64 bytes", |bencher| {
        bencher.iter(|| {
            left.write_all(&[7; 64]).expect("write");
            right.read_exact(&mut buf).expect("read");
        });
    });
    left.write_all(b"x").expect("write");
    criterion.bench_function("socket: wait, ready", |bencher| {
        bencher.iter(|| right.wait(Interest::READ, None).expect("wait"));
    });
    let (left, right) = Duplex::pair();
    criterion.bench_function("memory duplex: write + read, 64 bytes", |bencher| {
        bencher.iter(|| {
            left.write(&[7; 64]).expect("write");
            right.read(&mut buf).expect("read")
        });
    });
    let (left, right) = Socket::pair().expect("socketpair");
    let raw_left: std::os::fd::OwnedFd =
        rustix::io::fcntl_dupfd_cloexec(left.descriptor().expect("open"), 0).expect("dup");
    let raw_right: std::os::fd::OwnedFd =
        rustix::io::fcntl_dupfd_cloexec(right.descriptor().expect("open"), 0).expect("dup");
    criterion.bench_function("raw: write + read, 1 byte", |bencher| {
        bencher.iter(|| {
            rustix::io::write(&raw_left, b"x").expect("write");
            rustix::io::read(&raw_right, &mut buf[..]).expect("read")
        });
    });
}

criterion_group!(benches, small_operations);
criterion_main!(benches);
