//! `qio relay`: joins two addresses.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use qio::error::plain;
use qio::net::{Accepted, Inherited, ListenOptions, Listener};
use qio::relay::{End, RelayOptions};
use qio::{Address, Channel, ChannelExt};
use qio_adapters::tokio as adapter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as flag};
use tokio::task::JoinHandle;

use crate::accept::{AcceptLoop, Interruption, may_pass};
use crate::args::RelayArgs;
use crate::descriptors::Room;
use crate::exit::Failure;
use crate::inherited;
use crate::report::{Report, counted};
use crate::session::{
    Cut, CutFlag, LIMIT_PAUSE, Opener, check_framing, child_status, end_child_in_time, gone, join,
    outcome, relay_options, turned_on,
};
use crate::stop::{Signals, Wish};
use crate::workers::Workers;

/// How long a child may take to end by itself after its pipes are closed, where its status counts.
pub(crate) const CHILD_PATIENCE: Duration = Duration::from_secs(10);

/// How long connections get to end their children when the program was told twice to end.
const AT_ONCE_PATIENCE: Duration = Duration::from_millis(250);

/// How long connections that were cut get to say so.
pub(crate) const CUT_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: RelayArgs, inherited: Inherited) -> Result<(), Failure> {
    let report = Report::new(args.output, true);
    let signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let (cut, cut_flag) = flag::channel(Cut::No);
    for address in [&args.left, &args.right] {
        inherited::check(address, &inherited)?;
    }
    check_framing(&args.joining, &args.left, &args.right)?;
    let listener = match args.left.is_listening() {
        true => Some(listen(&args.left, &inherited, &report)?),
        false => None,
    };
    let right = RightSide::open(&args, &inherited, &report)?;
    let relay = Arc::new(Relay {
        target: right.name().into(),
        right,
        options: relay_options(&args.joining, &[&args.left, &args.right]),
        report: Arc::clone(&report),
        cut: cut_flag,
        serves_one: args.once || listener.is_none(),
    });
    let mut stopper = Stopper { signals, report: Arc::clone(&report), cut, drain: args.drain };
    let work = async {
        match listener {
            Some(listener) => serve(listener, &args, &relay, &mut stopper).await,
            None => join_once(&args, &relay, inherited, &mut stopper).await,
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
    report: &Report,
) -> Result<Listener, Failure> {
    let options = ListenOptions::new().inherited(inherited.clone());
    let listener = qio::net::listen(address, &options)?;
    for local in listener.local_addresses() {
        let surprising = address.port() == Some(0);
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
    /// The program ends with the outcome of the one connection.
    serves_one: bool,
}

/// Where the second channel of a connection comes from.
#[derive(Debug)]
enum RightSide {
    Connect { address: Address, opener: Opener },
    Accept { listener: Listener, report: Arc<Report> },
}

impl RightSide {
    fn open(
        args: &RelayArgs,
        inherited: &Inherited,
        report: &Arc<Report>,
    ) -> Result<Self, Failure> {
        if args.right.is_listening() {
            let listener = listen(&args.right, inherited, report)?;
            return Ok(Self::Accept { listener, report: Arc::clone(report) });
        }
        let opener = Opener::new(&args.opening, inherited.clone(), report);
        Ok(Self::Connect { address: args.right.clone(), opener })
    }

    async fn channel(&self) -> Result<Arc<dyn Channel>, Failure> {
        match self {
            Self::Connect { address, opener } => opener.open(address).await,
            Self::Accept { listener, report } => loop {
                match adapter::run(listener.accepting()).await {
                    Ok(Ok(accepted)) => return Ok(accepted.channel),
                    Ok(Err(error)) if may_pass(&error) => {
                        report.at_limit(format_args!("accept: {}", plain(&error)));
                        tokio::time::sleep(LIMIT_PAUSE).await;
                    }
                    Ok(Err(error)) | Err(error) => return Err(Failure::io("accept", &error)),
                }
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
            Self::Accept { listener, .. } => {
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
            () = Box::pin(gone(&*left)), if slot.is_some() => Err(Failure::gone()),
            () = turned_on(self.cut.clone()) => Err(Failure::cut()),
        };
        let right = match right {
            Ok(right) => right,
            Err(failure) => {
                let _ = left.close();
                return Err(connection.failed(failure, self.serves_one));
            }
        };
        let options = self.options.clone();
        let ends = [Arc::clone(&left), Arc::clone(&right)];
        match join(left, right, options, &connection, self.cut.clone()).await {
            Ok(record) => {
                let cut = record.end == End::Cut;
                let what = format!("{} -> {}", ends[0].name(), ends[1].name());
                let result = connection.ended(&record, outcome(&record, &what));
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

/// Joins two channels that are both connected to.
async fn join_once(
    args: &RelayArgs,
    relay: &Arc<Relay>,
    inherited: Inherited,
    stopper: &mut Stopper,
) -> Result<(), Failure> {
    let opener = Opener::new(&args.opening, inherited, &relay.report);
    let left = tokio::select! {
        left = opener.open(&args.left) => left?,
        number = stopper.requested() => return Err(Failure::signal(number)),
    };
    let job = tokio::spawn(Arc::clone(relay).connection(left, args.left.to_string(), None));
    stopper.until(finished(job), false).await
}

/// Accepts clients until told to stop (or one, with --once).
async fn serve(
    listener: Listener,
    args: &RelayArgs,
    relay: &Arc<Relay>,
    stopper: &mut Stopper,
) -> Result<(), Failure> {
    let workers = Workers::start(args.threads).map_err(|error| Failure::io("threads", &error))?;
    let asked = if args.once { 1 } else { args.max_connections };
    let room = Room::make(asked, &args.right, args.threads);
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
                    _ = stopper.requested() => break,
                }
            }
            Interruption::Limit(error) => {
                if let Some(error) = error {
                    let live = counted(relay.report.live_count() as u64, "live connection");
                    relay.report.at_limit(format_args!("accept: {} ({live})", plain(&error)));
                }
                tokio::select! {
                    () = tokio::time::sleep(LIMIT_PAUSE) => {}
                    _ = stopper.requested() => break,
                }
            }
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
    cut: flag::Sender<Cut>,
    drain: Duration,
}

impl Stopper {
    /// Waits for a signal that asks to stop; answers the others.
    async fn requested(&mut self) -> i32 {
        loop {
            match self.signals.next().await {
                Wish::Stop(number) => return number,
                Wish::Show => self.report.table(),
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
