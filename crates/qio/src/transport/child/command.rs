//! How a child process is started.

use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::PipeFlags;

use super::process::Process;
use super::pty::{self, Keyboard, PtyOptions};
use super::reaper::OnDrop;
use super::{Child, Pipe};
use crate::transport::end::Ownership;

/// A program to run, with its arguments and surroundings.
///
/// No shell is involved. A program without a slash is looked for in `PATH`. The child sees
/// descriptors 0, 1 and 2 and no other, and SIGPIPE has its default action there.
///
/// ```
/// use qio::transport::{Access, Command, Stderr};
///
/// # fn main() -> qio::Result<()> {
/// let child = Command::new("sh")
///     .args(["-c", "echo \"$GREETING\" >&2"])
///     .env("GREETING", "hello")
///     .access(Access::ReadOnly)
///     .stderr(Stderr::Merge)
///     .spawn()?;
/// # drop(child);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Command {
    command: std::process::Command,
    program: OsString,
    directory: Option<PathBuf>,
    access: Access,
    stderr: Stderr,
    pty: Option<PtyOptions>,
    linger: Duration,
    grace: Duration,
    detach: bool,
}

/// Which of its standard streams a child shares with the channel; the other is `/dev/null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "complete by nature")]
pub enum Access {
    /// The channel reads the child's standard output.
    ReadOnly,
    /// The channel writes to the child's standard input.
    WriteOnly,
    /// Both.
    #[default]
    ReadWrite,
}

/// Where a child's standard error goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stderr {
    /// Where that of this program goes.
    #[default]
    Inherit,
    /// To `/dev/null`.
    Null,
    /// To [`Child::stderr`].
    Capture,
    /// To the child's standard output.
    Merge,
}

/// Long enough for a child that writes its last megabytes to a slow disk, short enough that a
/// forgotten one does not stay for long.
const DEFAULT_LINGER: Duration = Duration::from_secs(10);

/// What service managers leave for tidying up, at the short end.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

impl Command {
    /// The program without arguments, for reading and writing.
    #[doc(alias = "qio_channel_command_new_spawn")]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: std::process::Command::new(program.as_ref()),
            program: program.as_ref().to_owned(),
            directory: None,
            access: Access::default(),
            stderr: Stderr::default(),
            pty: None,
            linger: DEFAULT_LINGER,
            grace: DEFAULT_GRACE,
            detach: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the child's environment, which starts as that of this program.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable from the child's environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Removes all variables from the child's environment.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets the child's working directory.
    ///
    /// Give the program with an absolute path, or without a slash: what a relative path means
    /// then is not defined.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory.as_ref());
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Chooses which standard streams the channel has.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Chooses where the child's standard error goes.
    #[must_use]
    pub fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// Puts the child on a terminal of its own, which is its standard input, output and error and
    /// the controlling terminal of a new session. [`access`](Command::access) and
    /// [`stderr`](Command::stderr) mean nothing then. The signals of terminals (hang-up, ^C, ^Z…)
    /// have their default actions there, whatever this program ignores.
    ///
    /// The channel is where the user of the terminal sits: what is written is typed, what is read
    /// is shown. In the mode in which terminals begin, that changes bytes: see [`PtyOptions`]. A
    /// line that is typed may have 4095 bytes, the kernel drops what is more.
    ///
    /// There is no half-close. [`finish`](crate::Channel::finish) types the key that ends the input
    /// of a program that reads lines (`VEOF`, usually ^D), twice when the last line is not
    /// complete. Where the terminal is in raw mode, that key would be a byte like any other and is
    /// not typed: the program learns nothing then. A program that switches between lines and keys,
    /// like a shell with line editing, misses what was typed before the switch as an end. [`close`](crate::Channel::close) hangs up: the
    /// session gets SIGHUP, and what was typed and not yet read is lost. The end of the stream is
    /// read when nobody has the terminal open any more, after everything that was shown; a child
    /// that has left its terminal like that, perhaps to end in a moment, is hung up only when the
    /// `Child` is dropped.
    ///
    /// ```
    /// use qio::{Channel, ChannelExt};
    /// use qio::transport::{Command, PtyOptions, WindowSize};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = PtyOptions::new().size(WindowSize::new(132, 43));
    /// let child = Command::new("stty").arg("size").pty(options).spawn()?;
    /// let mut size = [0; 8];
    /// child.read_exact(&mut size)?;
    /// assert_eq!(&size, b"43 132\r\n");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn pty(mut self, options: PtyOptions) -> Self {
        self.pty = Some(options);
        self
    }

    /// How long a child whose channel was dropped may go on by itself before it gets SIGTERM; 10
    /// seconds when nothing is said.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How long it has from SIGTERM to SIGKILL; 5 seconds when nothing is said.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Lets the child run on when its channel is dropped. It is still reaped when it ends, as
    /// long as this program runs.
    #[must_use]
    pub fn detach_on_drop(mut self) -> Self {
        self.detach = true;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    ///
    /// What fork(2) and execve(2) report: the program does not exist or is not executable, the
    /// working directory does not exist, a limit was reached. The child is gone then.
    #[doc(alias = "qio_channel_command_new_spawn")]
    pub fn spawn(mut self) -> crate::Result<Child> {
        self.start().map_err(|cause| {
            let hint = self.hint(&cause);
            let error = crate::Error::os("run", self.program.display(), cause);
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }

    fn start(&mut self) -> Result<Child> {
        // What can fail comes before the process, so that a failure leaves none behind.
        let (pipe, stderr, keyboard) = match self.pty {
            Some(options) => (self.connect_terminal(options)?, None, Some(Keyboard::new())),
            None => {
                let (pipe, stderr) = self.connect_pipes()?;
                (pipe, stderr, None)
            }
        };
        qio_os::close_other_fds_on_exec(&mut self.command);
        let process = Process::new(self.command.spawn()?)?;
        let on_drop = if self.detach {
            OnDrop::Detach
        } else {
            OnDrop::End { linger: self.linger, grace: self.grace }
        };
        event!(debug, program = ?self.program, pid = process.pid(), "started");
        Ok(Child { pipe, stderr, keyboard, process: Some(process), on_drop })
    }

    fn connect_terminal(&mut self, options: PtyOptions) -> Result<Pipe> {
        let (screen, terminal) = pty::open(options)?;
        self.command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        qio_os::start_session_on_stdin(&mut self.command);
        Pipe::terminal("pty", screen)
    }

    fn connect_pipes(&mut self) -> Result<(Pipe, Option<Arc<Pipe>>)> {
        let (input, output) = match self.access {
            Access::ReadOnly => (None, Some(pipe()?)),
            Access::WriteOnly => (Some(pipe()?), None),
            Access::ReadWrite => (Some(pipe()?), Some(pipe()?)),
        };
        let (child_stdin, to_child) = input.unzip();
        let (from_child, child_stdout) = output.unzip();
        let (from_stderr, child_stderr) = match self.stderr {
            Stderr::Inherit => (None, Stdio::inherit()),
            Stderr::Null => (None, Stdio::null()),
            Stderr::Capture => {
                let (read, write) = pipe()?;
                (Some(read), write.into())
            }
            Stderr::Merge => {
                let copy = child_stdout.as_ref().map(OwnedFd::try_clone).transpose()?;
                (None, stdio(copy))
            }
        };
        self.command.stdin(stdio(child_stdin)).stdout(stdio(child_stdout)).stderr(child_stderr);
        let pipe = Pipe::new("child", from_child, to_child, Ownership::Exclusive)?;
        let stderr = from_stderr
            .map(|fd| Pipe::new("child stderr", Some(fd), None, Ownership::Exclusive))
            .transpose()?
            .map(Arc::new);
        Ok((pipe, stderr))
    }

    /// execve(2) has one error for several things that do not exist.
    fn hint(&self, cause: &Error) -> Option<&'static str> {
        if cause.kind() != ErrorKind::NotFound {
            return None;
        }
        let program = Path::new(&self.program);
        Some(if self.directory.as_deref().is_some_and(|directory| !directory.is_dir()) {
            "the working directory does not exist"
        } else if !self.program.as_encoded_bytes().contains(&b'/') {
            "no directory in PATH has a program of that name"
        } else if program.exists() {
            "the file exists, the interpreter that it names does not"
        } else {
            return None;
        })
    }
}

/// The reading and the writing end.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn stdio(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}
