//! Signals, and what they ask for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that this program handles.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    show: Signal,
    reload: Option<Signal>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End, politely the first time; the signal's number.
    Stop(i32),
    /// Print the live connections.
    Show,
    /// Read certificates, keys and passwords again.
    Reload,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGUSR1.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            show: signal(SignalKind::user_defined1())?,
            reload: None,
        })
    }

    /// The same, and SIGHUP, which ends a program that has nothing to read again.
    pub(crate) fn reloading(mut self) -> io::Result<Self> {
        self.reload = Some(signal(SignalKind::hangup())?);
        Ok(self)
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop(SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => Wish::Stop(SignalKind::interrupt().as_raw_value()),
            _ = self.show.recv() => Wish::Show,
            () = received(&mut self.reload) => Wish::Reload,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
