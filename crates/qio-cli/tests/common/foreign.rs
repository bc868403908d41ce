//! Programs of others, and the bytes that go through them and qio.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qio_testkit::Job;
use qio_testkit::certs::{Authority, Wanted};

use super::{PATIENCE, Running, is_installed, noise, qio};

/// What goes each way: many records and frames, and more than any buffer on the way holds.
pub const VOLUME: usize = 4 << 20;

/// Certificates in a folder, in QEMU's layout.
#[derive(Debug)]
pub struct Credentials(tempfile::TempDir);

impl Credentials {
    /// An authority, and what it signed: `server-cert.pem` for localhost, `client-cert.pem` for
    /// Ann, `other-cert.pem` for another name; `stranger-*` and `stranger-ca-cert.pem` have nothing
    /// to do with it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let authority = Authority::new("authority");
        let stranger = Authority::new("stranger");
        write("ca-cert.pem", &authority.certificate());
        write("stranger-ca-cert.pem", &stranger.certificate());
        let localhost: &[&str] = &["localhost", "127.0.0.1"];
        for (role, authority, name, names) in [
            ("server", &authority, "server", localhost),
            ("client", &authority, "ann", &["ann.example"]),
            ("other", &authority, "other", &["other.example"]),
            ("stranger", &stranger, "stranger", localhost),
        ] {
            let issued = authority.issue(Wanted::new(name, names));
            write(&format!("{role}-cert.pem"), &issued.certificate);
            write(&format!("{role}-key.pem"), &issued.key);
        }
        Self(folder)
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> String {
        self.folder().join(name).display().to_string()
    }

    /// The options of an address for an identity.
    pub fn identity(&self, role: &str) -> String {
        let [cert, key] = ["cert", "key"].map(|part| self.path(&format!("{role}-{part}.pem")));
        format!("cert={cert}&key={key}")
    }

    /// The option of an address for whom to believe.
    pub fn ca(&self) -> String {
        format!("ca={}", self.path("ca-cert.pem"))
    }
}

/// One end of a conversation: a socket, or the standard streams of a program.
pub struct End {
    reader: Box<dyn Read + Send>,
    /// Without one, this end is finished.
    writer: Option<Box<dyn Write + Send>>,
}

impl End {
    /// The standard streams of a program that was started with pipes.
    pub fn of(program: &mut Running) -> Self {
        let child = program.child();
        let reader = child.stdout.take().expect("standard output is a pipe");
        let writer = child.stdin.take().expect("standard input is a pipe");
        Self { reader: Box::new(reader), writer: Some(Box::new(writer)) }
    }

    /// A socket, whose end is a half-close.
    pub fn socket(stream: TcpStream) -> Self {
        struct HalfClosing(TcpStream);
        impl Write for HalfClosing {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        impl Drop for HalfClosing {
            fn drop(&mut self) {
                let _ = self.0.shutdown(Shutdown::Write);
            }
        }
        let writer = HalfClosing(stream.try_clone().unwrap());
        Self { reader: Box::new(stream), writer: Some(Box::new(writer)) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let writer = self.writer.as_mut().expect("this end is not finished");
        writer.write_all(bytes).unwrap();
        writer.flush().unwrap();
    }

    /// Reads so many bytes, bounded in time.
    pub fn receive(self, count: usize) -> (Self, Vec<u8>) {
        Job::start(move || {
            let Self { mut reader, writer } = self;
            let mut bytes = vec![0; count];
            reader.read_exact(&mut bytes).unwrap();
            (Self { reader, writer }, bytes)
        })
        .finish()
    }

    /// Sends these bytes, and reads as many at the same time, which must be the same.
    pub fn exchange(self, bytes: &[u8]) -> Self {
        let Self { mut reader, writer } = self;
        let (sent, expected) = (bytes.to_vec(), bytes.to_vec());
        let reading = Job::start(move || {
            let mut got = vec![0; expected.len()];
            reader.read_exact(&mut got).unwrap();
            assert!(got == expected, "other bytes come back than were sent");
            reader
        });
        let writing = Job::start(move || {
            let mut writer = writer.expect("this end is not finished");
            writer.write_all(&sent).unwrap();
            writer.flush().unwrap();
            writer
        });
        let (reader, writer) = (reading.finish(), writing.finish());
        Self { reader, writer: Some(writer) }
    }

    /// Reads exactly these bytes.
    pub fn expect(self, text: &str) -> Self {
        let (end, bytes) = self.receive(text.len());
        assert_eq!(String::from_utf8_lossy(&bytes), text);
        end
    }

    /// Reads until there is this text, and gives what was before it too.
    pub fn until(self, text: &str) -> (Self, String) {
        let text = text.to_owned();
        Job::start(move || {
            let Self { mut reader, writer } = self;
            let mut bytes = Vec::new();
            while !bytes.ends_with(text.as_bytes()) {
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                bytes.extend(byte);
            }
            (Self { reader, writer }, String::from_utf8_lossy(&bytes).into_owned())
        })
        .finish()
    }

    /// Says that nothing more is sent.
    pub fn finish(&mut self) {
        self.writer = None;
    }

    /// What comes until the end, bounded in time; everything ends.
    pub fn rest(mut self) -> Vec<u8> {
        Job::start(move || {
            let mut bytes = Vec::new();
            // A socket whose program was killed may be reset.
            let _ = self.reader.read_to_end(&mut bytes);
            bytes
        })
        .finish()
    }
}

/// Moves [`VOLUME`] bytes each way at the same time, and compares them.
pub fn both_ways(left: End, right: End) -> (End, End) {
    let run = |end: End, own: u64, other: u64| {
        let End { mut reader, writer } = end;
        let reading = Job::start(move || {
            let mut bytes = vec![0; VOLUME];
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes == noise(VOLUME, other), "other bytes arrive than were sent");
            reader
        });
        let writing = Job::start(move || {
            let mut writer = writer.expect("this end is not finished");
            writer.write_all(&noise(VOLUME, own)).unwrap();
            writer.flush().unwrap();
            writer
        });
        (reading, writing)
    };
    let jobs = [run(left, 1, 2), run(right, 2, 1)];
    let [left, right] = jobs.map(|(reading, writing)| {
        let (reader, writer) = (reading.finish(), writing.finish());
        End { reader, writer: Some(writer) }
    });
    (left, right)
}

/// A relay of one connection from a listener of qio to a port of this test.
pub struct Served {
    pub relay: Running,
    pub address: String,
    target: TcpListener,
}

impl Served {
    pub fn start(listen: &str, flags: &[&str]) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("tcp://{}", target.local_addr().unwrap());
        let mut args = flags.to_vec();
        args.extend([listen, to.as_str()]);
        let (relay, address) = Running::relay(&args);
        Self { relay, address, target }
    }

    /// The port of the listener.
    pub fn port(&self) -> u16 {
        let (_, rest) = self.address.split_once("127.0.0.1:").expect("a port of this machine");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// What the relay connects to for the next client.
    pub fn next(&self) -> End {
        let target = self.target.try_clone().unwrap();
        let (stream, _) = Job::start(move || target.accept().unwrap()).finish();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        End::socket(stream)
    }
}

/// Starts a program with pipes.
pub fn piped(command: &mut Command) -> Running {
    Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// `qio connect` with pipes.
pub fn connected(address: &str) -> Running {
    piped(&mut qio(["connect", address]))
}

/// A port that was free a moment ago, for programs that do not say which one they took.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where `.ci/run` installs what comes from other registries: `target/ci-tools`.
fn tools() -> PathBuf {
    match std::env::var_os("QIO_CI_TOOLS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("ci-tools"),
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

/// A Python script of `tests/foreign`, if its module is installed; says so when not.
pub fn python(module: &str, name: &str) -> Option<Command> {
    let folder = tools().join("python");
    let python = folder.join("bin/python");
    let found = python.is_file()
        && fs::read_dir(folder.join("lib")).is_ok_and(|mut versions| {
            versions.any(|version| {
                version.is_ok_and(|it| it.path().join("site-packages").join(module).exists())
            })
        });
    if !found {
        println!("skipped: Python's {module} is not installed in {}", folder.display());
        return None;
    }
    let mut command = Command::new(python);
    command.arg(script(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// A script of `tests/foreign` for Node with the package `ws`, if it is installed; says so when
/// not.
pub fn node(name: &str) -> Option<Command> {
    let modules = tools().join("node/node_modules");
    if !is_installed("node") {
        return None;
    }
    if !modules.join("ws").is_dir() {
        println!("skipped: Node's ws is not installed in {}", modules.display());
        return None;
    }
    let mut command = Command::new("node");
    command.arg(script(name)).env("NODE_PATH", modules);
    Some(command)
}
