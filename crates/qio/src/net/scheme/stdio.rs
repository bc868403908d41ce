//! `-`

use std::sync::Arc;

use super::{Example, Scheme};
use crate::error::{Error, Result};
use crate::net::address::{Address, Form};
use crate::net::connect::{Opening, Request};
use crate::transport::Pipe;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "stdio",
    syntax: "-",
    summary: "standard input and output",
    examples: &[Example::new("-", "read standard input, write standard output")],
    options: &[],
    form: Form::NOTHING,
    check: |_| Ok(()),
    connect,
    listen: None,
};

/// Takes the descriptors themselves when they were handed over: then the end of the output is one
/// for the next program of a pipeline, too. Else it makes duplicates.
fn connect(_address: &Address, request: &Request<'_>) -> Result<Opening> {
    let taken = request.inherited().and_then(|table| {
        let mut table = table.lock();
        match (table.take(0), table.take(1)) {
            (Some(input), Some(output)) => Some((input, output)),
            (input, output) => {
                for (number, fd) in [(0, input), (1, output)] {
                    fd.map(|fd| table.insert(number, fd));
                }
                None
            }
        }
    });
    let channel = match taken {
        Some((input, output)) => Pipe::from_shared_fds(Some(input), Some(output)),
        None => Pipe::stdio(),
    };
    match channel {
        Ok(channel) => Ok(Opening::Ready(Arc::new(channel))),
        Err(error) => Err(Error::os("open", request.address(), error)),
    }
}
