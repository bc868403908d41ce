//! The terminal that somebody types at, when every key is for the other side.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qio::channel::Base;
use qio::transport::WindowSize;
use qio::watch::{PollSet, SharedFd};
use qio::{Channel, Direction, Interest, ReadOp, Readiness, WriteOp};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::terminal::in_foreground;

/// A terminal in raw mode, until it is dropped.
#[derive(Debug)]
pub(crate) struct Keyboard {
    terminal: OwnedFd,
    before: Termios,
    raw: Termios,
    resized: Signal,
    resumed: Signal,
    hangup: Signal,
    quit: Signal,
    left: Arc<Notify>,
}

/// What happens at a terminal besides typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Its window has another size.
    Resized,
    /// The key for leaving was typed.
    Left,
    /// A signal that would end the program and leave the terminal as it is.
    Stop(i32),
}

impl Keyboard {
    /// Puts the terminal into raw mode.
    pub(crate) fn take(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        let keyboard = Self {
            terminal,
            before,
            raw,
            resized: signal(SignalKind::window_change())?,
            resumed: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            left: Arc::new(Notify::new()),
        };
        tcsetattr(&keyboard.terminal, OptionalActions::Now, &keyboard.raw)?;
        Ok(keyboard)
    }

    /// What is typed, without what comes behind the key for leaving.
    pub(crate) fn until(&self, escape: u8, pipe: Arc<dyn Channel>) -> UntilKey {
        UntilKey { pipe, escape, left: Arc::clone(&self.left), seen: AtomicBool::new(false) }
    }

    /// How much fits on the terminal.
    pub(crate) fn window_size(&self) -> Option<WindowSize> {
        window_size(&self.terminal)
    }

    /// Waits for what happens next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Happening {
        tokio::select! {
            _ = self.resized.recv() => Happening::Resized,
            _ = self.resumed.recv() => {
                // While this program was stopped, the terminal was that of the shell.
                self.set(&self.raw);
                Happening::Resized
            }
            () = self.left.notified() => Happening::Left,
            _ = self.hangup.recv() => Happening::Stop(SignalKind::hangup().as_raw_value()),
            _ = self.quit.recv() => Happening::Stop(SignalKind::quit().as_raw_value()),
        }
    }
}

impl Keyboard {
    fn set(&self, settings: &Termios) {
        // In the background it is somebody else's, and the attempt would stop this program.
        if in_foreground(&self.terminal) {
            // A terminal that has hung up needs no settings.
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, settings);
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

/// How much fits on a terminal, if it knows.
pub(crate) fn window_size(terminal: &OwnedFd) -> Option<WindowSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| WindowSize::new(size.ws_col, size.ws_row))
}

/// Standard input and output, of which the input stops at a key.
#[derive(Debug)]
pub(crate) struct UntilKey {
    pipe: Arc<dyn Channel>,
    escape: u8,
    left: Arc<Notify>,
    seen: AtomicBool,
}

impl Channel for UntilKey {
    fn base(&self) -> &Base {
        self.pipe.base()
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&*self.pipe)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> io::Result<usize> {
        if self.seen.load(Ordering::Relaxed) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.pipe.try_read(op)?;
        let mut typed = op.bufs().iter().flat_map(|buf| buf.iter()).take(n);
        let Some(at) = typed.position(|&byte| byte == self.escape) else { return Ok(n) };
        // Not the end of the input, which the other side would be told: there just is no more.
        self.seen.store(true, Ordering::Relaxed);
        self.left.notify_one();
        if at == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(at) }
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> io::Result<usize> {
        self.pipe.try_write(op)
    }

    fn watch(&self, mut interest: Interest, set: &mut PollSet) -> Readiness {
        if self.seen.load(Ordering::Relaxed) && interest.contains(Interest::READ) {
            interest.remove(Interest::READ);
            set.wake_at(Instant::now() + NEVER);
            if interest.is_empty() {
                return Readiness::empty();
            }
        }
        self.pipe.watch(interest, set)
    }

    fn close(&self) -> io::Result<()> {
        self.pipe.close()
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.pipe.shutdown(how)
    }

    fn finish(&self) -> io::Result<()> {
        self.pipe.finish()
    }

    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        match direction {
            // The key has to be seen.
            Direction::Read => None,
            Direction::Write => self.pipe.splice_fd(direction),
        }
    }
}

/// The program has ended long before.
const NEVER: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use qio::{ChannelExt, Mode};

    use super::*;

    #[test]
    fn input_stops_at_the_key_without_an_end() {
        let (reader, writer) = qio::transport::Pipe::pair().unwrap();
        let left = Arc::new(Notify::new());
        let seen = AtomicBool::new(false);
        let typed =
            UntilKey { pipe: Arc::new(reader), escape: 0x1d, left: Arc::clone(&left), seen };
        typed.set_mode(Mode::NonBlocking).unwrap();
        let would_block = |typed: &UntilKey| {
            assert_eq!(typed.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        };
        writer.write_all(b"abc").unwrap();
        let mut buf = [0; 8];
        assert_eq!(typed.read(&mut buf).unwrap(), 3);
        would_block(&typed);
        writer.write_all(b"de\x1dfg").unwrap();
        // Split over several buffers, too.
        let (one, rest) = buf.split_at_mut(1);
        let mut bufs = [io::IoSliceMut::new(one), io::IoSliceMut::new(rest)];
        assert_eq!(typed.read_vectored(&mut bufs).unwrap(), 2);
        assert_eq!(&buf[..2], b"de");
        writer.write_all(b"more").unwrap();
        would_block(&typed);
        drop(writer);
        would_block(&typed);
        let mut set = PollSet::new();
        assert!(typed.watch(Interest::READ, &mut set).is_empty());
        assert!(set.legs().is_empty());
        assert!(left.notified().now_or_never(), "somebody is told");
    }

    /// Whether a future is ready at once.
    trait NowOrNever: Future + Sized {
        fn now_or_never(self) -> bool {
            let mut task = std::task::Context::from_waker(std::task::Waker::noop());
            std::pin::pin!(self).poll(&mut task).is_ready()
        }
    }

    impl<F: Future> NowOrNever for F {}
}
