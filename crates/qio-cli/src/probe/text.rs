//! Findings for people.

use std::fmt::Write as _;

use super::findings::{Certificate, Findings, Header, Tls, WebSocket};
use super::words::{days, readable};

/// The findings as lines: a step each, with its time, and below it what was found.
pub(super) fn of(findings: &Findings) -> String {
    let mut page = Page(format!("{}\n\n", findings.address));
    // Most layers read nothing; the roots of a system take their time.
    if let Some(prepare) = findings.prepare.as_ref().filter(|prepare| prepare.ms >= 1.0) {
        page.step("prepare", true, prepare.ms, "what layers read from files");
    }
    if let Some(resolve) = &findings.resolve {
        page.step("resolve", resolve.ok, resolve.ms, &resolve.addresses.join(", "));
    }
    if let Some(connect) = &findings.connect {
        let what = match (&connect.peer, &connect.local) {
            (Some(peer), Some(local)) if local != "unix:" => format!("{peer} from {local}"),
            (Some(peer), _) => peer.clone(),
            _ => String::new(),
        };
        page.step("connect", connect.ok, connect.ms, &what);
        if let Some(peer) = &connect.credentials {
            let who = format!("process {}, user {}, group {}", peer.pid, peer.uid, peer.gid);
            page.detail("peer", &who);
        }
        for attempt in &connect.failed {
            let text = format!("{}: {} after {:.1} ms", attempt.peer, attempt.error, attempt.ms);
            page.detail("in vain", &text);
        }
    }
    for layer in &findings.layers {
        let what = match (&layer.tls, &layer.websocket) {
            (Some(tls), _) => {
                let facts = [tls.version.as_deref(), tls.suite.as_deref()];
                facts.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
            (_, Some(ws)) => ws.status.map_or(String::new(), |status| {
                format!("{status} {}", ws.reason.as_deref().unwrap_or_default())
            }),
            _ => String::new(),
        };
        page.step(&layer.layer, layer.ok, layer.ms, what.trim_end());
        if let Some(tls) = &layer.tls {
            page.tls(tls, layer.ok);
        }
        if let Some(ws) = &layer.websocket {
            page.websocket(ws, layer.ok);
        }
    }
    page.step("total", true, findings.total_ms, "");
    if let Some(trouble) = &findings.error {
        let _ = writeln!(page.0, "\n{} failed: {}", trouble.step, trouble.diagnosis);
        if let Some(advice) = &trouble.advice {
            let _ = writeln!(page.0, "what helps: {advice}");
        }
    }
    page.0
}

struct Page(String);

/// Writing into a String cannot fail.
impl Page {
    fn step(&mut self, name: &str, ok: bool, ms: f64, what: &str) {
        let failed = match (ok, what.is_empty()) {
            (true, _) => "",
            (false, true) => "failed",
            (false, false) => "failed: ",
        };
        let line = format!("{name:<10} {ms:>9.1} ms  {failed}{what}");
        let _ = writeln!(self.0, "{}", line.trim_end());
    }

    fn detail(&mut self, name: &str, text: &str) {
        let line = format!("  {name:<18} {text}");
        let _ = writeln!(self.0, "{}", line.trim_end());
    }

    fn inner(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "    {name:<16} {text}");
    }

    fn header(&mut self, header: &Header) {
        let _ = writeln!(self.0, "    {}: {}", header.name, header.value);
    }

    fn tls(&mut self, tls: &Tls, ok: bool) {
        self.detail(
            "server name",
            tls.sni.as_deref().unwrap_or("not sent: there is no name of a host"),
        );
        if let Some(alpn) = &tls.alpn {
            self.detail("protocol", &format!("{alpn} (ALPN)"));
        }
        if ok {
            self.detail("session", if tls.resumed { "resumed" } else { "new" });
        }
        let trusted = match tls.trusted_by {
            Some("system") => "yes, by an authority of the system",
            Some("authority") => "yes, by the authority in ca= or creds=",
            Some("pin") => "yes, by its pin",
            Some(_) => "not verified at all (verify=off)",
            None if tls.resumed => "yes, when the session began",
            None => "NO",
        };
        if ok || !tls.chain.is_empty() {
            self.detail("trusted", trusted);
        }
        if tls.trusted_by.is_some() && tls.revocation_checked {
            self.detail("revoked", "not by the lists that were given");
        }
        match tls.client_certificate {
            "none" => self.detail("our certificate", "was asked for, and there is none"),
            "shown" => self.detail("our certificate", "was asked for and shown"),
            _ => {}
        }
        for (index, certificate) in tls.chain.iter().enumerate() {
            self.certificate(index + 1, certificate);
        }
    }

    fn certificate(&mut self, number: usize, certificate: &Certificate) {
        self.detail(&format!("certificate {number}"), &certificate.subject);
        self.inner("issuer", &certificate.issuer);
        if !certificate.names.is_empty() {
            self.inner("names", &certificate.names.join(", "));
        }
        let left = match certificate.days_left {
            left @ 0.. => format!("{} left", days(left)),
            over => format!("EXPIRED {} ago", days(-over - 1)),
        };
        let [not_before, not_after] =
            [&certificate.not_before, &certificate.not_after].map(|moment| readable(moment));
        self.inner("valid", &format!("{not_before} to {not_after} ({left})"));
        self.inner("key", &format!("{}, signed with {}", certificate.key, certificate.signature));
        self.inner("pin", &certificate.sha256);
    }

    fn websocket(&mut self, ws: &WebSocket, ok: bool) {
        let asked = &ws.request;
        self.detail("asked", &format!("GET {} of {}", asked.target, asked.host));
        if let Some(origin) = &asked.origin {
            let _ = writeln!(self.0, "    Origin: {origin}");
        }
        if !asked.protocols.is_empty() {
            let offered = asked.protocols.join(", ");
            let _ = writeln!(self.0, "    Sec-WebSocket-Protocol: {offered}");
        }
        for header in &asked.headers {
            self.header(header);
        }
        if ok {
            self.detail("sub-protocol", ws.protocol.as_deref().unwrap_or("none"));
        }
        if !ws.headers.is_empty() {
            self.detail("answer", "");
        }
        for header in &ws.headers {
            self.header(header);
        }
        if let Some(body) = &ws.body {
            self.detail("body", body);
        }
    }
}
