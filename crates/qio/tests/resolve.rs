//! Resolving addresses.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use common::{PATIENCE, eventually, in_own_process, open_fds, patience};
use qio::error::Class;
use qio::net::{self, Address, Applies, Cancel, ConnectOptions, Resolving, Value, schemes};
use qio::watch::{PollSet, Steps, run};

fn resolve(text: &str) -> qio::Result<Vec<String>> {
    let options = ConnectOptions::new().timeout(PATIENCE);
    let found = net::resolve(&text.parse()?, &options)?;
    Ok(found.iter().map(Address::to_string).collect())
}

#[test]
fn an_address_without_a_name_resolves_to_itself_whatever_its_kind() {
    for text in [
        "tcp://192.0.2.1:80",
        "tcp://[2001:db8::1]:80?nodelay=off",
        "tcp://[fe80::1%251]:80",
        "listen:tcp://0.0.0.0:0?backlog=7",
        "unix:/run/x.sock",
        "listen:unix:@name?backlog=7",
        "fd:3",
        "file:x?append",
        "exec:cat",
        "-",
    ] {
        assert_eq!(resolve(text).unwrap(), [text]);
    }
}

#[test]
fn a_name_becomes_numbers_and_every_option_stays() {
    let tcp = schemes().iter().find(|scheme| scheme.name == "tcp").unwrap();
    for other in [Applies::Listen, Applies::Connect] {
        let mut address = Address::tcp("localhost", 80);
        if other == Applies::Connect {
            address = address.listening();
        }
        for option in tcp.options.iter().filter(|option| option.applies != other) {
            let value = match (option.name, option.value) {
                ("ipv6", _) => "off",
                ("numeric", _) => continue,
                (_, Value::Switch) => "on",
                (_, Value::Duration) => "77s",
                (_, Value::Count { .. }) => "99",
                (_, Value::CountOrForever) => "forever",
                (_, Value::Size) => "64k",
                ("device", _) => "lo",
                ("bind", _) => "127.0.0.1",
                other => panic!("what is a value of {other:?}?"),
            };
            address = address.with_option(option.name, value).unwrap();
        }
        let expected = address.to_string().replacen("localhost", "127.0.0.1", 1);
        let found = net::resolve(&address, &ConnectOptions::new()).unwrap();
        assert_eq!(found.iter().map(Address::to_string).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn a_listener_without_a_host_resolves_to_the_loopback_addresses_it_would_have() {
    assert_eq!(resolve("listen:tcp://:80").unwrap(), ["listen:tcp://127.0.0.1:80"]);
    assert_eq!(resolve("listen:tcp://:80?ipv6").unwrap(), ["listen:tcp://[::1]:80?ipv6"]);
    assert_eq!(
        resolve("listen:tcp://:80?ipv4&ipv6").unwrap(),
        ["listen:tcp://127.0.0.1:80?ipv4&ipv6", "listen:tcp://[::1]:80?ipv4&ipv6"]
    );
    assert_eq!(resolve("listen:tcp://").unwrap(), ["listen:tcp://127.0.0.1:0"]);
}

#[test]
fn what_cannot_be_resolved_says_so() {
    let complaint = |text: &str| {
        let error = resolve(text).unwrap_err();
        (error.class(), error.report().to_string())
    };
    let (class, report) = complaint("tcp://no..such:9");
    assert_eq!(class, Class::Resolve);
    assert_eq!(report, "resolve tcp://no..such:9: resolve no..such: name or service not known");
    let (class, report) = complaint("tcp://127.0.0.1:no-such-service");
    assert_eq!(class, Class::Resolve);
    assert!(report.contains("TCP has no service \"no-such-service\""), "{report}");
    let error = net::resolve(&Address::tcp("", 80), &ConnectOptions::new()).unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    assert!(error.to_string().starts_with("resolve tcp://:80: there is no host"), "{error}");
}

#[test]
fn resolving_is_made_of_steps_that_can_be_cancelled_and_dropped() {
    in_own_process("resolving_is_made_of_steps_that_can_be_cancelled_and_dropped", || {
        let address: Address = "tcp://localhost:80".parse().unwrap();
        let cancel = Cancel::new();
        // It has its descriptor from here on.
        cancel.watch(&mut PollSet::new());
        let before = open_fds();
        let options = ConnectOptions::new().cancel(cancel.clone());
        for round in 0..100 {
            let mut resolving = Resolving::new(&address, &options);
            let mut set = PollSet::new();
            for _ in 0..round % 3 {
                if resolving.step(Instant::now()).is_ready() {
                    break;
                }
                set.clear();
                resolving.watch(&mut set);
                set.poll(Some(Instant::now() + Duration::from_micros(100))).unwrap();
            }
        }
        let ControlFlow::Break(found) =
            run(Resolving::new(&address, &options), patience()).unwrap()
        else {
            panic!("no answer")
        };
        assert!(!found.unwrap().is_empty());
        let mut resolving = Resolving::new(&address, &options);
        cancel.trigger();
        let mut set = PollSet::new();
        resolving.watch(&mut set);
        set.poll(patience()).unwrap();
        let std::task::Poll::Ready(Err(error)) = resolving.step(Instant::now()) else { panic!() };
        assert_eq!(error.class(), Class::Cancelled);
        let error = net::resolve(&Address::null(), &options).unwrap_err();
        assert_eq!(error.class(), Class::Cancelled);
        drop((resolving, set));
        eventually("the resolvers end", || open_fds() == before);
    });
}
