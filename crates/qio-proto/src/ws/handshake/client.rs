//! The side of the client: RFC 6455, section 4.1.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::tokens::{has, has_token, only};
use super::{BasicAuth, DEFAULT_LIMIT, HandshakeError, HeaderEnd, MAX_FIELDS, accept_key};
use crate::engine::Handshake;
use crate::ws::{KeySource, WebSocket, WsOptions};

/// What a client asks for, and how it goes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The host, with the port unless that is the usual one.
    pub host: String,
    /// Path and query. Default: `/`.
    pub target: String,
    /// The page that the client stands for. Default: none.
    pub origin: Option<String>,
    /// The sub-protocols that are offered, the best first. Default: none.
    pub protocols: Vec<String>,
    /// Further header fields: name and value.
    pub headers: Vec<(String, String)>,
    /// User and password (RFC 7617). Default: none.
    pub basic_auth: Option<BasicAuth>,
    /// The longest answer. Default: 4 KiB.
    pub limit_bytes: usize,
    /// How the connection goes on.
    pub ws: WsOptions,
}

/// What the server agreed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The sub-protocol that it chose.
    pub protocol: Option<String>,
}

/// What a server has answered, as HTTP: whatever the answer is.
///
/// All of it comes from the peer; there may be any character but line breaks in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status: 101 is the one that is hoped for.
    pub status: u16,
    /// What the server calls it.
    pub reason: String,
    /// The header fields, in their order.
    pub fields: Vec<(String, String)>,
    /// The beginning of what came along behind the header of a refusal: at most 512 bytes, for a
    /// look.
    pub body: Vec<u8>,
}

/// The handshake of a client: sends a request, and waits for the answer.
pub struct ClientHandshake {
    options: ClientOptions,
    keys: KeySource,
    expected: String,
    request: Vec<u8>,
    end: HeaderEnd,
    answer: Option<Answer>,
    response: Option<Response>,
    /// The beginning of what came, for a look.
    received: Vec<u8>,
}

impl ClientHandshake {
    /// A handshake whose request wants to be sent.
    ///
    /// `nonce` is 16 random bytes (RFC 6455, section 4.1); `keys` makes the masking keys of all
    /// frames and must not be predictable.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::BadOption`] for what would break the request.
    pub fn new(
        options: ClientOptions,
        nonce: [u8; 16],
        keys: KeySource,
    ) -> Result<Self, HandshakeError> {
        options.check()?;
        let key = BASE64_STANDARD.encode(nonce);
        let request = options.request(&key).into_bytes();
        let expected = accept_key(&key);
        Ok(Self {
            options,
            keys,
            expected,
            request,
            end: HeaderEnd::default(),
            answer: None,
            response: None,
            received: Vec::new(),
        })
    }

    /// What the server agreed to, once it has.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What is asked for.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// What the server has answered, once that has come, also when it is a refusal.
    pub fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    /// The beginning of what the server has sent, whatever it is: at most 512 bytes.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    fn check(&mut self, header: &[u8], rest: &[u8]) -> Result<Answer, HandshakeError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        match parsed.parse(header) {
            Ok(httparse::Status::Complete(_)) => {}
            _ => return Err(HandshakeError::Malformed(NO_HTTP)),
        }
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let status = parsed.code.unwrap_or(0);
        self.response = Some(Response {
            status,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            fields: parsed
                .headers
                .iter()
                .map(|field| (field.name.to_owned(), text(field.value)))
                .collect(),
            body: if status == 101 { Vec::new() } else { start_of(rest).to_vec() },
        });
        if parsed.code != Some(101) {
            let reason = parsed.reason.unwrap_or_default().to_owned();
            return Err(HandshakeError::Status { code: parsed.code.unwrap_or(0), reason });
        }
        let fields = &*parsed.headers;
        if !has_token(fields, "Upgrade", "websocket") {
            return Err(HandshakeError::Malformed("Upgrade does not name websocket"));
        }
        if !has_token(fields, "Connection", "upgrade") {
            return Err(HandshakeError::Malformed("Connection does not name upgrade"));
        }
        if only(fields, "Sec-WebSocket-Accept") != Some(&self.expected) {
            return Err(HandshakeError::Malformed("Sec-WebSocket-Accept is no answer to our key"));
        }
        if has(fields, "Sec-WebSocket-Extensions") {
            return Err(HandshakeError::Malformed("the server uses an extension nobody offered"));
        }
        let protocol = only(fields, "Sec-WebSocket-Protocol");
        let offered = |chosen: &str| self.options.protocols.iter().any(|name| name == chosen);
        if has(fields, "Sec-WebSocket-Protocol") && !protocol.is_some_and(offered) {
            return Err(HandshakeError::Malformed(
                "the server chose a sub-protocol nobody offered",
            ));
        }
        Ok(Answer { protocol: protocol.map(ToOwned::to_owned) })
    }
}

impl ClientOptions {
    /// Asks `host` for `/`.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            target: "/".into(),
            origin: None,
            protocols: Vec::new(),
            headers: Vec::new(),
            basic_auth: None,
            limit_bytes: DEFAULT_LIMIT,
            ws: WsOptions::default(),
        }
    }

    fn check(&self) -> Result<(), HandshakeError> {
        let bad = |what| Err(HandshakeError::BadOption(what));
        let visible = |text: &str| text.bytes().all(|byte| matches!(byte, 0x21..=0x7E));
        let token = |text: &str| {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || TOKEN.contains(&byte);
            !text.is_empty() && text.bytes().all(is_token)
        };
        let value = |text: &str| !text.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control());
        if self.host.is_empty() || !visible(&self.host) {
            return bad("the host is empty, or has characters that no host has");
        }
        if !self.target.starts_with('/') || !visible(&self.target) {
            return bad("the path does not begin with /, or has characters that must be escaped");
        }
        if !self.protocols.iter().all(|name| token(name)) {
            return bad("the name of a sub-protocol is no token");
        }
        if self.origin.as_deref().is_some_and(|origin| !visible(origin)) {
            return bad("the origin has characters that no origin has");
        }
        if !self.headers.iter().all(|(name, text)| token(name) && value(text)) {
            return bad("a header has a name that is no token, or a line break in its value");
        }
        //= https://www.rfc-editor.org/rfc/rfc7617#section-2
        //# a user-id containing a colon character is invalid
        if self.basic_auth.as_ref().is_some_and(|auth| auth.user.contains(':')) {
            return bad("a user's name has a colon");
        }
        Ok(())
    }

    fn request(&self, key: &str) -> String {
        let Self { host, target, .. } = self;
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: \
             Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if let Some(origin) = &self.origin {
            request += &format!("Origin: {origin}\r\n");
        }
        if !self.protocols.is_empty() {
            request += &format!("Sec-WebSocket-Protocol: {}\r\n", self.protocols.join(", "));
        }
        if let Some(auth) = &self.basic_auth {
            request += &format!("Authorization: {}\r\n", auth.field());
        }
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request + "\r\n"
    }
}

impl Handshake for ClientHandshake {
    type Engine = WebSocket;
    type Error = HandshakeError;

    fn handle_wire(&mut self, wire: &mut [u8]) -> Result<usize, HandshakeError> {
        if self.is_done() {
            return Ok(0);
        }
        if self.received.len() < LOOK_BYTES {
            self.received.clear();
            self.received.extend_from_slice(start_of(wire));
        }
        // Whoever speaks something else may never send the end of a header.
        let start = &wire[..wire.len().min(HTTP.len())];
        if !HTTP.starts_with(start) {
            return Err(HandshakeError::Malformed(NO_HTTP));
        }
        let limit_bytes = self.options.limit_bytes;
        let end = match self.end.find(wire) {
            Some(end) if end <= limit_bytes => end,
            None if wire.len() < limit_bytes => return Ok(0),
            _ => return Err(HandshakeError::TooLong { limit_bytes }),
        };
        self.answer = Some(self.check(&wire[..end], &wire[end..])?);
        Ok(end)
    }

    fn limit_bytes(&self) -> usize {
        self.options.limit_bytes
    }

    fn handle_end(&mut self) -> HandshakeError {
        HandshakeError::Truncated
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        let count = self.request.len().min(wire.len());
        wire[..count].copy_from_slice(&self.request[..count]);
        self.request.drain(..count);
        count
    }

    fn wants_wire(&self) -> bool {
        !self.request.is_empty()
    }

    fn is_done(&self) -> bool {
        self.answer.is_some()
    }

    fn into_engine(self) -> WebSocket {
        WebSocket::client(self.options.ws, self.keys)
    }
}

impl fmt::Debug for ClientHandshake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the request: there may be a password in it.
        out.debug_struct("ClientHandshake")
            .field("host", &self.options.host)
            .field("target", &self.options.target)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

fn start_of(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(LOOK_BYTES)]
}

/// How much is kept for a look.
const LOOK_BYTES: usize = 512;

/// What every answer begins with: RFC 9112, section 4.
const HTTP: &[u8] = b"HTTP/";

const NO_HTTP: &str = "this is no HTTP answer";

/// What a token has besides letters and digits: RFC 9110, section 5.6.2.
const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~";
