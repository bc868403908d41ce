//! `qio probe`: opens an address, and tells what was negotiated on the way.

mod collect;
mod diagnosis;
mod findings;
mod text;
mod words;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qio::layer::tls::{ClientTls, TlsError};
use qio::layer::ws;
use qio::net::{ConnectOptions, Inherited, connect};
use qio::transport::Child;
use qio::{Channel, ChannelExt, Interest, Mode};

use self::collect::Collector;
use self::findings::Findings;
use crate::args::ProbeArgs;
use crate::exit::Failure;
use crate::help;

pub(crate) fn run(args: &ProbeArgs, inherited: Inherited) -> Result<(), Failure> {
    let collector = Collector::new(&args.address);
    let options = ConnectOptions::new()
        .timeout(args.timeout)
        .inherited(inherited)
        .observe(collector.observer());
    let until = Instant::now().checked_add(args.timeout);
    let opened = connect(&args.address, &options);
    let result = match opened {
        Ok(channel) => {
            let verdict = collector.awaits_verdict().then(|| verdict(&*channel, until));
            leave(&channel);
            match verdict.and_then(Result::err) {
                Some(error) => Err(collector.refused(&error)),
                None => Ok(()),
            }
        }
        Err(error) => Err(collector.failed(error, args.timeout)),
    };
    let findings = collector.finish(&result);
    print(&findings, args.json)?;
    result
}

fn print(findings: &Findings, json: bool) -> Result<(), Failure> {
    let mut text = match json {
        true => serde_json::to_string_pretty(findings)
            .map_err(|error| Failure::io("findings", &error.into()))?,
        false => text::of(findings),
    };
    if json {
        text.push('\n');
    }
    help::write(text.as_bytes())
}

/// Waits for what a server makes of our certificate, or of that there is none: in TLS 1.3 it says
/// so after its own side of the handshake is over, and nothing when it is content.
fn verdict(channel: &dyn Channel, until: Option<Instant>) -> io::Result<()> {
    let patience = Instant::now() + VERDICT_PATIENCE;
    let until = until.map_or(patience, |until| until.min(patience));
    channel.set_mode(Mode::NonBlocking)?;
    loop {
        match channel.read(&mut [0; 512]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if TlsError::find(&error).is_some() => return Err(error),
            // It has something else to say, or has nothing to say any more: we were let in.
            _ => return Ok(()),
        }
        match channel.wait(Interest::READ, Some(until)) {
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
            result => drop(result?),
        }
    }
}

/// Some round trips around the world.
const VERDICT_PATIENCE: Duration = Duration::from_secs(1);

/// Ends politely, in one attempt, and closes.
fn leave(channel: &Arc<dyn Channel>) {
    // Whoever does not take the farewell finds the end of the connection.
    let _ = channel.set_mode(Mode::NonBlocking);
    let _ = ws::close(&**channel, ws::status::NORMAL, "");
    let _ = channel.close();
    if let Some(child) = channel.find::<Child>() {
        // Nobody is left to do so once this program has ended.
        let _ = child.terminate(CHILD_GRACE);
    }
}

/// How long a program may take to end when its channel is closed.
const CHILD_GRACE: Duration = Duration::from_secs(1);

/// The facts of a TLS handshake, if that is what it is.
fn tls<'a>(handshake: &qio::net::Negotiated<'a>) -> Option<&'a ClientTls> {
    handshake.find()
}
