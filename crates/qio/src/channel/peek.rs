//! Looking at a number of bytes without taking them.

use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::time::Instant;

use super::check::{check_read, invalid};
use super::wait::{Legs, wait};
use super::{Channel, Features, ReadFlags, ReadOp};
use crate::interest::{Interest, Readiness};
use crate::watch::{PollSet, waiter};

pub(super) fn peek_at_least(
    channel: &dyn Channel,
    buf: &mut [u8],
    min: usize,
    deadline: Option<Instant>,
) -> Result<usize> {
    check_read(channel, ReadFlags::PEEK, false)?;
    if channel.base().features().contains(Features::MESSAGES) {
        // No look shows more than the first message, however long one waits.
        let mut nothing = [];
        ReadOp::new(&mut nothing).part().require_whole(channel.base())?;
    }
    if min > buf.len() {
        let text = format!("a peek for {min} bytes needs room for them, not for {}", buf.len());
        return Err(invalid(channel, &text));
    }
    if buf.is_empty() {
        return Ok(0);
    }
    let min = min.max(1);
    let mut set = PollSet::new();
    loop {
        let seen = match peek_now(channel, buf)? {
            None => {
                wait(channel, Interest::READ, deadline, Legs::Tried)?;
                continue;
            }
            Some(n) if n >= min || n == 0 => return Ok(n),
            Some(n) => n,
        };
        // poll(2) calls a socket with one byte readable: from here on only an arrival counts. It
        // is watched for before the second look, so that none falls in between.
        set.clear();
        let more = channel.watch_more(seen, &mut set);
        let Some(n) = peek_now(channel, buf)? else { continue };
        if n >= min || n == 0 || more.contains(Readiness::HANGUP) {
            return Ok(n);
        }
        if !more.is_empty() {
            if n <= seen {
                return Err(barred(channel, n, min));
            }
            continue;
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(ErrorKind::TimedOut.into());
        }
        let waiting = channel.base().begin_wait(Interest::READ)?;
        let interrupts = channel.base().interrupts();
        if let Some(interrupts) = interrupts {
            interrupts.watch(Interest::READ, &mut set);
        }
        waiter::park(&mut set, deadline)?;
        drop(waiting);
        if interrupts.is_some_and(|interrupts| interrupts.take(Interest::READ)) {
            return Err(ErrorKind::Interrupted.into());
        }
        channel.drive(Instant::now())?;
    }
}

/// What is there now; `None` when nothing is, and the end has not come.
fn peek_now(channel: &dyn Channel, buf: &mut [u8]) -> Result<Option<usize>> {
    let mut bufs = [IoSliceMut::new(buf)];
    let flags = ReadFlags::PEEK | ReadFlags::NONBLOCK;
    match channel.try_read(&mut ReadOp::new(&mut bufs).with(flags, None)) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

fn barred(channel: &dyn Channel, n: usize, min: usize) -> Error {
    let name = channel.base().name();
    let text = format!(
        "{name}: a peek for {min} bytes sees {n} and no further: what follows has another sender \
         or comes after descriptors"
    );
    Error::new(ErrorKind::InvalidData, text)
}
