//! Addresses as QEMU writes them.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use common::{eventually, impatiently, patience};
use proptest::prelude::*;
use qio::error::Class;
use qio::net::{Address, ConnectOptions, ListenOptions};
use qio::{Channel, ChannelExt};

fn qemu(text: &str) -> qio::Result<Address> {
    Address::parse_qemu(text)
}

fn listening(text: &str) -> qio::Result<Address> {
    format!("listen:qemu:{text}").parse()
}

/// The line that a user reads, without the part that every one of them has.
fn complaint(text: &str) -> String {
    let error = qemu(text).expect_err(text);
    assert_eq!(error.class(), Class::Usage, "{text}");
    let start = format!("parse qemu:{text}: ");
    let report = error.report().to_string();
    // The prefix says the same.
    let prefixed = format!("qemu:{text}").parse::<Address>().unwrap_err();
    assert_eq!(prefixed.report().to_string(), report);
    report.strip_prefix(&start).unwrap_or_else(|| panic!("{report}")).to_owned()
}

const QUIET: &str = "nodelay=off&keep-alive=off";
const PROBES: &str = "nodelay=off&keep-alive-idle=7200s&keep-alive-interval=75s&keep-alive-count=9";

#[test]
fn what_qemu_means_without_saying_it_is_written_out() {
    for (text, expected) in [
        ("localhost:80", format!("tcp://localhost:80?{QUIET}")),
        ("tcp:localhost:80", format!("tcp://localhost:80?{QUIET}")),
        ("localhost:http", format!("tcp://localhost:http?{QUIET}")),
        ("[::1]:80", format!("tcp://[::1]:80?{QUIET}")),
        ("[fe80::1%eth0]:80", format!("tcp://[fe80::1%25eth0]:80?{QUIET}")),
        ("[localhost]:80", format!("tcp://localhost:80?{QUIET}")),
        ("h:1,ipv4", format!("tcp://h:1?ipv4=on&{QUIET}")),
        ("h:1,ipv4=off,ipv6=on", format!("tcp://h:1?ipv4=off&ipv6=on&{QUIET}")),
        ("h:1,ipv6=yes,noipv4", format!("tcp://h:1?ipv6=on&ipv4=off&{QUIET}")),
        ("1.2.3.4:1,numeric", format!("tcp://1.2.3.4:1?numeric=on&{QUIET}")),
        ("h:1,keep-alive", format!("tcp://h:1?keep-alive=on&{PROBES}")),
        ("h:1,keep-alive=off", "tcp://h:1?keep-alive=off&nodelay=off".to_owned()),
        (
            "h:1,keep-alive=on,keep-alive-idle=30,keep-alive-count=0",
            "tcp://h:1?keep-alive=on&keep-alive-idle=30&nodelay=off&keep-alive-interval=75s\
             &keep-alive-count=9"
                .to_owned(),
        ),
        ("tcp:h:1,nodelay", "tcp://h:1?nodelay=on&keep-alive=off".to_owned()),
        ("tcp:h:1,nodelay=on", "tcp://h:1?nodelay=on&keep-alive=off".to_owned()),
        ("tcp:h:1,nodelay=off", "tcp://h:1?nodelay=off&keep-alive=off".to_owned()),
        ("tcp:h:1,delay=off", "tcp://h:1?nodelay=on&keep-alive=off".to_owned()),
        ("tcp:h:1,nodelay,reconnect=0", "tcp://h:1?nodelay=on&keep-alive=off".to_owned()),
        ("unix:/run/x", "unix:/run/x".to_owned()),
        ("unix:/run/a,,b", "unix:/run/a,b".to_owned()),
        ("unix:/run/a=b%41?c", "unix:/run/a=b%2541%3Fc".to_owned()),
        ("unix:@x", "unix:%40x".to_owned()),
        ("unix:x,abstract", "unix:@x".to_owned()),
        ("unix:x,abstract=on,tight=off", "unix:@x?tight=off".to_owned()),
        ("unix:x,abstract=off", "unix:x?abstract=off".to_owned()),
        ("vsock:2:1234", "vsock:2:1234".to_owned()),
        ("fd:3", "fd:3".to_owned()),
        ("socket,host=h,port=1", format!("tcp://h:1?{QUIET}")),
        (
            "socket,id=c0,host=::1,port=1,nodelay=on",
            "tcp://[::1]:1?nodelay=on&keep-alive=off".to_owned(),
        ),
        ("host=h,port=1,ipv6", format!("tcp://h:1?ipv6=on&{QUIET}")),
        ("socket,path=/run/x,id=c0,mux=off,telnet=off", "unix:/run/x".to_owned()),
        ("path=/run/a,,b", "unix:/run/a,b".to_owned()),
        ("socket,path=x,abstract=on", "unix:@x".to_owned()),
        ("socket,fd=3", "fd:3".to_owned()),
    ] {
        let address = qemu(text).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(address.to_string(), expected, "{text}");
        assert_eq!(expected.parse::<Address>().unwrap(), address, "{text}");
        assert_eq!(format!("qemu:{text}").parse::<Address>().unwrap(), address);
        assert!(!address.is_listening());
    }
}

#[test]
fn a_server_listens_and_without_a_host_on_all_interfaces() {
    for (text, expected) in [
        (":5900", format!("listen:tcp://[::]:5900?{QUIET}")),
        ("tcp::5900", format!("listen:tcp://[::]:5900?{QUIET}")),
        (":0", format!("listen:tcp://[::]:0?{QUIET}")),
        (":5900,ipv4", format!("listen:tcp://0.0.0.0:5900?ipv4=on&{QUIET}")),
        (":5900,ipv4,ipv6=off", format!("listen:tcp://0.0.0.0:5900?ipv4=on&ipv6=off&{QUIET}")),
        (":5900,ipv6=off", format!("listen:tcp://0.0.0.0:5900?ipv6=off&{QUIET}")),
        (":5900,ipv6", format!("listen:tcp://[::]:5900?ipv6=on&{QUIET}")),
        (":5900,ipv4=off", format!("listen:tcp://[::]:5900?ipv4=off&{QUIET}")),
        (":5900,ipv4=off,ipv6", format!("listen:tcp://[::]:5900?ipv4=off&ipv6=on&{QUIET}")),
        (":5900,ipv4,ipv6", format!("listen:tcp://[::]:5900?ipv4=on&ipv6=on&{QUIET}")),
        ("localhost:5900", format!("listen:tcp://localhost:5900?{QUIET}")),
        ("[::]:5900", format!("listen:tcp://[::]:5900?{QUIET}")),
        ("unix:/run/x", "listen:unix:/run/x".to_owned()),
        ("unix:", "listen:unix:".to_owned()),
        ("fd:3", "listen:fd:3".to_owned()),
    ] {
        let address = listening(text).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(address.to_string(), expected, "{text}");
        let server = format!("{text},server=on,wait=off");
        assert_eq!(qemu(&server).unwrap(), address, "{server}");
        assert_eq!(qemu(&format!("{text},server,nowait")).unwrap(), address);
        assert_eq!(listening(&server).unwrap(), address);
    }
    let named = qemu("socket,id=m,host=,port=5900,server=on").unwrap();
    assert_eq!(named, listening(":5900").unwrap());
    let error = listening("h:1,server=off").unwrap_err();
    assert!(error.to_string().ends_with("\"server=off\" contradicts \"listen:\""), "{error}");
}

#[test]
fn a_listener_that_qemu_describes_listens() {
    let address = listening("127.0.0.1:0,ipv4").unwrap();
    let listener = qio::net::listen(&address, &ListenOptions::new()).unwrap();
    let client = listener.local_addresses()[0].to_string();
    let client = qemu(client.strip_prefix("tcp://").unwrap()).unwrap();
    qio::net::connect(&client, &Default::default()).unwrap();
}

/// A program of QEMU's with a monitor on that socket; ended when it is dropped.
struct Qemu(Child);

impl Qemu {
    fn start(chardev: &str) -> Self {
        let process = Command::new(QEMU)
            .args(["--chardev", chardev, "--monitor", "chardev=c0"])
            .stdin(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The smallest of its programs that has character devices.
const QEMU: &str = "qemu-storage-daemon";

fn is_greeted(channel: &Arc<dyn Channel>) {
    let mut greeting = [0; 7];
    channel.set_mode(qio::Mode::NonBlocking).unwrap();
    impatiently(|| channel.read_exact(&mut greeting)).unwrap();
    assert_eq!(&greeting, b"{\"QMP\":");
}

#[test]
fn qemu_and_qio_meet_where_both_read_the_same_text() {
    let version = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        println!("skipped: {QEMU} is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a,,b").to_str().unwrap().to_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for place in [
        format!("path={path}"),
        format!("path={path},abstract=on"),
        format!("path={path},abstract=on,tight=off"),
        format!("host=127.0.0.1,port={port},ipv4=on,nodelay=on"),
        format!("host=,port={port},ipv6=off"),
    ] {
        let text = format!("socket,id=c0,{place}");
        let server = format!("{text},server=on,wait=off");
        // A server of QEMU's, and a client of qio's by the same text.
        let client = qemu(&text.replace("host=,", "host=127.0.0.1,")).unwrap();
        let daemon = Qemu::start(&server);
        let mut channel = None;
        eventually("a connection to QEMU", || {
            channel = qio::net::connect(&client, &ConnectOptions::new()).ok();
            channel.is_some()
        });
        is_greeted(&channel.unwrap());
        drop(daemon);
        // And the other way round.
        let listener = qio::net::listen(&qemu(&server).unwrap(), &ListenOptions::new()).unwrap();
        let _daemon = Qemu::start(&text.replace("host=,", "host=127.0.0.1,"));
        is_greeted(&listener.accept(patience()).unwrap().channel);
    }
}

#[test]
fn what_is_wrong_or_has_no_counterpart_is_named() {
    for (text, expected) in [
        ("", "there is no port (QEMU writes HOST:PORT)"),
        ("h", "there is no port (QEMU writes HOST:PORT)"),
        ("[::1]", "there is no port (QEMU writes HOST:PORT)"),
        ("[::1]80", "there is no port (QEMU writes HOST:PORT)"),
        ("[::1:80", "the bracket that starts the host is never closed"),
        ("h:", "port \"\" is not a number from 0 to 65535, nor a service"),
        ("h:80x", "port \"80x\" is not a number from 0 to 65535, nor a service"),
        (
            "a:b:80",
            "more than one colon in host and port (an IPv6 address stands in brackets: [::1]:80)",
        ),
        (
            "::1:80",
            "more than one colon in host and port (an IPv6 address stands in brackets: [::1]:80)",
        ),
        (":80", "there is no host to connect to (tcp://HOST:PORT)"),
        ("[::]:80,ipv4", "host \"::\" is an IPv6 address, and the options leave only IPv4"),
        ("0.0.0.0:80,ipv6", "host \"0.0.0.0\" is an IPv4 address, and the options leave only IPv6"),
        ("h:80,ipv4=off,ipv6=off", "\"ipv4=off\" and \"ipv6=off\" leave no family"),
        ("h:80,ipv4=maybe", "option \"ipv4\": \"maybe\" is not on or off"),
        ("h:80,ipv4=", "option \"ipv4\": \"\" is not on or off"),
        ("h:80,ipv4=on,ipv4=off", "option \"ipv4\" is given twice"),
        ("h:80,,ipv4", "port \"80,ipv4\" is not a number from 0 to 65535, nor a service"),
        ("h:80,", "an option has no name (QEMU writes ,key=value)"),
        ("h:80,=x", "an option has no name (QEMU writes ,key=value)"),
        ("name:80,numeric", "host \"name\" is a name, and option \"numeric\" is on"),
        ("h:80,keep-alive-idle=5", "option \"keep-alive-idle\" needs \"keep-alive=on\""),
        (
            "h:80,keep-alive,keep-alive-idle=5s",
            "option \"keep-alive-idle\": \"5s\" is not a number",
        ),
        ("h:80,keep-alive,keep-alive-count", "option \"keep-alive-count\" needs a value"),
        ("h:80,delay,nodelay", "\"delay\" and \"nodelay\" say the same thing twice"),
        (
            "h:80,reconnect=1,reconnect-ms=1",
            "\"reconnect\" and \"reconnect-ms\" say the same thing twice",
        ),
        ("h:80,wait=off", "option \"wait\" is only for \"server=on\""),
        ("unix:", "there is no path (unix:PATH or unix:@NAME)"),
        ("unix:,abstract", "there is no name behind the @"),
        (
            "unix:/x,tight=on",
            "option \"tight\" is for abstract names only (unix:@NAME, or option \"abstract\")",
        ),
        ("vsock:2:80x", "port \"80x\" is not a number from 0 to 4294967295, nor any"),
        ("vsock:2", "a vsock address is a CID and a port (vsock:CID:PORT)"),
        (
            "fd:",
            "\"\" is neither the number nor the name of a descriptor (a name has up to 255 printable ASCII characters and no colon)",
        ),
        ("socket", "it is not clear where the socket is (one of: host= and port=, path=, fd=)"),
        (
            "socket,path=/x,fd=3",
            "it is not clear where the socket is (one of: host= and port=, path=, fd=)",
        ),
        (
            "socket,host=h",
            "it is not clear where the socket is (one of: host= and port=, path=, fd=)",
        ),
        (
            "host=h,port=1,path=/x",
            "it is not clear where the socket is (one of: host= and port=, path=, fd=)",
        ),
    ] {
        assert_eq!(complaint(text), expected, "{text}");
    }
    for (text, start) in [
        (
            "h:80,ipv5",
            "\"ipv5\" is no option of QEMU's sockets (did you mean ipv4? options: host, ",
        ),
        (
            "h:80,tls-creds=t0",
            "QEMU's option \"tls-creds\" has no counterpart in tcp: addresses (options here: ",
        ),
        ("h:80,telnet=on", "QEMU's option \"telnet\" has no counterpart in tcp: addresses ("),
        ("h:80,tight=on", "QEMU's option \"tight\" has no counterpart in tcp: addresses ("),
        ("unix:/x,ipv4", "QEMU's option \"ipv4\" has no counterpart in unix: addresses ("),
        (
            "vsock:2:1,keep-alive",
            "QEMU's option \"keep-alive\" has no counterpart in vsock: addresses (",
        ),
        ("fd:3,path=/x", "QEMU's option \"path\" has no counterpart in fd: addresses ("),
    ] {
        let complaint = complaint(text);
        assert!(complaint.starts_with(start), "{complaint}");
    }
}

#[test]
fn options_of_other_parts_are_passed_on_under_their_names() {
    for (text, expected) in [
        ("listen:qemu::5900,to=5910", format!("listen:tcp://[::]:5900?to=5910&{QUIET}")),
        ("qemu:h:1,mptcp", format!("tcp://h:1?mptcp=on&{QUIET}")),
        ("qemu:h:1,reconnect-ms=500", format!("tcp://h:1?reconnect-ms=500&{QUIET}")),
        ("qemu:tcp:h:1,reconnect=5", format!("tcp://h:1?reconnect-ms=5000&{QUIET}")),
    ] {
        let address = text.parse::<Address>().unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(address.to_string(), expected, "{text}");
    }
}

#[test]
fn a_host_of_maximum_length_survives_in_every_form_and_a_longer_one_is_refused() {
    for length in [255, 256, 1 << 20] {
        let host = "h".repeat(length);
        for text in [
            format!("{host}:1"),
            format!("[{host}]:1"),
            format!("tcp:{host}:1,ipv4"),
            format!("socket,host={host},port=1"),
        ] {
            match qemu(&text) {
                Ok(address) => {
                    assert_eq!(length, 255);
                    assert!(address.to_string().starts_with(&format!("tcp://{host}:1?")));
                }
                Err(error) => {
                    let end = format!("the host has {length} bytes, at most 255 fit");
                    assert!(error.to_string().ends_with(&end));
                }
            }
        }
    }
    assert!(qemu(&format!("{}:1", "h".repeat(255))).is_ok());
}

#[test]
fn nothing_but_the_prefix_makes_a_text_one_of_qemus() {
    for text in ["localhost:80", "[::1]:80", ":5900", "tcp:h:80,ipv4", "socket,path=/x", "path=/x"]
    {
        text.parse::<Address>().unwrap_err();
    }
    // A comma in a path of qio's is one.
    let address: Address = "unix:/x,server=on".parse().unwrap();
    assert_eq!(address, Address::unix("/x,server=on"));
    assert_ne!(address, qemu("unix:/x,server=on").unwrap());
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "",
        "unix:",
        "vsock:",
        "fd:",
        "tcp:",
        "socket",
        "[",
        "]",
        ":",
        "::",
        ",",
        ",,",
        "=",
        "3",
        "80",
        "h",
        "/x",
        "%",
        "?",
        "@",
        "ipv4",
        "ipv6=off",
        "to=9",
        "keep-alive",
        "server=on",
        "wait=off",
        "nowait",
        "no",
        "abstract",
        "tight=off",
        "path=/x",
        "host=h",
        "host=",
        "port=1",
        "keep-alive-idle=7",
        "reconnect=1",
        "delay",
        "\u{e9}",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    let chaos = proptest::collection::vec(word, 0..10).prop_map(|words| words.concat());
    let places =
        vec!["h:1", "[::1]:1", ":1", "tcp:h:s", "unix:/a,,b", "vsock:3:4", "fd:5", "socket"];
    let options = vec![
        "ipv4",
        "ipv6=off",
        "noipv6",
        "numeric=off",
        "keep-alive",
        "keep-alive-idle=9",
        "path=/c",
        "keep-alive-count=0",
        "abstract",
        "abstract=no",
        "tight=y",
        "notight",
        "server",
        "wait=off",
        "nodelay",
        "delay=on",
        "reconnect=0",
        "id=x",
        "mux=off",
        "host=i",
        "port=7",
        "fd=8",
        "to=2",
    ];
    let options = proptest::sample::subsequence(options, 0..6).prop_shuffle();
    let order = (proptest::sample::select(places), options)
        .prop_map(|(place, options)| [&[place][..], &options].concat().join(",").into_bytes());
    prop_oneof![chaos, order]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_an_address_of_qemus_or_an_error_and_an_address_prints_itself(
        listens in any::<bool>(),
        text in pieces(),
    ) {
        let prefix: &[u8] = if listens { b"listen:qemu:" } else { b"qemu:" };
        let whole = [prefix, &text].concat();
        if let Ok(address) = Address::parse_os(OsStr::from_bytes(&whole)) {
            let printed = address.to_string();
            prop_assert_eq!(&printed.parse::<Address>().unwrap(), &address, "{}", printed);
            prop_assert!(!listens || address.is_listening());
        }
        // Without the prefix there is at most a hint.
        let _ = Address::parse_os(OsStr::from_bytes(&text));
    }
}
