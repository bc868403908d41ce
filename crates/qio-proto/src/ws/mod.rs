//! WebSocket (RFC 6455) as a stream of bytes.

mod error;
mod frame;
mod handshake;
mod mask;
mod outbox;
mod text;

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

pub use error::{Close, Violation, WsError, status};
pub use handshake::{
    Answer, BasicAuth, ClientHandshake, ClientOptions, HandshakeError, Origins, Refusal, Request,
    Response, ServerHandshake, ServerOptions,
};

use crate::engine::{Engine, Frame, MAX_FRAME_HEADER, Progress, Time};
use frame::{Header, Masked, Opcode, encode};
use mask::Mask;
use outbox::Outbox;
use text::Text;

/// A WebSocket after its handshake, as a stream of bytes in both directions.
///
/// Inwards, payload is handed on as it comes, whatever the length of the frame and of the message:
/// boundaries of messages mean nothing here, and an empty message is no end. Outwards, every piece
/// is a message of its own. Control frames are answered by the engine.
///
/// Memory: the payload of at most one pong inside of the value, and that of one Close frame beside
/// it (125 bytes each); the client takes masking keys from whoever gave it the source.
pub struct WebSocket {
    masking: Masking,
    options: WsOptions,
    /// The data frame whose payload is next on the wire.
    payload: Option<Payload>,
    /// The fragmented message that is under way.
    message: Option<Kind>,
    text_in: Text,
    text_out: Text,
    outbox: Outbox,
    /// Our farewell is on its way, or out: nothing follows it.
    finished: bool,
    failed: Option<WsError>,
    peer_close: Option<Close>,
    clock: Clock,
}

/// How a WebSocket behaves after its handshake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WsOptions {
    /// Whether text messages of the peer are taken, as their UTF-8 bytes. Default: no; they end
    /// the connection with status 1003.
    pub accept_text: bool,
    /// Whether what is written goes out as text. Default: no, as binary.
    pub send_text: bool,
    /// After how much silence of the peer it is pinged. Default: never.
    pub ping_interval: Option<Duration>,
    /// How long the peer may take to answer a ping. Default: 10 s.
    pub pong_deadline: Duration,
}

/// Who masks: RFC 6455, section 5.1.
enum Masking {
    /// We are the server: the client does.
    Server,
    /// We are the client, with a source of keys.
    Client(KeySource),
}

/// Fills in bytes that nobody can predict (RFC 6455, section 10.3).
pub type KeySource = Box<dyn FnMut(&mut [u8; 4]) + Send>;

#[derive(Clone, Copy, Debug)]
struct Payload {
    left: u64,
    mask: Option<Mask>,
    /// Whether its message ends with it.
    last: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binary,
    Text,
}

#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    next: Option<Time>,
    /// Something came since the last look.
    heard: bool,
    /// A ping is out.
    asked: bool,
}

impl WebSocket {
    /// The side of the server, once the handshake is over.
    pub fn server(options: WsOptions) -> Self {
        Self::new(Masking::Server, options)
    }

    /// The side of the client, once the handshake is over.
    pub fn client(options: WsOptions, keys: KeySource) -> Self {
        Self::new(Masking::Client(keys), options)
    }

    fn new(masking: Masking, options: WsOptions) -> Self {
        Self {
            masking,
            options,
            payload: None,
            message: None,
            text_in: Text::default(),
            text_out: Text::default(),
            outbox: Outbox::default(),
            finished: false,
            failed: None,
            peer_close: None,
            clock: Clock::default(),
        }
    }

    /// Why the peer closed the connection, once it has.
    pub fn peer_close(&self) -> Option<&Close> {
        self.peer_close.as_ref()
    }

    /// Ends our side like [`finish`](Engine::finish), with a status and a reason of at most 123
    /// bytes (longer ones are cut at the end of a character).
    pub fn close(&mut self, status: u16, reason: &str) {
        if !self.finished {
            self.finished = true;
            self.outbox.close(Some(status), reason);
        }
    }

    fn masked(&self) -> Masked {
        match self.masking {
            Masking::Server => Masked::Always,
            Masking::Client(_) => Masked::Never,
        }
    }

    fn fail(&mut self, error: WsError) -> WsError {
        if let WsError::Violation(violation) = &error {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
            //# An endpoint MUST NOT continue to attempt to process data (including a
            //# responding Close frame) from the remote endpoint after being
            //# instructed to _Fail the WebSocket Connection_.
            let status = violation.status();
            self.close(status, "");
        }
        self.failed = Some(error.clone());
        error
    }

    /// Reads the next header, and the whole frame if it is one of control; gives what it took, or
    /// `None` when the wire does not reach so far.
    fn handle_header(&mut self, wire: &mut [u8]) -> Result<Option<usize>, Violation> {
        let Some(header) = Header::parse(wire, self.masked())? else { return Ok(None) };
        let mask = header.key.map(Mask::new);
        if header.opcode.is_control() {
            let payload = wire[header.len..].get_mut(..header.payload_len as usize);
            let Some(payload) = payload else { return Ok(None) };
            if let Some(mut mask) = mask {
                mask.apply(payload);
            }
            self.handle_control(header.opcode, payload)?;
            return Ok(Some(header.len + payload.len()));
        }
        let kind = match (header.opcode, self.message) {
            (Opcode::Continuation, Some(kind)) => kind,
            (Opcode::Continuation, None) => {
                return Err(Violation::protocol("a fragment continues no message"));
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
            //# The fragments of one message MUST NOT be interleaved between the
            //# fragments of another message unless an extension has been
            //# negotiated that can interpret the interleaving.
            (_, Some(_)) => return Err(Violation::protocol("a message begins inside of another")),
            (Opcode::Text, None) if !self.options.accept_text => {
                let what = "text is not accepted";
                return Err(Violation::new(status::UNSUPPORTED, what));
            }
            (Opcode::Text, None) => Kind::Text,
            (_, None) => Kind::Binary,
        };
        self.message = Some(kind);
        let payload = Payload { left: header.payload_len, mask, last: header.last, kind };
        self.payload = Some(payload);
        self.end_frame_if_empty()?;
        Ok(Some(header.len))
    }

    fn handle_control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Violation> {
        match opcode {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.2
            //# Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in
            //# response, unless it already received a Close frame.
            Opcode::Ping => self.outbox.pong(payload),
            Opcode::Close => {
                //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
                //# An endpoint MAY delay sending a Close frame
                //# until its current message is sent
                // A stream is one long message: our side ends when the user says so.
                self.peer_close = Some(read_close(payload)?);
            }
            // That something came is all that a pong says.
            _ => {}
        }
        Ok(())
    }

    fn end_frame_if_empty(&mut self) -> Result<(), Violation> {
        let Some(Payload { left: 0, last, kind, .. }) = self.payload else { return Ok(()) };
        self.payload = None;
        if !last {
            return Ok(());
        }
        self.message = None;
        if kind == Kind::Text && !self.text_in.is_whole() {
            return Err(Violation::new(status::NOT_TEXT, "a text ends inside of a character"));
        }
        Ok(())
    }

    /// Takes payload: as much as there is of the wire, of the frame, and of room. Of text that
    /// goes wrong, what comes before that counts.
    fn handle_payload(
        &mut self,
        wire: &[u8],
        plain: &mut [u8],
        done: &mut Progress,
    ) -> Result<usize, Violation> {
        let Some(payload) = &mut self.payload else { return Ok(0) };
        let count = clamp(payload.left).min(wire.len()).min(plain.len());
        let (from, to) = (&wire[..count], &mut plain[..count]);
        match &mut payload.mask {
            Some(mask) => mask.copy(from, to),
            None => to.copy_from_slice(from),
        }
        payload.left -= count as u64;
        let checked = if payload.kind == Kind::Text { self.text_in.check(to) } else { Ok(()) };
        let good = checked.map_or_else(|text| text.good, |()| count);
        done.consumed += good;
        done.produced += good;
        if checked.is_err() {
            return Err(Violation::new(status::NOT_TEXT, "a text is no UTF-8"));
        }
        self.end_frame_if_empty()?;
        Ok(count)
    }

    fn try_handle_wire(
        &mut self,
        wire: &mut [u8],
        plain: &mut [u8],
        done: &mut Progress,
    ) -> Result<(), Violation> {
        while self.peer_close.is_none() {
            let wire = &mut wire[done.consumed..];
            if self.payload.is_some() {
                let plain = &mut plain[done.produced..];
                if self.handle_payload(wire, plain, done)? == 0 {
                    break;
                }
            } else {
                match self.handle_header(wire)? {
                    Some(count) => done.consumed += count,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// One binary message; see [`Engine::handle_plain`].
    fn write_binary(&mut self, plain: &[u8], wire: &mut [u8]) -> Progress {
        let mut key = None;
        if let Masking::Client(source) = &mut self.masking {
            let mut bytes = [0; 4];
            source(&mut bytes);
            key = Some(bytes);
        }
        self.write_message(Opcode::Binary, key, &[], plain, wire)
    }

    /// Writes one message with `before` and as much of `plain` as there is room for.
    fn write_message(
        &mut self,
        opcode: Opcode,
        key: Option<[u8; 4]>,
        before: &[u8],
        plain: &[u8],
        wire: &mut [u8],
    ) -> Progress {
        let Some(room) = wire.len().checked_sub(MAX_FRAME_HEADER + before.len()) else {
            return Progress::default();
        };
        let count = plain.len().min(room);
        if count + before.len() == 0 {
            return Progress::default();
        }
        let mut header = [0; MAX_FRAME_HEADER];
        let len = encode(opcode, before.len() + count, key, &mut header);
        wire[..len].copy_from_slice(&header[..len]);
        let (start, rest) = wire[len..].split_at_mut(before.len());
        start.copy_from_slice(before);
        let (payload, _) = rest.split_at_mut(count);
        match key {
            Some(key) => {
                let mut mask = Mask::new(key);
                mask.apply(start);
                mask.copy(&plain[..count], payload);
            }
            None => payload.copy_from_slice(&plain[..count]),
        }
        Progress { consumed: count, produced: len + before.len() + count }
    }

    /// One text message of whole characters; the start of one that is not whole waits here.
    fn write_text(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<Progress, WsError> {
        let Some(room) = wire.len().checked_sub(MAX_FRAME_HEADER + 4) else {
            return Ok(Progress::default());
        };
        let plain = &plain[..plain.len().min(room)];
        let before = self.text_out;
        self.text_out.check(plain).map_err(|_| WsError::NotText)?;
        let whole = plain.len() + before.start().len() - self.text_out.start().len();
        if whole == 0 {
            return Ok(Progress { consumed: plain.len(), produced: 0 });
        }
        let mut key = None;
        if let Masking::Client(source) = &mut self.masking {
            let mut bytes = [0; 4];
            source(&mut bytes);
            key = Some(bytes);
        }
        // A character that was in the middle is whole now, or the text is still inside of it.
        let now = &plain[..whole - before.start().len()];
        let done = self.write_message(Opcode::Text, key, before.start(), now, wire);
        Ok(Progress { consumed: plain.len(), produced: done.produced })
    }
}

impl Engine for WebSocket {
    type Error = WsError;

    fn handle_wire(&mut self, wire: &mut [u8], plain: &mut [u8]) -> Result<Progress, WsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut done = Progress::default();
        let result = self.try_handle_wire(wire, plain, &mut done);
        self.clock.heard |= done.consumed > 0;
        match result {
            Ok(()) => Ok(done),
            // What came before is delivered first.
            Err(violation) if done.produced > 0 => {
                self.fail(WsError::Violation(violation));
                Ok(done)
            }
            Err(violation) => Err(self.fail(WsError::Violation(violation))),
        }
    }

    fn is_readable(&self, wire: &[u8]) -> bool {
        (self.payload.is_some() && !wire.is_empty()) || self.failed.is_some()
    }

    fn inbound_bytes(&self) -> usize {
        INBOUND_BYTES
    }

    fn passthrough(&self) -> usize {
        match &self.payload {
            // Text has to be looked at, and an error can come out of that.
            Some(payload) if payload.kind == Kind::Binary => clamp(payload.left),
            _ => 0,
        }
    }

    fn transform(&mut self, bytes: &mut [u8]) {
        self.clock.heard = true;
        let Some(payload) = &mut self.payload else { return };
        if let Some(mask) = &mut payload.mask {
            mask.apply(bytes);
        }
        payload.left = payload.left.saturating_sub(bytes.len() as u64);
        // No text goes this way, and nothing else can be wrong with the end of a frame.
        let _ = self.end_frame_if_empty();
    }

    fn has_ended(&self) -> bool {
        self.peer_close.is_some()
    }

    fn may_end_wire(&self) -> bool {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1
        //# in abnormal cases (such as not having received a TCP Close from the
        //# server after a reasonable amount of time) a client MAY initiate the TCP Close.
        self.has_ended() || self.failed.is_some()
    }

    fn handle_end(&mut self) -> Result<(), WsError> {
        match (&self.peer_close, &self.failed) {
            (Some(_), _) => Ok(()),
            (None, Some(error)) => Err(error.clone()),
            // Our side may go on.
            (None, None) => Err(WsError::Truncated),
        }
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        self.outbox.poll(wire, &mut self.masking)
    }

    fn wants_wire(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn handle_plain(&mut self, plain: &[u8], wire: &mut [u8]) -> Result<Progress, WsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.finished {
            return Err(WsError::Ended);
        }
        if self.options.send_text {
            return self.write_text(plain, wire);
        }
        Ok(self.write_binary(plain, wire))
    }

    fn frame(&self, len: usize) -> Option<Frame> {
        let as_it_is = matches!(self.masking, Masking::Server) && !self.options.send_text;
        if !as_it_is || self.finished || self.failed.is_some() || len == 0 {
            return None;
        }
        let mut header = [0; MAX_FRAME_HEADER];
        let header_len = encode(Opcode::Binary, len, None, &mut header);
        Some(Frame::new(&header[..header_len], len))
    }

    fn finish(&mut self) {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
        //# When sending a Close frame in response, the endpoint
        //# typically echos the status code it received.
        match &self.peer_close {
            Some(Close { status: None, .. }) if !self.finished => {
                self.finished = true;
                self.outbox.close(None, "");
            }
            Some(Close { status: Some(status), .. }) => {
                let status = *status;
                self.close(status, "");
            }
            _ => self.close(status::NORMAL, ""),
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.clock.next
    }

    fn handle_arrival(&mut self) {
        self.clock.heard = true;
    }

    fn handle_time(&mut self, now: Time) -> Result<(), WsError> {
        let Some(interval) = self.options.ping_interval else { return Ok(()) };
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.clock.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let silent = self.clock.next.is_some() && !self.clock.heard;
        if silent && self.clock.asked {
            return Err(self.fail(WsError::Silent));
        }
        self.clock.asked = silent && !self.finished;
        self.clock.heard = false;
        let pause = if self.clock.asked { self.options.pong_deadline } else { interval };
        self.clock.next = Some(now.saturating_add(pause));
        if self.clock.asked {
            self.outbox.ping();
        }
        Ok(())
    }
}

/// Reads the payload of a Close frame.
fn read_close(payload: &[u8]) -> Result<Close, Violation> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# If there is a body, the first two bytes of
    //# the body MUST be a 2-byte unsigned integer (in network byte order)
    //# representing a status code with value /code/ defined in Section 7.4.
    let Some((status, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Close { status: None, reason: String::new() }),
            _ => Err(Violation::protocol("half a status in a Close frame")),
        };
    };
    let status = u16::from_be_bytes(*status);
    // Section 7.4, and the registry of the codes that came later (1012 to 1014).
    if !matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::protocol("the status of a Close frame is none that can be sent"));
    }
    match core::str::from_utf8(reason) {
        Ok(reason) => Ok(Close { status: Some(status), reason: reason.into() }),
        Err(_) => Err(Violation::new(status::NOT_TEXT, "the reason of a Close is no UTF-8")),
    }
}

/// How much of the wire is kept while payload waits for its reader: 8 KiB. It need only hold a
/// header or a control frame (131 bytes); more saves system calls where frames are small.
const INBOUND_BYTES: usize = 8 * 1024;

fn clamp(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Default for WsOptions {
    fn default() -> Self {
        Self {
            accept_text: false,
            send_text: false,
            ping_interval: None,
            pong_deadline: Duration::from_secs(10),
        }
    }
}

impl WsOptions {
    /// Sets [`accept_text`](WsOptions::accept_text).
    #[must_use]
    pub fn accept_text(mut self, accept: bool) -> Self {
        self.accept_text = accept;
        self
    }

    /// Sets [`send_text`](WsOptions::send_text).
    #[must_use]
    pub fn send_text(mut self, send: bool) -> Self {
        self.send_text = send;
        self
    }

    /// Sets [`ping_interval`](WsOptions::ping_interval).
    #[must_use]
    pub fn ping_interval(mut self, interval: Option<Duration>) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Sets [`pong_deadline`](WsOptions::pong_deadline).
    #[must_use]
    pub fn pong_deadline(mut self, deadline: Duration) -> Self {
        self.pong_deadline = deadline;
        self
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WebSocket")
            .field("is_server", &matches!(self.masking, Masking::Server))
            .field("finished", &self.finished)
            .field("peer_close", &self.peer_close)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
