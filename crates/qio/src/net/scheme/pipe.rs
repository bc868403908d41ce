//! `pipe:path`

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::{Example, OptionInfo, Scheme, check_path, path};
use crate::channel::Channel;
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::transport::{OpenFifo, Pipe};
use crate::watch::{PollSet, Steps};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "pipe",
    syntax: "pipe:PATH",
    summary: "a FIFO, one way",
    examples: &[
        Example::new("pipe:/run/commands", "read what others write into a FIFO"),
        Example::new("pipe:/run/commands?write", "write into a FIFO once somebody reads it"),
    ],
    options: &[
        OptionInfo::new(
            "read",
            Value::Switch,
            "open it for reading (the default), at once; reads wait for the first writer, \
             without the connect timeout",
        ),
        OptionInfo::new(
            "write",
            Value::Switch,
            "open it for writing once somebody reads it, within the connect timeout",
        ),
    ],
    form: Form::WORD,
    check: |address| check_path(address).and_then(|()| is_written(address)).map(drop),
    connect,
    listen: None,
};

fn is_written(address: &Address) -> std::result::Result<bool, Refusal> {
    let write = address.switch("write");
    let read = if address.is_given("read") { address.switch("read") } else { !write };
    if read == write {
        return Err(Refusal::new("a FIFO is either read or written"));
    }
    Ok(write)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let write = is_written(address).map_err(|refusal| refusal.of("open", request.address()))?;
    if write {
        return Ok(Opening::Steps(Box::new(Writing(Pipe::open_fifo_write(path(address))))));
    }
    Ok(Opening::Ready(Arc::new(Pipe::open_fifo_read(path(address))?)))
}

/// The opening for writing, which waits for a reader.
struct Writing(OpenFifo);

impl Steps for Writing {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        self.0.step(now).map(|opened| opened.map(|pipe| Arc::new(pipe) as Arc<dyn Channel>))
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.0.watch(set);
    }
}

impl OpeningSteps for Writing {
    fn missing(&self) -> &'static str {
        "nobody opened it for reading"
    }
}
