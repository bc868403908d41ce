//! The life of a listener: pausing, closing, reopening, further sockets, limits.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    PATIENCE, announcing_waits, eventually, impatiently, in_own_process, open_fds, patience,
};
use qio::error::Class;
use qio::net::{
    self, Address, ConnectOptions, Inherited, ListenEvent, ListenOptions, Listener,
    is_descriptor_limit,
};
use qio::transport::Socket;
use qio::watch::{PollSet, Steps, Waiter, waiter};
use qio::{Channel, ChannelExt, InheritedFds};

fn listen(text: &str) -> Listener {
    net::listen(&text.parse().unwrap(), &ListenOptions::new()).unwrap()
}

fn limited(limit: usize) -> Listener {
    let options = ListenOptions::new().max_connections(limit);
    net::listen(&"listen:tcp://:0".parse().unwrap(), &options).unwrap()
}

fn first(listener: &Listener) -> Address {
    listener.local_addresses().remove(0)
}

fn connect(address: &Address) -> Arc<dyn Channel> {
    net::connect(address, &ConnectOptions::new()).unwrap()
}

fn would_block(listener: &Listener) -> bool {
    listener.try_accept().unwrap_err().kind() == ErrorKind::WouldBlock
}

/// Runs `body`, and says how often it has waited.
fn counting_waits<R>(body: impl FnOnce() -> R) -> (R, u32) {
    struct Counting(Cell<u32>);
    impl Waiter for Counting {
        fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            set.poll(until)
        }
    }
    let waiter = Rc::new(Counting(Cell::new(0)));
    let result = waiter::scoped(waiter.clone(), body);
    (result, waiter.0.get())
}

/// Accepts in a thread, which waits already when this returns.
fn accepting(listener: &Arc<Listener>) -> thread::JoinHandle<io::Result<net::Accepted>> {
    let (waits, waiting) = mpsc::channel();
    let listener = Arc::clone(listener);
    let thread = thread::spawn(move || announcing_waits(waits, || listener.accept(patience())));
    waiting.recv().unwrap();
    thread
}

#[test]
fn clients_of_a_paused_listener_wait_in_the_backlog() {
    let listener = listen("listen:tcp://:0");
    listener.pause();
    listener.pause();
    assert!(listener.is_listening() && listener.is_paused());
    let clients: Vec<_> = (0..3).map(|_| connect(&first(&listener))).collect();
    assert!(would_block(&listener));
    // Nothing of the sockets wakes who waits.
    let soon = Instant::now() + Duration::from_millis(100);
    let (result, waits) = counting_waits(|| listener.accept(Some(soon)));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(Instant::now() >= soon);
    assert_eq!(waits, 1, "it slept once");
    listener.resume();
    assert!(!listener.is_paused());
    for _ in clients {
        listener.try_accept().unwrap();
    }
    // What is closed stays so.
    listener.close().unwrap();
    listener.pause();
    listener.resume();
    assert!(!listener.is_listening() && !listener.is_paused());
}

#[test]
fn resuming_and_closing_wake_who_waits_at_a_paused_listener() {
    let listener = Arc::new(listen("listen:tcp://:0"));
    listener.pause();
    let accepted = accepting(&listener);
    let _client = connect(&first(&listener));
    let start = Instant::now();
    listener.resume();
    accepted.join().unwrap().unwrap();
    listener.pause();
    let refused = accepting(&listener);
    listener.close().unwrap();
    assert_eq!(refused.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(start.elapsed() < PATIENCE / 2, "woken by its deadline only");
}

#[test]
fn who_waits_for_a_client_hears_of_sockets_that_are_added() {
    let listener = Arc::new(Listener::new(&ListenOptions::new()));
    assert!(listener.is_listening() && would_block(&listener));
    // Before there is any, after another one, and while it is paused.
    let start = Instant::now();
    let accepted = accepting(&listener);
    listener.add(&"listen:tcp://:0".parse().unwrap()).unwrap();
    assert_eq!(listener.to_string(), "listen:tcp://:0");
    let _client = connect(&first(&listener));
    accepted.join().unwrap().unwrap();

    let accepted = accepting(&listener);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    listener.add_fd(socket.into()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let accepted = accepted.join().unwrap().unwrap();
    assert_eq!(accepted.who.remote(), Some(client.local_addr().unwrap()));
    assert_eq!(listener.local_addresses()[1].to_string(), format!("tcp://{address}"));

    let accepted = accepting(&listener);
    let other = listen("listen:tcp://:0");
    let _waiting = connect(&first(&other));
    listener.merge(&other).unwrap();
    accepted.join().unwrap().unwrap();
    assert!(start.elapsed() < PATIENCE / 2, "woken by its deadline only");
    assert!(listener.is_ip() && !listener.is_unix());
}

#[test]
fn listening_sockets_of_any_backlog_can_be_added() {
    let dir = tempfile::tempdir().unwrap();
    for backlog in [0, 1, 128, 4096] {
        let listener = Listener::new(&ListenOptions::new());
        let tcp = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::bind(&tcp, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        rustix::net::listen(&tcp, backlog).unwrap();
        let kept = tcp.try_clone().unwrap();
        listener.add_fd(tcp).unwrap();
        let path = dir.path().join(backlog.to_string());
        listener.add_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
        assert!(!listener.is_ip() && !listener.is_unix());
        let address = first(&listener);
        let tcp = connect(&address);
        let unix = UnixStream::connect(&path).unwrap();
        for _ in 0..2 {
            let accepted = listener.accept(patience()).unwrap();
            let is_unix = accepted.who.credentials().is_some();
            assert_ne!(is_unix, accepted.who.remote().is_some());
        }
        drop((tcp, unix));
        // It goes on for those that share it, and the file was not ours.
        listener.close().unwrap();
        connect(&address);
        rustix::net::accept(kept).unwrap();
        assert!(path.exists());
    }
}

#[test]
fn what_cannot_be_added_is_given_back_untouched() {
    let listener = Listener::new(&ListenOptions::new());
    let is_blocking =
        |fd: &OwnedFd| !rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (fd, cause) in [
        (OwnedFd::from(ours), "the socket does not listen"),
        (file.into(), "the descriptor is not a socket"),
    ] {
        let (error, fd) = listener.add_fd(fd).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, cause));
        assert!(is_blocking(&fd));
    }
    assert!(listener.local_addresses().is_empty());
    listener.close().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (error, fd) = listener.add_fd(socket.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(is_blocking(&fd));
    let socket = TcpListener::from(fd);
    let _client = TcpStream::connect(address).unwrap();
    socket.accept().unwrap();
    // An address is not left listened on.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let error = listener.add(&Address::unix(&path).listening()).unwrap_err();
    assert_eq!((error.class(), error.io_kind()), (Class::Open, Some(ErrorKind::NotConnected)));
    assert!(!path.exists());
}

#[test]
fn merged_listeners_are_one_and_those_who_waited_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let (all, late) =
        (listen("listen:tcp://:0"), listen(&format!("listen:unix:{}", path.display())));
    let late = Arc::new(late);
    all.set_name("all");
    let waiting = accepting(&late);
    all.merge(&late).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    let _unix = connect(&Address::unix(&path));
    let accepted = all.accept(patience()).unwrap();
    assert_eq!(accepted.channel.name(), format!("all {}", accepted.peer));
    let _tcp = connect(&first(&all));
    all.accept(patience()).unwrap();
    // The file is that of the one now.
    drop(late);
    assert!(path.exists());
    all.close().unwrap();
    assert!(!path.exists());
    all.reopen().unwrap();
    assert!(path.exists());
    assert_eq!(all.local_addresses().len(), 2);

    assert_eq!(all.merge(&all).unwrap_err().kind(), ErrorKind::InvalidInput);
    let closed = listen("listen:tcp://:0");
    closed.close().unwrap();
    assert_eq!(all.merge(&closed).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(closed.merge(&all).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(all.local_addresses().len(), 2);
    let _client = connect(&first(&all));
    all.accept(patience()).unwrap();
}

#[test]
fn a_reopened_listener_has_its_addresses_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = listen("listen:tcp://localhost:0?backlog=7");
    listener.add(&Address::unix(&path).listening()).unwrap();
    let addresses = listener.local_addresses();
    listener.reopen().unwrap();
    assert_eq!(listener.local_addresses(), addresses, "it listens already");
    for _ in 0..3 {
        listener.close().unwrap();
        assert!(!listener.is_listening() && !path.exists());
        listener.reopen().unwrap();
        assert!(listener.is_listening());
        assert_eq!(listener.local_addresses(), addresses);
        for address in &addresses {
            let _client = connect(address);
            listener.accept(patience()).unwrap();
        }
    }
}

#[test]
fn reopening_opens_all_addresses_or_none_and_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = net::listen(&Address::unix(&path).listening(), &ListenOptions::new()).unwrap();
    listener.add(&"listen:tcp://127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addresses()[1].port().unwrap();
    listener.close().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = listener.reopen().unwrap_err();
    assert_eq!((error.class(), error.io_kind()), (Class::Open, Some(ErrorKind::AddrInUse)));
    assert!(!listener.is_listening() && !path.exists());
    drop(taken);
    listener.reopen().unwrap();
    let _client = connect(&Address::unix(&path));
    listener.accept(patience()).unwrap();

    // Sockets that were handed over do not come back.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.add_fd(socket.into()).unwrap();
    assert_eq!(listener.local_addresses().len(), 3);
    listener.close().unwrap();
    listener.reopen().unwrap();
    assert_eq!(listener.local_addresses().len(), 2);

    let handed_over = Listener::new(&ListenOptions::new());
    handed_over.add_fd(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
    handed_over.close().unwrap();
    let report = handed_over.reopen().unwrap_err().report().to_string();
    assert!(report.ends_with("only sockets that were handed over"), "{report}");

    let mut table = InheritedFds::new();
    table.insert(3, TcpListener::bind("127.0.0.1:0").unwrap().into());
    let options = ListenOptions::new().inherited(Inherited::from(table));
    let inherited = net::listen(&Address::fd(3).listening(), &options).unwrap();
    inherited.close().unwrap();
    let report = inherited.reopen().unwrap_err().report().to_string();
    assert!(report.contains("no descriptor 3 was handed over"), "{report}");
}

#[test]
fn a_further_client_waits_until_a_channel_is_closed_or_dropped() {
    let listener = Arc::new(limited(2));
    let clients: Vec<_> = (0..4).map(|_| connect(&first(&listener))).collect();
    let one = listener.accept(patience()).unwrap().channel;
    let two = listener.accept(patience()).unwrap().channel;
    assert!(would_block(&listener));
    // A full listener sleeps, although a client is there.
    let soon = Instant::now() + Duration::from_millis(100);
    let (result, waits) = counting_waits(|| listener.accept(Some(soon)));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(waits, 1, "it slept once");
    // It is an ordinary socket otherwise.
    assert!(one.find::<Socket>().is_some());
    clients[0].write_all(b"x").unwrap();
    one.read_exact(&mut [0]).unwrap();

    let start = Instant::now();
    let third = accepting(&listener);
    one.close().unwrap();
    one.close().unwrap();
    let three = third.join().unwrap().unwrap().channel;
    assert!(would_block(&listener), "closing twice gives one place back");
    drop(one);
    assert!(would_block(&listener), "and dropping gives none");
    let fourth = accepting(&listener);
    drop(two);
    let four = fourth.join().unwrap().unwrap();
    assert!(start.elapsed() < PATIENCE / 2, "woken by its deadline only");
    drop((three, four));
    let _more: Vec<_> = (0..2).map(|_| connect(&first(&listener))).collect();
    let _both = [listener.try_accept().unwrap(), listener.try_accept().unwrap()];
    // The places outlive the listener.
    drop(listener);
}

#[test]
fn what_was_left_untried_is_tried_before_it_is_waited_for() {
    // An edge-triggered loop will not hear of a client again that came before.
    let listener = limited(1);
    let _clients = [connect(&first(&listener)), connect(&first(&listener))];
    let mut accepting = listener.accepting();
    let mut is_due = |between: &dyn Fn()| {
        assert!(accepting.step(Instant::now()).is_pending());
        between();
        let mut set = PollSet::new();
        accepting.watch(&mut set);
        set.deadline().is_some_and(|at| at <= Instant::now())
    };
    listener.pause();
    assert!(!is_due(&|| {}), "paused");
    assert!(is_due(&|| listener.resume()));
    let accepted = listener.try_accept().unwrap();
    assert!(!is_due(&|| {}), "full");
    assert!(is_due(&|| accepted.channel.close().unwrap()));
    listener.try_accept().unwrap();
    assert!(!is_due(&|| {}), "all were tried, and nobody is there");
}

#[test]
fn closing_wakes_who_waits_at_a_full_listener() {
    let listener = Arc::new(limited(1));
    let _client = connect(&first(&listener));
    let _accepted = listener.accept(patience()).unwrap();
    let start = Instant::now();
    let waiting = accepting(&listener);
    listener.close().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(start.elapsed() < PATIENCE / 2, "woken by its deadline only");
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn never_more_clients_are_there_than_may_be() {
    let listener = Arc::new(limited(3));
    let address = first(&listener);
    let live = Arc::new(Mutex::new((0, 0)));
    let servers: Vec<_> = (0..6)
        .map(|_| {
            let (listener, live) = (Arc::clone(&listener), Arc::clone(&live));
            thread::spawn(move || {
                let mut served = 0;
                while let Ok(client) = listener.accept(patience()) {
                    let mut count = live.lock().unwrap();
                    count.0 += 1;
                    count.1 = count.0.max(count.1);
                    drop(count);
                    let _ = client.channel.read(&mut [0]);
                    live.lock().unwrap().0 -= 1;
                    served += 1;
                }
                served
            })
        })
        .collect();
    // Its end is when it has been served.
    fn be_served(client: &dyn Channel) {
        client.write_all(b"x").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
    // All places at once, whatever the threads below get to.
    let first: Vec<_> = (0..3).map(|_| connect(&address)).collect();
    eventually("three clients are there", || live.lock().unwrap().0 == 3);
    first.into_iter().for_each(|client| be_served(&*client));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let address = address.clone();
            thread::spawn(move || (0..100).for_each(|_| be_served(&*connect(&address))))
        })
        .collect();
    clients.into_iter().for_each(|thread| thread.join().unwrap());
    listener.close().unwrap();
    let served: u32 = servers.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(served, 403);
    assert_eq!(live.lock().unwrap().1, 3, "all places were used, and no more");
}

#[test]
fn at_the_limit_of_descriptors_a_wait_backs_off_tells_it_once_and_recovers() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    in_own_process(
        "at_the_limit_of_descriptors_a_wait_backs_off_tells_it_once_and_recovers",
        || {
            let told = Arc::new(Mutex::new(Vec::new()));
            let observer = Arc::clone(&told);
            let options = ListenOptions::new().observe(move |event| {
                observer.lock().unwrap().push(match event {
                    ListenEvent::Starved { error } => {
                        assert!(is_descriptor_limit(error));
                        "starved"
                    }
                    ListenEvent::Recovered => "recovered",
                    other => panic!("{other:?}"),
                });
            });
            let listener = net::listen(&"listen:tcp://:0".parse().unwrap(), &options).unwrap();
            let limit = Rlimit { current: Some(64), maximum: Some(64) };
            setrlimit(Resource::Nofile, limit).unwrap();
            let mut client = Some(connect(&first(&listener)));
            let mut filler = Vec::new();
            for round in 1..=2 {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    filler.push(file);
                }
                let until = Instant::now() + Duration::from_secs(2);
                let (result, waits) = counting_waits(|| listener.accept(Some(until)));
                assert!(is_descriptor_limit(&result.unwrap_err()));
                // After 0.1, 0.3, 0.7, 1.5 s, and the end.
                assert!((4..=6).contains(&waits), "{waits} wake-ups in 2 s");
                println!("{waits} wake-ups in 2 s");
                assert!(listener.is_starved());
                // It has waited long enough to be at the longest pause.
                filler.clear();
                let start = Instant::now();
                listener.accept(patience()).unwrap();
                assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
                assert!(!listener.is_starved());
                assert_eq!(told.lock().unwrap().len(), 2 * round);
                client = Some(connect(&first(&listener)));
            }
            assert_eq!(*told.lock().unwrap(), ["starved", "recovered", "starved", "recovered"]);
            // At the limit without a client there is nothing to be told, and nothing to wake up for.
            listener.accept(patience()).unwrap();
            drop(client);
            while let Ok(file) = std::fs::File::open("/dev/null") {
                filler.push(file);
            }
            assert!(would_block(&listener));
            let until = Instant::now() + Duration::from_millis(300);
            let (result, waits) = counting_waits(|| listener.accept(Some(until)));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
            assert_eq!((waits, told.lock().unwrap().len()), (1, 4));
            // Closing ends a pause at once.
            drop(filler.pop());
            let _client = connect(&first(&listener));
            let mut accepting = listener.accepting();
            let mut set = PollSet::new();
            assert!(accepting.step(Instant::now()).is_pending() && listener.is_starved());
            accepting.watch(&mut set);
            assert!(set.deadline().is_some_and(|at| at > Instant::now()), "it pauses");
            listener.close().unwrap();
            set.poll(Some(Instant::now())).unwrap();
            assert!(!set.granted().is_empty());
            let Poll::Ready(Err(error)) = accepting.step(Instant::now()) else {
                panic!("it goes on")
            };
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        },
    );
}

#[test]
fn closing_while_threads_accept_a_thousand_times_leaks_nothing() {
    in_own_process("closing_while_threads_accept_a_thousand_times_leaks_nothing", || {
        impatiently(|| drop(connect(&first(&listen("listen:tcp://:0")))));
        let before = open_fds();
        for round in 0..1000 {
            let options = ListenOptions::new().max_connections((round % 2 == 0).then_some(1));
            let listener = net::listen(&"listen:tcp://:0".parse().unwrap(), &options).unwrap();
            let listener = Arc::new(listener);
            let address = first(&listener);
            let accept = || {
                let listener = Arc::clone(&listener);
                thread::spawn(move || while listener.accept(patience()).is_ok() {})
            };
            let threads = [accept(), accept()];
            let client = TcpStream::connect(("127.0.0.1", address.port().unwrap())).unwrap();
            listener.close().unwrap();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            drop(client);
        }
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn pausing_resuming_closing_reopening_and_merging_at_once_leak_nothing() {
    in_own_process("pausing_resuming_closing_reopening_and_merging_at_once_leak_nothing", || {
        drop(connect(&first(&listen("listen:tcp://:0"))));
        let before = open_fds();
        let one = Arc::new(listen("listen:tcp://:0"));
        let two = Arc::new(listen("listen:tcp://:0"));
        let addresses = [first(&one), first(&two)];
        let storm = |work: fn(&Listener, &Listener)| {
            let (one, two) = (Arc::clone(&one), Arc::clone(&two));
            thread::spawn(move || {
                for round in 0..1000 {
                    if round % 2 == 0 { work(&one, &two) } else { work(&two, &one) }
                }
            })
        };
        let storms = [
            storm(|one, _| {
                one.pause();
                one.resume();
            }),
            storm(|one, _| drop(one.close())),
            storm(|one, _| drop(one.reopen())),
            storm(|one, two| drop(one.merge(two))),
            storm(|one, two| {
                let _ = (one.try_accept(), two.accept(Some(Instant::now())));
            }),
            storm(|one, _| {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                if let Err((error, _fd)) = one.add_fd(socket.into()) {
                    assert_eq!(error.kind(), ErrorKind::NotConnected);
                }
            }),
        ];
        let calm = Arc::new(AtomicBool::new(false));
        let client = {
            let calm = Arc::clone(&calm);
            thread::spawn(move || {
                while !calm.load(Ordering::Relaxed) {
                    for address in &addresses {
                        let _ = net::connect(address, &ConnectOptions::new());
                    }
                }
            })
        };
        storms.into_iter().for_each(|thread| thread.join().unwrap());
        calm.store(true, Ordering::Relaxed);
        client.join().unwrap();
        // They work as before, with whatever they have got.
        for listener in [&one, &two] {
            listener.close().unwrap();
            if listener.reopen().is_ok() {
                let _client = connect(&first(listener));
                impatiently(|| listener.accept(None)).unwrap();
            }
        }
        drop((one, two));
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn pausing_a_thousand_times_loses_no_client() {
    let listener = Arc::new(listen("listen:tcp://:0"));
    let address = first(&listener);
    let accepted = {
        let listener = Arc::clone(&listener);
        thread::spawn(move || (0..200).all(|_| listener.accept(patience()).is_ok()))
    };
    let storm = {
        let listener = Arc::clone(&listener);
        thread::spawn(move || {
            for _ in 0..1000 {
                listener.pause();
                listener.resume();
            }
        })
    };
    let clients: Vec<_> = (0..200).map(|_| connect(&address)).collect();
    storm.join().unwrap();
    assert!(accepted.join().unwrap());
    drop(clients);
}
