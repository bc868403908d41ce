//! What is answered: a status, fields, and a body.

use std::fs::File;
use std::time::{Duration, SystemTime};

use super::condition::date;

/// Why a request gets no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: u16,
    pub(super) what: &'static str,
}

pub(super) fn fault(status: u16, what: &'static str) -> Fault {
    Fault { status, what }
}

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Further fields, a line each.
    pub(super) fields: String,
    pub(super) body: Body,
    /// Nothing can be made of what the client sends behind the request.
    pub(super) must_close: bool,
}

#[derive(Debug)]
pub(super) enum Body {
    /// None, and no length of one: 304.
    Absent,
    Bytes(Vec<u8>),
    /// So many bytes of a file.
    File {
        file: File,
        from: u64,
        len: u64,
    },
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        let fields = format!("Content-Type: {content_type}\r\n");
        Self { status, fields, body: Body::Bytes(body), must_close: false }
    }

    /// An answer that says a thing in a line.
    pub(super) fn text(status: u16, what: &str) -> Self {
        Self::new(status, PLAIN, format!("{what}\n").into_bytes())
    }

    /// Adds a field whose value has no line break.
    pub(super) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push_str(name);
        self.fields.push_str(": ");
        self.fields.push_str(value);
        self.fields.push_str("\r\n");
        self
    }

    /// How long the body is, whether it is sent or not.
    pub(super) fn body_len(&self) -> u64 {
        match &self.body {
            Body::Absent => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    /// What goes in front of the body.
    pub(super) fn head(&self, now: SystemTime, closes: bool) -> Vec<u8> {
        let Self { status, fields, .. } = self;
        let phrase = phrase(*status);
        let seconds =
            now.duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs);
        let date = date(seconds).map(httpdate::fmt_http_date).unwrap_or_default();
        let length = match &self.body {
            Body::Absent => String::new(),
            _ => format!("Content-Length: {}\r\n", self.body_len()),
        };
        let connection = if closes { "Connection: close\r\n" } else { "" };
        // A browser that guesses at types makes scripts of texts.
        format!(
            "HTTP/1.1 {status} {phrase}\r\nDate: {date}\r\n{connection}{length}{fields}\
             X-Content-Type-Options: nosniff\r\n\r\n"
        )
        .into_bytes()
    }
}

impl From<Fault> for Reply {
    fn from(Fault { status, what }: Fault) -> Self {
        let reply = Self::text(status, what);
        match status {
            405 => reply.field("Allow", "GET, HEAD"),
            _ => reply,
        }
    }
}

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
