//! The conformance suite over every transport, plain and in chaos.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qio::channel::Base;
use qio::net::{self, ConnectOptions, ListenOptions};
use qio::transport::{self, Buffer, Child, Duplex, File, Null, Pipe, PtyOptions, Serial};
use qio::transport::{SerialOptions, Socket};
use qio::watch::{PollSet, run};
use qio::{Address, Channel, ChannelExt, Interest, ReadOp, Readiness, WriteOp};
use qio_testkit::conformance::writing_to_a_peer_that_is_gone_is_an_error;
use qio_testkit::{Pair, Subject, conformance, pairs, soon};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

conformance!(unix_socket, Subject::pair::<Socket>("unix socket", pairs::unix));
conformance!(tcp_socket, Subject::pair::<Socket>("tcp socket", pairs::tcp));
conformance!(shared_socket, Subject::pair::<Socket>("shared socket", shared_socket));
conformance!(duplex, Subject::pair::<Duplex>("duplex", pairs::memory));
conformance!(
    tight_duplex,
    Subject::pair::<Duplex>("tight duplex", pairs::tight_memory).volume(8000)
);
conformance!(echo, Subject::echo::<Duplex>("echo", || Pair::same(Duplex::echo())));
conformance!(pipe, Subject::one_way::<Pipe>("pipe", pairs::pipe));
conformance!(pipe_duplex, Subject::pair::<Pipe>("pipe duplex", pairs::pipes));
conformance!(shared_pipe, Subject::one_way::<Pipe>("shared pipe", shared_pipe));
conformance!(fifo, Subject::one_way::<Pipe>("fifo", fifo));
conformance!(child, Subject::pair::<Child>("child", pairs::child));
conformance!(terminal, Subject::one_way::<Pipe>("terminal", terminal).volume(60_000));
conformance!(
    shared_terminal,
    Subject::one_way::<Pipe>("shared terminal", shared_terminal).volume(60_000)
);
conformance!(pty, Subject::one_way::<Pipe>("pty", pty).volume(60_000));
conformance!(serial, Subject::one_way::<Serial>("serial", serial).volume(60_000));
conformance!(file, Subject::store::<File>("file", file));
conformance!(buffer, Subject::store::<Buffer>("buffer", || Pair::same(Buffer::new(1 << 20))));
conformance!(tcp_connection, Subject::pair::<Socket>("tcp connection", tcp_connection));
conformance!(
    tcp_acceptance,
    Subject::pair::<Socket>("tcp acceptance", || tcp_connection().swapped())
);
conformance!(unix_connection, Subject::pair::<Socket>("unix connection", unix_connection));
conformance!(
    abstract_connection,
    Subject::pair::<Socket>("abstract connection", abstract_connection)
);
conformance!(socket_from_fd, Subject::pair::<Socket>("socket from fd", socket_from_fd));
conformance!(
    socket_from_shared_fd,
    Subject::pair::<Socket>("socket from shared fd", socket_from_shared_fd)
);
conformance!(pipe_from_fd, Subject::one_way::<Pipe>("pipe from fd", pipe_from_fd));
conformance!(
    pipe_from_shared_fd,
    Subject::one_way::<Pipe>("pipe from shared fd", pipe_from_shared_fd)
);
conformance!(file_from_fd, Subject::store::<File>("file from fd", file_from_fd));
conformance!(null, Subject::sink::<Null>("null", || Pair::same(Null::new())));

fn shared_socket() -> Pair {
    let (left, right) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    Pair::new(Socket::from_shared(left).unwrap(), Socket::from_shared(right).unwrap())
}

fn shared_pipe() -> Pair {
    let (reader, writer) = std::io::pipe().unwrap();
    Pair::new(
        Pipe::from_shared_fds(None, Some(writer.into())).unwrap(),
        Pipe::from_shared_fds(Some(reader.into()), None).unwrap(),
    )
}

fn fifo() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let reader = Pipe::open_fifo_read(&path).unwrap();
    let ControlFlow::Break(writer) = run(Pipe::open_fifo_write(&path), soon()).unwrap() else {
        panic!("there is a reader, and no writer came");
    };
    Pair::new(writer.unwrap(), reader)
}

fn terminal() -> Pair {
    let (terminal, screen) = raw_terminal();
    Pair::new(
        Pipe::from_fds(None, Some(terminal)).unwrap(),
        Pipe::from_fds(Some(screen), None).unwrap(),
    )
}

fn shared_terminal() -> Pair {
    let (terminal, screen) = raw_terminal();
    Pair::new(
        Pipe::from_shared_fds(None, Some(terminal)).unwrap(),
        Pipe::from_shared_fds(Some(screen), None).unwrap(),
    )
}

/// A terminal that changes no byte, and what its user sees. One way only: a terminal has no
/// half-close, and when the screen goes, what was typed goes with it.
fn raw_terminal() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    let mut settings = tcgetattr(&terminal).unwrap();
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings).unwrap();
    (terminal, screen)
}

/// A serial line, and what is at the other end of it.
fn serial() -> Pair {
    let (terminal, screen) = raw_terminal();
    let name = std::fs::read_link(format!("/proc/self/fd/{}", terminal.as_raw_fd())).unwrap();
    let serial = Serial::open(name, &SerialOptions::new()).unwrap();
    drop(terminal);
    let unplugged = AtomicBool::new(false);
    Pair::new(Unplugging { serial, unplugged }, Pipe::from_fds(Some(screen), None).unwrap())
}

/// A line that is unplugged when it is finished: it has no end that the other side could read, and
/// the suite wants to see one.
#[derive(Debug)]
struct Unplugging {
    serial: Serial,
    unplugged: AtomicBool,
}

impl Channel for Unplugging {
    fn base(&self) -> &Base {
        self.serial.base()
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.serial)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> std::io::Result<usize> {
        self.serial.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> std::io::Result<usize> {
        match self.serial.try_write(op) {
            Err(error) if error.kind() == ErrorKind::NotConnected && self.is_unplugged() => {
                Err(ErrorKind::BrokenPipe.into())
            }
            result => result,
        }
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.serial.watch(interest, set)
    }

    fn close(&self) -> std::io::Result<()> {
        self.unplugged.store(false, Ordering::Release);
        self.serial.close()
    }

    fn finish(&self) -> std::io::Result<()> {
        if self.is_unplugged() {
            return Ok(());
        }
        self.serial.finish()?;
        self.unplugged.store(true, Ordering::Release);
        self.serial.close()
    }
}

impl Unplugging {
    fn is_unplugged(&self) -> bool {
        self.unplugged.load(Ordering::Acquire)
    }
}

/// What a program on a terminal shows, and the child that it is. One way only, like
/// [`raw_terminal`].
fn pty() -> Pair {
    use rustix::fs::{Mode, OFlags};
    let options = PtyOptions::new().raw(true);
    let child = transport::Command::new("sh").args(["-c", "read line"]).pty(options);
    let child = child.spawn().unwrap();
    let path = format!("/proc/{}/fd/1", child.pid());
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    child.write_all(b"\n").unwrap();
    assert!(child.wait_exit(soon()).unwrap().success());
    Pair::new(Pipe::from_fds(None, Some(terminal)).unwrap(), child)
}

fn file() -> Pair {
    let file = tempfile::tempfile().unwrap();
    Pair::same(File::from_fd(file.into()).unwrap())
}

fn tcp_connection() -> Pair {
    connection(&"listen:tcp://127.0.0.1:0".parse().unwrap())
}

fn unix_connection() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    connection(&Address::unix(dir.path().join("socket")).listening())
}

fn abstract_connection() -> Pair {
    // Tests run at the same time, and abstract names are those of the whole machine.
    let unique = tempfile::Builder::new().tempdir().unwrap();
    let name = unique.path().file_name().unwrap().to_str().unwrap();
    connection(&format!("listen:unix:@qio-conformance-{name}").parse().unwrap())
}

/// The client on the left, whom the listener accepted on the right; the listener is gone.
fn connection(address: &Address) -> Pair {
    let listener = net::listen(address, &ListenOptions::new()).unwrap();
    let left = net::connect(&listener.local_addresses()[0], &ConnectOptions::new()).unwrap();
    let right = listener.accept(soon()).unwrap().channel;
    for channel in [&left, &right] {
        // Small, so that filling it is quick.
        let socket = channel.find::<Socket>().unwrap().descriptor().unwrap();
        sockopt::set_socket_send_buffer_size(&socket, 64 * 1024).unwrap();
    }
    Pair::new(left, right)
}

fn socket_from_fd() -> Pair {
    let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
    Pair::new(from_fd(left), from_fd(right))
}

fn socket_from_shared_fd() -> Pair {
    let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
    Pair::new(from_shared_fd(left), from_shared_fd(right))
}

fn pipe_from_fd() -> Pair {
    let (reader, writer) = std::io::pipe().unwrap();
    Pair::new(from_fd(writer), from_fd(reader))
}

fn pipe_from_shared_fd() -> Pair {
    let (reader, writer) = std::io::pipe().unwrap();
    Pair::new(from_shared_fd(writer), from_shared_fd(reader))
}

fn file_from_fd() -> Pair {
    Pair::same(from_fd(tempfile::tempfile().unwrap()))
}

fn from_fd(fd: impl Into<OwnedFd>) -> Arc<dyn Channel> {
    transport::from_fd(fd.into()).unwrap()
}

fn from_shared_fd(fd: impl Into<OwnedFd>) -> Arc<dyn Channel> {
    transport::from_shared_fd(fd.into()).unwrap()
}

/// In a child with the default disposition, which a C program has and Rust's runtime changes.
#[test]
fn a_broken_pipe_raises_no_signal() {
    const ROLE: &str = "QIO_SIGPIPE_ROLE";
    let subjects = [
        Subject::pair::<Socket>("unix socket", pairs::unix),
        Subject::pair::<Socket>("tcp socket", pairs::tcp),
        Subject::pair::<Socket>("shared socket", shared_socket),
        Subject::pair::<Duplex>("duplex", pairs::memory),
        Subject::one_way::<Pipe>("pipe", pairs::pipe),
        Subject::one_way::<Pipe>("shared pipe", shared_pipe),
    ];
    match std::env::var(ROLE).as_deref() {
        Ok("channels") => {
            qio_os::restore_default_sigpipe();
            for subject in &subjects {
                writing_to_a_peer_that_is_gone_is_an_error(subject);
            }
            qio_os::Capability::WriteNoSignal.refuse();
            for subject in &subjects {
                writing_to_a_peer_that_is_gone_is_an_error(subject);
            }
        }
        Ok(_) => {
            // The control: without care the signal does end the process.
            qio_os::restore_default_sigpipe();
            let (reader, mut writer) = std::io::pipe().unwrap();
            drop(reader);
            let _ = writer.write_all(b"x");
        }
        Err(_) => {
            let run = |role| {
                let mut child = Command::new(std::env::current_exe().unwrap());
                child.args(["--exact", "a_broken_pipe_raises_no_signal"]).env(ROLE, role);
                qio_testkit::scope(Duration::from_secs(30), |_| child.output().unwrap())
            };
            let output = run("channels");
            assert!(output.status.success(), "{output:?}");
            assert_eq!(
                run("control").status.signal(),
                Some(rustix::process::Signal::PIPE.as_raw())
            );
        }
    }
}
