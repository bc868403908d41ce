//! Runs the binary, with everything bounded in time.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "a module of test programs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

pub mod foreign;
pub mod screen;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qio::Interest;
use qio::watch::{PollSet, SharedFd};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

/// Far beyond what anything here takes: a test that reaches it has hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub const QIO: &str = env!("CARGO_BIN_EXE_qio");

pub fn qio<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Command {
    let mut command = Command::new(QIO);
    command.args(args);
    command
}

/// A program that was run to its end.
#[derive(Debug)]
pub struct Outcome {
    /// 128+N for a signal, like a shell.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The one line of standard error, without "qio: "; nothing else may have been said.
    pub fn complaint(&self) -> &str {
        assert!(self.stdout.is_empty(), "nothing is said on standard output: {self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains('\n'), "one line: {self:?}");
        line.strip_prefix("qio: ").unwrap_or_else(|| panic!("names the program: {self:?}"))
    }
}

/// Runs a program with this input to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Outcome {
    let process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Guard(process);
    let mut stdin = process.0.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that leaves early does not want the rest.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(process.0.stdout.take().unwrap());
    let stderr = collect(process.0.stderr.take().unwrap());
    let status = process.wait();
    let outcome = Outcome {
        status: code(status),
        stdout: stdout.join().unwrap(),
        stderr: String::from_utf8(stderr.join().unwrap()).unwrap(),
    };
    writer.join().unwrap();
    outcome
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Guard {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Waits for the end; a process that hangs is killed and fails the test.
    pub fn wait(&mut self) -> ExitStatus {
        let pidfd = rustix::process::pidfd_open(self.pid(), PidfdFlags::empty());
        if let Ok(pidfd) = pidfd {
            let mut set = PollSet::new();
            set.add(&SharedFd::new(pidfd), Interest::READ, Interest::READ);
            set.poll(Some(Instant::now() + PATIENCE)).unwrap();
            if set.granted().is_empty() {
                self.0.kill().unwrap();
                panic!("process {} hangs", self.0.id());
            }
        }
        self.0.wait().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Ended already, or in the way of the test's end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that runs beside the test; what it says on standard error is read as it comes.
#[derive(Debug)]
pub struct Running {
    process: Guard,
    lines: Receiver<String>,
    /// Lines that were passed over while another one was waited for.
    seen: VecDeque<String>,
}

impl Running {
    /// Starts it; standard input and output are empty unless the command says otherwise.
    pub fn start(command: &mut Command) -> Self {
        let mut process = Guard(command.stderr(Stdio::piped()).spawn().unwrap());
        let stderr = process.0.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { process, lines, seen: VecDeque::new() }
    }

    /// Starts `qio relay --json`, and gives the address of each listener.
    pub fn relay(args: &[&str]) -> (Self, String) {
        Self::wrapped_relay(qio(["relay", "--json"]).args(args))
    }

    pub fn wrapped_relay(command: &mut Command) -> (Self, String) {
        let mut relay = Self::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let event = relay.event("listening");
        let address = event["address"].as_str().unwrap();
        (relay, address.to_owned())
    }

    /// The next line on standard error.
    pub fn line(&mut self) -> String {
        if let Some(line) = self.seen.pop_front() {
            return line;
        }
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no further line"))
    }

    /// The next JSON line of that kind; others are kept for later.
    pub fn event(&mut self, kind: &str) -> Value {
        let parse = |line: &str| -> Value {
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))
        };
        if let Some(at) = self.seen.iter().position(|line| parse(line)["event"] == kind) {
            return parse(&self.seen.remove(at).unwrap());
        }
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {kind}, but {:?}", self.seen));
            let event = parse(&line);
            if event["event"] == kind {
                return event;
            }
            self.seen.push_back(line);
        }
    }

    /// Everything that is said until the end.
    pub fn rest(mut self) -> (i32, Vec<String>) {
        let status = code(self.process.wait());
        let mut lines: Vec<_> = self.seen.drain(..).collect();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        (status, lines)
    }

    pub fn wait(&mut self) -> i32 {
        code(self.process.wait())
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.process.0
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.process.pid(), signal).unwrap();
    }

    /// How many descriptors it has open.
    pub fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Its resident memory without shared pages of files, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How often it has gone to sleep so far, and the processor time it used.
    pub fn effort(&self) -> (u64, Duration) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt")).unwrap();
        let switches = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: Vec<u64> =
            fields.split(' ').skip(11).take(2).map(|text| text.parse().unwrap()).collect();
        (switches, Duration::from_millis((ticks[0] + ticks[1]) * 10))
    }
}

/// Looks until the condition holds, for what the kernel announces to nobody.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never happened: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// The socket address in an address of qio.
pub fn socket_address(address: &str) -> SocketAddr {
    address.strip_prefix("tcp://").unwrap_or(address).parse().unwrap()
}

/// Connects to an address of qio, bounded in time.
pub fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(socket_address(address)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Serves each client of a new TCP port in a thread, and gives its address.
pub fn serve<F: Fn(TcpStream) + Clone + Send + 'static>(serve: F) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The standard library's 128 would drop clients when a thousand come at once.
    rustix::net::listen(&listener, 4096).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            client.set_nodelay(true).unwrap();
            thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(client)).unwrap();
        }
    });
    address
}

/// Sends back what comes, until the end.
pub fn echo(mut client: TcpStream) {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => match client.write_all(&buffer[..n]) {
                Ok(()) => {}
                Err(_) => return,
            },
        }
    }
}

/// Bytes of which no two blocks are alike.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed << 17);
    let mut block = Vec::with_capacity(NOISE_BLOCK);
    while block.len() < NOISE_BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(len + NOISE_BLOCK);
    while bytes.len() < len {
        let number = bytes.len() as u64;
        block[..8].copy_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(len);
    bytes
}

const NOISE_BLOCK: usize = 4096 - 8;

/// Whether a program can be run here; says so when not.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}
