//! Something to poll that tells of each event of a socket once.

use std::io::Result;
use std::os::fd::AsFd;

use rustix::event::{Timespec, epoll};

use crate::transport::end::always_ready;
use crate::watch::SharedFd;

/// An epoll descriptor of its own that watches one socket, edge-triggered.
///
/// A notification on the error queue makes poll(2) report an error for the socket, to everybody,
/// and so does a hang-up for as long as the socket lives. Whoever waits for the next notification
/// needs what has happened since the last look, and no more.
#[derive(Debug)]
pub(super) struct Alarm {
    epoll: SharedFd,
    events: epoll::EventFlags,
}

impl Alarm {
    /// Watches `socket` for errors and hang-ups, which are always reported.
    pub(super) fn new(socket: impl AsFd) -> Result<Self> {
        // At the limit of open files it could not be made any more when it is needed.
        always_ready()?;
        let epoll = SharedFd::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let events = epoll::EventFlags::ET;
        epoll::add(&epoll, socket, epoll::EventData::new_u64(0), events)?;
        Ok(Self { epoll, events })
    }

    /// Watches for `events` besides.
    pub(super) fn listen(&mut self, socket: impl AsFd, events: epoll::EventFlags) -> Result<()> {
        let events = events | epoll::EventFlags::ET;
        if self.events != events {
            epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(0), events)?;
            self.events = events;
        }
        Ok(())
    }

    /// Forgets what has happened so far: to be called before the look that finds it out.
    pub(super) fn reset(&self) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [epoll::Event { flags: NOTHING, data: epoll::EventData::new_u64(0) }; 1];
        // Interrupted or not, what is left would only cause another look.
        let _ = epoll::wait(&self.epoll, &mut events, Some(&at_once));
    }

    /// What to poll for reading.
    pub(super) fn fd(&self) -> &SharedFd {
        &self.epoll
    }

    /// Fires for ever: the socket is closed.
    pub(super) fn end(self, socket: impl AsFd) {
        // Closing the socket would take what has just happened to it out of the epoll descriptor.
        let _ = epoll::delete(&self.epoll, socket);
        // Made with the first alarm.
        if let Ok(ready) = always_ready() {
            let data = epoll::EventData::new_u64(0);
            let _ = epoll::add(&self.epoll, ready, data, epoll::EventFlags::IN);
        }
    }
}

const NOTHING: epoll::EventFlags = epoll::EventFlags::empty();
