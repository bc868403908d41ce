//! Memory as a channel, against a model.

use std::io::{ErrorKind, IoSlice, IoSliceMut, SeekFrom};

use proptest::prelude::*;
use qio::transport::Buffer;
use qio::{Channel, ChannelExt, Direction, Features, Interest, Readiness};

const LIMIT: usize = 64;

#[derive(Clone, Debug)]
enum Step {
    Read(Vec<usize>),
    Write(Vec<Vec<u8>>),
    ReadAt(usize, u64),
    WriteAt(Vec<u8>, u64),
    Seek(SeekFrom),
}

/// What a growing file with a limit does, said as plainly as possible.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
    position: u64,
}

impl Model {
    fn read(&self, len: usize, from: u64) -> Vec<u8> {
        let from = from.min(self.bytes.len() as u64) as usize;
        self.bytes[from..].iter().copied().take(len).collect()
    }

    fn write(&mut self, bytes: &[u8], from: u64) -> Result<usize, ErrorKind> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if from >= LIMIT as u64 {
            return Err(ErrorKind::StorageFull);
        }
        let mut done = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            let at = from as usize + index;
            if at == LIMIT {
                break;
            }
            while self.bytes.len() <= at {
                self.bytes.push(0);
            }
            self.bytes[at] = byte;
            done += 1;
        }
        Ok(done)
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, ErrorKind> {
        let position = match to {
            SeekFrom::Start(offset) => i128::from(offset),
            SeekFrom::Current(offset) => i128::from(self.position) + i128::from(offset),
            SeekFrom::End(offset) => self.bytes.len() as i128 + i128::from(offset),
        };
        if !(0..=i128::from(i64::MAX)).contains(&position) {
            return Err(ErrorKind::InvalidInput);
        }
        self.position = position as u64;
        Ok(self.position)
    }
}

fn near() -> impl Strategy<Value = i64> {
    prop_oneof![9 => -80i64..80, 1 => any::<i64>()]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0u64..80, 1 => any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let some_bytes = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        prop::collection::vec(0usize..20, 0..4).prop_map(Step::Read),
        prop::collection::vec(some_bytes(), 0..4).prop_map(Step::Write),
        (0usize..20, offset()).prop_map(|(len, at)| Step::ReadAt(len, at)),
        (some_bytes(), offset()).prop_map(|(bytes, at)| Step::WriteAt(bytes, at)),
        offset().prop_map(|to| Step::Seek(SeekFrom::Start(to))),
        near().prop_map(|to| Step::Seek(SeekFrom::Current(to))),
        near().prop_map(|to| Step::Seek(SeekFrom::End(to))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_equals_a_growing_file(steps in prop::collection::vec(step(), 0..40)) {
        let buffer = Buffer::new(LIMIT);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Read(lens) => {
                    let expected = model.read(lens.iter().sum(), model.position);
                    let mut room: Vec<Vec<u8>> = lens.iter().map(|&len| vec![0; len]).collect();
                    let mut bufs: Vec<_> = room.iter_mut().map(|r| IoSliceMut::new(r)).collect();
                    let n = buffer.read_vectored(&mut bufs).unwrap();
                    prop_assert_eq!(&room.concat()[..n], &expected[..]);
                    model.position += n as u64;
                }
                Step::Write(parts) => {
                    let expected = model.write(&parts.concat(), model.position);
                    let bufs: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                    let result = buffer.write_vectored(&bufs).map_err(|error| error.kind());
                    prop_assert_eq!(result, expected);
                    model.position += expected.unwrap_or(0) as u64;
                }
                Step::ReadAt(len, at) => {
                    let mut room = vec![0; len];
                    let n = buffer.read_at(&mut room, at).unwrap();
                    prop_assert_eq!(&room[..n], &model.read(len, at)[..]);
                }
                Step::WriteAt(bytes, at) => {
                    let result = buffer.write_at(&bytes, at).map_err(|error| error.kind());
                    prop_assert_eq!(result, model.write(&bytes, at));
                }
                Step::Seek(to) => {
                    let result = buffer.seek(to).map_err(|error| error.kind());
                    prop_assert_eq!(result, model.seek(to));
                }
            }
            prop_assert_eq!(buffer.to_vec().unwrap(), &model.bytes[..]);
            prop_assert_eq!(buffer.seek(SeekFrom::Current(0)).unwrap(), model.position);
        }
    }
}

#[test]
fn what_does_not_fit_is_partial_first_and_an_error_then() {
    let buffer = Buffer::with_capacity(1 << 40, 4);
    assert_eq!(buffer.write(b"abcdef").unwrap(), 4);
    assert_eq!(buffer.write(b"ef").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(buffer.write(&[]).unwrap(), 0);
    buffer.seek(SeekFrom::Start(2)).unwrap();
    let error = buffer.write_all(b"xyz").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(error.to_string(), "the buffer is at its limit of 4 bytes");
    assert_eq!(buffer.into_bytes(), b"abxy");
}

#[test]
fn more_memory_than_there_is_is_an_error_and_no_abort() {
    let buffer = Buffer::new(usize::MAX);
    let result = buffer.write_at(b"x", i64::MAX as u64 - 1);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(buffer.len().unwrap(), 0);
}

#[test]
fn bytes_that_were_there_before_can_be_read_and_do_not_shrink() {
    let buffer = Buffer::from_vec(b"hello".to_vec(), 0);
    assert_eq!(buffer.features(), Features::DUPLEX | Features::SEEK);
    let mut buf = [0; 5];
    buffer.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    assert_eq!(buffer.write(b"!").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(buffer.to_vec().unwrap(), b"hello");
}

#[test]
fn thousands_of_vectors_move_in_one_call() {
    let buffer = Buffer::new(4000);
    let bytes: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
    let bufs: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    assert_eq!(buffer.write_vectored(&bufs).unwrap(), 2000);
    buffer.seek(SeekFrom::Start(0)).unwrap();
    let mut back = vec![0; 2000];
    let mut bufs: Vec<IoSliceMut<'_>> = back.chunks_mut(1).map(IoSliceMut::new).collect();
    assert_eq!(buffer.read_vectored(&mut bufs).unwrap(), 2000);
    assert_eq!(back, bytes);
}

#[test]
fn closing_frees_the_memory_and_is_idempotent() {
    let buffer = Buffer::from_vec(b"hello".to_vec(), 10);
    let both = Interest::READ | Interest::WRITE;
    assert_eq!(buffer.wait(both, None).unwrap(), Readiness::READ | Readiness::WRITE);
    buffer.finish().unwrap();
    buffer.close().unwrap();
    buffer.close().unwrap();
    let kind = |result: std::io::Result<usize>| result.unwrap_err().kind();
    assert_eq!(kind(buffer.read(&mut [0])), ErrorKind::NotConnected);
    assert_eq!(kind(buffer.write(b"x")), ErrorKind::NotConnected);
    assert_eq!(kind(buffer.len()), ErrorKind::NotConnected);
    assert_eq!(buffer.seek(SeekFrom::Start(0)).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(buffer.finish().unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!((buffer.read(&mut []).unwrap(), buffer.write(&[]).unwrap()), (0, 0));
    let closed = both.into();
    assert_eq!(buffer.wait(both, None).unwrap(), Readiness::HANGUP | closed);
    assert!(buffer.splice_fd(Direction::Read).is_none());
    assert!(buffer.into_bytes().is_empty());
}
