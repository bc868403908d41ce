//! Headers of frames, RFC 6455, section 5.2.

use super::error::Violation;
use crate::engine::MAX_FRAME_HEADER;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The header of a frame that came from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last frame of its message.
    pub(crate) last: bool,
    pub(crate) opcode: Opcode,
    pub(crate) key: Option<[u8; 4]>,
    pub(crate) payload_len: u64,
    /// How long the header itself is.
    pub(crate) len: usize,
}

/// The most payload that a control frame has.
pub(crate) const MAX_CONTROL: usize = 125;

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Header {
    /// Reads the header at the front of `wire`; `None` when it is not all there. What is wrong is
    /// found with the byte that makes it so.
    pub(crate) fn parse(wire: &[u8], masked: Masked) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = wire else {
            // One byte can be wrong already.
            return wire.first().map_or(Ok(None), |&first| check_first(first).map(|_| None));
        };
        let opcode = check_first(*first)?;
        let last = first & LAST != 0;
        let has_key = second & MASKED != 0;
        match (has_key, masked) {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
            //# The server MUST close the connection upon receiving a
            //# frame that is not masked.
            (false, Masked::Always) => return Err(Violation::protocol("a frame is not masked")),
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
            //# A client MUST close a connection if it detects a masked frame.
            (true, Masked::Never) => return Err(Violation::protocol("a frame is masked")),
            _ => {}
        }
        let short = second & !MASKED;
        if opcode.is_control() && (!last || usize::from(short) > MAX_CONTROL) {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5
            //# All control frames MUST have a payload length of 125 bytes or less
            //# and MUST NOT be fragmented.
            return Err(Violation::protocol("a control frame is too long or in fragments"));
        }
        let (payload_len, rest, len) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((long, rest)) => (u16::from_be_bytes(*long).into(), rest, 4),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((long, rest)) => (u64::from_be_bytes(*long), rest, 10),
                None => return Ok(None),
            },
            short => (u64::from(short), rest, 2),
        };
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
        //# in all cases, the minimal number of bytes MUST be used to encode
        //# the length
        let minimal = match short {
            126 => payload_len > 125,
            127 => payload_len > u64::from(u16::MAX),
            _ => true,
        };
        if !minimal || payload_len >> 63 != 0 {
            return Err(Violation::protocol("the length of a frame is not well formed"));
        }
        let (key, len) = match (has_key, rest.first_chunk::<4>()) {
            (false, _) => (None, len),
            (true, Some(key)) => (Some(*key), len + 4),
            (true, None) => return Ok(None),
        };
        Ok(Some(Self { last, opcode, key, payload_len, len }))
    }
}

/// Which frames of the peer are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masked {
    /// It is a client.
    Always,
    /// It is a server.
    Never,
}

fn check_first(first: u8) -> Result<Opcode, Violation> {
    if first & RESERVED != 0 {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
        //# MUST be 0 unless an extension is negotiated that defines meanings
        //# for non-zero values.
        return Err(Violation::protocol("a reserved bit is set"));
    }
    Opcode::of(first & 0x0F).ok_or(Violation::protocol("an opcode is not known"))
}

/// Writes the header of the only frame of a message, or of a control frame, and gives its length.
pub(crate) fn encode(
    opcode: Opcode,
    payload_len: usize,
    key: Option<[u8; 4]>,
    header: &mut [u8; MAX_FRAME_HEADER],
) -> usize {
    header[0] = LAST | opcode.bits();
    let mask = if key.is_some() { MASKED } else { 0 };
    let mut len = match payload_len {
        0..=125 => {
            header[1] = mask | payload_len as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = mask | 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = mask | 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    if let Some(key) = key {
        header[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    len
}

const LAST: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_every_length_and_not_before_it_is_whole() {
        for payload_len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, 0x1_0001, 1 << 40] {
            for (key, masked) in [(None, Masked::Never), (Some([1, 2, 3, 4]), Masked::Always)] {
                let mut bytes = [0; MAX_FRAME_HEADER];
                let len = encode(Opcode::Binary, payload_len, key, &mut bytes);
                for cut in 0..len {
                    assert_eq!(Header::parse(&bytes[..cut], masked).unwrap(), None);
                }
                let header = Header::parse(&bytes[..len], masked).unwrap().unwrap();
                let payload_len = payload_len as u64;
                let expected = Header { last: true, opcode: Opcode::Binary, key, payload_len, len };
                assert_eq!(header, expected);
            }
        }
    }

    #[test]
    fn what_is_not_well_formed_is_found_at_once() {
        for (bytes, masked) in [
            (&[0xC2][..], Masked::Never),          // a reserved bit
            (&[0x83], Masked::Never),              // an unknown opcode
            (&[0x8B, 0x80], Masked::Always),       // another
            (&[0x82, 0x00], Masked::Always),       // no mask
            (&[0x82, 0x80], Masked::Never),        // a mask
            (&[0x09, 0x00], Masked::Never),        // a ping in fragments
            (&[0x89, 0x7E], Masked::Never),        // a long ping
            (&[0x82, 126, 0, 125], Masked::Never), // not minimal
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Masked::Never), // not minimal
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], Masked::Never), // negative
        ] {
            assert!(Header::parse(bytes, masked).is_err(), "{bytes:x?}");
        }
    }
}
