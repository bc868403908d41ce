//! What the protocol itself has to say.

use alloc::boxed::Box;

use super::Masking;
use super::frame::{MAX_CONTROL, Opcode, encode};
use super::mask::Mask;
use crate::engine::MAX_FRAME_HEADER;

/// Control frames that wait to go out: at most one of each kind.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Seldom there, and not for long: not inside of the value, which is idle most of the time.
    pong: Option<Box<Payload>>,
    ping: bool,
    close: Option<Box<Payload>>,
    /// The Close frame is out: nothing follows it.
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl Outbox {
    /// Answers a ping; an answer that is not out yet is replaced.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3
        //# If an endpoint receives a Ping frame and has not yet sent Pong
        //# frame(s) in response to previous Ping frame(s), the endpoint MAY
        //# elect to send a Pong frame for only the most recently processed Ping
        //# frame.
        self.pong = Some(Box::new(Payload::new(payload)));
    }

    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    /// Says farewell, with a reason as far as it fits.
    pub(super) fn close(&mut self, status: Option<u16>, reason: &str) {
        let mut payload = Payload::new(&[]);
        if let Some(status) = status {
            let end = reason.floor_char_boundary(MAX_CONTROL - 2);
            payload.push(&status.to_be_bytes());
            payload.push(reason.as_bytes().get(..end).unwrap_or_default());
        }
        self.close = Some(Box::new(payload));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.closed || (self.pong.is_none() && !self.ping && self.close.is_none())
    }

    /// Writes as many whole frames as fit, and gives their length.
    pub(super) fn poll(&mut self, wire: &mut [u8], masking: &mut Masking) -> usize {
        let mut done = 0;
        let mut put = |opcode, payload: &Payload| {
            let count = write(opcode, payload, &mut wire[done..], masking);
            done += count.unwrap_or(0);
            count.is_some()
        };
        if self.closed {
            return 0;
        }
        if self.pong.as_ref().is_some_and(|pong| put(Opcode::Pong, pong)) {
            self.pong = None;
        }
        if self.ping && put(Opcode::Ping, &Payload::new(&[])) {
            self.ping = false;
        }
        let nothing_before = self.pong.is_none() && !self.ping;
        if nothing_before && self.close.as_ref().is_some_and(|close| put(Opcode::Close, close)) {
            self.close = None;
            self.closed = true;
        }
        done
    }
}

impl Payload {
    fn new(bytes: &[u8]) -> Self {
        let mut payload = Self { bytes: [0; MAX_CONTROL], len: 0 };
        payload.push(bytes);
        payload
    }

    fn push(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes[usize::from(self.len)..].iter_mut().zip(bytes) {
            *to = *from;
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Writes a frame, if it fits as a whole.
fn write(
    opcode: Opcode,
    payload: &Payload,
    wire: &mut [u8],
    masking: &mut Masking,
) -> Option<usize> {
    let mut key = None;
    let needed = payload.bytes().len() + if matches!(masking, Masking::Server) { 2 } else { 6 };
    let wire = wire.get_mut(..needed)?;
    if let Masking::Client(source) = masking {
        let mut bytes = [0; 4];
        source(&mut bytes);
        key = Some(bytes);
    }
    let mut header = [0; MAX_FRAME_HEADER];
    let len = encode(opcode, payload.bytes().len(), key, &mut header);
    let (front, rest) = wire.split_at_mut(len);
    front.copy_from_slice(&header[..len]);
    rest.copy_from_slice(payload.bytes());
    if let Some(key) = key {
        Mask::new(key).apply(rest);
    }
    Some(needed)
}
