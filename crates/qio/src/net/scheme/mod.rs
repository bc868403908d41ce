//! The table of transports that an address can name.
//!
//! A new scheme is one file and one line in [`SCHEMES`]: parsing, help, the manual page,
//! completions and error messages all come from here.

pub(crate) mod echo;
pub(crate) mod exec;
pub(crate) mod fd;
pub(crate) mod file;
pub(crate) mod null;
pub(crate) mod pipe;
pub(crate) mod pty;
pub(crate) mod serial;
pub(crate) mod stdio;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod unix;
pub(crate) mod unix_dgram;
pub(crate) mod unix_seqpacket;
pub(crate) mod vsock;

use std::fmt;

use super::address::{Address, Form, Refusal, Role, Value};
use super::connect::{Opening, Request};
use super::listener::Bound;
use super::options::ListenOptions;
use super::reconnect::RETRY_OPTIONS;
use crate::error::Result;

/// Every scheme, in the order in which help shows them.
pub(crate) const SCHEMES: &[Scheme] = &[
    tcp::SCHEME,
    unix::SCHEME,
    vsock::SCHEME,
    udp::SCHEME,
    unix_dgram::SCHEME,
    unix_seqpacket::SCHEME,
    fd::SCHEME,
    file::SCHEME,
    exec::SCHEME,
    pty::SCHEME,
    serial::SCHEME,
    pipe::SCHEME,
    stdio::SCHEME,
    null::SCHEME,
    echo::SCHEME,
];

/// The transports that an address can name, for help and completions.
pub fn schemes() -> &'static [Scheme] {
    SCHEMES
}

/// One transport: how its addresses look, and how they are opened.
#[non_exhaustive]
pub struct Scheme {
    /// What stands in front of the colon.
    pub name: &'static str,
    /// The whole address without options: `tcp://HOST:PORT`.
    pub syntax: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// Addresses and what they mean.
    pub examples: &'static [Example],
    /// What can stand behind the `?`.
    pub options: &'static [OptionInfo],
    pub(crate) form: Form,
    /// Finds what is wrong with the target and the options, for the role of the address.
    pub(crate) check: fn(&Address) -> std::result::Result<(), Refusal>,
    /// Starts opening an address that was checked.
    pub(crate) connect: fn(&Address, &Request<'_>) -> Result<Opening>,
    pub(crate) listen: Option<Listen>,
}

/// Listens on an address that was checked.
pub(crate) type Listen = fn(&Address, &ListenOptions) -> Result<Vec<Bound>>;

/// An address and what it means.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Example {
    /// The address.
    pub address: &'static str,
    /// What it means, in a few words.
    pub meaning: &'static str,
}

/// One option of a scheme.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OptionInfo {
    /// The key.
    pub name: &'static str,
    /// What can stand behind the `=`.
    pub value: Value,
    /// What holds when the option is not given; `None` when there is no such value.
    pub default: Option<&'static str>,
    /// Where it can be given.
    pub applies: Applies,
    /// Whether it can be given more than once.
    pub repeatable: bool,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// Where an option can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applies {
    /// Everywhere.
    Everywhere,
    /// In an address to connect to.
    Connect,
    /// In an address to listen on.
    Listen,
}

impl Scheme {
    /// Whether `listen:` can stand in front of it.
    pub fn can_listen(&self) -> bool {
        self.listen.is_some()
    }

    /// Whether its channels keep messages apart ([`Features::MESSAGES`](crate::Features::MESSAGES));
    /// `None` when that shows only once one is there.
    pub fn keeps_messages(&self) -> Option<bool> {
        match self.name {
            name if name == fd::SCHEME.name => None,
            name => Some(MESSAGE_SCHEMES.contains(&name)),
        }
    }
}

const MESSAGE_SCHEMES: [&str; 3] =
    [udp::SCHEME.name, unix_dgram::SCHEME.name, unix_seqpacket::SCHEME.name];

impl fmt::Debug for Scheme {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Scheme({})", self.syntax)
    }
}

impl OptionInfo {
    /// How the option is written: `nodelay[=on|off]`.
    pub fn syntax(&self) -> String {
        let value = self.value.syntax();
        if self.value.may_be_bare() {
            format!("{}[={value}]", self.name)
        } else {
            format!("{}={value}", self.name)
        }
    }

    pub(crate) const fn new(name: &'static str, value: Value, help: &'static str) -> Self {
        let applies = Applies::Everywhere;
        Self { name, value, default: None, applies, repeatable: false, help }
    }

    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    pub(crate) const fn only(mut self, applies: Applies) -> Self {
        self.applies = applies;
        self
    }

    pub(crate) const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

impl Example {
    pub(crate) const fn new(address: &'static str, meaning: &'static str) -> Self {
        Self { address, meaning }
    }
}

impl Applies {
    pub(crate) fn to(self, role: Role) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Connect => role == Role::Connect,
            Self::Listen => role == Role::Listen,
        }
    }
}

/// How many options the parts have together.
const fn count(parts: &[&[OptionInfo]]) -> usize {
    let (mut total, mut part) = (0, 0);
    while part < parts.len() {
        total += parts[part].len();
        part += 1;
    }
    total
}

/// One list of options from several, for those that schemes share:
/// `&join::<{ count(PARTS) }>(PARTS)`.
const fn join<const N: usize>(parts: &[&[OptionInfo]]) -> [OptionInfo; N] {
    let mut all = [parts[0][0]; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let mut option = 0;
        while option < parts[part].len() {
            all[at] = parts[part][option];
            at += 1;
            option += 1;
        }
        part += 1;
    }
    all
}

/// The only word of the target as a path that the kernel can take.
fn check_path(address: &Address) -> std::result::Result<(), Refusal> {
    match address.target() {
        [path] if path.contains(&0) => Err(Refusal::new("the path contains a NUL byte")),
        [path] if !path.is_empty() => Ok(()),
        _ => Err(Refusal::new("there is no path").hint(address.scheme().syntax)),
    }
}

/// The path that [`check_path`] has seen.
fn path(address: &Address) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    let bytes = address.target().last().map_or(&[][..], Vec::as_slice);
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}
