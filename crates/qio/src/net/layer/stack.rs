//! The layers of an address, and the way up through them.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use qio_proto::ws::HandshakeError;

use super::{Begin, Link};
use crate::channel::Channel;
use crate::error::{Class, Error, Result};
use crate::layer::web::{Visit, Visiting};
use crate::layer::ws;
use crate::net::address::Address;
use crate::net::observe::{ConnectEvent, ConnectObserver, Negotiated};
use crate::watch::{PollSet, Steps};

/// The layers of an address with what they need, for any number of connections.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The innermost first: the order of the handshakes.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Where it stands in the address, counted from the outermost.
    part: usize,
    /// What the address calls it: `tls`, `tls2`.
    name: String,
    /// It is the only one of its kind, or the outermost.
    is_first: bool,
    missing: &'static str,
    begin: Arc<dyn Begin>,
}

impl Stack {
    /// Prepares the layers of an address that was checked; `None` when it has none.
    pub(crate) fn of(address: &Address) -> Result<Option<Arc<Self>>> {
        let mut levels = Vec::new();
        for (index, layer) in address.layers().iter().enumerate().rev() {
            let part = address.part(index);
            levels.push(Level {
                part: index,
                is_first: part.name() == layer.name,
                name: part.name(),
                missing: layer.missing,
                begin: (layer.prepare)(&part)?,
            });
        }
        Ok((!levels.is_empty()).then(|| Arc::new(Self { levels })))
    }

    /// The address by which a client reaches a server with these layers, whose transport is reached
    /// by `transport`.
    pub(crate) fn reach(&self, address: &Address, transport: &Address) -> Address {
        let options = self.levels.iter().rev().flat_map(|level| {
            level.begin.reach().into_iter().map(|(key, value)| (level.part, key, value))
        });
        transport.under_layers_of(address, options)
    }

    /// Reads anew what the options name.
    pub(crate) fn reload(&self) -> Result<()> {
        self.levels.iter().try_for_each(|level| level.begin.reload())
    }

    /// Goes through all handshakes over `below`; errors are about `attempt` on `subject`.
    pub(crate) fn climb(
        self: &Arc<Self>,
        below: Arc<dyn Channel>,
        attempt: &'static str,
        subject: String,
        observer: Option<ConnectObserver>,
    ) -> Climb {
        Climb {
            stack: Arc::clone(self),
            level: 0,
            state: State::Begin(below),
            has_left: false,
            visits: Vec::new(),
            attempt,
            subject,
            observer,
        }
    }
}

/// The handshakes of all layers over one channel, from the innermost to the outermost.
///
/// Dropping it closes the channel.
pub(crate) struct Climb {
    stack: Arc<Stack>,
    level: usize,
    state: State,
    /// The client has got what it wanted, or wants nothing: it has failed at no handshake.
    has_left: bool,
    /// What it was answered, and nobody was told of yet.
    visits: Vec<Visit>,
    attempt: &'static str,
    subject: String,
    observer: Option<ConnectObserver>,
}

/// Whether a visitor is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle(pub(crate) bool);

enum State {
    /// The handshake of the next level begins over this.
    Begin(Arc<dyn Channel>),
    /// It may be answered without one.
    Visiting(Box<Visiting<Arc<dyn Channel>>>),
    Shaking(Link),
    Over,
}

impl Climb {
    /// What has not happened yet.
    pub(crate) fn missing(&self) -> &'static str {
        self.stack.levels.get(self.level).map_or("", |level| level.missing)
    }

    /// Whether the client was answered without a handshake, and whether it is idle since.
    pub(crate) fn visitor(&self) -> Option<Idle> {
        match &self.state {
            State::Visiting(visiting) if visiting.is_visitor() => Some(Idle(visiting.is_idle())),
            _ => None,
        }
    }

    /// What it was answered since the last call.
    pub(crate) fn take_visits(&mut self) -> Vec<Visit> {
        std::mem::take(&mut self.visits)
    }

    /// Ends what it is answered.
    pub(crate) fn send_away(&mut self) {
        if let State::Visiting(visiting) = &mut self.state {
            visiting.close();
            self.visits.append(&mut visiting.take_visits());
        }
    }

    /// Whether the client has asked for nothing at all, which is no failure of a handshake where it
    /// may come without wanting one.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(&self.state, State::Visiting(visiting) if visiting.is_idle())
    }

    /// Whether it has ended without a channel, and without a failure.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    fn fail(&mut self, error: io::Error) -> Error {
        if let State::Begin(below) = std::mem::replace(&mut self.state, State::Over) {
            // Nobody is left to be told.
            let _ = below.close();
        }
        let level = &self.stack.levels[self.level];
        let failed = Error::new(class(&error), self.attempt, &self.subject);
        let failed = match hint(&error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        };
        match says_its_name(&error) && level.is_first {
            true => failed.because(error),
            false => {
                let handshake = if level.missing.is_empty() { "" } else { " handshake" };
                let layer = format!("{}{handshake}", level.name);
                failed.because(OfLayer { layer, cause: error })
            }
        }
    }
}

impl Steps for Climb {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Begin(below) => {
                    let below = Arc::clone(below);
                    let Some(level) = self.stack.levels.get(self.level) else {
                        self.state = State::Over;
                        return Poll::Ready(Ok(below));
                    };
                    if let Some(visiting) = level.begin.visit(&below) {
                        self.state = State::Visiting(Box::new(visiting));
                        continue;
                    }
                    let layer = &level.name;
                    if let Some(observer) = &self.observer {
                        observer.tell(&ConnectEvent::LayerStarted { layer });
                    }
                    match level.begin.begin(below) {
                        Ok(link) => self.state = State::Shaking(link),
                        Err(error) => {
                            tell_end(self.observer.as_ref(), layer, Some(&error), Negotiated(None));
                            return Poll::Ready(Err(self.fail(error)));
                        }
                    }
                }
                State::Shaking(link) => {
                    let (observer, level) = (&self.observer, &self.stack.levels[self.level]);
                    let mut look = |error: Option<&io::Error>, handshake: Negotiated<'_>| {
                        tell_end(observer.as_ref(), &level.name, error, handshake);
                    };
                    match std::task::ready!(link.step(now, &mut look)) {
                        Ok(channel) => {
                            self.level += 1;
                            self.state = State::Begin(channel);
                        }
                        Err(error) => return Poll::Ready(Err(self.fail(error))),
                    }
                }
                State::Visiting(visiting) => {
                    let polled = visiting.step(now);
                    self.visits.append(&mut visiting.take_visits());
                    match polled {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(Some(established))) => {
                            self.level += 1;
                            self.state = State::Begin(Arc::new(established.into_layer(ws::NAME)));
                        }
                        Poll::Ready(Ok(None)) => {
                            self.has_left = true;
                            let left = io::ErrorKind::UnexpectedEof.into();
                            return Poll::Ready(Err(self.fail(left)));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(self.fail(error))),
                    }
                }
                State::Over => {
                    let over = Error::usage(self.attempt, &self.subject, "over");
                    return Poll::Ready(Err(over));
                }
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.state {
            State::Visiting(visiting) => visiting.watch(set),
            State::Shaking(link) => link.watch(set),
            State::Begin(_) | State::Over => set.wake_at(Instant::now()),
        }
    }
}

fn tell_end(
    observer: Option<&ConnectObserver>,
    layer: &str,
    error: Option<&io::Error>,
    handshake: Negotiated<'_>,
) {
    let Some(observer) = observer else { return };
    observer.tell(&match error {
        None => ConnectEvent::LayerReady { layer, handshake },
        Some(error) => ConnectEvent::LayerFailed { layer, error, handshake },
    });
}

impl Drop for Climb {
    fn drop(&mut self) {
        if let (State::Shaking(link), Some(observer)) = (&self.state, &self.observer) {
            let (layer, handshake) = (&*self.stack.levels[self.level].name, link.handshake());
            observer.tell(&ConnectEvent::LayerGivenUp { layer, handshake });
        }
        if let State::Begin(below) = &self.state {
            // Nobody is left to be told.
            let _ = below.close();
        }
    }
}

impl fmt::Debug for Climb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Climb").field("level", &self.level).finish_non_exhaustive()
    }
}

/// The kind of failure that the error of a handshake is.
fn class(error: &io::Error) -> Class {
    #[cfg(feature = "tls")]
    if crate::layer::tls::TlsError::find(error).is_some() {
        return Class::Tls;
    }
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(HandshakeError::Status { code: 401 | 403, .. }) => Class::Denied,
        Some(HandshakeError::Refused(refusal)) if matches!(refusal.status(), 401 | 403) => {
            Class::Denied
        }
        Some(_) => Class::Protocol,
        None if error.kind() == io::ErrorKind::TimedOut => Class::Timeout,
        None => Class::Open,
    }
}

/// What would help.
#[cfg(feature = "tls")]
fn hint(error: &io::Error) -> Option<&'static str> {
    crate::layer::tls::TlsError::find(error)?.hint()
}

#[cfg(not(feature = "tls"))]
fn hint(_: &io::Error) -> Option<&'static str> {
    None
}

/// Whether the text of the error begins with the protocol it is of.
fn says_its_name(error: &io::Error) -> bool {
    matches!(class(error), Class::Tls | Class::Denied | Class::Protocol)
}

/// Which layer an error is of, where it does not say so itself.
#[derive(Debug)]
struct OfLayer {
    layer: String,
    cause: io::Error,
}

impl fmt::Display for OfLayer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.layer)
    }
}

impl StdError for OfLayer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// What the layers of addresses have read from files, for all attempts that share it.
#[derive(Clone, Default)]
pub(crate) struct Prepared(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    stacks: HashMap<String, Arc<Stack>>,
    /// Those that are to be read again: until that is done they hold what they share with it, a
    /// recording.
    old: HashMap<String, Arc<Stack>>,
}

/// How many addresses are remembered; a program with more has them in a list of its own.
const REMEMBERED: usize = 16;

impl Prepared {
    /// The layers of an address, whose text is `text`.
    pub(crate) fn of(&self, address: &Address, text: &str) -> Result<Option<Arc<Stack>>> {
        if address.layers().is_empty() {
            return Ok(None);
        }
        if let Some(stack) = self.lock().stacks.get(text) {
            return Ok(Some(Arc::clone(stack)));
        }
        // Not under the lock: files are read.
        let stack = Stack::of(address)?;
        if let Some(stack) = &stack {
            let mut known = self.lock();
            if known.stacks.len() >= REMEMBERED {
                known.stacks.clear();
            }
            known.stacks.insert(text.to_owned(), Arc::clone(stack));
            known.old.remove(text);
        }
        Ok(stack)
    }

    pub(crate) fn forget(&self) {
        let mut known = self.lock();
        known.old = std::mem::take(&mut known.stacks);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Prepared").finish_non_exhaustive()
    }
}
