//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use qio::Address;
use qio::layer::Framing;
use qio::net::Network;

use crate::admission;
use crate::exit::Failure;

/// Connects any address to any address.
#[derive(Debug, Parser)]
#[command(
    name = "qio",
    version,
    about = "Connects any address to any address",
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:
  qio relay listen:tcp://127.0.0.1:8080 unix:/run/app.sock
  qio connect tcp://db.example:5432 < request > reply

`qio help addresses` explains addresses, `qio COMMAND --help` shows examples."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Join two addresses: one pair, or each client of a listener
    #[command(after_help = "Examples:
  A web server on a Unix socket becomes reachable on a TCP port:
    qio relay listen:tcp://127.0.0.1:8080 unix:/run/app.sock
  Every client of a Unix socket talks to a program of its own:
    qio relay listen:unix:/run/sort.sock 'exec:sort -u'
  Two servers stay joined, whichever of them is restarted:
    qio relay 'unix:/run/vm/serial.sock?reconnect-ms=1000' tcp://console.example:7001
  Sockets of a systemd unit, by their FileDescriptorName= (docs/systemd.md):
    qio relay listen:fd:web tcp://127.0.0.1:8080
  Browsers reach a TCP server through a WebSocket, others with TLS:
    qio relay listen:ws://127.0.0.1:8080/chat tcp://127.0.0.1:7001
    qio relay 'listen:tls+tcp://[::]:7443?cert=cert.pem&key=key.pem' tcp://127.0.0.1:7001
  A desktop in a browser, with noVNC from the same port (http://127.0.0.1:6080/vnc.html):
    qio relay 'listen:ws://127.0.0.1:6080?web=/usr/share/novnc' tcp://127.0.0.1:5901
  Only this user and this network may connect:
    qio relay --allow-uid \"$USER\" listen:unix:/run/db.sock tcp://127.0.0.1:5432
    qio relay --allow-cidr 192.0.2.0/24 listen:tcp://0.0.0.0:5432 unix:/run/db.sock
  A name server for hosts that cannot reach one over UDP (DNS over TCP, RFC 1035 4.2.2):
    qio relay --framing u16 listen:udp://127.0.0.1:53 tcp://192.0.2.1:53
  One transfer, with a line about it at the end:
    qio relay -v --once listen:tcp://0.0.0.0:9000 'file:/tmp/upload?write&create&truncate'

Without -v or --json it is silent unless something goes wrong. SIGTERM or SIGINT stops
accepting and lets connections end for --drain; a second signal ends at once. SIGUSR1 prints
the live connections.")]
    Relay(RelayArgs),

    /// Join standard input and output to an address
    #[command(after_help = "Examples:
  Ask a server and print the whole answer:
    printf 'GET / HTTP/1.0\\r\\n\\r\\n' | qio connect tcp://127.0.0.1:80
  Talk to a WebSocket over TLS:
    qio connect wss://chat.example/room
  Send a file over a Unix socket, waiting for the server to come up:
    qio connect --retry 5 unix:/run/upload.sock < file
  Run a program behind pipes; its exit status becomes that of qio:
    printf abc | qio connect \"exec:sh -c 'cat; echo done'\"
  Sit in front of a serial line, or of a program on a terminal of its own:
    qio connect 'serial:/dev/ttyUSB0?baud=9600'
    qio connect pty:bash

At a terminal, pty: and serial: get every key as it is typed, and pty: has the size of the
window. ^] leaves then (see --escape): a program on a terminal is hung up.")]
    Connect(ConnectArgs),

    /// Join standard input and output to the first client of an address
    #[command(after_help = "Examples:
  Receive a file:
    qio listen tcp://127.0.0.1:7001 > file
  Talk to whoever connects:
    qio listen unix:/tmp/talk.sock
  Receive from another machine, giving up after a minute without a client:
    qio listen --accept-timeout 60 tcp://0.0.0.0:7001 > backup.tar")]
    Listen(ListenArgs),

    /// Open an address step by step, and show what was negotiated
    #[command(after_help = "Examples:
  Which certificate does the server show, and how long is it valid?
    qio probe tls+tcp://host.example:443
  Why can the WebSocket not be had?
    qio probe wss://chat.example/room
  Is a server there within two seconds, for a program?
    qio probe --json --timeout 2s unix:/run/app.sock

It connects, goes through every layer, prints what was found and leaves; nothing else is sent. What
fails is shown as far as it came, with what it means and what helps. The status is that of `qio
connect` (`qio help exit-codes`).

--json prints one object; further names may be added:
  address, ok, total_ms
  prepare     null, or: ms (reading what the layers need from files)
  resolve     null, or: ok, ms, addresses
  connect     null, or: ok, ms, local, peer, credentials (Unix sockets: pid, uid, gid), failed (a
              list of addresses that were called in vain: peer, ms, error)
  layers      a list, the one next to the transport first: layer, ok, ms, and one of:
    tls         version, suite, alpn, sni, resumed, trusted_by (system, authority, pin, nobody, or
                null: not trusted), revocation_checked, client_certificate (not-asked, none,
                shown), chain (as the peer sent it: subject, issuer, names, not_before, not_after,
                days_left, key, signature, sha256)
    websocket   request (target, host, origin, protocols, headers), status, reason, headers (name,
                value), protocol, body (the beginning of that of a refusal)
  error       null, or: step (prepare, resolve, connect, or a layer), kind, message, diagnosis,
              advice
Kinds: usage, name, refused, unreachable, not-found, permission, timeout, closed, other; of TLS:
expired, not-yet-valid, name-mismatch, unknown-authority, self-signed, revoked,
old-revocation-list, certificate, pin, denied, not-tls, version, incompatible, client-certificate,
alpn, sni, alert, protocol; of WebSocket: http-status, not-http, tls (where plain text was
expected), protocol.")]
    Probe(ProbeArgs),

    /// Show the main job: data through a chain of relays and back
    #[command(after_help = "Examples:
  qio demo
  qio demo --size 1024
  qio demo --size 16 --json")]
    Demo(DemoArgs),

    /// Show what a tap has recorded
    #[command(after_help = "Examples:
  What goes through a relay is recorded in both forms, and shown:
    qio relay 'listen:tap+tls+tap+tcp://:7443?file=plain&tap2.file=wire&self-signed' echo:
    qio tap show plain
    qio tap show --hex wire | less
  The recording of another machine:
    ssh gateway cat /var/tmp/recording | qio tap show -

#N is the number of the connection in the recording.")]
    Tap {
        #[command(subcommand)]
        command: TapCommand,
    },

    /// Explain a topic: addresses, exit-codes, or a command
    #[command(after_help = "Examples:
  qio help addresses
  qio help addresses tcp
  qio help relay")]
    Help(HelpArgs),

    /// Print shell completions
    #[command(after_help = "Examples:
  qio completions bash > /etc/bash_completion.d/qio
  qio completions zsh > ~/.zfunc/_qio
  qio completions fish > ~/.config/fish/completions/qio.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Print the manual page (roff)
    #[command(after_help = "Examples:
  qio man | man -l -
  qio man > /usr/local/share/man/man1/qio.1
  qio man | gzip > qio.1.gz")]
    Man,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TapCommand {
    /// Print a recording: > is what was written, < what was read
    Show {
        /// The recording; - is standard input
        file: PathBuf,
        /// Show data as numbers, 16 bytes a line
        #[arg(long)]
        hex: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// One side; listen:ADDRESS accepts clients
    #[arg(value_parser = AddressParser)]
    pub(crate) left: Address,
    /// The other side, opened for each client
    #[arg(value_parser = AddressParser)]
    pub(crate) right: Address,
    /// Serve one client, then end with its outcome
    #[arg(long)]
    pub(crate) once: bool,
    /// Serve at most N clients at a time, fewer where the limit of open files demands it; further
    /// ones wait in the backlog
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: u32,
    /// Use N threads, each with an event loop of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// After SIGTERM or SIGINT, let connections end for TIME
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) admission: AdmissionArgs,
    #[command(flatten)]
    pub(crate) handshakes: HandshakeArgs,
    #[command(flatten)]
    pub(crate) opening: OpeningArgs,
    #[command(flatten)]
    pub(crate) joining: JoiningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Where to connect
    #[arg(value_parser = AddressParser)]
    pub(crate) address: Address,
    /// Send every key as it is, also ^C and ^D [default: at a terminal, with pty: and serial:]
    #[arg(long, conflicts_with = "no_raw")]
    pub(crate) raw: bool,
    /// Leave this terminal as it is: it edits lines, and ^C ends qio
    #[arg(long)]
    pub(crate) no_raw: bool,
    /// The key that leaves when every key is sent: a character, ^ and a letter, or none
    #[arg(long, value_name = "CHAR", default_value = "^]", value_parser = escape)]
    pub(crate) escape: Escape,
    #[command(flatten)]
    pub(crate) opening: OpeningArgs,
    #[command(flatten)]
    pub(crate) joining: JoiningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Where to listen; the prefix listen: may be left out
    #[arg(value_parser = ListenAddressParser)]
    pub(crate) address: Address,
    /// Give up when no client came for TIME
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) accept_timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) admission: AdmissionArgs,
    #[command(flatten)]
    pub(crate) handshakes: HandshakeArgs,
    #[command(flatten)]
    pub(crate) joining: JoiningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// What to open
    #[arg(value_parser = AddressParser)]
    pub(crate) address: Address,
    /// Print what was found as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up after TIME
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How much data goes each way, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) size: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HelpArgs {
    /// addresses, exit-codes, or a command
    pub(crate) topic: Option<String>,
    /// With addresses: one scheme
    pub(crate) detail: Option<String>,
}

/// Who may come in: everybody unless something is given.
#[derive(Debug, Args)]
pub(crate) struct AdmissionArgs {
    /// Let in only clients of this user, by number or name, on Unix sockets; repeatable
    #[arg(long, value_name = "USER", value_parser = admission::user)]
    pub(crate) allow_uid: Vec<u32>,
    /// Let in only clients of this group (or of an --allow-uid), by number or name, on Unix sockets;
    /// repeatable
    #[arg(long, value_name = "GROUP", value_parser = admission::group)]
    pub(crate) allow_gid: Vec<u32>,
    /// Let in only clients of this network, as 192.0.2.0/24 or ::1, on TCP and
    /// UDP sockets; repeatable
    #[arg(long, value_name = "NET", value_parser = admission::network)]
    pub(crate) allow_cidr: Vec<Network>,
}

/// What clients go through before they are served.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HandshakeArgs {
    /// Close clients whose TLS and WebSocket handshakes take longer than TIME
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) handshake_timeout: Duration,
    /// Make a certificate in memory for tls, and print the address with its pin for clients
    #[arg(long)]
    pub(crate) self_signed: bool,
}

impl HandshakeArgs {
    /// Has the addresses that are listened on make their certificates, if that is asked for.
    pub(crate) fn apply<const N: usize>(self, addresses: [&mut Address; N]) -> Result<(), Failure> {
        if !self.self_signed {
            return Ok(());
        }
        let mut applied = false;
        for address in addresses.into_iter().filter(|address| address.is_listening()) {
            if let Ok(with_it) = address.clone().with_option("tls.self-signed", "on") {
                (*address, applied) = (with_it, true);
            }
        }
        match applied {
            true => Ok(()),
            false => Err(Failure::usage("--self-signed: nothing is listened on with tls+")),
        }
    }
}

impl AdmissionArgs {
    /// One of the flags that were given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        self.of_users().or(self.of_networks())
    }

    /// One of those that are for Unix sockets.
    pub(crate) fn of_users(&self) -> Option<&'static str> {
        match (self.allow_uid.is_empty(), self.allow_gid.is_empty()) {
            (false, _) => Some("--allow-uid"),
            (_, false) => Some("--allow-gid"),
            _ => None,
        }
    }

    /// The one that is for IP sockets.
    pub(crate) fn of_networks(&self) -> Option<&'static str> {
        (!self.allow_cidr.is_empty()).then_some("--allow-cidr")
    }
}

/// How an address is opened.
#[derive(Debug, Args)]
pub(crate) struct OpeningArgs {
    /// Give up connecting after TIME
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// Try again up to N times, after 0.1 s and then twice as long each time, up to 5 s, when an
    /// address cannot be opened for now and does not say retry= itself
    #[arg(long, value_name = "N")]
    pub(crate) retry: Option<u32>,
}

/// How two channels are joined.
#[derive(Clone, Debug, Args)]
pub(crate) struct JoiningArgs {
    /// End a connection when nothing moved for TIME, or forever [default: forever, with a
    /// listener for datagrams 2m]
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub(crate) idle_timeout: Option<Limit>,
    /// How long one direction may be silent after the other has ended: TIME, or forever
    /// [default: 10m, and 1s for two addresses that are joined again (reconnect-ms)]
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub(crate) half_close: Option<Limit>,
    /// Send on file descriptors that arrive on Unix sockets
    #[arg(long)]
    pub(crate) pass_fds: bool,
    /// How messages are told apart in the stream of one side, where the other keeps them apart:
    /// u16 or u32 (a length of two or four bytes, the high one first), or line
    #[arg(long, value_name = "FRAMING", value_parser = framing)]
    pub(crate) framing: Option<Framing>,
    /// Never move data with splice(2)
    #[arg(long)]
    pub(crate) no_splice: bool,
}

/// What is said on standard error.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Say a line about each connection on standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Say the same as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress line on a terminal
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// A time that may be endless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Duration>);

/// A key that leaves, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Escape(pub(crate) Option<u8>);

fn escape(text: &str) -> Result<Escape, String> {
    match *text.as_bytes() {
        [key @ 0..0x80] => Ok(Escape(Some(key))),
        // What a terminal sends for Control and that key: ^A is 1, ^] is 29, ^? is 127.
        [b'^', key @ b'?'..=b'_'] => Ok(Escape(Some(key ^ 0x40))),
        [b'^', key @ b'a'..=b'z'] => Ok(Escape(Some(key - 0x60))),
        _ if text == "none" => Ok(Escape(None)),
        _ => Err("not a character, ^ and a letter like ^], or none".to_owned()),
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    if text == "forever" { Ok(Limit(None)) } else { duration(text).map(|time| Limit(Some(time))) }
}

fn framing(text: &str) -> Result<Framing, String> {
    text.parse()
}

fn duration(text: &str) -> Result<Duration, String> {
    qio::net::parse_duration(text).map_err(|error| error.to_string())
}

/// Parses an address, which may hold bytes that are no UTF-8.
#[derive(Clone)]
struct AddressParser;

impl TypedValueParser for AddressParser {
    type Value = Address;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Address, clap::Error> {
        Address::parse_os(value).map_err(|error| usage(command, &error))
    }
}

/// The same for a command that listens, whatever the text says.
#[derive(Clone)]
struct ListenAddressParser;

impl TypedValueParser for ListenAddressParser {
    type Value = Address;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Address, clap::Error> {
        if value.as_encoded_bytes().starts_with(b"listen:") {
            return AddressParser.parse_ref(command, arg, value);
        }
        let mut text = OsString::from("listen:");
        text.push(value);
        AddressParser.parse_ref(command, arg, &text)
    }
}

/// A bad address: one line, status 2.
fn usage(command: &clap::Command, error: &qio::Error) -> clap::Error {
    let mut usage = clap::Error::new(ErrorKind::ValueValidation).with_cmd(command);
    let report = error.report().to_string();
    usage.insert(ContextKind::Custom, ContextValue::String(report));
    usage
}

/// The line of a bad address, if that is what the command line failed for.
pub(crate) fn address_error(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::Custom) {
        Some(ContextValue::String(report)) => Some(report),
        _ => None,
    }
}

/// What is wrong with the command line, without the usage and the hint that clap prints below it.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let tip = paragraphs.find_map(|paragraph| Some(paragraph.strip_prefix("tip: ")?.to_owned()));
    format!("{what} ({})", tip.as_deref().unwrap_or("try --help"))
}
