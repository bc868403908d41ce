//! Connecting a TCP socket to the first address of a host that answers.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::connect::OpeningSteps;
use super::resolver::{Lookup, Resolve};
use super::tuning::Tuning;
use crate::channel::Channel;
use crate::error::{Error, Result, plain};
use crate::interest::Interest;
use crate::transport::Socket;
use crate::watch::{PollSet, SharedFd, Steps};

/// The connecting of a TCP socket: the name, then its addresses one after the other.
pub(crate) struct Dial {
    address: String,
    tuning: Tuning,
    deadline: Option<Instant>,
    resolving: Option<Resolve>,
    /// Not tried yet.
    waiting: VecDeque<SocketAddr>,
    current: Option<Attempt>,
    failures: Vec<(SocketAddr, io::Error)>,
}

/// One address that was called and has not answered yet.
struct Attempt {
    peer: SocketAddr,
    fd: SharedFd,
    /// When the next address has its turn.
    until: Option<Instant>,
    /// Given up unless it was answered.
    answered: bool,
}

/// What became of each address.
#[derive(Debug)]
struct Failures(Vec<(SocketAddr, io::Error)>);

impl Dial {
    pub(crate) fn new(
        address: &str,
        lookup: Lookup,
        tuning: Tuning,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            address: address.to_owned(),
            tuning,
            deadline,
            resolving: Some(Resolve::new(lookup)),
            waiting: VecDeque::new(),
            current: None,
            failures: Vec::new(),
        }
    }

    /// Calls the next address.
    fn start(&mut self, peer: SocketAddr, now: Instant) -> io::Result<()> {
        let family = family(peer);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        self.tuning.apply(&fd)?;
        // An address that does not answer leaves time for those behind it.
        let shares = u32::try_from(self.waiting.len() + 1).unwrap_or(u32::MAX);
        let until =
            self.deadline.map(|deadline| now + deadline.saturating_duration_since(now) / shares);
        match rustix::net::connect(&fd, &peer) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {
                self.current = Some(Attempt { peer, fd: fd.into(), until, answered: false });
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The error when every address has failed.
    fn verdict(&mut self) -> Error {
        let mut failures = std::mem::take(&mut self.failures);
        if failures.len() == 1
            && let Some((_, cause)) = failures.pop()
        {
            return Error::os("connect", &self.address, cause);
        }
        // The class and the hint are those of the last one, as if it had been the only one.
        let kind = failures.last().map_or(io::ErrorKind::Other, |(_, cause)| cause.kind());
        Error::os("connect", &self.address, io::Error::new(kind, Failures(failures)))
    }
}

impl Steps for Dial {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if let Some(resolving) = &mut self.resolving {
            match resolving.step(now) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(found)) => self.waiting = found,
                Poll::Ready(Err(error)) => {
                    let class = error.class();
                    return Poll::Ready(Err(
                        Error::new(class, "connect", &self.address).because(error)
                    ));
                }
            }
            self.resolving = None;
        }
        loop {
            if let Some(attempt) = &self.current {
                let failure = match attempt.outcome() {
                    Some(Ok(())) => {
                        let attempt = self.current.take().expect("looked at just now");
                        event!(debug, address = %self.address, peer = %attempt.peer, "connected");
                        return Poll::Ready(
                            attempt
                                .into_socket()
                                .map_err(|error| Error::os("connect", &self.address, error)),
                        );
                    }
                    Some(Err(error)) => error,
                    None if attempt.until.is_none_or(|until| until > now) => return Poll::Pending,
                    None if self.waiting.is_empty() && self.failures.is_empty() => {
                        // The caller's deadline, with the caller's text.
                        return Poll::Pending;
                    }
                    None => io::Error::new(io::ErrorKind::TimedOut, "timed out"),
                };
                let peer = attempt.peer;
                self.current = None;
                event!(debug, address = %self.address, %peer, error = %failure, "no connection");
                self.failures.push((peer, failure));
            }
            let Some(peer) = self.waiting.pop_front() else {
                return Poll::Ready(Err(self.verdict()));
            };
            event!(debug, address = %self.address, %peer, "connecting");
            if let Err(error) = self.start(peer, now) {
                if is_fatal(&error) {
                    return Poll::Ready(Err(Error::os("connect", &self.address, error)));
                }
                self.failures.push((peer, error));
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        if let Some(resolving) = &mut self.resolving {
            resolving.watch(set);
        }
        if let Some(attempt) = &self.current {
            set.add(&attempt.fd, Interest::WRITE, Interest::WRITE);
            if let Some(until) = attempt.until {
                set.wake_at(until);
            }
        }
    }
}

impl OpeningSteps for Dial {
    fn missing(&self) -> &'static str {
        if self.resolving.is_some() { "the name was not resolved" } else { "no answer" }
    }
}

impl Attempt {
    /// Whether the peer has answered, and what.
    fn outcome(&self) -> Option<io::Result<()>> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        match rustix::event::poll(&mut fds, Some(&at_once)) {
            Ok(0) | Err(Errno::INTR) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error.into())),
        }
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) if self.is_talking_to_itself() => Some(Err(Errno::CONNREFUSED.into())),
            Ok(Ok(())) => Some(Ok(())),
            Ok(Err(error)) | Err(error) => Some(Err(error.into())),
        }
    }

    /// Whether the kernel has picked the port that was called as the local one: TCP then connects
    /// the socket to itself, although nothing listens there.
    fn is_talking_to_itself(&self) -> bool {
        let local = rustix::net::getsockname(&self.fd);
        local.is_ok_and(|local| SocketAddr::try_from(local).is_ok_and(|local| local == self.peer))
    }

    fn into_socket(mut self) -> io::Result<Arc<dyn Channel>> {
        rustix::io::ioctl_fionbio(&self.fd, false)?;
        self.answered = true;
        Ok(Arc::new(Socket::connected(SharedFd::clone(&self.fd), family(self.peer))))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.answered {
            // A wait that was forgotten may still own the descriptor; the peer is left now.
            let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (peer, cause)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(out, "{separator}{peer}: {}", plain(cause))?;
        }
        Ok(())
    }
}

impl StdError for Failures {}

pub(crate) fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Whether the same would happen with every other address.
fn is_fatal(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::error::Class;
    use crate::net::address::Address;

    fn dial(peers: &[SocketAddr]) -> Dial {
        let tuning = Tuning::of(&Address::tcp("x", 1));
        let mut dial = Dial::new("tcp://x:1", Lookup::new("127.0.0.1", "1"), tuning, None);
        dial.resolving = None;
        dial.waiting = peers.iter().copied().collect();
        dial
    }

    fn run(dial: Dial) -> Result<Arc<dyn Channel>> {
        match crate::watch::run(dial, None).unwrap() {
            std::ops::ControlFlow::Break(result) => result,
            std::ops::ControlFlow::Continue(_) => panic!("no deadline"),
        }
    }

    /// An address on which nothing listens: the port stays bound, without listening.
    fn refusing() -> (std::os::fd::OwnedFd, SocketAddr) {
        let fd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        let address = rustix::net::getsockname(&fd).unwrap().try_into().unwrap();
        (fd, address)
    }

    #[test]
    fn the_second_address_is_tried_when_the_first_refuses() {
        let (_closed, refusing) = refusing();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        run(dial(&[refusing, listener.local_addr().unwrap()])).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn the_error_tells_what_happened_to_each_address() {
        let ((_one, first), (_two, second)) = (refusing(), refusing());
        let error = run(dial(&[first, second])).unwrap_err();
        assert_eq!(error.class(), Class::Open);
        assert_eq!(
            error.report().to_string(),
            format!(
                "connect tcp://x:1: {first}: connection refused; {second}: connection refused \
                 (nothing listens there)"
            )
        );
    }
}
