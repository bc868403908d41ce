//! Owned writes: sending without a copy, and its confirmation.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, eventually, impatiently, patience};
use qio::transport::{Buffer, Duplex, Socket};
use qio::watch::{PollSet, Waiter, waiter};
use qio::{Bytes, Channel, ChannelExt, Confirmed, Features, Interest, Mode, Readiness, WriteFlags};
use qio_testkit::{Job, scope};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

const LIMIT: Duration = Duration::from_secs(60);
const HOSTS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// Memory that counts how many of its kind live.
struct Counted {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

fn counted(bytes: Vec<u8>, alive: &Arc<AtomicUsize>) -> Bytes {
    alive.fetch_add(1, Ordering::SeqCst);
    Bytes::from_owner(Counted { bytes, alive: Arc::clone(alive) })
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // What the memory gets to hold when it is used for something else.
        self.bytes.fill(0xEE);
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn socket(stream: TcpStream) -> Socket {
    Socket::from_fd(OwnedFd::from(stream)).unwrap()
}

fn pair(host: &str) -> Option<(Socket, Socket)> {
    let Ok(listener) = TcpListener::bind(host) else {
        println!("skipped: there is no {host}");
        return None;
    };
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (right, _) = listener.accept().unwrap();
    Some((socket(left), socket(right)))
}

fn tcp() -> (Socket, Socket) {
    pair(HOSTS[0]).unwrap()
}

/// Bytes of which none is like its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Sends until nothing goes in any more; the blocks count in `alive`.
fn stuff(socket: &Socket, alive: &Arc<AtomicUsize>) -> usize {
    let mut total = 0;
    loop {
        let block = counted(vec![7; 256 << 10], alive);
        match socket.write_owned_with(&[block], WriteFlags::NONBLOCK) {
            Ok(n) => total += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return total,
            Err(error) => panic!("{error}"),
        }
    }
}

fn read_all(socket: &Socket, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    socket.read_exact(&mut got).unwrap();
    got
}

#[test]
fn loopback_delivers_and_says_that_it_copied_on_both_families() {
    scope(LIMIT, |_| {
        for host in HOSTS {
            let Some((left, right)) = pair(host) else { continue };
            assert!(left.features().contains(Features::ZERO_COPY));
            let sent = pattern(3 << 20);
            let reader = Job::start(move || {
                let got = read_all(&right, 3 << 20);
                (got, right)
            });
            let whole = Bytes::from(sent.clone());
            // In several buffers, some of them empty.
            let bufs = [
                Bytes::new(),
                whole.slice(..1),
                whole.slice(1..4097),
                Bytes::new(),
                whole.slice(4097..),
                Bytes::new(),
            ];
            left.write_all_owned(&bufs).unwrap();
            let confirmed = left.confirm_all(patience()).unwrap();
            assert!(confirmed.copied, "the loopback device copies, always");
            assert!(confirmed.sends >= 3, "one send is at most 1 MiB: {confirmed:?}");
            assert_eq!(left.unconfirmed_bytes(), 0);
            let (got, _right) = reader.finish();
            assert_eq!(got, sent);
            // Said once.
            assert_eq!(left.confirm_all(patience()).unwrap(), Confirmed::default());
        }
    });
}

#[test]
fn nothing_was_copied_where_nothing_was_sent() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        assert_eq!(left.confirm().unwrap(), Confirmed::default());
        left.write_all(b"copied, but not owned").unwrap();
        assert_eq!(left.write_owned(&[]).unwrap(), 0);
        assert_eq!(left.write_owned(&[Bytes::new(), Bytes::new()]).unwrap(), 0);
        left.write_all_owned(&[Bytes::new()]).unwrap();
        assert_eq!(left.confirm_all(patience()).unwrap(), Confirmed::default());
        left.flush_all(patience()).unwrap();
        assert_eq!(right.confirm_all(None).unwrap(), Confirmed::default());
    });
}

#[test]
fn memory_is_given_back_when_the_kernel_has_confirmed_it_and_not_before() {
    scope(LIMIT, |_| {
        for host in HOSTS {
            let Some((left, right)) = pair(host) else { continue };
            left.set_mode(Mode::NonBlocking).unwrap();
            let alive = Arc::new(AtomicUsize::new(0));
            let total = stuff(&left, &alive);
            let held = alive.load(Ordering::SeqCst);
            assert!(held > 0 && left.unconfirmed_bytes() > 0);
            // The peer reads nothing: nothing more is confirmed, however often one asks.
            assert_eq!(left.confirm().unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(left.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
            let soon = Some(Instant::now() + Duration::from_millis(20));
            assert_eq!(left.confirm_all(soon).unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(alive.load(Ordering::SeqCst) > 0);
            assert!(read_all(&right, total).iter().all(|&byte| byte == 7), "memory was reused");
            let confirmed = left.confirm_all(patience()).unwrap();
            assert!(confirmed.copied && confirmed.sends > 0);
            assert_eq!(alive.load(Ordering::SeqCst), 0);
            assert_eq!(left.unconfirmed_bytes(), 0);
        }
    });
}

#[test]
fn a_share_is_held_of_the_buffers_that_were_sent_and_of_no_others() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        let fill = Arc::new(AtomicUsize::new(0));
        stuff(&left, &fill);
        // Nothing more goes in, so nothing more is held.
        let alive = Arc::new(AtomicUsize::new(0));
        let refused = [counted(vec![1; 10], &alive), counted(vec![2; 10], &alive)];
        assert_eq!(left.write_owned(&refused).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(refused);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        drop((left, right));
        eventually("the reset gives the buffers back", || fill.load(Ordering::SeqCst) == 0);
        let (left, right) = tcp();
        let bufs: Vec<_> = (0..4).map(|_| counted(vec![3; 600 << 10], &alive)).collect();
        // One send takes at most 1 MiB: parts of two buffers.
        let sent = left.write_owned(&bufs).unwrap();
        assert!(sent > 600 << 10 && sent <= 1 << 20, "{sent}");
        drop(bufs);
        let held = alive.load(Ordering::SeqCst);
        assert!(held <= 2, "{held}");
        let reader = Job::start(move || (read_all(&right, sent), right));
        left.confirm_all(patience()).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        reader.finish();
    });
}

/// After a confirm that would have blocked, an ordinary write waits for room and nothing more.
#[test]
fn an_ordinary_writer_does_not_wait_for_confirmations() {
    scope(LIMIT, |_| {
        let listener = TcpListener::bind(HOSTS[0]).unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, 32 << 10).unwrap();
        let left = socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let right = socket(listener.accept().unwrap().0);
        left.set_mode(Mode::NonBlocking).unwrap();
        let total = stuff(&left, &Arc::new(AtomicUsize::new(0)));
        assert_eq!(left.confirm().unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut more = 0;
        while let Ok(n) = left.write(&[7; 1000]) {
            more += n;
        }
        let some = total / 2;
        let reader = Job::start(move || (read_all(&right, some), right));
        assert!(left.wait(Interest::WRITE, patience()).unwrap().contains(Readiness::WRITE));
        let (_, right) = reader.finish();
        assert!(left.unconfirmed_bytes() > 0, "all was confirmed: this shows nothing");
        let reader = Job::start(move || (read_all(&right, total - some + more), right));
        left.confirm_all(patience()).unwrap();
        reader.finish();
    });
}

#[test]
fn a_close_fires_the_legs_that_wait_for_confirmations() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        let total = stuff(&left, &Arc::new(AtomicUsize::new(0)));
        assert_eq!(left.confirm().unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut set = PollSet::new();
        assert!(left.watch(Interest::WRITE, &mut set).is_empty());
        // Everything gets confirmed, but nobody looks, so the close has nothing to keep.
        read_all(&right, total);
        eventually("everything is acknowledged", || {
            rustix::io::ioctl_fionread(&*right.descriptor().unwrap()).unwrap() == 0
        });
        left.close().unwrap();
        set.poll(patience()).unwrap();
        assert!(set.legs().iter().any(|leg| !leg.fired().is_empty()), "the waiter sleeps on");
    });
}

/// Counts how often somebody waits.
struct Parks(Rc<Cell<u32>>, Instant);

impl Waiter for Parks {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        if self.1 <= Instant::now() {
            return Err(io::Error::other("hung"));
        }
        self.0.set(self.0.get() + 1);
        set.poll(Some(until.map_or(self.1, |until| until.min(self.1))))
    }
}

fn counting_parks<R>(body: impl FnOnce() -> R) -> (R, u32) {
    let parks = Rc::new(Cell::new(0));
    let waiter = Rc::new(Parks(Rc::clone(&parks), Instant::now() + PATIENCE));
    (waiter::scoped(waiter, body), parks.get())
}

#[test]
fn a_reader_is_not_woken_by_notifications() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        let left = Arc::new(left);
        // Makes the socket one that sends without a copy.
        left.write_all_owned(&[Bytes::from_static(b"first")]).unwrap();
        left.confirm_all(patience()).unwrap();
        // Notifications stay on the queue, because nobody confirms; the reader waits all the while.
        let reading = Arc::clone(&left);
        let reader = Job::start(move || {
            counting_parks(|| {
                let ready = reading.wait(Interest::READ, patience()).unwrap();
                let mut byte = [0];
                assert_eq!(reading.read(&mut byte).unwrap(), 1);
                (ready, byte)
            })
        });
        reader.wait_until_asleep();
        let rounds = 20;
        for _ in 0..rounds {
            left.write_all_owned(&[Bytes::from(vec![1; 4096])]).unwrap();
            read_all(&right, 4096);
        }
        reader.wait_until_asleep();
        assert!(reader.is_running(), "a notification is not data");
        right.write_all(b"x").unwrap();
        let ((ready, byte), parks) = reader.finish();
        assert_eq!((ready, byte), (Readiness::READ, *b"x"));
        assert!(parks <= 2 * rounds + 4, "{parks} waits for {rounds} notifications: it spins");
        read_all(&right, 5);
    });
}

#[test]
fn pending_notifications_do_not_make_waiters_spin() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let total = stuff(&left, &alive);
        // Some sends are confirmed by now, and nobody has asked for it: the socket is in error for
        // poll(2). Others are not: whoever waits for them, for room or for data, sleeps.
        let soon = || Some(Instant::now() + Duration::from_millis(30));
        for interest in [Interest::READ, Interest::WRITE, Interest::READ | Interest::WRITE] {
            let (result, parks) = counting_parks(|| left.wait(interest, soon()));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut, "{interest:?}");
            assert!(parks <= 6, "{interest:?}: {parks} waits");
        }
        let (result, parks) = counting_parks(|| left.confirm_all(soon()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(parks <= 6, "{parks} waits");
        // Also when the connection is shut down, which poll(2) reports for ever.
        left.shutdown(Shutdown::Both).unwrap();
        let (result, parks) = counting_parks(|| left.confirm_all(soon()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(parks <= 6, "{parks} waits");
        read_all(&right, total);
        let (result, parks) = counting_parks(|| left.confirm_all(patience()));
        assert!(result.unwrap().sends > 0);
        assert!(parks <= total as u32 / 4096, "{parks} waits");
    });
}

#[test]
fn a_writer_that_was_refused_waits_for_room_and_goes_on() {
    scope(LIMIT, |_| {
        for mode in [Mode::Blocking, Mode::NonBlocking] {
            let (left, right) = tcp();
            left.set_mode(mode).unwrap();
            let sent = Bytes::from(pattern(40 << 20));
            let all = sent.clone();
            let writer = Job::start(move || {
                // More than may be unconfirmed, and owned and ordinary writes by turns.
                let mut at = 0;
                for turn in 0.. {
                    let end = all.len().min(at + (3 << 20) + turn);
                    let part = all.slice(at..end);
                    if turn % 3 == 2 {
                        left.write_all(&part).unwrap();
                    } else {
                        left.write_all_owned(&[part.slice(..1000), part.slice(1000..)]).unwrap();
                    }
                    assert!(left.unconfirmed_bytes() <= 16 << 20);
                    at = end;
                    if at == all.len() {
                        break;
                    }
                }
                (left.confirm_all(patience()).unwrap(), left)
            });
            writer.wait_until_asleep();
            assert_eq!(read_all(&right, sent.len()), sent);
            assert!(writer.finish().0.copied);
        }
    });
}

#[test]
fn an_error_of_the_socket_ends_the_waits_of_both_directions() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        stuff(&left, &alive);
        let left = Arc::new(left);
        let waiters = [Interest::READ, Interest::WRITE].map(|interest| {
            let left = Arc::clone(&left);
            Job::start(move || impatiently(|| left.wait(interest, None)))
        });
        waiters.iter().for_each(Job::wait_until_asleep);
        sockopt::set_socket_linger(right.descriptor().unwrap(), Some(Duration::ZERO)).unwrap();
        drop(right);
        for (waiter, interest) in waiters.into_iter().zip([Readiness::READ, Readiness::WRITE]) {
            assert!(waiter.finish().unwrap().contains(interest));
        }
        // What will never arrive is not needed any more either.
        left.confirm_all(patience()).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn closing_wakes_who_waits_for_confirmations() {
    scope(LIMIT, |ledger| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let total = stuff(&left, &alive);
        let left = Arc::new(left);
        let waiting = Arc::clone(&left);
        let waiter = Job::start(move || impatiently(|| waiting.confirm_all(None)));
        waiter.wait_until_asleep();
        left.close().unwrap();
        assert_eq!(waiter.finish().unwrap_err().kind(), ErrorKind::NotConnected);
        let error = left.write_owned(&[Bytes::from_static(b"x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        // Idempotent, and what was accepted arrives, unharmed.
        left.close().unwrap();
        assert!(read_all(&right, total).iter().all(|&byte| byte == 7), "memory was reused");
        assert_eq!(right.read(&mut [0]).unwrap(), 0);
        drop((left, right));
        eventually("the closed socket is let go of", || ledger.opened().is_empty());
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn what_was_accepted_arrives_as_it_was_although_the_channel_is_dropped() {
    scope(LIMIT, |ledger| {
        for host in HOSTS {
            let Some((left, right)) = pair(host) else { continue };
            left.set_mode(Mode::NonBlocking).unwrap();
            let alive = Arc::new(AtomicUsize::new(0));
            let total = stuff(&left, &alive);
            drop(left);
            assert!(alive.load(Ordering::SeqCst) > 0, "the kernel still reads the buffers");
            assert!(read_all(&right, total).iter().all(|&byte| byte == 7), "memory was reused");
            assert_eq!(right.read(&mut [0]).unwrap(), 0, "the end came too");
            eventually("the buffers are given back", || alive.load(Ordering::SeqCst) == 0);
        }
        eventually("the sockets are let go of", || ledger.opened().is_empty());
    });
}

#[test]
fn closed_sockets_that_linger_are_limited_in_number() {
    scope(LIMIT, |ledger| {
        let mut kept = Vec::new();
        let first = Arc::new(AtomicUsize::new(0));
        let later = Arc::new(AtomicUsize::new(0));
        for n in 0..64 + 6 {
            let listener = TcpListener::bind(HOSTS[0]).unwrap();
            // Accepted sockets have the buffer of the listener.
            sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
            let left = socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let right = socket(listener.accept().unwrap().0);
            sockopt::set_socket_send_buffer_size(left.descriptor().unwrap(), 100_000).unwrap();
            left.set_mode(Mode::NonBlocking).unwrap();
            let total = stuff(&left, if n < 6 { &first } else { &later });
            drop(left);
            kept.push((right, total));
        }
        eventually("the first were reset", || first.load(Ordering::SeqCst) == 0);
        assert!(later.load(Ordering::SeqCst) >= 64);
        for (right, total) in kept.drain(..6) {
            let error = right.read_exact(&mut vec![0; total + 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(later.load(Ordering::SeqCst) >= 64);
        // What the peer gave up reading is not needed any more either.
        drop(kept);
        eventually("the others were let go of", || later.load(Ordering::SeqCst) == 0);
        eventually("the sockets are let go of", || ledger.opened().is_empty());
    });
}

/// An owner that uses the channel when it gets its memory back.
struct Reentrant {
    socket: Arc<Socket>,
    called: Arc<AtomicBool>,
}

impl AsRef<[u8]> for Reentrant {
    fn as_ref(&self) -> &[u8] {
        b"some bytes"
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let _ = self.socket.confirm();
        self.called.store(true, Ordering::SeqCst);
    }
}

#[test]
fn an_owner_may_use_the_channel_when_it_gets_its_memory_back() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        let (left, called) = (Arc::new(left), Arc::new(AtomicBool::new(false)));
        let owner = Reentrant { socket: Arc::clone(&left), called: Arc::clone(&called) };
        left.write_all_owned(&[Bytes::from_owner(owner)]).unwrap();
        read_all(&right, 10);
        left.confirm_all(patience()).unwrap();
        assert!(called.load(Ordering::SeqCst));
    });
}

#[test]
fn channels_that_cannot_send_without_a_copy_copy_and_say_so() {
    scope(LIMIT, |_| {
        let check = |left: &dyn Channel, right: &dyn Channel| {
            let name = left.base().name();
            assert!(!left.features().contains(Features::ZERO_COPY), "{name}");
            assert!(!left.confirm_all(None).unwrap().copied, "{name}");
            let bufs = [Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two")];
            left.write_all_owned(&bufs).unwrap();
            let mut got = [0; 7];
            right.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"one two", "{name}");
            let confirmed = left.confirm_all(None).unwrap();
            assert!(confirmed.copied && confirmed.sends == 0, "{name}");
            assert!(!left.confirm_all(None).unwrap().copied, "{name}");
        };
        let (left, right) = Socket::pair().unwrap();
        check(&left, &right);
        let (left, right): (Arc<dyn Channel>, _) = (Arc::new(left), right);
        check(&left, &right);
        let (left, right) = Duplex::pair();
        check(&left, &right);
        // A socket that other processes use too.
        let (left, right) = tcp();
        let shared = left.descriptor().unwrap().try_clone().unwrap();
        check(&Socket::from_shared(shared).unwrap(), &right);
        let buffer = Buffer::new(100);
        buffer.write_all_owned(&[Bytes::from_static(b"x")]).unwrap();
        assert!(buffer.confirm().unwrap().copied);
    });
}

#[test]
fn a_socket_on_which_somebody_else_sends_without_a_copy_copies() {
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        assert!(qio_os::enable_zero_copy(left.descriptor().unwrap().as_fd()).unwrap());
        left.write_all_owned(&[Bytes::from_static(b"bytes")]).unwrap();
        assert_eq!(read_all(&right, 5), b"bytes");
        let confirmed = left.confirm_all(patience()).unwrap();
        assert!(confirmed.copied && confirmed.sends == 0);
    });
}

#[test]
fn sends_that_nobody_accounted_for_are_an_error_and_no_loop() {
    scope(LIMIT, |ledger| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        left.write_all_owned(&[Bytes::from_static(b"ours")]).unwrap();
        left.confirm_all(patience()).unwrap();
        let fd = left.descriptor().unwrap();
        let theirs = [io::IoSlice::new(b"theirs")];
        assert_eq!(qio_os::send_zero_copy(fd.as_fd(), &theirs).unwrap(), 6);
        // Their number is taken for ours at first, unless the kernel names both in one range.
        let once = || {
            left.write_all_owned(&[Bytes::from_static(b"ours")])?;
            left.confirm_all(patience())
        };
        let error = (0..3).find_map(|_| once().err()).expect("the numbers do not fit");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let error = left.confirm_all(patience()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("the kernel confirmed sends"), "{error}");
        // Reading and ordinary writes go on, and do not spin.
        let soon = Some(Instant::now() + Duration::from_millis(30));
        let (result, parks) = counting_parks(|| left.wait(Interest::READ, soon));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(parks <= 6, "{parks}");
        assert_eq!(qio_os::send_zero_copy(fd.as_fd(), &theirs).unwrap(), 6);
        let soon = Some(Instant::now() + Duration::from_millis(30));
        let (result, parks) = counting_parks(|| left.wait(Interest::READ, soon));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(parks <= 6, "{parks}");
        left.write_all(b"copied").unwrap();
        right.write_all(b"x").unwrap();
        assert_eq!(read_all(&left, 1), b"x");
        drop((left, right, fd));
        eventually("the sockets are let go of", || ledger.opened().is_empty());
    });
}

#[test]
fn an_mptcp_socket_copies_where_the_kernel_refuses() {
    scope(LIMIT, |_| {
        let protocol = rustix::net::ipproto::MPTCP;
        let make = || {
            rustix::net::socket_with(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::CLOEXEC,
                Some(protocol),
            )
        };
        let Ok(listener) = make() else {
            println!("skipped: there is no MPTCP here");
            return;
        };
        rustix::net::bind(&listener, &"127.0.0.1:0".parse::<std::net::SocketAddrV4>().unwrap())
            .unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let left = make().unwrap();
        rustix::net::connect(&left, &rustix::net::getsockname(&listener).unwrap()).unwrap();
        let right = rustix::net::accept(&listener).unwrap();
        let left = Socket::from_fd(left).unwrap();
        let right = Socket::from_fd(right).unwrap();
        let all = Bytes::from(pattern(100_000));
        left.write_all_owned(std::slice::from_ref(&all)).unwrap();
        assert_eq!(read_all(&right, all.len()), all);
        assert!(left.confirm_all(patience()).unwrap().copied);
    });
}

/// Runs the test of that name again, in a network namespace of its own, after `setup`. `None`
/// says that this is that run; `Some(false)` that it cannot be made here.
fn in_own_network(test: &str, setup: &str) -> Option<bool> {
    const MARK: &str = "QIO_TEST_IN_OWN_NETWORK";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return None;
    }
    let script = format!("set -e; {setup}; exec \"$0\" \"$@\"");
    // In a scope, because other tests count the descriptors of this process.
    let ran = scope(LIMIT, |_| {
        Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(MARK, test)
            .output()
    });
    let Ok(output) = ran else {
        println!("skipped: there is no unshare(1)");
        return Some(false);
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if !text.contains("running 1 test") {
        println!("skipped: no network namespace: {text}");
        return Some(false);
    }
    print!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    Some(true)
}

const OPTMEM: &str = "/proc/sys/net/core/optmem_max";

fn has_room(socket: &Socket) -> bool {
    let fd = socket.descriptor().unwrap();
    let mut fds = [PollFd::new(&*fd, PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    fds[0].revents().contains(PollFlags::OUT)
}

#[test]
fn a_full_memory_for_notifications_is_emptied_and_the_send_repeated() {
    let test = "a_full_memory_for_notifications_is_emptied_and_the_send_repeated";
    // One notification that nobody has read is one too many for the next send.
    if in_own_network(test, &format!("ip link set lo up; echo 1000 > {OPTMEM}")).is_some() {
        return;
    }
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        left.set_mode(Mode::NonBlocking).unwrap();
        for _ in 0..100 {
            left.write_all_owned(&[Bytes::from(vec![7; 5000])]).unwrap();
            read_all(&right, 5000);
        }
        assert_eq!(left.confirm_all(patience()).unwrap().sends, 100, "some were copied by us");
        let fd = left.descriptor().unwrap();
        let refused = (0..3).any(|_| {
            let sent = qio_os::send_zero_copy(fd.as_fd(), &[io::IoSlice::new(b"x")]);
            read_all(&right, sent.unwrap_or(0));
            sent == Err(rustix::io::Errno::NOBUFS)
        });
        assert!(refused, "the limit has no effect, and this shows nothing");
    });
}

#[test]
fn a_writer_without_memory_for_notifications_waits_for_the_next_and_not_for_all() {
    let test = "a_writer_without_memory_for_notifications_waits_for_the_next_and_not_for_all";
    // Two: the kernel makes one of sends behind each other, up to 512 KiB.
    if in_own_network(test, &format!("ip link set lo up; echo 2000 > {OPTMEM}")).is_some() {
        return;
    }
    scope(LIMIT, |_| {
        let listener = TcpListener::bind(HOSTS[0]).unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, 32 << 10).unwrap();
        let left = socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let right = socket(listener.accept().unwrap().0);
        sockopt::set_socket_send_buffer_size(left.descriptor().unwrap(), 4 << 20).unwrap();
        left.set_mode(Mode::NonBlocking).unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let total = stuff(&left, &alive);
        assert!(has_room(&left), "it was not the notifications that stopped it");
        let soon = Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(left.wait(Interest::WRITE, soon).unwrap_err().kind(), ErrorKind::TimedOut);
        let reader = Job::start(move || (read_all(&right, 700 << 10), right));
        assert!(left.wait(Interest::WRITE, patience()).unwrap().contains(Readiness::WRITE));
        let (_, right) = reader.finish();
        assert!(left.unconfirmed_bytes() > 0, "it waited for all");
        let reader = Job::start(move || (read_all(&right, total - (700 << 10)), right));
        assert!(left.confirm_all(patience()).unwrap().sends > 0);
        let (_, right) = reader.finish();

        // And on its own it goes on to the end.
        let all = Bytes::from(pattern(8 << 20));
        let whole = all.clone();
        let writer = Job::start(move || {
            impatiently(|| {
                for at in (0..whole.len()).step_by(64 << 10) {
                    left.write_all_owned(&[whole.slice(at..at + (64 << 10))]).unwrap();
                }
                (left.confirm_all(None).unwrap(), left)
            })
        });
        writer.wait_until_asleep();
        assert_eq!(read_all(&right, all.len()), all);
        assert!(writer.finish().0.sends > 0);
    });
}

#[test]
fn no_memory_for_notifications_at_all_means_a_copy() {
    let test = "no_memory_for_notifications_at_all_means_a_copy";
    if in_own_network(test, &format!("ip link set lo up; echo 1 > {OPTMEM}")).is_some() {
        return;
    }
    scope(LIMIT, |_| {
        let (left, right) = tcp();
        let fd = left.descriptor().unwrap();
        left.write_all_owned(&[Bytes::from(vec![7; 100_000])]).unwrap();
        let refused = qio_os::send_zero_copy(fd.as_fd(), &[io::IoSlice::new(b"x")]);
        assert_eq!(refused, Err(rustix::io::Errno::NOBUFS), "the limit has no effect");
        assert_eq!(read_all(&right, 100_000), [7; 100_000]);
        let confirmed = left.confirm_all(patience()).unwrap();
        assert!(confirmed.copied && confirmed.sends == 0, "{confirmed:?}");
    });
}

/// Over a pair of virtual devices. The receiving side of one machine copies, so what arrives was
/// copied; what is lost with the link was not, and the kernel says so when it gives up.
#[test]
fn only_what_the_kernel_copied_counts_as_copied() {
    let test = "only_what_the_kernel_copied_counts_as_copied";
    let name = format!("qiozc{}", std::process::id());
    let setup = format!(
        "ip netns add {name}; trap 'ip netns del {name}' EXIT; export QIO_TEST_PEER={name}; \
         ip link add v0 type veth peer name v1 netns {name}; \
         ip addr add 10.99.0.1/24 dev v0; ip link set v0 up; \
         ip -n {name} addr add 10.99.0.2/24 dev v1; ip -n {name} link set v1 up; \
         \"$0\" \"$@\"; exit $?"
    );
    if in_own_network(test, &setup).is_some() {
        return;
    }
    let peer = std::env::var("QIO_TEST_PEER").unwrap();
    // This thread moves to the other namespace to listen there, and comes back.
    let here = std::fs::File::open("/proc/self/ns/net").unwrap();
    let there = std::fs::File::open(format!("/var/run/netns/{peer}")).unwrap();
    let enter = |file: &std::fs::File| {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), network).unwrap();
    };
    enter(&there);
    let listener = TcpListener::bind("10.99.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    enter(&here);
    let link = |state: &str| {
        let args = ["-n", &peer, "link", "set", "v1", state];
        assert!(Command::new("ip").args(args).status().unwrap().success());
    };
    let connect = || {
        let left = socket(TcpStream::connect(address).unwrap());
        let give_up = sockopt::set_tcp_user_timeout(left.descriptor().unwrap(), 300);
        give_up.unwrap();
        (left, socket(listener.accept().unwrap().0))
    };
    scope(LIMIT, |_| {
        let (left, right) = connect();
        let all = Bytes::from(pattern(4 << 20));
        let reader = Job::start(move || (read_all(&right, 4 << 20), right));
        left.write_all_owned(std::slice::from_ref(&all)).unwrap();
        let confirmed = left.confirm_all(patience()).unwrap();
        println!("what has arrived: {confirmed:?}");
        assert!(confirmed.sends >= 4);
        assert_eq!(reader.finish().0, all);

        let (lost, _peer) = connect();
        let (mixed, other) = connect();
        mixed.write_all_owned(&[Bytes::from_static(b"before")]).unwrap();
        read_all(&other, 6);
        link("down");
        for left in [&lost, &mixed] {
            for _ in 0..3 {
                left.write_all_owned(&[all.slice(..10_000)]).unwrap();
            }
            assert_eq!(left.confirm().unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        let of_lost = lost.confirm_all(patience()).unwrap();
        assert!(!of_lost.copied && of_lost.sends == 3, "{of_lost:?}");
        // One was copied and three were not.
        let of_mixed = mixed.confirm_all(patience()).unwrap();
        assert!(of_mixed.sends == 4 && of_mixed.copied == confirmed.copied, "{of_mixed:?}");
        assert_eq!(mixed.confirm_all(patience()).unwrap(), Confirmed::default());
    });
}
