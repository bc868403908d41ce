//! Both directions of a compressed stream.

use std::fmt;
use std::io::Result;

use qio_proto::{Engine, Progress};
use zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{ZstdError, ZstdOptions};

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

#[cfg(test)]
mod tests;
