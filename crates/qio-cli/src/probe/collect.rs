//! Puts together what an observer is told.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use qio::Address;
use qio::ChannelExt;
use qio::error::{Class, plain};
use qio::layer::tls::{self, TlsError, TrustedBy};
use qio::layer::ws::ClientHandshake;
use qio::net::{ConnectEvent, Negotiated};
use qio::transport::{Messages, Socket};

use super::diagnosis::{self, Diagnosis};
use super::findings::{
    Attempt, Certificate, Credentials, Findings, Header, Layer, Prepare, Request, Resolve, Tls,
    Trouble, WebSocket,
};
use super::words::{days_between, excerpt, moment, shown};
use crate::exit::Failure;

/// What was found so far, shared with the observer.
#[derive(Clone, Debug)]
pub(super) struct Collector(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    address: String,
    /// The transport has a name to resolve.
    resolves: bool,
    has_layers: bool,
    findings: Findings,
    started: Instant,
    /// When the step that is going on has begun.
    since: Instant,
    /// Addresses that were called and have not answered.
    called: Vec<(SocketAddr, Instant)>,
    /// The layer whose handshake is going on.
    layer: Option<String>,
    /// What is wrong with it.
    diagnosis: Option<Diagnosis>,
    /// Nothing had come from its peer when time was up.
    is_silent: bool,
}

impl Collector {
    pub(super) fn new(address: &Address) -> Self {
        let (resolves, has_layers) = (address.scheme().name == "tcp", address.has_layers());
        Self(Arc::new(Mutex::new(State::new(address.to_string(), resolves, has_layers))))
    }

    pub(super) fn observer(&self) -> impl Fn(&ConnectEvent<'_>) + Send + Sync + 'static {
        let collector = self.clone();
        move |event| collector.lock().note(event, Instant::now())
    }

    /// Whether a server has not said yet what it makes of our certificate.
    pub(super) fn awaits_verdict(&self) -> bool {
        let state = self.lock();
        let mut found = state.findings.layers.iter().filter_map(|layer| layer.tls.as_ref());
        found.any(|tls| tls.client_certificate != NOT_ASKED)
    }

    /// The opening has failed.
    pub(super) fn failed(&self, error: qio::Error, limit: Duration) -> Failure {
        let mut state = self.lock();
        let now = Instant::now();
        let step = state.end_step(error.class(), now);
        let (found, silent) = (state.diagnosis.take(), state.is_silent);
        let found = found.unwrap_or_else(|| diagnosis::of_opening(&error, &step, limit, silent));
        state.trouble(step, found, error.report().to_string());
        error.into()
    }

    /// The server has refused us when everything seemed to be done.
    pub(super) fn refused(&self, error: &io::Error) -> Failure {
        let mut state = self.lock();
        let layers = &mut state.findings.layers;
        let layer = layers.iter_mut().rev().find(|layer| layer.tls.is_some());
        let step = layer.map(|layer| {
            layer.ok = false;
            layer.layer.clone()
        });
        let mut found = state.findings.layers.iter().filter_map(|layer| layer.tls.as_ref());
        let shows = found.any(|tls| tls.client_certificate == SHOWN);
        let found = match TlsError::find(error) {
            Some(error) => diagnosis::of_tls(error, &[], true, shows, None),
            None => diagnosis::of_io(error),
        };
        let what = format!("connect {}", state.address);
        let failure = Failure::io(what, error);
        let message = failure.message().unwrap_or_default().to_owned();
        state.trouble(step.unwrap_or_default(), found, message);
        failure
    }

    /// Everything that was found.
    pub(super) fn finish(&self, result: &Result<(), Failure>) -> Findings {
        let mut state = self.lock();
        state.findings.ok = result.is_ok();
        state.findings.total_ms = ms(state.started.elapsed());
        state.findings.address = shown(&state.address);
        std::mem::take(&mut state.findings)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(address: String, resolves: bool, has_layers: bool) -> Self {
        let now = Instant::now();
        Self {
            address,
            resolves,
            has_layers,
            findings: Findings::default(),
            started: now,
            since: now,
            called: Vec::new(),
            layer: None,
            diagnosis: None,
            is_silent: false,
        }
    }

    fn note(&mut self, event: &ConnectEvent<'_>, now: Instant) {
        match event {
            // What an attempt before has found is of no use any more.
            ConnectEvent::Started => {
                *self =
                    Self::new(std::mem::take(&mut self.address), self.resolves, self.has_layers);
            }
            ConnectEvent::Prepared => {
                self.findings.prepare = Some(Prepare { ms: self.step(now) });
            }
            ConnectEvent::Resolved { addresses } => {
                let addresses = addresses.iter().map(|address| address.ip().to_string()).collect();
                self.findings.resolve = Some(Resolve { ok: true, ms: self.step(now), addresses });
            }
            ConnectEvent::Calling { peer } => self.called.push((*peer, now)),
            ConnectEvent::NotReached { peer, error } => {
                let at = self.called.iter().position(|(called, _)| called == peer);
                let since = at.map_or(now, |at| self.called.swap_remove(at).1);
                let error = shown(&plain(*error));
                let ms = ms(now - since);
                let attempt = Attempt { peer: peer.to_string(), ms, error };
                self.findings.connect.get_or_insert_default().failed.push(attempt);
            }
            ConnectEvent::Opened { channel } => {
                let ms = self.step(now);
                let connect = self.findings.connect.get_or_insert_default();
                (connect.ok, connect.ms) = (true, ms);
                let (local, peer, who) = if let Some(socket) = channel.find::<Socket>() {
                    (socket.local_address(), socket.peer_address(), socket.peer_credentials())
                } else if let Some(socket) = channel.find::<Messages>() {
                    (socket.local_address(), socket.peer_address(), socket.peer_credentials())
                } else {
                    return;
                };
                connect.local = local.ok().map(|end| end.to_string());
                connect.peer = peer.ok().map(|end| end.to_string());
                connect.credentials =
                    who.ok().map(|who| Credentials { pid: who.pid, uid: who.uid, gid: who.gid });
            }
            ConnectEvent::LayerStarted { layer } => {
                self.since = now;
                self.layer = Some((*layer).to_owned());
            }
            ConnectEvent::LayerReady { handshake, .. } => {
                self.end_layer(true, handshake, now);
            }
            ConnectEvent::LayerGivenUp { handshake, .. } => {
                self.is_silent = diagnosis::is_silent(handshake);
                self.end_layer(false, handshake, now);
            }
            ConnectEvent::LayerFailed { error, handshake, .. } => {
                self.diagnosis = Some(diagnosis::of_layer(error, handshake));
                self.end_layer(false, handshake, now);
            }
            _ => {}
        }
    }

    /// Ends a step, and gives its time.
    fn step(&mut self, now: Instant) -> f64 {
        ms(now - std::mem::replace(&mut self.since, now))
    }

    fn end_layer(&mut self, ok: bool, handshake: &Negotiated<'_>, now: Instant) {
        let Some(layer) = self.layer.take() else { return };
        let ms = self.step(now);
        let tls = super::tls(handshake).map(|tls| of_tls(&tls.facts()));
        let websocket = handshake.find().map(of_websocket);
        self.findings.layers.push(Layer { layer, ok, ms, tls, websocket });
    }

    /// Ends the step in which everything ended, and gives its name.
    fn end_step(&mut self, class: Class, now: Instant) -> String {
        if let Some(failed) = self.findings.layers.last().filter(|layer| !layer.ok) {
            return failed.layer.clone();
        }
        let is_called = self.findings.resolve.is_some() || self.findings.connect.is_some();
        let is_unprepared = self.has_layers && self.findings.prepare.is_none();
        match class {
            Class::Usage => "prepare",
            _ if is_unprepared => "prepare",
            Class::Resolve | Class::Timeout if self.resolves && !is_called => {
                let ms = self.step(now);
                self.findings.resolve = Some(Resolve { ok: false, ms, addresses: Vec::new() });
                "resolve"
            }
            Class::Resolve => "resolve",
            _ => {
                let ms = self.step(now);
                if is_called {
                    self.findings.connect.get_or_insert_default().ms = ms;
                }
                "connect"
            }
        }
        .to_owned()
    }

    fn trouble(&mut self, step: String, found: Diagnosis, message: String) {
        let Diagnosis { kind, what, advice } = found;
        let (message, diagnosis) = (shown(&message), shown(&what));
        let advice = advice.map(|advice| shown(&advice));
        self.findings.error = Some(Trouble { step, kind, message, diagnosis, advice });
    }
}

const NOT_ASKED: &str = "not-asked";
const SHOWN: &str = "shown";

fn of_tls(facts: &tls::Facts) -> Tls {
    Tls {
        version: facts.version_text(),
        suite: facts.suite_text(),
        alpn: facts.alpn_text(),
        sni: facts.server_name.as_deref().map(shown),
        resumed: facts.resumed,
        trusted_by: facts.trusted_by.map(|by| match by {
            TrustedBy::System => "system",
            TrustedBy::Authority => "authority",
            TrustedBy::Pin => "pin",
            _ => "nobody",
        }),
        revocation_checked: facts.knows_revoked,
        client_certificate: match (facts.is_asked_for_certificate, facts.shows_certificate) {
            (false, _) => NOT_ASKED,
            (true, false) => "none",
            (true, true) => SHOWN,
        },
        chain: diagnosis::chain(facts).iter().map(of_certificate).collect(),
    }
}

fn of_certificate(certificate: &tls::Certificate) -> Certificate {
    Certificate {
        subject: shown(&certificate.subject),
        issuer: shown(&certificate.issuer),
        names: certificate.names.iter().map(|name| shown(&name.to_string())).collect(),
        not_before: moment(certificate.not_before),
        not_after: moment(certificate.not_after),
        days_left: days_between(SystemTime::now(), certificate.not_after),
        key: shown(&certificate.key),
        signature: shown(&certificate.signature),
        sha256: certificate.fingerprint.to_string(),
    }
}

fn of_websocket(handshake: &ClientHandshake) -> WebSocket {
    let header =
        |(name, value): &(String, String)| Header { name: shown(name), value: shown(value) };
    let asked = handshake.options();
    let response = handshake.response();
    WebSocket {
        request: Request {
            target: asked.target.clone(),
            host: asked.host.clone(),
            origin: asked.origin.clone(),
            protocols: asked.protocols.clone(),
            // What was given on the command line may be a secret all the same.
            headers: asked.headers.iter().map(header).map(without_secret).collect(),
        },
        status: response.map(|response| response.status),
        reason: response.map(|response| shown(&response.reason)),
        headers: response.iter().flat_map(|response| &response.fields).map(header).collect(),
        protocol: handshake.answer().and_then(|answer| answer.protocol.clone()),
        body: response
            .filter(|response| !response.body.is_empty())
            .map(|response| excerpt(&response.body)),
    }
}

fn without_secret(header: Header) -> Header {
    let is_secret = ["authorization", "proxy-authorization", "cookie"]
        .contains(&&*header.name.to_ascii_lowercase());
    Header { value: if is_secret { "(not shown)".to_owned() } else { header.value }, ..header }
}

fn ms(time: Duration) -> f64 {
    // Microseconds are what a clock is good for.
    time.as_micros() as f64 / 1000.0
}
