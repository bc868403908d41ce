//! Addresses as texts.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::prelude::*;
use qio::error::Class;
use qio::net::{Address, Applies, schemes};

fn parse(text: &str) -> qio::Result<Address> {
    text.parse()
}

/// The line that a user reads, without the part that every one of them has.
fn complaint(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.class(), Class::Usage, "{text}");
    assert_eq!(error.subject(), text);
    let report = error.report().to_string();
    // Also who prints no report reads why.
    assert!(report.starts_with(&error.to_string()), "{error}");
    let start = format!("parse {text}: ");
    assert!(error.to_string().len() > start.len(), "{error}");
    report.strip_prefix(&start).unwrap_or_else(|| panic!("{report}")).to_owned()
}

#[test]
fn good_addresses_are_written_in_one_way() {
    for (text, canonical) in [
        ("tcp:localhost:80", "tcp://localhost:80"),
        ("tcp://localhost:80", "tcp://localhost:80"),
        ("tcp://[::1]:80", "tcp://[::1]:80"),
        ("tcp://[fe80::1%25eth0]:80", "tcp://[fe80::1%25eth0]:80"),
        ("tcp://host:080", "tcp://host:080"),
        ("tcp://h:1?nodelay", "tcp://h:1?nodelay"),
        (
            "tcp://h:1?tcp.nodelay=off&keep-alive-idle=5s",
            "tcp://h:1?nodelay=off&keep-alive-idle=5s",
        ),
        ("listen:tcp://:7001", "listen:tcp://:7001"),
        ("listen:tcp://", "listen:tcp://"),
        ("listen:tcp:0.0.0.0:0?backlog=1", "listen:tcp://0.0.0.0:0?backlog=1"),
        ("listen:tcp://[::]:443", "listen:tcp://[::]:443"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:////run/x.sock", "unix:////run/x.sock"),
        ("unix:relative", "unix:relative"),
        ("unix:@name", "unix:@name"),
        ("unix:@a%00b", "unix:@a%00b"),
        ("unix:%40name", "unix:%40name"),
        ("unix:./@name", "unix:./@name"),
        ("listen:unix:/x?mode=600&backlog=7", "listen:unix:/x?mode=600&backlog=7"),
        ("unix:/a%3Fb%25c%0a", "unix:/a%3Fb%25c%0A"),
        ("unix:/%C3%BC%FF", "unix:/ü%FF"),
        ("file:a&b=c", "file:a&b=c"),
        ("file:x?append", "file:x?append"),
        ("file:x?write&create=600&truncate", "file:x?write&create=600&truncate"),
        ("exec:sort -u", "exec:sort -u"),
        ("exec:  sort   '-u' ", "exec:sort -u"),
        ("exec:grep \"a?b\" 'c?d' e\\?f", "exec:grep 'a?b' 'c?d' 'e?f'"),
        ("exec:sh -c 'echo %20%27'", "exec:sh -c \"echo  '\""),
        ("exec:a ''", "exec:a ''"),
        (
            "exec:make?dir=/src&env=A=B&env=C=%26&stderr=merge",
            "exec:make?dir=/src&env=A=B&env=C=%26&stderr=merge",
        ),
        ("pipe:/run/fifo?write", "pipe:/run/fifo?write"),
        ("fd:3", "fd:3"),
        ("listen:fd:3", "listen:fd:3"),
        ("-", "-"),
        ("stdio:", "-"),
        ("null:", "null:"),
        ("echo://", "echo:"),
    ] {
        let address = parse(text).unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!(address.to_string(), canonical, "{text}");
        assert_eq!(parse(canonical).unwrap(), address, "{text}");
    }
}

/// The options that an error lists: those for connecting.
fn keys_to_connect(name: &str) -> String {
    let scheme = schemes().iter().find(|scheme| scheme.name == name).unwrap();
    let options = scheme.options.iter().filter(|option| option.applies != Applies::Listen);
    match options.map(|option| option.name).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "options here: none".to_owned(),
        names => format!("options here: {names}"),
    }
}

#[test]
fn contradictory_and_empty_texts_are_errors_that_name_the_way_out() {
    let names = schemes().iter().map(|scheme| scheme.name).collect::<Vec<_>>().join(", ");
    let known = format!("schemes: {names}");
    let [tcp, unix, file] = ["tcp", "unix", "file"].map(keys_to_connect);
    let able: Vec<_> = schemes().iter().filter(|scheme| scheme.can_listen()).collect();
    let able = able.iter().map(|scheme| scheme.name).collect::<Vec<_>>().join(", ");
    for (text, expected) in [
        ("", format!("the address is empty ({known})")),
        ("x", format!("there is no scheme in front of it ({known})")),
        ("/run/x", "there is no scheme in front of it (did you mean unix:/run/x or file:/run/x?)".into()),
        ("tpc://h:1", format!("scheme \"tpc\" is not known (did you mean tcp? {known})")),
        ("TCP://h:1", format!("scheme \"TCP\" is not known (did you mean tcp? {known})")),
        ("localhost:80", "scheme \"localhost\" is not known (did you mean tcp://localhost:80?)".into()),
        ("tls+tcp://h:443", "layer \"tls\" is not known (layers: none)".into()),
        ("listen:ws+tls+unix:/x", "layer \"ws\" is not known (layers: none)".into()),
        ("tcp://h:80a", "port \"80a\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:65536", "port \"65536\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:+80", "port \"+80\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:-1", "port \"-1\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:", "port \"\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:80/path", "port \"80/path\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:0", "nothing listens on port 0".into()),
        ("tcp://h", "there is no port to connect to (tcp://HOST:PORT)".into()),
        ("tcp://:80", "there is no host to connect to (tcp://HOST:PORT)".into()),
        ("tcp:", "there is no host to connect to (tcp://HOST:PORT)".into()),
        ("tcp://::1:80", "more than one colon in host and port (an IPv6 address stands in brackets: [::1]:80)".into()),
        ("tcp://[::1:80", "the bracket that starts the host is never closed".into()),
        ("tcp://[::1]80", "\"80\" follows the host, where a colon and the port belong".into()),
        ("tcp://[::g]:80", "host \"::g\" is not an IPv6 address".into()),
        ("tcp://a b:80", "host \"a b\" contains ' '".into()),
        ("tcp://u@h:80", "host \"u@h\" contains '@'".into()),
        ("tcp://%FF:80", "host \"\u{FFFD}\" is not UTF-8".into()),
        ("tcp://h:1?", "an option has no name (options are written ?key=value&key=value)".into()),
        ("tcp://h:1?nodelay&", "an option has no name (options are written ?key=value&key=value)".into()),
        ("tcp://h:1?=x", "an option has no name (options are written ?key=value&key=value)".into()),
        ("tcp://h:1?nodeley", format!("option \"nodeley\" is not known (did you mean nodelay? {tcp})")),
        ("tcp://h:1?x=1", format!("option \"x\" is not known ({tcp})")),
        ("tcp://h:1?tls.cert=x", "option \"tls.cert\" is for a part that is not there (parts: tcp)".into()),
        ("tcp://h:1?tpc.nodelay", "option \"tpc.nodelay\" is for a part that is not there (did you mean tcp? parts: tcp)".into()),
        ("tcp://h:1?backlog=5", format!("option \"backlog\" is only for listening ({tcp})")),
        ("tcp://h:1?nodelay=maybe", "option \"nodelay\": \"maybe\" is not on or off (nodelay[=on|off])".into()),
        ("tcp://h:1?nodelay=", "option \"nodelay\" has an empty value (nodelay[=on|off])".into()),
        ("tcp://h:1?nodelay&nodelay=off", "option \"nodelay\" is given twice".into()),
        ("tcp://h:1?keep-alive-idle", "option \"keep-alive-idle\" needs a value (keep-alive-idle=DURATION)".into()),
        ("tcp://h:1?keep-alive-idle=x", "option \"keep-alive-idle\": \"x\" is not a time like 500ms, 2s or 1m (keep-alive-idle=DURATION)".into()),
        ("tcp://h:1?keep-alive-idle=500ms", "option \"keep-alive-idle\": 500ms is no time that TCP can keep (whole seconds from 1 to 32767)".into()),
        ("tcp://h:1?keep-alive-count=0", "option \"keep-alive-count\": \"0\" is not a number from 1 to 127 (keep-alive-count=1-127)".into()),
        ("tcp://h:1?keep-alive=off&keep-alive-idle=5", "option \"keep-alive-idle\" contradicts \"keep-alive=off\"".into()),
        ("listen:tcp://:1?backlog=0", "option \"backlog\": \"0\" is not a number from 1 to 2147483647 (backlog=1-2147483647)".into()),
        ("unix:", "there is no path (unix:PATH or unix:@NAME)".into()),
        ("unix:/a%00b", "the path contains a NUL byte".into()),
        ("unix:/a%zz", "\"%zz\" is no escape (% and two hexadecimal digits are one byte; a % itself is written %25)".into()),
        ("unix:/a%4", "\"%4\" is no escape (% and two hexadecimal digits are one byte; a % itself is written %25)".into()),
        ("unix:@", "there is no name behind the @".into()),
        ("unix:/x?mode=600", format!("option \"mode\" is only for listening ({unix})")),
        ("listen:unix:/x?mode=9", "option \"mode\": \"9\" is not an octal mode like 660 (mode=MODE)".into()),
        ("listen:unix:@x?mode=600", "option \"mode\" contradicts the abstract name (an abstract name has no permissions: every process can connect)".into()),
        ("file:", "there is no path (file:PATH)".into()),
        ("file:x?apend", format!("option \"apend\" is not known (did you mean append? {file})")),
        ("file:x?append&truncate", "\"truncate\" contradicts \"append\"".into()),
        ("file:x?append&create=off", "\"create=off\" contradicts \"append\"".into()),
        ("file:x?create", "option \"create\" needs \"write\" or \"append\"".into()),
        ("file:x?truncate", "option \"truncate\" needs \"write\" or \"append\"".into()),
        ("file:x?read=off", "the file is to be neither read nor written".into()),
        ("file:x?write&create=rw", "option \"create\": \"rw\" is not an octal mode like 660 (create[=on|off|MODE])".into()),
        ("listen:file:x", format!("file cannot be listened on (these can: {able})")),
        ("listen:exec:x", format!("exec cannot be listened on (these can: {able})")),
        ("listen:null:", format!("null cannot be listened on (these can: {able})")),
        ("listen:-", format!("stdio cannot be listened on (these can: {able})")),
        ("listen:listen:tcp://:1", format!("scheme \"listen\" is not known ({known})")),
        ("exec:", "there is no program to start (exec:PROGRAM ARGUMENTS)".into()),
        ("exec:''", "there is no program to start (exec:PROGRAM ARGUMENTS)".into()),
        ("exec:a 'b", "a quote is never closed, or nothing follows a backslash".into()),
        ("exec:a b\\", "a quote is never closed, or nothing follows a backslash".into()),
        ("exec:a #b", "a word starts with # (quote it: '#')".into()),
        ("exec:a %00", "a word of the command contains a NUL byte".into()),
        ("exec:a?stderr=log", "option \"stderr\": \"log\" is not inherit or null or merge (stderr=inherit|null|merge)".into()),
        ("exec:a?env=x", "option \"env\": \"x\" is not NAME=VALUE".into()),
        ("exec:a?linger=1&linger=2", "option \"linger\" is given twice".into()),
        ("pipe:x?read&write", "a FIFO is either read or written".into()),
        ("pipe:x?read=off", "a FIFO is either read or written".into()),
        ("fd:", "\"\" is not the number of a descriptor".into()),
        ("fd:-1", "\"-1\" is not the number of a descriptor".into()),
        ("fd:3x", "\"3x\" is not the number of a descriptor".into()),
        ("fd:99999999999", "\"99999999999\" is not the number of a descriptor".into()),
        ("null:x", "nothing can follow the colon, but \"x\" does".into()),
        ("-?x", "option \"x\" is not known (options here: none)".into()),
    ] {
        assert_eq!(complaint(text), expected, "{text}");
    }
}

#[test]
fn a_host_of_maximum_length_survives_and_a_longer_one_is_refused() {
    let host = "h".repeat(255);
    let address = parse(&format!("tcp://{host}:1")).unwrap();
    assert_eq!(address.to_string(), format!("tcp://{host}:1"));
    assert_eq!(Address::tcp(host, 1), address);
    for length in [256, 1025, 1 << 20] {
        let error = parse(&format!("tcp://{}:1", "h".repeat(length))).unwrap_err();
        let expected = format!("the host has {length} bytes, at most 255 fit");
        assert!(error.report().to_string().ends_with(&expected));
    }
}

#[test]
fn unix_paths_fill_the_address_and_no_more() {
    let path = |bytes: usize| format!("unix:/{}", "p".repeat(bytes - 1));
    for bytes in [107, 108] {
        assert_eq!(parse(&path(bytes)).unwrap().to_string(), path(bytes));
    }
    assert_eq!(complaint(&path(109)), "the path has 109 bytes, a Unix socket address holds 108");
    let name = |bytes: usize| format!("unix:@{}", "n".repeat(bytes));
    assert_eq!(parse(&name(107)).unwrap().to_string(), name(107));
    assert_eq!(complaint(&name(108)), "the name has 108 bytes, a Unix socket address holds 107");
}

#[test]
fn what_is_built_is_checked_when_it_is_used() {
    let address = Address::tcp("", 80);
    let error = qio::net::connect(&address, &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "connect tcp://:80: there is no host to connect to (tcp://HOST:PORT)"
    );
    let error = Address::null().with_option("size", "1").unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "set an option of null:: option \"size\" is not known (options here: none)"
    );
    let error = qio::net::listen(&Address::file("x").listening(), &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "listen file:x: file cannot be listened on (these can: tcp, unix, udp, unix-seqpacket, fd)"
    );
    let error = qio::net::listen(&Address::tcp("", 80), &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "listen tcp://:80: this is an address to connect to \
         (listen:tcp://:80 is one to listen on)"
    );
    let error = qio::net::connect(&Address::unix("x").listening(), &Default::default());
    assert_eq!(
        error.unwrap_err().report().to_string(),
        "connect listen:unix:x: this is an address to listen on"
    );
}

#[test]
fn an_option_that_is_set_again_is_replaced_unless_it_is_a_list() {
    let address = Address::exec(["x"])
        .with_option("dir", "/a")
        .and_then(|address| address.with_option("dir", "/b"))
        .and_then(|address| address.with_option("env", "A=1"))
        .and_then(|address| address.with_option("env", "B=2"))
        .unwrap();
    assert_eq!(address.to_string(), "exec:x?dir=/b&env=A=1&env=B=2");
}

#[test]
fn the_table_describes_addresses_that_parse() {
    for scheme in schemes() {
        assert!(!scheme.examples.is_empty(), "{}", scheme.name);
        for example in scheme.examples {
            let address = parse(example.address).unwrap();
            assert_eq!(address.scheme().name, scheme.name);
            assert!(!address.is_listening() || scheme.can_listen());
            assert!(!example.meaning.is_empty());
        }
        for option in scheme.options {
            assert!(option.syntax().starts_with(option.name));
            assert!(!option.help.is_empty());
            // A default is a value that could have been written.
            if let Some(default) = option.default {
                let address = parse(scheme.examples[0].address).unwrap();
                address.with_option(option.name, default).unwrap();
            }
        }
    }
}

fn bytes_without_nul() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop_oneof![
        proptest::collection::vec(1..=255u8, 1..60),
        "[ -~]{1,60}".prop_map(String::into_bytes),
        "\\PC{1,20}".prop_map(String::into_bytes),
        // What the grammar itself is made of.
        proptest::collection::vec(proptest::sample::select(b"%?&=/@:-#'\"\\ $`".to_vec()), 1..20),
    ]
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn any_address() -> impl Strategy<Value = Address> {
    let host = prop_oneof![
        "[a-z0-9.-]{1,40}",
        any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        "fe80::[0-9]{1,3}%[a-z]{1,8}",
    ];
    let tcp = (host, 1..=65535u16).prop_map(|(host, port)| Address::tcp(host, port));
    let nodelay = proptest::sample::select(vec!["on", "off", "true", "no"]);
    let seconds = (1..30_000u32).prop_map(|seconds| format!("{seconds}s"));
    let tuned = (tcp.clone(), nodelay, seconds).prop_map(|(address, nodelay, seconds)| {
        let address = address.with_option("nodelay", nodelay).unwrap();
        address.with_option("keep-alive-idle", seconds).unwrap()
    });
    let listening = (tcp.clone(), 1..5000u32).prop_map(|(address, backlog)| {
        address.listening().with_option("backlog", backlog.to_string()).unwrap()
    });
    let path = bytes_without_nul().boxed();
    let file = path.clone().prop_map(|path| Address::file(os(&path)));
    let append = file.clone().prop_map(|address| address.with_option("append", "on").unwrap());
    let unix = path.clone().prop_map(|path| Address::unix(os(&path)));
    let name = proptest::collection::vec(any::<u8>(), 1..107).prop_map(Address::unix_abstract);
    let word = prop_oneof![path.clone(), Just(Vec::new())];
    let exec =
        (path.clone(), proptest::collection::vec(word, 0..5)).prop_map(|(first, mut rest)| {
            rest.insert(0, first);
            Address::exec(rest.into_iter().map(std::ffi::OsString::from_vec))
        });
    let env = (exec.clone(), path.clone(), path.clone()).prop_map(|(address, dir, value)| {
        let value = [b"N=".to_vec(), value].concat();
        let address = address.with_option("dir", os(&dir)).unwrap();
        address.with_option("env", os(&value)).unwrap().with_option("env", "X=").unwrap()
    });
    let pipe = path.prop_map(|path| Address::pipe(os(&path)));
    let fd = (0..1000u32).prop_map(Address::fd);
    let fixed = proptest::sample::select(vec![Address::stdio(), Address::null(), Address::echo()]);
    prop_oneof![tcp, tuned, listening, file, append, unix, name, exec, env, pipe, fd, fixed]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_to_the_same(address in any_address()) {
        let text = address.to_string();
        let again = parse(&text);
        prop_assert!(again.is_ok(), "{text:?}: {}", again.unwrap_err().report());
        prop_assert_eq!(&again.unwrap(), &address, "{}", text);
    }

    #[test]
    fn any_text_is_an_address_or_an_error_and_an_address_prints_itself(
        prefix in proptest::sample::select(vec![
            "", "listen:", "tcp://", "listen:tcp://[", "unix:", "exec:", "file:", "fd:", "-?",
        ]),
        rest in bytes_without_nul(),
    ) {
        let text = [prefix.as_bytes(), &rest].concat();
        if let Ok(address) = Address::parse_os(os(&text)) {
            let printed = address.to_string();
            prop_assert_eq!(&parse(&printed).unwrap(), &address, "{}", printed);
        }
    }
}
