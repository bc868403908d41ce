//! The layers beside the best simple loops that do the same with the same bytes, in pairs.
//!
//! `cargo bench -p qio --features tls --bench layers [-- --quick]`
//!
//! As in the benchmark of throughput, every run of qio has a run of its control right before or
//! after it, and the table shows the median of the ratios of the pairs.

mod paired;
mod tls;
mod transfer;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use qio::layer::ws;
use qio::transport::Socket;
use qio::watch::{Steps, run};
use qio::{Channel, ChannelExt};
use qio_proto::Engine;
use tls::{End, Foreign, Identity};
use transfer::{Cost, HEAD, row, transfer};

/// What moving so many bytes takes.
type Run<'a> = &'a dyn Fn(usize) -> Cost;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let only = args.iter().position(|arg| arg == "--only").map(|at| args[at + 1].as_str());
    let (pairs, bytes) = if quick { (5, 32 << 20) } else { (21, 256 << 20) };
    println!("{pairs} pairs of {} MiB each\n", bytes >> 20);
    println!("{HEAD}");
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let tls = Identity::new();
    let bare = |n| tls.run(End::Rustls, End::Rustls, n);
    let qio = |n| tls.run(End::Qio, End::Qio, n);
    let rows: [(&str, Option<f64>, Run<'_>, Run<'_>); 8] = [
        ("tls, 16 KiB writes / rustls", Some(0.95), &qio, &bare),
        (
            "tls, qio sends, rustls receives / rustls",
            None,
            &|n| tls.run(End::Qio, End::Rustls, n),
            &bare,
        ),
        (
            "tls, rustls sends, qio receives / rustls",
            None,
            &|n| tls.run(End::Rustls, End::Qio, n),
            &bare,
        ),
        ("ws, decode 64 KiB frames / loop", Some(0.9), &|n| decode(n, 64 << 10), &|n| {
            decode_by_hand(n, 64 << 10)
        }),
        ("ws, decode 128 B frames / loop", Some(0.5), &|n| decode(n / 8, 128) * 8, &|n| {
            decode_by_hand(n / 8, 128) * 8
        }),
        // Pieces of 8 KiB, which bound what may have to wait here.
        ("ws, encode 64 KiB writes, server / writev", Some(0.7), &|n| encode(n, 64 << 10), &|n| {
            encode_by_hand(n, 64 << 10)
        }),
        (
            "ws, encode 64 KiB writes, client / writev",
            Some(0.5),
            &|n| encode_masked(n, 64 << 10),
            &|n| encode_by_hand(n, 64 << 10),
        ),
        // Within 1.5 times of memcpy.
        ("ws, mask 64 KiB / memcpy", Some(0.66), &|n| mask(n * 8) / 8, &|n| copy(n * 8) / 8),
    ];
    for (name, promised, ours, control) in rows {
        if wanted(name) {
            row(name, promised, pairs, bytes, ours, control);
        }
    }
    for library in tls::LIBRARIES {
        let name = format!("tls, 16 KiB writes / {library}");
        if !wanted(&name) {
            continue;
        }
        match Foreign::build(library, &tls) {
            Ok(foreign) => row(&name, None, pairs, bytes, qio, |n| foreign.run(n)),
            Err(reason) => println!("\nskipped: {name}: {reason}"),
        }
    }
}

fn finished<T>(steps: impl Steps<Output = std::io::Result<T>>) -> T {
    match run(steps, None).expect("poll") {
        ControlFlow::Break(result) => result.expect("the handshake"),
        ControlFlow::Continue(_) => unreachable!("it has no deadline"),
    }
}

fn channel(stream: UnixStream) -> Socket {
    Socket::from_fd(OwnedFd::from(stream)).map_err(|(error, _)| error).expect("a socket")
}

fn send(channel: &dyn Channel, mut bytes: usize, size: usize) {
    let block = vec![7; size];
    while bytes > 0 {
        let count = size.min(bytes);
        channel.write_all(&block[..count]).expect("write");
        bytes -= count;
    }
    channel.flush_all(None).expect("flush");
}

fn receive(channel: &dyn Channel, mut bytes: usize, size: usize) {
    let mut block = vec![0; size];
    while bytes > 0 {
        bytes = bytes.saturating_sub(some(channel.read(&mut block).expect("read")));
        black_box(&block);
    }
}

fn some(count: usize) -> usize {
    assert_ne!(count, 0, "the stream ended early");
    count
}

/// A WebSocket between two layers, the client first.
fn websockets() -> (impl Channel, impl Channel) {
    let (left, right) = UnixStream::pair().expect("socketpair");
    let server = ws::server(channel(right), ws::ServerOptions::default(), None);
    let server = thread::spawn(move || finished(server).into_layer(ws::NAME));
    let client = ws::client(channel(left), ws::ClientOptions::new("localhost"), None);
    let client = finished(client.expect("client")).into_layer(ws::NAME);
    (client, server.join().expect("the server"))
}

/// The server's side of a WebSocket whose client is a bare socket.
fn server() -> (UnixStream, impl Channel) {
    let (left, right) = UnixStream::pair().expect("socketpair");
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    (&left).write_all(request.as_bytes()).expect("write");
    let server = finished(ws::server(channel(right), ws::ServerOptions::default(), None));
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        (&left).read_exact(&mut byte).expect("the answer");
        answer.push(byte[0]);
    }
    (left, server.into_layer(ws::NAME))
}

/// Masked frames of `size` bytes of payload, 256 KiB in all, as a client sends them.
fn frames(size: usize) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut frame = vec![0x82];
    match size {
        0..126 => frame.push(0x80 | size as u8),
        126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((size as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((size as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    frame.extend((0..size).map(|at| 7 ^ key[at % 4]));
    frame.repeat((256 << 10) / size)
}

/// Sends frames whose payload is at least `bytes`, and ends.
fn send_frames(to: &UnixStream, bytes: usize, size: usize) {
    let frames = frames(size);
    let payload = 256 << 10;
    let mut sent = 0;
    while sent < bytes + payload {
        // Who has seen enough closes.
        if (&*to).write_all(&frames).is_err() {
            break;
        }
        sent += payload;
    }
}

/// What a reader asks for at once.
const BLOCK: usize = 64 << 10;

fn decode(bytes: usize, size: usize) -> Cost {
    let (client, server) = server();
    transfer(
        || send_frames(&client, bytes, size),
        || {
            receive(&server, bytes, BLOCK);
            server.shutdown(Shutdown::Both).expect("shutdown");
        },
    )
}

/// Reads what there is, unmasks each frame where it lies, and hands its payload on by copying it
/// to the block of the reader.
fn decode_by_hand(bytes: usize, size: usize) -> Cost {
    let (client, server) = UnixStream::pair().expect("socketpair");
    transfer(
        || send_frames(&client, bytes, size),
        || {
            let mut wire = vec![0; 2 * BLOCK];
            let mut block = vec![0; BLOCK];
            let (mut start, mut end, mut done) = (0, 0, 0);
            while done < bytes {
                while let Some((header, len, key)) = header(&wire[start..end]) {
                    if end - start < header + len {
                        break;
                    }
                    let payload = &mut wire[start + header..start + header + len];
                    unmask(payload, key);
                    block[..len].copy_from_slice(payload);
                    black_box(&block);
                    start += header + len;
                    done += len;
                }
                wire.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                end += some((&server).read(&mut wire[end..]).expect("read"));
            }
            server.shutdown(Shutdown::Both).expect("shutdown");
        },
    )
}

fn header(wire: &[u8]) -> Option<(usize, usize, [u8; 4])> {
    let (len, at) = match wire.get(1)? & 0x7f {
        126 => (u16::from_be_bytes(wire.get(2..4)?.try_into().ok()?).into(), 4),
        127 => (u64::from_be_bytes(wire.get(2..10)?.try_into().ok()?) as usize, 10),
        len => (len.into(), 2),
    };
    Some((at + 4, len, wire.get(at..at + 4)?.try_into().ok()?))
}

/// Eight bytes at a time: what a careful author writes.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key, key].concat().try_into().expect("eight bytes"));
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

fn drain(from: &UnixStream, mut bytes: usize) {
    let mut block = vec![0; BLOCK];
    while bytes > 0 {
        bytes = bytes.saturating_sub(some((&*from).read(&mut block).expect("read")));
    }
}

fn encode(bytes: usize, size: usize) -> Cost {
    let (client, server) = server();
    transfer(|| send(&server, bytes, size), || drain(&client, bytes))
}

fn encode_by_hand(bytes: usize, size: usize) -> Cost {
    let (client, server) = UnixStream::pair().expect("socketpair");
    transfer(
        || {
            let block = vec![7; size];
            let mut header = [0x82, 127, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..].copy_from_slice(&(size as u64).to_be_bytes());
            for _ in 0..bytes.div_ceil(size) {
                let parts = [std::io::IoSlice::new(&header), std::io::IoSlice::new(&block)];
                let sent = (&server).write_vectored(&parts).expect("write");
                assert_eq!(sent, header.len() + size, "a socket in blocking mode takes all");
            }
        },
        || drain(&client, bytes),
    )
}

fn encode_masked(bytes: usize, size: usize) -> Cost {
    let (client, server) = websockets();
    let socket = server.find::<Socket>().expect("the socket below");
    transfer(
        || send(&client, bytes, size),
        || {
            let mut block = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                left = left.saturating_sub(some(socket.read(&mut block).expect("read")));
            }
        },
    )
}

/// The client's engine: header, key, masking.
fn mask(bytes: usize) -> Cost {
    let mut client = ws::WebSocket::client(ws::WsOptions::default(), Box::new(|key| *key = [7; 4]));
    let plain = vec![7; BLOCK];
    let mut wire = vec![0; BLOCK + 14];
    Cost::of(|| {
        for _ in 0..bytes / BLOCK {
            let moved = client.handle_plain(black_box(&plain), &mut wire).expect("it is open");
            assert_eq!(moved.consumed, BLOCK);
            black_box(&wire);
        }
    })
}

fn copy(bytes: usize) -> Cost {
    let plain = vec![7; BLOCK];
    let mut wire = vec![0; BLOCK + 14];
    Cost::of(|| {
        for _ in 0..bytes / BLOCK {
            wire[..BLOCK].copy_from_slice(black_box(&plain));
            black_box(&wire);
        }
    })
}
