//! What goes through the relays, and the servers behind them.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::front::{Client, Front};
use crate::measure;
use crate::peer::{Peer, Relay, Target};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    rounds: usize,
    bulk_bytes: u64,
    ping_rounds: usize,
    traced_rounds: usize,
    new_connections: usize,
    idle_connections: usize,
    requests: usize,
    starts: usize,
}

impl Scale {
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        bulk_bytes: 1 << 30,
        ping_rounds: 300,
        traced_rounds: 20,
        new_connections: 1500,
        idle_connections: 1000,
        requests: 30,
        starts: 60,
    };

    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        bulk_bytes: 128 << 20,
        ping_rounds: 40,
        traced_rounds: 3,
        new_connections: 200,
        idle_connections: 100,
        requests: 10,
        starts: 20,
    };
}

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Bulk,
    BulkUnix,
    PingPong,
    SystemCalls,
    NewConnections,
    IdleMemory,
    IdleAllTold,
    TwoWrites,
    Start,
}

pub(crate) const NOTES: &str = "\
CPU is user and system time of the relay's processes alone. Bulk goes from the client to the \
server, in frames of 64 KiB where it is WebSocket. Ping-pong: 64 connections, 64 bytes each way, \
128 with WebSocket. A new connection carries one byte each way, after a whole handshake of TLS \
(1.3, AES-256-GCM, ECDSA with P-256, no resumption) or an upgrade. Idle memory is that of the \
relay's processes after one exchange on each connection: PSS, without the kernel's part (sockets \
and pipes and page tables), and all told, by a control group of the machine. The two writes of a \
request are 100 us apart; the time counts from the first. The start of a one-shot connect is \
compared with the least program that does it (in the column of the copy loop).";

const PING_CONNECTIONS: usize = 64;

impl Load {
    /// What is measured of a relay with such clients.
    pub(crate) fn all(front: Front) -> &'static [Self] {
        use Load::*;
        match front {
            Front::Plain => &[
                Bulk,
                BulkUnix,
                PingPong,
                SystemCalls,
                NewConnections,
                IdleMemory,
                IdleAllTold,
                TwoWrites,
                Start,
            ],
            Front::Tls | Front::WebSocket => {
                &[NewConnections, Bulk, PingPong, SystemCalls, IdleMemory, IdleAllTold]
            }
        }
    }

    pub(crate) fn name(self, front: Front) -> &'static str {
        match (self, front) {
            (Self::Bulk, Front::Plain) => "TCP to TCP bulk, CPU s/GB",
            (Self::Bulk, _) => "bulk, CPU s/GB",
            (Self::BulkUnix, _) => "TCP to Unix bulk, CPU s/GB",
            (Self::PingPong, _) => "ping-pong, CPU us per round trip",
            (Self::SystemCalls, _) => "system calls per round trip",
            (Self::NewConnections, Front::Plain) => "new connection, CPU us",
            (Self::NewConnections, Front::Tls) => "new connection with its handshake, CPU us",
            (Self::NewConnections, Front::WebSocket) => "new connection with its upgrade, CPU us",
            (Self::IdleMemory, _) => "memory per idle connection, KiB",
            (Self::IdleAllTold, _) => "the same all told, KiB",
            (Self::TwoWrites, _) => "request in two writes, ms",
            (Self::Start, _) => "start of a one-shot connect, CPU ms",
        }
    }

    /// What qio promises, at most.
    pub(crate) fn promise(self, front: Front) -> Option<f64> {
        match (self, front) {
            (Self::Bulk, Front::Plain) => Some(0.45),
            (Self::Bulk, Front::Tls) => Some(1.2),
            (Self::Bulk, Front::WebSocket) => Some(0.7),
            (Self::PingPong, Front::Plain | Front::WebSocket) => Some(16.0),
            (Self::SystemCalls, Front::Plain) => Some(6.0),
            (Self::NewConnections, Front::Plain) => Some(120.0),
            (Self::NewConnections, Front::Tls) => Some(700.0),
            (Self::NewConnections, Front::WebSocket) => Some(150.0),
            (Self::IdleAllTold, Front::Plain) => Some(8.0),
            (Self::IdleAllTold, Front::Tls) => Some(20.0),
            (Self::IdleAllTold, Front::WebSocket) => Some(10.0),
            (Self::TwoWrites, _) => Some(0.6),
            (Self::Start, _) => Some(4.0),
            _ => None,
        }
    }

    /// What hardly varies is measured once.
    pub(crate) fn rounds(self, scale: Scale) -> usize {
        match self {
            Self::SystemCalls | Self::IdleMemory | Self::IdleAllTold => 1,
            _ => scale.rounds,
        }
    }

    pub(crate) fn run(self, front: Front, peer: Peer, scale: Scale) -> Result<Option<f64>> {
        match self {
            Self::Bulk => bulk_tcp(front, peer, scale.bulk_bytes),
            Self::BulkUnix => bulk_unix(peer, scale.bulk_bytes),
            Self::PingPong => ping_pong(front, peer, scale.ping_rounds),
            Self::SystemCalls => return system_calls(front, peer, scale.traced_rounds),
            Self::NewConnections => new_connections(front, peer, scale.new_connections),
            Self::IdleMemory => idle_memory(front, peer, scale.idle_connections, &[], |relay| {
                Ok(measure::pss_kib(relay.pid()))
            }),
            Self::IdleAllTold => {
                let Ok(cgroup) = Cgroup::make() else { return Ok(None) };
                let used = |_: &Relay| cgroup.used_kib();
                idle_memory(front, peer, scale.idle_connections, &cgroup.wrapper(), used)
            }
            Self::TwoWrites => two_writes(peer, scale.requests),
            Self::Start => return start(peer, scale.starts),
        }
        .map(Some)
    }
}

fn bulk_tcp(front: Front, peer: Peer, bytes: u64) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = Target::Tcp(listener.local_addr()?.port());
    let received = in_background(move || drain(listener.accept()?.0, bytes));
    bulk(&peer.start(front, &target)?, front, bytes, &received)
}

fn bulk_unix(peer: Peer, bytes: u64) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sink");
    let listener = UnixListener::bind(&path)?;
    let received = in_background(move || drain(listener.accept()?.0, bytes));
    bulk(&peer.start(Front::Plain, &Target::Unix(path))?, Front::Plain, bytes, &received)
}

fn bulk(
    relay: &Relay,
    front: Front,
    bytes: u64,
    received: &mpsc::Receiver<Result<u64>>,
) -> Result<f64> {
    let mut stream = relay.connect()?;
    let before = measure::cpu_seconds(relay.pid())?;
    let block = vec![7; front.block_bytes()];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    stream.flush()?;
    let arrived = received.recv_timeout(PATIENCE).map_err(Error::other)??;
    if arrived != bytes {
        return Err(Error::other(format!("{arrived} of {bytes} bytes arrived")));
    }
    // While the connection's own process, where there is one, is still there to be asked.
    let after = measure::cpu_seconds(relay.pid())?;
    stream.finish()?;
    Ok((after - before) / (bytes as f64 / 1e9))
}

fn ping_pong(front: Front, peer: Peer, rounds: usize) -> Result<f64> {
    let echo = EchoServer::start()?;
    let relay = peer.start(front, &Target::Tcp(echo.port()))?;
    let mut streams = connected(&relay, front, PING_CONNECTIONS)?;
    let before = measure::cpu_seconds(relay.pid())?;
    exchange(&mut streams, front, rounds)?;
    let after = measure::cpu_seconds(relay.pid())?;
    Ok((after - before) * 1e6 / (rounds * PING_CONNECTIONS) as f64)
}

fn system_calls(front: Front, peer: Peer, rounds: usize) -> Result<Option<f64>> {
    let count = |rounds: usize| -> Result<f64> {
        let folder = tempfile::tempdir()?;
        let summary = folder.path().join("strace");
        let file = summary.to_string_lossy();
        let echo = EchoServer::start()?;
        let strace = ["strace", "-f", "-c", "-o", &file].map(str::to_owned);
        let mut relay = peer.start_under(&strace, front, &Target::Tcp(echo.port()))?;
        let mut streams = connected(&relay, front, PING_CONNECTIONS)?;
        exchange(&mut streams, front, rounds)?;
        drop(streams);
        thread::sleep(Duration::from_millis(100));
        relay.end_wrapped()?;
        let text = std::fs::read_to_string(&summary)?;
        let total = text.lines().find(|line| line.ends_with(" total"));
        let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        calls.ok_or_else(|| Error::other("strace printed no total"))
    };
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    // The difference leaves out the start, the connections and the end.
    let (few, many) = (count(2)?, count(2 + rounds)?);
    Ok(Some((many - few) / (rounds * PING_CONNECTIONS) as f64))
}

fn new_connections(front: Front, peer: Peer, connections: usize) -> Result<f64> {
    let connections = match peer.most_connections() {
        usize::MAX => connections,
        // Each takes milliseconds of such a relay.
        few => connections.min(2 * few),
    };
    let echo = EchoServer::start()?;
    let relay = peer.start(front, &Target::Tcp(echo.port()))?;
    let before = measure::cpu_seconds(relay.pid())?;
    for _ in 0..connections {
        let mut stream = relay.connect()?;
        stream.write_all(b"x")?;
        stream.flush()?;
        stream.read_exact(&mut [0])?;
    }
    // The last ones are still being taken down.
    thread::sleep(Duration::from_millis(200));
    let after = measure::cpu_seconds(relay.pid())?;
    Ok((after - before) * 1e6 / connections as f64)
}

/// What `used` says of a relay under `wrapper` for each connection, in KiB.
fn idle_memory(
    front: Front,
    peer: Peer,
    connections: usize,
    wrapper: &[String],
    used: impl Fn(&Relay) -> Result<f64>,
) -> Result<f64> {
    let connections = connections.min(peer.most_connections());
    let echo = EchoServer::start()?;
    let relay = peer.start_under(wrapper, front, &Target::Tcp(echo.port()))?;
    let first = connected(&relay, front, 1)?;
    thread::sleep(Duration::from_millis(200));
    let before = used(&relay)?;
    let more = connected(&relay, front, connections)?;
    thread::sleep(Duration::from_millis(1000));
    let after = used(&relay)?;
    drop((first, more));
    Ok((after - before) / connections as f64)
}

fn two_writes(peer: Peer, requests: usize) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = Target::Tcp(listener.local_addr()?.port());
    let _server = in_background(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut request = [0; 64];
        loop {
            stream.read_exact(&mut request)?;
            stream.write_all(b"y")?;
        }
    });
    let relay = peer.start(Front::Plain, &target)?;
    let mut stream = relay.connect()?;
    let mut times = Vec::new();
    for _ in 0..requests {
        let began = Instant::now();
        stream.write_all(&[7; 32])?;
        while began.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
        stream.write_all(&[7; 32])?;
        stream.read_exact(&mut [0])?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    measure::median(times).ok_or_else(|| Error::other("no requests"))
}

fn start(peer: Peer, starts: usize) -> Result<Option<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let Some(words) = peer.one_shot(port)? else { return Ok(None) };
    let _server = in_background(move || -> Result<()> {
        for stream in listener.incoming() {
            stream?.write_all(b"hello")?;
        }
        Ok(())
    });
    let before = measure::children_cpu_seconds()?;
    for _ in 0..starts {
        let output = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        if !output.status.success() || output.stdout != b"hello" {
            return Err(Error::other(format!("{} ended with {}", words[0], output.status)));
        }
    }
    let after = measure::children_cpu_seconds()?;
    Ok(Some((after - before) * 1e3 / starts as f64))
}

/// Connections through the relay that have carried bytes both ways.
fn connected(relay: &Relay, front: Front, count: usize) -> Result<Vec<Client>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = relay.connect()?;
        ping(&mut stream, front.ping_bytes())?;
        streams.push(stream);
    }
    Ok(streams)
}

/// Some bytes to an echo server and back.
pub(crate) fn ping(stream: &mut Client, bytes: usize) -> Result<()> {
    let mut buf = vec![7; bytes];
    stream.write_all(&buf)?;
    stream.flush()?;
    stream.read_exact(&mut buf)
}

/// Bytes each way on every connection, all of them at the same time, `rounds` times.
fn exchange(streams: &mut [Client], front: Front, rounds: usize) -> Result<()> {
    let mut buf = vec![7; front.ping_bytes()];
    for _ in 0..rounds {
        for stream in &mut *streams {
            stream.write_all(&buf)?;
            stream.flush()?;
        }
        for stream in &mut *streams {
            stream.read_exact(&mut buf)?;
        }
    }
    Ok(())
}

/// Takes so many bytes, and gives how many came before the end.
fn drain(mut stream: impl Read, bytes: u64) -> Result<u64> {
    let mut buf = vec![0; 256 * 1024];
    let mut sum = 0;
    while sum < bytes {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => sum += n as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

fn in_background<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> mpsc::Receiver<R> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Nobody waits for the servers that end with their connection.
        let _ = sender.send(job());
    });
    receiver
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends back what it gets, one small thread per connection; ends with the program.
#[derive(Debug)]
pub(crate) struct EchoServer {
    port: u16,
}

impl EchoServer {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // A relay opens its connections as fast as it is asked to: std's backlog of 128 would do,
        // but not for a thousand at once.
        rustix::net::listen(&listener, 4096)?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = thread::Builder::new().stack_size(64 * 1024).spawn(move || echo(stream));
            }
        });
        Ok(Self { port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..n]).is_err() {
            break;
        }
    }
}
