//! What a failure means, and what would help.

use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use qio::error::{Class, plain};
use qio::layer::tls::{Certificate, Facts, TlsError};
use qio::layer::ws::{ClientHandshake, HandshakeError};
use qio::net::Negotiated;
use rustls::{AlertDescription as Alert, CertificateError, PeerIncompatible};

use super::words::{date, days, days_between, excerpt};

/// What is wrong, for programs and for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub(super) kind: &'static str,
    pub(super) what: String,
    pub(super) advice: Option<String>,
}

impl Diagnosis {
    fn new(kind: &'static str, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Why there is no transport, or time was up.
pub(super) fn of_opening(
    error: &qio::Error,
    step: &str,
    limit: Duration,
    silent: bool,
) -> Diagnosis {
    match error.class() {
        Class::Timeout => match step {
            "connect" => Diagnosis::new("timeout", format!("nobody answered within {limit:?}"))
                .advice(
                    "a host that is down, or a firewall that drops what it does not let through",
                ),
            "resolve" => {
                Diagnosis::new("timeout", format!("the name was not resolved within {limit:?}"))
                    .advice("the name server does not answer: see /etc/resolv.conf")
            }
            layer if silent => {
                let what = format!("connected, but nothing came for {layer} within {limit:?}");
                Diagnosis::new("timeout", what).advice(
                    "the peer may wait for us to speak another protocol, or be too busy to accept",
                )
            }
            layer => {
                let what = format!("connected, but {layer} got half an answer within {limit:?}");
                Diagnosis::new("timeout", what).advice("the peer, or the way to it, is stuck")
            }
        },
        Class::Resolve => Diagnosis::new("name", "the name could not be resolved")
            .advice("check its spelling, and what the name server says: getent ahosts NAME"),
        Class::Usage => Diagnosis::new("usage", "the address makes no sense as it is"),
        _ => of_kind(error.io_kind().unwrap_or(ErrorKind::Other), || last_cause(error)),
    }
}

fn last_cause(error: &qio::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    plain(cause)
}

pub(super) fn of_io(error: &io::Error) -> Diagnosis {
    of_kind(error.kind(), || plain(error))
}

fn of_kind(kind: ErrorKind, text: impl FnOnce() -> String) -> Diagnosis {
    match kind {
        ErrorKind::ConnectionRefused => Diagnosis::new("refused", "nothing listens there")
            .advice("is the server running, on this port and this address of its host?"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            Diagnosis::new("unreachable", "there is no way to that host")
        }
        ErrorKind::NotFound => Diagnosis::new("not-found", "there is no such file or socket"),
        ErrorKind::PermissionDenied => {
            Diagnosis::new("permission", "the system does not let us open it")
        }
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => closed(),
        _ => Diagnosis::new("other", text()),
    }
}

fn closed() -> Diagnosis {
    Diagnosis::new("closed", "the peer closed the connection in the middle of the handshake")
        .advice("it may not let us in, speak another protocol, or its own log may say why")
}

/// Why a layer could not be had.
pub(super) fn of_layer(error: &io::Error, handshake: &Negotiated<'_>) -> Diagnosis {
    if let Some(error) = TlsError::find(error) {
        return match super::tls(handshake).map(|tls| tls.facts()) {
            Some(facts) => of_tls(
                error,
                &chain(&facts),
                facts.is_asked_for_certificate,
                facts.shows_certificate,
                facts.server_name.as_deref(),
            ),
            // A layer over TLS finds out what the server has said after its handshake.
            None => of_tls(error, &[], true, false, None),
        };
    }
    let failed = error.get_ref().and_then(|cause| cause.downcast_ref::<HandshakeError>());
    match (failed, handshake.find::<ClientHandshake>()) {
        (Some(error), Some(handshake)) => of_websocket(error, handshake),
        (Some(error), None) => Diagnosis::new("protocol", error.to_string()),
        (None, Some(handshake)) if is_tls(handshake.received()) => tls_instead(),
        (None, _) => of_io(error),
    }
}

/// Whether nothing has come from the peer of a handshake, as far as that can be told.
pub(super) fn is_silent(handshake: &Negotiated<'_>) -> bool {
    match (super::tls(handshake), handshake.find::<ClientHandshake>()) {
        (Some(tls), _) => tls.facts().version.is_none(),
        (_, Some(ws)) => ws.received().is_empty(),
        _ => true,
    }
}

/// The certificates that the peer has shown, as far as they can be read.
pub(super) fn chain(facts: &Facts) -> Vec<Certificate> {
    facts.peer_certificates.iter().filter_map(Certificate::parse).collect()
}

/// What is wrong with TLS; `is_asked` and `shows` are about our certificate.
pub(super) fn of_tls(
    error: &TlsError,
    chain: &[Certificate],
    is_asked: bool,
    shows: bool,
    asked_name: Option<&str>,
) -> Diagnosis {
    match error {
        TlsError::NotTls(sent) => not_tls(sent),
        TlsError::Unfinished | TlsError::Truncated => closed(),
        TlsError::Unpinned(is) => {
            Diagnosis::new("pin", "the peer shows another certificate than the one that is pinned")
                .advice(format!(
                    "if it was renewed, and this one is the right one: pin={is}; else somebody \
                     stands between"
                ))
        }
        TlsError::Denied(denied) => Diagnosis::new("denied", denied.to_string())
            .advice("the certificate is good, but allow= and deny= keep it out"),
        TlsError::Protocol(rustls::Error::InvalidCertificate(error)) => {
            of_certificate(error, chain, asked_name)
        }
        TlsError::Protocol(rustls::Error::AlertReceived(alert)) => {
            of_alert(*alert, is_asked, shows)
        }
        TlsError::Protocol(rustls::Error::PeerIncompatible(why)) => match why {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => old_version(),
            why => {
                Diagnosis::new("incompatible", format!("the two have nothing in common: {why:?}"))
            }
        },
        error => Diagnosis::new("protocol", error.to_string()),
    }
}

fn old_version() -> Diagnosis {
    Diagnosis::new("version", "the peer speaks no version of TLS that we accept")
        .advice("qio speaks TLS 1.2 and 1.3, and with min=1.3 only the latter")
}

fn of_certificate(
    error: &CertificateError,
    chain: &[Certificate],
    asked_name: Option<&str>,
) -> Diagnosis {
    use CertificateError as Error;
    let now = SystemTime::now();
    let first = chain.first();
    let pin = first.map(|first| format!("pin={}", first.fingerprint)).unwrap_or_default();
    let subject = |certificate: &Certificate| certificate.subject.clone();
    match error {
        Error::Expired | Error::ExpiredContext { .. } => {
            let found = chain.iter().find(|certificate| certificate.not_after < now);
            let Some(certificate) = found.or(first) else {
                return Diagnosis::new("expired", "a certificate has expired");
            };
            let ago = days(days_between(certificate.not_after, now));
            Diagnosis::new(
                "expired",
                format!(
                    "the certificate of {} has expired: it was valid until {}, {ago} ago",
                    subject(certificate),
                    date(certificate.not_after)
                ),
            )
            .advice("the server needs a new one; or the clock of this machine is wrong")
        }
        Error::NotValidYet | Error::NotValidYetContext { .. } => {
            let found = chain.iter().find(|certificate| certificate.not_before > now);
            let Some(certificate) = found.or(first) else {
                return Diagnosis::new("not-yet-valid", "a certificate is not valid yet");
            };
            Diagnosis::new(
                "not-yet-valid",
                format!(
                    "the certificate of {} is not valid before {}, in {}",
                    subject(certificate),
                    date(certificate.not_before),
                    days(days_between(now, certificate.not_before))
                ),
            )
            .advice("the clock of this machine, or of who signed it, is wrong")
        }
        Error::NotValidForName | Error::NotValidForNameContext { .. } => {
            let expected = match error {
                Error::NotValidForNameContext { expected, .. } => expected.to_str().into_owned(),
                _ => asked_name.unwrap_or("the name that was asked for").to_owned(),
            };
            let names: Vec<_> =
                first.iter().flat_map(|first| &first.names).map(ToString::to_string).collect();
            let (has, advice) = match &*names {
                [] => (
                    "it names no host (only subjectAltName counts, not the common name)".to_owned(),
                    format!("the server needs one that does; or trust this one by {pin}"),
                ),
                names => (
                    format!("it is for {}", names.join(", ")),
                    "connect to one of these names, or say with sni=NAME which of them it must \
                     have"
                        .to_owned(),
                ),
            };
            Diagnosis::new("name-mismatch", format!("the certificate is not for {expected}: {has}"))
                .advice(advice)
        }
        error if format!("{error:?}").contains("CaUsedAsEndEntity") => Diagnosis::new(
            "self-signed",
            "the certificate is marked as that of an authority, which may sign others and is \
             nobody's own",
        )
        .advice(format!("the server needs another one, or trust this one: {pin}")),
        _ if chain.len() == 1 && first.is_some_and(|it| it.subject == it.issuer) => {
            Diagnosis::new("self-signed", "the certificate is self-signed: nobody vouches for it")
                .advice(format!(
                    "if it is the right one (ask who runs the server), trust it: {pin}"
                ))
        }
        Error::UnknownIssuer => {
            let issuer = chain.last().map_or("somebody", |last| &last.issuer);
            Diagnosis::new(
                "unknown-authority",
                format!("the certificate leads to {issuer}, who is not trusted here"),
            )
            .advice(format!(
                "ca=FILE with the certificate of that authority, or trust this certificate alone: \
                 {pin}; or the server does not send the certificates between"
            ))
        }
        Error::Revoked => Diagnosis::new("revoked", "the certificate was revoked by its authority")
            .advice("the server needs a new one"),
        Error::ExpiredRevocationListContext { .. } | Error::ExpiredRevocationList => {
            Diagnosis::new("old-revocation-list", "the list of revoked certificates is out of date")
                .advice("fetch a new one for crl=")
        }
        error => Diagnosis::new("certificate", format!("the certificate is not accepted: {error}")),
    }
}

fn of_alert(alert: Alert, is_asked: bool, shows: bool) -> Diagnosis {
    let name = snake(&format!("{alert:?}"));
    let text = |what: &str| format!("the peer refuses with the alert {name}: {what}");
    let wants = || {
        Diagnosis::new("client-certificate", text("it wants a certificate of ours"))
            .advice("cert=FILE&key=FILE with one that its authorities have signed")
    };
    match alert {
        Alert::CertificateRequired => wants(),
        Alert::HandshakeFailure | Alert::BadCertificate if is_asked && !shows => wants(),
        Alert::UnknownCA
        | Alert::BadCertificate
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied
            if is_asked =>
        {
            Diagnosis::new("client-certificate", text("it does not let our certificate in"))
                .advice("cert=FILE&key=FILE with one that its authorities have signed")
        }
        Alert::ProtocolVersion => {
            let old = old_version();
            Diagnosis { what: text(&old.what), ..old }
        }
        Alert::NoApplicationProtocol => {
            Diagnosis::new("alpn", text("it knows none of our protocols"))
                .advice("other names in alpn=, or none")
        }
        Alert::UnrecognisedName => Diagnosis::new("sni", text("it serves no host of that name"))
            .advice("sni=NAME with a name that it knows"),
        _ => Diagnosis::new("alert", text("its log may say why")),
    }
}

/// `HandshakeFailure` as RFC 8446 has it: `handshake_failure`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    let mut was_upper = true;
    for char in name.chars() {
        if char.is_ascii_uppercase() && !was_upper {
            text.push('_');
        }
        was_upper = char.is_ascii_uppercase();
        text.push(char.to_ascii_lowercase());
    }
    text
}

fn not_tls(sent: &[u8]) -> Diagnosis {
    let who = [
        (&b"HTTP/"[..], "an HTTP server"),
        (b"SSH-", "an SSH server"),
        (b"RFB ", "a VNC server"),
        (b"220", "a mail or FTP server"),
        (b"* OK", "an IMAP server"),
        (b"+OK", "a POP3 server"),
        (b"<", "a server of HTML or XML"),
    ];
    let who = who.iter().find(|(start, _)| sent.starts_with(start));
    let who = who.map_or(String::new(), |(_, who)| format!(", as {who} without TLS does"));
    Diagnosis::new(
        "not-tls",
        format!("plain text where TLS was expected{who}: it sent \"{}\"", excerpt(sent)),
    )
    .advice("leave tls+ out, or connect to the port on which the service speaks TLS")
}

fn tls_instead() -> Diagnosis {
    Diagnosis::new("tls", "the peer speaks TLS where plain text was expected")
        .advice("wss://HOST, or ws+tls+ in front of the transport")
}

/// Whether these bytes are a record of TLS: an alert or a part of a handshake (RFC 8446, 5.1).
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [20..=22, 3, ..])
}

fn of_websocket(error: &HandshakeError, handshake: &ClientHandshake) -> Diagnosis {
    let received = handshake.received();
    match error {
        HandshakeError::Status { code, reason } => {
            let what = format!("the server answered {code} {reason} instead of 101");
            let field = |wanted: &str| {
                let fields = &handshake.response()?.fields;
                let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.clone())
            };
            let found = Diagnosis::new("http-status", what);
            match code {
                301 | 302 | 303 | 307 | 308 => match field("Location") {
                    Some(to) => found.advice(format!("it sends us elsewhere: {to}")),
                    None => found,
                },
                401 => found.advice("user=NAME&password-file=FILE"),
                403 => found.advice("it may want another origin=, or header="),
                404 | 405 => found.advice("another path: ws://HOST/PATH"),
                426 => found.advice("it wants another version, or no WebSocket"),
                200..=299 => found.advice("it is a web server that has no WebSocket at this path"),
                _ => found,
            }
        }
        _ if is_tls(received) => tls_instead(),
        HandshakeError::Truncated if received.is_empty() => closed(),
        HandshakeError::Malformed(_) | HandshakeError::Truncated
            if !received.starts_with(b"HTTP/") =>
        {
            let what = format!("the peer does not speak HTTP: it sent \"{}\"", excerpt(received));
            Diagnosis::new("not-http", what)
                .advice("leave ws+ out, or connect to the port of the web server")
        }
        HandshakeError::Truncated => closed(),
        error => Diagnosis::new("protocol", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_standard() {
        for (alert, name) in [
            (Alert::HandshakeFailure, "handshake_failure"),
            (Alert::UnknownCA, "unknown_ca"),
            (Alert::CertificateRequired, "certificate_required"),
        ] {
            assert_eq!(snake(&format!("{alert:?}")), name);
        }
    }
}
