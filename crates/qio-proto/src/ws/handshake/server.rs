//! The side of the server: RFC 6455, section 4.2.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::tokens::{has, has_token, list, only};
use super::{BasicAuth, DEFAULT_LIMIT, HandshakeError, HeaderEnd, MAX_FIELDS, accept_key};
use crate::engine::Handshake;
use crate::ws::{WebSocket, WsOptions};

/// Which clients a server takes, and how it treats them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The path that must be asked for; the query does not count. Default: any.
    pub path: Option<String>,
    /// The pages whose scripts may connect. Default: [`Origins::Any`].
    pub origins: Origins,
    /// The sub-protocols that are spoken, the best first. Default: `binary`.
    pub protocols: Vec<String>,
    /// Whether a client must offer one of them. Default: no.
    pub require_protocol: bool,
    /// The user and password that a client must know (RFC 7617). Default: none.
    pub basic_auth: Option<BasicAuth>,
    /// The longest request. Default: 4 KiB.
    pub limit_bytes: usize,
    /// How the connection goes on.
    pub ws: WsOptions,
}

/// The pages whose scripts may connect: RFC 6455, section 10.2.
///
/// Browsers say what page a connection comes from. Other clients say nothing and are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origins {
    /// All.
    Any,
    /// Those of the host that was connected to.
    SameHost,
    /// Those of this machine: `localhost`, 127.0.0.0/8 and `[::1]`, with any port. What a listener
    /// on the loopback interface wants: a name that somebody else has made to lead here is the host
    /// that was connected to, and no loopback name.
    Loopback,
    /// These: `https://app.example`.
    Listed(Vec<String>),
}

/// What the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The path, as it was written.
    pub path: String,
    /// What follows the question mark.
    pub query: Option<String>,
    /// The host that the client believes to talk to.
    pub host: String,
    /// The page that the client is a script of.
    pub origin: Option<String>,
    /// The sub-protocol that was chosen.
    pub protocol: Option<String>,
}

/// Why a client is not taken: a status of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    phrase: &'static str,
    what: &'static str,
    /// Further fields of the answer.
    fields: &'static str,
}

/// The handshake of a server: waits for a request, and answers it.
#[derive(Debug)]
pub struct ServerHandshake {
    options: ServerOptions,
    pub(super) end: HeaderEnd,
    reply: Vec<u8>,
    request: Option<Request>,
}

impl Origins {
    /// Whether pages may be shown to a browser that believes to talk to `host`: with
    /// [`Loopback`](Origins::Loopback), only when that is this machine.
    pub fn may_serve(&self, host: &str) -> bool {
        !matches!(self, Self::Loopback) || is_loopback(host)
    }
}

impl ServerHandshake {
    /// A handshake that waits for the client.
    pub fn new(options: ServerOptions) -> Self {
        Self { options, end: HeaderEnd::default(), reply: Vec::new(), request: None }
    }

    /// What the client asked for, once it was taken.
    pub fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    fn refuse(&mut self, refusal: Refusal) -> HandshakeError {
        self.reply = refusal.reply().into_bytes();
        HandshakeError::Refused(refusal)
    }

    fn answer(&self, header: &[u8]) -> Result<(Request, String), Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(header) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
            _ => return Err(Refusal::bad("this is no HTTP request")),
        }
        if parsed.method != Some("GET") {
            return Err(METHOD);
        }
        if parsed.version != Some(1) {
            return Err(Refusal::bad("the version of HTTP is not 1.1"));
        }
        let target = parsed.path.unwrap_or_default();
        let fields = &*parsed.headers;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        if self.options.path.as_deref().is_some_and(|wanted| wanted != path) {
            return Err(NOT_FOUND);
        }
        let Some(host) = only(fields, "Host") else {
            return Err(Refusal::bad("there is not one Host"));
        };
        if has(fields, "Content-Length") && only(fields, "Content-Length") != Some("0")
            || has(fields, "Transfer-Encoding")
        {
            return Err(Refusal::bad("the request has a body"));
        }
        if !has_token(fields, "Upgrade", "websocket") {
            return Err(Refusal::bad("Upgrade does not name websocket"));
        }
        if !has_token(fields, "Connection", "upgrade") {
            return Err(Refusal::bad("Connection does not name upgrade"));
        }
        if only(fields, "Sec-WebSocket-Version") != Some("13") {
            return Err(VERSION);
        }
        let key = only(fields, "Sec-WebSocket-Key").filter(|key| is_key(key));
        let Some(key) = key else {
            return Err(Refusal::bad("Sec-WebSocket-Key is not 16 bytes in base64"));
        };
        let origin = only(fields, "Origin");
        if has(fields, "Origin") && !origin.is_some_and(|origin| self.allows(origin, host)) {
            return Err(ORIGIN);
        }
        if let Some(auth) = &self.options.basic_auth {
            let given = only(fields, "Authorization").unwrap_or_default();
            if !auth.is(given) {
                return Err(AUTHORIZATION);
            }
        }
        let protocol = self.choose(fields)?;
        let request = Request {
            path: path.to_owned(),
            query: query.map(ToOwned::to_owned),
            host: host.to_owned(),
            origin: origin.map(ToOwned::to_owned),
            protocol: protocol.map(ToOwned::to_owned),
        };
        let mut reply = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            accept_key(key)
        );
        if let Some(protocol) = protocol {
            reply += &format!("Sec-WebSocket-Protocol: {protocol}\r\n");
        }
        Ok((request, reply + "\r\n"))
    }

    fn allows(&self, origin: &str, host: &str) -> bool {
        match &self.options.origins {
            Origins::Any => true,
            Origins::SameHost => {
                let name = origin.split_once("://").map_or(origin, |(_, name)| name);
                name.eq_ignore_ascii_case(host)
            }
            Origins::Loopback => {
                origin.split_once("://").is_some_and(|(_, authority)| is_loopback(authority))
            }
            Origins::Listed(list) => {
                list.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            }
        }
    }

    fn choose(&self, fields: &[httparse::Header<'_>]) -> Result<Option<&str>, Refusal> {
        let spoken = self.options.protocols.iter().find(|spoken| {
            list(fields, "Sec-WebSocket-Protocol").any(|offered| offered == spoken.as_str())
        });
        match spoken {
            None if self.options.require_protocol => {
                Err(Refusal::bad("none of the offered sub-protocols is spoken here"))
            }
            spoken => Ok(spoken.map(String::as_str)),
        }
    }
}

impl Handshake for ServerHandshake {
    type Engine = WebSocket;
    type Error = HandshakeError;

    fn handle_wire(&mut self, wire: &mut [u8]) -> Result<usize, HandshakeError> {
        if self.is_done() {
            return Ok(0);
        }
        let limit = self.options.limit_bytes;
        let end = match self.end.find(wire) {
            Some(end) if end <= limit => end,
            None if wire.len() < limit => return Ok(0),
            _ => return Err(self.refuse(TOO_LONG)),
        };
        match self.answer(&wire[..end]) {
            Ok((request, reply)) => {
                self.request = Some(request);
                self.reply = reply.into_bytes();
                Ok(end)
            }
            Err(refusal) => Err(self.refuse(refusal)),
        }
    }

    fn limit_bytes(&self) -> usize {
        self.options.limit_bytes
    }

    fn handle_end(&mut self) -> HandshakeError {
        HandshakeError::Truncated
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        let count = self.reply.len().min(wire.len());
        wire[..count].copy_from_slice(&self.reply[..count]);
        self.reply.drain(..count);
        count
    }

    fn wants_wire(&self) -> bool {
        !self.reply.is_empty()
    }

    fn is_done(&self) -> bool {
        self.request.is_some()
    }

    fn into_engine(self) -> WebSocket {
        WebSocket::server(self.options.ws)
    }
}

impl Refusal {
    const fn bad(what: &'static str) -> Self {
        Self { status: 400, phrase: "Bad Request", what, fields: "" }
    }

    /// The status of HTTP.
    pub fn status(&self) -> u16 {
        self.status
    }

    fn reply(&self) -> String {
        let Self { status, phrase, what, fields } = self;
        let body = format!("{what}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: text/plain; \
             charset=utf-8\r\nContent-Length: {}\r\n{fields}\r\n{body}",
            body.len()
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.status, self.phrase, self.what)
    }
}

const NOT_FOUND: Refusal =
    Refusal { status: 404, phrase: "Not Found", what: "there is no such path", fields: "" };
const METHOD: Refusal = Refusal {
    status: 405,
    phrase: "Method Not Allowed",
    what: "the method is not GET",
    fields: "Allow: GET\r\n",
};
const VERSION: Refusal = Refusal {
    status: 426,
    phrase: "Upgrade Required",
    what: "the version of the WebSocket protocol is not 13",
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
    //# the server MUST
    //# respond with a |Sec-WebSocket-Version| header field
    fields: "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n",
};
const TOO_LONG: Refusal = Refusal {
    status: 431,
    phrase: "Request Header Fields Too Large",
    what: "the header is too long",
    fields: "",
};
const ORIGIN: Refusal = Refusal {
    status: 403,
    phrase: "Forbidden",
    what: "this page may not connect here",
    fields: "",
};
const AUTHORIZATION: Refusal = Refusal {
    status: 401,
    phrase: "Unauthorized",
    what: "a user and a password are needed",
    fields: "WWW-Authenticate: Basic realm=\"qio\", charset=\"UTF-8\"\r\n",
};

/// Whether a host, with or without a port, is this machine.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let is_address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().is_ok_and(|ip: core::net::Ipv6Addr| ip.is_loopback()),
        None => host.parse().is_ok_and(|ip: core::net::Ipv4Addr| ip.is_loopback()),
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (is_address || host.eq_ignore_ascii_case("localhost"))
}

fn is_key(key: &str) -> bool {
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            path: None,
            origins: Origins::Any,
            protocols: [String::from("binary")].into(),
            require_protocol: false,
            basic_auth: None,
            limit_bytes: DEFAULT_LIMIT,
            ws: WsOptions::default(),
        }
    }
}
