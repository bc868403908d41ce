//! Connecting: from an address to a channel.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::address::{Address, Refusal, Role};
use super::cancel::Cancel;
use super::layer::{Climb, Stack};
use super::observe::{ConnectEvent, ConnectObserver};
use super::options::{ConnectOptions, Inherited};
use super::reconnect::{Backoff, Retry, may_pass};
use crate::channel::Channel;
use crate::error::{Class, Error, Result};
use crate::watch::{PollSet, Steps, run};

/// Opens `address` and waits for it.
///
/// Whatever the address names becomes a channel in blocking mode, named after the address: a
/// connected socket, a file, a started program; and over it the layers of the address, after their
/// handshakes. Waits through the current
/// [`Waiter`](crate::watch::Waiter).
///
/// The addresses of a TCP host are called as Happy Eyeballs (RFC 8305) has it: families in turn,
/// the next one 250 ms after the last or as soon as one fails, eight at a time, and the first that
/// answers is taken.
///
/// ```no_run
/// use qio::{ChannelExt, net};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let address = "tcp://localhost:7".parse()?;
/// let channel = net::connect(&address, &net::ConnectOptions::new())?;
/// channel.write_all(b"hello")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// By [`Class`]: `Usage` for an address that makes no sense here, `Resolve` for a name, `Timeout`
/// after [`ConnectOptions::timeout`], `Cancelled`, `Tls`, `Denied` and `Protocol` for the handshake of a
/// layer, whose typed error is among the [sources](std::error::Error::source), and `Open` for the rest, with what happened to
/// each address that was tried. With [`ConnectOptions::retry`] it is the failure of the last
/// attempt.
#[doc(alias = "qio_channel_socket_connect_sync")]
pub fn connect(address: &Address, options: &ConnectOptions) -> Result<Arc<dyn Channel>> {
    match run(Connect::new(address, options), None) {
        Ok(ControlFlow::Break(result)) => result,
        // Without a deadline of its own, `run` goes on until there is a result.
        Ok(ControlFlow::Continue(_)) => Err(Error::timed_out("connect", address)),
        Err(error) => Err(Error::new(Class::Io, "wait for the connect to", address).because(error)),
    }
}

/// The opening of an address, in steps.
///
/// The deadline counts from the making of it. Dropping it cancels at once: sockets and processes
/// that are half made are gone. With [`ConnectOptions::retry`] it opens the address again after
/// each failure that may pass, each time with a deadline of its own.
#[doc(alias = "qio_channel_socket_connect_async")]
pub struct Connect {
    address: String,
    state: State,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
    /// Of an address without layers, whose steps know nothing of it.
    observer: Option<ConnectObserver>,
    again: Option<Box<Again>>,
}

enum State {
    /// Failed before the first step, or over.
    Over(Option<Error>),
    Opening(Opening),
    /// The next attempt is at that time; how the last one failed.
    Pausing(Instant, Error),
}

/// What further attempts need.
struct Again {
    address: Address,
    options: ConnectOptions,
    backoff: Backoff,
}

/// What a scheme makes of an address.
pub(crate) enum Opening {
    /// It needs no waiting.
    Ready(Arc<dyn Channel>),
    /// It does.
    Steps(Box<dyn OpeningSteps>),
}

/// An opening that has to wait.
pub(crate) trait OpeningSteps: Steps<Output = Result<Arc<dyn Channel>>> + Send {
    /// What did not happen, for the text of a timeout: "no answer".
    fn missing(&self) -> &'static str;
}

/// What a scheme has to know besides the address.
pub(crate) struct Request<'a> {
    address: &'a str,
    options: &'a ConnectOptions,
    deadline: Option<Instant>,
}

impl Request<'_> {
    /// The text of the address, for errors.
    pub(crate) fn address(&self) -> &str {
        self.address
    }

    /// When everything is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Who is told how it goes on.
    pub(crate) fn observer(&self) -> Option<&ConnectObserver> {
        self.options.observer.as_ref()
    }

    /// Where inherited descriptors are.
    pub(crate) fn inherited(&self) -> Option<&Inherited> {
        self.options.inherited.as_ref()
    }
}

impl Connect {
    /// Starts to open `address`: a name begins to be resolved, a program runs. What is wrong with
    /// it comes out of the first step.
    pub fn new(address: &Address, options: &ConnectOptions) -> Self {
        let text = address.to_string();
        let again = Again::of(address, options).map(Box::new);
        let overall = again.as_ref().and_then(|again| again.backoff.until());
        let (deadline, limit) = deadline(options.timeout, overall, Instant::now());
        let state = start(address, &Request { address: &text, options, deadline });
        let cancel = options.cancel.clone();
        let observer = options.observer.clone().filter(|_| !address.has_layers());
        Self { address: text, state, limit, deadline, cancel, observer, again }
    }

    /// How the last attempt failed, while there is a pause before the next one: for whoever shows
    /// what goes on.
    pub fn last_failure(&self) -> Option<&Error> {
        match &self.state {
            State::Pausing(_, error) => Some(error),
            _ => None,
        }
    }

    fn try_finish(&mut self, now: Instant) -> Poll<Result<Arc<dyn Channel>>> {
        let opening = match &mut self.state {
            State::Opening(opening) => opening,
            State::Over(error) => {
                let over = || Error::usage("connect", &self.address, "over");
                return Poll::Ready(Err(error.take().unwrap_or_else(over)));
            }
            State::Pausing(..) => return Poll::Pending,
        };
        match opening {
            Opening::Ready(channel) => Poll::Ready(Ok(Arc::clone(channel))),
            Opening::Steps(steps) => match steps.step(now) {
                Poll::Pending if self.deadline.is_some_and(|deadline| deadline <= now) => {
                    let error = Error::timed_out("connect", &self.address);
                    let limit = self.limit.unwrap_or_default();
                    Poll::Ready(Err(error.hint(format!("{} within {limit:?}", steps.missing()))))
                }
                result => result,
            },
        }
    }

    /// Begins the pause after a failure that may pass, if there is to be another attempt.
    fn pause(&mut self, error: Error, now: Instant) -> Poll<Result<Arc<dyn Channel>>> {
        let Some(again) = &mut self.again else { return Poll::Ready(Err(error)) };
        let pause = may_pass(&error).then(|| again.backoff.next_pause(now)).flatten();
        // A pause whose end no clock can show never ends.
        let Some(until) = pause.and_then(|pause| now.checked_add(pause)) else {
            return Poll::Ready(Err(again.counted(error)));
        };
        event!(debug, address = %self.address, error = %error.report(), ?pause, "trying again");
        self.state = State::Pausing(until, error);
        Poll::Pending
    }

    /// The next attempt, when its time has come.
    fn start_again(&mut self, now: Instant) {
        let (State::Pausing(until, _), Some(again)) = (&self.state, &self.again) else { return };
        if *until > now {
            return;
        }
        let Again { address, options, backoff } = &**again;
        (self.deadline, self.limit) = deadline(options.timeout, backoff.until(), now);
        let request = Request { address: &self.address, options, deadline: self.deadline };
        self.state = start(address, &request);
    }
}

impl Again {
    fn of(address: &Address, options: &ConnectOptions) -> Option<Self> {
        let plan = Retry::asked_for(address, options)?;
        let backoff = plan.start(Instant::now());
        Some(Self { address: address.clone(), options: options.clone(), backoff })
    }

    /// Says of the last failure that it was not the first.
    fn counted(&self, error: Error) -> Error {
        match (self.backoff.failures().saturating_add(1), error.hint_text()) {
            (1, _) => error,
            _ if error.class() == Class::Cancelled => error,
            (attempts, None) => error.hint(format!("tried {attempts} times")),
            (attempts, Some(hint)) => {
                let hint = format!("{hint}, tried {attempts} times");
                error.hint(hint)
            }
        }
    }
}

/// When an attempt that starts now is over, and how long it may take.
fn deadline(
    limit: Option<Duration>,
    overall: Option<Instant>,
    now: Instant,
) -> (Option<Instant>, Option<Duration>) {
    // A time that no clock can show never comes.
    let own = limit.and_then(|limit| now.checked_add(limit));
    match (own, overall) {
        (own, Some(overall)) if own.is_none_or(|own| overall < own) => {
            (Some(overall), Some(overall.saturating_duration_since(now)))
        }
        (own, _) => (own, limit),
    }
}

/// Starts an attempt.
fn start(address: &Address, request: &Request<'_>) -> State {
    if let Some(observer) = request.observer() {
        observer.tell(&ConnectEvent::Started);
    }
    let opening = match address.role() {
        Role::Connect => address.check(),
        Role::Listen => Err(Refusal::new("this is an address to listen on")),
    };
    let cancelled = request.options.cancel.as_ref().is_some_and(Cancel::is_triggered);
    let opening = match opening {
        Err(refusal) => Err(refusal.of("connect", request.address)),
        Ok(()) if cancelled => Err(given_up(request.address)),
        Ok(()) => open(address, request),
    };
    match opening {
        Ok(opening) => State::Opening(opening),
        Err(error) => State::Over(Some(error)),
    }
}

/// Opens the transport, and then goes up through the layers.
fn open(address: &Address, request: &Request<'_>) -> Result<Opening> {
    // Before anything is connected: what they need may not be there.
    let stack = request.options.prepared.of(address, request.address)?;
    if let (Some(_), Some(observer)) = (&stack, request.observer()) {
        observer.tell(&ConnectEvent::Prepared);
    }
    let transport = (address.scheme().connect)(address, request)?;
    Ok(match stack {
        None => transport,
        Some(stack) => Opening::Steps(Box::new(Layered {
            stack,
            address: request.address.to_owned(),
            observer: request.observer().cloned(),
            state: Stage::Transport(transport),
        })),
    })
}

/// The opening of an address with layers.
struct Layered {
    stack: Arc<Stack>,
    address: String,
    observer: Option<ConnectObserver>,
    state: Stage,
}

enum Stage {
    Transport(Opening),
    Layers(Climb),
}

impl Steps for Layered {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if let Stage::Transport(opening) = &mut self.state {
            let channel = match opening {
                Opening::Ready(channel) => Arc::clone(channel),
                Opening::Steps(steps) => match steps.step(now) {
                    Poll::Ready(Ok(channel)) => channel,
                    other => return other,
                },
            };
            channel.base().set_name(self.address.clone());
            if let Some(observer) = &self.observer {
                observer.tell(&ConnectEvent::Opened { channel: &*channel });
            }
            let (address, observer) = (self.address.clone(), self.observer.clone());
            let climb = self.stack.climb(channel, "connect", address, observer);
            self.state = Stage::Layers(climb);
        }
        match &mut self.state {
            Stage::Layers(climb) => climb.step(now),
            Stage::Transport(_) => Poll::Pending,
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.state {
            Stage::Transport(Opening::Steps(steps)) => steps.watch(set),
            Stage::Transport(Opening::Ready(_)) => set.wake_at(Instant::now()),
            Stage::Layers(climb) => climb.watch(set),
        }
    }
}

impl OpeningSteps for Layered {
    fn missing(&self) -> &'static str {
        match &self.state {
            Stage::Transport(Opening::Steps(steps)) => steps.missing(),
            Stage::Transport(Opening::Ready(_)) => "no channel",
            Stage::Layers(climb) => climb.missing(),
        }
    }
}

impl Steps for Connect {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let cancelled = self.cancel.as_ref().is_some_and(Cancel::is_triggered);
        let mut result = match self.state {
            State::Opening(_) | State::Pausing(..) if cancelled => {
                Poll::Ready(Err(given_up(&self.address)))
            }
            _ => {
                self.start_again(now);
                self.try_finish(now)
            }
        };
        if let Poll::Ready(Err(error)) = result {
            result = self.pause(error, now);
        }
        if let Poll::Ready(result) = &result {
            self.state = State::Over(None);
            if let Ok(channel) = result {
                channel.base().set_name(self.address.clone());
                if let Some(observer) = &self.observer {
                    observer.tell(&ConnectEvent::Opened { channel: &**channel });
                }
            }
        }
        result
    }

    fn watch(&mut self, set: &mut PollSet) {
        match &mut self.state {
            State::Opening(Opening::Steps(steps)) => steps.watch(set),
            State::Opening(Opening::Ready(_)) | State::Over(_) => set.wake_at(Instant::now()),
            State::Pausing(until, _) => set.wake_at(*until),
        }
        if let (Some(deadline), State::Opening(_)) = (self.deadline, &self.state) {
            set.wake_at(deadline);
        }
        if let Some(cancel) = &self.cancel {
            cancel.watch(set);
        }
    }
}

fn given_up(address: &str) -> Error {
    Error::new(Class::Cancelled, "connect", address).because("given up on request")
}

impl fmt::Debug for Connect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connect")
            .field("address", &self.address)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
