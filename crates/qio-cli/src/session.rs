//! One connection: two channels, joined until the end.

use std::future::pending;
use std::io;
use std::ops::ControlFlow;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::net::{Connect, ConnectOptions, Inherited};
use qio::relay::{End, HalfClose, Record, Relay, RelayOptions};
use qio::transport::Child;
use qio::watch::{self, PollSet, Steps};
use qio::{Address, Channel, ChannelExt, Features, Mode};
use qio_adapters::tokio as adapter;
use tokio::sync::watch as flag;

use crate::args::{JoiningArgs, OpeningArgs};
use crate::exit::Failure;
use crate::report::{Connection, ending};

/// Turned on when connections are to be cut.
pub(crate) type CutFlag = flag::Receiver<bool>;

/// Opens an address that is connected to, with retries.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    options: ConnectOptions,
    retries: u32,
}

/// The first pause before another attempt…
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// …and the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Opener {
    pub(crate) fn new(args: &OpeningArgs, inherited: Inherited) -> Self {
        let options = ConnectOptions::new().timeout(args.connect_timeout).inherited(inherited);
        Self { options, retries: args.retry }
    }

    /// Connects. Dropping the future gives up at once.
    pub(crate) async fn open(&self, address: &Address) -> Result<Arc<dyn Channel>, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut left = self.retries;
        loop {
            let failure = match adapter::run(Connect::new(address, &self.options)).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => Failure::from(error),
                Err(error) => Failure::io(format_args!("connect {address}"), &error),
            };
            if left == 0 || !failure.may_pass() {
                return Err(failure);
            }
            left -= 1;
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// What the command line says about joining, as options of a relay.
pub(crate) fn relay_options(args: &JoiningArgs) -> RelayOptions {
    RelayOptions::default()
        .idle_timeout(args.idle_timeout)
        .half_close(HalfClose::Propagate { limit: args.half_close.0 })
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
        return join_in_thread(relay, ends, cut).await;
    }
    drop(ends);
    tokio::select! {
        record = adapter::run(&mut relay) => return record,
        () = turned_on(cut) => {}
    }
    Ok(relay.cut())
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

/// Returns when the flag is turned on; never when its owner is gone.
async fn turned_on(mut cut: CutFlag) {
    if cut.wait_for(|&on| on).await.is_err() {
        pending().await
    }
}

/// The outcome of a record for a program that served just this connection.
pub(crate) fn outcome(record: &Record, what: &str) -> Result<(), Failure> {
    match (record.end, record.error()) {
        (End::Idle | End::HalfClosed, _) => {
            Err(Failure::timeout(format!("{what}: {}", ending(record))))
        }
        (End::Cut, _) | (_, None) => Ok(()),
        (_, Some(error)) => Err(Failure::io(what, error)),
    }
}

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
