//! `qio demo`: real data through a chain of relays and back.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanBytes};
use qio::net::{ConnectOptions, connect};
use qio::{Address, Channel, ChannelExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::DemoArgs;
use crate::exit::Failure;

/// How long a part may take to get ready, or to end after the data.
const PATIENCE: Duration = Duration::from_secs(20);

/// The data is made and checked in blocks of this size.
const BLOCK: usize = 64 * 1024;

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let folder = Folder::new()?;
    let bytes = u64::from(args.size) * 1024 * 1024;
    let mut chain = Chain::start(&folder.0)?;
    let sent = send_and_receive(&chain.entrance, bytes);
    let hops = chain.finish()?;
    let outcome = Outcome::new(bytes, sent?, hops);
    let text = if args.json {
        serde_json::to_string(&outcome).map_err(|error| Failure::usage(error.to_string()))? + "\n"
    } else {
        outcome.text()
    };
    // A reader that left early is no failure.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    match outcome.equal {
        true => Ok(()),
        false => Err(Failure::io("demo", &io::Error::other("the data came back changed"))),
    }
}

/// A folder for sockets, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = env::temp_dir().join(format!("qio-demo-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            Failure::io(format_args!("demo: create {}", path.display()), &error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in a folder for temporary files hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The relays, each a process of its own, from the one nearest to us.
struct Chain {
    entrance: Address,
    hops: Vec<Hop>,
}

/// One running relay.
struct Hop {
    what: &'static str,
    process: Child,
    /// Reads the records; gives the last one.
    records: JoinHandle<Option<ConnectionRecord>>,
}

/// What a relay says of its connection.
#[derive(Debug, Deserialize)]
struct ConnectionRecord {
    sent: u64,
    received: u64,
    spliced: u64,
    duration_s: f64,
}

/// A JSON line of a relay, as far as the demonstration reads it.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    Listening {
        address: String,
    },
    Connection(ConnectionRecord),
    #[serde(other)]
    Other,
}

impl Chain {
    /// Starts the last relay first, so that each finds the next one listening.
    fn start(folder: &Path) -> Result<Self, Failure> {
        let own = env::current_exe().map_err(|error| Failure::io("demo", &error))?;
        let socket = format!("listen:unix:{}", folder.join("cat.sock").display());
        let mut chain = Self { entrance: Address::null(), hops: Vec::new() };
        let cat =
            chain.add(&own, "unix socket to the pipes of a child (cat)", &socket, "exec:cat")?;
        let tcp = chain.add(&own, "tcp to unix socket", "listen:tcp://127.0.0.1:0", &cat)?;
        let name = format!("listen:unix:@qio-demo-{}", std::process::id());
        let name = chain.add(&own, "abstract unix socket to tcp", &name, &tcp)?;
        let own_text = own.to_string_lossy();
        let quoted = shell_word(&own_text);
        let through = format!("exec:{quoted} connect {}", shell_word(&name)).replace('%', "%25");
        let pipes = chain.add(
            &own,
            "tcp to the pipes of a child (qio connect)",
            "listen:tcp://127.0.0.1:0",
            &through,
        )?;
        let entrance = chain.add(&own, "tcp to tcp", "listen:tcp://127.0.0.1:0", &pipes)?;
        chain.entrance = entrance.parse()?;
        chain.hops.reverse();
        Ok(chain)
    }

    /// Starts a relay and returns the address that it listens on, to be connected to.
    fn add(
        &mut self,
        own: &Path,
        what: &'static str,
        left: &str,
        right: &str,
    ) -> Result<String, Failure> {
        let failed = |error: io::Error| Failure::io(format_args!("demo: {what}"), &error);
        let mut process = Command::new(own)
            .args(["relay", "--once", "--json", left, right])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stderr =
            process.stderr.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let mut lines = BufReader::new(stderr).lines();
        let address = loop {
            let line = match lines.next() {
                Some(line) => line.map_err(failed)?,
                None => return Err(failed(io::Error::other("the relay did not start"))),
            };
            match serde_json::from_str(&line) {
                Ok(Line::Listening { address }) => break address,
                Ok(_) => {}
                Err(_) => return Err(failed(io::Error::other(line))),
            }
        };
        let records = thread::spawn(move || {
            let mut last = None;
            for line in lines.map_while(Result::ok) {
                if let Ok(Line::Connection(record)) = serde_json::from_str(&line) {
                    last = Some(record);
                }
            }
            last
        });
        self.hops.push(Hop { what, process, records });
        Ok(address.strip_prefix("listen:").unwrap_or(&address).to_owned())
    }

    /// Waits for the relays, which end with their connection.
    fn finish(&mut self) -> Result<Vec<HopOutcome>, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut outcomes = Vec::new();
        for hop in self.hops.drain(..) {
            let Hop { what, mut process, records } = hop;
            let status = wait_until(&mut process, until)
                .map_err(|error| Failure::io(format_args!("demo: {what}"), &error))?;
            let record = records.join().ok().flatten().filter(|_| status.success());
            let record = record.ok_or_else(|| {
                Failure::io("demo", &io::Error::other(format!("{what}: the relay failed")))
            })?;
            outcomes.push(HopOutcome {
                what,
                there: record.sent,
                back: record.received,
                spliced: record.spliced,
                seconds: record.duration_s,
            });
        }
        Ok(outcomes)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for hop in &mut self.hops {
            // Ended already, or no longer wanted.
            let _ = hop.process.kill();
            let _ = hop.process.wait();
        }
    }
}

/// Waits for a process, and ends it when it takes too long.
fn wait_until(process: &mut Child, until: Instant) -> io::Result<ExitStatus> {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(process),
        rustix::process::PidfdFlags::empty(),
    )?;
    let exit = qio::watch::SharedFd::new(pidfd);
    let mut set = qio::watch::PollSet::new();
    set.add(&exit, qio::Interest::READ, qio::Interest::READ);
    set.poll(Some(until))?;
    if set.granted().is_empty() {
        process.kill()?;
    }
    process.wait()
}

/// What went out and what came back.
struct Sent {
    digest_out: String,
    digest_back: String,
    seconds: f64,
}

/// Sends so many bytes through the chain from one thread, and receives them in another.
fn send_and_receive(entrance: &Address, bytes: u64) -> Result<Sent, Failure> {
    let channel = connect(entrance, &ConnectOptions::new())?;
    let started = Instant::now();
    let writer = thread::spawn({
        let channel = Arc::clone(&channel);
        move || send(&*channel, bytes)
    });
    let digest_back = receive(&*channel).map_err(|error| Failure::io("demo: receive", &error))?;
    let digest_out = match writer.join() {
        Ok(result) => result.map_err(|error| Failure::io("demo: send", &error))?,
        Err(_) => return Err(Failure::usage("demo: the sender panicked")),
    };
    Ok(Sent { digest_out, digest_back, seconds: started.elapsed().as_secs_f64() })
}

fn send(channel: &dyn Channel, bytes: u64) -> io::Result<String> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut block = vec![0; BLOCK];
    io::Read::read_exact(&mut random, &mut block)?;
    let mut hash = Sha256::new();
    for number in 0..bytes / BLOCK as u64 {
        // No two blocks are alike, so a lost, doubled or misplaced one changes the digest.
        block[..8].copy_from_slice(&number.to_le_bytes());
        hash.update(&block);
        channel.write_all(&block)?;
    }
    channel.finish_all(None)?;
    Ok(hex(&hash.finalize()))
}

fn receive(channel: &dyn Channel) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match channel.read(&mut block)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// The result of the demonstration.
#[derive(Debug, Serialize)]
struct Outcome {
    bytes: u64,
    seconds: f64,
    digest_out: String,
    digest_back: String,
    equal: bool,
    hops: Vec<HopOutcome>,
}

#[derive(Debug, Serialize)]
struct HopOutcome {
    what: &'static str,
    there: u64,
    back: u64,
    spliced: u64,
    seconds: f64,
}

impl Outcome {
    fn new(bytes: u64, sent: Sent, hops: Vec<HopOutcome>) -> Self {
        let complete = hops.iter().all(|hop| hop.there == bytes && hop.back == bytes);
        Self {
            bytes,
            seconds: sent.seconds,
            equal: complete && sent.digest_out == sent.digest_back,
            digest_out: sent.digest_out,
            digest_back: sent.digest_back,
            hops,
        }
    }

    fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "{} of random data went through {} relays to a program and back.\n\n",
            HumanBytes(self.bytes),
            self.hops.len(),
        );
        let _ = writeln!(
            text,
            "  {:<44} {:>11} {:>11} {:>11} {:>11}",
            "relay", "there", "back", "spliced", "rate"
        );
        for hop in &self.hops {
            let rate = (hop.there + hop.back) as f64 / hop.seconds.max(1e-9);
            let _ = writeln!(
                text,
                "  {:<44} {:>11} {:>11} {:>11} {:>9}/s",
                hop.what,
                HumanBytes(hop.there).to_string(),
                HumanBytes(hop.back).to_string(),
                HumanBytes(hop.spliced).to_string(),
                DecimalBytes(rate as u64).to_string(),
            );
        }
        let verdict = if self.equal { "equal" } else { "DIFFERENT" };
        let _ = writeln!(
            text,
            "\n  sha256 sent      {}\n  sha256 received  {}\n  {verdict}, in {:.2} s\n{}",
            self.digest_out,
            self.digest_back,
            self.seconds,
            steps(&program())
        );
        text
    }
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A word as `exec:` reads it.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How to call this program: by its name where the shell finds it, else by its path.
fn program() -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|folder| folder.join("qio").is_file());
    match env::current_exe() {
        Ok(own) if !found => own.display().to_string(),
        _ => "qio".to_owned(),
    }
}

fn steps(qio: &str) -> String {
    format!(
        "
The same by hand, a line in each terminal (or all with & at the end):

  {qio} relay listen:unix:/tmp/cat.sock exec:cat
  {qio} relay listen:tcp://127.0.0.1:7003 unix:/tmp/cat.sock
  {qio} relay listen:unix:@qio-hop tcp://127.0.0.1:7003
  {qio} relay listen:tcp://127.0.0.1:7002 'exec:{qio} connect unix:@qio-hop'
  {qio} relay -v listen:tcp://127.0.0.1:7001 tcp://127.0.0.1:7002
  head -c 256M /dev/urandom | tee >(sha256sum >&2) | {qio} connect tcp://127.0.0.1:7001 | sha256sum
"
    )
}
