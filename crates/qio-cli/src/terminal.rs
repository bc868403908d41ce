//! `qio connect` and `qio listen`: standard input and output, joined to an address.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use qio::net::Inherited;
use qio::relay::{RelayOptions, Side};
use qio::transport::{Child, Pipe};
use qio::{Address, Channel, ChannelExt};
use qio_adapters::tokio as adapter;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::sync::watch as flag;

use crate::admission;
use crate::args::{ConnectArgs, Escape, ListenArgs, OutputArgs};
use crate::exit::Failure;
use crate::kept::Kept;
use crate::keyboard::{Happening, Keyboard, window_size};
use crate::relay::{CHILD_PATIENCE, CUT_PATIENCE, keep_progress, listen};
use crate::report::Report;
use crate::service::Service;
use crate::session::{
    Closes, Cut, Opener, check_framing, child_status, end_child, join, outcome, relay_options,
};
use crate::stop::{Signals, Wish};

pub(crate) async fn connect(
    args: ConnectArgs,
    inherited: Inherited,
    service: Arc<Service>,
) -> Result<(), Failure> {
    check_framing(&args.joining, &Address::stdio(), &args.address)?;
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let mut terminal = Terminal::take(&inherited)?;
    terminal.choose_mode(&args)?;
    let report = terminal.report(args.output);
    service.show(&report);
    let mut opener = Opener::new(&args.opening, inherited, &report);
    let pause = args.address.reconnect_pause();
    if pause.is_some() {
        opener = opener.endlessly();
    }
    let target = args.address.to_string();
    let options = relay_options(&args.joining, &[&args.address]);
    let (channel, failure) = loop {
        let address = terminal.fit(&args.address)?;
        let channel = tokio::select! {
            channel = opener.open(&address) => channel?,
            number = stop(&mut signals, &report) => return Err(Failure::signal(number)),
        };
        service.ready();
        let to = Arc::clone(&channel);
        let keep = pause.is_some();
        let options = options.clone();
        let ended = terminal.join(to, &target, options, &report, &mut signals, keep).await;
        if ended.left {
            end_child(channel).await;
            return Ok(());
        }
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
    mut args: ListenArgs,
    inherited: Inherited,
    service: Arc<Service>,
) -> Result<(), Failure> {
    check_framing(&args.joining, &Address::stdio(), &args.address)?;
    let mut signals = Signals::new().map_err(|error| Failure::io("signals", &error))?;
    let terminal = Terminal::take(&inherited)?;
    let report = terminal.report(args.output);
    service.show(&report);
    args.handshakes.apply([&mut args.address])?;
    admission::check(&args.admission, &[&args.address])?;
    let listener = listen(&args.address, &inherited, &args.admission, args.handshakes, &report)?;
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
    let options = relay_options(&args.joining, &[&args.address]);
    terminal.join(channel, &peer, options, &report, &mut signals, false).await.result
}

/// How a connection of the terminal ended.
#[derive(Debug)]
struct Ended {
    result: Result<(), Failure>,
    /// Whose end came first.
    by: Option<Side>,
    /// Whoever sat at the terminal has left.
    left: bool,
}

impl Ended {
    fn because(failure: Failure) -> Self {
        Self { result: Err(failure), by: None, left: false }
    }
}

/// What cut a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Signal(i32),
    Left,
}

/// Standard input and output as a channel.
#[derive(Debug)]
struct Terminal {
    channel: Arc<Pipe>,
    /// The terminal that somebody sits in front of, and types.
    keyboard: Option<OwnedFd>,
    /// Every key is sent, but for the one that leaves.
    raw: Option<Escape>,
    /// The program on the other side has a window of the same size.
    same_size: bool,
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
        let keyboard = input.as_ref().filter(|_| input_tty).map(OwnedFd::try_clone).transpose();
        let keyboard = keyboard.map_err(|error| Failure::io("standard input", &error))?;
        let channel = Pipe::from_shared_fds(input, output)
            .map_err(|error| Failure::io("standard input and output", &error))?;
        channel.set_name("-");
        let visible = input_tty || output_tty;
        let channel = Arc::new(channel);
        Ok(Self { channel, keyboard, raw: None, same_size: false, visible })
    }

    /// Decides who gets what is typed: this terminal, which edits lines, or the other side.
    fn choose_mode(&mut self, args: &ConnectArgs) -> Result<(), Failure> {
        let scheme = args.address.scheme().name;
        if args.raw && self.keyboard.is_none() {
            return Err(Failure::usage("--raw: nobody types at standard input"));
        }
        let raw = args.raw || matches!(scheme, "pty" | "serial");
        if raw && !args.no_raw && self.keyboard.is_some() {
            self.raw = Some(args.escape);
        }
        let is_fixed = ["cols", "rows"].iter().any(|key| args.address.is_given(key));
        self.same_size = scheme == "pty" && !is_fixed;
        Ok(())
    }

    /// The same address, with a window as large as that of this terminal.
    fn fit(&self, address: &Address) -> Result<Address, Failure> {
        let address = address.clone();
        match self.keyboard.as_ref().filter(|_| self.same_size).and_then(window_size) {
            None => Ok(address),
            Some(size) => Ok(address
                .with_option("cols", size.columns.to_string())?
                .with_option("rows", size.rows.to_string())?),
        }
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
        mut options: RelayOptions,
        report: &Arc<Report>,
        signals: &mut Signals,
        keep: bool,
    ) -> Ended {
        if self.keyboard.is_some() || keep || has_pty(&*channel) {
            // Nobody wants to type into a connection that has ended.
            options = options.ends_with(Some(Side::Right));
        }
        let mut keyboard = match self.take_keyboard() {
            Ok(keyboard) => keyboard,
            Err(error) => return Ended::because(Failure::io("terminal", &error)),
        };
        let left = self.left_side(keyboard.as_ref(), keep);
        let connection = report.begin("-".to_owned(), target.into());
        let (cut, cut_flag) = flag::channel(Cut::No);
        let ends = [Arc::clone(&left), Arc::clone(&channel)];
        let joined = join(left, Arc::clone(&channel), options, &connection, cut_flag);
        tokio::pin!(joined);
        // It may have changed since the start.
        let mut happening = Happening::Resized;
        let ended = loop {
            match (happening, &keyboard) {
                (Happening::Resized, Some(keyboard)) if self.same_size => {
                    resize(&*channel, keyboard);
                }
                (Happening::Resized, _) => {}
                (Happening::Left, _) => break Err(Cause::Left),
                (Happening::Stop(number), _) => break Err(Cause::Signal(number)),
            }
            tokio::select! {
                record = &mut joined => break Ok(record),
                number = stop(signals, report) => break Err(Cause::Signal(number)),
                next = happens(&mut keyboard) => happening = next,
                never = keep_progress(report) => match never {},
            }
        };
        let record = match ended {
            Ok(record) => Ok(record),
            Err(cause) => {
                let _ = cut.send(Cut::Politely);
                // What it did until then is said; not even that is waited for for ever.
                Err((cause, tokio::time::timeout(CUT_PATIENCE, joined).await))
            }
        };
        // What is said from here on is said to a terminal as it was.
        drop(keyboard);
        if !keep || record.is_err() {
            report.finish();
        }
        match record {
            Ok(Ok(record)) => {
                let closes = Closes::of(&ends);
                let result = outcome(&record, &closes, target);
                let result = connection.ended(&record, &closes, result);
                Ended { result, by: record.ended_by, left: false }
            }
            Ok(Err(error)) => Ended::because(Failure::io(target, &error)),
            Err((cause, record)) => {
                if let Ok(Ok(record)) = record {
                    let _ = connection.ended(&record, &Closes::of(&ends), Ok(()));
                }
                match cause {
                    Cause::Signal(number) => Ended::because(Failure::signal(number)),
                    Cause::Left => Ended { result: Ok(()), by: None, left: true },
                }
            }
        }
    }

    /// The terminal in raw mode, where every key is sent.
    fn take_keyboard(&self) -> io::Result<Option<Keyboard>> {
        match (self.raw, &self.keyboard) {
            (Some(_), Some(terminal)) => Ok(Some(Keyboard::take(terminal.try_clone()?)?)),
            _ => Ok(None),
        }
    }

    /// Standard input and output for one connection.
    fn left_side(&self, keyboard: Option<&Keyboard>, keep: bool) -> Arc<dyn Channel> {
        let channel: Arc<dyn Channel> = match keep {
            true => Arc::new(Kept(Arc::clone(&self.channel))),
            false => Arc::clone(&self.channel) as _,
        };
        match (keyboard, self.raw.and_then(|escape| escape.0)) {
            (Some(keyboard), Some(escape)) => Arc::new(keyboard.until(escape, channel)),
            _ => channel,
        }
    }
}

/// What happens next at the keyboard; nothing, without one.
async fn happens(keyboard: &mut Option<Keyboard>) -> Happening {
    match keyboard {
        Some(keyboard) => keyboard.next().await,
        None => std::future::pending().await,
    }
}

/// Gives the program behind a channel a window as large as that of the keyboard.
fn resize(channel: &dyn Channel, keyboard: &Keyboard) {
    if let (Some(child), Some(size)) = (channel.find::<Child>(), keyboard.window_size()) {
        // A program that is gone needs no window.
        let _ = child.set_window_size(size);
    }
}

fn has_pty(channel: &dyn Channel) -> bool {
    channel.find::<Child>().is_some_and(Child::has_pty)
}

/// Whether this program may change the terminal without being stopped for it.
pub(crate) fn in_foreground(terminal: &OwnedFd) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

async fn stop(signals: &mut Signals, report: &Report) -> i32 {
    loop {
        match signals.next().await {
            Wish::Stop(number) => return number,
            Wish::Show => report.table(),
            Wish::Reload => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, openpt};
    use rustix::termios::{Winsize, tcsetwinsize};

    use super::*;

    /// What the address becomes for somebody with a window of 100 times 30.
    fn fitted(address: &str, at_terminal: bool) -> Result<String, Failure> {
        let cli = <crate::args::Cli as clap::Parser>::try_parse_from(["qio", "connect", address]);
        let crate::args::Command::Connect(args) = cli.expect("good").command else { panic!() };
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&keyboard, size).expect("a terminal has a size");
        let mut terminal = Terminal {
            channel: Arc::new(Pipe::from_fds(None, None).expect("nothing to fail")),
            keyboard: at_terminal.then_some(keyboard),
            raw: None,
            same_size: false,
            visible: at_terminal,
        };
        terminal.choose_mode(&args)?;
        Ok(terminal.fit(&args.address)?.to_string())
    }

    /// A program may ask before the first change could reach it.
    #[test]
    fn the_size_of_the_window_is_a_part_of_the_address() {
        for (address, at_terminal, expected) in [
            ("pty:x", true, "pty:x?cols=100&rows=30"),
            ("pty:x?term=a", true, "pty:x?term=a&cols=100&rows=30"),
            ("pty:x?cols=7", true, "pty:x?cols=7"),
            ("pty:x?rows=7", true, "pty:x?rows=7"),
            ("pty:x", false, "pty:x"),
            ("exec:x", true, "exec:x"),
            ("serial:/x", true, "serial:/x"),
        ] {
            assert_eq!(fitted(address, at_terminal).expect("nothing to fail"), expected);
        }
    }
}
