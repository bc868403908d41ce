//! The life of a listener: it listens, is paused, closed, and opened again.

use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::{Bound, Listener, open};
use crate::error::{Class, Error, Result};
use crate::interest::Interest;
use crate::net::address::Address;
use crate::watch::{Event, PollSet};

#[derive(Debug)]
pub(super) struct State {
    /// What it listens on, in errors and events.
    pub(super) name: String,
    /// What the names of accepted channels start with.
    pub(super) prefix: Option<Arc<str>>,
    pub(super) phase: Phase,
    pub(super) sockets: Arc<[Arc<Bound>]>,
    /// What to open again, with the ports that were chosen.
    pub(super) sources: Vec<Address>,
    /// How often it was closed.
    closings: u64,
    is_reopening: bool,
    /// Raised when anything above has changed, and replaced by a new one then: whoever waits has a
    /// leg on the old one, and looks again.
    pub(super) change: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Listening,
    Paused,
    Closed,
}

/// The life of a listener.
impl Listener {
    /// Stops accepting without closing: clients wait in the backlog, and who waits for a client
    /// goes on waiting. A client that is being accepted at this moment may still come.
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use qio::net;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
    /// listener.pause();
    /// let client = net::connect(&listener.local_addresses()[0], &net::ConnectOptions::new())?;
    /// assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    /// listener.resume();
    /// listener.accept(None)?;
    /// # drop(client);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause(&self) {
        self.write().turn(Phase::Listening, Phase::Paused);
    }

    /// Accepts again, beginning with those that have waited in the backlog.
    pub fn resume(&self) {
        self.write().turn(Phase::Paused, Phase::Listening);
    }

    /// Whether it is not closed; also while it is paused, when clients can connect, too.
    #[doc(alias = "qio_net_listener_is_connected")]
    pub fn is_listening(&self) -> bool {
        !self.is_closed()
    }

    /// Whether it accepts nobody for now.
    pub fn is_paused(&self) -> bool {
        self.read().phase == Phase::Paused
    }

    /// Stops listening, from any thread; who waits for a client wakes up with an error.
    ///
    /// Connections that were accepted go on, those that were not, or that are in their handshakes,
    /// are refused. The file of a Unix socket is removed if it is still the one that was made here.
    /// Idempotent: the first call gets the result, later ones `Ok`.
    ///
    /// # Errors
    ///
    /// What removing the file reports, except that there is none.
    #[doc(alias = "qio_net_listener_disconnect")]
    pub fn close(&self) -> io::Result<()> {
        let mut state = self.write();
        state.close();
        let sockets = Arc::clone(&state.sockets);
        drop(state);
        let result = close_all(&sockets);
        if let Some(mut pool) = self.pool() {
            pool.clear();
        }
        result
    }

    /// Reads certificates, keys and what else the layers need again, for clients that come from
    /// now on. Those that are here are not touched.
    ///
    /// # Errors
    ///
    /// As [`listen`](crate::net::listen); everything stays as it was for the layer that it is about.
    pub fn reload(&self) -> Result<()> {
        let sockets = Arc::clone(&self.read().sockets);
        let mut stacks: Vec<_> = sockets.iter().filter_map(|bound| bound.stack.as_ref()).collect();
        // The sockets of one address share their layers.
        stacks.dedup_by(|one, other| Arc::ptr_eq(one, other));
        stacks.into_iter().try_for_each(|stack| stack.reload())
    }

    /// Listens again after [`close`](Listener::close), on the same addresses: with the port that
    /// the kernel chose then, and a name resolved anew. Does nothing while it listens.
    ///
    /// Sockets that were handed over are gone, and do not come back. All addresses are listened on
    /// again, or none.
    ///
    /// ```
    /// use qio::net;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = net::listen(&"listen:tcp://:0".parse()?, &net::ListenOptions::new())?;
    /// let addresses = listener.local_addresses();
    /// listener.close()?;
    /// net::connect(&addresses[0], &net::ConnectOptions::new()).unwrap_err();
    /// listener.reopen()?;
    /// assert_eq!(listener.local_addresses(), addresses);
    /// net::connect(&addresses[0], &net::ConnectOptions::new())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`listen`](crate::net::listen); `Cancelled` when it is closed meanwhile; `Open` while another thread reopens
    /// it, and when there is no address to listen on again.
    pub fn reopen(&self) -> Result<()> {
        let mut state = self.write();
        if state.phase != Phase::Closed {
            return Ok(());
        }
        let failed = |state: &State, class, text: &'static str| {
            Error::new(class, "listen", &state.name).because(text)
        };
        if state.is_reopening {
            return Err(failed(&state, Class::Open, "it is being reopened already"));
        }
        if state.sources.is_empty() {
            let text = "it had no address, only sockets that were handed over";
            return Err(failed(&state, Class::Open, text));
        }
        state.is_reopening = true;
        let (sources, closings) = (state.sources.clone(), state.closings);
        let mut options = self.options.clone();
        options.beside_peers = state.sockets.iter().any(|bound| bound.has_peers());
        drop(state);

        // Not under the lock: names may have to be waited for.
        let mut sockets = Vec::new();
        let mut result = Ok(());
        for address in &sources {
            match open(address, &options) {
                Ok(bound) => sockets.extend(bound.into_iter().map(Arc::new)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let mut state = self.write();
        state.is_reopening = false;
        if result.is_ok() && state.closings != closings {
            result = Err(failed(&state, Class::Cancelled, "it was closed meanwhile"));
        }
        if result.is_ok() {
            state.phase = Phase::Listening;
            state.sockets = sockets.into();
            state.changed();
        } else {
            drop(state);
            // The error to report is the one above.
            let _ = close_all(&sockets);
        }
        result
    }

    pub(in crate::net) fn is_closed(&self) -> bool {
        self.read().phase == Phase::Closed
    }

    #[cold]
    pub(super) fn not_listening(&self) -> io::Error {
        not_listening(&self.read())
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cold]
pub(super) fn not_listening(state: &State) -> io::Error {
    io::Error::new(ErrorKind::NotConnected, format!("{}: the listener is closed", state.name))
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            name: "listener".to_owned(),
            prefix: None,
            phase: Phase::Listening,
            sockets: Arc::new([]),
            sources: Vec::new(),
            closings: 0,
            is_reopening: false,
            change: change_event(),
        }
    }

    pub(super) fn join(
        &mut self,
        name: String,
        sockets: impl IntoIterator<Item = Arc<Bound>>,
        sources: impl IntoIterator<Item = Address>,
    ) {
        if self.sockets.is_empty() {
            self.name = name;
        }
        self.sockets = self.sockets.iter().cloned().chain(sockets).collect();
        self.sources.extend(sources);
        self.changed();
    }

    fn turn(&mut self, from: Phase, to: Phase) {
        if self.phase == from {
            self.phase = to;
            self.changed();
        }
    }

    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.closings += 1;
        self.changed();
    }

    fn changed(&mut self) {
        std::mem::replace(&mut self.change, change_event()).raise();
    }
}

/// Made together with its descriptor: what waits for it may be at the limit of them.
fn change_event() -> Event {
    let event = Event::new();
    event.watch(Interest::READ, &mut PollSet::new());
    event
}

/// Closes all, whatever happens to one; gives the first error.
pub(super) fn close_all(sockets: &[Arc<Bound>]) -> io::Result<()> {
    let mut result = Ok(());
    for bound in sockets {
        result = result.and(bound.close());
    }
    result
}
