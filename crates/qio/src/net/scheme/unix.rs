//! `unix:path` and `unix:@name`

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::tcp::BACKLOG;
use super::{Applies, Example, OptionInfo, RETRY_OPTIONS, Scheme, count, join};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Role, Value, parse_count};
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::net::listener::{Bound, channel_of};
use crate::net::port_owner;
use crate::net::socket_setup::{BUFFER_OPTIONS, SocketSetup};
use crate::transport::SocketFile;
use crate::watch::{PollSet, Steps};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "unix",
    syntax: "unix:PATH or unix:@NAME",
    summary: "a Unix stream socket; a listener without a path makes a temporary one up",
    examples: &[
        Example::new("unix:/run/app.sock", "connect to a socket in the file system"),
        Example::new("unix:@app", "connect to a socket by its abstract name"),
        Example::new("unix:app?abstract&tight=off", "the same, padded with NUL bytes"),
        Example::new("listen:unix:/run/app.sock?mode=600", "listen for one user only"),
    ],
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::PATH_OR_NAME,
    check,
    connect: |address, request| knock(address, request, SocketType::STREAM),
    listen: Some(|address, _options| listen(address, SocketType::STREAM)),
};

const OPTIONS: &[&[OptionInfo]] =
    &[NAME_OPTIONS, &[BACKLOG], FILE_OPTIONS, BUFFER_OPTIONS, RETRY_OPTIONS];

/// The options of abstract names, for sockets of every type.
pub(crate) const NAME_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("abstract", Value::Switch, "PATH is an abstract name, as behind an @"),
    OptionInfo::new(
        "tight",
        Value::Switch,
        "the abstract name is as long as it is; off pads it with NUL bytes",
    )
    .default("on"),
];

/// The options of socket files, for sockets of every type.
pub(crate) const FILE_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("mode", Value::FileMode, "permissions of the socket file")
        .only(Applies::Listen),
    OptionInfo::new("user", Value::Text("NAME|UID"), "owner of the socket file")
        .only(Applies::Listen),
    OptionInfo::new("group", Value::Text("NAME|GID"), "group of the socket file")
        .only(Applies::Listen),
    OptionInfo::new("unlink", Value::Switch, "remove the socket file on close")
        .default("on")
        .only(Applies::Listen),
];

/// `sun_path` of the kernel; a path may fill it to the last byte, without a NUL behind.
const PATH_BYTES: usize = 108;

/// The first byte is the NUL that makes the name an abstract one.
const NAME_BYTES: usize = PATH_BYTES - 1;

/// Where a Unix socket of any type is.
///
/// QEMU's `UnixSocketAddress`.
#[doc(alias = "UnixSocketAddress")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// In the file system; empty where a listener is to make a path up.
    Path(&'a Path),
    /// An abstract name, without the NUL byte in front of it. A tight one is as long as it is,
    /// another fills the structure with NUL bytes: the kernel calls these two names.
    Name { name: &'a [u8], tight: bool },
}

impl<'a> Place<'a> {
    /// Finds what is wrong with the target and the options of abstract names.
    pub(crate) fn of(address: &'a Address) -> std::result::Result<Self, Refusal> {
        let wish = address.is_given("abstract").then(|| address.switch("abstract"));
        let name = match (address.target(), wish) {
            ([_, _], Some(false)) => {
                return Err(Refusal::new("\"abstract=off\" contradicts the @")
                    .hint("a path that begins with @ is written %40 or ./@"));
            }
            ([_, name], _) | ([name], Some(true)) => name,
            (target, _) => {
                if address.is_given("tight") {
                    return Err(Refusal::new("option \"tight\" is for abstract names only")
                        .hint("unix:@NAME, or option \"abstract\""));
                }
                let path = target.last().map_or(&[][..], Vec::as_slice);
                if path.len() > PATH_BYTES {
                    return Err(Refusal::new(format!(
                        "the path has {} bytes, a Unix socket address holds {PATH_BYTES}",
                        path.len()
                    )));
                }
                if !path.is_empty() || address.role() == Role::Connect {
                    super::check_path(address)?;
                }
                return Ok(Self::Path(Path::new(OsStr::from_bytes(path))));
            }
        };
        if name.is_empty() {
            let what = if address.target().len() == 2 { "behind the @" } else { "to be abstract" };
            return Err(Refusal::new(format!("there is no name {what}")));
        }
        if name.len() > NAME_BYTES {
            return Err(Refusal::new(format!(
                "the name has {} bytes, a Unix socket address holds {NAME_BYTES}",
                name.len()
            )));
        }
        Ok(Self::Name { name, tight: address.switch("tight") })
    }

    /// What the kernel is given.
    pub(crate) fn socket_address(self) -> rustix::io::Result<SocketAddrUnix> {
        match self {
            Self::Path(path) => SocketAddrUnix::new(path),
            Self::Name { name, tight: true } => SocketAddrUnix::new_abstract_name(name),
            Self::Name { name, tight: false } => {
                let mut padded = [0; NAME_BYTES];
                padded.get_mut(..name.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(name);
                SocketAddrUnix::new_abstract_name(&padded)
            }
        }
    }

    /// How `/proc/net/unix` writes it: with an @ for every NUL byte of an abstract name.
    fn in_proc(self) -> PathBuf {
        let name = match self {
            Self::Path(path) => return path.to_owned(),
            Self::Name { name, .. } => name,
        };
        let mut text = vec![b'@'];
        text.extend(name.iter().map(|&byte| if byte == 0 { b'@' } else { byte }));
        if let Self::Name { tight: false, .. } = self {
            text.resize(PATH_BYTES, b'@');
        }
        PathBuf::from(std::ffi::OsString::from_vec(text))
    }
}

/// Finds everything that is wrong with an address of a Unix socket of any type.
pub(crate) fn check(address: &Address) -> std::result::Result<(), Refusal> {
    let place = Place::of(address)?;
    for key in ["mode", "user", "group", "unlink"] {
        if matches!(place, Place::Name { .. }) && address.is_given(key) {
            let hint = match key {
                "unlink" => "an abstract name leaves no file behind",
                _ => "an abstract name has no permissions: every process can connect",
            };
            let text = format!("option {key:?} contradicts the abstract name");
            return Err(Refusal::new(text).hint(hint));
        }
    }
    for (key, _) in [Account::USER, Account::GROUP] {
        Account::of(address, key)?;
    }
    Ok(())
}

/// A socket of this type, in non-blocking mode.
pub(crate) fn socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

/// Connects a socket of a type that has connections; the channel is in blocking mode.
pub(crate) fn knock(address: &Address, request: &Request<'_>, kind: SocketType) -> Result<Opening> {
    let failed = |error: Errno| Error::os("connect", request.address(), error.into());
    let place = Place::of(address).map_err(|refusal| refusal.of("connect", request.address()))?;
    let fd = socket(kind).map_err(failed)?;
    SocketSetup::of(address)
        .apply_buffers(fd.as_fd())
        .map_err(|error| Error::os("connect", request.address(), error))?;
    Ok(Opening::Steps(Box::new(Knock {
        address: request.address().to_owned(),
        to: place.socket_address().map_err(failed)?,
        fd: Some(fd),
        kind,
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

/// Listens with a socket of a type that has connections.
pub(super) fn listen(address: &Address, kind: SocketType) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let (fd, local, file) = bind(address, &text, kind)?;
    let backlog = i32::try_from(address.count("backlog").unwrap_or(4096)).unwrap_or(i32::MAX);
    if let Err(error) = rustix::net::listen(&fd, backlog) {
        if let Some(file) = &file {
            // The error to report is the one of listen(2).
            let _ = file.remove();
        }
        return Err(Error::os("listen", &text, error.into()));
    }
    let file = file.filter(|_| address.switch("unlink"));
    Ok(vec![Bound::unix(fd, kind, local, file).with_buffers(SocketSetup::of(address))])
}

/// Binds a socket of any type: the socket, the address that others use for it, and its file, with
/// the permissions and the owner that were asked for.
///
/// A stream refuses clients until the call of listen(2), which is the caller's: nobody connects
/// before the owner is in place. A file that has to go although "unlink" is off (because what
/// follows fails) is the caller's, too.
pub(crate) fn bind(
    address: &Address,
    text: &str,
    kind: SocketType,
) -> Result<(OwnedFd, Address, Option<SocketFile>)> {
    let failed = |error: Errno| Error::os("listen", text, error.into());
    let refused = |refusal: Refusal| refusal.of("listen", text);
    let place = Place::of(address).map_err(refused)?;
    let path = match place {
        Place::Path(path) => path,
        Place::Name { name, tight } => {
            let to = place.socket_address().map_err(failed)?;
            let fd = socket(kind).map_err(failed)?;
            rustix::net::bind(&fd, &to).map_err(|error| explained(place, text, error))?;
            let local = address.sibling(vec![b"@".to_vec(), name.to_vec()]);
            let local = if tight { local } else { local.with_option("tight", "off")? };
            return Ok((fd, local, None));
        }
    };
    let [user, group] = [Account::USER, Account::GROUP].map(|(key, find)| {
        Account::of(address, key).map_err(refused)?.map(|one| one.number(find, text)).transpose()
    });
    let mut wish = Wish { user: user?, group: group?, mode: address.file_mode("mode") };
    let fd = socket(kind).map_err(failed)?;
    let path = if path.as_os_str().is_empty() {
        // Somebody who wants others to connect says where, or with which permissions.
        wish.mode = wish.mode.or(Some(0o600));
        wish.narrow(&fd).map_err(failed)?;
        bind_temporary(&fd).map_err(|(error, folder)| {
            failed(error).hint(format!("the temporary path is in {}", folder.display()))
        })?
    } else {
        wish.narrow(&fd).map_err(failed)?;
        let to = place.socket_address().map_err(failed)?;
        bind_path(&fd, &to, path).map_err(|error| explained(place, text, error))?;
        path.to_owned()
    };
    let local = address.sibling(vec![path.as_os_str().as_bytes().to_vec()]);
    let file = SocketFile::at(&path).map_err(|error| Error::os("listen", text, error))?;
    if let Err(error) = wish.fulfil(&file) {
        // The error to report is the one that came first.
        let _ = file.remove();
        let not_permitted = error == Errno::PERM && (wish.user.is_some() || wish.group.is_some());
        let error = failed(error);
        return Err(match not_permitted {
            true => error.hint("only root gives files away; a group has to be one of one's own"),
            false => error,
        });
    }
    Ok((fd, local, Some(file)))
}

/// Binds to a path; a socket file that nobody listens on is replaced.
fn bind_path(fd: &OwnedFd, to: &SocketAddrUnix, path: &Path) -> rustix::io::Result<()> {
    // Somebody else may be replacing the same file at the same time.
    for _ in 0..3 {
        match rustix::net::bind(fd, to) {
            Err(Errno::ADDRINUSE) => remove_dead(to, path)?,
            result => return result,
        }
    }
    Err(Errno::ADDRINUSE)
}

/// Binds to a path that is not there yet: in `$TMPDIR`, else in the user's runtime folder, else in
/// /tmp. With the error comes the folder.
fn bind_temporary(fd: &OwnedFd) -> std::result::Result<PathBuf, (Errno, PathBuf)> {
    let folders = ["TMPDIR", "XDG_RUNTIME_DIR"].map(std::env::var_os).into_iter().flatten();
    let folder = folders.map(PathBuf::from).find(|folder| folder.is_absolute());
    let folder = folder.unwrap_or_else(|| PathBuf::from("/tmp"));
    // A name that is taken is left alone, so that guessing it gains nobody more than one more try.
    for _ in 0..32 {
        let random = RandomState::new().hash_one(std::process::id());
        let path = folder.join(format!("qio-{random:016x}.sock"));
        match SocketAddrUnix::new(&path).and_then(|to| rustix::net::bind(fd, &to)) {
            Err(Errno::ADDRINUSE) => {}
            Ok(()) => return Ok(path),
            Err(error) => return Err((error, folder)),
        }
    }
    Err((Errno::ADDRINUSE, folder))
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

/// What the file of a socket is to be.
struct Wish {
    user: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
}

impl Wish {
    /// Keeps bind(2) from making a file that permits more than was asked for: the file gets the
    /// permissions of the socket's own inode (`unix_bind_bsd` of the kernel), less the umask. To
    /// change the umask instead would change it for every thread.
    fn narrow(&self, socket: &OwnedFd) -> rustix::io::Result<()> {
        match self.mode {
            Some(mode) => rustix::fs::fchmod(socket, Mode::from_raw_mode(mode)),
            None => Ok(()),
        }
    }

    /// Gives the file its owner, and the permissions that the umask took.
    fn fulfil(&self, file: &SocketFile) -> rustix::io::Result<()> {
        if self.user.is_none() && self.group.is_none() && self.mode.is_none() {
            return Ok(());
        }
        // Whoever may write into the folder could put a link to something else in its place.
        let fd = file.open(OFlags::PATH)?;
        if self.user.is_some() || self.group.is_some() {
            let (user, group) = (self.user.map(Uid::from_raw), self.group.map(Gid::from_raw));
            rustix::fs::chownat(&fd, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        let Some(mode) = self.mode.map(Mode::from_raw_mode) else { return Ok(()) };
        if Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == mode {
            return Ok(());
        }
        // fchmod(2) refuses such a descriptor, and fchmodat2(2) is newer than Linux 5.10.
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
    }
}

/// A user or a group of an option.
enum Account<'a> {
    Number(u32),
    Name { key: &'static str, name: &'a OsStr },
}

/// Finds the number of a name.
type Find = fn(&OsStr) -> io::Result<Option<u32>>;

impl<'a> Account<'a> {
    const USER: (&'static str, Find) = ("user", qio_os::user_id);
    const GROUP: (&'static str, Find) = ("group", qio_os::group_id);

    fn of(address: &'a Address, key: &'static str) -> std::result::Result<Option<Self>, Refusal> {
        let Some(name) = address.values(key).last() else { return Ok(None) };
        let digits = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(digits) = digits else { return Ok(Some(Self::Name { key, name })) };
        // The largest number means "leave it" to chown(2).
        match parse_count(digits).and_then(|number| number.try_into().ok()) {
            Some(number) if number != u32::MAX => Ok(Some(Self::Number(number))),
            _ => Err(Refusal::new(format!("option {key:?}: {digits} is the number of no {key}"))),
        }
    }

    fn number(self, find: Find, text: &str) -> Result<u32> {
        let (key, name) = match self {
            Self::Number(number) => return Ok(number),
            Self::Name { key, name } => (key, name),
        };
        match find(name) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => {
                let reason = format!("option {key:?}: there is no {key} {name:?}");
                Err(Error::usage("listen", text, reason))
            }
            Err(error) => Err(Error::os("listen", text, error)),
        }
    }
}

fn explained(place: Place<'_>, text: &str, error: Errno) -> Error {
    let failed = Error::os("listen", text, error.into());
    if error != Errno::ADDRINUSE {
        return failed;
    }
    if let Place::Path(path) = place {
        let is_socket = rustix::fs::lstat(path)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        if !is_socket {
            return failed.hint("there is a file of another kind, which is left alone");
        }
    }
    match port_owner::of_unix(&place.in_proc()) {
        Some(owner) => failed.hint(format!("{owner} listens there")),
        None => failed.hint("somebody listens there"),
    }
}
