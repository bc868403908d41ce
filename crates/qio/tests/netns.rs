//! Hosts and networks of every kind, in network namespaces.
//!
//! Each test runs in a process with namespaces of its own, in which it is root. They go when the
//! process goes, whatever became of the test, and so does the other host, which is a process that
//! reads from a pipe of the first.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, announcing_waits, eventually, in_own_process_under, open_fds, patience};
use qio::Channel;
use qio::error::Class;
use qio::net::{self, Address, Cancel, Connect, ConnectOptions, ListenOptions, Listener};
use qio::watch::{PollSet, Steps};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs the test of that name in namespaces of its own, where only `lo` is there, and up.
fn in_own_network(test: &str, body: impl FnOnce()) {
    let mut unshare = vec!["unshare", "--net", "--mount"];
    if !rustix::process::geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    let [program, words @ ..] = &unshare[..] else { unreachable!() };
    let probe = "ip link set lo up && ip link add x type veth && mount --bind /dev/null /etc/hosts";
    let probed = Command::new(program).args(words).args(["sh", "-c", probe]).output();
    match probed {
        Err(error) => return println!("skipped: {program}: {error}"),
        Ok(output) if !output.status.success() => {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            return println!("skipped: no namespaces with veth here: {}", reason.trim());
        }
        Ok(_) => {}
    }
    in_own_process_under(&unshare, test, || {
        sh("ip link set lo up");
        body();
    });
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts a text in the place of a file, for this process and those that it starts.
fn replace(path: &str, text: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // The mount keeps the file.
    sh(&format!("chmod 644 {0} && mount --bind {0} {path}", file.path().display()));
}

fn hosts(text: &str) {
    replace("/etc/hosts", text);
}

/// The other host, at the other end of a wire: `near` here, `far` there.
struct Host {
    process: Child,
}

/// Where the other host is, and where nobody is.
const V4: &str = "10.9.0.2";
const V6: &str = "2001:db8::2";
const HOLE_V4: &str = "10.9.0.9";
const HOLE_V6: &str = "2001:db8::9";

impl Host {
    /// With addresses of both families. What is sent to the black holes is sent, and swallowed:
    /// it is for a station that does not exist.
    fn with_both() -> Self {
        let host = Self::without_addresses();
        host.add_v4();
        host.add_v6();
        host
    }

    fn without_addresses() -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It is in its namespace when it says something.
        process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let host = Self { process };
        sh(&format!("ip link add near type veth peer name far netns {}", host.process.id()));
        host.sh("ip link set far up");
        sh("ip link set near up");
        host
    }

    fn add_v4(&self) {
        self.sh("ip addr add 10.9.0.2/24 dev far");
        sh("ip addr add 10.9.0.1/24 dev near");
        sh("ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:99 dev near nud permanent");
        is_up(V4);
    }

    fn add_v6(&self) {
        self.sh("ip addr add 2001:db8::2/64 dev far nodad");
        sh("ip addr add 2001:db8::1/64 dev near nodad");
        sh("ip neigh add 2001:db8::9 lladdr 02:00:00:00:00:99 dev near nud permanent");
        is_up(V6);
    }

    /// Runs a script there.
    fn sh(&self, script: &str) {
        sh(&format!("nsenter --target {} --net sh -ec '{script}'", self.process.id()));
    }

    /// Does something there. Sockets that come back stay there.
    fn run<R: Send + 'static>(&self, body: impl FnOnce() -> R + Send + 'static) -> R {
        let there = File::open(format!("/proc/{}/ns/net", self.process.id())).unwrap();
        let job = move || {
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            body()
        };
        thread::spawn(job).join().unwrap()
    }

    /// Listens there on every address of both families.
    fn listen(&self) -> TcpListener {
        self.run(|| TcpListener::bind("[::]:7").unwrap())
    }

    /// Whether a connection from there gets through.
    fn reaches(&self, host: &str, port: u16) -> bool {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        match self.run(move || TcpStream::connect_timeout(&address, PATIENCE)) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => false,
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

/// Waits until the other host answers, if only to say that nothing listens there.
fn is_up(host: &str) {
    let address = SocketAddr::new(host.parse().unwrap(), 9);
    eventually("the wire is up", || {
        let result = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        result.unwrap_err().kind() == io::ErrorKind::ConnectionRefused
    });
}

fn options() -> ConnectOptions {
    ConnectOptions::new().timeout(PATIENCE)
}

fn connect(text: &str) -> qio::Result<Arc<dyn Channel>> {
    net::connect(&text.parse()?, &options())
}

/// Connects, with the time that it took.
fn timed(text: &str) -> Duration {
    let start = Instant::now();
    let channel = connect(text).unwrap();
    let took = start.elapsed();
    drop(channel);
    took
}

/// Connects through the black hole, in 250 ms by the clock of the machine; the best of three, for
/// there are other tests.
fn costs_the_delay(listener: &TcpListener) {
    let times = [(); 3].map(|()| {
        let took = timed("tcp://name:7");
        listener.accept().unwrap();
        took
    });
    assert!(times.iter().all(|&took| took >= Duration::from_millis(250)), "{times:?}");
    assert!(times.iter().any(|&took| took < Duration::from_millis(400)), "{times:?}");
    println!("connected after {times:?}");
}

fn complaint(text: &str) -> (Class, String) {
    let error = connect(text).expect_err(text);
    (error.class(), error.report().to_string())
}

fn listen(text: &str) -> qio::Result<Listener> {
    net::listen(&text.parse()?, &ListenOptions::new())
}

fn locals(listener: &Listener) -> Vec<String> {
    listener.local_addresses().iter().map(Address::to_string).collect()
}

fn port(listener: &Listener) -> u16 {
    listener.local_addresses()[0].port().unwrap()
}

fn resolved(text: &str) -> Vec<String> {
    let found = net::resolve(&text.parse().unwrap(), &options()).unwrap();
    found.iter().map(Address::to_string).collect()
}

/// How many calls of this namespace have no answer yet (`SYN_SENT`).
fn open_calls() -> usize {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| {
            let table = fs::read_to_string(table).unwrap();
            table.lines().filter(|line| line.split_whitespace().nth(3) == Some("02")).count()
        })
        .iter()
        .sum()
}

#[test]
fn a_black_hole_in_the_first_family_costs_a_quarter_of_a_second() {
    in_own_network("a_black_hole_in_the_first_family_costs_a_quarter_of_a_second", || {
        let host = Host::with_both();
        let listener = host.listen();
        hosts(&format!("{HOLE_V6} name\n{V4} name\n"));
        assert_eq!(
            resolved("tcp://name:7"),
            [format!("tcp://[{HOLE_V6}]:7"), format!("tcp://{V4}:7")]
        );
        costs_the_delay(&listener);
        assert_eq!(open_calls(), 0, "the black hole is still called");
    });
}

#[test]
fn a_black_hole_in_a_first_family_that_is_ipv4_costs_no_more() {
    in_own_network("a_black_hole_in_a_first_family_that_is_ipv4_costs_no_more", || {
        if !fs::exists("/etc/gai.conf").unwrap() {
            return println!("skipped: there is no /etc/gai.conf to prefer IPv4 in");
        }
        let host = Host::with_both();
        let listener = host.listen();
        replace("/etc/gai.conf", "precedence ::ffff:0:0/96 100\n");
        hosts(&format!("{V6} name\n{HOLE_V4} name\n10.9.0.8 name\n"));
        let found = resolved("tcp://name:7");
        assert!(found[0].starts_with("tcp://10.9.0.") && found.len() == 3, "{found:?}");
        costs_the_delay(&listener);
    });
}

#[test]
fn a_call_into_a_black_hole_ends_at_once_when_it_is_cancelled_or_dropped() {
    in_own_network("a_call_into_a_black_hole_ends_at_once_when_it_is_cancelled_or_dropped", || {
        let _host = Host::with_both();
        hosts(&format!("{HOLE_V6} name\n{HOLE_V4} name\n"));
        for host in [HOLE_V4, HOLE_V6, "name"] {
            let address = Address::tcp(host, 7);
            let cancel = Cancel::new();
            let with_cancel = options().timeout(None).cancel(cancel.clone());
            let (waits, waiting) = mpsc::channel();
            let to = address.clone();
            let connecting = thread::spawn(move || {
                announcing_waits(waits, || (net::connect(&to, &with_cancel), Instant::now()))
            });
            eventually("it is called", || open_calls() > 0);
            assert!(waiting.try_recv().is_ok());
            let triggered = Instant::now();
            cancel.trigger();
            let (result, ended) = connecting.join().unwrap();
            assert_eq!(result.unwrap_err().class(), Class::Cancelled);
            let took = ended - triggered;
            assert!(took < Duration::from_millis(100), "{took:?}");
            assert_eq!(open_calls(), 0, "{host}");

            let mut connecting = Connect::new(&address, &options());
            let mut set = PollSet::new();
            eventually("it is called", || {
                assert!(connecting.step(Instant::now()).is_pending());
                set.clear();
                connecting.watch(&mut set);
                open_calls() > 0
            });
            let start = Instant::now();
            drop(connecting);
            let took = start.elapsed();
            assert!(took < Duration::from_millis(100), "{took:?}");
            assert_eq!(open_calls(), 0, "{host}, although a wait still owns the socket");
        }
    });
}

#[test]
fn the_error_of_a_deadline_names_every_address_that_was_called() {
    in_own_network("the_error_of_a_deadline_names_every_address_that_was_called", || {
        let _host = Host::with_both();
        hosts(&format!("{HOLE_V6} name\n{HOLE_V4} name\n{V4} mixed\n{HOLE_V6} mixed\n"));
        let soon = ConnectOptions::new().timeout(Duration::from_millis(300));
        let report = |host: &str| {
            let start = Instant::now();
            let error = net::connect(&Address::tcp(host, 7), &soon).unwrap_err();
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(300) && took < PATIENCE, "{took:?}");
            assert_eq!(error.class(), Class::Timeout);
            error.report().to_string()
        };
        assert_eq!(
            report("name"),
            format!("connect tcp://name:7: [{HOLE_V6}]:7: timed out; {HOLE_V4}:7: timed out")
        );
        assert_eq!(
            report("mixed"),
            format!("connect tcp://mixed:7: [{HOLE_V6}]:7: timed out; {V4}:7: connection refused")
        );
        assert_eq!(
            report(HOLE_V4),
            format!("connect tcp://{HOLE_V4}:7: timed out (no answer within 300ms)")
        );
    });
}

#[test]
fn unacknowledged_data_ends_a_connection_after_the_time_of_the_address() {
    in_own_network("unacknowledged_data_ends_a_connection_after_the_time_of_the_address", || {
        let _host = Host::with_both();
        let start = Instant::now();
        let text = format!("tcp://{HOLE_V4}:7?user-timeout=300ms");
        let (class, report) = complaint(&text);
        let took = start.elapsed();
        // The kernel itself, long before the deadline of the connect.
        assert_eq!(class, Class::Timeout);
        assert_eq!(report, format!("connect {text}: connection timed out"));
        assert!(took < PATIENCE / 2, "{took:?}");
    });
}

#[test]
fn a_host_with_nothing_but_loopback_talks_to_itself() {
    in_own_network("a_host_with_nothing_but_loopback_talks_to_itself", || {
        hosts("127.0.0.1 four both\n::1 six both\n");
        for host in ["127.0.0.1", "[::1]", "four", "six", "both", ""] {
            let listener = listen(&format!("listen:tcp://{host}:0")).unwrap();
            let found = listener.local_addresses();
            assert_eq!(found.len(), if host == "both" { 2 } else { 1 }, "{found:?}");
            let port = port(&listener);
            let host = if host.is_empty() { "four" } else { host };
            connect(&format!("tcp://{host}:{port}")).unwrap();
            listener.accept(patience()).unwrap();
        }
    });
}

#[test]
fn a_host_with_ipv6_only_listens_on_the_ipv4_loopback() {
    in_own_network("a_host_with_ipv6_only_listens_on_the_ipv4_loopback", || {
        let host = Host::without_addresses();
        host.add_v6();
        hosts(&format!("127.0.0.1 four\n{V6} far\n{V4} far\n"));
        for name in ["127.0.0.1", "four", ""] {
            let listener = listen(&format!("listen:tcp://{name}:0")).unwrap();
            connect(&format!("tcp://127.0.0.1:{}", port(&listener))).unwrap();
            listener.accept(patience()).unwrap();
        }
        let listener = host.listen();
        assert!(timed("tcp://far:7") < Duration::from_millis(250));
        listener.accept().unwrap();
        drop(listener);
        let (class, report) = complaint("tcp://far:7");
        assert_eq!(class, Class::Open);
        assert!(
            report.starts_with(&format!(
                "connect tcp://far:7: [{V6}]:7: connection refused; {V4}:7: network is unreachable"
            )),
            "{report}"
        );
    });
}

#[test]
fn a_host_with_ipv4_only_leaves_the_other_family_out() {
    in_own_network("a_host_with_ipv4_only_leaves_the_other_family_out", || {
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let host = Host::without_addresses();
        host.add_v4();
        hosts(&format!("::1 both\n127.0.0.1 both\n{V6} far\n{V4} far\n"));
        for address in ["listen:tcp://both:0", "listen:tcp://:0?ipv4&ipv6"] {
            let listener = listen(address).unwrap();
            assert_eq!(locals(&listener), [format!("tcp://127.0.0.1:{}", port(&listener))]);
        }
        let error = listen("listen:tcp://[::1]:0").unwrap_err();
        assert_eq!(
            error.report().to_string(),
            "listen tcp://[::1]:0: cannot assign requested address \
             (no interface of this machine has that address)"
        );
        let listener = host.run(|| TcpListener::bind("0.0.0.0:7").unwrap());
        assert!(timed("tcp://far:7") < Duration::from_millis(250));
        listener.accept().unwrap();
    });
}

#[test]
fn the_other_host_gets_in_by_the_families_that_the_address_has() {
    in_own_network("the_other_host_gets_in_by_the_families_that_the_address_has", || {
        let host = Host::with_both();
        for (address, v4, v6) in [
            ("listen:tcp://[::]:7", true, true),
            ("listen:tcp://[::]:7?ipv4&ipv6", true, true),
            ("listen:tcp://[::]:7?ipv4=off", false, true),
            ("listen:tcp://[::]:7?ipv6=on", false, true),
            ("listen:tcp://0.0.0.0:7", true, false),
            ("listen:tcp://:7?ipv4&ipv6", false, false),
            ("listen:tcp://10.9.0.1:7", true, false),
        ] {
            let listener = listen(address).unwrap();
            let reached = (host.reaches("10.9.0.1", 7), host.reaches("2001:db8::1", 7));
            assert_eq!(reached, (v4, v6), "{address}");
            drop(listener);
        }
        // All of IPv6 joins all of IPv4 on the same port, also when it could take another.
        let v4 = listen("listen:tcp://0.0.0.0:7").unwrap();
        let v6 = listen("listen:tcp://[::]:7?to=9").unwrap();
        assert_eq!(port(&v6), 7);
        assert!(host.reaches("2001:db8::1", 7) && host.reaches("10.9.0.1", 7));
        assert_eq!(v6.try_accept().unwrap().peer.find("[2001:db8::2]"), Some(6));
        assert_eq!(v4.try_accept().unwrap().peer.find("10.9.0.2"), Some(6));
        // With both there, the next one takes the next port.
        assert_eq!(port(&listen("listen:tcp://[::]:7?to=9").unwrap()), 8);
    });
}

#[test]
fn a_device_is_the_only_way_in_and_out() {
    in_own_network("a_device_is_the_only_way_in_and_out", || {
        let host = Host::with_both();
        let there = host.listen();
        for target in [V4.to_owned(), format!("[{V6}]")] {
            connect(&format!("tcp://{target}:7?device=near")).unwrap();
            there.accept().unwrap();
            // The kernel has no way there, or calls the other host over loopback in vain.
            let soon = ConnectOptions::new().timeout(Duration::from_millis(100));
            let astray = format!("tcp://{target}:7?device=lo").parse().unwrap();
            let class = net::connect(&astray, &soon).unwrap_err().class();
            assert!([Class::Timeout, Class::Open].contains(&class), "{class:?}");
        }
        let listener = listen("listen:tcp://[::]:8?device=lo").unwrap();
        assert!(!host.reaches("10.9.0.1", 8) && !host.reaches("2001:db8::1", 8));
        connect("tcp://127.0.0.1:8").unwrap();
        listener.accept(patience()).unwrap();
        let listener = listen("listen:tcp://[::]:9?device=near").unwrap();
        assert!(host.reaches("10.9.0.1", 9) && host.reaches("2001:db8::1", 9));
        assert_eq!(complaint("tcp://127.0.0.1:9").0, Class::Open);
        drop(listener);
        assert!(complaint("tcp://127.0.0.1:9?device=wlan7").1.ends_with("no such device"));
    });
}

#[test]
fn packets_arrive_with_the_ttl_and_the_tos_of_the_address() {
    in_own_network("packets_arrive_with_the_ttl_and_the_tos_of_the_address", || {
        use rustix::net::{AddressFamily, RecvFlags, SocketType, ipproto};
        let host = Host::with_both();
        // Sees every TCP packet that arrives there, with its IPv4 header.
        let raw: OwnedFd = host.run(|| {
            let protocol = Some(ipproto::TCP);
            rustix::net::socket(AddressFamily::INET, SocketType::RAW, protocol).unwrap()
        });
        let there = host.listen();
        let header = || {
            let mut packet = [0u8; 64];
            let (len, _) = rustix::net::recv(&raw, &mut packet, RecvFlags::empty()).unwrap();
            assert!(len >= 40);
            // RFC 791, section 3.1: type of service and time to live.
            (packet[1], packet[8])
        };
        connect(&format!("tcp://{V4}:7?ttl=17&tos=184")).unwrap();
        there.accept().unwrap();
        assert_eq!(header(), (184, 17));

        // What a listener answers has the options of the listener.
        let _listener = listen("listen:tcp://0.0.0.0:8?ttl=18&tos=96").unwrap();
        assert!(host.reaches("10.9.0.1", 8));
        // Packets of the first connection may come in between.
        let (mut tos, mut ttl) = header();
        while ttl == 17 {
            (tos, ttl) = header();
        }
        assert_eq!((tos, ttl), (96, 18));
    });
}

#[test]
fn the_local_end_decides_on_the_family() {
    in_own_network("the_local_end_decides_on_the_family", || {
        let host = Host::with_both();
        sh("ip addr add 10.9.0.3/24 dev near; ip addr add 2001:db8::3/64 dev near nodad");
        hosts(&format!(
            "{HOLE_V6} name\n{V4} name\n{V6} six\n{V4} both\n{V6} both\n2001:db8::3 me\n10.9.0.3 me\n"
        ));
        let there = host.listen();
        let peer = || there.accept().unwrap().1.ip().to_canonical();
        // The black hole is of the other family.
        assert!(timed("tcp://name:7?bind=10.9.0.3") < Duration::from_millis(250));
        assert_eq!(peer(), "10.9.0.3".parse::<IpAddr>().unwrap());
        for (bind, from) in [
            ("10.9.0.3", "10.9.0.3"),
            ("2001:db8::3", "2001:db8::3"),
            ("[2001:db8::3]:0", "2001:db8::3"),
            ("me", "2001:db8::3"),
            ("me&ipv4", "10.9.0.3"),
        ] {
            connect(&format!("tcp://both:7?bind={bind}")).unwrap();
            assert_eq!(peer(), from.parse::<IpAddr>().unwrap(), "{bind}");
        }
        assert_eq!(
            complaint("tcp://six:7?bind=10.9.0.3"),
            (
                Class::Open,
                "connect tcp://six:7?bind=10.9.0.3: \
                 no address of the host is of the family of option \"bind\""
                    .to_owned()
            )
        );
    });
}

#[test]
fn a_lack_of_descriptors_is_the_end_only_when_nothing_else_is_under_way() {
    in_own_network("a_lack_of_descriptors_is_the_end_only_when_nothing_else_is_under_way", || {
        let host = Host::with_both();
        let listener = host.listen();
        hosts(&format!("{HOLE_V6} name\n{V4} name\n"));
        let address = Address::tcp("name", 7);
        let options = options().timeout(None);
        let mut connecting = Connect::new(&address, &options);
        let mut set = PollSet::new();
        eventually("it is called", || {
            assert!(connecting.step(Instant::now()).is_pending());
            set.clear();
            connecting.watch(&mut set);
            open_calls() == 1
        });
        let before = rustix::process::getrlimit(Resource::Nofile);
        let set_limit = |current| {
            let limit = Rlimit { current, maximum: before.maximum };
            rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        };
        // As many as there are standard streams: no new one, while poll(2) may have several.
        assert!(open_fds().iter().filter(|(fd, _)| (0..3).contains(fd)).count() == 3);
        set_limit(Some(3));
        let later = Instant::now() + Duration::from_secs(1);
        assert!(connecting.step(later).is_pending(), "the first one may still answer");
        set_limit(before.current);
        // Now there is room for the second.
        let mut connected = None;
        eventually("the second answers", || {
            if let std::task::Poll::Ready(result) = connecting.step(later) {
                connected = Some(result.unwrap());
            }
            connected.is_some()
        });
        listener.accept().unwrap();
        drop((connecting, set));

        set_limit(Some(3));
        let mut connecting = Connect::new(&Address::tcp(V4, 7), &options);
        let result = connecting.step(Instant::now());
        set_limit(before.current);
        let std::task::Poll::Ready(Err(error)) = result else { panic!() };
        assert_eq!(
            error.report().to_string(),
            format!(
                "connect tcp://{V4}:7: too many open files \
                 (this process is at its limit, see ulimit -n)"
            )
        );
    });
}

#[test]
fn without_multipath_tcp_both_sides_say_so() {
    in_own_network("without_multipath_tcp_both_sides_say_so", || {
        if !fs::exists("/proc/sys/net/mptcp/enabled").unwrap() {
            println!("this kernel was built without it");
        } else {
            sh("echo 0 > /proc/sys/net/mptcp/enabled");
        }
        let cause = "option \"mptcp\": this system makes no such sockets, \
                     see sysctl net.mptcp.enabled";
        let text = "tcp://127.0.0.1:7?mptcp";
        assert_eq!(complaint(text), (Class::Open, format!("connect {text}: {cause}")));
        let error = listen(&format!("listen:{text}")).unwrap_err();
        assert_eq!(error.class(), Class::Open);
        assert_eq!(error.report().to_string(), format!("listen {text}: {cause}"));
    });
}
