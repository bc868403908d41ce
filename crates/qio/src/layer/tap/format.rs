//! Records, as values and as bytes.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

/// What one record may hold, so that a reader knows how much memory it needs.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"QIOTAP\r\n";
pub(super) const FILE_HEADER: usize = 24;
pub(super) const RECORD_HEADER: usize = 20;

const OPENED: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITTEN: u8 = 3;
const END: u8 = 4;
const FINISHED: u8 = 5;
const CLOSED: u8 = 6;
const READ_FAILED: u8 = 7;
const WRITE_FAILED: u8 = 8;
const GAP: u8 = 9;

/// One thing that happened to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// When, since the start of the recording.
    pub time: Duration,
    /// To which channel of the recording.
    pub stream: u32,
    /// What.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The channel of this name is recorded from here on.
    Opened(String),
    /// Bytes were read.
    Read(Vec<u8>),
    /// Bytes were written.
    Written(Vec<u8>),
    /// The end of the stream was read, for the first time.
    End,
    /// Our side was ended.
    Finished,
    /// The channel was closed.
    Closed,
    /// A read failed, and why.
    ReadFailed(String),
    /// A write failed, and why.
    WriteFailed(String),
    /// The recorder was too slow for what happened here.
    Gap {
        /// How many records are missing.
        records: u64,
        /// How many bytes were read and written in them.
        bytes: u64,
    },
    /// A kind that this version does not know.
    Other {
        /// The kind.
        kind: u8,
        /// What came with it.
        payload: Vec<u8>,
    },
}

/// Why a recording cannot be read, or not any further.
#[derive(Debug)]
#[non_exhaustive]
pub enum TapError {
    /// It does not begin as a recording does.
    NotARecording,
    /// It has another version.
    Version(u16),
    /// It ends inside of a record, or of its beginning.
    Truncated {
        /// Where that record begins.
        offset: u64,
    },
    /// A record says that it is longer than one may be.
    TooLong {
        /// Where that record begins.
        offset: u64,
        /// How long it says that it is.
        len: u32,
    },
    /// Reading failed.
    Io(io::Error),
}

impl Record {
    /// A record.
    pub fn new(time: Duration, stream: u32, entry: Entry) -> Self {
        Self { time, stream, entry }
    }

    /// Appends the record as bytes; what is longer than [`MAX_RECORD_BYTES`] is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, self.time, self.stream, &self.entry);
    }
}

/// Appends the beginning of a recording that starts at `start`.
pub(super) fn encode_file_header(out: &mut Vec<u8>, start: SystemTime) {
    let nanos = start.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 6]);
    out.extend(u64::try_from(nanos).unwrap_or(u64::MAX).to_le_bytes());
}

/// Appends what comes before `len` bytes of a record.
pub(super) fn encode_header(out: &mut Vec<u8>, kind: u8, stream: u32, time: Duration, len: usize) {
    out.extend([kind, 0, 0, 0]);
    out.extend(stream.to_le_bytes());
    out.extend(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

pub(super) fn encode(out: &mut Vec<u8>, time: Duration, stream: u32, entry: &Entry) {
    let mut gap = [0; 16];
    let (kind, payload): (u8, &[u8]) = match entry {
        Entry::Opened(name) => (OPENED, name.as_bytes()),
        Entry::Read(bytes) => (READ, bytes),
        Entry::Written(bytes) => (WRITTEN, bytes),
        Entry::End => (END, &[]),
        Entry::Finished => (FINISHED, &[]),
        Entry::Closed => (CLOSED, &[]),
        Entry::ReadFailed(text) => (READ_FAILED, text.as_bytes()),
        Entry::WriteFailed(text) => (WRITE_FAILED, text.as_bytes()),
        Entry::Gap { records, bytes } => {
            gap[..8].copy_from_slice(&records.to_le_bytes());
            gap[8..].copy_from_slice(&bytes.to_le_bytes());
            (GAP, &gap)
        }
        Entry::Other { kind, payload } => (*kind, payload),
    };
    let payload = &payload[..payload.len().min(MAX_RECORD_BYTES)];
    encode_header(out, kind, stream, time, payload.len());
    out.extend(payload);
}

fn decode(kind: u8, payload: Vec<u8>) -> Entry {
    let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
    match (kind, &payload[..]) {
        (OPENED, _) => Entry::Opened(text(payload)),
        (READ, _) => Entry::Read(payload),
        (WRITTEN, _) => Entry::Written(payload),
        (END, []) => Entry::End,
        (FINISHED, []) => Entry::Finished,
        (CLOSED, []) => Entry::Closed,
        (READ_FAILED, _) => Entry::ReadFailed(text(payload)),
        (WRITE_FAILED, _) => Entry::WriteFailed(text(payload)),
        (GAP, [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _]) => {
            Entry::Gap { records: number(&payload[..8]), bytes: number(&payload[8..]) }
        }
        _ => Entry::Other { kind, payload },
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads a recording, record by record.
///
/// Memory: one record. After an error there are no more.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    started: SystemTime,
    offset: u64,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    ///
    /// When it is no recording of this [`VERSION`], or reading fails.
    pub fn new(mut from: R) -> Result<Self, TapError> {
        let mut header = [0; FILE_HEADER];
        let count = read_up_to(&mut from, &mut header)?;
        let magic = count.min(MAGIC.len());
        if header[..magic] != MAGIC[..magic] {
            return Err(TapError::NotARecording);
        }
        if count < FILE_HEADER {
            return Err(TapError::Truncated { offset: 0 });
        }
        match u16::from_le_bytes([header[8], header[9]]) {
            VERSION => {}
            other => return Err(TapError::Version(other)),
        }
        // 64 bits of nanoseconds end in the year 2554: the sum cannot overflow.
        let started = UNIX_EPOCH + Duration::from_nanos(number(&header[16..]));
        Ok(Self { from, started, offset: FILE_HEADER as u64, failed: false })
    }

    /// When the recording was started, by the clock of the machine.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    fn record(&mut self) -> Result<Option<Record>, TapError> {
        let offset = self.offset;
        let mut header = [0; RECORD_HEADER];
        match read_up_to(&mut self.from, &mut header)? {
            0 => return Ok(None),
            RECORD_HEADER => {}
            _ => return Err(TapError::Truncated { offset }),
        }
        let len = u32::try_from(number(&header[16..])).unwrap_or(u32::MAX);
        if len as usize > MAX_RECORD_BYTES {
            return Err(TapError::TooLong { offset, len });
        }
        let mut payload = Vec::new();
        let count = (&mut self.from).take(len.into()).read_to_end(&mut payload);
        if count.map_err(TapError::Io)? < len as usize {
            return Err(TapError::Truncated { offset });
        }
        self.offset += RECORD_HEADER as u64 + u64::from(len);
        let stream = u32::try_from(number(&header[4..8])).unwrap_or(u32::MAX);
        let time = Duration::from_nanos(number(&header[8..16]));
        Ok(Some(Record { time, stream, entry: decode(header[0], payload) }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, TapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.record();
        self.failed = !matches!(result, Ok(Some(_)));
        result.transpose()
    }
}

fn read_up_to(from: &mut impl Read, buf: &mut [u8]) -> Result<usize, TapError> {
    let mut done = 0;
    while done < buf.len() {
        match from.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(TapError::Io(error)),
        }
    }
    Ok(done)
}

impl fmt::Display for TapError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotARecording => out.write_str("not a recording of a tap"),
            Self::Version(version) => {
                write!(out, "a recording of version {version}, not {VERSION}")
            }
            Self::Truncated { offset } => {
                write!(out, "the recording ends inside of what begins at byte {offset}")
            }
            Self::TooLong { offset, len } => {
                write!(
                    out,
                    "the record at byte {offset} claims {len} bytes: the recording is damaged"
                )
            }
            Self::Io(_) => out.write_str("the recording cannot be read"),
        }
    }
}

impl StdError for TapError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> (Vec<u8>, Vec<Record>) {
        let entries = [
            Entry::Opened("tcp".into()),
            Entry::Written(b"hello".to_vec()),
            Entry::Read(vec![0; 300]),
            Entry::End,
            Entry::Finished,
            Entry::ReadFailed("reset".into()),
            Entry::WriteFailed("gone".into()),
            Entry::Gap { records: 3, bytes: u64::MAX },
            Entry::Other { kind: 200, payload: vec![1] },
            Entry::Closed,
        ];
        let records: Vec<Record> = (0..)
            .zip(entries)
            .map(|(n, entry)| Record::new(Duration::from_nanos(1 << (6 * n)), n, entry))
            .collect();
        let mut bytes = Vec::new();
        encode_file_header(&mut bytes, UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123));
        records.iter().for_each(|record| record.encode(&mut bytes));
        (bytes, records)
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, records) = recording();
        let reader = Reader::new(&bytes[..]).unwrap();
        let start = reader.started().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(start.as_nanos(), 1_234_567_890_123);
        assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), records);
    }

    /// The format is for files that are kept: these bytes must stay.
    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let mut bytes = Vec::new();
        encode_file_header(&mut bytes, UNIX_EPOCH + Duration::from_nanos(0x0102));
        Record::new(Duration::from_nanos(5), 7, Entry::Written(b"hi".to_vec())).encode(&mut bytes);
        let expected = b"QIOTAP\r\n\x01\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\
            \x03\0\0\0\x07\0\0\0\x05\0\0\0\0\0\0\0\x02\0\0\0hi";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_recording_cut_anywhere_gives_what_is_whole_and_says_where_it_ends() {
        let (bytes, records) = recording();
        let mut whole = 0;
        for len in 0..bytes.len() {
            match Reader::new(&bytes[..len]) {
                Err(TapError::Truncated { offset: 0 }) => assert!(len < FILE_HEADER),
                Err(other) => panic!("{other}"),
                Ok(reader) => {
                    let mut got: Vec<_> = reader.collect();
                    match got.pop_if(|last| last.is_err()) {
                        Some(Err(TapError::Truncated { offset })) => assert!(offset < len as u64),
                        None => whole += 1,
                        other => panic!("{other:?}"),
                    }
                    assert!(got.iter().map(|one| one.as_ref().unwrap()).eq(&records[..got.len()]));
                }
            }
        }
        assert_eq!(whole, records.len(), "a cut between two records is none");
    }

    #[test]
    fn other_files_are_refused() {
        let (mut bytes, _) = recording();
        assert!(matches!(Reader::new(&b"#!/bin/sh"[..]), Err(TapError::NotARecording)));
        assert!(matches!(Reader::new(&b"#"[..]), Err(TapError::NotARecording)));
        bytes[8] = 2;
        assert!(matches!(Reader::new(&bytes[..]), Err(TapError::Version(2))));
        bytes[8] = 1;
        bytes[FILE_HEADER + RECORD_HEADER - 1] = 0xff;
        let mut reader = Reader::new(&bytes[..]).unwrap();
        assert!(matches!(reader.next(), Some(Err(TapError::TooLong { offset: 24, .. }))));
        assert!(reader.next().is_none());
    }
}
