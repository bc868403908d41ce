//! Streaming compression with zstd (RFC 8878) over any channel.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Error, ErrorKind, Result};

use qio_proto::{Engine, Progress};
use zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::Layer;
use crate::channel::Channel;

/// The name of the layer in front of that of the channel.
pub const NAME: &str = "zstd";

/// Compresses what is written to `below`, and expands what is read from it.
///
/// There is no handshake: both ends must have the layer. Every write is out when it returns, so
/// that questions and answers work; small buffers of one write are compressed together. Each
/// direction is one frame of zstd: [`finish`](Channel::finish) ends ours, and a stream that ends
/// inside of the peer's is truncated (`UnexpectedEof`). What follows the peer's frame is not read.
///
/// Compressing what an attacker chooses together with a secret, below encryption, tells the
/// secret's length and by and by the secret itself (CRIME): do not put such data into one stream.
///
/// # Errors
///
/// `InvalidInput` for options out of their range.
///
/// ```
/// use qio::layer::zstd::{self, ZstdOptions};
/// use qio::{Channel, ChannelExt, transport::Duplex};
///
/// # fn main() -> std::io::Result<()> {
/// let (near, far) = Duplex::pair();
/// let near = zstd::layer(near, ZstdOptions::new().level(9))?;
/// let far = zstd::layer(far, ZstdOptions::new())?;
/// near.write_all(&[b'a'; 40_000])?;
/// let mut text = vec![0; 40_000];
/// far.read_exact(&mut text)?;
/// assert_eq!(text, [b'a'; 40_000]);
/// near.finish_all(None)?;
/// assert_eq!(far.read(&mut text)?, 0);
/// # Ok(())
/// # }
/// ```
pub fn layer<C: Channel>(below: C, options: ZstdOptions) -> Result<Layer<C, Zstd>> {
    Ok(Layer::new(NAME, below, Zstd::new(options)?))
}

/// How a stream is compressed, and how much memory the peer may make us use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZstdOptions {
    /// 1 (quick) to 19 (small). Default: 3, which is zstd's own.
    pub level: i32,
    /// How far back repetitions are found, as a power of two of bytes: 10 to 23. Default: 17
    /// (128 KiB), because each end keeps that much for as long as the channel lives.
    pub window_log: u32,
    /// The largest window that the peer's frame may ask for, as a power of two of bytes: 10 to 27.
    /// Default: 21 (2 MiB), what the program `zstd` makes of a pipe; RFC 8878 (section 3.1.1.1.2)
    /// recommends 23 for files from anywhere.
    pub window_log_max: u32,
}

impl ZstdOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { level: 3, window_log: 17, window_log_max: 21 }
    }

    /// Sets the [level](Self::level).
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Sets our [window](Self::window_log).
    #[must_use]
    pub fn window_log(mut self, log: u32) -> Self {
        self.window_log = log;
        self
    }

    /// Sets the [largest window](Self::window_log_max) of the peer.
    #[must_use]
    pub fn window_log_max(mut self, log: u32) -> Self {
        self.window_log_max = log;
        self
    }

    fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        if !(1..=19).contains(&self.level) {
            return refuse(format!("zstd level {}: 1 to 19 is possible", self.level));
        }
        if !(10..=23).contains(&self.window_log) {
            return refuse(format!("zstd window 2^{}: 2^10 to 2^23 is possible", self.window_log));
        }
        if !(10..=27).contains(&self.window_log_max) {
            let log = self.window_log_max;
            return refuse(format!("zstd largest window 2^{log}: 2^10 to 2^27 is possible"));
        }
        Ok(())
    }
}

impl Default for ZstdOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Both directions of a compressed stream.
///
/// Memory: a compressor from the first write on (under 2 MiB at level 3 with the default window),
/// an expander from the first byte read on (the peer's window and 512 KiB), for as long as the
/// stream lives: what comes next refers to what came before. Nothing that was written stays in the
/// compressor.
pub struct Zstd {
    options: ZstdOptions,
    compressor: Option<CCtx<'static>>,
    expander: Option<DCtx<'static>>,
    /// A byte that was expanded to see whether there is one.
    peeked: Option<u8>,
    /// The expander may have more than there was room for.
    has_more: bool,
    ended: bool,
    finished: bool,
    /// What found no room on the wire.
    outbound: Vec<u8>,
    failed: Option<ZstdError>,
}

/// What can be wrong with a compressed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZstdError {
    /// The peer sends something else, or asks for a larger window than it may: the text is
    /// zstd's.
    Invalid(&'static str),
    /// The stream has ended inside of the peer's frame, or before it.
    Truncated,
    /// Our side has ended already.
    Ended,
    /// The compressor failed: the text is zstd's.
    Compressor(&'static str),
}

impl Zstd {
    /// A stream that has not begun.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for options out of their range.
    pub fn new(options: ZstdOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            options,
            compressor: None,
            expander: None,
            peeked: None,
            has_more: false,
            ended: false,
            finished: false,
            outbound: Vec::new(),
            failed: None,
        })
    }

    /// Expands until `plain`, which is not empty, is full, or nothing more can be had.
    fn expand(
        &mut self,
        wire: &[u8],
        plain: &mut [u8],
    ) -> std::result::Result<Progress, ZstdError> {
        let mut done = Progress::default();
        // The expander takes calls without any progress for a fault, after some of them.
        while !self.ended
            && done.produced < plain.len()
            && (self.has_more || done.consumed < wire.len())
        {
            let expander = match &mut self.expander {
                Some(expander) => expander,
                none => none.insert(expander(&self.options)?),
            };
            let mut from = InBuffer::around(&wire[done.consumed..]);
            let mut to = OutBuffer::around(&mut plain[done.produced..]);
            let result = expander.decompress_stream(&mut to, &mut from);
            done.consumed += from.pos();
            let produced = to.pos();
            done.produced += produced;
            self.has_more = done.produced == plain.len();
            match result {
                // The end of the frame, which is not told before everything is given out.
                Ok(0) => {
                    (self.ended, self.has_more) = (true, false);
                    self.expander = None;
                }
                Ok(_) => {}
                Err(code) => {
                    let error = ZstdError::Invalid(zstd_safe::get_error_name(code));
                    self.failed = Some(error.clone());
                    // What came before is delivered first, unless the expander still had it: it
                    // gives nothing together with an error.
                    return if done.produced > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
        Ok(done)
    }

    /// Compresses all of `plain`, so that nothing of it stays behind; what does not fit into
    /// `wire` waits in `outbound`.
    fn compress(
        &mut self,
        plain: &[u8],
        wire: &mut [u8],
        directive: Directive,
    ) -> std::result::Result<usize, ZstdError> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(compressor(&self.options)?),
        };
        let mut from = InBuffer::around(plain);
        let mut produced = 0;
        let mut overflow = [0; 1024];
        loop {
            let has_room = produced < wire.len();
            let room = if has_room { &mut wire[produced..] } else { &mut overflow[..] };
            let mut to = OutBuffer::around(room);
            let left = compressor
                .compress_stream2(&mut to, &mut from, directive)
                .map_err(|code| ZstdError::Compressor(zstd_safe::get_error_name(code)))?;
            let count = to.pos();
            match has_room {
                true => produced += count,
                false => self.outbound.extend_from_slice(&overflow[..count]),
            }
            if left == 0 {
                return Ok(produced);
            }
        }
    }

    fn take_outbound(&mut self, wire: &mut [u8]) -> usize {
        let count = self.outbound.len().min(wire.len());
        wire[..count].copy_from_slice(&self.outbound[..count]);
        self.outbound.drain(..count);
        if self.outbound.is_empty() {
            self.outbound = Vec::new();
        }
        count
    }
}

impl Engine for Zstd {
    type Error = ZstdError;

    fn handle_wire(
        &mut self,
        wire: &mut [u8],
        plain: &mut [u8],
    ) -> std::result::Result<Progress, ZstdError> {
        let mut done = Progress::default();
        if plain.is_empty() {
            // Only a byte that was expanded shows that there is one.
            if self.peeked.is_none() && self.failed.is_none() {
                let mut byte = [0];
                done = self.expand(wire, &mut byte)?;
                if done.produced > 0 {
                    self.peeked = Some(byte[0]);
                }
                done.produced = 0;
            }
            return Ok(done);
        }
        if let Some(byte) = self.peeked.take() {
            plain[0] = byte;
            done.produced = 1;
        }
        if let Some(error) = &self.failed {
            return if done.produced > 0 { Ok(done) } else { Err(error.clone()) };
        }
        match self.expand(wire, &mut plain[done.produced..]) {
            Ok(moved) => {
                done.consumed = moved.consumed;
                done.produced += moved.produced;
                Ok(done)
            }
            Err(_) if done.produced > 0 => Ok(done),
            Err(error) => Err(error),
        }
    }

    fn is_readable(&self, wire: &[u8]) -> bool {
        let _ = wire;
        self.peeked.is_some() || self.failed.is_some()
    }

    fn inbound_bytes(&self) -> usize {
        INBOUND_BYTES
    }

    fn has_ended(&self) -> bool {
        self.ended && self.peeked.is_none()
    }

    fn handle_end(&mut self) -> std::result::Result<(), ZstdError> {
        if self.ended { Ok(()) } else { Err(ZstdError::Truncated) }
    }

    fn poll_wire(&mut self, wire: &mut [u8]) -> usize {
        self.take_outbound(wire)
    }

    fn wants_wire(&self) -> bool {
        !self.outbound.is_empty()
    }

    fn handle_plain(
        &mut self,
        plain: &[u8],
        wire: &mut [u8],
    ) -> std::result::Result<Progress, ZstdError> {
        if self.finished {
            return Err(ZstdError::Ended);
        }
        let mut done = Progress { consumed: 0, produced: self.take_outbound(wire) };
        let room = wire.len() - done.produced;
        if !self.outbound.is_empty() || room < MIN_ROOM || plain.is_empty() {
            return Ok(done);
        }
        // What cannot be compressed becomes a little longer.
        let piece = &plain[..plain.len().min(PIECE_BYTES).min(room - MIN_ROOM / 2)];
        let wire = &mut wire[done.produced..];
        done.produced += self.compress(piece, wire, Directive::ZSTD_e_flush)?;
        done.consumed = piece.len();
        Ok(done)
    }

    fn finish(&mut self) {
        if self.finished {
            return;
        }
        self.finished = true;
        // Without the end of the frame, which needs no more than memory, the peer finds the stream
        // truncated: as it should.
        let _ = self.compress(&[], &mut [], Directive::ZSTD_e_end);
        self.compressor = None;
    }
}

fn compressor(options: &ZstdOptions) -> std::result::Result<CCtx<'static>, ZstdError> {
    let mut compressor = CCtx::try_create().ok_or(ZstdError::Compressor(NO_MEMORY))?;
    let level = CParameter::CompressionLevel(options.level);
    for parameter in [level, CParameter::WindowLog(options.window_log)] {
        compressor
            .set_parameter(parameter)
            .map_err(|code| ZstdError::Compressor(zstd_safe::get_error_name(code)))?;
    }
    Ok(compressor)
}

fn expander(options: &ZstdOptions) -> std::result::Result<DCtx<'static>, ZstdError> {
    let mut expander = DCtx::try_create().ok_or(ZstdError::Invalid(NO_MEMORY))?;
    expander
        .set_parameter(DParameter::WindowLogMax(options.window_log_max))
        .map_err(|code| ZstdError::Invalid(zstd_safe::get_error_name(code)))?;
    Ok(expander)
}

/// How much of the wire is read at a time.
const INBOUND_BYTES: usize = 32 * 1024;

/// How much is compressed before a flush, at most.
const PIECE_BYTES: usize = 64 * 1024;

/// Less room than this is not begun with: the half of it takes what blocks that cannot be
/// compressed are longer (3 bytes for each 128 KiB at most, and 18 for the frame: RFC 8878, section
/// 3.1.1), and whatever an encoder might add keeps its order in `outbound`.
const MIN_ROOM: usize = 1024;

const NO_MEMORY: &str = "not enough memory";

impl fmt::Debug for Zstd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Zstd")
            .field("options", &self.options)
            .field("ended", &self.ended)
            .field("finished", &self.finished)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ZstdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(out, "the peer sends no valid zstd frame: {what}"),
            Self::Truncated => out.write_str("the stream ends inside of a zstd frame"),
            Self::Ended => out.write_str("our side of the stream has ended"),
            Self::Compressor(what) => write!(out, "the compressor failed: {what}"),
        }
    }
}

impl StdError for ZstdError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Zstd {
        Zstd::new(ZstdOptions::new()).unwrap()
    }

    fn write(engine: &mut Zstd, mut plain: &[u8]) -> Vec<u8> {
        let mut wire = vec![0; 70_000];
        let mut all = Vec::new();
        while !plain.is_empty() {
            let done = engine.handle_plain(plain, &mut wire).unwrap();
            assert!(done.consumed > 0);
            all.extend(&wire[..done.produced]);
            plain = &plain[done.consumed..];
        }
        all
    }

    fn end(engine: &mut Zstd) -> Vec<u8> {
        engine.finish();
        let mut wire = [0; 64];
        let count = engine.poll_wire(&mut wire);
        wire[..count].to_vec()
    }

    fn read(engine: &mut Zstd, mut wire: &[u8], room: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut plain = vec![0; room];
        loop {
            let done = engine.handle_wire(&mut wire.to_vec(), &mut plain).unwrap();
            all.extend(&plain[..done.produced]);
            wire = &wire[done.consumed..];
            if done == Progress::default() {
                return all;
            }
        }
    }

    /// Bytes that cannot be compressed.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn every_write_can_be_read_before_the_next() {
        let (mut left, mut right) = (engine(), engine());
        for text in [&b"a"[..], b"question", b"", b"question again"] {
            let wire = write(&mut left, text);
            assert_eq!(read(&mut right, &wire, 3), text);
        }
        assert!(!left.wants_wire() && !right.wants_wire());
    }

    #[test]
    fn bytes_that_come_one_at_a_time_are_the_same() {
        for plain in [vec![b'x'; 300_000], noise(300_000)] {
            let (mut left, mut right) = (engine(), engine());
            let mut wire = write(&mut left, &plain);
            wire.extend(end(&mut left));
            assert!(wire.len() < plain.len() + 600, "{}", wire.len());
            let mut got = Vec::new();
            for byte in wire {
                assert!(!right.has_ended());
                got.extend(read(&mut right, &[byte], 1000));
            }
            assert!(got == plain && right.has_ended());
            right.handle_end().unwrap();
        }
    }

    #[test]
    fn what_the_expander_holds_is_seen_and_given_without_more_of_the_wire() {
        let (mut left, mut right) = (engine(), engine());
        let wire = write(&mut left, &[7; 1000]);
        assert_eq!(right.handle_wire(&mut wire.clone(), &mut []).unwrap().produced, 0);
        assert!(right.is_readable(&[]));
        // Looking again, and again, changes nothing.
        for _ in 0..100 {
            assert_eq!(right.handle_wire(&mut [], &mut []).unwrap(), Progress::default());
        }
        let mut plain = [0; 10];
        for _ in 0..100 {
            assert_eq!(right.handle_wire(&mut [], &mut plain).unwrap().produced, 10);
            assert_eq!(plain, [7; 10]);
        }
        // Nothing there is no fault, however often it is asked for.
        for _ in 0..100 {
            assert_eq!(right.handle_wire(&mut [], &mut plain).unwrap(), Progress::default());
        }
        assert!(!right.is_readable(&[]) && !right.has_ended());
    }

    #[test]
    fn an_end_without_the_end_of_the_frame_is_a_truncation() {
        assert_eq!(engine().handle_end(), Err(ZstdError::Truncated));
        let (mut left, mut right) = (engine(), engine());
        let mut wire = write(&mut left, b"some");
        assert_eq!(read(&mut right, &wire, 10), b"some");
        assert_eq!(right.handle_end(), Err(ZstdError::Truncated));
        wire = end(&mut left);
        assert!(!wire.is_empty());
        assert_eq!(read(&mut right, &wire, 10), b"");
        assert_eq!(right.handle_end(), Ok(()));
        assert_eq!(left.handle_plain(b"x", &mut [0; 2000]), Err(ZstdError::Ended));
        // Nothing was ever written: still a frame.
        let mut right = engine();
        assert_eq!(read(&mut right, &end(&mut engine()), 10), b"");
        assert!(right.has_ended());
    }

    #[test]
    fn what_is_no_frame_is_an_error_that_stays() {
        let (mut left, mut right) = (engine(), engine());
        assert_eq!(read(&mut right, &write(&mut left, b"some"), 100), b"some");
        let mut plain = [0; 100];
        let error = right.handle_wire(&mut [0xff; 20], &mut plain).unwrap_err();
        assert!(matches!(error, ZstdError::Invalid(_)), "{error}");
        assert!(right.is_readable(&[]));
        assert_eq!(right.handle_wire(&mut [], &mut plain), Err(error));
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut left = Zstd::new(ZstdOptions::new().window_log(22)).unwrap();
        let wire = write(&mut left, &noise(1000));
        let mut right = engine();
        let error = right.handle_wire(&mut wire.clone(), &mut [0; 100]).unwrap_err();
        assert!(matches!(error, ZstdError::Invalid(_)), "{error}");
        let mut right = Zstd::new(ZstdOptions::new().window_log_max(22)).unwrap();
        assert_eq!(read(&mut right, &wire, 100), noise(1000));
    }

    #[test]
    fn a_bomb_is_handed_on_as_it_comes_and_memory_is_bounded() {
        let (mut left, mut right) = (engine(), engine());
        let bomb = write(&mut left, &vec![0; 64 << 20]);
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        let (mut rest, mut got, mut most) = (&bomb[..], 0, 0);
        let mut plain = [1; 4096];
        while got < 64 << 20 {
            let done = right.handle_wire(&mut rest.to_vec(), &mut plain).unwrap();
            assert!(plain[..done.produced].iter().all(|byte| *byte == 0));
            rest = &rest[done.consumed..];
            got += done.produced;
            most = most.max(right.expander.as_ref().unwrap().sizeof());
        }
        assert!(most < (128 + 512) << 10, "{most}");
        let compressor = left.compressor.as_ref().unwrap().sizeof();
        assert!(compressor < 2 << 20, "{compressor}");
    }

    #[test]
    fn what_finds_no_room_keeps_its_order() {
        let (mut left, mut right) = (engine(), engine());
        let plain = noise(400);
        let mut wire = vec![0; 100];
        let produced = left.compress(&plain, &mut wire, Directive::ZSTD_e_flush).unwrap();
        assert!(produced == 100 && left.wants_wire());
        let mut more = [0; 4096];
        let done = left.handle_plain(b"next", &mut more).unwrap();
        assert_eq!(done.consumed, 4);
        wire.extend(&more[..done.produced]);
        assert_eq!(read(&mut right, &wire, 1000), [&plain[..], b"next"].concat());
    }

    #[test]
    fn options_out_of_their_range_are_refused() {
        let new = ZstdOptions::new();
        for options in [new.level(0), new.level(20), new.window_log(9), new.window_log(24)] {
            assert_eq!(Zstd::new(options).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        for level in [1, 19] {
            let mut left = Zstd::new(new.level(level)).unwrap();
            let wire = write(&mut left, b"text text text");
            assert_eq!(read(&mut engine(), &wire, 100), b"text text text");
        }
    }
}
