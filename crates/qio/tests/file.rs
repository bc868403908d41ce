//! Files as channels.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::OpenOptions;
use std::io::{ErrorKind, IoSlice, IoSliceMut, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use common::in_own_process;
use qio::transport::{File, Null};
use qio::{Channel, ChannelExt, Direction, Features, Interest, Readiness};
use tempfile::TempDir;

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options
}

fn scratch(content: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

#[test]
fn seeking_follows_the_table_of_set_cur_and_end() {
    let (_dir, path) = scratch(b"0123456789");
    let file = File::open(&path, &read_write()).unwrap();
    for (from, to, expected) in [
        (0, SeekFrom::Start(7), Some(7)),
        (4, SeekFrom::Current(3), Some(7)),
        (4, SeekFrom::Current(-3), Some(1)),
        (4, SeekFrom::Current(0), Some(4)),
        (4, SeekFrom::Current(-5), None),
        (0, SeekFrom::End(-3), Some(7)),
        (0, SeekFrom::End(3), Some(13)),
        (0, SeekFrom::End(0), Some(10)),
        (0, SeekFrom::End(-11), None),
        (0, SeekFrom::Start(u64::MAX), None),
    ] {
        file.seek(SeekFrom::Start(from)).unwrap();
        match (file.seek(to), expected) {
            (Ok(position), Some(expected)) => assert_eq!(position, expected, "{from} {to:?}"),
            (Err(error), None) => assert_eq!(error.kind(), ErrorKind::InvalidInput, "{to:?}"),
            (result, _) => panic!("{from} {to:?}: {result:?}"),
        }
    }
    // A refused seek leaves the position where it was.
    file.seek(SeekFrom::Start(9)).unwrap();
    assert!(file.seek(SeekFrom::Current(-20)).is_err());
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"9");
}

#[test]
fn the_end_of_a_file_is_a_position() {
    let (_dir, path) = scratch(b"ab");
    let file = File::open(&path, &read_write()).unwrap();
    let mut buf = [0; 8];
    assert_eq!(file.read(&mut buf).unwrap(), 2);
    assert_eq!(file.read(&mut buf).unwrap(), 0);
    file.write_all_at(b"c", 2).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], b'c');
    assert_eq!(file.len().unwrap(), 3);
}

#[test]
fn reads_and_writes_at_an_offset_leave_the_position_alone() {
    let (_dir, path) = scratch(b"0123456789");
    let file = File::open(&path, &read_write()).unwrap();
    file.seek(SeekFrom::Start(3)).unwrap();
    let mut two = [0; 2];
    file.read_exact_at(&mut two, 8).unwrap();
    assert_eq!(&two, b"89");
    file.write_all_at(b"xy", 0).unwrap();
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"34");
    assert_eq!(std::fs::read(&path).unwrap(), b"xy23456789");
    assert_eq!(
        file.read_at(&mut two, u64::MAX).unwrap_err().kind(),
        ErrorKind::InvalidInput,
        "an offset that would mean the current position to preadv2(2)"
    );
    assert_eq!(file.write_at(b"z", u64::MAX).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_truncated_file_is_an_early_end_for_positioned_readers() {
    let (_dir, path) = scratch(b"0123456789");
    let file = File::open(&path, &read_write()).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(6).unwrap();
    let mut buf = [0; 8];
    let error = file.read_exact_at(&mut buf, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("after 4 bytes"), "{error}");
    assert_eq!(file.read_at(&mut buf, 6).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 600).unwrap(), 0);
}

#[test]
fn more_vectors_than_one_call_takes_all_move() {
    let (_dir, path) = scratch(b"");
    let file = File::open(&path, &read_write()).unwrap();
    let bytes: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
    let mut bufs: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    file.write_vectored_all(&mut bufs).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = vec![0; 2000];
    let mut bufs: Vec<IoSliceMut<'_>> = back.chunks_mut(1).map(IoSliceMut::new).collect();
    file.read_vectored_exact(&mut bufs).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn an_empty_read_or_write_is_nothing_even_once_closed() {
    let (_dir, path) = scratch(b"ab");
    let file = File::open(&path, &read_write()).unwrap();
    for _ in 0..2 {
        assert_eq!(file.read(&mut []).unwrap(), 0);
        assert_eq!(file.write(&[]).unwrap(), 0);
        assert_eq!(file.read_vectored(&mut []).unwrap(), 0);
        assert_eq!(file.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
        file.close().unwrap();
    }
}

#[test]
fn the_direction_that_was_not_opened_says_so() {
    let (_dir, path) = scratch(b"ab");
    let reader = File::open(&path, OpenOptions::new().read(true)).unwrap();
    assert_eq!(reader.features(), Features::READ | Features::SEEK | Features::STORAGE);
    let error = reader.write(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "opened for reading only");
    let writer = File::open(&path, OpenOptions::new().write(true)).unwrap();
    assert_eq!(writer.features(), Features::WRITE | Features::SEEK | Features::STORAGE);
    let error = writer.read(&mut [0]).unwrap_err();
    assert_eq!(error.to_string(), "opened for writing only");
    assert_eq!(std::fs::read(&path).unwrap(), b"ab");
}

#[test]
fn a_channel_without_a_position_says_what_it_cannot_do() {
    let null = Null::new();
    for (error, what) in [
        (null.read_at(&mut [0], 0).unwrap_err(), "reading"),
        (null.write_at(b"x", 0).unwrap_err(), "writing"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = format!("null: {what} at an offset is not supported by this channel");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn appending_goes_to_the_end_and_nowhere_else() {
    let (_dir, path) = scratch(b"ab");
    let file = File::open(&path, OpenOptions::new().read(true).append(true)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"cd").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    assert!(file.splice_fd(Direction::Read).is_some());
    assert!(file.splice_fd(Direction::Write).is_none(), "splice(2) refuses to append");
}

#[test]
fn the_mode_of_a_new_file_is_the_one_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let _file = File::open(&path, read_write().mode(0o640)).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_file_is_always_ready() {
    let (_dir, path) = scratch(b"");
    let file = File::open(&path, &read_write()).unwrap();
    let both = Interest::READ | Interest::WRITE;
    assert_eq!(file.wait(both, None).unwrap(), Readiness::READ | Readiness::WRITE);
    assert_eq!(file.wait(Interest::READ, None).unwrap(), Readiness::READ);
    file.close().unwrap();
    assert_eq!(file.wait(Interest::READ, None).unwrap(), Readiness::READ | Readiness::HANGUP);
}

#[test]
fn closing_twice_and_dropping_close_once() {
    in_own_process("closing_twice_and_dropping_close_once", || {
        let (_dir, path) = scratch(b"ab");
        let before = common::open_fds();
        let file = File::open(&path, &read_write()).unwrap();
        file.close().unwrap();
        // Takes the number that has just become free.
        let other = std::fs::File::open(&path).unwrap();
        file.close().unwrap();
        assert_eq!(file.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(file.finish().unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(file.seek(SeekFrom::Start(0)).unwrap_err().kind(), ErrorKind::NotConnected);
        drop(file);
        assert_eq!(other.metadata().unwrap().len(), 2);
        drop(other);
        assert_eq!(common::open_fds(), before);
    });
}

#[test]
fn a_forgotten_share_keeps_the_number_and_close_still_succeeds() {
    let (_dir, path) = scratch(b"ab");
    let file = File::open(&path, &read_write()).unwrap();
    let share = file.splice_fd(Direction::Read).unwrap();
    file.close().unwrap();
    assert!(file.splice_fd(Direction::Read).is_none());
    let mut byte = [0];
    assert_eq!(rustix::io::read(&share, &mut byte).unwrap(), 1);
}

#[test]
fn a_refused_descriptor_stays_open_and_untouched() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (error, writer) = File::from_fd(writer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    rustix::io::write(&writer, b"x").unwrap();
    let mut byte = [0];
    assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 1);

    let directory: OwnedFd = std::fs::File::open("/").unwrap().into();
    let (error, _directory) = File::from_fd(directory).unwrap_err();
    assert_eq!(error.to_string(), "it is a directory");

    let (_dir, path) = scratch(b"");
    let name = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    let (error, _name) = File::from_fd(name.unwrap()).unwrap_err();
    assert!(error.to_string().contains("O_PATH"), "{error}");
}

#[test]
fn opening_what_is_no_file_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let options = OpenOptions::new().read(true).clone();
    let report =
        |path: &std::path::Path| File::open(path, &options).unwrap_err().report().to_string();
    let shown = fifo.display();
    assert_eq!(
        report(&fifo),
        format!("open file:{shown}: it is a FIFO, which is opened as a pipe")
    );
    assert_eq!(report("/".as_ref()), "open file:/: it is a directory");
    assert_eq!(report("/nowhere/x".as_ref()), "open file:/nowhere/x: no such file or directory");
}

#[test]
fn syncing_is_asked_for_by_itself() {
    let (_dir, path) = scratch(b"");
    let file = File::open(&path, &read_write()).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_data().unwrap();
    file.sync().unwrap();
    file.flush_all(None).unwrap();
    file.finish().unwrap();
    file.close().unwrap();
    assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::NotConnected);
}
