//! Handshakes: what comes before a layer.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::task::Poll;
use std::time::Instant;

use qio_proto::{Engine, Handshake};

use super::Layer;
use crate::channel::{Channel, ChannelExt, Features, ReadFlags, WriteFlags};
use crate::interest::Interest;
use crate::watch::{PollSet, Steps};

/// A handshake over a channel, in steps.
///
/// There is nothing to read plain bytes from before it is over. Dropping it cancels: the channel
/// below is closed.
///
/// A channel that keeps messages apart ([`Features::MESSAGES`]) is refused (`Unsupported`).
///
/// The error has the handshake's own as its source; the peer was told the reason, as far as the
/// protocol has words for it and the channel took them.
#[doc(alias = "qio_channel_tls_handshake")]
#[doc(alias = "qio_channel_websock_handshake")]
pub struct Handshaking<C: Channel, H> {
    parts: Option<(C, H)>,
    /// What has come and was not consumed.
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// Why it fails, once the peer was told.
    failed: Option<io::Error>,
    /// Why nothing can be sent any more.
    broken: Option<io::Error>,
    deadline: Option<Instant>,
}

/// A handshake that is over, and the channel below.
pub struct Established<C, H> {
    /// The channel below.
    below: C,
    handshake: H,
    rest: Vec<u8>,
}

/// How much is read at a time.
const CHUNK: usize = 2048;

impl<C: Channel, H: Handshake> Handshaking<C, H> {
    /// A handshake that has to be over at `deadline`.
    pub fn new(below: C, handshake: H, deadline: Option<Instant>) -> Self {
        Self {
            parts: Some((below, handshake)),
            inbound: Vec::new(),
            outbound: Vec::new(),
            failed: None,
            broken: None,
            deadline,
        }
    }

    /// How far it has come; `None` once it is over and was handed out.
    pub fn handshake(&self) -> Option<&H> {
        self.parts.as_ref().map(|(_, handshake)| handshake)
    }

    /// The same, where some of what the peer has to say has come already.
    pub(super) fn with_inbound(
        below: C,
        handshake: H,
        inbound: Vec<u8>,
        deadline: Option<Instant>,
    ) -> Self {
        let mut handshaking = Self::new(below, handshake, deadline);
        handshaking.inbound = inbound;
        if let Some((_, handshake)) = &mut handshaking.parts {
            handshaking.failed = take(handshake, &mut handshaking.inbound);
        }
        handshaking
    }

    fn try_step(&mut self) -> io::Result<bool> {
        let Some((below, handshake)) = &mut self.parts else {
            return Err(io::Error::other("the handshake is over"));
        };
        refuse_messages(below)?;
        loop {
            let mut blocked = None;
            while handshake.wants_wire() || !self.outbound.is_empty() {
                if self.outbound.is_empty() {
                    self.outbound.resize(CHUNK, 0);
                    let count = handshake.poll_wire(&mut self.outbound);
                    self.outbound.truncate(count);
                }
                if self.broken.is_some() {
                    self.outbound.clear();
                    continue;
                }
                let bufs = [IoSlice::new(&self.outbound)];
                match below.write_with(&bufs, WriteFlags::NONBLOCK, &[]) {
                    Ok(count) => drop(self.outbound.drain(..count)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        blocked = Some(error);
                        break;
                    }
                    // A peer that has gone may have said why before.
                    Err(error) => self.broken = Some(error),
                }
            }
            // The peer may read nothing before it has sent what it has to say.
            if let Some(error) = blocked
                && (self.failed.is_some() || handshake.is_done())
            {
                return Err(error);
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if handshake.is_done() && self.broken.is_none() {
                // A layer below may have taken it, and not have sent it.
                below.flush()?;
                return Ok(true);
            }
            let end = self.inbound.len();
            let limit = handshake.limit_bytes().max(end + 1);
            self.inbound.resize((end + CHUNK).min(limit), 0);
            let bufs = &mut [IoSliceMut::new(&mut self.inbound[end..])];
            let result = below.read_with(bufs, ReadFlags::NONBLOCK, None);
            self.inbound.truncate(end + *result.as_ref().unwrap_or(&0));
            let is_over = !matches!(result, Ok(1..)) || end >= handshake.limit_bytes();
            if let Some(error) = self.broken.take_if(|_| is_over) {
                return Err(error);
            }
            if result? == 0 {
                let error = handshake.handle_end();
                return Err(io::Error::new(ErrorKind::UnexpectedEof, error));
            }
            self.failed = take(handshake, &mut self.inbound);
        }
    }
}

impl<C: Channel, H: Handshake> Steps for Handshaking<C, H> {
    type Output = io::Result<Established<C, H>>;

    fn step(&mut self, now: Instant) -> Poll<Self::Output> {
        if let Some((below, _)) = &self.parts {
            // What makes waiting pointless shows up in the next read or write.
            let _ = below.drive(now);
        }
        match self.try_step() {
            Ok(false) => Poll::Pending,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match self.deadline.is_some_and(|deadline| deadline <= now) {
                    true => Poll::Ready(Err(self.failed.take().unwrap_or_else(|| {
                        io::Error::new(ErrorKind::TimedOut, "the handshake took too long")
                    }))),
                    false => Poll::Pending,
                }
            }
            Err(error) => Poll::Ready(Err(error)),
            Ok(true) => Poll::Ready(match self.parts.take() {
                Some((below, handshake)) => {
                    let rest = std::mem::take(&mut self.inbound);
                    Ok(Established { below, handshake, rest })
                }
                None => Err(io::Error::other("the handshake is over")),
            }),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        if let Some((below, handshake)) = &self.parts {
            let says_only = self.failed.is_some() || handshake.is_done();
            let interest = match (says_only, self.outbound.is_empty()) {
                (true, _) => Interest::WRITE,
                (false, true) => Interest::READ,
                (false, false) => Interest::READ | Interest::WRITE,
            };
            if !below.watch(interest, set).is_empty() {
                set.wake_at(Instant::now());
            }
        }
        if let Some(deadline) = self.deadline {
            set.wake_at(deadline);
        }
    }
}

/// Has a handshake take what has come, as far as it can.
fn take(handshake: &mut impl Handshake, inbound: &mut Vec<u8>) -> Option<io::Error> {
    loop {
        match handshake.handle_wire(inbound) {
            Ok(0) => return None,
            Ok(count) => drop(inbound.drain(..count)),
            // The peer is told first.
            Err(error) => return Some(io::Error::new(ErrorKind::InvalidData, error)),
        }
    }
}

impl<C: Channel, H> Drop for Handshaking<C, H> {
    fn drop(&mut self) {
        if let Some((below, _)) = &self.parts {
            // Nobody is left to be told.
            let _ = below.close();
        }
    }
}

impl<C: Channel, H: Handshake> Established<C, H>
where
    H::Engine: fmt::Debug + 'static,
{
    /// What was agreed on.
    pub fn handshake(&self) -> &H {
        &self.handshake
    }

    /// The channel of plain bytes; `kind` is the layer's name.
    pub fn into_layer(self, kind: &'static str) -> Layer<C, H::Engine>
    where
        H::Engine: Engine,
    {
        Layer::with_rest(kind, self.below, self.handshake.into_engine(), &self.rest)
    }
}

/// Refuses a channel that keeps messages apart, for a layer that does not.
pub(crate) fn refuse_messages(below: &dyn Channel) -> io::Result<()> {
    if below.features().contains(Features::MESSAGES) {
        let text = format!("{}: a layer over a stream cannot go over messages", below.name());
        return Err(io::Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

impl<C: Channel, H> fmt::Debug for Handshaking<C, H> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Handshaking")
            .field("deadline", &self.deadline)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl<C: Channel, H> fmt::Debug for Established<C, H> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Established").field("below", &self.below).finish_non_exhaustive()
    }
}
