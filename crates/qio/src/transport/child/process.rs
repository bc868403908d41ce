//! A process, by descriptor.

use std::io::{Error, Result};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::interest::Interest;
use crate::watch::{PollSet, SharedFd};

/// A child process that is signalled and waited for through its descriptor.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: SharedFd,
    fate: Mutex<Fate>,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Running,
    Ended(ExitStatus),
    /// Somebody else took the exit status.
    Lost,
}

impl Process {
    /// Takes over a process that was just started and not waited for.
    ///
    /// When there is no descriptor to be had, the process is killed and reaped: without one it
    /// could be ended by number only.
    pub(super) fn new(mut child: std::process::Child) -> Result<Self> {
        match open(child.id()) {
            Ok(pidfd) => Ok(Self {
                pid: child.id(),
                pidfd: SharedFd::new(pidfd),
                fate: Mutex::new(Fate::Running),
            }),
            // Somebody has reaped it: its number may be another's now.
            Err(Errno::SRCH) => Err(Errno::SRCH.into()),
            Err(error) => {
                // Nobody has waited for it, so its number is still its own.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn exit_status(&self) -> Result<Option<ExitStatus>> {
        let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Fate::Running = *fate {
            *fate = self.ask()?;
        }
        match *fate {
            Fate::Running => Ok(None),
            Fate::Ended(status) => Ok(Some(status)),
            Fate::Lost => Err(Error::other(
                "the exit status is lost: another part of the program waited for the child, or \
                 SIGCHLD is ignored",
            )),
        }
    }

    pub(super) fn watch_exit(&self, set: &mut PollSet) {
        set.add(&self.pidfd, Interest::READ, Interest::empty());
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            // It has ended and was reaped.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn ask(&self) -> Result<Fate> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            return match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Ok(None) => Ok(Fate::Running),
                Ok(Some(status)) => Ok(Fate::Ended(wait_status(&status))),
                Err(Errno::INTR) => continue,
                Err(Errno::CHILD) => Ok(Fate::Lost),
                Err(error) => Err(error.into()),
            };
        }
    }
}

fn open(pid: u32) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// What wait(2) would have said.
fn wait_status(status: &WaitIdStatus) -> ExitStatus {
    let core_dumped = if status.dumped() { 0x80 } else { 0 };
    ExitStatus::from_raw(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | core_dumped,
        (None, None) => 0,
    })
}
