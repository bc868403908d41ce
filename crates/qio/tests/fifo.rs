//! FIFOs, and descriptors that are told apart.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::OpenOptions;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{announcing_waits, in_own_process, patience};
use qio::transport::{File, Pipe, Socket, from_fd, from_shared_fd};
use qio::watch::{PollSet, Steps, run};
use qio::{Channel, ChannelExt, Direction, Features, Interest, Mode, Readiness};
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType};
use tempfile::TempDir;

fn fifo() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    (dir, path)
}

fn open_write(path: &Path) -> Pipe {
    match run(Pipe::open_fifo_write(path), patience()).unwrap() {
        ControlFlow::Break(opened) => opened.unwrap(),
        ControlFlow::Continue(_) => panic!("nobody came"),
    }
}

fn is_non_blocking(fd: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn reading_opens_at_once_and_no_writer_yet_is_not_the_end() {
    let (_dir, path) = fifo();
    let reader = Pipe::open_fifo_read(&path).unwrap();
    reader.set_mode(Mode::NonBlocking).unwrap();
    let mut buf = [0; 8];
    assert_eq!(reader.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(reader.splice_fd(Direction::Read).is_none(), "splice(2) would call it the end");
    let soon = Some(Instant::now() + Duration::from_millis(5));
    assert_eq!(reader.wait(Interest::READ, soon).unwrap_err().kind(), ErrorKind::TimedOut);

    let writer = open_write(&path);
    assert_eq!(reader.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    writer.write_all(b"hello").unwrap();
    reader.read_exact(&mut buf[..5]).unwrap();
    assert!(reader.splice_fd(Direction::Read).is_some());
    drop(writer);
    assert!(reader.wait(Interest::READ, patience()).unwrap().contains(Readiness::READ));
    for _ in 0..3 {
        assert_eq!(reader.read(&mut buf).unwrap(), 0);
    }
    // The end is for good, also when another writer comes.
    let late = open_write_by_std(&path);
    assert_eq!(reader.read(&mut buf).unwrap(), 0);
    drop(late);
}

fn open_write_by_std(path: &Path) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().write(true).custom_flags(flags).open(path).unwrap()
}

#[test]
fn a_first_writer_that_comes_during_a_read_is_not_the_end() {
    let (_dir, path) = fifo();
    let (go, starts) = std::sync::mpsc::sync_channel::<()>(0);
    let (written, writes) = std::sync::mpsc::channel();
    let writer_path = path.clone();
    let writer = std::thread::spawn(move || {
        for () in starts {
            let mut file = open_write_by_std(&writer_path);
            file.write_all(b"x").unwrap();
            written.send(file).unwrap();
        }
    });
    for _ in 0..500 {
        let reader = Pipe::open_fifo_read(&path).unwrap();
        reader.set_mode(Mode::NonBlocking).unwrap();
        go.send(()).unwrap();
        let n = loop {
            match reader.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => break result.unwrap(),
            }
        };
        let file = writes.recv().unwrap();
        assert_eq!(n, 1, "there is a byte, and the writer is still there");
        drop(file);
    }
    drop(go);
    writer.join().unwrap();
}

#[test]
fn a_writer_that_came_and_went_without_a_byte_is_the_end() {
    let (_dir, path) = fifo();
    let reader = Pipe::open_fifo_read(&path).unwrap();
    drop(open_write(&path));
    assert!(reader.wait(Interest::READ, patience()).unwrap().contains(Readiness::READ));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn opening_for_writing_waits_for_a_reader_and_not_beyond_its_deadline() {
    let (_dir, path) = fifo();
    let start = Instant::now();
    let until = start + Duration::from_millis(20);
    let ControlFlow::Continue(opening) = run(Pipe::open_fifo_write(&path), Some(until)).unwrap()
    else {
        panic!("opened without a reader")
    };
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(start.elapsed() < common::PATIENCE);
    // It stands where it stood, and can be gone on with.
    let thread = std::thread::spawn(move || run(opening, patience()));
    let reader = Pipe::open_fifo_read(&path).unwrap();
    let ControlFlow::Break(writer) = thread.join().unwrap().unwrap() else { panic!("nobody came") };
    writer.unwrap().write_all(b"x").unwrap();
    reader.read_exact(&mut [0]).unwrap();
}

#[test]
fn looking_for_a_reader_backs_off() {
    let (_dir, path) = fifo();
    let mut opening = Pipe::open_fifo_write(&path);
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert!(matches!(opening.step(now), Poll::Pending));
        let mut set = PollSet::new();
        opening.watch(&mut set);
        let next = set.deadline().unwrap();
        pauses.push((next - now).as_millis());
        // Too early changes nothing.
        assert!(matches!(opening.step(now), Poll::Pending));
        now = next;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 50, 50, 50]);
}

#[test]
fn giving_up_on_a_reader_leaks_nothing() {
    in_own_process("giving_up_on_a_reader_leaks_nothing", || {
        let (_dir, path) = fifo();
        let before = common::open_fds();
        for _ in 0..1000 {
            let mut opening = Pipe::open_fifo_write(&path);
            assert!(matches!(opening.step(Instant::now()), Poll::Pending));
        }
        assert_eq!(common::open_fds(), before);
    });
}

#[test]
fn what_is_no_fifo_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let nowhere = dir.path().join("nowhere");
    for path in [&file, &socket, &nowhere, &dir.path().to_owned()] {
        let ControlFlow::Break(result) = run(Pipe::open_fifo_write(path), patience()).unwrap()
        else {
            panic!("waited for {}", path.display())
        };
        let writing = result.unwrap_err();
        let reading = Pipe::open_fifo_read(path).unwrap_err();
        assert_eq!((writing.attempt(), reading.attempt()), ("open", "open"));
    }
    assert_eq!(
        Pipe::open_fifo_read(&file).unwrap_err().report().to_string(),
        format!("open pipe:{}: it is neither a FIFO nor a character device", file.display())
    );
    let error = Pipe::open_fifo_read(&nowhere).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::NotFound));
}

#[test]
fn a_character_device_opens_like_a_fifo() {
    let writer = open_write("/dev/null".as_ref());
    writer.write_all(b"x").unwrap();
    let reader = Pipe::open_fifo_read("/dev/zero").unwrap();
    let mut buf = [1; 4];
    reader.read_exact(&mut buf).unwrap();
    assert_eq!(buf, [0; 4]);
}

#[test]
fn close_reaches_the_peer_although_a_watch_is_alive() {
    let (_dir, path) = fifo();
    let reader = Pipe::open_fifo_read(&path).unwrap();
    let writer = open_write(&path);
    let mut forgotten = PollSet::new();
    assert!(reader.watch(Interest::READ, &mut forgotten).is_empty());
    reader.close().unwrap();
    forgotten.poll(patience()).unwrap();
    assert!(forgotten.granted().contains(Readiness::READ), "the parked reader wakes");
    assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn close_wakes_a_thread_that_blocks_in_a_read() {
    let (_dir, path) = fifo();
    let reader = Pipe::open_fifo_read(&path).unwrap();
    let writer = open_write(&path);
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| announcing_waits(waits, || reader.read(&mut [0])));
        waiting.recv_timeout(common::PATIENCE).unwrap();
        reader.close().unwrap();
        assert_eq!(blocked.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    });
    drop(writer);
}

#[test]
fn more_vectors_than_one_call_takes_go_through_a_pipe() {
    let (reader, writer) = Pipe::pair().unwrap();
    let bytes: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
    let mut bufs: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    writer.write_vectored_all(&mut bufs).unwrap();
    let mut back = vec![0; 2000];
    let mut bufs: Vec<IoSliceMut<'_>> = back.chunks_mut(1).map(IoSliceMut::new).collect();
    reader.read_vectored_exact(&mut bufs).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn each_kind_of_descriptor_becomes_its_channel() {
    let (left, right) = UnixStream::pair().unwrap();
    let socket = from_fd(left.into()).unwrap();
    assert!(socket.find::<Socket>().is_some());
    socket.write_all(b"x").unwrap();
    drop(right);

    let file = tempfile::tempfile().unwrap();
    assert!(from_fd(file.into()).unwrap().find::<File>().is_some());
    let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert!(from_shared_fd(memory).unwrap().find::<File>().is_some());

    let (read, write) = std::io::pipe().unwrap();
    let reader = from_fd(read.into()).unwrap();
    let writer = from_fd(write.into()).unwrap();
    assert!(reader.find::<Pipe>().is_some());
    assert_eq!(reader.features() & Features::DUPLEX, Features::READ);
    assert_eq!(writer.features() & Features::DUPLEX, Features::WRITE);
    writer.write_all(b"x").unwrap();
    writer.finish().unwrap();
    reader.read_exact(&mut [0]).unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);

    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
    let device = from_fd(zero.into()).unwrap();
    assert_eq!(device.features() & Features::DUPLEX, Features::DUPLEX);
    device.write_all(b"x").unwrap();
    device.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_device_for_both_directions_gets_a_second_descriptor_with_cloexec() {
    in_own_process("a_device_for_both_directions_gets_a_second_descriptor_with_cloexec", || {
        let before = common::open_fds();
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
        let channel = from_shared_fd(terminal.into()).unwrap();
        let reading = channel.find::<Pipe>().unwrap();
        reading.read_exact(&mut [0]).unwrap();
        let mut seen = 0;
        for (number, target) in common::open_fds() {
            if target == "/dev/zero" {
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert_ne!(flags & OFlags::CLOEXEC.bits(), 0, "descriptor {number}");
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
        drop(channel);
        assert_eq!(common::open_fds(), before);
    });
}

#[test]
fn the_flags_of_a_shared_descriptor_are_not_touched() {
    let (read, write) = std::io::pipe().unwrap();
    let other: OwnedFd = read.try_clone().unwrap().into();
    let channel = from_shared_fd(read.into()).unwrap();
    channel.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(channel.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!is_non_blocking(&other));
    channel.close().unwrap();
    assert!(!is_non_blocking(&other));
    drop(write);

    let (left, _right) = UnixStream::pair().unwrap();
    let other = left.try_clone().unwrap();
    let channel = from_shared_fd(left.into()).unwrap();
    channel.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(channel.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!is_non_blocking(&other));
}

#[test]
fn a_descriptor_without_a_stream_of_bytes_is_given_back_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let unconnected = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
    let name = rustix::fs::open("/dev/null", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let refused: [(&str, OwnedFd); 8] = [
        ("listens", listener.into()),
        ("not connected", datagram.into()),
        ("not connected", unconnected),
        ("directory", std::fs::File::open("/").unwrap().into()),
        ("no stream of bytes", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
        ("no stream of bytes", rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
        ("no stream of bytes", pidfd),
        ("O_PATH", name),
    ];
    for (text, mut fd) in refused {
        for adopt in [from_fd, from_shared_fd] {
            let before = rustix::fs::fcntl_getfl(&fd).unwrap();
            let (error, back) = adopt(fd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}: {error}");
            assert!(error.to_string().contains(text), "{text}: {error}");
            assert_eq!(rustix::fs::fcntl_getfl(&back).unwrap(), before);
            fd = back;
        }
    }
}

#[test]
fn a_refused_listener_still_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (_error, fd) = from_fd(listener.into()).unwrap_err();
    let _client = UnixStream::connect(&path).unwrap();
    UnixListener::from(fd).accept().unwrap();
}

#[test]
fn an_empty_read_or_write_on_a_pipe_is_nothing() {
    let (reader, writer) = Pipe::pair().unwrap();
    for _ in 0..2 {
        assert_eq!(reader.read(&mut []).unwrap(), 0);
        assert_eq!(writer.write(&[]).unwrap(), 0);
        assert_eq!(writer.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
        writer.close().unwrap();
        reader.close().unwrap();
    }
}

#[test]
fn waiting_on_a_pipe_at_the_limit_of_descriptors_neither_spins_nor_sleeps_for_ever() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    in_own_process(
        "waiting_on_a_pipe_at_the_limit_of_descriptors_neither_spins_nor_sleeps_for_ever",
        || {
            let (reader, writer) = Pipe::pair().unwrap();
            let (watched, _other) = Pipe::pair().unwrap();
            let limit = Rlimit { current: Some(64), maximum: Some(64) };
            setrlimit(Resource::Nofile, limit).unwrap();
            let fill = || {
                let filler = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok());
                filler.collect::<Vec<_>>()
            };
            let mut filler = fill();

            let (waits, waited) = std::sync::mpsc::channel();
            let reading = std::thread::spawn(move || {
                announcing_waits(waits, || {
                    let mut buf = [0];
                    reader.read_exact(&mut buf).map(|()| buf[0])
                })
            });
            waited.recv().unwrap();
            std::thread::sleep(Duration::from_millis(100));
            writer.write_all(b"!").unwrap();
            assert_eq!(reading.join().unwrap().unwrap(), b'!');
            let waits = 1 + waited.try_iter().count();
            assert!(waits < 100, "{waits} waits for 100 ms");

            // A watch that came just before the limit was reached is ended by `close` all the same.
            filler.truncate(filler.len() - 2);
            let mut set = PollSet::new();
            assert!(watched.watch(Interest::READ, &mut set).is_empty());
            filler.extend(fill());
            watched.close().unwrap();
            set.poll(patience()).unwrap();
            assert_eq!(set.granted(), Readiness::READ);
        },
    );
}
