//! The relays that are compared, and how each is started.

use std::io::{Error, Result};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bare;
use crate::front::{self, Client, Front};

/// A relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    SpliceLoop,
    CopyLoop,
    Qio,
    Socat,
    HaproxyOneThread,
    Haproxy,
    Nginx,
    Stunnel,
    Websockify,
    Websocat,
}

/// Where a relay connects to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(u16),
    Unix(PathBuf),
}

impl Peer {
    pub(crate) fn all() -> Vec<Self> {
        use Peer::*;
        vec![
            SpliceLoop,
            CopyLoop,
            Qio,
            Socat,
            HaproxyOneThread,
            Haproxy,
            Nginx,
            Stunnel,
            Websockify,
            Websocat,
        ]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SpliceLoop => "splice loop",
            Self::CopyLoop => "copy loop",
            Self::Qio => "qio",
            Self::Socat => "socat",
            Self::HaproxyOneThread => "haproxy, 1 thread",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
            Self::Websockify => "websockify",
            Self::Websocat => "websocat",
        }
    }

    /// What a client can speak with it, as far as it is compared here.
    pub(crate) fn has(self, front: Front) -> bool {
        match self {
            Self::SpliceLoop | Self::CopyLoop => front == Front::Plain,
            Self::Qio => true,
            Self::Socat | Self::HaproxyOneThread | Self::Haproxy => front != Front::WebSocket,
            Self::Nginx | Self::Stunnel => front == Front::Tls,
            Self::Websockify | Self::Websocat => front == Front::WebSocket,
        }
    }

    /// How many connections it is asked to hold at most: some take megabytes for each.
    pub(crate) fn most_connections(self) -> usize {
        match self {
            Self::Websockify | Self::Socat => 100,
            _ => usize::MAX,
        }
    }

    pub(crate) fn is_bare(self) -> bool {
        matches!(self, Self::SpliceLoop | Self::CopyLoop)
    }

    /// Whether the relay is there and relays.
    pub(crate) fn check(self, front: Front) -> std::result::Result<(), String> {
        let echo = crate::load::EchoServer::start().map_err(|error| error.to_string())?;
        let target = Target::Tcp(echo.port());
        let relay = self.start(front, &target).map_err(|error| error.to_string())?;
        relay
            .connect()
            .and_then(|mut client| crate::load::ping(&mut client, front.ping_bytes()))
            .map_err(|error| format!("it does not relay: {error}"))
    }

    /// Starts the relay in a process group of its own and waits until it listens.
    pub(crate) fn start(self, front: Front, target: &Target) -> Result<Relay> {
        self.start_under(&[], front, target)
    }

    /// Starts the relay as the argument of another command.
    pub(crate) fn start_under(
        self,
        wrapper: &[String],
        front: Front,
        target: &Target,
    ) -> Result<Relay> {
        let port = free_port()?;
        let folder = tempfile::tempdir()?;
        if front == Front::Tls {
            front::write_identity(folder.path())?;
        }
        let mut words = wrapper.to_vec();
        words.extend(self.command(front, port, target, folder.path())?);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let process = command
            .spawn()
            .map_err(|error| Error::new(error.kind(), format!("start {}: {error}", words[0])))?;
        let mut relay = Relay { process, front, port, _folder: folder };
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if is_listening(port) {
                return Ok(relay);
            }
            if let Some(status) = relay.process.try_wait()? {
                return Err(Error::other(format!("it ended at once with {status}")));
            }
            if Instant::now() > until {
                return Err(Error::other("it did not listen within 5 s"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command that connects once and prints what comes; `None` when there is none to compare.
    pub(crate) fn one_shot(self, port: u16) -> Result<Option<Vec<String>>> {
        let this = std::env::current_exe()?.to_string_lossy().into_owned();
        Ok(match self {
            Self::CopyLoop => Some(words(&[&this, bare::SUBCOMMAND, "connect", &port.to_string()])),
            Self::Qio => Some(words(&[&qio(), "connect", &format!("tcp://127.0.0.1:{port}")])),
            Self::Socat => Some(words(&["socat", "-", &format!("TCP:127.0.0.1:{port}")])),
            _ => None,
        })
    }

    fn command(
        self,
        front: Front,
        port: u16,
        target: &Target,
        folder: &Path,
    ) -> Result<Vec<String>> {
        let this = std::env::current_exe()?.to_string_lossy().into_owned();
        let plain = match target {
            Target::Tcp(port) => format!("tcp:{port}"),
            Target::Unix(path) => format!("unix:{}", path.display()),
        };
        let at = port.to_string();
        let host = match target {
            Target::Tcp(port) => format!("127.0.0.1:{port}"),
            Target::Unix(path) => format!("unix@{}", path.display()),
        };
        let is_tls = front == Front::Tls;
        let in_folder = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let (certificate, key) = (in_folder("cert.pem"), in_folder("key.pem"));
        Ok(match self {
            Self::SpliceLoop => words(&[&this, bare::SUBCOMMAND, "splice", &at, &plain]),
            Self::CopyLoop => words(&[&this, bare::SUBCOMMAND, "copy", &at, &plain]),
            Self::Qio => {
                let right = match target {
                    Target::Tcp(port) => format!("tcp://127.0.0.1:{port}"),
                    Target::Unix(path) => format!("unix:{}", path.display()),
                };
                let left = match front {
                    Front::Plain => format!("listen:tcp://127.0.0.1:{port}"),
                    Front::Tls => {
                        format!("listen:tls+tcp://127.0.0.1:{port}?cert={certificate}&key={key}")
                    }
                    Front::WebSocket => format!("listen:ws://127.0.0.1:{port}"),
                };
                words(&[&qio(), "relay", "--max-connections", "4000", &left, &right])
            }
            Self::Socat => {
                let right = match target {
                    Target::Tcp(port) => format!("TCP:127.0.0.1:{port}"),
                    Target::Unix(path) => format!("UNIX-CONNECT:{}", path.display()),
                };
                let options = "bind=127.0.0.1,fork,reuseaddr,backlog=4096";
                let left = if is_tls {
                    format!("OPENSSL-LISTEN:{port},{options},cert={certificate},key={key},verify=0")
                } else {
                    format!("TCP-LISTEN:{port},{options}")
                };
                words(&["socat", &left, &right])
            }
            Self::HaproxyOneThread | Self::Haproxy => {
                let file = folder.join("haproxy.cfg");
                let threads = if self == Self::Haproxy { "" } else { "    nbthread 1\n" };
                let tls = match front {
                    Front::Tls => {
                        format!(" ssl crt {} ssl-min-ver TLSv1.3", in_folder("both.pem"))
                    }
                    _ => String::new(),
                };
                std::fs::write(
                    &file,
                    format!(
                        "global\n    maxconn 4000\n{threads}defaults\n    mode tcp\n    \
                         option splice-auto\n    timeout connect 5s\n    timeout client 60s\n    \
                         timeout server 60s\nlisten relay\n    bind 127.0.0.1:{port}{tls}\n    \
                         server target {host}\n"
                    ),
                )?;
                words(&["haproxy", "-db", "-q", "-f", &file.to_string_lossy()])
            }
            Self::Nginx => {
                let file = folder.join("nginx.conf");
                std::fs::write(
                    &file,
                    format!(
                        "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 1;\n\
                         worker_rlimit_nofile 65536;\npid {};\nerror_log /dev/null;\n\
                         events {{ worker_connections 16384; }}\nstream {{\n    server {{\n        \
                         listen 127.0.0.1:{port} ssl backlog=4096;\n        \
                         ssl_protocols TLSv1.3;\n        ssl_certificate {certificate};\n        \
                         ssl_certificate_key {key};\n        tcp_nodelay on;\n        \
                         proxy_pass {host};\n    }}\n}}\n",
                        in_folder("nginx.pid")
                    ),
                )?;
                words(&["nginx", "-p", &in_folder(""), "-c", &file.to_string_lossy()])
            }
            Self::Stunnel => {
                let file = folder.join("stunnel.conf");
                std::fs::write(
                    &file,
                    format!(
                        "foreground = yes\npid =\nsyslog = no\nsocket = l:TCP_NODELAY=1\n\
                         socket = r:TCP_NODELAY=1\n[relay]\naccept = 127.0.0.1:{port}\n\
                         connect = {host}\ncert = {certificate}\nkey = {key}\n\
                         sslVersionMin = TLSv1.3\n"
                    ),
                )?;
                words(&["stunnel", &file.to_string_lossy()])
            }
            Self::Websockify => words(&["websockify", &format!("127.0.0.1:{port}"), &host]),
            Self::Websocat => words(&[
                &websocat(),
                "--binary",
                &format!("ws-l:127.0.0.1:{port}"),
                &format!("tcp:{host}"),
            ]),
        })
    }
}

/// A running relay; ended when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Child,
    front: Front,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Relay {
    /// The process, and the number of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A connection on which plain bytes can be sent.
    pub(crate) fn connect(&self) -> Result<Client> {
        self.front.greet(self.connect_below()?)
    }

    fn connect_below(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// Asks everything but the first process of the group to end, and waits for that one.
    pub(crate) fn end_wrapped(&mut self) -> Result<()> {
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            for pid in crate::measure::group(self.pid()) {
                if pid != self.pid()
                    && let Some(pid) = rustix::process::Pid::from_raw(pid as i32)
                {
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                if self.process.try_wait()?.is_some() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Err(Error::other("it does not end"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The group is ours: its leader was started here and is not reaped before the next line.
        if let Ok(None) = self.process.try_wait()
            && let Some(group) = rustix::process::Pid::from_raw(self.pid() as i32)
        {
            let signal = rustix::process::Signal::KILL;
            let _ = rustix::process::kill_process_group(group, signal);
        }
        let _ = self.process.wait();
    }
}

fn qio() -> String {
    std::env::var("QIO_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_qio").to_owned())
}

/// The one that `cargo install --root target/ci-tools websocat` makes, else that of the system.
fn websocat() -> String {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ci-tools/bin/websocat");
    if built.exists() { built.to_string_lossy().into_owned() } else { "websocat".to_owned() }
}

/// Where Debian's package libnginx-mod-stream puts it.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Looks without connecting, so that the relay has not served anyone before it is measured.
fn is_listening(port: u16) -> bool {
    let wanted = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&wanted) && fields.nth(1) == Some("0A")
    })
}
