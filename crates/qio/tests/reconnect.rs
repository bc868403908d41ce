//! Trying again.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, announcing_waits, impatiently};
use proptest::prelude::*;
use qio::error::{Class, Error};
use qio::net::{self, Address, Cancel, Connect, ConnectOptions, Jitter, Retry, may_pass};
use qio::watch::{PollSet, Steps, Waiter, waiter};
use qio_os::LookupError;
use rustix::io::Errno;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// All pauses of a plan, at most so many.
fn pauses(plan: &Retry, count: usize) -> Vec<Duration> {
    let now = Instant::now();
    let mut backoff = plan.start(now);
    std::iter::from_fn(|| backoff.next_pause(now)).take(count).collect()
}

/// A port that refuses, for as long as its owner lives.
fn refusing_port() -> (OwnedFd, Address) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let local: SocketAddr = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, Address::tcp("127.0.0.1", local.port()))
}

/// Counts how often it waits.
#[derive(Default)]
struct Counting(Cell<u32>);

impl Waiter for Counting {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        set.poll(until)
    }
}

#[test]
fn pauses_grow_by_their_factor_up_to_the_longest() {
    assert_eq!(
        pauses(&Retry::new(), 8),
        [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(Duration::from_millis)
    );
    assert_eq!(pauses(&Retry::fixed(MS(30)), 3), [MS(30); 3]);
    let plan = Retry::exponential(MS(1), MS(10)).factor(3);
    assert_eq!(pauses(&plan, 4), [MS(1), MS(3), MS(9), MS(10)]);
    assert_eq!(pauses(&Retry::exponential(MS(9), MS(4)), 2), [MS(4); 2]);
    let huge = Retry::exponential(MS(1), Duration::MAX).factor(u32::MAX);
    assert_eq!(pauses(&huge, 9)[8], Duration::MAX, "nothing overflows");
}

#[test]
fn attempts_and_time_are_limited_and_a_reset_begins_anew() {
    let now = Instant::now();
    let plan = Retry::new().attempts(2);
    let mut backoff = plan.start(now);
    assert_eq!(backoff.next_pause(now), Some(MS(100)));
    assert_eq!(backoff.next_pause(now), Some(MS(200)));
    assert_eq!((backoff.next_pause(now), backoff.failures()), (None, 2));
    backoff.reset(now);
    assert_eq!((backoff.next_pause(now), backoff.failures()), (Some(MS(100)), 1));
    assert!(pauses(&Retry::new().attempts(0), 1).is_empty());

    let mut backoff = Retry::new().within(MS(350)).start(now);
    assert_eq!(backoff.next_pause(now), Some(MS(100)));
    // An attempt took 100 ms; the second pause ends in time, a third would not.
    assert_eq!(backoff.next_pause(now + MS(100)), Some(MS(200)));
    assert_eq!(backoff.next_pause(now + MS(300)), None);
    backoff.reset(now + MS(300));
    assert_eq!(backoff.next_pause(now + MS(500)), Some(MS(100)));
}

#[test]
fn a_seed_gives_the_same_pauses_again_and_the_system_different_ones() {
    // The first number of SplitMix64 from 0, as its authors publish it.
    let all = Retry::fixed(Duration::from_nanos(u64::MAX)).jitter(Jitter::Full);
    assert_eq!(pauses(&all.clone().seed(0), 1), [Duration::from_nanos(0xe220_a839_7b1d_cdaf)]);
    assert_eq!(pauses(&all.clone().seed(7), 20), pauses(&all.clone().seed(7), 20));
    assert_ne!(pauses(&all.clone().seed(7), 20), pauses(&all.clone().seed(8), 20));
    assert_ne!(pauses(&all, 20), pauses(&all, 20));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn jitter_stays_within_its_bounds(
        seed in any::<u64>(),
        first in 0u64..10_000_000_000,
        factor in 1u32..5,
    ) {
        let first = Duration::from_nanos(first);
        let plan = Retry::exponential(first, Duration::from_secs(20)).factor(factor).seed(seed);
        let planned = pauses(&plan, 50);
        let full = pauses(&plan.clone().jitter(Jitter::Full), 50);
        let equal = pauses(&plan.jitter(Jitter::Equal), 50);
        for ((planned, full), equal) in planned.into_iter().zip(full).zip(equal) {
            prop_assert!(full <= planned);
            prop_assert!(planned / 2 <= equal && equal <= planned);
        }
    }
}

#[test]
fn full_jitter_uses_the_whole_pause_and_equal_jitter_its_second_half() {
    let plan = Retry::fixed(MS(1000)).seed(1);
    let full = pauses(&plan.clone().jitter(Jitter::Full), 1000);
    assert!(full.iter().any(|&pause| pause < MS(50)) && full.iter().any(|&pause| pause > MS(950)));
    let equal = pauses(&plan.jitter(Jitter::Equal), 1000);
    let mean = equal.iter().sum::<Duration>() / 1000;
    assert!(MS(725) < mean && mean < MS(775), "{mean:?}");
}

#[test]
fn every_attempt_is_one_and_nothing_spins_in_between() {
    let (_port, address) = refusing_port();
    let options = ConnectOptions::new().retry(Retry::fixed(MS(5)).attempts(10));
    let waiter = Rc::new(Counting::default());
    let start = Instant::now();
    let error = waiter::scoped(waiter.clone(), || net::connect(&address, &options)).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        format!("connect {address}: connection refused (nothing listens there, tried 11 times)")
    );
    assert!(start.elapsed() >= MS(50), "ten pauses");
    // One wait for each pause, and at most one for each of the eleven answers.
    assert!((10..=21).contains(&waiter.0.get()), "{} waits", waiter.0.get());
}

#[test]
fn a_socket_file_that_appears_late_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late");
    let options = ConnectOptions::new().retry(Retry::fixed(MS(2)));
    let (waits, waiting) = mpsc::channel();
    let address = Address::unix(&path);
    let connecting = thread::spawn(move || {
        announcing_waits(waits, || net::connect(&address, &options)).map(drop)
    });
    for _ in 0..3 {
        waiting.recv().unwrap();
    }
    let listener = UnixListener::bind(&path).unwrap();
    listener.accept().unwrap();
    connecting.join().unwrap().unwrap();
}

#[test]
fn a_port_that_listens_late_is_reached_with_the_options_of_the_address_alone() {
    for options in ["retry=forever&reconnect-ms=2", "reconnect-ms=2", "retry=20"] {
        let (port, address) = refusing_port();
        let address: Address = format!("{address}?{options}").parse().unwrap();
        let (waits, waiting) = mpsc::channel();
        let connecting = thread::spawn(move || {
            let options = ConnectOptions::new().timeout(PATIENCE);
            announcing_waits(waits, || net::connect(&address, &options)).map(drop)
        });
        waiting.recv().unwrap();
        rustix::net::listen(&port, 1).unwrap();
        TcpListener::from(port).accept().unwrap();
        connecting.join().unwrap().unwrap();
    }
}

#[test]
fn a_pause_ends_at_once_by_cancelling_and_by_dropping() {
    let (_port, address) = refusing_port();
    let cancel = Cancel::new();
    let options = ConnectOptions::new().retry(Retry::fixed(PATIENCE * 4)).cancel(cancel.clone());
    let mut connecting = Connect::new(&address, &options);
    let mut set = PollSet::new();
    let until = Instant::now() + PATIENCE;
    // Until the refusal is seen: nothing is left to wait for but the cancel and the time.
    while set.legs().len() != 1 {
        assert!(Instant::now() < until && connecting.step(Instant::now()).is_pending());
        set.clear();
        connecting.watch(&mut set);
        set.poll(Some(Instant::now() + MS(1))).unwrap();
    }
    assert!(connecting.step(Instant::now()).is_pending(), "the pause is long");
    cancel.trigger();
    set.poll(Some(Instant::now())).unwrap();
    assert!(!set.granted().is_empty(), "whoever waits is woken");
    let Poll::Ready(Err(error)) = connecting.step(Instant::now()) else { panic!("still waits") };
    assert_eq!(error.class(), Class::Cancelled);
    assert_eq!(error.report().to_string(), format!("connect {address}: given up on request"));

    let (waits, waiting) = mpsc::channel();
    let cancel = Cancel::new();
    let options = options.cancel(cancel.clone());
    let pausing = thread::spawn(move || {
        let result = announcing_waits(waits, || net::connect(&address, &options));
        (result.map(drop), Instant::now())
    });
    waiting.recv().unwrap();
    let triggered = Instant::now();
    cancel.trigger();
    let (result, ended) = pausing.join().unwrap();
    assert_eq!(result.unwrap_err().class(), Class::Cancelled);
    assert!(ended.saturating_duration_since(triggered) < MS(100));
}

#[test]
fn the_overall_time_also_cuts_an_attempt_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    // Nobody reads from it: each attempt lasts until its deadline.
    let address = Address::pipe(&path).with_option("write", "on").unwrap();
    let plan = Retry::fixed(MS(1)).within(MS(120));
    let options = ConnectOptions::new().timeout(MS(50)).retry(plan);
    let start = Instant::now();
    let error = net::connect(&address, &options).unwrap_err();
    assert_eq!(error.class(), Class::Timeout);
    let hint = error.hint_text().unwrap();
    assert!(hint.contains(" within ") && hint.contains(", tried "), "{hint}");
    assert!(start.elapsed() >= MS(50), "an attempt of full length");
    let options = ConnectOptions::new().timeout(None).retry(Retry::fixed(MS(1)).within(MS(20)));
    let error = impatiently(|| net::connect(&address, &options)).unwrap_err();
    assert_eq!(error.class(), Class::Timeout);
}

#[test]
fn without_a_number_of_attempts_the_timeout_limits_them_all() {
    let (_port, address) = refusing_port();
    let address = address.with_option("reconnect-ms", "7").unwrap();
    let options = ConnectOptions::new().timeout(MS(30));
    let error = impatiently(|| net::connect(&address, &options)).unwrap_err();
    assert_eq!(error.io_kind(), Some(io::ErrorKind::ConnectionRefused));
    let hint = error.hint_text().unwrap().to_owned();
    assert!(hint.starts_with("nothing listens there, tried "), "{hint}");
}

#[test]
fn what_the_address_says_wins_over_the_options() {
    let (_port, address) = refusing_port();
    let options = ConnectOptions::new().retry(Retry::fixed(MS(1)).attempts(3));
    for (settings, attempts) in
        [("", 4), ("?retry=1", 2), ("?retry=0", 1), ("?reconnect-ms=1", 4), ("?reconnect-ms=0", 4)]
    {
        let address: Address = format!("{address}{settings}").parse().unwrap();
        let error = net::connect(&address, &options).unwrap_err();
        let expected = match attempts {
            1 => "(nothing listens there)".to_owned(),
            n => format!("(nothing listens there, tried {n} times)"),
        };
        let report = error.report().to_string();
        assert!(report.ends_with(&expected), "{settings}: {report}");
    }
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let endless = ConnectOptions::new().retry(Retry::fixed(PATIENCE * 4));
    for text in ["exec:/none", "fd:3", "tcp://no..such:9", "file:/proc/self/mem/x"] {
        let error = impatiently(|| net::connect(&text.parse().unwrap(), &endless)).unwrap_err();
        assert!(!error.report().to_string().contains("hung"), "{error:?}");
        assert!(!may_pass(&error), "{error:?}");
    }
    let usage = Address::tcp("", 0);
    assert_eq!(net::connect(&usage, &endless).unwrap_err().class(), Class::Usage);
}

#[test]
fn failures_are_told_apart_by_whether_they_may_pass() {
    let os = |errno: Errno| Error::os("connect", "x", errno.into());
    for errno in [
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::NOENT,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::HOSTDOWN,
        Errno::TIMEDOUT,
    ] {
        assert!(may_pass(&os(errno)), "{errno:?}");
    }
    for errno in [
        Errno::ACCESS,
        Errno::PERM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOTDIR,
        Errno::INVAL,
        Errno::PROTOTYPE,
        Errno::ADDRNOTAVAIL,
    ] {
        assert!(!may_pass(&os(errno)), "{errno:?}");
    }
    assert!(!may_pass(&Error::os("run", "x", Errno::NOENT.into())));
    assert!(may_pass(&Error::timed_out("connect", "x")));
    for class in [Class::Usage, Class::Cancelled, Class::Io] {
        assert!(!may_pass(
            &Error::new(class, "connect", "x").because(io::Error::from(Errno::CONNREFUSED))
        ));
    }
    // EAI_AGAIN and EAI_NONAME of netdb.h.
    for (code, passes) in [(-3, true), (-2, false)] {
        let lookup = LookupError::from_code(code);
        let cause = Error::new(Class::Resolve, "resolve", "x").because(lookup);
        assert_eq!(may_pass(&Error::new(Class::Resolve, "connect", "x").because(cause)), passes);
    }
}

#[test]
fn values_of_the_options_are_checked() {
    let complaint = |text: &str| text.parse::<Address>().unwrap_err().report().to_string();
    for (text, expected) in [
        (
            "tcp://h:1?retry=often",
            "option \"retry\": \"often\" is not a number or forever (retry=N|forever)",
        ),
        (
            "tcp://h:1?retry=-1",
            "option \"retry\": \"-1\" is not a number or forever (retry=N|forever)",
        ),
        (
            "unix:x?retry=5000000000",
            "option \"retry\": \"5000000000\" is not a number or forever (retry=N|forever)",
        ),
        (
            "tcp://h:1?reconnect-ms=1s",
            "option \"reconnect-ms\": \"1s\" is not a number from 0 to 86400000 (reconnect-ms=0-86400000)",
        ),
    ] {
        assert_eq!(complaint(text), format!("parse {text}: {expected}"));
    }
    // QEMU's old name, in seconds, is not taken for the new one.
    assert!(complaint("tcp://h:1?reconnect=5").contains("did you mean reconnect-ms?"));
    assert!(complaint("listen:unix:x?retry=5").contains("is only for connecting"));
    let pause = |text: &str| text.parse::<Address>().unwrap().reconnect_pause();
    assert_eq!(pause("unix:x?reconnect-ms=250"), Some(MS(250)));
    assert_eq!(
        (pause("unix:x?reconnect-ms=0"), pause("unix:x"), pause("null:")),
        (None, None, None)
    );
}
