//! Calls, at times that are passed in.

use std::net::{TcpListener, TcpStream};

use rustix::net::SocketType;

use super::*;
use crate::channel::ChannelExt;
use crate::interest::Readiness;
use crate::net::address::Address;
use crate::transport::Socket;

fn dial(peers: &[SocketAddr]) -> Dial {
    let socket = TcpSocket::of(&Address::tcp("x", 1));
    let remote = Lookup::new("127.0.0.1", "1");
    let mut dial = Dial::new("tcp://x:1", remote, None, socket, None);
    dial.resolving = None;
    dial.waiting = peers.iter().copied().collect();
    dial
}

fn run(dial: Dial) -> Result<Arc<dyn Channel>> {
    match crate::watch::run(dial, None).unwrap() {
        std::ops::ControlFlow::Break(result) => result,
        std::ops::ControlFlow::Continue(_) => panic!("no deadline"),
    }
}

/// An address on which nothing listens: the port stays bound, without listening.
fn refusing() -> (std::os::fd::OwnedFd, SocketAddr) {
    let fd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let address = rustix::net::getsockname(&fd).unwrap().try_into().unwrap();
    (fd, address)
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses() {
    let (_closed, refusing) = refusing();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    run(dial(&[refusing, listener.local_addr().unwrap()])).unwrap();
    listener.accept().unwrap();
}

#[test]
fn the_error_tells_what_happened_to_each_address() {
    let ((_one, first), (_two, second)) = (refusing(), refusing());
    let error = run(dial(&[first, second])).unwrap_err();
    assert_eq!(error.class(), Class::Open);
    assert_eq!(
        error.report().to_string(),
        format!(
            "connect tcp://x:1: {first}: connection refused; {second}: connection refused \
             (nothing listens there)"
        )
    );
}

/// An address that answers no call: its backlog is full.
struct Hole {
    address: SocketAddr,
    _listener: std::os::fd::OwnedFd,
    _clients: Vec<TcpStream>,
}

fn hole() -> Hole {
    let (listener, address) = refusing();
    rustix::net::listen(&listener, 0).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        clients.push(client);
        assert!(clients.len() < 10, "a backlog of 0 takes all");
    }
    Hole { address, _listener: listener, _clients: clients }
}

fn connected(result: Poll<Result<Arc<dyn Channel>>>) -> Option<Arc<dyn Channel>> {
    match result {
        Poll::Pending => None,
        Poll::Ready(result) => Some(result.unwrap()),
    }
}

#[test]
fn families_take_turns_and_the_first_address_stays_the_first() {
    for (found, turns) in [
        ("6a 6b 6c 4a 4b", "6a 4a 6b 4b 6c"),
        ("4a 6a 6b 4b 4c", "4a 6a 4b 6b 4c"),
        ("6a 6b", "6a 6b"),
        ("4a", "4a"),
        ("", ""),
    ] {
        let address = |text: &str| -> SocketAddr {
            let ip = text.replacen('6', "[2001:db8::", 1).replacen('4', "10.0.0.", 1);
            let ip = ip.replace(".a", ".10").replace(".b", ".11").replace(".c", ".12");
            let end = if ip.starts_with('[') { "]:1" } else { ":1" };
            format!("{ip}{end}").parse().unwrap()
        };
        let list = |text: &str| text.split_whitespace().map(address).collect::<VecDeque<_>>();
        assert_eq!(interleaved(list(found)), list(turns), "{found}");
    }
}

#[test]
fn silence_lets_the_next_address_in_after_the_delay_and_the_loser_is_left_at_once() {
    let (hole, listener) = (hole(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut dial = dial(&[hole.address, listener.local_addr().unwrap()]);
    let start = Instant::now();
    assert!(connected(dial.step(start)).is_none());
    let mut forgotten = PollSet::new();
    dial.watch(&mut forgotten);
    assert_eq!(forgotten.legs().len(), 1);
    assert_eq!(forgotten.deadline(), Some(start + CONNECTION_ATTEMPT_DELAY));
    let almost = CONNECTION_ATTEMPT_DELAY - Duration::from_millis(1);
    assert!(connected(dial.step(start + almost)).is_none());
    assert_eq!(dial.attempts.len(), 1);

    let channel = connected(dial.step(start + CONNECTION_ATTEMPT_DELAY)).unwrap();
    listener.accept().unwrap();
    forgotten.poll(Some(Instant::now())).unwrap();
    assert!(forgotten.granted().contains(Readiness::HANGUP), "the first call goes on");
    drop(channel);
}

#[test]
fn a_failure_lets_the_next_address_in_at_once() {
    let (hole, (_closed, refusing)) = (hole(), refusing());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut dial = dial(&[hole.address, refusing, listener.local_addr().unwrap()]);
    let start = Instant::now();
    assert!(connected(dial.step(start)).is_none());
    connected(dial.step(start + CONNECTION_ATTEMPT_DELAY)).unwrap();
    assert_eq!((dial.tried, dial.failures.len()), (3, 1));
}

#[test]
fn the_first_address_may_still_win() {
    let (hole, (listener, late)) = (hole(), refusing());
    let mut dial = dial(&[late, hole.address]);
    // The first one listens, and what it answers is looked at after the second was called.
    rustix::net::listen(&listener, 1).unwrap();
    let start = Instant::now();
    let peer = dial.waiting.pop_front().unwrap();
    dial.start(peer, start).unwrap();
    let peer = dial.waiting.pop_front().unwrap();
    dial.start(peer, start).unwrap();
    let channel = connected(dial.step(start)).unwrap();
    let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
    let peer = rustix::net::getpeername(&fd).unwrap().unwrap();
    assert_eq!(SocketAddr::try_from(peer).unwrap(), late);
}

#[test]
fn a_bounded_number_of_addresses_is_called_and_the_oldest_gives_way() {
    let hole = hole();
    let mut dial = dial(&[hole.address; MAX_ATTEMPTS + 1]);
    let start = Instant::now();
    dial.deadline = Some(start + Duration::from_secs(9));
    for turn in 0..u32::try_from(MAX_ATTEMPTS).unwrap() {
        assert!(connected(dial.step(start + CONNECTION_ATTEMPT_DELAY * turn)).is_none());
        assert_eq!(dial.attempts.len(), turn as usize + 1);
    }
    let all = start + CONNECTION_ATTEMPT_DELAY * 8;
    assert!(connected(dial.step(all)).is_none());
    assert_eq!((dial.attempts.len(), dial.waiting.len()), (MAX_ATTEMPTS, 0));
    assert_eq!((dial.attempts[0].number, dial.failures.len()), (1, 1));
}

#[test]
fn without_a_deadline_a_full_house_waits_for_a_failure_and_does_not_spin() {
    let hole = hole();
    let mut dial = dial(&[hole.address; MAX_ATTEMPTS + 1]);
    let start = Instant::now();
    for turn in 0..10 {
        assert!(connected(dial.step(start + CONNECTION_ATTEMPT_DELAY * turn)).is_none());
    }
    assert_eq!((dial.attempts.len(), dial.waiting.len()), (MAX_ATTEMPTS, 1));
    let mut set = PollSet::new();
    dial.watch(&mut set);
    assert_eq!((set.legs().len(), set.deadline()), (MAX_ATTEMPTS, None));
}

#[test]
fn a_short_deadline_is_shared_among_the_addresses() {
    let (hole, listener) = (hole(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut dial = dial(&[hole.address, listener.local_addr().unwrap()]);
    let start = Instant::now();
    dial.deadline = Some(start + Duration::from_millis(100));
    assert!(connected(dial.step(start)).is_none());
    connected(dial.step(start + Duration::from_millis(50))).unwrap();
}

#[test]
fn the_deadline_tells_of_each_address_in_the_order_in_which_they_were_called() {
    let (hole, (_closed, refusing)) = (hole(), refusing());
    let mut dial = dial(&[hole.address, refusing]);
    let start = Instant::now();
    dial.deadline = Some(start + Duration::from_secs(10));
    assert!(connected(dial.step(start)).is_none());
    assert!(connected(dial.step(start + Duration::from_secs(1))).is_none());
    let Poll::Ready(Err(error)) = dial.step(start + Duration::from_secs(10)) else { panic!() };
    assert_eq!(error.class(), Class::Timeout);
    assert_eq!(
        error.report().to_string(),
        format!("connect tcp://x:1: {}: timed out; {refusing}: connection refused", hole.address)
    );
}

#[test]
fn a_port_to_connect_from_is_used_for_one_address_after_the_other() {
    let (hole, (_closed, refusing_peer)) = (hole(), refusing());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (closed, local) = refusing();
    drop(closed);
    let mut dial = dial(&[refusing_peer, hole.address, listener.local_addr().unwrap()]);
    dial.local = Local::Known([local].into());
    let start = Instant::now();
    dial.deadline = Some(start + Duration::from_secs(10));
    let mut set = PollSet::new();
    let mut waited_step = |after: Duration| {
        let result = dial.step(start + after);
        set.clear();
        if result.is_pending() {
            dial.watch(&mut set);
        }
        (result, set.legs().len())
    };
    // The first one refuses; the second has its turn when nobody owns the socket of the first.
    let at_once = Duration::ZERO;
    assert!(matches!(waited_step(at_once), (Poll::Pending, 0)));
    assert!(matches!(waited_step(at_once), (Poll::Pending, 1)));
    assert!(matches!(waited_step(CONNECTION_ATTEMPT_DELAY), (Poll::Pending, 1)));
    // Half of the time is for the third.
    let half = Duration::from_secs(5);
    assert!(matches!(waited_step(half - CONNECTION_ATTEMPT_DELAY), (Poll::Pending, 1)));
    assert!(matches!(waited_step(half), (Poll::Pending, 0)));
    assert!(matches!(waited_step(half), (Poll::Ready(Ok(_)), 0)));
    assert_eq!(listener.accept().unwrap().1, local);
}
