//! Sockets.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use qio::transport::Socket;
use qio::{Channel, ChannelExt, FdSink, Mode, ReadFlags, WriteFlags};
use qio_testkit::{Job, scope};
use rustix::fs::OFlags;
use rustix::net::sockopt;

const LIMIT: Duration = Duration::from_secs(30);

fn tcp_pair() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (right, _) = listener.accept().unwrap();
    let socket = |stream: TcpStream| Socket::from_fd(OwnedFd::from(stream)).unwrap();
    (socket(left), socket(right))
}

#[test]
fn one_shutdown_or_close_ends_every_writer_that_sleeps_in_the_kernel() {
    scope(LIMIT, |_| {
        for make in [|| Socket::pair().unwrap(), tcp_pair] {
            for close in [false, true] {
                let (left, _right) = make();
                let left = Arc::new(left);
                let writers: Vec<_> = (0..4)
                    .map(|_| {
                        let left = Arc::clone(&left);
                        Job::start(move || left.write_all(&vec![0; 32 << 20]))
                    })
                    .collect();
                writers.iter().for_each(Job::wait_until_asleep);
                assert!(writers.iter().all(Job::is_running));
                let kind = if close {
                    left.close().unwrap();
                    ErrorKind::NotConnected
                } else {
                    left.shutdown(Shutdown::Write).unwrap();
                    ErrorKind::BrokenPipe
                };
                for writer in writers {
                    assert_eq!(writer.finish().unwrap_err().kind(), kind);
                }
            }
        }
    });
}

#[test]
fn a_peek_on_a_reset_connection_is_one_error_and_the_end_after_it() {
    scope(LIMIT, |_| {
        for mode in [Mode::Blocking, Mode::NonBlocking] {
            let (left, right) = tcp_pair();
            left.set_mode(mode).unwrap();
            sockopt::set_socket_linger(right.descriptor().unwrap(), Some(Duration::ZERO)).unwrap();
            drop(right);
            left.wait(qio::Interest::READ, None).unwrap();
            assert_eq!(left.peek(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            for _ in 0..2 {
                assert_eq!(left.peek(&mut [0]).unwrap(), 0);
                assert_eq!(left.read(&mut [0]).unwrap(), 0);
            }
        }
    });
}

/// Asked to make received descriptors blocking, which one of them refuses: `O_PATH` has no flags
/// to change.
#[test]
fn a_descriptor_whose_mode_cannot_be_set_closes_all_that_came_with_it() {
    scope(LIMIT, |ledger| {
        let (left, right) = Socket::pair().unwrap();
        let plain = std::fs::File::open("/dev/null").unwrap();
        let path: OwnedFd =
            rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .unwrap();
        let fds = [plain.as_fd(), path.as_fd(), plain.as_fd()];
        let mut out = [IoSlice::new(b"x")];
        left.write_all_with(&mut out, WriteFlags::empty(), &fds).unwrap();
        let before = ledger.opened().len();
        let mut sink = FdSink::new(8);
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        let result = right.read_with(&mut into, ReadFlags::BLOCKING_FDS, Some(&mut sink));
        let error = result.expect_err("the mode of a descriptor could not be set");
        assert_ne!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(sink.fds().len(), 0);
        assert_eq!(ledger.opened().len(), before, "a descriptor was leaked");
    });
}

#[test]
fn a_peer_is_known_where_there_are_credentials() {
    scope(LIMIT, |_| {
        let (left, right) = Socket::pair().unwrap();
        for socket in [&left, &right] {
            let peer = socket.peer_credentials().unwrap();
            assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
            assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
            assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        }
        left.close().unwrap();
        assert_eq!(left.peer_credentials().unwrap_err().kind(), ErrorKind::NotConnected);
        let (tcp, _other) = tcp_pair();
        let error = tcp.peer_credentials().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "tcp socket: only unix sockets know their peer");
    });
}
