//! Examples that a test runs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Job;

/// An example of the crate whose test this is, if it was built; says so when it was not.
pub fn example(name: &str) -> Option<Command> {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    if !program.is_file() {
        println!("skipped: {} is built with all targets and features only", program.display());
        return None;
    }
    Some(Command::new(program))
}

/// A program that runs beside the test, and what it prints. It does not outlive the test.
#[derive(Debug)]
pub struct Running {
    process: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it, without input.
    pub fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        Self { process, lines: Some(BufReader::new(stdout)) }
    }

    /// The next line, bounded in time.
    ///
    /// # Panics
    ///
    /// When none comes.
    pub fn line(&mut self) -> String {
        let mut lines = self.lines.take().unwrap();
        let (lines, line) = Job::start(move || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            (lines, line)
        })
        .finish();
        self.lines = Some(lines);
        line.trim_end().to_owned()
    }

    /// The rest of what it prints, bounded in time.
    ///
    /// # Panics
    ///
    /// When it does not end, or not with success.
    pub fn rest(mut self) -> String {
        let mut lines = self.lines.take().unwrap();
        let text = Job::start(move || {
            let mut text = String::new();
            lines.read_to_string(&mut text).unwrap();
            text
        })
        .finish();
        assert!(self.process.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
