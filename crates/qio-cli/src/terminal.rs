//! `qio connect` and `qio listen`: standard input and output, joined to an address.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use qio::net::Inherited;
use qio::relay::{RelayOptions, Side};
use qio::transport::Pipe;
use qio::{Channel, ChannelExt};
use qio_adapters::tokio as adapter;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::sync::watch as flag;

use crate::args::{ConnectArgs, JoiningArgs, ListenArgs, OutputArgs};
use crate::exit::Failure;
use crate::kept::Kept;
use crate::relay::{CHILD_PATIENCE, CUT_PATIENCE, keep_progress, listen};
use crate::report::Report;
use crate::service::Service;
use crate::session::{Cut, Opener, child_status, end_child, join, outcome, relay_options};
use crate::stop::{Signals, Wish};

pub(crate) async fn connect(
    args: ConnectArgs,
    inherited: Inherited,
    service: Arc<Service>,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let terminal = Terminal::take(&inherited)?;
    let report = terminal.report(args.output);
    service.show(&report);
    let mut opener = Opener::new(&args.opening, inherited, &report);
    let pause = args.address.reconnect_pause();
    if pause.is_some() {
        opener = opener.endlessly();
    }
    let target = args.address.to_string();
    let (channel, failure) = loop {
        let channel = tokio::select! {
            channel = opener.open(&args.address) => channel?,
            number = stop(&mut signals, &report) => return Err(Failure::signal(number)),
        };
        service.ready();
        let to = Arc::clone(&channel);
        let keep = pause.is_some();
        let ended = terminal.join(to, &target, &args.joining, &report, &mut signals, keep).await;
        let failure = match ended.result {
            // What qio ended before its time ends its child, too.
            Err(failure) if failure.is_by_decision() => {
                end_child(channel).await;
                return Err(failure);
            }
            joined => joined.err(),
        };
        let Some(pause) = pause.filter(|_| ended.by == Some(Side::Right)) else {
            break (channel, failure);
        };
        match failure.as_ref().and_then(Failure::message) {
            Some(message) => report.trying_again(message, true),
            None => report.detail(&format!("connect {target}: again in {pause:?}")),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            number = stop(&mut signals, &report) => return Err(Failure::signal(number)),
        }
    };
    // A child says itself whether it did its work.
    let status = tokio::select! {
        status = child_status(&*channel, CHILD_PATIENCE) => status,
        number = stop(&mut signals, &report) => {
            end_child(channel).await;
            return Err(Failure::signal(number));
        }
    };
    let succeeded = status.is_some_and(|status| status.success());
    let of_child = status.and_then(Failure::of_child);
    match failure {
        None => of_child.map_or(Ok(()), Err),
        // A child that ended well has read as much as it wanted.
        Some(failure) if of_child.is_some() || (succeeded && failure.is_refused()) => {
            // Its status is not the whole story.
            if let Some(message) = failure.message() {
                report.note(message);
            }
            of_child.map_or(Ok(()), Err)
        }
        Some(failure) => Err(failure),
    }
}

pub(crate) async fn listen_once(
    args: ListenArgs,
    inherited: Inherited,
    service: Arc<Service>,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let terminal = Terminal::take(&inherited)?;
    let report = terminal.report(args.output);
    service.show(&report);
    let listener = listen(&args.address, &inherited, &report)?;
    service.ready();
    let patience = async {
        match args.accept_timeout {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let client = tokio::select! {
        client = adapter::run(listener.accepting()) => client.and_then(|client| client),
        number = stop(&mut signals, &report) => return Err(Failure::signal(number)),
        () = patience => {
            let address = args.address.to_string();
            let address = address.trim_start_matches("listen:");
            return Err(Failure::timeout(format!("listen {address}: no client came in time")));
        }
    };
    let client = client.map_err(|error| Failure::io("accept", &error))?;
    let _ = listener.close();
    let (channel, peer) = (client.channel, client.peer);
    terminal.join(channel, &peer, &args.joining, &report, &mut signals, false).await.result
}

/// Standard input and output as a channel.
#[derive(Debug)]
struct Terminal {
    channel: Arc<Pipe>,
    /// Somebody sits in front of it and types.
    interactive: bool,
    /// Standard input or output is a terminal, where a progress line would disturb.
    visible: bool,
}

impl Terminal {
    fn take(inherited: &Inherited) -> Result<Self, Failure> {
        let mut table = inherited.lock();
        let (input, output) = (table.take(0), table.take(1));
        drop(table);
        let input_tty = input.as_ref().is_some_and(isatty);
        let output_tty = output.as_ref().is_some_and(isatty);
        // A program in the background that reads from its terminal is stopped by SIGTTIN.
        let input = input.filter(|fd| !input_tty || in_foreground(fd));
        let interactive = input_tty && input.is_some();
        let channel = Pipe::from_shared_fds(input, output)
            .map_err(|error| Failure::io("standard input and output", &error))?;
        channel.set_name("-");
        Ok(Self { channel: Arc::new(channel), interactive, visible: input_tty || output_tty })
    }

    fn report(&self, output: OutputArgs) -> Arc<Report> {
        Report::new(output, !self.visible)
    }

    /// Joins the terminal, on the left, to `channel`; with `keep` it stays open, and the end of
    /// `channel` is the end of the connection.
    async fn join(
        &self,
        channel: Arc<dyn Channel>,
        target: &str,
        args: &JoiningArgs,
        report: &Arc<Report>,
        signals: &mut Signals,
        keep: bool,
    ) -> Ended {
        let mut options: RelayOptions = relay_options(args);
        let mut left: Arc<dyn Channel> = Arc::clone(&self.channel) as _;
        if keep {
            left = Arc::new(Kept(Arc::clone(&self.channel)));
        }
        if self.interactive || keep {
            // Nobody wants to type into a connection that has ended.
            options = options.ends_with(Some(Side::Right));
        }
        let connection = report.begin("-".to_owned(), target.into());
        let (cut, cut_flag) = flag::channel(Cut::No);
        let joined = join(left, channel, options, &connection, cut_flag);
        tokio::pin!(joined);
        let record = tokio::select! {
            record = &mut joined => record,
            number = stop(signals, report) => {
                let _ = cut.send(Cut::Politely);
                // What it did until then is said; not even that is waited for for ever.
                let record = tokio::time::timeout(CUT_PATIENCE, joined).await;
                report.finish();
                if let Ok(Ok(record)) = record {
                    let _ = connection.ended(&record, Ok(()));
                }
                return Ended { result: Err(Failure::signal(number)), by: None };
            }
            never = keep_progress(report) => match never {},
        };
        if !keep {
            report.finish();
        }
        match record {
            Ok(record) => Ended {
                result: connection.ended(&record, outcome(&record, target)),
                by: record.ended_by,
            },
            Err(error) => Ended { result: Err(Failure::io(target, &error)), by: None },
        }
    }
}

/// How a connection of the terminal ended.
#[derive(Debug)]
struct Ended {
    result: Result<(), Failure>,
    /// Whose end came first.
    by: Option<Side>,
}

fn in_foreground(terminal: &OwnedFd) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

async fn stop(signals: &mut Signals, report: &Report) -> i32 {
    loop {
        match signals.next().await {
            Wish::Stop(number) => return number,
            Wish::Show => report.table(),
        }
    }
}
