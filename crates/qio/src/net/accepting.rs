//! The accepting of one client, with patience.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::listener::{Accepted, Listener};
use super::options::ListenEvent;
use super::pending::{Driver, Pool};
use crate::watch::{PollSet, Steps};

/// The accepting of one client. Dropping it takes nobody away.
///
/// Where there is no descriptor or memory for a client it is tried again, after 0.1 s and then
/// after twice as long each time, up to 1 s. The listener is [starved](Listener::is_starved) until
/// then, and its observer is told. So it ends with a client, or when the listener itself is the
/// reason why there cannot be one: with `NotConnected` once it is closed.
///
/// Where an address of the listener has layers, clients come out after their handshakes. Those go
/// on, side by side, while anybody accepts: dropping this leaves them to whoever accepts next. A
/// step may be made again after `Ready`, for the next client; with many handshakes that is better
/// than a new one for each client, which has to look at all of them.
#[derive(Debug)]
pub struct Accepting<'a> {
    listener: &'a Listener,
    /// Once there are handshakes to be driven.
    driver: Option<Driver>,
    only_drives: bool,
}

impl<'a> Accepting<'a> {
    pub(super) fn new(listener: &'a Listener) -> Self {
        Self { listener, driver: None, only_drives: false }
    }

    /// The same without accepting anybody or handing anybody out, and without an end: for the time
    /// in which there is no room for further clients. Handshakes that have begun go on, and take no
    /// longer than they may.
    #[must_use]
    pub fn only_handshakes(mut self) -> Self {
        self.only_drives = true;
        self
    }

    /// The handshakes of the clients, if there are layers.
    fn pool(&mut self) -> Option<(MutexGuard<'a, Pool>, &mut Driver)> {
        let mut pool = self.listener.pool()?;
        let only_drives = self.only_drives;
        let driver = self.driver.get_or_insert_with(|| {
            pool.join();
            Driver::new(only_drives)
        });
        Some((pool, driver))
    }
}

impl Steps for Accepting<'_> {
    type Output = io::Result<Accepted>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let listener = self.listener;
        let only_drives = self.only_drives;
        let Some((mut pool, driver)) = self.pool() else {
            if only_drives {
                return Poll::Pending;
            }
            return listener.attempt(now, Listener::try_accept);
        };
        let result = pool.step(listener, driver, &mut |_| Ok(None), now);
        let news = pool.take_news();
        drop(pool);
        news.tell(listener);
        result
    }

    fn watch(&mut self, set: &mut PollSet) {
        let listener = self.listener;
        let only_drives = self.only_drives;
        match self.pool() {
            None if only_drives => {}
            Some((mut pool, driver)) => pool.watch(listener, driver, set),
            None if !listener.watch_backoff(set) => listener.watch(set),
            None => {}
        }
    }

    fn woken(&mut self, set: &PollSet) {
        if let Some((mut pool, driver)) = self.pool() {
            pool.woken(driver, set);
        }
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        if let (Some(_), Some(mut pool)) = (&self.driver, self.listener.pool()) {
            pool.leave();
        }
    }
}

/// When to try again to accept, shared by all who accept from a listener.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<Option<Starvation>>);

#[derive(Clone, Copy, Debug)]
struct Starvation {
    errno: Errno,
    pause: Duration,
    retry_at: Instant,
    told: Instant,
}

/// The first pause: short enough that clients hardly notice, long enough that ten wake-ups a
/// second are all that it costs.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: descriptors may be back at any time.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How often the observer is told while it lasts.
const TELL_PERIOD: Duration = Duration::from_secs(10);

impl Listener {
    /// Accepts by `accept`, unless it is too early to try again.
    pub(super) fn attempt(
        &self,
        now: Instant,
        accept: impl FnOnce(&Self) -> io::Result<Accepted>,
    ) -> Poll<io::Result<Accepted>> {
        if self.backoff.retry_at().is_some_and(|retry_at| retry_at > now) && !self.is_closed() {
            self.miss();
            return Poll::Pending;
        }
        match accept(self) {
            Ok(accepted) => {
                self.recover();
                Poll::Ready(Ok(accepted))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Where a socket was left out, nothing is known about descriptors.
                if self.tried_all() {
                    self.recover();
                }
                Poll::Pending
            }
            Err(error) => match passing(&error) {
                Some(errno) => {
                    self.starve(errno, &error, now);
                    Poll::Pending
                }
                None => Poll::Ready(Err(error)),
            },
        }
    }

    /// Adds what ends a pause, if there is one.
    ///
    /// While all places are taken nobody tries again, however long the pause is over: what is
    /// waited for then is a place.
    pub(super) fn watch_backoff(&self, set: &mut PollSet) -> bool {
        let retry_at = self.backoff.retry_at().filter(|_| !self.is_full());
        let Some(retry_at) = retry_at else { return false };
        if self.watch_life(set) {
            set.wake_at(retry_at);
        }
        true
    }

    #[cold]
    fn starve(&self, errno: Errno, error: &io::Error, now: Instant) {
        let tell = self.backoff.extend(errno, now);
        // Those that have been left untried include all sockets.
        self.miss();
        if tell {
            event!(warn, listener = %self, %error, "clients wait");
            self.tell(&ListenEvent::Starved { error });
        }
    }

    fn recover(&self) {
        if self.backoff.end() {
            event!(info, listener = %self, "clients are accepted again");
            self.tell(&ListenEvent::Recovered);
        }
    }
}

impl Backoff {
    /// The error that is waited out, if any is.
    pub(super) fn error(&self) -> Option<io::Error> {
        self.lock().map(|starvation| starvation.errno.into())
    }

    fn retry_at(&self) -> Option<Instant> {
        self.lock().map(|starvation| starvation.retry_at)
    }

    /// Starts a pause, longer than the last one; says whether to tell.
    fn extend(&self, errno: Errno, now: Instant) -> bool {
        let mut current = self.lock();
        let pause = current.map_or(FIRST_PAUSE, |last| LAST_PAUSE.min(last.pause * 2));
        let told = current.map(|last| last.told);
        let tell = told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_PERIOD);
        let told = if tell { now } else { told.unwrap_or(now) };
        *current = Some(Starvation { errno, pause, retry_at: now + pause, told });
        tell
    }

    /// Says whether there was anything to end.
    fn end(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Starvation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error number, if accepting may go better later: always, unless the listener itself is the
/// reason. There may be no descriptor or memory, a firewall, or a client that broke the protocol.
fn passing(error: &io::Error) -> Option<Errno> {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error)?;
    let of_listener = matches!(
        errno,
        Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::OPNOTSUPP | Errno::FAULT
    );
    (!of_listener).then_some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listener_itself_ends_the_accepting() {
        use Errno as E;
        for errno in [E::NOMEM, E::NOBUFS, E::PERM, E::PROTO, E::MFILE, E::NFILE, E::NETDOWN] {
            assert_eq!(passing(&errno.into()), Some(errno));
        }
        for errno in [E::BADF, E::NOTSOCK, E::INVAL] {
            assert_eq!(passing(&errno.into()), None, "{errno:?}");
        }
        assert_eq!(passing(&ErrorKind::NotConnected.into()), None, "it was closed");
    }

    #[test]
    fn pauses_double_up_to_a_second_and_are_told_every_ten_seconds() {
        let backoff = Backoff::default();
        let start = Instant::now();
        let (mut now, mut pauses, mut told) = (start, Vec::new(), Vec::new());
        while now < start + Duration::from_secs(25) {
            if backoff.extend(Errno::MFILE, now) {
                told.push((now - start).as_secs());
            }
            let retry_at = backoff.retry_at().unwrap();
            pauses.push((retry_at - now).as_millis());
            now = retry_at;
        }
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(told, [0, 10, 20]);
        assert_eq!(backoff.error().unwrap().raw_os_error(), Some(Errno::MFILE.raw_os_error()));
        assert!(backoff.end() && !backoff.end() && backoff.error().is_none());
        assert!(backoff.extend(Errno::MFILE, now), "a new one is told");
        assert_eq!(backoff.retry_at().unwrap() - now, FIRST_PAUSE);
    }
}
