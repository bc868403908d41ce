//! Pseudo-terminals for children.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize, tcgetattr,
    tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::super::Pipe;
use super::super::end::has_hung_up;
use crate::channel::{Channel, WriteOp};

/// The terminal that [`Command::pty`](super::Command::pty) puts a child on.
///
/// One of 80 columns and 24 rows, in the mode in which the kernel makes terminals (lines are
/// edited and echoed, `\n` is shown as `\r\n`, ^C interrupts) when nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PtyOptions {
    /// How much fits on its screen.
    pub size: WindowSize,
    /// Whether every byte goes through as it is, both ways.
    pub raw: bool,
    /// Whether what is written is also read back.
    pub echo: bool,
}

/// How many characters fit on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct WindowSize {
    /// The width.
    pub columns: u16,
    /// The height.
    pub rows: u16,
}

impl Default for PtyOptions {
    fn default() -> Self {
        Self { size: WindowSize::new(80, 24), raw: false, echo: true }
    }
}

impl PtyOptions {
    /// What holds when nothing is said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how much fits on its screen.
    #[must_use]
    pub fn size(mut self, size: WindowSize) -> Self {
        self.size = size;
        self
    }

    /// Chooses whether every byte goes through as it is (cfmakeraw(3)): no lines, no echo, no
    /// signals, no end of input.
    #[must_use]
    pub fn raw(mut self, raw: bool) -> Self {
        self.raw = raw;
        self
    }

    /// Chooses whether the terminal echoes what is written.
    #[must_use]
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }
}

impl WindowSize {
    /// A size in characters.
    pub fn new(columns: u16, rows: u16) -> Self {
        Self { columns, rows }
    }
}

/// The side that the channel has, and the terminal.
pub(super) fn open(options: PtyOptions) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags)?;
    unlockpt(&screen)?;
    // Not by name: that could lead to another terminal, in another mount namespace.
    let terminal = ioctl_tiocgptpeer(&screen, flags)?;
    let mut settings = tcgetattr(&terminal)?;
    if options.raw {
        settings.make_raw();
    }
    settings.local_modes.set(LocalModes::ECHO, options.echo && !options.raw);
    tcsetattr(&terminal, OptionalActions::Now, &settings)?;
    set_size(&terminal, options.size)?;
    Ok((screen, terminal))
}

fn set_size(terminal: impl AsFd, size: WindowSize) -> Result<()> {
    let WindowSize { columns, rows } = size;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Who types at the terminal of a child, and in the end says that nothing more will come.
#[derive(Debug)]
pub(super) struct Keyboard(Mutex<Typed>);

/// The lock is held for calls that never block.
#[derive(Debug)]
struct Typed {
    last: u8,
    finished: bool,
    /// A terminal that everybody had left when the channel was closed.
    deserted: Option<OwnedFd>,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        // Nothing is like the start of a line.
        Self(Mutex::new(Typed { last: b'\n', finished: false, deserted: None }))
    }

    pub(super) fn write(&self, pipe: &Pipe, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        let mut typed = self.lock();
        if typed.finished {
            pipe.check_open()?;
            return Err(ErrorKind::BrokenPipe.into());
        }
        // The kernel takes what is typed also when nobody is left who could read it.
        if has_hung_up(pipe.descriptor()?.as_fd())? {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = pipe.try_write(op)?;
        let last = n.checked_sub(1);
        if let Some(&last) = last.and_then(|last| op.bufs().iter().flat_map(|buf| &**buf).nth(last))
        {
            typed.last = last;
        }
        Ok(n)
    }

    /// Types what ends the input of a program that reads lines.
    ///
    /// In the middle of a line the first such character only ends the line, without a newline.
    pub(super) fn finish(&self, pipe: &Pipe) -> Result<()> {
        let mut typed = self.lock();
        let screen = pipe.descriptor()?;
        if has_hung_up(screen.as_fd())? {
            typed.finished = true;
        }
        while !typed.finished {
            let settings = tcgetattr(&screen)?;
            let Some(key) = end_key(&settings) else {
                typed.finished = true;
                break;
            };
            let ends = !is_in_a_line(typed.last, &settings);
            match rustix::io::write(&screen, &[key]) {
                Ok(_) => {
                    typed.last = b'\n';
                    typed.finished = ends;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Hangs up, unless everybody has left the terminal: that could only hit a child which is about
    /// to end, has closed its streams, and has a status to give.
    pub(super) fn close(&self, pipe: &Pipe) -> Result<()> {
        if let Ok(screen) = pipe.descriptor()
            && has_hung_up(screen.as_fd()) == Ok(true)
        {
            self.lock().deserted = rustix::io::fcntl_dupfd_cloexec(&screen, 3).ok();
        }
        pipe.close()
    }

    fn lock(&self) -> MutexGuard<'_, Typed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a user types to say that nothing more will come (`VEOF`).
///
/// `None` where every byte is data. A program that reads key by key, and leaves the keys for
/// signals to the terminal, still knows the key for the end: a shell that edits its line does.
fn end_key(settings: &Termios) -> Option<u8> {
    let key = settings.special_codes[SpecialCodeIndex::VEOF];
    let reads_keys = settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG);
    // 0 is "no key" (_POSIX_VDISABLE).
    (reads_keys && key != 0).then_some(key)
}

fn is_in_a_line(last: u8, settings: &Termios) -> bool {
    let is_code = |index| settings.special_codes[index] == last && last != 0;
    let ends = match last {
        b'\n' => true,
        b'\r' => settings.input_modes.contains(InputModes::ICRNL),
        _ => {
            is_code(SpecialCodeIndex::VEOF)
                || is_code(SpecialCodeIndex::VEOL)
                || is_code(SpecialCodeIndex::VEOL2)
        }
    };
    settings.local_modes.contains(LocalModes::ICANON) && !ends
}

pub(super) fn window_size(pipe: &Pipe) -> Result<WindowSize> {
    let size = tcgetwinsize(pipe.descriptor()?)?;
    Ok(WindowSize::new(size.ws_col, size.ws_row))
}

pub(super) fn set_window_size(pipe: &Pipe, size: WindowSize) -> Result<()> {
    set_size(pipe.descriptor()?, size)
}

/// The error of asking for the window of a child that has none.
pub(super) fn no_terminal() -> Error {
    Error::new(ErrorKind::Unsupported, "the child is not on a terminal")
}
