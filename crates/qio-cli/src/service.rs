//! What the program tells a service manager (sd_notify(3), sd_watchdog_enabled(3)).

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use qio::error::plain;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::report::{Report, say};

/// What a service manager has put into the environment.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    /// NOTIFY_SOCKET: a path, or `@` and an abstract name.
    pub(crate) notify: Option<OsString>,
    /// WATCHDOG_USEC
    pub(crate) watchdog: Option<OsString>,
    /// WATCHDOG_PID: who is meant; without it, whoever reads it.
    pub(crate) watchdog_pid: Option<OsString>,
}

/// The service manager, if there is one.
///
/// The crate `sd-notify` opens a socket for each message, which fails at the limit of open files,
/// when a watchdog must hear all the more that the program is alive; and it knows no abstract
/// names.
#[derive(Debug)]
pub(crate) struct Service {
    manager: Option<Manager>,
    watchdog: Option<Duration>,
    ready: AtomicBool,
    stopping: AtomicBool,
    attend: Notify,
    report: OnceLock<Arc<Report>>,
    loops: Mutex<Vec<Handle>>,
}

#[derive(Debug)]
struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

/// How often the counts are told, and only when they have changed.
const STATUS_PERIOD: Duration = Duration::from_secs(5);

/// How long to wait for room in the manager's queue, for what must not be lost.
const PATIENCE: Duration = Duration::from_secs(1);

impl Service {
    /// A manager that cannot be told anything is no reason not to work.
    pub(crate) fn new(variables: Variables) -> Self {
        // An empty name is how a script takes a variable away.
        let notify = variables.notify.filter(|name| !name.is_empty());
        let manager = notify.and_then(|name| match Manager::new(&name) {
            Ok(manager) => Some(manager),
            Err(error) => {
                let error = std::io::Error::from(error);
                say(&format!("notify {}: {}", name.display(), plain(&error)));
                None
            }
        });
        let number = |value: OsString| value.to_str()?.parse::<u64>().ok();
        let is_meant = match variables.watchdog_pid {
            Some(pid) => number(pid) == Some(std::process::id().into()),
            None => true,
        };
        let watchdog = variables.watchdog.and_then(number).filter(|&period| period > 0 && is_meant);
        Self {
            manager,
            watchdog: watchdog.map(Duration::from_micros),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            attend: Notify::new(),
            report: OnceLock::new(),
            loops: Mutex::default(),
        }
    }

    /// Chooses whose counts are told.
    pub(crate) fn show(&self, report: &Arc<Report>) {
        // There is one report a run.
        let _ = self.report.set(Arc::clone(report));
    }

    /// The watchdog is fed only while these loops answer.
    pub(crate) fn watch_over(&self, loops: &[Handle]) {
        *self.loops.lock().unwrap_or_else(PoisonError::into_inner) = loops.to_vec();
    }

    /// Everything that can fail at the start has not failed. Said once.
    pub(crate) fn ready(&self) {
        if !self.ready.load(Ordering::Relaxed) && !self.ready.swap(true, Ordering::Relaxed) {
            self.tell("READY=1", SendFlags::empty());
            self.attend.notify_one();
        }
    }

    /// The end has begun. Said once.
    pub(crate) fn stopping(&self) {
        if !self.stopping.swap(true, Ordering::Relaxed) {
            self.tell("STOPPING=1", SendFlags::empty());
        }
    }

    /// Tells, from when it is ready, how things go and that the event loop runs, for as long as it
    /// is polled.
    pub(crate) async fn attend(&self) -> Infallible {
        if self.manager.is_none() {
            return pending().await;
        }
        self.attend.notified().await;
        // Twice in the time that it is given, as sd_watchdog_enabled(3) recommends.
        let period = self.watchdog.map_or(STATUS_PERIOD, |limit| (limit / 2).min(STATUS_PERIOD));
        let mut said = (String::new(), None::<Instant>);
        loop {
            if self.watchdog.is_some() {
                self.loops_answer().await;
                self.tell("WATCHDOG=1", SendFlags::DONTWAIT);
            }
            let summary = self.report.get().map(|report| report.summary()).unwrap_or_default();
            let is_due = said.1.is_none_or(|when| when.elapsed() >= STATUS_PERIOD);
            if is_due && summary != said.0 {
                self.tell(&format!("STATUS={summary}"), SendFlags::DONTWAIT);
                said = (summary, Some(Instant::now()));
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Returns when each loop has done something since the call.
    async fn loops_answer(&self) {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for event_loop in loops {
            // It does not fail: nobody cancels it, and it does nothing that could panic.
            let _ = event_loop.spawn(async {}).await;
        }
    }

    fn tell(&self, text: &str, flags: SendFlags) {
        if let Some(manager) = &self.manager {
            // A manager that is gone does not wait for anything any more.
            let _ = manager.send(text, flags);
        }
    }
}

impl Manager {
    fn new(name: &OsString) -> rustix::io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(name.as_os_str())?,
            // systemd also has vsock: in containers and virtual machines, which pass it on
            // themselves.
            _ => return Err(Errno::AFNOSUPPORT),
        };
        let kind = SocketType::DGRAM;
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, address })
    }

    fn send(&self, text: &str, flags: SendFlags) -> rustix::io::Result<()> {
        let flags = flags | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendto(&self.socket, text.as_bytes(), flags, &self.address) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }
}
