//! What taps record: on its way to the disk, and for people (`qio tap show`).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use qio::layer::tap::{Reader, TapError, recordings};
use qio::watch;

use crate::args::TapCommand;
use crate::exit::Failure;
use crate::report::{counted, say};

/// How long the end of the program waits for a disk, or for whoever reads a FIFO.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until everything is written that was recorded, and says what is missing.
pub(crate) fn drain() -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    let mut result = Ok(());
    for recording in recordings() {
        let drained = match watch::run(recording.draining(), Some(until)) {
            Ok(ControlFlow::Break(done)) => done,
            Ok(ControlFlow::Continue(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        };
        let what = format!("record to {}", recording.path().display());
        if let Err(error) = drained {
            let failure = Failure::io(what, &error);
            // The last one is said by whoever ends the program.
            if let Err(Some(message)) = result.as_ref().map_err(Failure::message) {
                say(message);
            }
            result = Err(failure);
            continue;
        }
        let lost = recording.status().lost_records;
        if lost > 0 {
            let records = counted(lost, "record");
            say(&format!("{what}: {records} left out, for which it was too slow (option limit)"));
        }
    }
    result
}

pub(crate) fn run(command: &TapCommand) -> Result<(), Failure> {
    let TapCommand::Show { file, hex } = command;
    show(file, *hex)
}

fn show(path: &Path, hex: bool) -> Result<(), Failure> {
    let from: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::io(path.display(), &error))?)
    };
    let unreadable = |error: TapError| match error {
        TapError::Io(error) => Failure::io(path.display(), &error),
        other => Failure::io(path.display(), &io::Error::other(other)),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let print = || -> Result<(), Failure> {
        let written = |error: io::Error| Failure::io("standard output", &error);
        for record in Reader::new(BufReader::new(from)).map_err(unreadable)? {
            // What is whole is shown, however the recording ends.
            let record = record.map_err(unreadable)?;
            let shown = if hex { record.hex() } else { record.text() };
            match write!(out, "{shown}") {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                result => result.map_err(written)?,
            }
        }
        Ok(())
    };
    let result = print();
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            result.and(Err(Failure::io("standard output", &error)))
        }
        _ => result,
    }
}
