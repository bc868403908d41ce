//! `qio tap show`: what a tap has recorded, for people.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use qio::layer::tap::{Reader, TapError};

use crate::args::TapCommand;
use crate::exit::Failure;

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
