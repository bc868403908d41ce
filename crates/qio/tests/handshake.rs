//! Handshakes of clients before they are handed out.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{PATIENCE, eventually, in_own_process, open_fds, patience};
use qio::error::Class;
use qio::net::{self, Accepted, Handshake, Handshakes, ListenEvent, ListenOptions, Listener};
use qio::watch::{PollSet, Steps, Waiter, waiter};
use qio::{Channel, ChannelExt, Error, Interest, Mode};

/// Reads a greeting of one byte, which has to be an exclamation mark.
struct Greeting(Arc<dyn Channel>);

impl Steps for Greeting {
    type Output = qio::Result<Arc<dyn Channel>>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(1) if byte == *b"!" => Poll::Ready(Ok(Arc::clone(&self.0))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            other => {
                let error = Error::new(Class::Io, "greet", self.0.name());
                Poll::Ready(Err(error.because(format!("got {other:?}"))))
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        if !self.0.watch(Interest::READ, set).is_empty() {
            set.wake_at(Instant::now());
        }
    }
}

fn greet(client: &Accepted) -> qio::Result<Handshake> {
    assert_eq!(client.channel.base().mode(), Mode::NonBlocking);
    Ok(Box::new(Greeting(Arc::clone(&client.channel))))
}

/// What the observer was told.
type Told = Arc<Mutex<Vec<Class>>>;

fn listen(options: ListenOptions) -> (Listener, Told) {
    let told = Told::default();
    let observer = Arc::clone(&told);
    let options = options.observe(move |event| match event {
        ListenEvent::HandshakeFailed { error, .. } => observer.lock().unwrap().push(error.class()),
        other => panic!("{other:?}"),
    });
    (net::listen(&"listen:tcp://:0?backlog=4096".parse().unwrap(), &options).unwrap(), told)
}

fn dial(listener: &Listener) -> TcpStream {
    let port = listener.local_addresses()[0].port().unwrap();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn is_closed(mut client: TcpStream) -> bool {
    match client.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Whether this is the client at the other end.
fn is_served(accepted: &Accepted, client: &mut TcpStream) -> bool {
    assert_eq!(accepted.channel.base().mode(), Mode::Blocking);
    accepted.channel.write_all(b"welcome").unwrap();
    let mut text = [0; 7];
    client.read_exact(&mut text).unwrap();
    accepted.who.remote() == Some(client.local_addr().unwrap())
}

/// Accepts until the time has passed.
fn nobody_until<F>(clients: &mut Handshakes<&Listener, F>, until: Instant)
where
    F: FnMut(&Accepted) -> qio::Result<Handshake>,
{
    assert_eq!(clients.accept(Some(until)).unwrap_err().kind(), ErrorKind::TimedOut);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

struct Counting(Cell<u32>);

impl Waiter for Counting {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        set.poll(until)
    }
}

#[test]
fn a_thousand_stalled_clients_hold_nobody_up_and_are_gone_at_their_deadline() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    in_own_process(
        "a_thousand_stalled_clients_hold_nobody_up_and_are_gone_at_their_deadline",
        || {
            let mut limit = getrlimit(Resource::Nofile);
            limit.current = limit.maximum;
            setrlimit(Resource::Nofile, limit).unwrap();
            if limit.maximum.is_some_and(|maximum| maximum < 2500) {
                println!("skipped: {limit:?} is not enough for a thousand connections");
                return;
            }
            let (listener, told) = listen(ListenOptions::new());
            let before = open_fds();
            // More than may be pending, so that some make room and others meet their deadline.
            let stalled: Vec<_> = (0..1000).map(|_| dial(&listener)).collect();
            let mut clients =
                Handshakes::new(&listener, greet).limit(600).timeout(Duration::from_millis(300));
            let mut honest = dial(&listener);
            honest.write_all(b"!").unwrap();
            let waiter = Rc::new(Counting(Cell::new(0)));
            waiter::scoped(waiter.clone(), || {
                let start = Instant::now();
                let accepted = clients.accept(patience()).unwrap();
                let took = start.elapsed();
                assert!(is_served(&accepted, &mut honest));
                // The honest one has had the place of the last that made room.
                assert_eq!(clients.pending(), 599);
                assert_eq!(told.lock().unwrap().len(), 401, "the oldest made room");
                let in_turns = waiter.0.get();
                assert!(in_turns <= 1001 / 16 + 2, "{in_turns} wake-ups for 1001 clients");
                // Whoever is left is closed in time, with a handful of wake-ups for all.
                eventually("all are gone", || {
                    nobody_until(&mut clients, soon());
                    clients.pending() == 0
                });
                println!(
                    "served after {took:?}, {in_turns} + {} wake-ups",
                    waiter.0.get() - in_turns
                );
                assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
                assert!(waiter.0.get() - in_turns < 200, "{} wake-ups", waiter.0.get());
                let told = told.lock().unwrap();
                let of = |class| told.iter().filter(|&&told| told == class).count();
                assert_eq!((of(Class::Cancelled), of(Class::Timeout)), (401, 599));
            });
            assert!(stalled.into_iter().all(is_closed));
            drop((clients, honest));
            assert_eq!(open_fds(), before);
        },
    );
}

#[test]
fn the_oldest_makes_room_and_nobody_else() {
    let (listener, told) = listen(ListenOptions::new());
    let mut clients = Handshakes::new(&listener, greet).limit(2);
    let oldest = dial(&listener);
    let (mut second, mut third) = (dial(&listener), dial(&listener));
    nobody_until(&mut clients, soon());
    assert_eq!((clients.pending(), told.lock().unwrap().clone()), (2, vec![Class::Cancelled]));
    assert!(is_closed(oldest));
    for client in [&mut third, &mut second] {
        client.write_all(b"!").unwrap();
        let accepted = clients.accept(patience()).unwrap();
        assert!(is_served(&accepted, client));
    }
    assert_eq!((clients.pending(), told.lock().unwrap().len()), (0, 1));
}

#[test]
fn a_handshake_that_fails_closes_its_client_and_no_other() {
    let (listener, told) = listen(ListenOptions::new());
    // The first is refused before it has begun.
    let mut first = true;
    let mut clients =
        Handshakes::new(&listener, |client: &Accepted| match std::mem::take(&mut first) {
            true => Err(Error::new(Class::Usage, "greet", &client.peer)),
            false => greet(client),
        });
    let refused = dial(&listener);
    let mut served = dial(&listener);
    served.write_all(b"!").unwrap();
    assert!(is_served(&clients.accept(patience()).unwrap(), &mut served));
    assert!(is_closed(refused));
    assert_eq!(*told.lock().unwrap(), [Class::Usage]);
    let mut clients = Handshakes::new(&listener, greet);
    let mut rude = dial(&listener);
    rude.write_all(b"?").unwrap();
    let mut polite = dial(&listener);
    polite.write_all(b"!").unwrap();
    assert!(is_served(&clients.accept(patience()).unwrap(), &mut polite));
    assert!(is_closed(rude));
    assert_eq!(told.lock().unwrap().last(), Some(&Class::Io));
}

#[test]
fn who_got_through_waits_for_a_place_and_who_did_not_takes_none() {
    let (listener, told) = listen(ListenOptions::new().max_connections(1));
    let mut clients = Handshakes::new(&listener, greet).timeout(Duration::from_millis(200));
    // Two that stall do not keep the third from the only place.
    let stalled = [dial(&listener), dial(&listener)];
    let mut early = [dial(&listener), dial(&listener)];
    nobody_until(&mut clients, soon());
    assert_eq!(clients.pending(), 4);
    for client in &mut early {
        client.write_all(b"!").unwrap();
    }
    let [mut one, mut two] = early;
    let first = clients.accept(patience()).unwrap();
    if first.who.remote() == Some(two.local_addr().unwrap()) {
        std::mem::swap(&mut one, &mut two);
    }
    assert!(is_served(&first, &mut one));
    // The other got through in time, and waits for longer than a handshake may take.
    let mut late = dial(&listener);
    late.write_all(b"!").unwrap();
    nobody_until(&mut clients, Instant::now() + Duration::from_millis(300));
    assert!(stalled.into_iter().all(is_closed));
    assert_eq!(*told.lock().unwrap(), [Class::Timeout, Class::Timeout]);
    assert_eq!(clients.pending(), 0, "while it is full, nobody is accepted");
    first.channel.close().unwrap();
    let second = clients.accept(patience()).unwrap();
    assert!(is_served(&second, &mut two));
    drop(second);
    assert!(is_served(&clients.accept(patience()).unwrap(), &mut late));
}

#[test]
fn a_full_listener_with_a_client_that_waits_for_a_place_sleeps() {
    let (listener, _told) = listen(ListenOptions::new().max_connections(1));
    let mut clients = Handshakes::new(&listener, greet);
    let mut both = [dial(&listener), dial(&listener)];
    nobody_until(&mut clients, soon());
    both.iter_mut().for_each(|client| client.write_all(b"!").unwrap());
    let _first = clients.accept(patience()).unwrap();
    let _backlog = dial(&listener);
    let waiter = Rc::new(Counting(Cell::new(0)));
    waiter::scoped(waiter.clone(), || {
        nobody_until(&mut clients, Instant::now() + Duration::from_millis(200));
    });
    assert!(waiter.0.get() <= 3, "{} wake-ups", waiter.0.get());
}

#[test]
fn a_listener_that_is_full_and_at_the_limit_of_descriptors_sleeps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    in_own_process("a_listener_that_is_full_and_at_the_limit_of_descriptors_sleeps", || {
        let options = ListenOptions::new().max_connections(1);
        let listener = net::listen(&"listen:tcp://:0".parse().unwrap(), &options).unwrap();
        let mut clients = Handshakes::new(&listener, greet);
        let mut first = dial(&listener);
        nobody_until(&mut clients, soon());
        assert_eq!(clients.pending(), 1);
        let mut second = dial(&listener);
        let limit = Rlimit { current: Some(64), maximum: Some(64) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut filler = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            filler.push(file);
        }
        assert!(net::is_descriptor_limit(&clients.accept(Some(soon())).unwrap_err()));
        assert!(listener.is_starved());
        // The only place goes to the first, while the second waits for a descriptor.
        first.write_all(b"!").unwrap();
        let served = clients.accept(patience()).unwrap();
        let waiter = Rc::new(Counting(Cell::new(0)));
        waiter::scoped(waiter.clone(), || {
            clients.accept(Some(Instant::now() + Duration::from_millis(400))).unwrap_err();
        });
        assert!(waiter.0.get() <= 6, "{} wake-ups", waiter.0.get());
        // A place without a descriptor, and then both.
        served.channel.close().unwrap();
        filler.extend(std::fs::File::open("/dev/null"));
        assert!(net::is_descriptor_limit(&clients.accept(Some(soon())).unwrap_err()));
        filler.clear();
        second.write_all(b"!").unwrap();
        assert!(is_served(&clients.accept(patience()).unwrap(), &mut second));
        assert!(!listener.is_starved());
    });
}

#[test]
fn a_handshake_may_take_longer_than_any_clock_can_show() {
    let (listener, _told) = listen(ListenOptions::new());
    let mut clients = Handshakes::new(&listener, greet).timeout(Duration::MAX);
    let mut client = dial(&listener);
    nobody_until(&mut clients, soon());
    client.write_all(b"!").unwrap();
    assert!(is_served(&clients.accept(patience()).unwrap(), &mut client));
}

#[test]
fn closing_and_dropping_close_those_that_were_not_handed_out() {
    in_own_process("closing_and_dropping_close_those_that_were_not_handed_out", || {
        let before = open_fds();
        for is_closing in [true, false] {
            let (listener, told) = listen(ListenOptions::new());
            let mut clients = Handshakes::new(&listener, greet);
            let pending = [dial(&listener), dial(&listener)];
            nobody_until(&mut clients, soon());
            assert_eq!(clients.pending(), 2);
            if is_closing {
                listener.close().unwrap();
                let error = clients.accept(patience()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotConnected);
                assert_eq!(clients.pending(), 0);
                assert!(pending.into_iter().all(is_closed));
            } else {
                drop(clients);
                assert!(pending.into_iter().all(is_closed));
            }
            assert!(told.lock().unwrap().is_empty(), "nothing failed");
        }
        assert_eq!(open_fds(), before);
    });
}
