//! The command `qio`: connects any address to any address.

#![deny(unsafe_code)]

mod accept;
mod admission;
mod args;
mod demo;
mod descriptors;
mod exit;
mod help;
mod inherited;
mod kept;
mod keyboard;
mod probe;
mod relay;
mod report;
mod service;
mod session;
mod stop;
mod tap;
mod terminal;
mod workers;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use qio::net::Inherited;

use args::{Cli, Command};
use exit::Failure;
use service::Service;

fn main() -> ExitCode {
    // First of all, before any other descriptor exists.
    let start = inherited::take();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    start_log();
    let service = Arc::new(Service::new(start.service));
    let result = run(cli.command, Inherited::from(start.fds), service);
    let recorded = tap::drain();
    match result.and(recorded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                report::say(message);
            }
            failure.code()
        }
    }
}

/// Shows the events of the library on standard error, for finding out what goes on:
/// `QIO_LOG=debug` (or error, warn, info, trace).
fn start_log() {
    let level =
        std::env::var("QIO_LOG").ok().and_then(|level| level.parse::<tracing::Level>().ok());
    if let Some(level) = level {
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).init();
    }
}

fn run(command: Command, inherited: Inherited, service: Arc<Service>) -> Result<(), Failure> {
    let attended = Arc::clone(&service);
    match command {
        Command::Help(args) => help::print(&args),
        Command::Completions { shell } => help::completions(shell),
        Command::Man => help::manual(),
        Command::Demo(args) => demo::run(&args),
        Command::Probe(args) => probe::run(&args, inherited),
        Command::Tap { command } => tap::run(&command),
        Command::Relay(args) => in_loop(&attended, relay::run(args, inherited, service)),
        Command::Connect(args) => in_loop(&attended, terminal::connect(args, inherited, service)),
        Command::Listen(args) => {
            in_loop(&attended, terminal::listen_once(args, inherited, service))
        }
    }
}

fn in_loop(
    service: &Service,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let event_loop = workers::event_loop().map_err(|error| Failure::io("event loop", &error))?;
    let result = event_loop.block_on(async {
        tokio::select! {
            result = work => result,
            never = service.attend() => match never {},
        }
    });
    // Threads that are still reading from a terminal or a disk are not waited for.
    event_loop.shutdown_background();
    result
}

/// Bad usage in one line; what was asked for (--help, --version) as it is.
fn refuse(error: &clap::Error) -> ExitCode {
    if let Some(report) = args::address_error(error) {
        report::say(report);
    } else if error.use_stderr()
        && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        report::say(&args::one_line(error));
    } else {
        let printed = error.print().and_then(|()| io::stdout().flush());
        // A closed pipe is no reason to fail.
        if let Err(cause) = printed
            && cause.kind() != io::ErrorKind::BrokenPipe
            && !error.use_stderr()
        {
            let failure = Failure::io("standard output", &cause);
            report::say(failure.message().unwrap_or_default());
            return failure.code();
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
