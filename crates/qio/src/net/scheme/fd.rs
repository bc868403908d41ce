//! `fd:number`

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{Example, Scheme};
use crate::error::{Class, Error, Result};
use crate::net::address::{Address, Form, Refusal, parse_count};
use crate::net::connect::{Opening, Request};
use crate::net::listener::Bound;
use crate::net::options::{Inherited, ListenOptions};
use crate::transport::from_shared_fd;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "fd",
    syntax: "fd:NUMBER",
    summary: "a descriptor that this program was started with",
    examples: &[
        Example::new("fd:3", "use an open socket, file, pipe or terminal"),
        Example::new("listen:fd:3", "accept from a listening socket"),
    ],
    options: &[],
    form: Form::WORD,
    check: |address| number(address).map(drop),
    connect,
    listen: Some(listen),
};

fn number(address: &Address) -> std::result::Result<i32, Refusal> {
    let text = String::from_utf8_lossy(address.target().first().map_or(&[][..], Vec::as_slice));
    parse_count(&text)
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| Refusal::new(format!("{text:?} is not the number of a descriptor")))
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let number = number(address).map_err(|refusal| refusal.of("connect", request.address()))?;
    let failed = |error| Error::os("connect", request.address(), error);
    let (table, fd) = take(number, request.inherited()).map_err(failed)?;
    match from_shared_fd(fd) {
        Ok(channel) => Ok(Opening::Ready(channel)),
        Err((error, fd)) => {
            table.lock().insert(number, fd);
            Err(failed(error))
        }
    }
}

fn listen(address: &Address, options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let number = number(address).map_err(|refusal| refusal.of("listen", &text))?;
    let failed = |error| Error::os("listen", &text, error);
    let (table, fd) = take(number, options.inherited.as_ref()).map_err(failed)?;
    let family = match listening_family(&fd) {
        Ok(family) => family,
        Err(error) => {
            table.lock().insert(number, fd);
            return Err(Error::new(Class::Open, "listen", &text).because(error));
        }
    };
    // Accepting has no way not to wait for once. Whoever hands a listening socket over expects
    // this; a wait in the kernel could be ended by nobody.
    rustix::io::ioctl_fionbio(&fd, true).map_err(|error| failed(error.into()))?;
    let is_ip = family == AddressFamily::INET || family == AddressFamily::INET6;
    let local = rustix::net::getsockname(&fd).ok().filter(|_| is_ip);
    let local = local.and_then(|local| SocketAddr::try_from(local).ok());
    let local = local.map_or_else(|| Address::fd(number.unsigned_abs()), Address::of_socket);
    Ok(vec![Bound::inherited(fd, family, local)])
}

fn take(number: i32, table: Option<&Inherited>) -> io::Result<(&Inherited, OwnedFd)> {
    let Some(table) = table else {
        let text = "this program takes no inherited descriptors";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    };
    let mut fds = table.lock();
    if let Some(fd) = fds.take(number) {
        drop(fds);
        return Ok((table, fd));
    }
    let there: Vec<_> = fds.numbers().map(|number| number.to_string()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    let text =
        format!("no descriptor {number} was handed over, or it is in use; there are: {there}");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

pub(crate) fn listening_family(fd: &OwnedFd) -> io::Result<AddressFamily> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    let kind = sockopt::socket_type(fd).map_err(|error| match error {
        Errno::NOTSOCK => invalid("the descriptor is not a socket"),
        error => error.into(),
    })?;
    if kind != SocketType::STREAM || !sockopt::socket_acceptconn(fd)? {
        return Err(invalid("the socket does not listen"));
    }
    Ok(sockopt::socket_domain(fd)?)
}
