//! Clients that are in their handshakes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::admit::Peer;
use super::handshake::Handshake;
use super::layer::{Climb, Idle};
use super::listener::{Accepted, Listener};
use super::options::ListenEvent;
use crate::channel::{Channel, Mode};
use crate::error::{Class, Error, Result};
use crate::interest::Interest;
use crate::layer::web::Visit;
use crate::watch::{Event, PollSet, Steps};

/// The handshakes of a listener's clients, side by side.
pub(super) struct Pool {
    pub(super) limit: usize,
    pub(super) timeout: Duration,
    /// Oldest first, and so in the order of their numbers.
    pending: VecDeque<Pending>,
    /// Got through, and not handed out yet.
    done: VecDeque<Accepted>,
    /// Not told to the observer yet, who may call the listener.
    news: News,
    next: u64,
    /// How many drive it.
    drivers: usize,
    /// Something has changed since others have looked, if there are others.
    is_news: bool,
    /// Raised for the other drivers when there is something new to wait for, and replaced by a new
    /// one then.
    change: Event,
}

/// What one of those who drive a [`Pool`] knows.
#[derive(Debug, Default)]
pub(super) struct Driver {
    /// Accepts nobody and hands nobody out.
    only_drives: bool,
    /// Who is due is known: told by the loop, or everybody was tried in the step before.
    knows_due: bool,
    /// Whose legs begin where in the set.
    legs: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    version: u64,
    first_leg: usize,
}

struct Pending {
    number: u64,
    client: Accepted,
    work: Work,
    /// It is answered without a handshake, as long as it keeps to the times for that.
    visitor: Option<Idle>,
    /// A time that no clock can show never comes, and that of a visitor is its own.
    deadline: Option<Instant>,
    /// What it waits for, and how often that was asked.
    set: PollSet,
    version: u64,
    is_due: bool,
}

/// What has to be told.
#[derive(Default)]
pub(super) struct News {
    /// Closed, and why.
    failed: Vec<(Accepted, Error)>,
    visits: Vec<(Peer, Visit)>,
}

/// What a client goes through.
enum Work {
    /// The handshakes of the layers; what follows them has not begun.
    Layers(Box<Climb>),
    Handshake(Handshake),
}

impl Steps for Work {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        match self {
            Self::Layers(climb) => climb.step(now),
            Self::Handshake(handshake) => handshake.step(now),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        match self {
            Self::Layers(climb) => climb.watch(set),
            Self::Handshake(handshake) => handshake.watch(set),
        }
    }

    fn woken(&mut self, set: &PollSet) {
        match self {
            Self::Layers(climb) => climb.woken(set),
            Self::Handshake(handshake) => handshake.woken(set),
        }
    }
}

impl Driver {
    pub(super) fn new(only_drives: bool) -> Self {
        Self { only_drives, ..Self::default() }
    }
}

/// How many clients are accepted before others get their turn.
const AT_ONCE: usize = 16;

impl Pool {
    pub(super) fn new(limit: usize, timeout: Duration) -> Self {
        Self {
            limit: limit.max(1),
            timeout,
            pending: VecDeque::new(),
            done: VecDeque::new(),
            news: News::default(),
            next: 0,
            drivers: 0,
            is_news: false,
            change: Event::new(),
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Closes all clients that were not handed out.
    pub(super) fn clear(&mut self) {
        for client in
            self.pending.drain(..).map(|pending| pending.client).chain(self.done.drain(..))
        {
            // Nobody is left to be told.
            let _ = client.channel.close();
        }
    }

    /// Somebody more drives it.
    pub(super) fn join(&mut self) {
        self.drivers += 1;
    }

    /// One of them does not any more: the others go on with what it had begun.
    pub(super) fn leave(&mut self) {
        self.drivers -= 1;
        self.is_news |= !self.pending.is_empty() || !self.done.is_empty();
        self.announce(self.drivers);
    }

    fn announce(&mut self, others: usize) {
        if std::mem::take(&mut self.is_news) && others > 0 {
            std::mem::take(&mut self.change).raise();
        }
    }

    /// What has happened since the last call.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Goes on with all that are due, accepts, and gives a client that got through. `begin` makes
    /// the handshake that follows those of the layers, if there is one.
    pub(super) fn step(
        &mut self,
        listener: &Listener,
        driver: &mut Driver,
        begin: &mut impl FnMut(&Accepted) -> Result<Option<Handshake>>,
        now: Instant,
    ) -> Poll<io::Result<Accepted>> {
        let all_due = !driver.knows_due;
        let mut index = 0;
        while index < self.pending.len() {
            self.pending[index].is_due |= all_due;
            index += usize::from(self.advance(index, begin, now));
        }
        let handed_out = match driver.only_drives {
            true => Ok(None),
            false => self.begin_some(listener, begin, now).and_then(|()| self.hand_out(listener)),
        };
        self.limit_visitors(listener.is_starved());
        // What was due was tried above; after this, it takes a leg that fires.
        driver.knows_due = true;
        self.is_news |= !self.done.is_empty();
        self.announce(self.drivers.saturating_sub(1));
        match handed_out.transpose() {
            Some(Err(error)) => {
                self.clear();
                Poll::Ready(Err(error))
            }
            Some(client) => Poll::Ready(client),
            None => Poll::Pending,
        }
    }

    /// Accepts clients and begins their handshakes.
    fn begin_some(
        &mut self,
        listener: &Listener,
        begin: &mut impl FnMut(&Accepted) -> Result<Option<Handshake>>,
        now: Instant,
    ) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            // Who got through is handed out first, so that there are never many of them.
            if listener.is_full() || !self.done.is_empty() {
                listener.miss();
                return Ok(());
            }
            let mut client = match listener.attempt(now, Listener::take) {
                Poll::Ready(client) => client?,
                Poll::Pending => return Ok(()),
            };
            let stack = client.stack.take();
            let begun = in_mode(&*client.channel, Mode::NonBlocking).and_then(|()| match stack {
                Some(stack) => {
                    let below = Arc::clone(&client.channel);
                    let climb = stack.climb(below, "handshake with", client.peer.clone(), None);
                    Ok(Some(Work::Layers(Box::new(climb))))
                }
                None => begin(&client).map(|handshake| handshake.map(Work::Handshake)),
            });
            match begun {
                Ok(Some(work)) => {
                    self.make_room();
                    self.pending.push_back(Pending {
                        number: self.next,
                        client,
                        work,
                        visitor: None,
                        deadline: now.checked_add(self.timeout),
                        set: PollSet::new(),
                        version: 0,
                        is_due: true,
                    });
                    self.next += 1;
                    self.is_news = true;
                    // Most have sent their first bytes by now.
                    self.advance(self.pending.len() - 1, begin, now);
                }
                Ok(None) => self.get_through(client),
                Err(error) => self.fail(client, error),
            }
        }
        // There may be more; others have their turn first.
        listener.miss();
        Ok(())
    }

    fn make_room(&mut self) {
        let is_shaking = |pending: &Pending| pending.visitor.is_none();
        let shaking = self.pending.iter().filter(|pending| is_shaking(pending)).count();
        if shaking + self.done.len() < self.limit {
            return;
        }
        let oldest = self.pending.iter().position(is_shaking);
        if let Some(oldest) = oldest.and_then(|at| self.pending.remove(at)) {
            let error = Error::new(Class::Cancelled, "handshake with", &oldest.client.who);
            self.fail(oldest.client, error.because("given up for a newer client"));
        }
    }

    /// Sends visitors away when there are too many, those first that ask for nothing; and all of
    /// those when others wait for a descriptor.
    fn limit_visitors(&mut self, is_starved: bool) {
        let is_idle = |pending: &Pending| pending.visitor == Some(Idle(true));
        let is_visitor = |pending: &Pending| pending.visitor.is_some();
        let mut visitors = self.pending.iter().filter(|pending| is_visitor(pending)).count();
        while visitors > 0 && (is_starved || visitors > self.limit) {
            let idle = self.pending.iter().position(is_idle);
            let oldest = || self.pending.iter().position(is_visitor);
            let chosen = if is_starved { idle } else { idle.or_else(oldest) };
            let Some(mut pending) = chosen.and_then(|at| self.pending.remove(at)) else { return };
            if let Work::Layers(climb) = &mut pending.work {
                climb.send_away();
                self.news.visits(&pending.client, climb.take_visits());
            }
            // Nobody is left to be told.
            let _ = pending.client.channel.close();
            visitors -= 1;
        }
    }

    /// Moves one handshake along; says whether it is still going on.
    fn advance(
        &mut self,
        index: usize,
        begin: &mut impl FnMut(&Accepted) -> Result<Option<Handshake>>,
        now: Instant,
    ) -> bool {
        let pending = &mut self.pending[index];
        let is_due = pending.is_due || pending.set.deadline().is_some_and(|at| at <= now);
        let mut polled = if is_due { pending.work.step(now) } else { Poll::Pending };
        let mut has_left = false;
        if let Work::Layers(climb) = &mut pending.work {
            self.news.visits(&pending.client, climb.take_visits());
            let is_over = pending.deadline.is_some_and(|deadline| deadline <= now);
            has_left = climb.has_left() || is_over && climb.is_silent();
            let visitor = climb.visitor();
            if pending.visitor.is_some() != visitor.is_some() {
                // A visitor keeps to times of its own, until it wants to be a client after all.
                pending.deadline = match visitor {
                    Some(_) => None,
                    None => now.checked_add(self.timeout),
                };
            }
            pending.visitor = visitor;
        }
        if let (Poll::Ready(Ok(channel)), Work::Layers(_)) = (&polled, &pending.work) {
            channel.base().set_name(pending.client.channel.base().name().to_string());
            pending.client.channel = Arc::clone(channel);
            match begin(&pending.client) {
                Ok(None) => {}
                Ok(Some(handshake)) => {
                    pending.work = Work::Handshake(handshake);
                    polled = pending.work.step(now);
                }
                Err(error) => polled = Poll::Ready(Err(error)),
            }
        }
        let result = match polled {
            Poll::Ready(result) => result,
            Poll::Pending if pending.deadline.is_some_and(|deadline| deadline <= now) => {
                let error = Error::timed_out("handshake with", &pending.client.who);
                Err(error.hint(format!("it was not done within {:?}", self.timeout)))
            }
            Poll::Pending => {
                if is_due {
                    pending.is_due = false;
                    pending.set.clear();
                    pending.work.watch(&mut pending.set);
                    pending.version += 1;
                }
                return true;
            }
        };
        let Some(Pending { mut client, .. }) = self.pending.remove(index) else { return false };
        match result {
            Ok(channel) => {
                client.channel = channel;
                self.get_through(client);
            }
            Err(_) if has_left => {
                // Nobody is left to be told.
                let _ = client.channel.close();
            }
            Err(error) => self.fail(client, error),
        }
        false
    }

    fn get_through(&mut self, client: Accepted) {
        match in_mode(&*client.channel, Mode::Blocking) {
            Ok(()) => self.done.push_back(client),
            Err(error) => self.fail(client, error),
        }
    }

    fn fail(&mut self, client: Accepted, error: Error) {
        // Whoever else owns it: it is over.
        let _ = client.channel.close();
        event!(info, peer = %client.peer, error = %error.report(), "a handshake failed");
        self.news.failed.push((client, error));
    }

    /// Hands out who got through, if there is a place.
    fn hand_out(&mut self, listener: &Listener) -> io::Result<Option<Accepted>> {
        if self.done.is_empty() {
            return Ok(None);
        }
        match listener.try_place() {
            Ok(place) => Ok(self.done.pop_front().map(|client| match place {
                Some(place) => client.holding(place),
                None => client,
            })),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds what the next step waits for.
    pub(super) fn watch(&mut self, listener: &Listener, driver: &mut Driver, set: &mut PollSet) {
        // From here on, the loop either says who is due, or it may be anybody.
        driver.knows_due = false;
        driver.legs.clear();
        let is_full = listener.is_full();
        if !driver.only_drives && !listener.watch_backoff(set) {
            listener.watch_sockets(is_full, set);
        }
        if !driver.only_drives && !self.done.is_empty() {
            listener.watch_places(set);
        }
        if self.drivers > 0 {
            self.change.watch(Interest::READ, set);
        }
        for pending in &self.pending {
            let Pending { number, version, .. } = *pending;
            driver.legs.push(Place { number, version, first_leg: set.legs().len() });
            for leg in pending.set.legs() {
                set.add(leg.fd(), leg.on(), leg.grants());
            }
            for at in pending.set.deadline().into_iter().chain(pending.deadline) {
                set.wake_at(at);
            }
        }
    }

    /// Learns who is due from the set that [`watch`](Pool::watch) filled for the same driver.
    pub(super) fn woken(&mut self, driver: &mut Driver, set: &PollSet) {
        driver.knows_due = true;
        let mut places = driver.legs.iter().peekable();
        for pending in &mut self.pending {
            while places.next_if(|place| place.number < pending.number).is_some() {}
            let place = places.next_if(|place| place.number == pending.number);
            let Some(place) = place.filter(|place| place.version == pending.version) else {
                // Others have gone on with it since.
                pending.is_due = true;
                continue;
            };
            for index in 0..pending.set.legs().len() {
                let leg = set.legs().get(place.first_leg + index);
                let Some(fired) = leg.map(|leg| leg.fired()) else { continue };
                if !fired.is_empty() {
                    pending.is_due = true;
                    pending.set.mark(index, fired);
                }
            }
            if pending.is_due {
                pending.work.woken(&pending.set);
            }
        }
    }
}

impl News {
    fn visits(&mut self, client: &Accepted, visits: Vec<Visit>) {
        for visit in visits {
            event!(
                debug,
                peer = %client.peer,
                method = visit.method,
                path = visit.path,
                status = visit.status,
                bytes = visit.bytes,
                "answered"
            );
            self.visits.push((client.who.clone(), visit));
        }
    }

    /// Tells the observer of a listener.
    pub(super) fn tell(&self, listener: &Listener) {
        for (peer, visit) in &self.visits {
            listener.tell(&ListenEvent::Answered { peer, visit });
        }
        for (client, error) in &self.failed {
            listener.tell(&ListenEvent::HandshakeFailed { peer: &client.who, error });
        }
    }
}

fn in_mode(channel: &dyn Channel, mode: Mode) -> Result<()> {
    let result = channel.set_mode(mode);
    result.map_err(|error| {
        Error::new(Class::Io, "handshake with", channel.base().name()).because(error)
    })
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pool")
            .field("pending", &self.pending.len())
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}
