//! Waiting for more than there is.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;

use super::Socket;
use crate::channel::{Channel, Features};
use crate::interest::{Interest, Readiness};
use crate::watch::{LOOK_AGAIN, PollSet, SharedFd};

impl Socket {
    /// [`Channel::watch_more`]: an edge-triggered epoll descriptor, of which nobody else knows,
    /// fires when something arrives, and not for what is there. `SO_RCVLOWAT` would change the
    /// socket for everybody, and poll(2) asks it of TCP alone.
    #[cold]
    pub(super) fn watch_arrivals(&self, seen: usize, set: &mut PollSet) -> Readiness {
        let Some(fd) = self.slot.try_borrow() else {
            return Readiness::READ | Readiness::HANGUP;
        };
        match arrivals(&*fd) {
            Ok((_, found)) if found.intersects(GONE) => return Readiness::HANGUP,
            Ok((arrivals, found)) if !found.contains(EventFlags::ERR) => {
                set.add(&arrivals, Interest::READ, Interest::READ);
                // Closing the last descriptor of a socket takes it out of the epoll descriptor,
                // edge and all: whoever waits owns it, too.
                set.add(fd.shared(), Interest::empty(), Interest::READ);
            }
            // At the limit of open files; or news of what was sent waits in the error queue, for
            // which every leg would fire.
            _ if has_ended(&*fd) => return Readiness::HANGUP,
            _ => set.wake_at(Instant::now() + LOOK_AGAIN),
        }
        // A peek at a Unix socket does not look past descriptors, nor from one sender to the next.
        let unix = self.base().features().contains(Features::FD_PASS);
        let queued = if unix { rustix::io::ioctl_fionread(&*fd).unwrap_or(0) } else { 0 };
        if queued > seen as u64 { Readiness::READ } else { Readiness::empty() }
    }
}

/// No more will come. An error alone is for the next look to find.
const GONE: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP);

/// A descriptor that becomes readable with the next arrival at `fd`, and what is there already.
fn arrivals(fd: impl AsFd) -> rustix::io::Result<(SharedFd, EventFlags)> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, fd, data, events)?;
    // Takes the edge of what is there.
    let mut found = [epoll::Event { flags: EventFlags::empty(), data }];
    retry_on_intr(|| epoll::wait(&epoll, &mut found[..], Some(&NOW)))?;
    let [epoll::Event { flags, .. }] = found;
    Ok((SharedFd::new(epoll), flags))
}

fn has_ended(fd: impl AsFd) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP;
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let polled = retry_on_intr(|| rustix::event::poll(&mut fds, Some(&NOW)));
    polled.is_ok() && fds[0].revents().intersects(gone)
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
