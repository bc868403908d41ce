//! A client that is shown files, and may ask for a WebSocket in the end.

use std::fmt;
use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use qio_proto::ws::{HandshakeError, ServerHandshake, ServerOptions};

use super::reply::{Fault, Reply, fault};
use super::request::{HeaderEnd, Request};
use super::sending::{BYTES_A_TURN, STALLED, Sending};
use super::site::Site;
use crate::channel::{Channel, ChannelExt, Features, ReadFlags};
use crate::interest::Interest;
use crate::layer::{Established, Handshaking};
use crate::watch::{PollSet, Steps};

/// The requests of one client, in steps, until it is a WebSocket's or gone.
///
/// Ends with a handshake that is over, or `None` when the client has left, or was sent away, without
/// one. Dropping it closes the channel below. Nothing is read ahead of what can be answered, and
/// nothing is kept in memory between two requests.
///
/// A client that has been answered is a [visitor](Visiting::is_visitor). It has 30 seconds for each
/// further request, and must take a part of an answer every 60 seconds, however little: a long
/// download over a slow line ends well.
pub struct Visiting<C: Channel> {
    below: Option<C>,
    options: ServerOptions,
    site: Arc<Site>,
    state: State<C>,
    /// What has come and was not answered.
    inbound: Vec<u8>,
    end: HeaderEnd,
    deadline: Option<Instant>,
    is_visitor: bool,
    /// There is more to be done, after others had their turn.
    wants_turn: bool,
    visits: Vec<Visit>,
}

/// One request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Visit {
    /// The method, or nothing where the request was none.
    pub method: String,
    /// The path, as it was written. Without the query, where secrets may be.
    pub path: String,
    /// The status of HTTP that it was answered with.
    pub status: u16,
    /// How many bytes of the answer's body were sent.
    pub bytes: u64,
    /// Whether all of it was.
    pub is_complete: bool,
}

enum State<C: Channel> {
    Reading,
    Sending(Sending),
    /// Everything is said. What the client still sends is thrown away, so that the kernel does not
    /// answer it with a reset, which would destroy what the client has not read.
    Draining {
        left: usize,
        said_farewell: bool,
    },
    Upgrading(Box<Handshaking<C, ServerHandshake>>),
    Over,
}

/// How a step ends.
enum Turn {
    /// Others have theirs.
    Again,
    Upgrade,
    End,
}

/// How long a visitor may take for its next request: browsers open a new connection at the price of
/// one round trip, and an idle one costs a descriptor here.
const IDLE: Duration = Duration::from_secs(30);

/// How long somebody may go on to send who was told that nobody listens.
const DRAINING: Duration = Duration::from_secs(2);

/// How much of that is thrown away.
const DRAINED_BYTES: usize = 256 * 1024;

/// How much is read at a time.
const READ: usize = 2048;

/// How many requests are answered before others have their turn.
const REQUESTS_A_TURN: usize = 16;

/// How many answers are remembered that nobody asks about: more than a step gives.
const MAX_VISITS: usize = 64;

impl<C: Channel> Visiting<C> {
    pub(super) fn new(
        below: C,
        options: ServerOptions,
        site: Arc<Site>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            below: Some(below),
            options,
            site,
            state: State::Reading,
            inbound: Vec::new(),
            end: HeaderEnd::default(),
            deadline,
            is_visitor: false,
            wants_turn: false,
            visits: Vec::new(),
        }
    }

    /// Whether it has got an answer, and no WebSocket yet.
    pub fn is_visitor(&self) -> bool {
        self.is_visitor && !matches!(self.state, State::Upgrading(_))
    }

    /// Whether nothing is going on: the client may ask again, or not.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Reading) && self.inbound.is_empty()
    }

    /// What was answered since the last call. Questions about health are left out, and so is all but
    /// the last 64: they are for whoever asks after each step.
    pub fn take_visits(&mut self) -> Vec<Visit> {
        std::mem::take(&mut self.visits)
    }

    /// Ends it: what is being sent is cut.
    pub fn close(&mut self) {
        if let State::Sending(sending) = std::mem::replace(&mut self.state, State::Over) {
            self.keep(sending);
        }
        if let Some(below) = self.below.take() {
            // Nobody is left to be told.
            let _ = below.close();
        }
    }

    /// Keeps what there is to tell of an answer.
    fn keep(&mut self, sending: Sending) {
        if sending.is_quiet {
            return;
        }
        if self.visits.len() == MAX_VISITS {
            self.visits.remove(0);
        }
        self.visits.push(sending.visit);
    }

    fn try_step(&mut self, now: Instant) -> io::Result<Turn> {
        let Some(below) = &self.below else {
            return Err(io::Error::other("the visit is over"));
        };
        if below.features().contains(Features::MESSAGES) {
            let text =
                format!("{}: a protocol over a stream cannot go over messages", below.name());
            return Err(io::Error::new(ErrorKind::Unsupported, text));
        }
        let (mut bytes_left, mut requests_left) = (BYTES_A_TURN, REQUESTS_A_TURN);
        loop {
            let Some(below) = &self.below else { return Ok(Turn::End) };
            match &mut self.state {
                State::Reading => {
                    if requests_left == 0 {
                        return Ok(Turn::Again);
                    }
                    let limit = self.options.limit_bytes;
                    match self.end.find(&self.inbound) {
                        Some(end) if end <= limit => {
                            requests_left -= 1;
                            if self.take_request(end, now) {
                                return Ok(Turn::Upgrade);
                            }
                        }
                        None if self.inbound.len() < limit => match self.read()? {
                            0 => return self.ended(),
                            _ => continue,
                        },
                        _ => self.answer_too_long(now),
                    }
                }
                State::Sending(sending) => {
                    if !sending.advance(below, &mut bytes_left, &mut self.deadline, now)? {
                        return Ok(Turn::Again);
                    }
                    // A layer below may have taken it, and not have sent it.
                    below.flush()?;
                    let State::Sending(mut sending) =
                        std::mem::replace(&mut self.state, State::Reading)
                    else {
                        continue;
                    };
                    sending.visit.is_complete = true;
                    let closes = sending.closes;
                    self.keep(sending);
                    self.deadline = now.checked_add(IDLE);
                    if closes {
                        self.state = State::Draining { left: DRAINED_BYTES, said_farewell: false };
                        self.deadline = now.checked_add(DRAINING);
                    }
                }
                State::Draining { left, said_farewell } => {
                    if !*said_farewell {
                        match below.finish() {
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            result => {
                                result?;
                                *said_farewell = true;
                            }
                        }
                    }
                    let mut bytes = [0; READ];
                    let bufs = &mut [IoSliceMut::new(&mut bytes)];
                    let count = below.read_with(bufs, ReadFlags::NONBLOCK, None)?;
                    *left = left.saturating_sub(count);
                    if count == 0 || *left == 0 {
                        return Ok(Turn::End);
                    }
                }
                State::Upgrading(_) | State::Over => return Ok(Turn::End),
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let Some(below) = &self.below else { return Ok(0) };
        let end = self.inbound.len();
        let limit = self.options.limit_bytes.max(end + 1);
        self.inbound.resize((end + READ).min(limit), 0);
        let bufs = &mut [IoSliceMut::new(&mut self.inbound[end..])];
        let result = below.read_with(bufs, ReadFlags::NONBLOCK, None);
        self.inbound.truncate(end + *result.as_ref().unwrap_or(&0));
        if self.inbound.is_empty() {
            // An idle connection keeps no memory.
            self.inbound = Vec::new();
        }
        result
    }

    /// The client sends nothing more.
    fn ended(&self) -> io::Result<Turn> {
        if self.is_visitor || self.inbound.is_empty() {
            return Ok(Turn::End);
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, HandshakeError::Truncated))
    }

    /// Looks at the request in front of what has come; says whether it is one for a WebSocket's
    /// handshake. Any other is answered.
    fn take_request(&mut self, end: usize, now: Instant) -> bool {
        let time = SystemTime::now();
        let (request, unfit) = Request::parse(&self.inbound[..end]);
        let mut reply = match unfit {
            None if request.is_upgrade || !self.site.takes(&request) => return true,
            None => match self.refusal(&request) {
                Some(fault) => Reply::from(fault),
                None => self.site.answer(&request, time),
            },
            Some(fault) => Reply { must_close: true, ..Reply::from(fault) },
        };
        if reply.status == 401 {
            reply = reply.field("WWW-Authenticate", "Basic realm=\"qio\", charset=\"UTF-8\"");
        }
        self.inbound.drain(..end);
        self.send(&request, reply, time, now);
        false
    }

    /// Why a client gets no file, whichever it is.
    fn refusal(&self, request: &Request) -> Option<Fault> {
        if self.site.is_health(request) {
            return None;
        }
        let host = request.host.as_deref();
        if host.is_some_and(|host| !self.options.origins.may_serve(host)) {
            return Some(fault(403, "the host that was asked is not this machine"));
        }
        let given = request.authorization.as_deref().unwrap_or_default();
        match &self.options.basic_auth {
            Some(auth) if !auth.is(given) => Some(fault(401, "a user and a password are needed")),
            _ => None,
        }
    }

    fn answer_too_long(&mut self, now: Instant) {
        let fault = match self.inbound.contains(&b'\n') {
            true => fault(431, "the header is too long"),
            false => fault(414, "the path is too long"),
        };
        let reply = Reply { must_close: true, ..Reply::from(fault) };
        self.inbound = Vec::new();
        self.send(&Request::default(), reply, SystemTime::now(), now);
    }

    fn send(&mut self, request: &Request, reply: Reply, time: SystemTime, now: Instant) {
        let mut sending = Sending::new(request, reply, time);
        sending.is_quiet = self.site.is_health(request);
        self.is_visitor = true;
        self.deadline = now.checked_add(STALLED);
        self.state = State::Sending(sending);
    }

    /// What has come goes on as a handshake.
    fn upgrade(&mut self) -> io::Result<()> {
        let Some(below) = self.below.take() else {
            return Err(io::Error::other("the visit is over"));
        };
        let handshake = ServerHandshake::new(self.options.clone());
        let inbound = std::mem::take(&mut self.inbound);
        let handshaking = Handshaking::with_inbound(below, handshake, inbound, self.deadline);
        self.state = State::Upgrading(Box::new(handshaking));
        Ok(())
    }
}

impl<C: Channel> Steps for Visiting<C> {
    type Output = io::Result<Option<Established<C, ServerHandshake>>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        self.wants_turn = false;
        if let Some(below) = &self.below {
            // What makes waiting pointless shows up in the next read or write.
            let _ = below.drive(now);
        }
        if !matches!(self.state, State::Upgrading(_)) {
            let error = match self.try_step(now) {
                Ok(Turn::Upgrade) => self.upgrade().err(),
                Ok(Turn::Again) => {
                    self.wants_turn = true;
                    return Poll::Pending;
                }
                Ok(Turn::End) => {
                    self.close();
                    return Poll::Ready(Ok(None));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.deadline.is_none_or(|deadline| deadline > now) {
                        return Poll::Pending;
                    }
                    Some(io::Error::new(ErrorKind::TimedOut, "the handshake took too long"))
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                // A browser opens connections that it may need, and leaves without a word: neither
                // they nor visitors that leave have failed at anything.
                let is_failure = !self.is_visitor && !self.inbound.is_empty()
                    || error.kind() == ErrorKind::Unsupported;
                self.close();
                return Poll::Ready(if is_failure { Err(error) } else { Ok(None) });
            }
        }
        let State::Upgrading(handshaking) = &mut self.state else { return Poll::Pending };
        let result = handshaking.step(now);
        if result.is_ready() {
            // A handshake that has failed closes the channel when it is dropped.
            self.state = State::Over;
        }
        result.map_ok(Some)
    }

    fn watch(&mut self, set: &mut PollSet) {
        let interest = match &mut self.state {
            State::Upgrading(handshaking) => return handshaking.watch(set),
            State::Sending(_) => Interest::WRITE,
            State::Draining { said_farewell: false, .. } => Interest::READ | Interest::WRITE,
            State::Reading | State::Draining { .. } => Interest::READ,
            State::Over => return set.wake_at(Instant::now()),
        };
        let is_ready =
            self.below.as_ref().is_none_or(|below| !below.watch(interest, set).is_empty());
        if is_ready || self.wants_turn {
            set.wake_at(Instant::now());
        }
        if let Some(deadline) = self.deadline {
            set.wake_at(deadline);
        }
    }
}

impl<C: Channel> Drop for Visiting<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C: Channel> fmt::Debug for Visiting<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Visiting")
            .field("is_visitor", &self.is_visitor)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::web::SiteOptions;
    use crate::transport::Socket;

    #[test]
    fn an_idle_visitor_keeps_no_memory() {
        let options = SiteOptions { health: Some("/".to_owned()), ..SiteOptions::default() };
        let site = Arc::new(Site::without_files(options));
        let (near, far) = Socket::pair().unwrap();
        let mut visiting = Visiting::new(far, ServerOptions::default(), site, None);
        let fields = "A: b\r\n".repeat(50);
        near.write_all(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).unwrap();
        assert!(visiting.step(Instant::now()).is_pending());
        assert!(visiting.is_visitor() && visiting.is_idle());
        assert_eq!(visiting.inbound.capacity(), 0);
        assert!(matches!(visiting.state, State::Reading));
    }
}
