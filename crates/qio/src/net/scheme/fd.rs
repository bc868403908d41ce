//! `fd:number` and `fd:name`

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use qio_os::InheritedFds;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{Example, Scheme};
use crate::error::{Class, Error, Result};
use crate::net::address::{Address, Form, Refusal, Role, parse_count, suggestion};
use crate::net::connect::{Opening, Request};
use crate::net::listener::Bound;
use crate::net::options::{Inherited, ListenOptions};
use crate::transport::from_shared_fd;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "fd",
    syntax: "fd:NUMBER or fd:NAME",
    summary: "a descriptor that this program was started with; names come from systemd",
    examples: &[
        Example::new("fd:3", "use an open socket, file, pipe or terminal"),
        Example::new("listen:fd:3", "accept from a listening socket"),
        Example::new("listen:fd:web", "accept from all sockets with FileDescriptorName=web"),
        Example::new("fd:connection", "the client of a socket unit with Accept=yes"),
    ],
    options: &[],
    form: Form::WORD,
    check: |address| Target::of(address).map(drop),
    connect,
    listen: Some(listen),
};

/// What stands behind the colon.
#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Number(i32),
    Name(&'a str),
}

/// The longest name that systemd gives (systemd.socket(5), FileDescriptorName=).
const NAME_BYTES: usize = 255;

impl<'a> Target<'a> {
    fn of(address: &'a Address) -> std::result::Result<Self, Refusal> {
        let bytes = address.target().first().map_or(&[][..], Vec::as_slice);
        let text = String::from_utf8_lossy(bytes);
        // What looks like a number is one, or wrong; also "-1", which is nobody's name.
        let digits = text.strip_prefix('-').unwrap_or(&text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return parse_count(&text)
                .and_then(|number| number.try_into().ok())
                .map(Self::Number)
                .ok_or_else(|| {
                    Refusal::new(format!("{text:?} is not the number of a descriptor"))
                });
        }
        let fits = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b':';
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && bytes.iter().all(fits) && bytes.len() <= NAME_BYTES => {
                Ok(Self::Name(name))
            }
            _ => Err(Refusal::new(format!(
                "{text:?} is neither the number nor the name of a descriptor"
            ))
            .hint("a name has up to 255 printable ASCII characters and no colon")),
        }
    }

    /// The numbers that it stands for: at least one, for connecting exactly one.
    fn numbers(self, fds: &InheritedFds, role: Role) -> std::result::Result<Vec<i32>, Missing> {
        let found: Vec<i32> = match self {
            Self::Number(number) => fds.numbers().filter(|&there| there == number).collect(),
            Self::Name(name) => fds.named(name).collect(),
        };
        match (self, found.len(), role) {
            (Self::Number(number), 0, _) => Err(Missing::number(number, fds)),
            (Self::Name(name), 0, _) => Err(Missing::name(name, fds)),
            (Self::Name(name), count @ 2.., Role::Connect) => {
                let numbers: Vec<_> = found.iter().map(|number| format!("fd:{number}")).collect();
                Err(Missing {
                    kind: io::ErrorKind::InvalidInput,
                    text: format!("{count} descriptors are named {name:?}"),
                    hint: Some(format!("say which one: {}", numbers.join(", "))),
                })
            }
            _ => Ok(found),
        }
    }
}

/// Why no descriptor was found.
struct Missing {
    kind: io::ErrorKind,
    text: String,
    hint: Option<String>,
}

impl Missing {
    fn number(number: i32, fds: &InheritedFds) -> Self {
        let there: Vec<_> = fds
            .numbers()
            .map(|number| match fds.name(number) {
                Some(name) => format!("{number} ({name})"),
                None => number.to_string(),
            })
            .collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        let text =
            format!("no descriptor {number} was handed over, or it is in use; there are: {there}");
        let hint = fds.remark().map(str::to_owned);
        Self { kind: io::ErrorKind::NotFound, text, hint }
    }

    fn name(name: &str, fds: &InheritedFds) -> Self {
        let kind = io::ErrorKind::NotFound;
        let known = fds.names();
        if known.contains(&name) {
            return Self {
                kind,
                text: format!("the descriptor named {name:?} is in use"),
                hint: None,
            };
        }
        let hint = match fds.remark() {
            Some(remark) => remark.to_owned(),
            None => suggestion(name, "names", &known),
        };
        Self { kind, text: format!("no descriptor is named {name:?}"), hint: Some(hint) }
    }

    fn of(self, attempt: &'static str, address: &str) -> Error {
        let error = Error::os(attempt, address, io::Error::new(self.kind, self.text));
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Whether connecting would find its descriptor; nothing is taken.
pub(crate) fn check_there(address: &Address, table: &Inherited) -> Result<()> {
    if address.scheme().name != SCHEME.name || address.role() != Role::Connect {
        return Ok(());
    }
    let text = address.to_string();
    let target = Target::of(address).map_err(|refusal| refusal.of("connect", &text))?;
    let found = target.numbers(&table.lock(), Role::Connect);
    found.map(drop).map_err(|missing| missing.of("connect", &text))
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let (table, taken) = take(address, "connect", request.inherited())?;
    let Some((number, fd)) = taken.into_iter().next() else {
        return Err(Error::usage("connect", request.address(), "there is no descriptor"));
    };
    match from_shared_fd(fd) {
        Ok(channel) => Ok(Opening::Ready(channel)),
        Err((error, fd)) => {
            table.lock().insert(number, fd);
            Err(Error::os("connect", request.address(), error))
        }
    }
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let (table, taken) = take(address, "listen", options.inherited.as_ref())?;
    let several = taken.len() > 1;
    let checked =
        taken.iter().try_fold(Vec::new(), |mut kinds, (number, fd)| match listening_kind(fd) {
            Ok(kind) => {
                kinds.push(kind);
                Ok(kinds)
            }
            Err(error) => Err((*number, error)),
        });
    let kinds = match checked {
        Ok(kinds) => kinds,
        Err((number, error)) => {
            table.lock().extend(taken);
            let error = Error::new(Class::Open, "listen", &text).because(error);
            return Err(if several { error.hint(format!("it is fd:{number}")) } else { error });
        }
    };
    let bound = taken.into_iter().zip(kinds).map(|((number, fd), (family, kind))| {
        // Accepting has no way not to wait for once. Whoever hands a listening socket over expects
        // this; a wait in the kernel could be ended by nobody.
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|error| Error::os("listen", &text, error.into()))?;
        let is_ip = family == AddressFamily::INET || family == AddressFamily::INET6;
        let local = rustix::net::getsockname(&fd).ok().filter(|_| is_ip);
        let local = local.and_then(|local| SocketAddr::try_from(local).ok());
        let local = local.map_or_else(|| Address::fd(number.unsigned_abs()), Address::of_socket);
        Ok(Bound::inherited(fd, (family, kind), local))
    });
    bound.collect()
}

/// Takes all descriptors that the address stands for.
fn take<'a>(
    address: &Address,
    attempt: &'static str,
    table: Option<&'a Inherited>,
) -> Result<(&'a Inherited, Vec<(i32, OwnedFd)>)> {
    let text = address.to_string();
    let target = Target::of(address).map_err(|refusal| refusal.of(attempt, &text))?;
    let Some(table) = table else {
        let cause = "this program takes no inherited descriptors";
        let cause = io::Error::new(io::ErrorKind::Unsupported, cause);
        return Err(Error::os(attempt, &text, cause));
    };
    let mut fds = table.lock();
    let found = target.numbers(&fds, address.role());
    let numbers = found.map_err(|missing| missing.of(attempt, &text))?;
    let taken = numbers.into_iter().filter_map(|number| Some((number, fds.take(number)?)));
    let taken = taken.collect();
    drop(fds);
    Ok((table, taken))
}

/// The family and the type of a socket that listens.
pub(crate) fn listening_kind(fd: &OwnedFd) -> io::Result<(AddressFamily, SocketType)> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    let kind = sockopt::socket_type(fd).map_err(|error| match error {
        Errno::NOTSOCK => invalid("the descriptor is not a socket"),
        error => error.into(),
    })?;
    let has_connections = [SocketType::STREAM, SocketType::SEQPACKET].contains(&kind);
    if !has_connections || !sockopt::socket_acceptconn(fd)? {
        return Err(invalid("the socket does not listen"));
    }
    let family = sockopt::socket_domain(fd)?;
    if kind == SocketType::SEQPACKET && family != AddressFamily::UNIX {
        return Err(invalid("only Unix sockets keep messages apart and listen"));
    }
    Ok((family, kind))
}
