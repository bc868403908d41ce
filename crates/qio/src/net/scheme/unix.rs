//! `unix:path` and `unix:@name`

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::tcp::BACKLOG;
use super::{Applies, Example, OptionInfo, Scheme};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::net::listener::{Bound, SocketFile, channel_of};
use crate::net::options::ListenOptions;
use crate::net::port_owner;
use crate::watch::{PollSet, Steps};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "unix",
    syntax: "unix:PATH or unix:@NAME",
    summary: "a Unix stream socket, by path or by abstract name",
    examples: &[
        Example::new("unix:/run/app.sock", "connect to a socket in the file system"),
        Example::new("unix:@app", "connect to a socket by its abstract name"),
        Example::new("listen:unix:/run/app.sock?mode=600", "listen for one user only"),
    ],
    options: &[
        BACKLOG,
        OptionInfo::new("mode", Value::FileMode, "permissions of the socket file")
            .only(Applies::Listen),
    ],
    form: Form::PATH_OR_NAME,
    check,
    connect,
    listen: Some(listen),
};

/// `sun_path` of the kernel; a path may fill it to the last byte, without a NUL behind.
const PATH_BYTES: usize = 108;

/// The first byte is the NUL that makes the name an abstract one.
const NAME_BYTES: usize = PATH_BYTES - 1;

pub(super) fn check(address: &Address) -> std::result::Result<(), Refusal> {
    match address.target() {
        [_, name] if name.is_empty() => Err(Refusal::new("there is no name behind the @")),
        [_, name] if name.len() > NAME_BYTES => Err(Refusal::new(format!(
            "the name has {} bytes, a Unix socket address holds {NAME_BYTES}",
            name.len()
        ))),
        [_, _] if address.is_given("mode") => {
            Err(Refusal::new("option \"mode\" contradicts the abstract name")
                .hint("an abstract name has no permissions: every process can connect"))
        }
        [path] if path.len() > PATH_BYTES => Err(Refusal::new(format!(
            "the path has {} bytes, a Unix socket address holds {PATH_BYTES}",
            path.len()
        ))),
        _ if address.target().len() == 2 => Ok(()),
        _ => super::check_path(address),
    }
}

/// The path; `None` for an abstract name.
fn path(address: &Address) -> Option<&Path> {
    match address.target() {
        [path] => Some(Path::new(OsStr::from_bytes(path))),
        _ => None,
    }
}

/// Abstract names are as long as they are ("tight"), not padded with NUL bytes.
pub(super) fn socket_address(address: &Address) -> rustix::io::Result<SocketAddrUnix> {
    match address.target() {
        [path] => SocketAddrUnix::new(path.as_slice()),
        words => SocketAddrUnix::new_abstract_name(words.last().map_or(&[], Vec::as_slice)),
    }
}

pub(super) fn socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let failed = |error: Errno| Error::os("connect", request.address(), error.into());
    Ok(Opening::Steps(Box::new(Knock {
        address: request.address().to_owned(),
        to: socket_address(address).map_err(failed)?,
        fd: Some(socket(address.socket_type()).map_err(failed)?),
        kind: address.socket_type(),
        next: None,
        pause: FIRST_PAUSE,
    })))
}

/// The connecting of a Unix socket, which succeeds or fails at once, unless the backlog is full.
///
/// Nothing announces that there is room in a backlog again: poll(2) calls the socket writable and
/// hung up all the time. So this tries again, after 1 ms at first and every 50 ms at last.
struct Knock {
    address: String,
    to: SocketAddrUnix,
    fd: Option<OwnedFd>,
    kind: SocketType,
    /// When to try again, and how long to wait after that.
    next: Option<Instant>,
    pause: Duration,
}

/// Short enough that a server which is just about to accept costs no delay that anybody notices.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Twenty system calls a second are nothing, and a twentieth of a second is still prompt.
const LAST_PAUSE: Duration = Duration::from_millis(50);

impl Knock {
    fn attempt(&mut self) -> rustix::io::Result<Option<Arc<dyn Channel>>> {
        let Some(fd) = &self.fd else { return Err(Errno::BADF) };
        loop {
            match rustix::net::connect(fd, &self.to) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                result => break result?,
            }
        }
        rustix::io::ioctl_fionbio(fd, false)?;
        let fd = self.fd.take().ok_or(Errno::BADF)?;
        Ok(Some(channel_of(fd, AddressFamily::UNIX, self.kind)))
    }
}

impl Steps for Knock {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if self.next.is_some_and(|next| next > now) {
            return Poll::Pending;
        }
        match self.attempt() {
            Ok(Some(channel)) => Poll::Ready(Ok(channel)),
            Ok(None) => {
                self.next = Some(now + self.pause);
                self.pause = LAST_PAUSE.min(self.pause * 2);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(Error::os("connect", &self.address, error.into()))),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        set.wake_at(self.next.unwrap_or_else(Instant::now));
    }
}

impl OpeningSteps for Knock {
    fn missing(&self) -> &'static str {
        "no room in the backlog of the listener"
    }
}

fn listen(address: &Address, _options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let to = socket_address(address).map_err(|error| Error::os("listen", &text, error.into()))?;
    let fd = match path(address) {
        Some(path) => bind_path(address.socket_type(), &to, path),
        None => {
            socket(address.socket_type()).and_then(|fd| rustix::net::bind(&fd, &to).map(|()| fd))
        }
    };
    let fd = fd.map_err(|error| explained(address, &text, error))?;
    // Until the call of listen(2) below, clients are refused: the mode is in place before.
    let file = match path(address) {
        Some(path) => {
            Some(prepare(address, path).map_err(|error| Error::os("listen", &text, error))?)
        }
        None => None,
    };
    let backlog = i32::try_from(address.count("backlog").unwrap_or(4096)).unwrap_or(i32::MAX);
    if let Err(error) = rustix::net::listen(&fd, backlog) {
        if let Some(file) = &file {
            // The error to report is the one of listen(2).
            let _ = file.remove();
        }
        return Err(Error::os("listen", &text, error.into()));
    }
    Ok(vec![Bound::unix(fd, address.to_connect_to(), file)])
}

/// Binds to a path; a socket file that nobody listens on is replaced.
fn bind_path(kind: SocketType, to: &SocketAddrUnix, path: &Path) -> rustix::io::Result<OwnedFd> {
    let fd = socket(kind)?;
    // Somebody else may be replacing the same file at the same time.
    for _ in 0..3 {
        match rustix::net::bind(&fd, to) {
            Err(Errno::ADDRINUSE) => remove_dead(to, path)?,
            result => return result.map(|()| fd),
        }
    }
    Err(Errno::ADDRINUSE)
}

/// Removes the file of a socket that nobody has open any more; anything else is in use.
///
/// The question is asked with a datagram socket: a stream that lives is of the wrong type for it
/// (`EPROTOTYPE`) and hears nothing, where a connection would be a client to accept. `ECONNREFUSED`
/// means that there is no socket behind the file.
fn remove_dead(to: &SocketAddrUnix, path: &Path) -> rustix::io::Result<()> {
    let before = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if FileType::from_raw_mode(before.st_mode) != FileType::Socket {
        return Err(Errno::ADDRINUSE);
    }
    match rustix::net::connect(socket(SocketType::DGRAM)?, to) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        _ => return Err(Errno::ADDRINUSE),
    }
    let now = rustix::fs::lstat(path);
    match now {
        Ok(now) if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino) => {}
        // Replaced in the meantime: look again.
        _ => return Ok(()),
    }
    match rustix::fs::unlink(path) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Remembers the file that bind(2) made, and gives it its mode.
fn prepare(address: &Address, path: &Path) -> io::Result<SocketFile> {
    let path = std::path::absolute(path)?;
    let file = SocketFile::at(path.clone())?;
    if let Some(mode) = address.file_mode("mode") {
        let changed = rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode));
        if let Err(error) = changed {
            let _ = file.remove();
            return Err(error.into());
        }
    }
    Ok(file)
}

fn explained(address: &Address, text: &str, error: Errno) -> Error {
    let failed = Error::os("listen", text, error.into());
    if error != Errno::ADDRINUSE {
        return failed;
    }
    let owner = match path(address) {
        Some(path) => {
            let is_socket = rustix::fs::lstat(path)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
            if !is_socket {
                return failed.hint("there is a file of another kind, which is left alone");
            }
            port_owner::of_unix(path)
        }
        None => {
            let name = address.target().last().map_or(&[][..], Vec::as_slice);
            port_owner::of_unix(Path::new(OsStr::from_bytes(&[b"@", name].concat())))
        }
    };
    match owner {
        Some(owner) => failed.hint(format!("{owner} listens there")),
        None => failed.hint("somebody listens there"),
    }
}
