//! What a probe has found: the document that `--json` prints.
//!
//! Its names are a promise: `qio probe --help` explains them.

use serde::Serialize;

/// Everything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) address: String,
    pub(crate) ok: bool,
    pub(crate) total_ms: f64,
    pub(crate) prepare: Option<Prepare>,
    pub(crate) resolve: Option<Resolve>,
    pub(crate) connect: Option<Connect>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) error: Option<Trouble>,
}

/// The files that layers need.
#[derive(Debug, Serialize)]
pub(crate) struct Prepare {
    pub(crate) ms: f64,
}

/// The name of a host.
#[derive(Debug, Serialize)]
pub(crate) struct Resolve {
    pub(crate) ok: bool,
    pub(crate) ms: f64,
    pub(crate) addresses: Vec<String>,
}

/// The transport.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Connect {
    pub(crate) ok: bool,
    pub(crate) ms: f64,
    pub(crate) local: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) credentials: Option<Credentials>,
    /// Addresses that did not answer.
    pub(crate) failed: Vec<Attempt>,
}

/// An address that was called in vain.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    pub(crate) peer: String,
    pub(crate) ms: f64,
    pub(crate) error: String,
}

/// Who is at the other end of a Unix socket.
#[derive(Debug, Serialize)]
pub(crate) struct Credentials {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// One layer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Layer {
    pub(crate) layer: String,
    pub(crate) ok: bool,
    pub(crate) ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Tls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) websocket: Option<WebSocket>,
}

/// A TLS handshake, as far as it came.
#[derive(Debug, Serialize)]
pub(crate) struct Tls {
    pub(crate) version: Option<String>,
    pub(crate) suite: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) resumed: bool,
    /// `system`, `authority`, `pin`, `nobody`; nothing when it is not trusted.
    pub(crate) trusted_by: Option<&'static str>,
    pub(crate) revocation_checked: bool,
    pub(crate) client_certificate: &'static str,
    pub(crate) chain: Vec<Certificate>,
}

/// One certificate, as the peer has shown it.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) names: Vec<String>,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// Negative when it has expired.
    pub(crate) days_left: i64,
    pub(crate) key: String,
    pub(crate) signature: String,
    pub(crate) sha256: String,
}

/// A WebSocket handshake, as far as it came.
#[derive(Debug, Serialize)]
pub(crate) struct WebSocket {
    pub(crate) request: Request,
    pub(crate) status: Option<u16>,
    pub(crate) reason: Option<String>,
    pub(crate) headers: Vec<Header>,
    pub(crate) protocol: Option<String>,
    /// The beginning of the body of a refusal.
    pub(crate) body: Option<String>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Request {
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) origin: Option<String>,
    pub(crate) protocols: Vec<String>,
    /// Without the password.
    pub(crate) headers: Vec<Header>,
}

/// A header field.
#[derive(Debug, Serialize)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// What went wrong.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Trouble {
    /// `prepare`, `resolve`, `connect`, or the layer.
    pub(crate) step: String,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) diagnosis: String,
    pub(crate) advice: Option<String>,
}
