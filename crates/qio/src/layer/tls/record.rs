//! Records of the wire: RFC 8446, section 5.1.

/// Whether a whole record is at the front of the wire.
pub(super) fn has_record(wire: &[u8]) -> bool {
    record_size(wire).is_some_and(|size| wire.len() >= size)
}

/// The size of the record at the front of the wire: RFC 8446, section 5.1.
pub(super) fn record_size(wire: &[u8]) -> Option<usize> {
    match wire {
        [_, _, _, high, low, ..] => {
            Some(HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

/// How many bytes at the front of the wire are whole records.
pub(super) fn whole_records(wire: &[u8]) -> usize {
    let mut size = 0;
    while has_record(&wire[size..]) {
        size += record_size(&wire[size..]).unwrap_or_default();
    }
    size
}

/// Whether the header of a record of a handshake, or an alert, is at the front of the wire (RFC
/// 8446, section 5.1; the versions of the past have 3 in front, too); `None` when it is too early
/// to tell.
pub(super) fn is_tls(wire: &[u8]) -> Option<bool> {
    match wire {
        [] => None,
        [20..=23] => None,
        [20..=23, major, ..] => Some(*major == 3),
        _ => Some(false),
    }
}

/// How much of what is no TLS is shown.
pub(super) const QUOTED_BYTES: usize = 40;

pub(super) const HEADER_BYTES: usize = 5;

/// The plain bytes of a full record: RFC 8446, section 5.1.
pub(super) const RECORD_BYTES: usize = 16 * 1024;

/// What a record is longer than its plain bytes: 5 bytes of header, and at most 256 for the
/// cipher (RFC 8446, section 5.2; 24 with the suites in use).
pub(super) const RECORD_OVERHEAD: usize = 5 + 256;

/// Two records of the largest size that TLS 1.2 allows (RFC 5246, section 6.2.3), so that one is
/// worked on while the next one comes.
pub(super) const INBOUND_BYTES: usize = 2 * LONGEST_RECORD;

/// The largest record of TLS 1.2: RFC 5246, section 6.2.3.
pub(super) const LONGEST_RECORD: usize = HEADER_BYTES + 16 * 1024 + 2048;
