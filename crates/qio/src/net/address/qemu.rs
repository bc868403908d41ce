//! Addresses as QEMU writes them: `host:port,ipv4=on`, `unix:path,server=on`,
//! `socket,host=…,port=…`.
//!
//! What QEMU does when nothing is said differs from what qio does, so the address that comes out
//! says it: no probes, no `TCP_NODELAY`, and a listener without a host is on all interfaces.

use super::refusal::{Refusal, suggestion};
use super::{Address, Role};
use crate::net::scheme::{Scheme, fd, tcp, unix, vsock};

/// Reads one of QEMU's texts; `role` is what the text need not say.
///
/// Its forms are those of QEMU's `socket_parse` (`unix:`, `vsock:`, `fd:`, `tcp:` or nothing in
/// front of host and port), with the options that its character devices take behind them, and the
/// list of options of `-chardev socket`.
pub(super) fn parse(role: Role, text: &[u8]) -> Result<Address, Refusal> {
    let mut words = split(text).into_iter();
    let first = words.next().unwrap_or_default();
    let mut options = Options(Vec::new());
    let named = first == b"socket" || is_named(&first);
    if named && first != b"socket" {
        options.add(first.clone())?;
    }
    for word in words {
        options.add(word)?;
    }
    let place = if named { Place::named(&mut options)? } else { Place::parse(&first)? };
    let role = options.take_role(role)?;
    options.drop_what_means_nothing_here()?;
    place.with(role, options)
}

/// The texts that may have been meant by one that is no address: qio's own, QEMU's, or either.
pub(super) fn meant(role: Role, text: &[u8]) -> Option<String> {
    let listen = if role == Role::Listen { "listen:" } else { "" };
    let shown = String::from_utf8_lossy(text);
    let own = format!("{listen}tcp://{shown}");
    // Behind a comma stand options of QEMU's, and only there.
    let is_own = text.contains(&b':') && !text.contains(&b',') && own.parse::<Address>().is_ok();
    let is_qemu = parse(role, text).is_ok();
    match (is_own, is_qemu) {
        (true, true) => {
            Some(format!("did you mean {own}, or {listen}qemu:{shown} with the defaults of QEMU?"))
        }
        (true, false) => Some(format!("did you mean {own}?")),
        (false, true) => Some(format!("did you mean {listen}qemu:{shown}?")),
        (false, false) => None,
    }
}

/// Cuts at commas; two of them are one that is meant.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = text.iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte == b',' && bytes.next_if(|&&next| next == b',').is_none() {
            words.push(Vec::new());
        } else if let Some(word) = words.last_mut() {
            word.push(byte);
        }
    }
    words
}

/// Whether a text starts with one of the options that say where the socket is.
fn is_named(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |&byte| byte == b'=');
    let key = parts.next().unwrap_or_default();
    parts.next().is_some() && KEYS.iter().any(|known| known.as_bytes() == key)
}

/// Where the socket is.
enum Place {
    Inet { host: Vec<u8>, port: Vec<u8> },
    Unix(Vec<u8>),
    Vsock(Vec<u8>),
    Fd(Vec<u8>),
}

impl Place {
    /// The word in front of the options.
    fn parse(word: &[u8]) -> Result<Self, Refusal> {
        if let Some(path) = word.strip_prefix(b"unix:") {
            return Ok(Self::Unix(path.to_vec()));
        }
        if let Some(address) = word.strip_prefix(b"vsock:") {
            return Ok(Self::Vsock(address.to_vec()));
        }
        if let Some(name) = word.strip_prefix(b"fd:") {
            return Ok(Self::Fd(name.to_vec()));
        }
        let word = word.strip_prefix(b"tcp:").unwrap_or(word);
        let no_port = || Refusal::new("there is no port").hint("QEMU writes HOST:PORT");
        let (host, port) = if let Some(rest) = word.strip_prefix(b"[") {
            let end = rest
                .iter()
                .position(|&byte| byte == b']')
                .ok_or_else(|| Refusal::new("the bracket that starts the host is never closed"))?;
            (&rest[..end], rest[end + 1..].strip_prefix(b":").ok_or_else(no_port)?)
        } else {
            let colon = word.iter().position(|&byte| byte == b':').ok_or_else(no_port)?;
            let (host, port) = (&word[..colon], &word[colon + 1..]);
            if port.contains(&b':') {
                return Err(Refusal::new("more than one colon in host and port")
                    .hint("an IPv6 address stands in brackets: [::1]:80"));
            }
            (host, port)
        };
        Ok(Self::Inet { host: host.to_vec(), port: port.to_vec() })
    }

    /// What `-chardev socket` says in options.
    fn named(options: &mut Options) -> Result<Self, Refusal> {
        let [host, port, path, fd] = ["host", "port", "path", "fd"].map(|key| options.take(key));
        match (host, port, path, fd) {
            (Some(host), Some(port), None, None) => Ok(Self::Inet { host, port }),
            (None, None, Some(path), None) => Ok(Self::Unix(path)),
            (None, None, None, Some(fd)) => Ok(Self::Fd(fd)),
            _ => Err(Refusal::new("it is not clear where the socket is")
                .hint("one of: host= and port=, path=, fd=")),
        }
    }

    fn scheme(&self) -> &'static Scheme {
        match self {
            Self::Inet { .. } => &tcp::SCHEME,
            Self::Unix(_) => &unix::SCHEME,
            Self::Vsock(_) => &vsock::SCHEME,
            Self::Fd(_) => &fd::SCHEME,
        }
    }

    fn with(self, role: Role, mut options: Options) -> Result<Address, Refusal> {
        let scheme = self.scheme();
        let mut defaults: &[(&str, &str)] = &[];
        let target = match self {
            Self::Inet { host, port } => {
                let probes = options.switch("keep-alive")?.unwrap_or(false);
                for key in ["keep-alive-idle", "keep-alive-interval", "keep-alive-count"] {
                    options.keep_number(key, probes)?;
                }
                defaults = if probes { PROBES } else { QUIET };
                let host = match (host.is_empty(), role) {
                    (true, Role::Listen) => every_interface(&options)?.to_vec(),
                    _ => host,
                };
                vec![host, port]
            }
            Self::Unix(path) if options.switch("abstract")? == Some(true) => {
                options.take("abstract");
                vec![b"@".to_vec(), path]
            }
            Self::Vsock(address) => address.split(|&byte| byte == b':').map(Vec::from).collect(),
            Self::Unix(word) | Self::Fd(word) => vec![word],
        };
        let mut address = Address::new(scheme, target);
        address.role = role;
        for (key, value) in options.0 {
            address.add(&key, value)?;
        }
        for (key, value) in defaults {
            if !address.is_given(key) {
                address.add(key, value.as_bytes().to_vec())?;
            }
        }
        address.check()?;
        Ok(address)
    }
}

/// What Linux does with a socket that is not told otherwise (tcp(7)).
const PROBES: &[(&str, &str)] = &[
    ("nodelay", "off"),
    ("keep-alive-idle", "7200s"),
    ("keep-alive-interval", "75s"),
    ("keep-alive-count", "9"),
];

const QUIET: &[(&str, &str)] = &[("nodelay", "off"), ("keep-alive", "off")];

/// The host that QEMU means with none when it listens, by the table of its
/// `inet_ai_family_from_address`.
fn every_interface(options: &Options) -> Result<&'static [u8], Refusal> {
    Ok(match (options.switch("ipv4")?, options.switch("ipv6")?) {
        (Some(true), None | Some(false)) | (None, Some(false)) => b"0.0.0.0",
        // With both families it is IPv4, too.
        _ => b"::",
    })
}

impl Address {
    /// Adds an option of QEMU's, which has the same name here if there is one.
    fn add(&mut self, key: &str, value: Vec<u8>) -> Result<(), Refusal> {
        if !self.scheme.options.iter().any(|option| option.name == key) {
            let name = self.scheme.name;
            let text = format!("QEMU's option {key:?} has no counterpart in {name}: addresses");
            return Err(Refusal::new(text).hint(self.known_keys("options here")));
        }
        let setting = self.setting(key, Some(value))?;
        self.settings.push(setting);
        Ok(())
    }
}

/// The options of QEMU that are known by name, so that a slip of the finger is told from one that
/// has no counterpart here.
const KEYS: &[&str] = &[
    "host",
    "port",
    "path",
    "fd",
    "to",
    "ipv4",
    "ipv6",
    "numeric",
    "keep-alive",
    "keep-alive-count",
    "keep-alive-idle",
    "keep-alive-interval",
    "mptcp",
    "abstract",
    "tight",
    "server",
    "wait",
    "nodelay",
    "delay",
    "reconnect",
    "reconnect-ms",
    "id",
    "mux",
    "telnet",
    "tn3270",
    "websocket",
    "logfile",
    "logappend",
    "tls-creds",
    "tls-authz",
];

/// Those that are on when nothing follows.
const SWITCHES: &[&str] = &[
    "ipv4",
    "ipv6",
    "numeric",
    "keep-alive",
    "mptcp",
    "abstract",
    "tight",
    "server",
    "wait",
    "nodelay",
    "delay",
    "mux",
    "telnet",
    "tn3270",
    "websocket",
    "logappend",
];

/// The options in the order in which they were given, each once.
struct Options(Vec<(String, Vec<u8>)>);

impl Options {
    fn add(&mut self, word: Vec<u8>) -> Result<(), Refusal> {
        let mut parts = word.splitn(2, |&byte| byte == b'=');
        let key = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let (key, value) = match parts.next() {
            Some(value) => (key, Some(value.to_vec())),
            // QEMU's old way to say "off".
            None => match key.strip_prefix("no").filter(|rest| SWITCHES.contains(rest)) {
                Some(rest) if !SWITCHES.contains(&&*key) => {
                    (rest.to_owned(), Some(b"off".to_vec()))
                }
                _ => (key, None),
            },
        };
        if key.is_empty() {
            return Err(Refusal::new("an option has no name").hint("QEMU writes ,key=value"));
        }
        if !KEYS.contains(&&*key) {
            return Err(Refusal::new(format!("{key:?} is no option of QEMU's sockets"))
                .hint(suggestion(&key, "options", KEYS)));
        }
        let value = match value {
            Some(value) => value,
            None if SWITCHES.contains(&&*key) => b"on".to_vec(),
            None => return Err(Refusal::new(format!("option {key:?} needs a value"))),
        };
        if self.0.iter().any(|(other, _)| *other == key) {
            return Err(Refusal::new(format!("option {key:?} is given twice")));
        }
        let is_switch = SWITCHES.contains(&&*key);
        self.0.push((key.clone(), value));
        // One spelling for all.
        if is_switch && let Some(on) = self.switch(&key)? {
            let value = if on { "on" } else { "off" };
            if let Some(last) = self.0.last_mut() {
                last.1 = value.into();
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| &value[..])
    }

    fn take(&mut self, key: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(other, _)| other == key)?;
        Some(self.0.remove(at).1)
    }

    /// QEMU's spellings of on and off (`qapi_bool_parse`).
    fn switch(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(b"on" | b"yes" | b"true" | b"y") => Ok(Some(true)),
            Some(b"off" | b"no" | b"false" | b"n") => Ok(Some(false)),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(Refusal::new(format!("option {key:?}: {other:?} is not on or off")))
            }
        }
    }

    fn take_switch(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        let value = self.switch(key)?;
        self.take(key);
        Ok(value)
    }

    /// `server` and `wait`. That QEMU waits for a client before it starts is about QEMU.
    fn take_role(&mut self, role: Role) -> Result<Role, Refusal> {
        let role = match (role, self.take_switch("server")?) {
            (Role::Listen, Some(false)) => {
                return Err(Refusal::new("\"server=off\" contradicts \"listen:\""));
            }
            (role, None | Some(false)) => role,
            (_, Some(true)) => Role::Listen,
        };
        if self.take_switch("wait")?.is_some() && role == Role::Connect {
            return Err(Refusal::new("option \"wait\" is only for \"server=on\""));
        }
        Ok(role)
    }

    /// Takes out what is about QEMU itself, what is off, and second names.
    fn drop_what_means_nothing_here(&mut self) -> Result<(), Refusal> {
        self.take("id");
        for key in ["mux", "telnet", "tn3270", "websocket", "logappend"] {
            if self.switch(key)? == Some(false) {
                self.take(key);
            }
        }
        if let Some(delay) = self.take_switch("delay")? {
            if self.get("nodelay").is_some() {
                return Err(Refusal::new("\"delay\" and \"nodelay\" say the same thing twice"));
            }
            let value = if delay { "off" } else { "on" };
            self.0.push(("nodelay".to_owned(), value.into()));
        }
        // A client that never tries again is what there is without the option.
        for key in ["reconnect", "reconnect-ms"] {
            self.keep_number(key, true)?;
        }
        if let Some(seconds) = self.take("reconnect") {
            if self.get("reconnect-ms").is_some() {
                let text = "\"reconnect\" and \"reconnect-ms\" say the same thing twice";
                return Err(Refusal::new(text));
            }
            let mut milliseconds = seconds;
            milliseconds.extend(b"000");
            self.0.push(("reconnect-ms".to_owned(), milliseconds));
        }
        Ok(())
    }

    /// Looks whether an option is a number; one that is 0 is dropped: in QEMU that is as if it
    /// were not given. Without what it is for, it is an error.
    fn keep_number(&mut self, key: &str, allowed: bool) -> Result<(), Refusal> {
        let Some(value) = self.get(key) else { return Ok(()) };
        if value.is_empty() || value.len() > 10 || !value.iter().all(u8::is_ascii_digit) {
            let value = String::from_utf8_lossy(value);
            return Err(Refusal::new(format!("option {key:?}: {value:?} is not a number")));
        }
        if !allowed {
            return Err(Refusal::new(format!("option {key:?} needs \"keep-alive=on\"")));
        }
        if value.iter().all(|&byte| byte == b'0') {
            self.take(key);
        }
        Ok(())
    }
}
