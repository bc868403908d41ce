//! What the program says about connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use qio::error::plain;
use qio::layer::web::Visit;
use qio::net::Peer;
use qio::relay::{End, Progress, Record, Side};
use serde::Serialize;

use crate::args::OutputArgs;
use crate::exit::Failure;
use crate::session::Closes;

/// Says what happens: lines or JSON on standard error, and a progress line on a terminal.
///
/// Standard output belongs to the data.
#[derive(Debug)]
pub(crate) struct Report {
    output: OutputArgs,
    bar: ProgressBar,
    live: Mutex<BTreeMap<u64, Live>>,
    next: AtomicU64,
    /// How many connections there are, and how many there were since memory was given back.
    open: AtomicU64,
    peak: AtomicU64,
    served: AtomicU64,
    moved: AtomicU64,
    started: Instant,
    limit_said: Mutex<Option<Instant>>,
    /// What was wrong when something was tried again, and when that was said.
    trouble_said: Mutex<Option<(String, Instant)>>,
    refusals: Mutex<Refusals>,
}

/// How often the same trouble is mentioned: the limit of open files, refused clients, a target that
/// is not there.
const PERIOD: Duration = Duration::from_secs(10);

/// Clients that were refused and not mentioned yet.
#[derive(Debug, Default)]
struct Refusals {
    said: Option<Instant>,
    count: u64,
    /// The last of them, and why.
    last: String,
}

#[derive(Debug)]
struct Live {
    who: Arc<Who>,
    progress: Option<Arc<Progress>>,
}

/// Who is connected to what, since when.
#[derive(Debug)]
struct Who {
    peer: Box<str>,
    /// Shared by all connections to it.
    target: Arc<str>,
    started: Instant,
}

/// A connection that is being served, until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    report: Arc<Report>,
    id: u64,
    who: Arc<Who>,
}

/// One JSON line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Listening {
        address: &'a str,
    },
    Connection {
        id: u64,
        peer: &'a str,
        target: &'a str,
        /// Bytes from the peer to the target.
        sent: u64,
        /// Bytes from the target to the peer.
        received: u64,
        spliced: u64,
        lost: u64,
        /// Of channels that keep them apart; as with bytes.
        messages_sent: u64,
        messages_received: u64,
        messages_lost: u64,
        refusals: u64,
        loss: Option<String>,
        fds_passed: u64,
        fds_dropped: u64,
        duration_s: f64,
        first_byte_s: Option<f64>,
        end: &'a str,
        ended_by: Option<&'a str>,
        error: Option<String>,
        /// How a WebSocket was closed by its peer.
        #[serde(skip_serializing_if = "Option::is_none")]
        close: Option<String>,
    },
    Failed {
        id: u64,
        peer: &'a str,
        target: &'a str,
        duration_s: f64,
        error: &'a str,
    },
    Refused {
        peer: &'a str,
        reason: &'a str,
    },
    HandshakeFailed {
        peer: &'a str,
        error: &'a str,
    },
    /// A request for a file.
    Answered {
        peer: &'a str,
        method: &'a str,
        path: &'a str,
        status: u16,
        /// Bytes of the file that were sent.
        sent: u64,
        /// Whether all of the answer was.
        complete: bool,
    },
    Note {
        message: &'a str,
    },
    Live {
        id: u64,
        peer: &'a str,
        target: &'a str,
        sent: u64,
        received: u64,
        age_s: f64,
    },
}

impl Report {
    /// Starts reporting; `with_progress` when a progress line would not disturb the data.
    pub(crate) fn new(output: OutputArgs, with_progress: bool) -> Arc<Self> {
        let wanted = with_progress && !output.quiet && !output.json;
        let bar = if wanted && std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or(ProgressStyle::default_bar()),
            );
            bar
        } else {
            ProgressBar::hidden()
        };
        Arc::new(Self {
            output,
            bar,
            live: Mutex::default(),
            next: AtomicU64::new(1),
            open: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            served: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            started: Instant::now(),
            limit_said: Mutex::new(None),
            trouble_said: Mutex::new(None),
            refusals: Mutex::default(),
        })
    }

    /// Whether the progress line is shown and wants to be [refreshed](Report::refresh).
    pub(crate) fn has_progress(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// How often to refresh the progress line.
    pub(crate) const REFRESH: Duration = Duration::from_millis(500);

    /// Draws the progress line anew; `before` is what the last call returned.
    pub(crate) fn refresh(&self, before: u64) -> u64 {
        let live = self.live();
        let running: u64 = live.values().map(|live| sum(live.progress.as_deref())).sum();
        let total = self.moved.load(Ordering::Relaxed) + running;
        let rate = total.saturating_sub(before) as f64 / Self::REFRESH.as_secs_f64();
        self.bar.set_message(format!(
            "{} live, {} served, {} moved, {}/s, {} s",
            live.len(),
            self.served.load(Ordering::Relaxed),
            HumanBytes(total),
            HumanBytes(rate as u64),
            self.started.elapsed().as_secs(),
        ));
        self.bar.tick();
        total
    }

    /// The counts in a few words, without those of connections that still run.
    pub(crate) fn summary(&self) -> String {
        let served = self.served.load(Ordering::Relaxed);
        let moved = HumanBytes(self.moved.load(Ordering::Relaxed));
        format!("{} live, {served} served, {moved} moved", self.live_count())
    }

    /// An address is ready for clients. Said when asked to be verbose, and when nobody could know
    /// the port or the path otherwise.
    pub(crate) fn listening(&self, address: &str, surprising: bool) {
        if self.output.json {
            self.json(&Event::Listening { address });
        } else if self.output.verbose || surprising {
            self.line(&format!("listening on {address}"));
        }
    }

    /// Something that an administrator should know, whatever the verbosity.
    pub(crate) fn note(&self, message: &str) {
        if self.output.json {
            self.json(&Event::Note { message });
        } else {
            self.line(message);
        }
    }

    /// Something that only those want to know who asked for more.
    pub(crate) fn detail(&self, message: &str) {
        if self.output.verbose {
            self.note(message);
        }
    }

    /// Clients have to wait for want of something; said once a period.
    pub(crate) fn at_limit(&self, what: std::fmt::Arguments<'_>) {
        let mut last = self.limit_said.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= PERIOD) {
            *last = Some(Instant::now());
            self.note(&format!("{what}; further clients wait"));
        }
    }

    /// Something failed and is tried again: the same failure is said once a period, and to those
    /// alone who asked for more unless it is `loud`.
    pub(crate) fn trying_again(&self, failure: &str, loud: bool) {
        if !loud && !self.output.verbose && !self.output.json {
            return;
        }
        let mut last = self.trouble_said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = |(text, when): &(String, Instant)| text == failure && when.elapsed() < PERIOD;
        if !last.as_ref().is_some_and(said) {
            *last = Some((failure.to_owned(), Instant::now()));
            self.note(&format!("{failure}; trying again"));
        }
    }

    /// What was tried again has succeeded: the next failure is news.
    pub(crate) fn trouble_is_over(&self) {
        *self.trouble_said.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A client was refused. Said of each when asked for more, else together, once a period.
    pub(crate) fn refused(&self, peer: &str, reason: &str) {
        if self.output.json {
            return self.json(&Event::Refused { peer, reason });
        }
        if self.output.verbose {
            return self.line(&format!("{peer}: refused: {reason}"));
        }
        self.count_refusal(peer, reason);
    }

    /// A client did not get through its handshakes. Said like a refusal.
    pub(crate) fn handshake_failed(&self, peer: &Peer, error: &qio::Error) {
        let (peer, report) = (peer.to_string(), error.report().to_string());
        let error = report.strip_prefix(&format!("handshake with {peer}: ")).unwrap_or(&report);
        if self.output.json {
            self.json(&Event::HandshakeFailed { peer: &peer, error });
        } else if self.output.verbose {
            self.line(&format!("{peer}: handshake failed: {error}"));
        } else {
            self.count_refusal(&peer, error);
        }
    }

    /// A browser has asked for a file: for those who asked for more.
    pub(crate) fn answered(&self, peer: &Peer, visit: &Visit) {
        let Visit { method, path, status, bytes, is_complete, .. } = visit;
        if self.output.json {
            self.json(&Event::Answered {
                peer: &peer.to_string(),
                method,
                path,
                status: *status,
                sent: *bytes,
                complete: *is_complete,
            });
        } else if self.output.verbose {
            let cut = if *is_complete { "" } else { ", cut" };
            let request = if method.is_empty() {
                "no request"
            } else {
                &format!("{method} {}", path.escape_debug())
            };
            self.line(&format!("{peer}: {request}: {status}, {}{cut}", HumanBytes(*bytes)));
        }
    }

    fn count_refusal(&self, peer: &str, reason: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count += 1;
        refusals.last = format!("{peer}: {reason}");
        if refusals.said.is_none_or(|said| said.elapsed() >= PERIOD) {
            self.say_refusals(&mut refusals);
        }
    }

    fn say_refusals(&self, refusals: &mut Refusals) {
        let clients = counted(std::mem::take(&mut refusals.count), "client");
        refusals.said = Some(Instant::now());
        self.line(&format!("{clients} refused, the last: {}", refusals.last));
    }

    /// How many connections are live.
    pub(crate) fn live_count(&self) -> usize {
        self.live().len()
    }

    /// A connection begins.
    pub(crate) fn begin(self: &Arc<Self>, peer: String, target: Arc<str>) -> Connection {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(open, Ordering::Relaxed);
        let who = Arc::new(Who { peer: peer.into(), target, started: Instant::now() });
        self.live().insert(id, Live { who: Arc::clone(&who), progress: None });
        Connection { report: Arc::clone(self), id, who }
    }

    /// Prints the live connections.
    pub(crate) fn table(&self) {
        let live = self.live();
        if self.output.json {
            for (&id, live) in &*live {
                let (sent, received) = counts(live.progress.as_deref());
                let age_s = live.who.started.elapsed().as_secs_f64();
                let (peer, target) = (&*live.who.peer, &*live.who.target);
                self.json(&Event::Live { id, peer, target, sent, received, age_s });
            }
            return;
        }
        let mut text = counted(live.len() as u64, "live connection");
        for (id, live) in &*live {
            let (sent, received) = counts(live.progress.as_deref());
            let age = live.who.started.elapsed().as_secs();
            let (sent, received) = (HumanBytes(sent), HumanBytes(received));
            let _ = write!(
                text,
                "\n  #{id} {} -> {}: {sent} sent, {received} received, {age} s",
                live.who.peer, live.who.target
            );
        }
        self.line(&text);
    }

    /// Takes the progress line away, and says what was kept back.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.count > 0 {
            self.say_refusals(&mut refusals);
        }
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    fn json(&self, event: &Event<'_>) {
        if let Ok(mut line) = serde_json::to_string(event) {
            line.push('\n');
            // One write a line, so that lines of several threads do not mix.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

/// "1 connection", "2 connections".
pub(crate) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Prints one line on standard error; a closed one is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("qio: {text}\n").as_bytes());
}

impl Connection {
    /// Makes the counters visible in the progress line and the table.
    pub(crate) fn show(&self, progress: Arc<Progress>) {
        if let Some(live) = self.report.live().get_mut(&self.id) {
            live.progress = Some(progress);
        }
    }

    /// The connection ended with a record, which says what `result` says: a failure that was said
    /// is not said again.
    pub(crate) fn ended(
        &self,
        record: &Record,
        closes: &Closes,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let report = &self.report;
        report.live().remove(&self.id);
        report.served.fetch_add(1, Ordering::Relaxed);
        let bytes = record.left_to_right.bytes + record.right_to_left.bytes;
        report.moved.fetch_add(bytes, Ordering::Relaxed);
        if report.output.json {
            report.json(&self.event(record, closes));
        } else if report.output.verbose || record.lost() > 0 || record.messages_lost() > 0 {
            // A loss is never silent.
            report.line(&self.text(record, closes));
        } else {
            return result;
        }
        result.map_err(Failure::said)
    }

    /// The other side could not be had, or the connection not be served; `last` when the program
    /// ends with that, and says it then.
    pub(crate) fn failed(&self, failure: Failure, last: bool) -> Failure {
        let error = failure.message().unwrap_or("failed");
        let report = &self.report;
        if report.output.json {
            report.json(&Event::Failed {
                id: self.id,
                peer: &self.who.peer,
                target: &self.who.target,
                duration_s: self.who.started.elapsed().as_secs_f64(),
                error,
            });
        } else if last {
            return failure;
        } else if !failure.is_limit() || report.output.verbose {
            // What has been said for many once is not said again for each.
            report.line(&format!("{}: {error}", self.who.peer));
        }
        failure.said()
    }

    fn text(&self, record: &Record, closes: &Closes) -> String {
        let (there, back) = (&record.left_to_right, &record.right_to_left);
        let mut text = format!(
            "{} -> {}: {} sent, {} received, {:.3} s, {}",
            self.who.peer,
            self.who.target,
            HumanBytes(there.bytes),
            HumanBytes(back.bytes),
            record.duration.as_secs_f64(),
            ending(record),
        );
        if let Some(closes) = closes.text() {
            let _ = write!(text, ", {closes}");
        }
        let mut part = |count: u64, what: &str, fate: &str| {
            if count > 0 {
                let _ = write!(text, ", {} {fate}", counted(count, what));
            }
        };
        part(there.spliced + back.spliced, "byte", "spliced");
        part(there.messages, "message", "sent");
        part(back.messages, "message", "received");
        part(there.refusals + back.refusals, "refusal", "by the network");
        part(record.messages_lost(), "message", "LOST");
        part(record.lost(), "byte", "LOST");
        part(there.fds_passed + back.fds_passed, "descriptor", "passed");
        part(there.fds_dropped + back.fds_dropped, "descriptor", "dropped");
        if let Some(loss) = loss(record) {
            let _ = write!(text, " ({})", plain(loss));
        }
        text
    }

    fn event(&self, record: &Record, closes: &Closes) -> Event<'_> {
        let (there, back) = (&record.left_to_right, &record.right_to_left);
        let first_byte = [there.first_byte, back.first_byte].into_iter().flatten().min();
        Event::Connection {
            id: self.id,
            peer: &self.who.peer,
            target: &self.who.target,
            sent: there.bytes,
            received: back.bytes,
            spliced: there.spliced + back.spliced,
            lost: record.lost(),
            messages_sent: there.messages,
            messages_received: back.messages,
            messages_lost: record.messages_lost(),
            refusals: there.refusals + back.refusals,
            loss: loss(record).map(|error| plain(error)),
            fds_passed: there.fds_passed + back.fds_passed,
            fds_dropped: there.fds_dropped + back.fds_dropped,
            duration_s: record.duration.as_secs_f64(),
            first_byte_s: first_byte.map(|time| time.as_secs_f64()),
            end: match record.end {
                End::Finished if record.error().is_some() => "failed",
                End::Finished => "finished",
                End::Idle => "idle",
                End::HalfClosed => "half-closed",
                _ => "cut",
            },
            ended_by: record.ended_by.map(|side| match side {
                Side::Left => "peer",
                Side::Right => "target",
            }),
            error: record.error().map(|error| plain(error)),
            close: closes.text(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let report = &self.report;
        report.live().remove(&self.id);
        let left = report.open.fetch_sub(1, Ordering::Relaxed) - 1;
        let peak = report.peak.load(Ordering::Relaxed);
        if peak >= RUSH && left <= peak / 8 {
            // Whoever gives it back again at the same time finds nothing.
            report.peak.store(left, Ordering::Relaxed);
            qio_os::trim_heap();
        }
    }
}

/// After so many connections at a time, the memory that they used is given back to the system.
const RUSH: u64 = 64;

/// Why the first message was lost, in either direction.
fn loss(record: &Record) -> Option<&std::io::Error> {
    record.left_to_right.loss.as_ref().or(record.right_to_left.loss.as_ref())
}

/// Why a relay ended, in words.
pub(crate) fn ending(record: &Record) -> String {
    let who = match record.ended_by {
        Some(Side::Left) => "peer",
        Some(Side::Right) => "target",
        None => "qio",
    };
    match (record.end, record.error()) {
        (End::Finished, Some(error)) => format!("failed at the {who}: {}", plain(error)),
        (End::Finished, None) => format!("ended by the {who}"),
        (End::Idle, _) => "cut at the idle timeout".to_owned(),
        (End::HalfClosed, _) => format!("ended by the {who}, cut at the half-close limit"),
        _ => "cut".to_owned(),
    }
}

fn counts(progress: Option<&Progress>) -> (u64, u64) {
    progress.map_or((0, 0), |progress| (progress.left_to_right(), progress.right_to_left()))
}

fn sum(progress: Option<&Progress>) -> u64 {
    let (there, back) = counts(progress);
    there + back
}
