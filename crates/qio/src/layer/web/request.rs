//! One request, without any input or output: RFC 9112.

use super::condition::Conditions;
use super::reply::{Fault, fault};

/// What a client asks for.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// As it was written, without the query.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) host: Option<String>,
    pub(super) authorization: Option<String>,
    pub(super) conditions: Conditions,
    /// The connection goes on after the answer.
    pub(super) keeps_alive: bool,
    /// It asks for a WebSocket, whether rightly or not.
    pub(super) is_upgrade: bool,
}

/// How many header fields a request may have; browsers send some twenty.
const MAX_FIELDS: usize = 64;

impl Request {
    /// Reads a header, with the empty line that ends it: what can be said of the request, and why it
    /// is not answered as it was meant.
    pub(super) fn parse(header: &[u8]) -> (Self, Option<Fault>) {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        let failed = match parsed.parse(header) {
            Ok(httparse::Status::Complete(_)) => None,
            Err(httparse::Error::TooManyHeaders) => Some(fault(431, "there are too many fields")),
            Err(httparse::Error::Version) => {
                Some(fault(505, "the version of HTTP is neither 1.1 nor 1.0"))
            }
            _ => Some(fault(400, "this is no HTTP request")),
        };
        let mut request = Self {
            method: parsed.method.unwrap_or_default().to_owned(),
            ..Self::target(parsed.path.unwrap_or_default())
        };
        if failed.is_some() {
            return (request, failed);
        }
        let is_1_1 = parsed.version == Some(1);
        let fields = Fields(parsed.headers);
        request.keeps_alive = is_1_1 && !fields.has_token("Connection", "close");
        request.is_upgrade = fields.has_token("Upgrade", "websocket");
        request.host = fields.only("Host").map(str::to_owned);
        request.authorization = fields.only("Authorization").map(str::to_owned);
        request.conditions = Conditions {
            if_match: fields.joined("If-Match"),
            if_none_match: fields.joined("If-None-Match"),
            if_modified_since: fields.only("If-Modified-Since").map(str::to_owned),
            if_unmodified_since: fields.only("If-Unmodified-Since").map(str::to_owned),
            if_range: fields.only("If-Range").map(str::to_owned),
            range: fields.only("Range").map(str::to_owned),
        };
        let unfit = if is_1_1 && request.host.is_none() {
            //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
            //# A server MUST respond with a 400 (Bad Request) status code to any
            //# HTTP/1.1 request message that lacks a Host header field and to any
            //# request message that contains more than one Host header field line or
            //# a Host header field with an invalid field value.
            Some(fault(400, "there is not one Host"))
        } else if fields.has("Transfer-Encoding") {
            // Where it ends is a question that nobody here has to answer.
            Some(fault(413, "a request here has no body"))
        } else if fields.has("Content-Length") {
            match fields.only("Content-Length") {
                Some("0") => None,
                Some(len) if !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Some(fault(413, "a request here has no body"))
                }
                _ => Some(fault(400, "Content-Length is no number")),
            }
        } else {
            None
        };
        (request, unfit)
    }

    /// A request for that target; the host of the absolute form is left to the field Host.
    fn target(target: &str) -> Self {
        let is_web =
            |scheme: &str| ["http", "https"].iter().any(|s| s.eq_ignore_ascii_case(scheme));
        let target = match target.split_once("://") {
            Some((scheme, rest)) if is_web(scheme) => {
                rest.find(['/', '?']).map_or("/", |at| &rest[at..])
            }
            _ => target,
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() && query.is_some() { "/" } else { path };
        Self { path: path.to_owned(), query, ..Self::default() }
    }
}

/// The folders and the file that a path names, each decoded once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) names: Vec<Vec<u8>>,
    /// It ends with a slash.
    pub(super) is_folder: bool,
}

impl Names {
    /// Reads a path. No name is empty, `.` or `..`, and none has a slash or a NUL byte.
    pub(super) fn parse(path: &str) -> Result<Self, Fault> {
        let Some(path) = path.strip_prefix('/') else {
            return Err(fault(400, "the path does not begin with a slash"));
        };
        let mut names: Vec<_> = path.split('/').map(decoded).collect::<Result<_, _>>()?;
        let is_folder = names.pop_if(|last| last.is_empty()).is_some();
        for name in &names {
            if name.contains(&0) || name.contains(&b'/') {
                return Err(fault(400, "a name in the path has a slash or a NUL byte"));
            }
            if *name == b"." || *name == b".." {
                return Err(fault(400, "a name in the path is . or .."));
            }
            // Two slashes: no folder is called so, and a path that begins with them would be a
            // host to a browser.
            if name.is_empty() {
                return Err(fault(404, "there is no such file"));
            }
        }
        Ok(Self { names, is_folder })
    }

    /// Whether one of them is hidden, by the custom of its first byte.
    pub(super) fn is_hidden(&self) -> bool {
        self.names.iter().any(|name| name.starts_with(b"."))
    }

    /// All of them, as the kernel reads them.
    pub(super) fn joined(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }
}

/// Decodes once: what comes out is not looked at for further escapes.
fn decoded(name: &str) -> Result<Vec<u8>, Fault> {
    let bytes = name.as_bytes();
    let is_escape = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !is_escape(at)) {
        return Err(fault(400, "a % in the path is not followed by two hexadecimal digits"));
    }
    Ok(percent_encoding::percent_decode(bytes).collect())
}

/// Finds the end of a header that comes in pieces, looking at each byte once.
#[derive(Debug, Default)]
pub(super) struct HeaderEnd {
    seen: usize,
}

impl HeaderEnd {
    /// Where the header in front of `bytes` ends, if it does; begins anew after that.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let from = self.seen.saturating_sub(END.len() - 1);
        self.seen = bytes.len();
        let at = bytes.get(from..)?.windows(END.len()).position(|part| part == END)?;
        self.seen = 0;
        Some(from + at + END.len())
    }
}

const END: &[u8] = b"\r\n\r\n";

/// The fields of a header: RFC 9110, section 5.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl Fields<'_> {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).unwrap_or_default().trim_ascii())
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a field that is there once.
    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// The value of a field that is a list.
    fn joined(&self, name: &str) -> Option<String> {
        self.has(name).then(|| self.all(name).collect::<Vec<_>>().join(", "))
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|candidate| candidate.trim_ascii().eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Box<Request>, u16> {
        match Request::parse(text.as_bytes()) {
            (request, None) => Ok(request.into()),
            (_, Some(fault)) => Err(fault.status),
        }
    }

    #[test]
    fn targets_in_all_their_forms_are_a_path_and_a_query() {
        for (target, path, query) in [
            ("/", "/", None),
            ("/a/b?c?d", "/a/b", Some("c?d")),
            ("http://other.example/a?b", "/a", Some("b")),
            ("HTTPS://other.example", "/", None),
            ("http://other.example?b", "/", Some("b")),
            ("ftp://other.example/a", "ftp://other.example/a", None),
            ("*", "*", None),
        ] {
            let request = parse(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
            assert_eq!((&*request.path, request.query.as_deref()), (path, query), "{target}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_answered_has_its_status() {
        let many = "A: b\r\n".repeat(80);
        for (line, fields, status) in [
            ("GET / HTTP/1.1", "", 400),
            ("GET / HTTP/1.1", "Host: a\r\nHost: b\r\n", 400),
            ("GET / HTTP/2.0", "Host: a\r\n", 505),
            ("GET /", "Host: a\r\n", 400),
            ("G T / HTTP/1.1", "Host: a\r\n", 505),
            ("GET / HTTP/1.1", "Host: a\r\nContent-Length: 5\r\n", 413),
            ("GET / HTTP/1.1", "Host: a\r\nContent-Length: 5, 5\r\n", 400),
            ("GET / HTTP/1.1", "Host: a\r\nContent-Length: -1\r\n", 400),
            ("GET / HTTP/1.1", "Host: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n", 400),
            ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n", 413),
            ("GET / HTTP/1.1", "Host: a\r\n b\r\n", 400),
            ("GET / HTTP/1.1", "Host : a\r\n", 400),
            ("GET / HTTP/1.1", many.as_str(), 431),
        ] {
            let text = format!("{line}\r\n{fields}\r\n");
            assert_eq!(parse(&text).unwrap_err(), status, "{text}");
        }
    }

    #[test]
    fn a_connection_goes_on_unless_somebody_says_otherwise() {
        for (version, fields, goes_on) in [
            ("1.1", "Host: h\r\n", true),
            ("1.1", "Host: h\r\nConnection: keep-alive\r\n", true),
            ("1.1", "Host: h\r\nConnection: x, CLOSE\r\n", false),
            ("1.0", "", false),
        ] {
            let request = parse(&format!("GET / HTTP/{version}\r\n{fields}\r\n")).unwrap();
            assert_eq!(request.keeps_alive, goes_on, "{version} {fields}");
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_leads_nowhere_else() {
        let names = |path: &str| Names::parse(path).map_err(|fault| fault.status);
        let some = |names: &[&str], is_folder| {
            let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            Ok(Names { names, is_folder })
        };
        assert_eq!(names("/"), some(&[], true));
        assert_eq!(names("/a%20b/c"), some(&["a b", "c"], false));
        assert_eq!(names("/a/"), some(&["a"], true));
        assert_eq!(names("/%252e%252e/x"), some(&["%2e%2e", "x"], false));
        assert_eq!(names("/..."), some(&["..."], false));
        for (path, status) in [
            ("", 400),
            ("*", 400),
            ("a", 400),
            ("/../a", 400),
            ("/%2e%2e/a", 400),
            ("/.%2E/a", 400),
            ("/./a", 400),
            ("/a/..", 400),
            ("/..%2fa", 400),
            ("/a%2Fb", 400),
            ("/a%00b", 400),
            ("/%zz", 400),
            ("/%4", 400),
            ("/%", 400),
            ("//a", 404),
            ("//", 404),
            ("/a//b", 404),
        ] {
            assert_eq!(names(path), Err(status), "{path}");
        }
        assert!(names("/a/.git/config").unwrap().is_hidden());
        assert!(names("/%2egit").unwrap().is_hidden());
    }
}
