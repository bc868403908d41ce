//! Serial lines.

use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
    ioctl_tiocexcl, ioctl_tiocnxcl, isatty, tcflush, tcgetattr, tcsendbreak, tcsetattr,
};

use super::Pipe;
use crate::channel::{Base, Channel, ReadOp, WriteOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{LOOK_AGAIN, PollSet};

/// A serial line: a UART, a USB adapter, a modem, the port of a microcontroller.
///
/// Every byte goes through as it is (raw mode). The line is this channel's alone unless
/// [`SerialOptions::exclusive`] says otherwise, and gets back its settings when the channel is
/// closed. A line that hangs up (its adapter was pulled out) is at the end of its stream; a lost
/// carrier is not looked at.
///
/// A line has no end that the other side could read. [`finish`](Channel::finish) is done when the
/// kernel has handed everything to the hardware; [`close`](Channel::close) and dropping do not ask
/// for that, and what was not sent by then goes out with the old settings. But the last close(2) of
/// a UART waits in the kernel for what a receiver holds back by flow control, for 30 s at most
/// unless that was changed (`closing_wait` of setserial(8)): finish first where that matters.
///
/// ```no_run
/// use qio::ChannelExt;
/// use qio::transport::{Serial, SerialOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let line = Serial::open("/dev/ttyUSB0", &SerialOptions::new().baud(9600))?;
/// line.write_all(b"ATI\r")?;
/// let mut answer = [0; 64];
/// let n = line.read(&mut answer)?;
/// # let _ = n;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Serial {
    pipe: Pipe,
    /// What is done when it is closed.
    before: Mutex<Option<Before>>,
    /// No further byte is taken.
    finishing: AtomicBool,
    /// The last byte is out.
    finished: AtomicBool,
}

/// How a line was found.
#[derive(Debug)]
struct Before {
    settings: Termios,
    exclusive: bool,
}

/// The settings of a [`Serial`] line: 115200 baud, 8 data bits, no parity, 1 stop bit, no flow
/// control, for us alone, when nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SerialOptions {
    /// Bits a second, both ways; also such as no standard names.
    pub baud: u32,
    /// Bits of a byte, 5 to 8.
    pub data_bits: u8,
    /// The bit that tells a damaged byte, which then reads as 0.
    pub parity: Parity,
    /// Bits between bytes, 1 or 2.
    pub stop_bits: u8,
    /// How a receiver that is full stops the sender.
    pub flow: FlowControl,
    /// Whether others are kept from opening the line. Two means are used, as programs differ in
    /// which they respect: a lock on the device (flock(2)), and `TIOCEXCL`, which does not stop
    /// root.
    pub exclusive: bool,
    /// Whether the last close of the line lowers DTR, which hangs up a modem and resets many
    /// boards; `None` leaves that as it is.
    pub hangup: Option<bool>,
    /// Raises or lowers DTR, which opening the line has raised.
    pub dtr: Option<bool>,
    /// Raises or lowers RTS, which opening the line has raised.
    pub rts: Option<bool>,
}

/// The parity bit of a [`Serial`] line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Parity {
    /// There is none.
    #[default]
    None,
    /// It makes the number of ones odd.
    Odd,
    /// It makes the number of ones even.
    Even,
}

/// The flow control of a [`Serial`] line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlowControl {
    /// There is none.
    #[default]
    None,
    /// The lines RTS and CTS.
    Hardware,
    /// The bytes XON and XOFF (^Q and ^S), which cannot be data then.
    Software,
}

impl Default for SerialOptions {
    fn default() -> Self {
        Self {
            baud: 115_200,
            data_bits: 8,
            parity: Parity::default(),
            stop_bits: 1,
            flow: FlowControl::default(),
            exclusive: true,
            hangup: None,
            dtr: None,
            rts: None,
        }
    }
}

impl SerialOptions {
    /// What holds when nothing is said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bits a second.
    #[must_use]
    pub fn baud(mut self, baud: u32) -> Self {
        self.baud = baud;
        self
    }

    /// Sets the bits of a byte, 5 to 8.
    #[must_use]
    pub fn data_bits(mut self, bits: u8) -> Self {
        self.data_bits = bits;
        self
    }

    /// Sets the parity bit.
    #[must_use]
    pub fn parity(mut self, parity: Parity) -> Self {
        self.parity = parity;
        self
    }

    /// Sets the bits between bytes, 1 or 2.
    #[must_use]
    pub fn stop_bits(mut self, bits: u8) -> Self {
        self.stop_bits = bits;
        self
    }

    /// Sets the flow control.
    #[must_use]
    pub fn flow(mut self, flow: FlowControl) -> Self {
        self.flow = flow;
        self
    }

    /// Chooses whether others are kept from opening the line.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Chooses whether the last close of the line lowers DTR.
    #[must_use]
    pub fn hangup(mut self, hangup: bool) -> Self {
        self.hangup = Some(hangup);
        self
    }

    /// Raises or lowers DTR.
    #[must_use]
    pub fn dtr(mut self, level: bool) -> Self {
        self.dtr = Some(level);
        self
    }

    /// Raises or lowers RTS.
    #[must_use]
    pub fn rts(mut self, level: bool) -> Self {
        self.rts = Some(level);
        self
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.baud == 0 {
            return Err("0 baud would hang up".to_owned());
        }
        if !(5..=8).contains(&self.data_bits) {
            return Err(format!("{} data bits are not 5 to 8", self.data_bits));
        }
        if !(1..=2).contains(&self.stop_bits) {
            return Err(format!("{} stop bits are not 1 or 2", self.stop_bits));
        }
        Ok(())
    }

    /// Changes the settings of a line to these.
    fn apply(&self, settings: &mut Termios) -> rustix::io::Result<()> {
        settings.make_raw();
        // A read of nothing would-blocks instead of giving what looks like the end.
        settings.special_codes[SpecialCodeIndex::VMIN] = 1;
        settings.special_codes[SpecialCodeIndex::VTIME] = 0;
        settings.set_speed(self.baud)?;
        let control = &mut settings.control_modes;
        control.remove(ControlModes::CSIZE | ControlModes::CMSPAR);
        control.insert(ControlModes::CREAD | ControlModes::CLOCAL | self.size());
        control.set(ControlModes::PARENB, self.parity != Parity::None);
        control.set(ControlModes::PARODD, self.parity == Parity::Odd);
        control.set(ControlModes::CSTOPB, self.stop_bits == 2);
        control.set(ControlModes::CRTSCTS, self.flow == FlowControl::Hardware);
        if let Some(hangup) = self.hangup {
            control.set(ControlModes::HUPCL, hangup);
        }
        let input = &mut settings.input_modes;
        input.remove(InputModes::IXANY);
        input.set(InputModes::INPCK, self.parity != Parity::None);
        input.set(InputModes::IXON | InputModes::IXOFF, self.flow == FlowControl::Software);
        Ok(())
    }

    fn size(&self) -> ControlModes {
        match self.data_bits {
            5 => ControlModes::CS5,
            6 => ControlModes::CS6,
            7 => ControlModes::CS7,
            _ => ControlModes::CS8,
        }
    }

    /// What a line does not do although the kernel reported no error (tcsetattr(3)).
    fn missing(&self, settings: &Termios) -> Option<String> {
        let control = settings.control_modes;
        let rates = [settings.input_speed(), settings.output_speed()];
        if let Some(rate) = rates.into_iter().find(|&rate| !is_near(rate, self.baud)) {
            return Some(format!("it does not run at {} baud, but at {rate}", self.baud));
        }
        if control & ControlModes::CSIZE != self.size() {
            return Some(format!("it cannot have {} data bits", self.data_bits));
        }
        let parity = match self.parity {
            Parity::None => ControlModes::empty(),
            Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
            Parity::Even => ControlModes::PARENB,
        };
        let mask = if self.parity == Parity::None {
            ControlModes::PARENB
        } else {
            ControlModes::PARENB | ControlModes::PARODD
        };
        if control & mask != parity {
            return Some("it cannot have that parity".to_owned());
        }
        if control.contains(ControlModes::CSTOPB) != (self.stop_bits == 2) {
            return Some(format!("it cannot have {} stop bits", self.stop_bits));
        }
        if control.contains(ControlModes::CRTSCTS) != (self.flow == FlowControl::Hardware) {
            return Some("it has no flow control in hardware".to_owned());
        }
        None
    }
}

/// Whether two rates understand each other: clocks cannot be divided into every rate, and a byte
/// is still read right when they differ by a few percent.
fn is_near(rate: u32, wanted: u32) -> bool {
    u64::from(rate.abs_diff(wanted)) * 100 <= u64::from(wanted) * 3
}

impl Serial {
    /// Opens the line at `path`. Never waits for a carrier; input that came before is thrown away.
    ///
    /// The line does not become the controlling terminal.
    ///
    /// # Errors
    ///
    /// What open(2) reports; `InvalidInput` when it is not a terminal; `ResourceBusy` when somebody
    /// else has it for himself; `Unsupported` when the line cannot do what was asked for. Its
    /// settings are then as they were.
    pub fn open(path: impl AsRef<Path>, options: &SerialOptions) -> crate::Result<Self> {
        let path = path.as_ref();
        let subject = format_args!("serial:{}", path.display());
        if let Err(reason) = options.check() {
            return Err(crate::Error::usage("open", subject, reason));
        }
        open(path, options).map_err(|cause| {
            let hint = hint(&cause);
            let error = crate::Error::os("open", subject, cause);
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }

    /// Holds the line at 0 for a quarter of a second or a bit more, which gets the attention of
    /// boot loaders, consoles and modems. Waits that long.
    ///
    /// # Errors
    ///
    /// What tcsendbreak(3) reports; `NotConnected` after `close`.
    pub fn send_break(&self) -> Result<()> {
        Ok(tcsendbreak(self.pipe.descriptor()?)?)
    }

    fn configure(&self, options: &SerialOptions) -> Result<()> {
        let line = self.pipe.descriptor()?;
        let mut settings = tcgetattr(&line)?;
        options.apply(&mut settings)?;
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        if let Some(missing) = options.missing(&tcgetattr(&line)?) {
            return Err(Error::new(ErrorKind::Unsupported, missing));
        }
        qio_os::set_modem_lines(&line, options.dtr, options.rts).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOTTY | Errno::INVAL) => {
                    Error::new(ErrorKind::Unsupported, "it has no lines DTR and RTS")
                }
                _ => error,
            }
        })?;
        tcflush(&line, QueueSelector::IFlush)?;
        Ok(())
    }

    /// Whether everything is out; a line that has hung up sends nothing any more.
    fn is_drained(&self) -> Result<bool> {
        Ok(qio_os::unsent_bytes(self.pipe.descriptor()?).unwrap_or(0) == 0)
    }
}

impl Channel for Serial {
    fn base(&self) -> &Base {
        self.pipe.base()
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.pipe.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        if self.finishing.load(Ordering::Acquire) {
            self.pipe.check_open()?;
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.pipe.try_write(op)
    }

    fn watch(&self, mut interest: Interest, set: &mut PollSet) -> Readiness {
        let mut ready = Readiness::empty();
        let sends_the_rest = self.finishing.load(Ordering::Acquire)
            && !self.finished.load(Ordering::Acquire)
            && interest.contains(Interest::WRITE);
        if sends_the_rest && matches!(self.is_drained(), Ok(false)) {
            // The kernel says when there is room, but to nobody that there is nothing left.
            set.wake_at(Instant::now() + LOOK_AGAIN);
            interest.remove(Interest::WRITE);
            if interest.is_empty() {
                return ready;
            }
        }
        ready |= self.pipe.watch(interest, set);
        ready
    }

    fn close(&self) -> Result<()> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(before), Ok(line)) = (before, self.pipe.descriptor()) {
            // A line that has hung up has no settings any more.
            let _ = tcsetattr(&line, OptionalActions::Now, &before.settings);
            if before.exclusive {
                let _ = ioctl_tiocnxcl(&line);
            }
        }
        self.pipe.close()
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.pipe.shutdown(how)
    }

    fn finish(&self) -> Result<()> {
        self.pipe.check_open()?;
        self.finishing.store(true, Ordering::Release);
        if !self.finished.load(Ordering::Acquire) {
            if !self.is_drained()? {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.finished.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.close();
    }
}

fn open(path: &Path, options: &SerialOptions) -> Result<Serial> {
    // Without O_NONBLOCK it would wait for a carrier.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let line = loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    if !isatty(&line) {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a terminal"));
    }
    if options.exclusive {
        match rustix::fs::flock(&line, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Errno::BUSY.into()),
            result => result?,
        }
    }
    let mut settings = tcgetattr(&line)?;
    if let Some(hangup) = options.hangup {
        // The last close comes after the settings were given back.
        settings.control_modes.set(ControlModes::HUPCL, hangup);
    }
    let pipe = Pipe::terminal("serial", line)?;
    if options.exclusive {
        ioctl_tiocexcl(pipe.descriptor()?)?;
    }
    let serial = Serial {
        pipe,
        before: Mutex::new(Some(Before { settings, exclusive: options.exclusive })),
        finishing: AtomicBool::new(false),
        finished: AtomicBool::new(false),
    };
    // When that fails, dropping it gives back the settings.
    serial.configure(options)?;
    Ok(serial)
}

fn hint(cause: &Error) -> Option<&'static str> {
    Some(match cause.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::ACCESS | Errno::PERM => {
            "serial lines belong to a group, often dialout: is this user in it?"
        }
        Errno::BUSY => "another program has the line for itself",
        Errno::IO | Errno::NXIO | Errno::NODEV => "no device is behind it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, openpt};

    use super::*;

    /// The settings of a line that is new, and what becomes of them.
    fn applied(options: &SerialOptions) -> Termios {
        let line = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut settings = tcgetattr(&line).unwrap();
        options.apply(&mut settings).unwrap();
        settings
    }

    #[test]
    fn every_frame_has_its_bits() {
        let frame = ControlModes::CSIZE
            | ControlModes::PARENB
            | ControlModes::PARODD
            | ControlModes::CSTOPB
            | ControlModes::CRTSCTS;
        let options = SerialOptions::new;
        let odd = ControlModes::PARENB | ControlModes::PARODD;
        for (options, expected) in [
            (options(), ControlModes::CS8),
            (options().data_bits(5), ControlModes::CS5),
            (options().data_bits(6), ControlModes::CS6),
            (options().data_bits(7).parity(Parity::Even), ControlModes::CS7 | ControlModes::PARENB),
            (options().parity(Parity::Odd), ControlModes::CS8 | odd),
            (options().stop_bits(2), ControlModes::CS8 | ControlModes::CSTOPB),
            (options().flow(FlowControl::Hardware), ControlModes::CS8 | ControlModes::CRTSCTS),
        ] {
            let settings = applied(&options);
            assert_eq!(settings.control_modes & frame, expected, "{options:?}");
            let checks = settings.input_modes.contains(InputModes::INPCK);
            assert_eq!(checks, options.parity != Parity::None);
            assert_eq!(options.missing(&settings), None, "{options:?}");
        }
    }

    #[test]
    fn what_a_line_does_not_do_is_noticed() {
        let plain = applied(&SerialOptions::new());
        let options = SerialOptions::new;
        for (options, missing) in [
            (options().baud(9600), "it does not run at 9600 baud, but at 115200"),
            (options().data_bits(7), "it cannot have 7 data bits"),
            (options().parity(Parity::Even), "it cannot have that parity"),
            (options().stop_bits(2), "it cannot have 2 stop bits"),
            (options().flow(FlowControl::Hardware), "it has no flow control in hardware"),
        ] {
            assert_eq!(options.missing(&plain).as_deref(), Some(missing));
        }
        let odd = applied(&options().parity(Parity::Odd));
        assert!(options().parity(Parity::Even).missing(&odd).is_some());
        assert!(options().missing(&odd).is_some());
    }

    #[test]
    fn rates_that_understand_each_other_are_near() {
        assert!(is_near(115_200, 115_200));
        assert!(is_near(117_647, 115_200), "the nearest divisor of a common clock");
        assert!(!is_near(9600, 115_200));
        assert!(!is_near(u32::MAX, 1));
    }

    #[test]
    fn wrong_permissions_and_busy_lines_have_hints() {
        let of = |errno: Errno| hint(&Error::from(errno)).unwrap_or_default();
        assert!(of(Errno::ACCESS).contains("dialout"));
        assert!(of(Errno::BUSY).contains("for itself"));
        assert_eq!(of(Errno::NOENT), "");
    }
}
