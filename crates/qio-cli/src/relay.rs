//! `qio relay`: joins two addresses.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use qio::net::{Accepted, Inherited, Listener};
use qio::relay::{End, HalfClose, RelayOptions};
use qio::{Address, Channel, ChannelExt};
use qio_adapters::tokio as adapter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as flag};
use tokio::task::JoinHandle;

use crate::accept::{AcceptLoop, Interruption};
use crate::admission;
use crate::args::{AdmissionArgs, HandshakeArgs, RelayArgs};
use crate::descriptors::Room;
use crate::exit::Failure;
use crate::report::{Report, counted};
use crate::service::Service;
use crate::session::{
    Closes, Cut, CutFlag, LIMIT_PAUSE, Opener, check_framing, child_status, end_child_in_time,
    gone, join, outcome, reached, relay_options, turned_on,
};
use crate::stop::{Signals, Wish};
use crate::workers::Workers;

/// How long a child may take to end by itself after its pipes are closed, where its status counts.
pub(crate) const CHILD_PATIENCE: Duration = Duration::from_secs(10);

/// How long connections get to end their children when the program was told twice to end.
const AT_ONCE_PATIENCE: Duration = Duration::from_millis(250);

/// How long the other side may be silent after one has ended, when both are opened again then: long
/// enough for an answer that is on its way, and no longer, because the one that ended is back only
/// when the pair is.
const REJOIN_GRACE: Duration = Duration::from_secs(1);

/// How long connections that were cut get to say so.
pub(crate) const CUT_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(
    mut args: RelayArgs,
    inherited: Inherited,
    service: Arc<Service>,
) -> Result<(), Failure> {
    let report = Report::new(args.output, true);
    service.show(&report);
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    if args.left.has_layers() || args.right.has_layers() {
        signals = signals.reloading().map_err(|error| Failure::io("signals", &error))?;
    }
    let (cut, cut_flag) = flag::channel(Cut::No);
    args.handshakes.apply([&mut args.left, &mut args.right])?;
    for address in [&args.left, &args.right] {
        // What would fail for each client is found out now.
        inherited.check(address)?;
    }
    admission::check(&args.admission, &[&args.left, &args.right])?;
    check_framing(&args.joining, &args.left, &args.right)?;
    let listener = match args.left.is_listening() {
        true => Some(Arc::new(listen(
            &args.left,
            &inherited,
            &args.admission,
            args.handshakes,
            &report,
        )?)),
        false => None,
    };
    let right = RightSide::open(&args, &inherited, &report)?;
    let rejoins = listener.is_none() && rejoin_pause(&args).is_some();
    let mut options = relay_options(&args.joining, &[&args.left, &args.right]);
    if rejoins && args.joining.half_close.is_none() {
        options = options.half_close(HalfClose::Close { grace: REJOIN_GRACE });
    }
    let relay = Arc::new(Relay {
        target: right.name().into(),
        right,
        options,
        report: Arc::clone(&report),
        cut: cut_flag,
        service: Arc::clone(&service),
        serves_one: args.once || listener.is_none(),
        rejoins,
    });
    let report_too = Arc::clone(&report);
    let mut stopper = Stopper {
        signals,
        report: report_too,
        service,
        cut,
        drain: args.drain,
        rejoins,
        stopping: false,
        listener: listener.clone(),
        relay: Arc::clone(&relay),
    };
    let work = async {
        match listener {
            Some(listener) => serve(listener, &args, &relay, &mut stopper).await,
            None => join_both(&args, &relay, inherited, &mut stopper).await,
        }
    };
    let result = tokio::select! {
        result = work => result,
        never = keep_progress(&report) => match never {},
    };
    report.finish();
    result
}

/// Opens an address to listen on, and says so.
pub(crate) fn listen(
    address: &Address,
    inherited: &Inherited,
    admission: &AdmissionArgs,
    handshakes: HandshakeArgs,
    report: &Arc<Report>,
) -> Result<Listener, Failure> {
    let options = admission::options(admission, handshakes, inherited, report);
    let listener = qio::net::listen(address, &options)?;
    admission::check_open(admission, address, &listener)?;
    for local in listener.local_addresses() {
        // Nobody knows the pin of a certificate that was made just now.
        let surprising = address.leaves_choice() || address.is_self_signed();
        report.listening(&local.to_string(), surprising);
    }
    Ok(listener)
}

/// What serves each connection.
#[derive(Debug)]
struct Relay {
    right: RightSide,
    /// The right side's name.
    target: Arc<str>,
    options: RelayOptions,
    report: Arc<Report>,
    cut: CutFlag,
    service: Arc<Service>,
    /// The program ends with the outcome of the one connection.
    serves_one: bool,
    /// The same two addresses are joined again when a connection has ended.
    rejoins: bool,
}

/// Where the second channel of a connection comes from.
#[derive(Debug)]
enum RightSide {
    Connect { address: Address, opener: Box<Opener> },
    Accept { listener: Box<Listener> },
}

impl RightSide {
    fn open(
        args: &RelayArgs,
        inherited: &Inherited,
        report: &Arc<Report>,
    ) -> Result<Self, Failure> {
        if args.right.is_listening() {
            let listener =
                listen(&args.right, inherited, &args.admission, args.handshakes, report)?;
            return Ok(Self::Accept { listener: Box::new(listener) });
        }
        let mut opener = Opener::new(&args.opening, inherited.clone(), report);
        opener.prepare(&args.right)?;
        if !args.left.is_listening() && rejoin_pause(args).is_some() {
            opener = opener.endlessly();
        }
        Ok(Self::Connect { address: args.right.clone(), opener: Box::new(opener) })
    }

    async fn channel(&self) -> Result<Arc<dyn Channel>, Failure> {
        match self {
            Self::Connect { address, opener } => opener.open(address).await,
            Self::Accept { listener } => match adapter::run(listener.accepting()).await {
                Ok(Ok(accepted)) => Ok(accepted.channel),
                Ok(Err(error)) | Err(error) => Err(Failure::io("accept", &error)),
            },
        }
    }

    /// Whether a client that was accepted waits for a descriptor.
    fn is_starving(&self) -> bool {
        matches!(self, Self::Connect { opener, .. } if opener.is_starving())
    }

    fn name(&self) -> String {
        match self {
            Self::Connect { address, .. } => address.to_string(),
            Self::Accept { listener } => {
                listener.local_addresses().first().map(Address::to_string).unwrap_or_default()
            }
        }
    }
}

impl Relay {
    /// A child that still works on what it got is not ended before its time.
    async fn await_children(&self, ends: [Arc<dyn Channel>; 2]) {
        for end in ends {
            tokio::select! {
                _ = child_status(&*end, CHILD_PATIENCE) => {}
                () = turned_on(self.cut.clone()) => {
                    end_child_in_time(end, self.cut.clone()).await
                }
            }
        }
    }

    /// Serves one connection from its left channel to its end, and gives its slot back then.
    ///
    /// What does not last as long as the connection is boxed: a future is as large as the largest
    /// of its parts, for its whole life.
    async fn connection(
        self: Arc<Self>,
        left: Arc<dyn Channel>,
        peer: String,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Failure> {
        let connection = self.report.begin(peer, Arc::clone(&self.target));
        let right = tokio::select! {
            right = Box::pin(self.right.channel()) => right,
            () = Box::pin(gone(&*left)), if slot.is_some() || self.rejoins => Err(Failure::gone()),
            () = turned_on(self.cut.clone()) => Err(Failure::cut()),
            () = reached(self.cut.clone(), Cut::Opening), if self.rejoins => return Ok(()),
        };
        let right = match right {
            Ok(right) => right,
            Err(failure) => {
                let _ = left.close();
                return Err(connection.failed(failure, self.serves_one));
            }
        };
        // Of two addresses that are joined once, nothing is left to be opened.
        self.service.ready();
        let options = self.options.clone();
        let ends = [Arc::clone(&left), Arc::clone(&right)];
        match join(left, right, options, &connection, self.cut.clone()).await {
            Ok(record) => {
                let cut = record.end == End::Cut;
                let what = format!("{} -> {}", ends[0].name(), ends[1].name());
                let closes = Closes::of(&ends);
                let result = match record.end {
                    // The other side had its time to end, too.
                    End::HalfClosed if self.rejoins => Ok(()),
                    _ => outcome(&record, &closes, &what),
                };
                let result = connection.ended(&record, &closes, result);
                if cut {
                    Box::pin(end_children(ends, self.cut.clone())).await;
                    return Ok(());
                }
                result?;
            }
            Err(error) => {
                let failure = Failure::io("relay", &error);
                return Err(connection.failed(failure, self.serves_one));
            }
        }
        Box::pin(self.await_children(ends)).await;
        drop(slot);
        Ok(())
    }
}

async fn end_children([left, right]: [Arc<dyn Channel>; 2], cut: CutFlag) {
    tokio::join!(end_child_in_time(left, cut.clone()), end_child_in_time(right, cut));
}

/// How long to wait before two addresses are joined again: the longer of what they say.
fn rejoin_pause(args: &RelayArgs) -> Option<Duration> {
    if args.once {
        return None;
    }
    [&args.left, &args.right].into_iter().filter_map(Address::reconnect_pause).max()
}

/// Joins two channels of which the left one is connected to: once, or again and again.
async fn join_both(
    args: &RelayArgs,
    relay: &Arc<Relay>,
    inherited: Inherited,
    stopper: &mut Stopper,
) -> Result<(), Failure> {
    let mut opener = Opener::new(&args.opening, inherited, &relay.report);
    let pause = rejoin_pause(args);
    if pause.is_some() {
        opener = opener.endlessly();
        // Waiting for servers that come and go is what it is for.
        relay.service.ready();
    }
    loop {
        let left = tokio::select! {
            left = opener.open(&args.left) => left,
            number = stopper.requested() => match pause {
                // What goes on for ever ends as asked when it is told to.
                Some(_) => return Ok(()),
                None => return Err(Failure::signal(number)),
            },
        };
        let result = match left {
            Ok(left) => {
                let relay = Arc::clone(relay);
                let job = tokio::spawn(relay.connection(left, args.left.to_string(), None));
                stopper.until(finished(job), false).await
            }
            Err(failure) => Err(failure),
        };
        let Some(pause) = pause.filter(|_| !stopper.stopping) else { return result };
        match result {
            Ok(()) => relay
                .report
                .detail(&format!("{} and {} are joined again in {pause:?}", args.left, args.right)),
            Err(failure) if failure.is_opening() => return Err(failure),
            Err(failure) => {
                if let Some(message) = failure.message() {
                    relay.report.trying_again(message, true);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopper.requested() => return Ok(()),
        }
    }
}

/// Accepts clients until told to stop (or one, with --once).
async fn serve(
    listener: Arc<Listener>,
    args: &RelayArgs,
    relay: &Arc<Relay>,
    stopper: &mut Stopper,
) -> Result<(), Failure> {
    let workers = Workers::start(args.threads).map_err(|error| Failure::io("threads", &error))?;
    relay.service.watch_over(workers.all());
    let asked = if args.once { 1 } else { args.max_connections };
    let room = Room::make(asked, [&args.left, &args.right], args.threads);
    let limit = room.connections;
    if let Some(files) = room.limited_by {
        let connections = counted(limit.into(), "connection");
        relay.report.detail(&format!("at most {connections} at a time at {files} open files"));
    }
    let slots = Arc::new(Semaphore::new(limit as usize));
    let mut only = None;
    let start = |client: Accepted, slot: OwnedSemaphorePermit| {
        let relay = Arc::clone(relay);
        let job = workers.next().spawn(relay.connection(client.channel, client.peer, Some(slot)));
        only = Some(job);
    };
    let may_accept = || !relay.right.is_starving();
    relay.service.ready();
    let mut accepting = AcceptLoop::new(&listener, &slots, args.once, may_accept, start);
    loop {
        let interruption = tokio::select! {
            result = adapter::run(&mut accepting) => {
                result.map_err(|error| Failure::io("accept", &error))?
            }
            _ = stopper.requested() => Interruption::Enough,
        };
        match interruption {
            Interruption::Turn => tokio::task::yield_now().await,
            Interruption::Enough => break,
            Interruption::NoSlot => {
                if let Some(files) = room.limited_by {
                    let full = counted(limit.into(), "connection");
                    relay.report.at_limit(format_args!(
                        "accept: no room for more than {full} at the limit of {files} open files"
                    ));
                }
                tokio::select! {
                    slot = slots.acquire() => drop(slot),
                    // Those who do not go on are closed in time all the same.
                    _ = adapter::run(listener.accepting().only_handshakes()) => {}
                    _ = stopper.requested() => break,
                }
            }
            Interruption::Starving => tokio::select! {
                _ = adapter::run(listener.accepting().only_handshakes()) => {}
                () = tokio::time::sleep(LIMIT_PAUSE) => {}
                _ = stopper.requested() => break,
            },
            Interruption::Broken(error) => return Err(Failure::io("accept", &error)),
        }
    }
    // From here on clients are refused, and a socket file is gone.
    let _ = listener.close();
    match only {
        Some(job) if args.once => stopper.until(finished(job), false).await,
        _ => {
            let all_ended = async {
                let _ = slots.acquire_many(limit).await;
                Ok(())
            };
            stopper.until(all_ended, true).await
        }
    }
}

async fn finished(job: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    match job.await {
        Ok(result) => result,
        Err(error) => Err(Failure::io("connection", &io::Error::other(error))),
    }
}

/// Turns signals into an orderly end.
#[derive(Debug)]
struct Stopper {
    signals: Signals,
    report: Arc<Report>,
    service: Arc<Service>,
    cut: flag::Sender<Cut>,
    drain: Duration,
    /// Nobody waits for what is being opened.
    rejoins: bool,
    /// A signal has asked to stop.
    stopping: bool,
    /// What reads its files again when a signal asks for it.
    listener: Option<Arc<Listener>>,
    relay: Arc<Relay>,
}

impl Stopper {
    /// Waits for a signal that asks to stop; answers the others.
    async fn requested(&mut self) -> i32 {
        loop {
            match self.signals.next().await {
                Wish::Stop(number) => {
                    if self.rejoins && !self.stopping {
                        // Without receivers nothing is being opened.
                        let _ = self.cut.send(Cut::Opening);
                    }
                    self.stopping = true;
                    self.service.stopping();
                    return number;
                }
                Wish::Show => self.report.table(),
                Wish::Reload => self.reload(),
            }
        }
    }

    /// Has certificates, keys and passwords read again.
    fn reload(&self) {
        let left = self.listener.as_ref().map_or(Ok(()), |listener| listener.reload());
        let right = match &self.relay.right {
            RightSide::Accept { listener } => listener.reload(),
            RightSide::Connect { address, opener } => opener.reload(address),
        };
        match left.and(right) {
            Ok(()) => self.report.detail("certificates, keys and passwords were read again"),
            Err(error) => {
                self.report.note(&format!("{}; what was read before stays", error.report()))
            }
        }
    }

    /// Lets `work` end by itself; once stopped, for the drain time, and then by force.
    async fn until(
        &mut self,
        work: impl Future<Output = Result<(), Failure>>,
        stopping: bool,
    ) -> Result<(), Failure> {
        tokio::pin!(work);
        if !stopping {
            tokio::select! {
                result = &mut work => return result,
                _ = self.requested() => {}
            }
        }
        let drained = tokio::time::sleep(self.drain);
        tokio::select! {
            result = &mut work => return result,
            number = self.requested() => return Err(self.at_once(work, number).await),
            () = drained => {}
        }
        let live = counted(self.report.live_count() as u64, "connection");
        self.report.note(&format!("{live} cut after {:?} of draining", self.drain));
        // Without receivers there is nothing left to cut.
        let _ = self.cut.send(Cut::Politely);
        tokio::select! {
            result = &mut work => result,
            number = self.requested() => Err(self.at_once(work, number).await),
            () = tokio::time::sleep(CUT_PATIENCE) => Ok(()),
        }
    }

    /// Ends what runs with just enough time for no child to be left behind.
    async fn at_once(&self, work: impl Future, number: i32) -> Failure {
        // Without receivers there is nothing left to cut.
        let _ = self.cut.send(Cut::AtOnce);
        let _ = tokio::time::timeout(AT_ONCE_PATIENCE, work).await;
        Failure::signal(number)
    }
}

/// Draws the progress line for as long as it is polled.
pub(crate) async fn keep_progress(report: &Report) -> std::convert::Infallible {
    let mut moved = 0;
    loop {
        if report.has_progress() {
            moved = report.refresh(moved);
            tokio::time::sleep(Report::REFRESH).await;
        } else {
            std::future::pending::<()>().await;
        }
    }
}
