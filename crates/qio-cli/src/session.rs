//! One connection: two channels, joined until the end.

use std::error::Error as _;
use std::future::pending;
use std::io::{self, IoSliceMut};
use std::ops::ControlFlow;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::error::plain;
use qio::layer::ws;
use qio::net::{Connect, ConnectOptions, Inherited, Retry, is_descriptor_limit};
use qio::relay::{End, HalfClose, Record, Relay, RelayOptions};
use qio::transport::Child;
use qio::watch::{self, PollSet, Steps};
use qio::{Address, Channel, ChannelExt, Features, Interest, Mode, ReadFlags, Readiness};
use qio_adapters::tokio as adapter;
use tokio::sync::watch as flag;

use crate::args::{JoiningArgs, OpeningArgs};
use crate::exit::Failure;
use crate::report::{Connection, Report, ending};

/// Turned on when connections are to be cut.
pub(crate) type CutFlag = flag::Receiver<Cut>;

/// Whether connections are to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    No,
    /// What is not joined yet is given up, where nobody waits for it.
    Opening,
    /// Children may clean up.
    Politely,
    /// The program ends in a moment.
    AtOnce,
}

/// Opens an address that is connected to, with retries.
#[derive(Debug)]
pub(crate) struct Opener {
    options: ConnectOptions,
    timeout: Duration,
    report: Arc<Report>,
    /// How many wait for a descriptor.
    starving: AtomicUsize,
}

/// How long to wait at the limit of open files.
pub(crate) const LIMIT_PAUSE: Duration = Duration::from_millis(200);

impl Opener {
    pub(crate) fn new(args: &OpeningArgs, inherited: Inherited, report: &Arc<Report>) -> Self {
        let timeout = args.connect_timeout;
        let retry = args.retry.map(|attempts| Retry::new().attempts(attempts));
        let options = ConnectOptions::new().timeout(timeout).retry(retry).inherited(inherited);
        Self { options, timeout, report: Arc::clone(report), starving: AtomicUsize::new(0) }
    }

    /// Finds out now what would fail for each client: files that a layer needs.
    pub(crate) fn prepare(&self, address: &Address) -> Result<(), Failure> {
        Ok(self.options.prepare(address)?)
    }

    /// Reads those files again for what is opened from now on.
    pub(crate) fn reload(&self, address: &Address) -> qio::Result<()> {
        self.options.reload();
        self.options.prepare(address)
    }

    /// The same for addresses that are joined again and again: with `reconnect-ms` there is no end
    /// of attempts, unless somebody has set one.
    pub(crate) fn endlessly(mut self) -> Self {
        self.options.retry.get_or_insert_default();
        self
    }

    /// Whether somebody waits for a descriptor, who comes before further clients.
    pub(crate) fn is_starving(&self) -> bool {
        self.starving.load(Ordering::Relaxed) > 0
    }

    /// Waits at the limit of open files.
    async fn starve(&self) {
        struct Starving<'a>(&'a AtomicUsize);
        impl Drop for Starving<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.starving.fetch_add(1, Ordering::Relaxed);
        let _starving = Starving(&self.starving);
        tokio::time::sleep(LIMIT_PAUSE).await;
    }

    /// Connects. Dropping the future gives up at once.
    pub(crate) async fn open(&self, address: &Address) -> Result<Arc<dyn Channel>, Failure> {
        let until = Instant::now().checked_add(self.timeout);
        loop {
            let connect = Connect::new(address, &self.options);
            let opening = Opening { connect, opener: self, address, failed: false };
            let error = match adapter::run(opening).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => error,
                Err(error) => return Err(Failure::io(format_args!("connect {address}"), &error)),
            };
            // A client that got the last descriptor waits for the next one.
            let Some(limit) = descriptor_limit(&error) else { return Err(error.into()) };
            self.report.at_limit(format_args!("connect {address}: {}", plain(limit)));
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Failure::from(error).at_limit());
            }
            self.starve().await;
        }
    }
}

/// The opening of an address, which says what goes wrong on the way.
#[derive(Debug)]
struct Opening<'a> {
    connect: Connect,
    opener: &'a Opener,
    address: &'a Address,
    failed: bool,
}

impl Steps for Opening<'_> {
    type Output = qio::Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        let result = self.connect.step(now);
        if let Some(failure) = self.connect.last_failure() {
            let loud = self.address.reconnect_pause().is_some();
            self.opener.report.trying_again(&failure.report().to_string(), loud);
            self.failed = true;
        } else if self.failed && matches!(result, Poll::Ready(Ok(_))) {
            self.opener.report.trouble_is_over();
        }
        result
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.connect.watch(set);
    }
}

/// The limit of open files, if it is what an attempt failed for.
fn descriptor_limit(error: &qio::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(error) if is_descriptor_limit(error) => return Some(error),
            _ => cause = error.source(),
        }
    }
    None
}

/// How long the peers of a listener for datagrams may be silent unless something else is said.
///
/// They never say that they go, and each holds two sockets. Two minutes is the time that RFC 4787
/// (REQ-5) makes a NAT remember one for.
const DATAGRAM_IDLE: Duration = Duration::from_secs(120);

/// Finds two addresses of which one keeps messages apart and the other does not, where nothing
/// says how to tell them apart there; and a framing that is of no use.
pub(crate) fn check_framing(
    args: &JoiningArgs,
    left: &Address,
    right: &Address,
) -> Result<(), Failure> {
    let kept = |address: &Address| address.scheme().keeps_messages();
    let (messages, stream) = match (kept(left), kept(right)) {
        (Some(true), Some(false)) => (left, right),
        (Some(false), Some(true)) => (right, left),
        (Some(one), Some(other)) if one == other && args.framing.is_some() => {
            let text = "a framing joins messages and a stream, and these are of one kind";
            return Err(Failure::usage(format!("join {left} and {right}: {text}")));
        }
        _ => return Ok(()),
    };
    if args.framing.is_some() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "join {left} and {right}: {} keeps messages apart, and {} does not (say how to tell them \
         apart there: --framing u16, u32 or line)",
        messages.scheme().name,
        stream.scheme().name,
    )))
}

/// What the command line says about joining `addresses`, as options of a relay.
pub(crate) fn relay_options(args: &JoiningArgs, addresses: &[&Address]) -> RelayOptions {
    let of_datagrams =
        |address: &&Address| address.is_listening() && address.scheme().name == "udp";
    let idle = match args.idle_timeout {
        Some(limit) => limit.0,
        None => addresses.iter().any(of_datagrams).then_some(DATAGRAM_IDLE),
    };
    RelayOptions::default()
        .idle_timeout(idle)
        .framing(args.framing)
        .half_close(
            args.half_close
                .map_or_else(HalfClose::default, |limit| HalfClose::Propagate { limit: limit.0 }),
        )
        .pass_fds(args.pass_fds)
        .splice(!args.no_splice)
}

/// Joins two channels until both directions ended, or until `cut` turns on.
pub(crate) async fn join(
    left: Arc<dyn Channel>,
    right: Arc<dyn Channel>,
    options: RelayOptions,
    connection: &Connection,
    cut: CutFlag,
) -> io::Result<Record> {
    for channel in [&left, &right] {
        channel.set_mode(Mode::NonBlocking)?;
    }
    let on_disk = (left.features() | right.features()).contains(Features::STORAGE);
    let ends = [Arc::clone(&left), Arc::clone(&right)];
    let mut relay = Relay::new(left, right, options);
    connection.show(relay.progress());
    if on_disk {
        return Box::pin(join_in_thread(relay, ends, cut)).await;
    }
    tokio::select! {
        record = adapter::run(&mut relay) => return record,
        () = turned_on(cut) => {}
    }
    for end in ends {
        say_farewell(&*end);
    }
    Ok(relay.cut())
}

/// Tells the peer of a layer that it is not cut by somebody else: Close, close_notify. One attempt.
fn say_farewell(channel: &dyn Channel) {
    if channel.inner().is_some() {
        // Whoever does not take it finds the end of the connection.
        let _ = ws::close(channel, ws::status::GOING_AWAY, "");
    }
}

/// Why the WebSockets of a connection were closed by their peers, if there are any.
#[derive(Debug)]
pub(crate) struct Closes([Option<ws::Close>; 2]);

impl Closes {
    pub(crate) fn of(ends: &[Arc<dyn Channel>; 2]) -> Self {
        Self([ws::peer_close(&*ends[0]), ws::peer_close(&*ends[1])])
    }

    /// In words: `ws closed with status 1001`.
    pub(crate) fn text(&self) -> Option<String> {
        let closes: Vec<_> =
            self.0.iter().flatten().map(|close| format!("ws closed with {close}")).collect();
        (!closes.is_empty()).then(|| closes.join(", "))
    }

    /// One that says that something went wrong.
    fn complaint(&self) -> Option<&ws::Close> {
        let normal = [ws::status::NORMAL, ws::status::GOING_AWAY];
        let is_bad =
            |close: &&ws::Close| close.status.is_some_and(|status| !normal.contains(&status));
        self.0.iter().flatten().find(is_bad)
    }
}

/// Files never would-block, so a relay with one does not belong on the event loop.
async fn join_in_thread(
    relay: Relay,
    ends: [Arc<dyn Channel>; 2],
    cut: CutFlag,
) -> io::Result<Record> {
    let job = tokio::task::spawn_blocking(move || match watch::run(relay, None)? {
        ControlFlow::Break(record) => Ok(record),
        ControlFlow::Continue(relay) => Ok(relay.cut()),
    });
    tokio::pin!(job);
    tokio::select! {
        record = &mut job => return record?,
        () = turned_on(cut) => {}
    }
    // Closing wakes the thread, which then finds both ends closed.
    for channel in ends {
        let _ = channel.close();
    }
    let mut record: Record = job.await??;
    record.end = End::Cut;
    Ok(record)
}

/// Returns when a client has gone that waits for its other side, and has left nothing behind.
///
/// A client that has only ended its side (or a TCP client that has, as far as anybody can tell)
/// is waiting for an answer.
pub(crate) async fn gone(client: &dyn Channel) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let mut set = PollSet::new();
        let _ = client.watch(Interest::READ, &mut set);
        let now = Instant::now();
        let broken = Readiness::HANGUP | Readiness::ERROR;
        let is_broken = |set: &PollSet| set.legs().iter().any(|leg| leg.fired().intersects(broken));
        if set.legs().is_empty() || set.poll(Some(now)).is_err() || !is_broken(&set) {
            continue;
        }
        let flags = ReadFlags::PEEK | ReadFlags::NONBLOCK;
        match client.read_with(&mut [IoSliceMut::new(&mut [0])], flags, None) {
            Ok(0) => return,
            // A layer may hold what it has sent.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            // What it has sent is delivered.
            _ => {}
        }
    }
}

/// How often to look whether a waiting client is still there: a hang-up alone wakes nobody.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Returns when the flag is turned on; never when its owner is gone.
pub(crate) async fn turned_on(cut: CutFlag) {
    reached(cut, Cut::Politely).await;
}

pub(crate) async fn reached(mut cut: CutFlag, urgency: Cut) {
    if cut.wait_for(|&now| now >= urgency).await.is_err() {
        pending().await
    }
}

/// The outcome of a record for a program that served just this connection.
pub(crate) fn outcome(record: &Record, closes: &Closes, what: &str) -> Result<(), Failure> {
    if let (End::Finished, Some(close)) = (record.end, closes.complaint()) {
        return Err(Failure::protocol(format!("{what}: websocket: the peer closed with {close}")));
    }
    match (record.end, record.error()) {
        (End::Idle | End::HalfClosed, _) => {
            Err(Failure::timeout(format!("{what}: {}", ending(record))))
        }
        (End::Cut, _) | (_, None) => Ok(()),
        (_, Some(error)) => {
            let failure = Failure::io(what, error);
            let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
            let refused = record.left_to_right.error.as_ref().is_some_and(broken);
            let only = record.right_to_left.error.is_none();
            Err(if refused && only { failure.refused() } else { failure })
        }
    }
}

/// Ends the child behind a channel: nobody is left to do so once this program has ended.
pub(crate) async fn end_child(channel: Arc<dyn Channel>) {
    if channel.find::<Child>().is_some() {
        let ladder = move || channel.find::<Child>().map(|child| child.terminate(CHILD_GRACE));
        // A child that cannot be signalled any more needs no signal.
        let _ = tokio::task::spawn_blocking(ladder).await;
    }
}

/// The same, for as long as `cut` leaves time to it.
pub(crate) async fn end_child_in_time(channel: Arc<dyn Channel>, cut: CutFlag) {
    if channel.find::<Child>().is_none() {
        return;
    }
    tokio::select! {
        () = end_child(Arc::clone(&channel)) => return,
        () = reached(cut, Cut::AtOnce) => {}
    }
    // The request to end was sent before, or is sent now.
    let asked = end_child(Arc::clone(&channel));
    if tokio::time::timeout(LAST_GRACE, asked).await.is_err()
        && let Some(child) = channel.find::<Child>()
    {
        // A child that cannot be signalled any more needs no signal.
        let _ = child.kill();
        // Not left to others as a zombie.
        let _ = child_status(&*channel, LAST_GRACE).await;
    }
}

/// How long a child may clean up when the program was told twice to end.
const LAST_GRACE: Duration = Duration::from_millis(100);

/// How long a child may clean up after SIGTERM.
const CHILD_GRACE: Duration = Duration::from_secs(1);

/// Waits for the child behind a channel to end by itself, for at most `patience`.
///
/// `None` when there is no child, or when it runs on; dropping the channel ends it then.
pub(crate) async fn child_status(channel: &dyn Channel, patience: Duration) -> Option<ExitStatus> {
    struct Exit<'a> {
        child: &'a Child,
        until: Instant,
    }
    impl Steps for Exit<'_> {
        type Output = Option<ExitStatus>;

        fn step(&mut self, now: Instant) -> Poll<Self::Output> {
            match self.child.exit_status() {
                Ok(None) if now < self.until => Poll::Pending,
                status => Poll::Ready(status.ok().flatten()),
            }
        }

        fn watch(&mut self, set: &mut PollSet) {
            self.child.watch_exit(set);
            set.wake_at(self.until);
        }
    }
    let child = channel.find::<Child>()?;
    adapter::run(Exit { child, until: Instant::now() + patience }).await.ok()?
}
