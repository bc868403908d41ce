//! Checks of clients.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{PATIENCE, in_own_process, patience};
use qio::net::{
    self, Address, Admit, ConnectOptions, ListenEvent, ListenOptions, Listener, Verdict,
};
use qio::watch::PollSet;

fn listen(text: &str, options: &ListenOptions) -> Listener {
    net::listen(&text.parse().unwrap(), options).unwrap()
}

fn dial(listener: &Listener) -> TcpStream {
    let address = listener.local_addresses().remove(0);
    let client = TcpStream::connect(("127.0.0.1", address.port().unwrap())).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn is_closed(mut client: TcpStream) -> bool {
    match client.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_refused_client_is_closed_and_told_and_the_next_one_is_accepted() {
    let first = Arc::new(Mutex::new(None));
    let told = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::clone(&first);
    let admit = Admit::by(move |peer| {
        assert_eq!(peer.local().to_string().split(':').next(), Some("tcp"));
        match *refused.lock().unwrap() == peer.remote() {
            true => Verdict::refuse("it was the first"),
            false => Verdict::Admit,
        }
    });
    let observer = Arc::clone(&told);
    let options = ListenOptions::new().admit(admit).observe(move |event| {
        let ListenEvent::Refused { peer, reason } = event else { panic!("{event:?}") };
        observer.lock().unwrap().push(format!("{peer}: {reason}"));
    });
    let listener = listen("listen:tcp://:0", &options);
    let refused = dial(&listener);
    let address = refused.local_addr().unwrap();
    *first.lock().unwrap() = Some(address);
    let welcome = dial(&listener);
    let accepted = listener.accept(patience()).unwrap();
    assert_eq!(accepted.who.remote(), Some(welcome.local_addr().unwrap()));
    assert_eq!(accepted.who.to_string(), accepted.peer);
    assert!(is_closed(refused));
    assert_eq!(listener.refused(), 1);
    assert_eq!(*told.lock().unwrap(), [format!("tcp://{address}: it was the first")]);
}

#[test]
fn a_flood_of_refused_clients_starves_nobody() {
    let all = ListenOptions::new().admit(Admit::by(|peer| match peer.local().port() {
        Some(_) => Verdict::refuse("nobody comes in here"),
        None => Verdict::Admit,
    }));
    let listener = listen("listen:tcp://:0", &all);
    let flood: Vec<_> = (0..200).map(|_| dial(&listener)).collect();
    // One call refuses some and comes back; what waits then does not sleep.
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let at_once = listener.refused();
    assert!((1..=50).contains(&at_once), "{at_once} at once");
    let mut set = PollSet::new();
    listener.watch(&mut set);
    assert!(set.deadline().is_some_and(|at| at <= Instant::now()));
    // Another socket has its turn before the flood is over.
    let name = format!("listen:unix:@qio-test-flood-{}", std::process::id());
    listener.add(&name.parse().unwrap()).unwrap();
    let unix = listener.local_addresses().remove(1);
    let _client = net::connect(&unix, &ConnectOptions::new()).unwrap();
    listener.accept(patience()).unwrap();
    assert!(listener.refused() < 200, "served after the flood");
    while listener.refused() < 200 {
        assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert!(flood.into_iter().all(is_closed));
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    set.clear();
    listener.watch(&mut set);
    assert_eq!(set.deadline(), None, "nothing is left to be tried");
}

#[test]
fn ipv4_clients_of_all_interfaces_are_compared_as_ipv4() {
    let Ok(listener) = net::listen(
        &"listen:tcp://[::]:0".parse().unwrap(),
        &ListenOptions::new().admit(Admit::networks(["127.0.0.0/8".parse().unwrap()])),
    ) else {
        println!("skipped: there is no IPv6 here");
        return;
    };
    let client = dial(&listener);
    let accepted = listener.accept(patience()).unwrap();
    assert_eq!(accepted.who.remote(), Some(client.local_addr().unwrap()));
    assert!(accepted.who.remote().unwrap().is_ipv4() && accepted.who.credentials().is_none());
    // The same machine, by its IPv6 address.
    let port = listener.local_addresses()[0].port().unwrap();
    let loopback = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let Ok(other) = TcpStream::connect(loopback) else {
        println!("skipped: ::1 cannot be reached");
        return;
    };
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(is_closed(other));
    assert_eq!(listener.refused(), 1);
}

#[test]
fn unix_clients_are_known_by_user_and_group() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let number = AtomicUsize::new(0);
    let admits = |admit: Admit| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let name = format!("qio-test-admit-{}-{number}", std::process::id());
        let address = Address::unix_abstract(name);
        let options = ListenOptions::new().admit(admit);
        let listener = net::listen(&address.clone().listening(), &options).unwrap();
        let _client = net::connect(&address, &ConnectOptions::new()).unwrap();
        let accepted = listener.try_accept();
        assert_eq!(listener.refused(), u64::from(accepted.is_err()));
        accepted.is_ok_and(|accepted| {
            let peer = accepted.who.credentials().unwrap();
            assert_eq!((peer.uid, peer.gid), (uid, gid));
            assert_eq!(peer.pid.unsigned_abs(), std::process::id());
            assert_eq!(accepted.who.remote(), None);
            true
        })
    };
    assert!(admits(Admit::users([uid])));
    assert!(admits(Admit::users([uid + 1, uid])));
    assert!(!admits(Admit::users([uid + 1])));
    assert!(!admits(Admit::users([])));
    assert!(admits(Admit::groups([gid])));
    assert!(!admits(Admit::groups([3_000_000_000])));
    assert!(!admits(Admit::networks(["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()])));
    assert!(admits(Admit::users([uid + 1]).or(Admit::groups([gid]))));
    assert!(!admits(Admit::users([uid + 1]).and(Admit::groups([gid]))));
}

#[test]
fn unix_clients_are_in_their_supplementary_groups_too() {
    in_own_process("unix_clients_are_in_their_supplementary_groups_too", || {
        // More than fit at the first attempt.
        let groups: Vec<u32> = (70_001..70_101).collect();
        let gids: Vec<_> = groups.iter().map(|&gid| rustix::process::Gid::from_raw(gid)).collect();
        if let Err(error) = rustix::thread::set_thread_groups(&gids) {
            println!("skipped: groups cannot be set here: {error}");
            return;
        }
        for (gid, is_in) in [(70_001, true), (70_100, true), (70_101, false)] {
            let address = Address::unix_abstract(format!("qio-test-groups-{gid}"));
            let options = ListenOptions::new().admit(Admit::groups([gid]));
            let listener = net::listen(&address.clone().listening(), &options).unwrap();
            let _client = net::connect(&address, &ConnectOptions::new()).unwrap();
            assert_eq!(listener.try_accept().is_ok(), is_in, "{gid}");
        }
    });
}

#[test]
fn a_dropped_listener_lets_go_of_its_check_and_its_observer() {
    let kept = Arc::new(());
    let (in_check, in_observer) = (Arc::clone(&kept), Arc::clone(&kept));
    let options = ListenOptions::new()
        .max_connections(3)
        .admit(Admit::by(move |_| {
            let _ = &in_check;
            Verdict::Admit
        }))
        .observe(move |_| {
            let _ = &in_observer;
        });
    let listener = listen("listen:tcp://:0", &options);
    drop(options);
    let _client = dial(&listener);
    let accepted = listener.accept(patience()).unwrap();
    assert_eq!(Arc::strong_count(&kept), 3);
    drop(listener);
    assert_eq!(Arc::strong_count(&kept), 1, "a client that stays keeps nothing");
    accepted.channel.close().unwrap();
}
