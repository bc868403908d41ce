//! `unix-dgram:path` and `unix-dgram:@name`

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use super::unix::{NAME_OPTIONS, Place, check, socket};
use super::{Example, OptionInfo, RETRY_OPTIONS, Scheme, count, join};
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, Request};
use crate::net::socket_setup::{BUFFER_OPTIONS, SocketSetup};
use crate::transport::{MessageKind, Messages};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "unix-dgram",
    syntax: "unix-dgram:PATH or unix-dgram:@NAME",
    summary: "Unix datagrams to a socket, by path or by abstract name",
    examples: &[
        Example::new("unix-dgram:/dev/log", "send datagrams to a local service"),
        Example::new("unix-dgram:@app?bind=@me", "the same under a name, for its answers"),
    ],
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::PATH_OR_NAME,
    check: |address| check(address).and_then(|()| local(address)).map(drop),
    connect,
    // A second socket cannot have the same name, so the kernel would not sort the datagrams of
    // several peers.
    listen: None,
};

const OPTIONS: &[&[OptionInfo]] = &[NAME_OPTIONS, &[BIND], BUFFER_OPTIONS, RETRY_OPTIONS];

const BIND: OptionInfo = OptionInfo::new(
    "bind",
    Value::Text("PATH|@NAME"),
    "the name that the service answers to; without it the kernel chooses an abstract one",
);

/// The name to bind to, as an address of its own.
fn local(address: &Address) -> std::result::Result<Option<Address>, Refusal> {
    use std::os::unix::ffi::OsStrExt;
    let Some(name) = address.values("bind").last() else { return Ok(None) };
    let local = match name.as_bytes() {
        [b'@', name @ ..] => Address::unix_abstract(name),
        path => Address::unix(Path::new(std::ffi::OsStr::from_bytes(path))),
    };
    check(&local)?;
    Ok(Some(local))
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let failed = |error: io::Error| Error::os("connect", request.address(), error);
    let refused = |refusal: Refusal| refusal.of("connect", request.address());
    let to = Place::of(address).map_err(refused)?;
    let local = local(address).map_err(refused)?;
    let from = local.as_ref().map(Place::of).transpose().map_err(refused)?;
    let open = || -> io::Result<Messages> {
        let fd = socket(SocketType::DGRAM)?;
        SocketSetup::of(address).apply_buffers(fd.as_fd())?;
        let mut file = None;
        match from {
            // An address without a name asks the kernel for one (unix(7), autobind).
            None => rustix::net::bind(&fd, &SocketAddrUnix::new_unnamed())?,
            Some(from) => {
                rustix::net::bind(&fd, &from.socket_address()?)?;
                if let Place::Path(path) = from {
                    file = Some(path);
                }
            }
        }
        let kind = MessageKind::Datagram;
        let channel = Messages::new(fd.into(), AddressFamily::UNIX, kind).with_file(file)?;
        rustix::net::connect(channel.descriptor()?, &to.socket_address()?)?;
        Ok(channel)
    };
    let channel = open().map_err(failed)?;
    Ok(Opening::Ready(Arc::new(channel)))
}
