//! Bulk transfer between two threads: qio beside raw system calls, in pairs.
//!
//! `cargo bench -p qio --bench throughput [-- --quick]`
//!
//! The table shows the median of the ratios with their quartiles and extremes.

mod paired;
mod transfer;

use std::io::{IoSlice, IoSliceMut};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use qio::ChannelExt;
use qio::transport::Socket;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use transfer::{Cost, HEAD, row, transfer};

#[derive(Clone, Copy)]
enum Medium {
    Unix,
    Tcp,
}

#[derive(Clone, Copy)]
enum Shape {
    Block(usize),
    /// 16 buffers of 4 KiB.
    Vectors,
}

const ROWS: &[(&str, Medium, Shape, f64)] = &[
    ("unix, 64 KiB blocks", Medium::Unix, Shape::Block(64 << 10), 0.97),
    ("unix, 1 MiB blocks", Medium::Unix, Shape::Block(1 << 20), 0.97),
    ("unix, 16 x 4 KiB vectors", Medium::Unix, Shape::Vectors, 0.95),
    ("tcp, 64 KiB blocks", Medium::Tcp, Shape::Block(64 << 10), 0.97),
    ("tcp, 1 MiB blocks", Medium::Tcp, Shape::Block(1 << 20), 0.97),
    ("tcp, 16 x 4 KiB vectors", Medium::Tcp, Shape::Vectors, 0.95),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let (pairs, bytes) = if quick { (5, 64 << 20) } else { (21, 256 << 20) };
    println!("{pairs} pairs of {} MiB each\n", bytes >> 20);
    println!("{HEAD}");
    for &(name, medium, shape, promised) in ROWS {
        let qio = |bytes| run_qio(medium, shape, bytes);
        row(name, Some(promised), pairs, bytes, qio, |bytes| run_raw(medium, shape, bytes));
    }
}

fn ends(medium: Medium) -> (OwnedFd, OwnedFd) {
    match medium {
        Medium::Unix => rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socketpair"),
        Medium::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
            let left = TcpStream::connect(listener.local_addr().expect("address"));
            let (right, _) = listener.accept().expect("accept");
            (left.expect("connect").into(), right.into())
        }
    }
}

fn run_qio(medium: Medium, shape: Shape, bytes: usize) -> Cost {
    let (left, right) = ends(medium);
    let left = Socket::from_fd(left).map_err(|(error, _)| error).expect("a socket");
    let right = Socket::from_fd(right).map_err(|(error, _)| error).expect("a socket");
    let (left, right): (&dyn qio::Channel, &dyn qio::Channel) = (&left, &right);
    transfer(
        || send(bytes, shape, |buf| left.write(buf), |bufs| left.write_vectored(bufs)),
        || receive(bytes, shape, |buf| right.read(buf), |bufs| right.read_vectored(bufs)),
    )
}

fn run_raw(medium: Medium, shape: Shape, bytes: usize) -> Cost {
    let (left, right) = ends(medium);
    let (left, right) = (&left, &right);
    transfer(
        || {
            send(
                bytes,
                shape,
                |buf| Ok(rustix::io::write(left, buf)?),
                |bufs| Ok(rustix::io::writev(left, bufs)?),
            );
        },
        || {
            receive(
                bytes,
                shape,
                |buf| Ok(rustix::io::read(right, buf)?),
                |bufs| Ok(rustix::io::readv(right, bufs)?),
            );
        },
    )
}

fn send(
    bytes: usize,
    shape: Shape,
    mut write: impl FnMut(&[u8]) -> std::io::Result<usize>,
    mut write_vectored: impl FnMut(&[IoSlice<'_>]) -> std::io::Result<usize>,
) {
    let mut left = bytes;
    match shape {
        Shape::Block(size) => {
            let block = vec![7; size];
            while left > 0 {
                left -= write(&block[..size.min(left)]).expect("write");
            }
        }
        Shape::Vectors => {
            let pages = vec![[7; 4096]; 16];
            let bufs: Vec<_> = pages.iter().map(|page| IoSlice::new(page)).collect();
            while left >= 16 * 4096 {
                left -= write_vectored(&bufs).expect("write");
            }
            while left > 0 {
                left -= write(&pages[0][..left.min(4096)]).expect("write");
            }
        }
    }
}

fn receive(
    bytes: usize,
    shape: Shape,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    mut read_vectored: impl FnMut(&mut [IoSliceMut<'_>]) -> std::io::Result<usize>,
) {
    let mut left = bytes;
    match shape {
        Shape::Block(size) => {
            let mut block = vec![0; size];
            while left > 0 {
                left -= some(read(&mut block));
            }
        }
        Shape::Vectors => {
            let mut pages = vec![[0; 4096]; 16];
            let mut bufs: Vec<_> = pages.iter_mut().map(|page| IoSliceMut::new(page)).collect();
            while left > 0 {
                left -= some(read_vectored(&mut bufs));
            }
        }
    }
}

fn some(result: std::io::Result<usize>) -> usize {
    match result.expect("read") {
        0 => panic!("the stream ended early"),
        n => n,
    }
}
