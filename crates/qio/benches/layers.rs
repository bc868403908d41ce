//! The layers beside the best simple loops that do the same with the same bytes, in pairs.
//!
//! `cargo bench -p qio --features tls --bench layers [-- --quick]`
//!
//! As in the benchmark of throughput, every run of qio has a run of its control right before or
//! after it, and the table shows the median of the ratios of the pairs.

mod paired;
mod transfer;

use std::hint::black_box;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::{tls, ws};
use qio::transport::Socket;
use qio::watch::{Steps, run};
use qio::{Channel, ChannelExt};
use qio_proto::Engine;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use transfer::{row, transfer};

/// How long moving so many bytes takes.
type Run<'a> = &'a dyn Fn(usize) -> Duration;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let only = args.iter().position(|arg| arg == "--only").map(|at| args[at + 1].as_str());
    let (pairs, bytes) = if quick { (5, 32 << 20) } else { (21, 256 << 20) };
    println!("{pairs} pairs of {} MiB each\n", bytes >> 20);
    println!("| what | qio GB/s | control GB/s | ratio | quartiles | min..max | promised |");
    println!("|---|---:|---:|---:|---|---|---|");
    let tls = Identity::new();
    let rows: [(&str, f64, Run<'_>, Run<'_>); 6] = [
        ("tls, 16 KiB writes / rustls", 0.95, &|n| tls.qio(n), &|n| tls.bare(n)),
        ("ws, decode 64 KiB frames / loop", 0.9, &|n| decode(n, 64 << 10), &|n| {
            decode_by_hand(n, 64 << 10)
        }),
        ("ws, decode 128 B frames / loop", 0.5, &|n| decode(n / 8, 128) * 8, &|n| {
            decode_by_hand(n / 8, 128) * 8
        }),
        // Pieces of 8 KiB, which bound what may have to wait here.
        ("ws, encode 64 KiB writes, server / writev", 0.7, &|n| encode(n, 64 << 10), &|n| {
            encode_by_hand(n, 64 << 10)
        }),
        ("ws, encode 64 KiB writes, client / writev", 0.5, &|n| encode_masked(n, 64 << 10), &|n| {
            encode_by_hand(n, 64 << 10)
        }),
        // Within 1.5 times of memcpy.
        ("ws, mask 64 KiB / memcpy", 0.66, &mask, &copy),
    ];
    for (name, promised, ours, control) in rows {
        if only.is_none_or(|only| name.contains(only)) {
            row(name, promised, pairs, bytes, ours, control);
        }
    }
}

fn finished<T>(steps: impl Steps<Output = std::io::Result<T>>) -> T {
    match run(steps, None).expect("poll") {
        ControlFlow::Break(result) => result.expect("the handshake"),
        ControlFlow::Continue(_) => unreachable!("it has no deadline"),
    }
}

fn socket(stream: UnixStream) -> Socket {
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

struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What one record of TLS holds.
const RECORD: usize = 16 << 10;

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("rcgen");
        let cert = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(cert.clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has these versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has these versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("a certificate");
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    fn name() -> ServerName<'static> {
        ServerName::try_from("localhost").expect("a name")
    }

    fn qio(&self, bytes: usize) -> Duration {
        let (left, right) = UnixStream::pair().expect("socketpair");
        let server = tls::server(socket(right), Arc::clone(&self.server), None).expect("server");
        let server = thread::spawn(move || finished(server).into_layer(tls::NAME));
        let client = tls::client(socket(left), Arc::clone(&self.client), Self::name(), None);
        let client = finished(client.expect("client")).into_layer(tls::NAME);
        let server = server.join().expect("the server");
        transfer(|| send(&client, bytes, RECORD), || receive(&server, bytes, RECORD))
    }

    /// rustls over sockets in blocking mode: a record is sent when it is made, and the reader asks
    /// the kernel for two at once, because rustls by itself asks for 4 KiB at a time.
    fn bare(&self, bytes: usize) -> Duration {
        let (mut left, mut right) = UnixStream::pair().expect("socketpair");
        let config = Arc::clone(&self.server);
        let server = thread::spawn(move || {
            let mut tls = rustls::ServerConnection::new(config).expect("server");
            while tls.is_handshaking() {
                tls.complete_io(&mut right).expect("the handshake");
            }
            (tls, right)
        });
        let config = Arc::clone(&self.client);
        let mut client = rustls::ClientConnection::new(config, Self::name()).expect("client");
        while client.is_handshaking() {
            client.complete_io(&mut left).expect("the handshake");
        }
        let (mut server, right) = server.join().expect("the server");
        let mut right = BufReader::with_capacity(36 << 10, right);
        transfer(
            move || {
                let block = vec![7; RECORD];
                let mut sent = 0;
                while sent < bytes {
                    let count = RECORD.min(bytes - sent);
                    client.writer().write_all(&block[..count]).expect("write");
                    while client.wants_write() {
                        client.write_tls(&mut left).expect("write");
                    }
                    sent += count;
                }
            },
            move || {
                let mut block = vec![0; RECORD];
                let mut received = 0;
                while received < bytes {
                    match server.reader().read(&mut block) {
                        Ok(count) => received += some(count),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                            server.read_tls(&mut right).expect("read");
                            server.process_new_packets().expect("a record");
                        }
                    }
                    black_box(&block);
                }
            },
        )
    }
}

/// A WebSocket between two layers, the client first.
fn websockets() -> (impl Channel, impl Channel) {
    let (left, right) = UnixStream::pair().expect("socketpair");
    let server = ws::server(socket(right), ws::ServerOptions::default(), None);
    let server = thread::spawn(move || finished(server).into_layer(ws::NAME));
    let client = ws::client(socket(left), ws::ClientOptions::new("localhost"), None);
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
    let server = finished(ws::server(socket(right), ws::ServerOptions::default(), None));
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

fn decode(bytes: usize, size: usize) -> Duration {
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
fn decode_by_hand(bytes: usize, size: usize) -> Duration {
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

fn encode(bytes: usize, size: usize) -> Duration {
    let (client, server) = server();
    transfer(|| send(&server, bytes, size), || drain(&client, bytes))
}

fn encode_by_hand(bytes: usize, size: usize) -> Duration {
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

fn encode_masked(bytes: usize, size: usize) -> Duration {
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
fn mask(bytes: usize) -> Duration {
    let mut client = ws::WebSocket::client(ws::WsOptions::default(), Box::new(|key| *key = [7; 4]));
    let plain = vec![7; BLOCK];
    let mut wire = vec![0; BLOCK + 14];
    let began = Instant::now();
    for _ in 0..bytes * 8 / BLOCK {
        let moved = client.handle_plain(black_box(&plain), &mut wire).expect("it is open");
        assert_eq!(moved.consumed, BLOCK);
        black_box(&wire);
    }
    began.elapsed() / 8
}

fn copy(bytes: usize) -> Duration {
    let plain = vec![7; BLOCK];
    let mut wire = vec![0; BLOCK + 14];
    let began = Instant::now();
    for _ in 0..bytes * 8 / BLOCK {
        wire[..BLOCK].copy_from_slice(black_box(&plain));
        black_box(&wire);
    }
    began.elapsed() / 8
}

/// Named, because rustls has no default in a build with more than one.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
