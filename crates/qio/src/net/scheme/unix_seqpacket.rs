//! `unix-seqpacket:path` and `unix-seqpacket:@name`

use rustix::net::SocketType;

use super::{Example, Scheme, unix};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "unix-seqpacket",
    syntax: "unix-seqpacket:PATH or unix-seqpacket:@NAME",
    summary: "a Unix connection that keeps messages apart, by path or by abstract name",
    examples: &[
        Example::new("unix-seqpacket:/run/app.sock", "connect to a socket in the file system"),
        Example::new("listen:unix-seqpacket:@app", "listen on an abstract name"),
    ],
    connect: |address, request| unix::knock(address, request, SocketType::SEQPACKET),
    listen: Some(|address, _options| unix::listen(address, SocketType::SEQPACKET)),
    ..unix::SCHEME
};
