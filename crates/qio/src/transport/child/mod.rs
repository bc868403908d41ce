//! Child processes.

mod command;
mod process;
mod pty;
mod reaper;

use std::io::{ErrorKind, Result};
use std::net::Shutdown;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use command::{Access, Command, Stderr};
pub use pty::{PtyOptions, WindowSize};

use self::process::Process;
use self::pty::Keyboard;
use self::reaper::OnDrop;
use super::Pipe;
use crate::channel::{Base, Channel, ReadOp, WriteOp};
use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{PollSet, SharedFd, waiter};

/// A child process: what is written is its standard input, what is read its standard output.
///
/// Made by [`Command::spawn`]. The channel ends with the pipes, not with the process: the end of
/// the stream is read when nobody has the child's standard output open any more, also while the
/// child runs on, and [`close`](Channel::close) closes the pipes and returns at once.
/// [`finish`](Channel::finish) closes the child's standard input, which is the end that it reads.
/// Instead of behind pipes, a child can be on a terminal of its own: see [`Command::pty`].
///
/// Signals and waits go through a descriptor of the process (pidfd), never by number: a closed or
/// ended child cannot be mistaken for another process. They reach the child itself; what the child
/// has started in turn is its own business.
///
/// A `Child` that is dropped while the process runs is ended and reaped in the background: it gets
/// [`Command::linger`] to work off what it was sent and end by itself, then SIGTERM, then, after
/// [`Command::grace`], SIGKILL. All such children share one thread (`qio-reaper`), which is there
/// only while it is needed; when the program ends first, they are left to themselves.
///
/// QEMU's `QIOChannelCommand`.
///
/// ```
/// use qio::{Channel, ChannelExt, transport::Command};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Command::new("tr").args(["a-z", "A-Z"]).spawn()?;
/// child.write_all(b"hello")?;
/// child.finish()?;
/// let mut text = [0; 5];
/// child.read_exact(&mut text)?;
/// assert_eq!(&text, b"HELLO");
/// assert!(child.wait_exit(None)?.success());
/// # Ok(())
/// # }
/// ```
#[doc(alias = "QIOChannelCommand")]
#[derive(Debug)]
pub struct Child {
    pipe: Pipe,
    stderr: Option<Arc<Pipe>>,
    /// Of a child on a terminal.
    keyboard: Option<Keyboard>,
    /// `None` only while it is dropped.
    process: Option<Process>,
    on_drop: OnDrop,
}

impl Child {
    /// The number of the process, for messages. It may name another process once this one has
    /// been reaped.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// The child's standard error, when it was [captured](Stderr::Capture).
    ///
    /// A channel of its own, which [`close`](Channel::close) of the child leaves open: it has to
    /// be read, or the child blocks when it is full.
    pub fn stderr(&self) -> Option<&Arc<Pipe>> {
        self.stderr.as_ref()
    }

    /// Whether the child is on a terminal of its own ([`Command::pty`]).
    pub fn has_pty(&self) -> bool {
        self.keyboard.is_some()
    }

    /// How much fits on the child's terminal.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the child is not on a terminal; `NotConnected` after `close`.
    pub fn window_size(&self) -> Result<WindowSize> {
        self.keyboard.as_ref().ok_or_else(pty::no_terminal)?;
        pty::window_size(&self.pipe)
    }

    /// Changes how much fits on the child's terminal. The programs in its foreground get SIGWINCH
    /// when that makes a difference.
    ///
    /// # Errors
    ///
    /// As [`window_size`](Child::window_size).
    pub fn set_window_size(&self, size: WindowSize) -> Result<()> {
        self.keyboard.as_ref().ok_or_else(pty::no_terminal)?;
        pty::set_window_size(&self.pipe, size)
    }

    /// How the process ended; `None` while it runs. Kept for ever, also after `close`.
    ///
    /// # Errors
    ///
    /// Those of [`wait_exit`](Child::wait_exit), but `TimedOut`.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.process().exit_status()
    }

    /// Waits until the process has ended, through the current [`Waiter`](crate::watch::Waiter).
    ///
    /// The pipes stay as they are: a child that waits for its input, or for somebody to read its
    /// output, does not end.
    ///
    /// # Errors
    ///
    /// `TimedOut` when the deadline passes first. `Other` when the exit status is lost, because
    /// another part of the program took it or has the program ignore SIGCHLD.
    pub fn wait_exit(&self, deadline: Option<Instant>) -> Result<ExitStatus> {
        let mut set = PollSet::new();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(ErrorKind::TimedOut.into());
            }
            set.clear();
            self.watch_exit(&mut set);
            waiter::park(&mut set, deadline)?;
        }
    }

    /// Adds a leg that fires when the process has ended, and for ever after.
    ///
    /// It grants nothing on the channel: ask for the [`exit_status`](Child::exit_status) then.
    pub fn watch_exit(&self, set: &mut PollSet) {
        self.process().watch_exit(set);
    }

    /// Ends the process: SIGTERM, then SIGKILL when it still runs after `grace`. Waits until it
    /// has ended, through the current [`Waiter`](crate::watch::Waiter), and gives its exit status.
    ///
    /// A child on a terminal gets SIGHUP after SIGTERM, which interactive shells ignore.
    ///
    /// # Errors
    ///
    /// As [`wait_exit`](Child::wait_exit), but `TimedOut`; `PermissionDenied` when the process has
    /// changed to another user.
    pub fn terminate(&self, grace: Duration) -> Result<ExitStatus> {
        self.process().signal(Signal::TERM)?;
        if self.has_pty() {
            self.process().signal(Signal::HUP)?;
        }
        let kill_at = Instant::now().checked_add(grace);
        match self.wait_exit(kill_at) {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            result => return result,
        }
        self.process().signal(Signal::KILL)?;
        self.wait_exit(None)
    }

    /// Sends SIGKILL and returns at once. A process that has ended already is left alone.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` when the process has changed to another user.
    pub fn kill(&self) -> Result<()> {
        self.process().signal(Signal::KILL)
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("taken out only when the child is dropped")
    }
}

impl Channel for Child {
    fn base(&self) -> &Base {
        self.pipe.base()
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.pipe.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        match &self.keyboard {
            None => self.pipe.try_write(op),
            Some(keyboard) => keyboard.write(&self.pipe, op),
        }
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.pipe.watch(interest, set)
    }

    fn close(&self) -> Result<()> {
        match &self.keyboard {
            None => self.pipe.close(),
            Some(keyboard) => keyboard.close(&self.pipe),
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.pipe.shutdown(how)
    }

    fn finish(&self) -> Result<()> {
        match &self.keyboard {
            None => self.pipe.finish(),
            Some(keyboard) => keyboard.finish(&self.pipe),
        }
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        self.pipe.splice_fd(direction)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input is what lets a child finish by itself.
        let _ = self.pipe.close();
        self.keyboard = None;
        self.stderr = None;
        if let Some(process) = self.process.take() {
            reaper::adopt(process, self.on_drop);
        }
    }
}
