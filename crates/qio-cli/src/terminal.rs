//! `qio connect` and `qio listen`: standard input and output, joined to an address.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use qio::net::Inherited;
use qio::relay::{RelayOptions, Side};
use qio::transport::Pipe;
use qio::{Address, Channel, ChannelExt};
use qio_adapters::tokio as adapter;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::sync::watch as flag;

use crate::args::{ConnectArgs, ListenArgs, OutputArgs};
use crate::exit::Failure;
use crate::relay::{CHILD_PATIENCE, CUT_PATIENCE, keep_progress, listen};
use crate::report::Report;
use crate::session::{
    Cut, Opener, check_framing, child_status, end_child, join, outcome, relay_options,
};
use crate::stop::{Signals, Wish};

pub(crate) async fn connect(args: ConnectArgs, inherited: Inherited) -> Result<(), Failure> {
    check_framing(&args.joining, &Address::stdio(), &args.address)?;
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let terminal = Terminal::take(&inherited)?;
    let report = terminal.report(args.output);
    let opener = Opener::new(&args.opening, inherited, &report);
    let channel = tokio::select! {
        channel = opener.open(&args.address) => channel?,
        number = stop(&mut signals, &report) => return Err(Failure::signal(number)),
    };
    let target = args.address.to_string();
    let options = relay_options(&args.joining, &[&args.address]);
    let joined = terminal.join(Arc::clone(&channel), &target, options, &report, &mut signals).await;
    let failure = match joined {
        // What qio ended before its time ends its child, too.
        Err(failure) if failure.is_by_decision() => {
            end_child(channel).await;
            return Err(failure);
        }
        joined => joined.err(),
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

pub(crate) async fn listen_once(args: ListenArgs, inherited: Inherited) -> Result<(), Failure> {
    check_framing(&args.joining, &Address::stdio(), &args.address)?;
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let terminal = Terminal::take(&inherited)?;
    let report = terminal.report(args.output);
    let listener = listen(&args.address, &inherited, &report)?;
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
    let options = relay_options(&args.joining, &[&args.address]);
    terminal.join(client.channel, &client.peer, options, &report, &mut signals).await
}

/// Standard input and output as a channel.
#[derive(Debug)]
struct Terminal {
    channel: Pipe,
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
        Ok(Self { channel, interactive, visible: input_tty || output_tty })
    }

    fn report(&self, output: OutputArgs) -> Arc<Report> {
        Report::new(output, !self.visible)
    }

    /// Joins the terminal, on the left, to `channel`.
    async fn join(
        self,
        channel: Arc<dyn Channel>,
        target: &str,
        mut options: RelayOptions,
        report: &Arc<Report>,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        if self.interactive {
            // Nobody wants to type into a connection that has ended.
            options = options.ends_with(Some(Side::Right));
        }
        let connection = report.begin("-".to_owned(), target.into());
        let (cut, cut_flag) = flag::channel(Cut::No);
        let joined = join(Arc::new(self.channel), channel, options, &connection, cut_flag);
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
                return Err(Failure::signal(number));
            }
            never = keep_progress(report) => match never {},
        };
        report.finish();
        match record {
            Ok(record) => connection.ended(&record, outcome(&record, target)),
            Err(error) => Err(Failure::io(target, &error)),
        }
    }
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
