//! `ws+`: WebSocket, RFC 6455.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Begin, Layer, Link, Upgrade};
use crate::channel::Channel;
use crate::error::{Class, Error, Result};
use crate::layer::web::{self, Site, SiteOptions, Visiting};
use crate::layer::ws::{
    self, BasicAuth, ClientHandshake, ClientOptions, Origins, ServerOptions, WsOptions,
};
use crate::net::address::{Part, Refusal, Role, Value};
use crate::net::scheme::{Applies, Example, OptionInfo};

pub(super) const LAYER: Layer = Layer {
    name: ws::NAME,
    summary: "WebSocket (RFC 6455) as a stream of bytes; ws://HOST and wss://HOST for short",
    examples: &[
        Example::new("ws://127.0.0.1:8080/chat", "connect to a server, path /chat"),
        Example::new("wss://host.example/chat", "the same over TLS: ws+tls+tcp, port 443"),
        Example::new("listen:ws://127.0.0.1:8080", "serve browsers and others on this machine"),
        Example::new("ws+unix:/run/x.sock?path=/x", "WebSocket over a Unix socket"),
        Example::new(
            "listen:ws://127.0.0.1:6080?web=/usr/share/novnc&index=vnc.html",
            "serve browsers the files of a folder, too",
        ),
    ],
    options: OPTIONS,
    in_target: Some("path"),
    is_local: false,
    missing: "no answer to the websocket handshake",
    check,
    prepare,
};

const OPTIONS: &[OptionInfo] = &[
    OptionInfo::new(
        "path",
        Value::Text("/PATH"),
        "what is asked for, or must be asked for; behind a host it is written host:port/path",
    ),
    OptionInfo::new(
        "host",
        Value::Text("HOST"),
        "the host that is asked for [default: that of the address]",
    )
    .only(Applies::Connect),
    OptionInfo::new(
        "origin",
        Value::Text("ORIGIN"),
        "the page to stand for; listening: a page that may connect, or any [default: pages of this \
         host, and on a loopback address pages of this machine]",
    )
    .repeatable(),
    OptionInfo::new("protocol", Value::Text("NAME"), "a sub-protocol, the best first").repeatable(),
    OptionInfo::new("header", Value::Text("NAME: VALUE"), "a further header of the request")
        .repeatable()
        .only(Applies::Connect),
    OptionInfo::new("user", Value::Text("NAME"), "the user to be, or who may connect"),
    OptionInfo::new(
        "password-file",
        Value::Text("FILE"),
        "the user's password, in the first line of a file: an address is no place for it",
    ),
    OptionInfo::new("ping", Value::Duration, "ping the peer after so much silence"),
    OptionInfo::new("pong-timeout", Value::Duration, "how long the answer to a ping may take")
        .default("10s"),
    OptionInfo::new("text", Value::Switch, "send text, and take it; bytes must be UTF-8")
        .default("off"),
    OptionInfo::new("web", Value::Text("DIR"), "answer other requests with the files of a folder")
        .only(Applies::Listen),
    OptionInfo::new("index", Value::Text("NAME"), "the file that stands for its folder")
        .default("index.html")
        .only(Applies::Listen),
    OptionInfo::new("listing", Value::Switch, "show folders that have no such file")
        .default("off")
        .only(Applies::Listen),
    OptionInfo::new("hidden", Value::Switch, "serve names that begin with a dot, too")
        .default("off")
        .only(Applies::Listen),
    OptionInfo::new("health", Value::Text("/PATH"), "a path that is answered with ok")
        .only(Applies::Listen),
];

fn check(part: &Part<'_>) -> std::result::Result<(), Refusal> {
    let path = part.text("path").unwrap_or_default();
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Refusal::new("option \"path\" does not begin with a slash"));
    }
    if part.role() == Role::Listen && path.contains('?') {
        return Err(Refusal::new("option \"path\" has a query, which no server looks at"));
    }
    for (one, other) in [("user", "password-file"), ("password-file", "user")] {
        if part.is_given(one) && !part.is_given(other) {
            return Err(Refusal::new(format!("option {one:?} needs {other:?}")));
        }
    }
    if part.is_given("pong-timeout") && !part.is_given("ping") {
        return Err(Refusal::new("option \"pong-timeout\" needs \"ping\""));
    }
    for key in ["index", "listing", "hidden"] {
        if part.is_given(key) && !part.is_given("web") {
            return Err(Refusal::new(format!("option {key:?} needs \"web\"")));
        }
    }
    let index = part.text("index").unwrap_or_default();
    if index.contains('/') || matches!(&*index, "" | "." | "..") {
        return Err(Refusal::new("option \"index\" is not the name of a file"));
    }
    let health = part.text("health");
    if health.as_ref().is_some_and(|health| !health.starts_with('/') || health.contains('?')) {
        return Err(Refusal::new("option \"health\" is not a path that begins with a slash"));
    }
    if health.is_some_and(|health| health == path) {
        return Err(Refusal::new("\"health\" and \"path\" are the same path"));
    }
    for key in ["ping", "pong-timeout"] {
        if part.duration(key).is_some_and(|time| time.is_zero()) {
            return Err(Refusal::new(format!("option {key:?} is no time at all")));
        }
    }
    if part.text("user").is_some_and(|user| user.contains(':')) {
        return Err(Refusal::new("option \"user\": a name has no colon (RFC 7617)"));
    }
    if let Some(header) = part.texts("header").find(|header| !header.contains(':')) {
        return Err(Refusal::new(format!("option \"header\": {header:?} has no colon"))
            .hint("header=NAME: VALUE"));
    }
    match part.role() {
        Role::Listen => Ok(()),
        Role::Connect if part.values("origin").count() > 1 => {
            Err(Refusal::new("option \"origin\" is given twice: a client stands for one page"))
        }
        // What would break the request.
        Role::Connect => ClientHandshake::new(client(part), [0; 16], Box::new(|_| ()))
            .map(drop)
            .map_err(|error| Refusal::new(error.to_string())),
    }
}

fn prepare(part: &Part<'_>) -> Result<Arc<dyn Begin>> {
    let auth = match (part.text("user"), part.values("password-file").last()) {
        (Some(user), Some(file)) => {
            let file = Path::new(file);
            let password = password(file).map_err(|error| unreadable(part, file, error))?;
            Some(BasicAuth::new(user, password))
        }
        _ => None,
    };
    Ok(match part.role() {
        Role::Connect => {
            let mut options = client(part);
            options.basic_auth = auth;
            Arc::new(Client(options))
        }
        Role::Listen => {
            let mut options = server(part);
            options.basic_auth = auth;
            let folder = part.values("web").last();
            let health = part.values("health").last();
            if folder.is_none() && health.is_none() {
                return Ok(Arc::new(Server { options, pages: None }));
            }
            options.limit_bytes = web::LIMIT_BYTES;
            let mut site = SiteOptions::default();
            site.index = part.text("index").map_or(site.index, Cow::into_owned);
            site.listing = part.switch("listing");
            site.hidden = part.switch("hidden");
            site.health = health.map(|path| escaped(path.as_bytes()));
            let folder = folder.map(PathBuf::from);
            let pages = Pages::open(folder, site)
                .map_err(|(folder, error)| unreadable(part, &folder, error))?;
            Arc::new(Server { options, pages: Some(pages) })
        }
    })
}

#[derive(Debug)]
struct Client(ClientOptions);

#[derive(Debug)]
struct Server {
    options: ServerOptions,
    /// What is answered to those that want no WebSocket.
    pages: Option<Pages>,
}

/// A site, and where it comes from.
#[derive(Debug)]
struct Pages {
    folder: Option<PathBuf>,
    options: SiteOptions,
    site: ArcSwap<Site>,
}

impl Pages {
    fn open(
        folder: Option<PathBuf>,
        options: SiteOptions,
    ) -> std::result::Result<Self, (PathBuf, io::Error)> {
        let site = match &folder {
            Some(path) => match Site::open(path, options.clone()) {
                Ok(site) => site,
                Err(error) => return Err((path.clone(), error)),
            },
            None => Site::without_files(options.clone()),
        };
        Ok(Self { folder, options, site: ArcSwap::from_pointee(site) })
    }
}

impl Begin for Client {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        ws::client(below, self.0.clone(), None).map(|shaking| Upgrade::link(ws::NAME, shaking))
    }
}

impl Begin for Server {
    fn begin(&self, below: Arc<dyn Channel>) -> io::Result<Link> {
        Ok(Upgrade::link(ws::NAME, ws::server(below, self.options.clone(), None)))
    }

    fn visit(&self, below: &Arc<dyn Channel>) -> Option<Visiting<Arc<dyn Channel>>> {
        let site = self.pages.as_ref()?.site.load_full();
        Some(web::server(Arc::clone(below), self.options.clone(), site, None))
    }

    /// What stands in the place of the folder now is served from now on.
    fn reload(&self) -> Result<()> {
        let Some(Pages { folder: Some(path), options, site }) = &self.pages else { return Ok(()) };
        let opened = Site::open(path, options.clone())
            .map_err(|error| Error::new(Class::Open, "open", path.display()).because(error))?;
        site.store(Arc::new(opened));
        Ok(())
    }

    fn reach(&self) -> Vec<(&'static str, String)> {
        self.options.path.iter().map(|path| ("path", path.clone())).collect()
    }
}

fn client(part: &Part<'_>) -> ClientOptions {
    let host = part.text("host").map_or_else(|| host(part), String::from);
    let mut options = ClientOptions::new(host);
    if let Some(path) = part.values("path").last() {
        options.target = escaped(path.as_bytes());
    }
    options.origin = part.text("origin").map(String::from);
    options.protocols = part.texts("protocol").collect();
    let headers = part.texts("header");
    options.headers = headers
        .filter_map(|header| {
            let (name, value) = header.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        })
        .collect();
    options.ws = common(part);
    options
}

fn server(part: &Part<'_>) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.path = part.values("path").last().map(|path| escaped(path.as_bytes()));
    let origins: Vec<_> = part.texts("origin").collect();
    options.origins = match &*origins {
        [] if is_loopback(part) => Origins::Loopback,
        [] => Origins::SameHost,
        list if list.iter().any(|origin| origin == "any") => Origins::Any,
        _ => Origins::Listed(origins),
    };
    if part.is_given("protocol") {
        options.protocols = part.texts("protocol").collect();
    }
    options.ws = common(part);
    options
}

fn common(part: &Part<'_>) -> WsOptions {
    let mut options = WsOptions::default();
    options.accept_text = part.switch("text");
    options.send_text = part.switch("text");
    options.ping_interval = part.duration("ping");
    if let Some(deadline) = part.duration("pong-timeout") {
        options.pong_deadline = deadline;
    }
    options
}

/// The host of the address, as a Host field has it: with the port unless it is the usual one.
fn host(part: &Part<'_>) -> String {
    let address = part.address();
    let (true, [host, rest @ ..]) = (address.scheme().form.slashes, address.target()) else {
        return "localhost".to_owned();
    };
    let host = String::from_utf8_lossy(host);
    // The zone of a link-local address means something on this machine only.
    let name = host.split('%').next().unwrap_or_default();
    let mut text = match name.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => name.to_owned(),
    };
    let usual: &[u8] = if part.is_over("tls") { b"443" } else { b"80" };
    if let Some(port) = rest.first().filter(|port| *port != usual) {
        // Writing into a String cannot fail.
        let _ = write!(text, ":{}", String::from_utf8_lossy(port));
    }
    text
}

/// Whether only this machine can connect to the address, by what it says.
fn is_loopback(part: &Part<'_>) -> bool {
    let address = part.address();
    let Some(host) = address.target().first().filter(|_| address.scheme().form.slashes) else {
        return false;
    };
    let host = String::from_utf8_lossy(host);
    // Without a host, a listener is on the loopback interface.
    host.is_empty()
        || host == "localhost"
        || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// A path as HTTP has it: what it cannot carry is escaped, and what is escaped stays so.
fn escaped(path: &[u8]) -> String {
    let mut text = String::new();
    for (at, &byte) in path.iter().enumerate() {
        let is_escape =
            || path.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let passes = match byte {
            b'%' => is_escape(),
            b'#' => false,
            byte => matches!(byte, 0x21..=0x7E),
        };
        match passes {
            true => text.push(char::from(byte)),
            // Writing into a String cannot fail.
            false => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// The first line of a file.
fn password(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(PASSWORD_BYTES).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"));
    }
    Ok(line.to_owned())
}

/// Longer than any password, and short enough for a header.
const PASSWORD_BYTES: u64 = 1024;

fn unreadable(part: &Part<'_>, file: &Path, error: io::Error) -> Error {
    let attempt = if part.role() == Role::Listen { "listen" } else { "connect" };
    let error = io::Error::new(
        error.kind(),
        format!("{}: {}", file.display(), crate::error::plain(&error)),
    );
    Error::new(Class::Open, attempt, part.address()).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;

    fn asked(text: &str) -> ClientOptions {
        let address: Address = text.parse().unwrap();
        client(&address.part(0))
    }

    #[test]
    fn the_request_names_host_and_path_as_http_has_them() {
        for (text, host, target) in [
            ("ws://h", "h", "/"),
            ("ws://h/", "h", "/"),
            ("ws://h:8080/a b%3Fq=ü", "h:8080", "/a%20b?q=%C3%BC"),
            ("ws://h:80/%252F%23%25x", "h", "/%2F%23%25x"),
            ("wss://h:80/", "h:80", "/"),
            ("wss://h", "h", "/"),
            ("ws+tcp://[fe80::1%25eth0]:443", "[fe80::1]:443", "/"),
            ("ws+unix:/run/x", "localhost", "/"),
            ("ws+unix:/run/x?host=h.example&path=/y", "h.example", "/y"),
        ] {
            let options = asked(text);
            assert_eq!((&*options.host, &*options.target), (host, target), "{text}");
        }
    }

    #[test]
    fn pages_of_others_are_refused_unless_asked_for() {
        let origins = |text: &str| {
            let address: Address = text.parse().unwrap();
            server(&address.part(0)).origins
        };
        for text in
            ["listen:ws://:1", "listen:ws://localhost:1", "listen:wss://[::1]:1?tls.self-signed"]
        {
            assert_eq!(origins(text), Origins::Loopback, "{text}");
        }
        for text in ["listen:ws://0.0.0.0:1", "listen:ws+unix:/x"] {
            assert_eq!(origins(text), Origins::SameHost, "{text}");
        }
        assert_eq!(origins("listen:ws://:1?origin=https://a&origin=any"), Origins::Any);
        let listed = Origins::Listed(vec!["https://a".into(), "https://b".into()]);
        assert_eq!(origins("listen:ws://:1?origin=https://a&origin=https://b"), listed);
    }
}
