//! Addresses: what to connect to or listen on, as a text and as a value.

mod escape;
mod form;
mod parse;
mod part;
mod qemu;
mod refusal;
mod value;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

pub(crate) use form::Form;
pub(crate) use part::Part;
pub(crate) use refusal::{Refusal, suggestion};
pub(crate) use value::parse_count;
pub use value::{BadValue, Value, parse_duration, parse_rate, parse_size};

use self::escape::encode;
use super::layer::{Layer, SHORTHANDS, Shorthand};
use super::scheme::{Applies, OptionInfo, SCHEMES, Scheme, exec, fd, file, null, pipe, stdio};
use super::scheme::{echo, tcp, udp, unix, vsock};
use crate::error::{Error, Result};

/// What to connect to or listen on.
///
/// As a text: `[listen:][layer+…]transport:target[?key=value&…]`, where `//` may follow the
/// colon. [`schemes`](super::schemes) lists the transports with their options. The first `?` that
/// is neither escaped nor (in `exec:`) quoted starts the options; `%XX` is a byte in targets and
/// values, which need not be UTF-8. The leftmost layer is nearest to the user; a key goes to the
/// outermost part that knows it, unless it names the part: `tls.cert`, `tls2.cert` of the second
/// from the left. `Display` writes the text that parses to the same address.
///
/// | Text | What it is |
/// |---|---|
/// | `tcp://db.example:5432` | a TCP connection |
/// | `listen:tcp://[::]:7001?backlog=16` | a TCP listener on all interfaces |
/// | `unix:/run/app.sock`, `unix:@name` | a Unix socket, by path or by abstract name |
/// | `vsock:host:1024`, `listen:vsock:1024` | a stream between virtual machine and host |
/// | `udp://ns.example:53`, `unix-dgram:/dev/log`, `unix-seqpacket:@name` | sockets that keep messages apart |
/// | `exec:grep -n "a?b"` | a program, started without a shell |
/// | `pty:bash`, `serial:/dev/ttyS0` | a program on a terminal of its own, a serial line |
/// | `file:log?append`, `pipe:/run/fifo` | a file, a FIFO |
/// | `fd:3`, `fd:web`, `-` | an inherited descriptor by number or name, the standard streams |
/// | `null:`, `echo:` | nothing, and everything that was written |
/// | `tls+tcp://db.example:5432`, `listen:tls+unix:/run/x?cert=FILE&key=FILE` | TLS over it |
/// | `ws://host:8080/path`, `wss://host/path` | WebSocket: `ws+tcp`, `ws+tls+tcp` |
/// | `throttle+tcp://host:80?rate=1M`, `tap+unix:/run/x?file=FILE`, `zstd+tcp://host:7001` | a rate limit, a recording, compression |
/// | `ws+tls+unix:/run/x.sock?path=/x` | any [layers](super::layers) over any transport |
/// | `qemu:db.example:5432,ipv4` | what QEMU means by the text, see [`parse_qemu`](Self::parse_qemu) |
///
/// ```
/// use qio::net::Address;
///
/// # fn main() -> qio::Result<()> {
/// let address: Address = "listen:tcp://127.0.0.1:7001?nodelay=off".parse()?;
/// assert!(address.is_listening());
/// let same = Address::tcp("127.0.0.1", 7001).listening().with_option("nodelay", "off")?;
/// assert_eq!(address, same);
/// assert_eq!(same.to_string(), "listen:tcp://127.0.0.1:7001?nodelay=off");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "SocketAddress")]
#[derive(Clone)]
pub struct Address {
    role: Role,
    /// Outermost first.
    layers: Vec<&'static Layer>,
    scheme: &'static Scheme,
    /// The decoded words of the target, see [`Form`].
    target: Vec<Vec<u8>>,
    settings: Vec<Setting>,
}

/// What is done with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Connect,
    Listen,
}

/// An option that was given.
#[derive(Clone)]
struct Setting {
    /// The layer it is for, or the number of layers: the transport.
    part: usize,
    option: &'static OptionInfo,
    /// `None` is the bare key.
    value: Option<Vec<u8>>,
}

/// Making addresses.
///
/// What is wrong with a host or a path shows when the address is used, as it does in a text.
impl Address {
    /// Reads an address that need not be UTF-8: a command-line argument with a path in it.
    ///
    /// # Errors
    ///
    /// [`Class::Usage`](crate::error::Class::Usage), with what is wrong and what would be right.
    pub fn parse_os(text: &OsStr) -> Result<Self> {
        parse::parse(text.as_bytes())
            .map_err(|refusal| refusal.of("parse", &text.to_string_lossy()))
    }

    /// Reads an address as QEMU writes it: `host:port,ipv4=on`, `[::1]:port`, `unix:path`,
    /// `vsock:cid:port`, `fd:3`, `tcp:host:port,server=on,wait=off`,
    /// `socket,id=c0,path=/run/x,server=on`.
    ///
    /// The address says in options what QEMU means without saying it: no keep-alive probes, no
    /// `TCP_NODELAY`, and all interfaces for a listener without a host (`[::]`, which is IPv4 too;
    /// `0.0.0.0` with `ipv4=on`). Without `server=on` it is one to connect to; the text
    /// `listen:qemu:host:port` parses to one to listen on. `id` and `wait` are about QEMU itself
    /// and are left out.
    ///
    /// ```
    /// use qio::Address;
    ///
    /// # fn main() -> qio::Result<()> {
    /// let address = Address::parse_qemu("db.example:5432,ipv4")?;
    /// let text = "tcp://db.example:5432?ipv4=on&nodelay=off&keep-alive=off";
    /// assert_eq!(address.to_string(), text);
    /// assert_eq!("qemu:db.example:5432,ipv4".parse::<Address>()?, address);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Class::Usage`](crate::error::Class::Usage), with what is wrong; also for an option of
    /// QEMU's that qio has nothing for (`tls-creds`, `telnet=on`), which it names.
    #[doc(alias = "socket_parse")]
    #[doc(alias = "inet_parse")]
    pub fn parse_qemu(text: impl AsRef<OsStr>) -> Result<Self> {
        let text = text.as_ref();
        qemu::parse(Role::Connect, text.as_bytes())
            .map_err(|refusal| refusal.of("parse", &format!("qemu:{}", text.to_string_lossy())))
    }

    /// A TCP port of a host: a name, or a numeric address (an IPv6 one without brackets).
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(&tcp::SCHEME, vec![host.into().into_bytes(), port.to_string().into_bytes()])
    }

    /// A UDP port of a host, which is given as to [`tcp`](Address::tcp).
    pub fn udp(host: impl Into<String>, port: u16) -> Self {
        Self::new(&udp::SCHEME, vec![host.into().into_bytes(), port.to_string().into_bytes()])
    }

    /// A Unix socket in the file system.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(&unix::SCHEME, vec![path_bytes(path)])
    }

    /// A Unix socket by its abstract name, which is not in the file system.
    pub fn unix_abstract(name: impl Into<Vec<u8>>) -> Self {
        Self::new(&unix::SCHEME, vec![b"@".to_vec(), name.into()])
    }

    /// A vsock port of a machine; `u32::MAX` is any CID or port, to listen on.
    #[doc(alias = "VsockSocketAddress")]
    pub fn vsock(cid: u32, port: u32) -> Self {
        Self::new(&vsock::SCHEME, vsock::words(qio_os::VsockAddr { cid, port }))
    }

    /// A program and its arguments.
    pub fn exec(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self::new(&exec::SCHEME, argv.into_iter().map(|word| word.into().into_vec()).collect())
    }

    /// A file.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::new(&file::SCHEME, vec![path_bytes(path)])
    }

    /// A FIFO.
    pub fn pipe(path: impl AsRef<Path>) -> Self {
        Self::new(&pipe::SCHEME, vec![path_bytes(path)])
    }

    /// An inherited descriptor.
    pub fn fd(number: u32) -> Self {
        Self::new(&fd::SCHEME, vec![number.to_string().into_bytes()])
    }

    /// An inherited descriptor, or all of that name to listen on.
    pub fn fd_named(name: impl Into<String>) -> Self {
        Self::new(&fd::SCHEME, vec![name.into().into_bytes()])
    }

    /// This program's standard input and output.
    pub fn stdio() -> Self {
        Self::new(&stdio::SCHEME, Vec::new())
    }

    /// What reads as empty and swallows everything.
    pub fn null() -> Self {
        Self::new(&null::SCHEME, Vec::new())
    }

    /// What reads back everything that was written.
    pub fn echo() -> Self {
        Self::new(&echo::SCHEME, Vec::new())
    }

    fn new(scheme: &'static Scheme, target: Vec<Vec<u8>>) -> Self {
        Self { role: Role::Connect, layers: Vec::new(), scheme, target, settings: Vec::new() }
    }

    /// The same address, to listen on.
    #[must_use]
    pub fn listening(mut self) -> Self {
        self.role = Role::Listen;
        self
    }

    /// The same address with an option; an option that can be given once is replaced.
    ///
    /// Whether the option fits the role and the others is checked when the address is used.
    ///
    /// # Errors
    ///
    /// [`Class::Usage`](crate::error::Class::Usage) for a key that does not exist, with those that
    /// do, and for a value of the wrong kind.
    pub fn with_option(mut self, key: &str, value: impl AsRef<OsStr>) -> Result<Self> {
        let value = value.as_ref().as_bytes().to_vec();
        match self.setting(key, Some(value)) {
            Ok(setting) => {
                if !setting.option.repeatable {
                    self.settings.retain(|other| !other.is_same_option(&setting));
                }
                self.put(setting);
                Ok(self)
            }
            Err(refusal) => Err(refusal.of("set an option of", &self.to_string())),
        }
    }
}

/// Looking at addresses.
impl Address {
    /// Whether it is an address to listen on.
    pub fn is_listening(&self) -> bool {
        self.role == Role::Listen
    }

    /// The transport.
    pub fn scheme(&self) -> &'static Scheme {
        self.scheme
    }

    /// Whether there are layers over the transport.
    pub fn has_layers(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Whether a listener on this address makes its certificate: then only
    /// [`Listener::local_addresses`](super::Listener::local_addresses) tells whom to trust.
    pub fn is_self_signed(&self) -> bool {
        (0..self.layers.len()).any(|part| self.part(part).switch("self-signed"))
    }

    /// The TCP or UDP port, if the address has one.
    pub fn port(&self) -> Option<u16> {
        let has_port = [tcp::SCHEME.name, udp::SCHEME.name].contains(&self.scheme.name);
        match (has_port, self.target.get(1)) {
            (true, Some(port)) => std::str::from_utf8(port).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether a listener on this address chooses a part of it, a port or a path: then only
    /// [`Listener::local_addresses`](super::Listener::local_addresses) tells where to connect to.
    pub fn leaves_choice(&self) -> bool {
        let last: &[u8] = self.target.last().map_or(b"", Vec::as_slice);
        match self.scheme.name {
            "tcp" | "udp" => self.target.len() < 2 || self.port() == Some(0) || self.is_given("to"),
            "unix" | "unix-seqpacket" => last.is_empty(),
            "vsock" => last == b"any" || last == u32::MAX.to_string().as_bytes(),
            _ => false,
        }
    }

    /// The same address with another port, of a scheme that has ports.
    pub(crate) fn with_port(mut self, port: u16) -> Self {
        if let Some(word) = self.target.get_mut(1) {
            *word = port.to_string().into_bytes();
        }
        self
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The decoded words of the target.
    pub(crate) fn target(&self) -> &[Vec<u8>] {
        &self.target
    }

    /// The same address with another target: every option stays.
    pub(crate) fn with_target(&self, target: Vec<Vec<u8>>) -> Self {
        Self { target, ..self.clone() }
    }

    /// Another address of the same transport to connect to, without options.
    pub(crate) fn sibling(&self, target: Vec<Vec<u8>>) -> Self {
        Self::new(self.scheme, target)
    }

    /// The address of a TCP socket.
    pub(crate) fn of_socket(addr: SocketAddr) -> Self {
        Self::tcp(host_of(addr), addr.port())
    }

    /// The address of a UDP socket.
    pub(crate) fn of_datagram_socket(addr: SocketAddr) -> Self {
        Self::udp(host_of(addr), addr.port())
    }

    /// The address of a peer of this one that the kernel names so.
    pub(crate) fn of_peer(&self, addr: SocketAddr) -> Self {
        if self.scheme.name == udp::SCHEME.name {
            Self::of_datagram_socket(addr)
        } else {
            Self::of_socket(addr)
        }
    }

    /// Everything that can be wrong with an address is found here, before any system call.
    pub(crate) fn check(&self) -> std::result::Result<(), Refusal> {
        if self.role == Role::Listen && self.scheme.listen.is_none() {
            let able: Vec<_> = SCHEMES
                .iter()
                .filter(|scheme| scheme.listen.is_some())
                .map(|scheme| scheme.name)
                .collect();
            return Err(Refusal::new(format!("{} cannot be listened on", self.scheme.name))
                .hint(format!("these can: {}", able.join(", "))));
        }
        for (index, setting) in self.settings.iter().enumerate() {
            let name = setting.option.name;
            if !setting.option.applies.to(self.role) {
                let role = match setting.option.applies {
                    Applies::Listen => "listening",
                    _ => "connecting",
                };
                return Err(Refusal::new(format!("option {name:?} is only for {role}"))
                    .hint(self.known_keys("options here")));
            }
            let twice = self.settings[..index].iter().any(|other| other.is_same_option(setting));
            if twice && !setting.option.repeatable {
                return Err(Refusal::new(format!("option {name:?} is given twice")));
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let part = self.part(index);
            (layer.check)(&part).map_err(|refusal| refusal.inside(&part.name()))?;
        }
        (self.scheme.check)(self)
    }

    /// Whether the option of the transport was given.
    pub fn is_given(&self, key: &str) -> bool {
        self.transport().is_given(key)
    }

    /// The value of a switch.
    pub(crate) fn switch(&self, key: &str) -> bool {
        self.transport().switch(key)
    }

    /// The value of a time.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.transport().duration(key)
    }

    /// The value of a number.
    pub(crate) fn count(&self, key: &str) -> Option<u32> {
        self.transport().count(key)
    }

    /// The value of a number of bytes.
    pub(crate) fn size(&self, key: &str) -> Option<usize> {
        self.transport().size(key)
    }

    /// The value of permission bits.
    pub(crate) fn file_mode(&self, key: &str) -> Option<u32> {
        self.text(key).and_then(|text| value::parse_mode(&text).ok())
    }

    /// The value of a transport's option as a text, or its default; a bare key is `on`.
    pub(crate) fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        self.transport().text(key)
    }

    /// All values that were given for a transport's option.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &OsStr> {
        self.transport().values(key)
    }

    /// The layers, the outermost first.
    pub(crate) fn layers(&self) -> &[&'static Layer] {
        &self.layers
    }

    /// A layer, counted from the outermost, or behind them the transport.
    pub(crate) fn part(&self, index: usize) -> Part<'_> {
        Part { address: self, index }
    }

    fn transport(&self) -> Part<'_> {
        self.part(self.layers.len())
    }

    /// This address of a transport, to connect to, under those layers of another one that the peer
    /// sees, with those options of theirs that a client needs.
    pub(crate) fn under_layers_of(
        &self,
        other: &Self,
        options: impl IntoIterator<Item = (usize, &'static str, String)>,
    ) -> Self {
        let is_seen = |layer: &&&'static Layer| !layer.is_local;
        let layers: Vec<_> = other.layers.iter().filter(is_seen).copied().collect();
        let mut address = Self { layers, ..self.clone() };
        for setting in &mut address.settings {
            setting.part += address.layers.len();
        }
        for (part, key, value) in options {
            if other.layers[part].is_local {
                continue;
            }
            let part = other.layers[..part].iter().filter(is_seen).count();
            let option = address.part(part).options().iter().find(|option| option.name == key);
            if let Some(option) = option {
                address.put(Setting { part, option, value: Some(value.into_bytes()) });
            }
        }
        address
    }

    /// The layer whose option is written behind the host, if there is a host: the outermost that
    /// has one.
    fn part_in_target(&self) -> Option<(usize, &'static str)> {
        let named = |(index, layer): (usize, &&'static Layer)| Some((index, layer.in_target?));
        let found = self.layers.iter().enumerate().find_map(named);
        found.filter(|_| self.scheme.form.slashes)
    }

    /// What is written behind the host.
    fn is_in_target(&self, setting: &Setting) -> bool {
        let is_path = setting.value.as_deref().is_some_and(|value| value.starts_with(b"/"));
        is_path && self.part_in_target() == Some((setting.part, setting.option.name))
    }

    /// Adds an option where a text has it: what stands in the target comes before the others.
    fn put(&mut self, setting: Setting) {
        let at = if self.is_in_target(&setting) { 0 } else { self.settings.len() };
        self.settings.insert(at, setting);
    }

    /// The name of one part as a prefix of keys: `tls`, and `tls2` for the second.
    fn part_name(&self, part: usize) -> String {
        let Some(layer) = self.layers.get(part) else { return self.scheme.name.to_owned() };
        let before = self.layers[..part].iter().filter(|other| other.name == layer.name).count();
        if before == 0 { layer.name.to_owned() } else { format!("{}{}", layer.name, before + 1) }
    }

    /// Finds the option that a key means: that of the named part, else of the outermost that
    /// knows it.
    fn setting(&self, key: &str, value: Option<Vec<u8>>) -> std::result::Result<Setting, Refusal> {
        let mut parts = 0..=self.layers.len();
        let mut name = key;
        if let Some((prefix, rest)) = key.split_once('.') {
            let Some(part) = parts.clone().find(|&part| self.part_name(part) == prefix) else {
                let known: Vec<_> = parts.map(|part| self.part_name(part)).collect();
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                return Err(Refusal::new(format!(
                    "option {key:?} is for a part that is not there"
                ))
                .hint(suggestion(prefix, "parts", &known)));
            };
            parts = part..=part;
            name = rest;
        }
        let found = parts.into_iter().find_map(|part| {
            let option = self.part(part).options().iter().find(|option| option.name == name)?;
            Some((part, option))
        });
        let Some((part, option)) = found else {
            return Err(Refusal::new(format!("option {key:?} is not known"))
                .hint(self.suggested_keys(name)));
        };
        match &value {
            None if option.value.may_be_bare() => {}
            None => {
                return Err(
                    Refusal::new(format!("option {key:?} needs a value")).hint(option.syntax())
                );
            }
            Some(value) if value.is_empty() => {
                return Err(Refusal::new(format!("option {key:?} has an empty value"))
                    .hint(option.syntax()));
            }
            Some(value) => option.value.check(value).map_err(|bad| {
                Refusal::new(format!("option {key:?}: {bad}")).hint(option.syntax())
            })?,
        }
        Ok(Setting { part, option, value })
    }

    fn keys(&self) -> Vec<&'static str> {
        (0..=self.layers.len())
            .flat_map(|part| self.part(part).options())
            .filter(|option| option.applies.to(self.role))
            .map(|option| option.name)
            .collect()
    }

    fn known_keys(&self, label: &str) -> String {
        suggestion("", label, &self.keys())
    }

    fn suggested_keys(&self, key: &str) -> String {
        suggestion(key, "options here", &self.keys())
    }
}

fn host_of(addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        // An IPv4 client of a listener on `[::]` is one.
        addr => addr.ip().to_canonical().to_string(),
    }
}

impl Address {
    /// The short way to write the layers next to the transport together with it.
    fn shorthand(&self) -> Option<&'static Shorthand> {
        let fits = |short: &&Shorthand| {
            let inner = self.layers.iter().rev().map(|layer| layer.name);
            self.layers.len() >= short.layers.len()
                && inner.zip(short.layers.iter().rev()).all(|(name, wanted)| name == *wanted)
        };
        let is_whole = self.scheme.name == tcp::SCHEME.name && self.target.len() == 2;
        SHORTHANDS.iter().find(fits).filter(|_| is_whole)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse_os(OsStr::new(text))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.role == Role::Listen {
            out.write_str("listen:")?;
        }
        let short = self.shorthand();
        let spelled_out = self.layers.len() - short.map_or(0, |short| short.layers.len());
        for layer in &self.layers[..spelled_out] {
            write!(out, "{}+", layer.name)?;
        }
        let mut text = String::new();
        let words = match (short, &*self.target) {
            (Some(short), [host, port]) if *port == short.port.as_bytes() => {
                std::slice::from_ref(host)
            }
            (_, words) => words,
        };
        (self.scheme.form.print)(words, &mut text);
        if self.part_in_target().is_some() {
            // The first slash would end the host.
            text = text.replace('/', "%2F");
        }
        if self.scheme.name == stdio::SCHEME.name {
            out.write_str("-")?;
        } else {
            write!(out, "{}:", short.map_or(self.scheme.name, |short| short.name))?;
        }
        // When it is parsed, two slashes in front are taken away.
        if self.scheme.form.slashes || text.starts_with("//") {
            out.write_str("//")?;
        }
        out.write_str(&text)?;
        let path = self.settings.first().filter(|setting| self.is_in_target(setting));
        if let Some(path) = path.and_then(|path| path.value.as_deref()) {
            let mut text = String::new();
            encode(path, "?", &mut text);
            out.write_str(&text)?;
        }
        let options = &self.settings[usize::from(path.is_some())..];
        for (index, setting) in options.iter().enumerate() {
            out.write_str(if index == 0 { "?" } else { "&" })?;
            let name = setting.option.name;
            let mut outer = (0..setting.part).flat_map(|part| self.part(part).options());
            if outer.any(|option| option.name == name) {
                write!(out, "{}.", self.part_name(setting.part))?;
            }
            out.write_str(name)?;
            if let Some(value) = &setting.value {
                let mut text = String::new();
                encode(value, "&", &mut text);
                write!(out, "={text}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Address({self})")
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        let names = |address: &Self| -> Vec<&str> {
            address.layers.iter().map(|layer| layer.name).collect()
        };
        self.role == other.role
            && self.scheme.name == other.scheme.name
            && names(self) == names(other)
            && self.target == other.target
            && self.settings == other.settings
    }
}

impl Eq for Address {}

impl Setting {
    fn is_same_option(&self, other: &Self) -> bool {
        self.part == other.part && self.option.name == other.option.name
    }
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_option(other) && self.value == other.value
    }
}

fn path_bytes(path: impl AsRef<Path>) -> Vec<u8> {
    path.as_ref().as_os_str().as_bytes().to_vec()
}
