//! Serial lines, of which a pseudo-terminal is one without hardware.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use common::{impatiently, in_own_process, open_fds, patience};
use qio::net::{ConnectOptions, connect};
use qio::transport::{Pipe, Serial, SerialOptions};
use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Features, Interest, Mode};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, Termios, tcgetattr,
    tcgetsid, tcsetattr,
};

/// A line, with the device that is connected to it.
struct Line {
    device: File,
    /// Keeps the settings while nobody has the line open.
    keeper: OwnedFd,
    path: PathBuf,
}

impl Line {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let device = openpt(flags).unwrap();
        unlockpt(&device).unwrap();
        let keeper = ioctl_tiocgptpeer(&device, flags).unwrap();
        let path = std::fs::read_link(format!("/proc/self/fd/{}", keeper.as_raw_fd())).unwrap();
        Self { device: device.into(), keeper, path }
    }

    fn address(&self, options: &str) -> String {
        format!("serial:{}{options}", self.path.display())
    }

    fn connect(&self, options: &str) -> qio::Result<Arc<dyn Channel>> {
        connect(&self.address(options).parse()?, &ConnectOptions::new())
    }

    fn open(&self) -> Serial {
        Serial::open(&self.path, &SerialOptions::new()).unwrap()
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.keeper).unwrap()
    }
}

/// The settings as something that can be compared.
fn told(settings: &Termios) -> String {
    format!("{settings:?}")
}

#[test]
fn every_byte_goes_through_both_ways() {
    let line = Line::new();
    let serial = line.open();
    assert_eq!(serial.features(), Features::DUPLEX);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(50_000).collect();
    let side = || Some(OwnedFd::from(line.device.try_clone().unwrap()));
    let device = Pipe::from_fds(side(), side()).unwrap();
    let mut back = vec![0; bytes.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| serial.write_all(&bytes).unwrap());
        impatiently(|| device.read_exact(&mut back)).unwrap();
    });
    assert!(back == bytes);
    std::thread::scope(|scope| {
        scope.spawn(|| device.write_all(&bytes).unwrap());
        back.fill(0);
        impatiently(|| serial.read_exact(&mut back)).unwrap();
    });
    assert!(back == bytes);
    serial.set_mode(Mode::NonBlocking).unwrap();
    // With nothing to read, which must not look like the end.
    assert_eq!(serial.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_settings_are_those_that_were_asked_for() {
    let line = Line::new();
    let serial = line.connect("").unwrap();
    let settings = line.settings();
    let control = settings.control_modes;
    assert_eq!([settings.input_speed(), settings.output_speed()], [115_200; 2]);
    assert!(control.contains(ControlModes::CS8 | ControlModes::CLOCAL | ControlModes::CREAD));
    assert!(!control.intersects(ControlModes::CSTOPB | ControlModes::CRTSCTS));
    let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    assert!(!settings.local_modes.intersects(cooked));
    assert!(!settings.output_modes.contains(OutputModes::OPOST));
    let flow = InputModes::IXON | InputModes::IXOFF;
    assert!(!settings.input_modes.intersects(flow | InputModes::ICRNL));
    drop(serial);

    // A pseudo-terminal has all rates, and one or two stop bits; the rest is tested without a line.
    let serial = line.connect("?baud=31250&stop=2&flow=software&hangup").unwrap();
    let settings = line.settings();
    assert_eq!([settings.input_speed(), settings.output_speed()], [31_250; 2]);
    assert!(settings.control_modes.contains(ControlModes::CSTOPB | ControlModes::HUPCL));
    assert!(settings.input_modes.contains(flow));
    drop(serial);
    assert!(line.settings().control_modes.contains(ControlModes::HUPCL), "for the last close");

    let serial = line.connect("?flow=hardware&hangup=off").unwrap();
    let control = line.settings().control_modes;
    assert!(control.contains(ControlModes::CRTSCTS));
    assert!(!control.contains(ControlModes::HUPCL));
    drop(serial);
}

#[test]
fn the_old_settings_are_given_back() {
    let line = Line::new();
    let mut settings = line.settings();
    settings.set_speed(12_345).unwrap();
    settings.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&line.keeper, OptionalActions::Now, &settings).unwrap();
    let before = told(&line.settings());
    let serial = line.open();
    assert_ne!(told(&line.settings()), before);
    // A watch that somebody forgot changes nothing.
    let mut forgotten = PollSet::new();
    assert!(serial.watch(Interest::READ, &mut forgotten).is_empty());
    serial.close().unwrap();
    assert_eq!(told(&line.settings()), before);
    // What a later owner sets is not touched.
    let later = line.connect("?baud=300").unwrap();
    serial.close().unwrap();
    drop(serial);
    assert_eq!(line.settings().output_speed(), 300);
    drop(later);
    assert_eq!(told(&line.settings()), before);

    // Also when it could not be set up.
    for (options, cause) in [
        ("?data=7", "it cannot have 7 data bits"),
        ("?parity=even", "it cannot have that parity"),
        ("?dtr=on", "it has no lines DTR and RTS"),
        ("?rts=off&stop=2", "it has no lines DTR and RTS"),
    ] {
        let error = line.connect(options).unwrap_err();
        assert_eq!(error.report().to_string(), format!("open {}: {cause}", line.address("")));
        assert_eq!(error.io_kind(), Some(ErrorKind::Unsupported));
        assert_eq!(told(&line.settings()), before, "{options}");
    }
    line.connect("").unwrap();
}

#[test]
fn a_line_has_one_user_unless_told_otherwise() {
    let line = Line::new();
    let first = line.open();
    let error = Serial::open(&line.path, &SerialOptions::new()).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::ResourceBusy));
    let report = error.report().to_string();
    assert!(report.ends_with(" busy (another program has the line for itself)"), "{report}");
    // Programs that know nothing of the lock are kept out by the kernel, but for root.
    assert!(opens_for_others(&line).is_none_or(|error| error.contains("busy")));
    first.close().unwrap();
    let second = line.open();
    drop(second);
    assert!(opens_for_others(&line).is_none_or(|error| error.is_empty()));

    let shared = SerialOptions::new().exclusive(false);
    let both = [(); 2].map(|()| Serial::open(&line.path, &shared).unwrap());
    both[0].write_all(b"a").unwrap();
    both[1].write_all(b"b").unwrap();
    let mut got = [0; 2];
    (&line.device).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ab");
}

/// What a program without privileges says that opens the line; nothing when there can be none.
fn opens_for_others(line: &Line) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut command = std::process::Command::new("dd");
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&line.path, std::fs::Permissions::from_mode(0o666)).unwrap();
        command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "dd"]);
    }
    let path = format!("if={}", line.path.display());
    match command.args([&path, "count=0", "status=none"]).env("LC_ALL", "C").output() {
        Ok(output) => Some(String::from_utf8(output.stderr).unwrap()),
        Err(error) => {
            eprintln!("skipped, setpriv or dd cannot be run: {error}");
            None
        }
    }
}

#[test]
fn a_hang_up_is_the_end() {
    let line = Line::new();
    let serial = line.open();
    drop(line.keeper);
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let read = || common::announcing_waits(waits, || serial.read(&mut [0]));
        let reader = scope.spawn(read);
        waiting.recv_timeout(common::PATIENCE).unwrap();
        drop(line.device);
        assert_eq!(reader.join().unwrap().unwrap(), 0);
    });
    assert_eq!(serial.read(&mut [0]).unwrap(), 0);
    assert_eq!(serial.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    serial.finish().unwrap();
    serial.close().unwrap();
}

#[test]
fn finishing_takes_no_further_byte_and_leaves_the_line_open() {
    let line = Line::new();
    let serial = line.open();
    serial.write_all(b"last").unwrap();
    for _ in 0..2 {
        serial.finish_all(patience()).unwrap();
    }
    assert_eq!(serial.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut got = [0; 4];
    (&line.device).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"last");
    (&line.device).write_all(b"answer").unwrap();
    impatiently(|| serial.read_exact(&mut [0; 6])).unwrap();
    serial.close().unwrap();
    for result in [serial.finish(), serial.send_break(), serial.write(b"x").map(drop)] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn what_came_before_the_opening_is_thrown_away() {
    let line = Line::new();
    // A pseudo-terminal passes on what is typed with a delay: seen by a reader, it is there.
    let mut settings = line.settings();
    settings.make_raw();
    tcsetattr(&line.keeper, OptionalActions::Now, &settings).unwrap();
    (&line.device).write_all(b"stale").unwrap();
    common::eventually("it has arrived", || rustix::io::ioctl_fionread(&line.keeper).unwrap() == 5);
    let serial = line.open();
    (&line.device).write_all(b"fresh").unwrap();
    let mut got = [0; 5];
    impatiently(|| serial.read_exact(&mut got)).unwrap();
    assert_eq!(&got, b"fresh");
}

#[test]
fn a_break_can_be_sent() {
    // Without hardware there is nobody to see it.
    let line = Line::new();
    line.open().send_break().unwrap();
}

#[test]
fn it_does_not_become_the_controlling_terminal() {
    const ROLE: &str = "QIO_SERIAL_LINE";
    if let Some(path) = std::env::var_os(ROLE) {
        // A session without a controlling terminal would get the first terminal that it opens.
        rustix::process::setsid().unwrap();
        let serial = Serial::open(&path, &SerialOptions::new()).unwrap();
        let line = File::options().read(true).custom_open(&path);
        assert!(tcgetsid(&line).is_err(), "the line has no session");
        drop(serial);
        return;
    }
    let line = Line::new();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "it_does_not_become_the_controlling_terminal"])
        .env(ROLE, &line.path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Opening for a look, which makes no controlling terminal either.
trait CustomOpen {
    fn custom_open(&mut self, path: &std::ffi::OsStr) -> File;
}

impl CustomOpen for std::fs::OpenOptions {
    fn custom_open(&mut self, path: &std::ffi::OsStr) -> File {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOCTTY.bits() as i32;
        self.custom_flags(flags).open(path).unwrap()
    }
}

#[test]
fn what_is_no_line_is_an_error_that_says_so() {
    let report = |path: &str, options: SerialOptions| {
        Serial::open(path, &options).unwrap_err().report().to_string()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let plain = SerialOptions::new;
    assert_eq!(report(path, plain()), format!("open serial:{path}: it is not a terminal"));
    assert_eq!(report("/dev/null", plain()), "open serial:/dev/null: it is not a terminal");
    assert_eq!(report("/nowhere", plain()), "open serial:/nowhere: no such file or directory");
    for (options, reason) in [
        (plain().baud(0), "0 baud would hang up"),
        (plain().data_bits(9), "9 data bits are not 5 to 8"),
        (plain().stop_bits(3), "3 stop bits are not 1 or 2"),
    ] {
        assert_eq!(report("/nowhere", options), format!("open serial:/nowhere: {reason}"));
    }
}

#[test]
fn neither_direction_can_be_shut_down_by_itself() {
    let serial = Line::new();
    let error = serial.open().shutdown(std::net::Shutdown::Read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn opening_leaks_nothing_also_when_it_fails() {
    in_own_process("opening_leaks_nothing_also_when_it_fails", || {
        let line = Line::new();
        let before = open_fds();
        drop(line.open());
        line.connect("?data=7").unwrap_err();
        line.connect("?rts").unwrap_err();
        assert_eq!(open_fds(), before);
    });
}
