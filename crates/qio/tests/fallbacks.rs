//! What channels do on kernels that lack something newer, and with the default action of SIGPIPE.
//!
//! Capabilities and signals belong to the process, so each test runs in one of its own.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{ErrorKind, IoSlice};

use common::{in_own_process, patience};
use qio::transport::{Access, Command, Pipe, Socket, from_shared_fd};
use qio::{Channel, ChannelExt, Interest, Mode, Readiness};
use qio_os::Capability;

fn nothing_raises_a_signal() {
    qio_os::restore_default_sigpipe();
    let expect_broken = |channel: &dyn Channel| {
        for _ in 0..2 {
            assert_eq!(channel.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
            let bufs = [IoSlice::new(b"x"), IoSlice::new(b"y")];
            let error = channel.write_vectored(&bufs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(channel.write(&[]).unwrap(), 0);
        }
    };

    let (reader, writer) = Pipe::pair().unwrap();
    reader.close().unwrap();
    expect_broken(&writer);

    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    expect_broken(&from_shared_fd(write.into()).unwrap());

    let child = Command::new("true").access(Access::WriteOnly).spawn().unwrap();
    child.wait_exit(patience()).unwrap();
    expect_broken(&child);

    let (left, right) = Socket::pair().unwrap();
    right.close().unwrap();
    expect_broken(&left);
}

#[test]
fn a_closed_peer_raises_no_signal() {
    in_own_process("a_closed_peer_raises_no_signal", nothing_raises_a_signal);
}

#[test]
fn a_closed_peer_raises_no_signal_where_the_kernel_cannot_be_asked_for_none() {
    in_own_process(
        "a_closed_peer_raises_no_signal_where_the_kernel_cannot_be_asked_for_none",
        || {
            Capability::WriteNoSignal.refuse();
            nothing_raises_a_signal();
            assert!(!Capability::WriteNoSignal.may_try());
        },
    );
}

/// Fills and drains a pipe whose open files other processes share, without ever blocking.
fn a_shared_pipe_never_blocks() {
    let (read, write) = std::io::pipe().unwrap();
    // What the other processes have.
    let (_other_read, _other_write) = (read.try_clone().unwrap(), write.try_clone().unwrap());
    let reader = Pipe::from_shared_fds(Some(read.into()), None).unwrap();
    let writer = Pipe::from_shared_fds(None, Some(write.into())).unwrap();
    for channel in [&reader, &writer] {
        channel.set_mode(Mode::NonBlocking).unwrap();
    }
    let mut buf = vec![0; 10_000];
    assert_eq!(reader.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);

    let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for _round in 0..3 {
        loop {
            // Not a divisor of a page, and a second buffer.
            let bufs = [IoSlice::new(&bytes[..7000]), IoSlice::new(&bytes[7000..])];
            match writer.write_vectored(&bufs) {
                Ok(n) => {
                    assert!(n > 0);
                    sent.extend_from_slice(&bytes[..n]);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        loop {
            match reader.read(&mut buf) {
                Ok(n) => received.extend_from_slice(&buf[..n]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
    }
    assert!(sent.len() > 3 * 32 * 1024, "{} bytes filled it three times", sent.len());
    assert!(sent == received);
    assert_eq!(writer.wait(Interest::WRITE, patience()).unwrap(), Readiness::WRITE);

    // In blocking mode they wait instead, outside of the system call: `close` wakes them.
    reader.set_mode(Mode::Blocking).unwrap();
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| common::announcing_waits(waits, || reader.read(&mut [0])));
        waiting.recv_timeout(common::PATIENCE).unwrap();
        reader.close().unwrap();
        assert_eq!(blocked.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn a_shared_pipe_does_not_block() {
    in_own_process("a_shared_pipe_does_not_block", a_shared_pipe_never_blocks);
}

#[test]
fn a_shared_pipe_does_not_block_where_single_calls_cannot_be_non_blocking() {
    in_own_process(
        "a_shared_pipe_does_not_block_where_single_calls_cannot_be_non_blocking",
        || {
            Capability::PipeNoWait.refuse();
            a_shared_pipe_never_blocks();
            assert!(!Capability::PipeNoWait.may_try());
        },
    );
}

#[test]
fn a_shared_pipe_does_not_block_where_both_are_missing() {
    in_own_process("a_shared_pipe_does_not_block_where_both_are_missing", || {
        Capability::PipeNoWait.refuse();
        Capability::WriteNoSignal.refuse();
        a_shared_pipe_never_blocks();
        nothing_raises_a_signal();
    });
}

#[test]
fn a_shared_terminal_that_nobody_reads_does_not_block() {
    in_own_process("a_shared_terminal_that_nobody_reads_does_not_block", || {
        use rustix::fs::{Mode as FileMode, OFlags};
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, FileMode::empty()).unwrap();
        let channel = from_shared_fd(terminal).unwrap();
        channel.set_mode(Mode::NonBlocking).unwrap();
        assert_eq!(channel.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // Each of them becomes two on the screen.
        let lines = [b'\n'; 10_000];
        let mut sent = 0;
        loop {
            match channel.write(&lines) {
                Ok(n) => sent += n,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(sent > 1000, "{sent}");
        // The other side goes: that is the end, and no error.
        drop(screen);
        assert_eq!(channel.read(&mut [0]).unwrap(), 0);
        assert_eq!(channel.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn a_child_sees_no_other_descriptors_where_ranges_cannot_be_marked() {
    in_own_process("a_child_sees_no_other_descriptors_where_ranges_cannot_be_marked", || {
        Capability::CloseRangeCloexec.refuse();
        let file = tempfile::NamedTempFile::new().unwrap();
        // Without CLOEXEC.
        let careless = rustix::io::dup(&file).unwrap();
        let child = Command::new("ls").args(["-l", "/proc/self/fd"]).access(Access::ReadOnly);
        let child = child.spawn().unwrap();
        let mut listed = String::new();
        std::io::Read::read_to_string(&mut qio::Io(&child), &mut listed).unwrap();
        let entries = listed.lines().filter(|line| line.contains(" -> ")).count();
        assert_eq!(entries, 4, "0, 1, 2 and the directory that is listed: {listed}");
        assert!(!listed.contains(&file.path().display().to_string()), "{listed}");
        assert!(!Capability::CloseRangeCloexec.may_try());
        // The descriptor is changed in the child only.
        assert!(rustix::io::fcntl_getfd(&careless).unwrap().is_empty());
    });
}

#[test]
fn without_a_descriptor_for_a_peers_process_there_is_an_error_and_no_guess() {
    let name = "without_a_descriptor_for_a_peers_process_there_is_an_error_and_no_guess";
    in_own_process(name, || {
        let (left, _right) = Socket::pair().unwrap();
        Capability::PeerPidfd.refuse();
        let error = left.peer_pidfd().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Linux 6.5"), "{error}");
        assert!(left.peer_credentials().is_ok());
    });
}
