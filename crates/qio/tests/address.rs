//! Addresses as texts.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::prelude::*;
use qio::error::Class;
use qio::net::{
    self, Address, Applies, Cancel, ConnectOptions, OptionInfo, Scheme, Value, schemes,
};

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
        ("listen:tcp://:80?to=080&ipv6=yes", "listen:tcp://:80?to=080&ipv6=yes"),
        ("tcp://h:1?bind=[::1]:7&sndbuf=1M", "tcp://h:1?bind=[::1]:7&sndbuf=1M"),
        ("tcp://h:1?bind=::1", "tcp://h:1?bind=::1"),
        ("tcp://h:1?bind=fe80::1%25eth0", "tcp://h:1?bind=fe80::1%25eth0"),
        ("tcp://h:1?bind=:ssh", "tcp://h:1?bind=:ssh"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:////run/x.sock", "unix:////run/x.sock"),
        ("unix:relative", "unix:relative"),
        ("unix:@name", "unix:@name"),
        ("unix:@a%00b", "unix:@a%00b"),
        ("unix:%40name", "unix:%40name"),
        ("unix:./@name", "unix:./@name"),
        ("listen:unix:/x?mode=600&backlog=7", "listen:unix:/x?mode=600&backlog=7"),
        ("unix:name?abstract", "unix:name?abstract"),
        ("unix:@name?tight=off", "unix:@name?tight=off"),
        ("unix:a%00b?abstract=on", "unix:a%00b?abstract=on"),
        ("unix:/x?abstract=off", "unix:/x?abstract=off"),
        ("listen:unix:", "listen:unix:"),
        ("vsock:3:1024", "vsock:3:1024"),
        ("vsock://host:1024", "vsock:host:1024"),
        ("vsock:local:0", "vsock:local:0"),
        ("listen:vsock:1024?backlog=1", "listen:vsock:1024?backlog=1"),
        ("listen:vsock:any:any", "listen:vsock:any:any"),
        ("listen:vsock:4294967295:4294967295", "listen:vsock:4294967295:4294967295"),
        ("listen:unix:/x?user=0&group=www-data", "listen:unix:/x?user=0&group=www-data"),
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
        ("pty:top  -b?cols=132&raw", "pty:top -b?cols=132&raw"),
        (
            "exec:make?dir=/src&env=A=B&env=C=%26&stderr=merge",
            "exec:make?dir=/src&env=A=B&env=C=%26&stderr=merge",
        ),
        ("pipe:/run/fifo?write", "pipe:/run/fifo?write"),
        ("fd:3", "fd:3"),
        ("listen:fd:3", "listen:fd:3"),
        ("listen:fd:web 2.socket", "listen:fd:web 2.socket"),
        ("fd://what%3F", "fd:what%3F"),
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
    keys(name, Applies::Listen)
}

/// The options that an error lists, without those of the other role.
fn keys(name: &str, other: Applies) -> String {
    let scheme = schemes().iter().find(|scheme| scheme.name == name).unwrap();
    let options = scheme.options.iter().filter(|option| option.applies != other);
    match options.map(|option| option.name).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "options here: none".to_owned(),
        names => format!("options here: {names}"),
    }
}

#[test]
fn contradictory_and_empty_texts_are_errors_that_name_the_way_out() {
    let names = schemes().iter().map(|scheme| scheme.name).collect::<Vec<_>>().join(", ");
    let known = format!("schemes: {names}");
    let known_layers = net::layers().iter().map(|layer| layer.name).collect::<Vec<_>>().join(", ");
    let [tcp, unix, file] = ["tcp", "unix", "file"].map(keys_to_connect);
    let tcp_listening = keys("tcp", Applies::Connect);
    let able: Vec<_> = schemes().iter().filter(|scheme| scheme.can_listen()).collect();
    let able = able.iter().map(|scheme| scheme.name).collect::<Vec<_>>().join(", ");
    for (text, expected) in [
        ("", format!("the address is empty ({known})")),
        ("x", format!("there is no scheme in front of it ({known})")),
        ("/run/x", "there is no scheme in front of it (did you mean unix:/run/x or file:/run/x?)".into()),
        ("tpc://h:1", format!("scheme \"tpc\" is not known (did you mean tcp? {known})")),
        ("TCP://h:1", format!("scheme \"TCP\" is not known (did you mean tcp? {known})")),
        ("localhost:80", "scheme \"localhost\" is not known (did you mean tcp://localhost:80, or qemu:localhost:80 with the defaults of QEMU?)".into()),
        ("localhost:80?nodelay=off", "scheme \"localhost\" is not known (did you mean tcp://localhost:80?nodelay=off?)".into()),
        ("listen::5900", "scheme \"\" is not known (did you mean listen:tcp://:5900, or listen:qemu::5900 with the defaults of QEMU?)".into()),
        ("[::1]:80", "scheme \"[\" is not known (did you mean tcp://[::1]:80, or qemu:[::1]:80 with the defaults of QEMU?)".into()),
        ("localhost:80,ipv4=on", "scheme \"localhost\" is not known (did you mean qemu:localhost:80,ipv4=on?)".into()),
        ("listen:[::]:5900,ipv6", "scheme \"[\" is not known (did you mean listen:qemu:[::]:5900,ipv6?)".into()),
        ("socket,path=/run/x", "there is no scheme in front of it (did you mean qemu:socket,path=/run/x?)".into()),
        ("path=/run/x,server=on", "there is no scheme in front of it (did you mean qemu:path=/run/x,server=on?)".into()),
        ("tcp:localhost:80,server=on", "port \"80,server=on\" is not a number from 0 to 65535, nor a service (did you mean qemu:tcp:localhost:80,server=on?)".into()),
        ("tcp:localhost:80,foo", "port \"80,foo\" is not a number from 0 to 65535, nor a service".into()),
        ("localhost:80,foo", format!("scheme \"localhost\" is not known ({known})")),
        ("nul:80", format!("scheme \"nul\" is not known (did you mean null? {known})")),
        ("ws+qemu:h:80", format!("scheme \"qemu\" is not known ({known})")),
        ("ssh:box", format!("scheme \"ssh\" is not known ({known}; did you mean tcp://ssh:box, or qemu:ssh:box with the defaults of QEMU?)")),
        ("qemu:h", "there is no port (QEMU writes HOST:PORT)".into()),
        ("wsx+tcp://h:443", format!("layer \"wsx\" is not known (did you mean ws? layers: {known_layers})")),
        ("listen:ws+xyz+unix:/x", format!("layer \"xyz\" is not known (layers: {known_layers})")),
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
        ("tcp://h:1?user-timeout=0", "option \"user-timeout\": 0ns is no time that TCP can keep (whole milliseconds from 1 to 2147483647)".into()),
        ("tcp://h:1?user-timeout=1us", "option \"user-timeout\": 1µs is no time that TCP can keep (whole milliseconds from 1 to 2147483647)".into()),
        ("tcp://h:1?user-timeout=2147484", "option \"user-timeout\": 2147484s is no time that TCP can keep (whole milliseconds from 1 to 2147483647)".into()),
        ("tcp://h:1?sndbuf=1.5M", "option \"sndbuf\": \"1.5M\" is not a size like 4096, 256k or 1M (sndbuf=SIZE)".into()),
        ("tcp://h:1?rcvbuf=2G", "option \"rcvbuf\": \"2G\" is not a size from 1 to 1G (rcvbuf=SIZE)".into()),
        ("tcp://h:1?ttl=0", "option \"ttl\": \"0\" is not a number from 1 to 255 (ttl=1-255)".into()),
        ("tcp://h:1?tos=256", "option \"tos\": \"256\" is not a number from 0 to 255 (tos=0-255)".into()),
        ("tcp://h:1?device=a/b", "option \"device\": \"a/b\" is no name of an interface (see ip link)".into()),
        ("tcp://h:1?device=sixteen-letters-", "option \"device\": \"sixteen-letters-\" is no name of an interface (see ip link)".into()),
        ("tcp://h:1?bind=a b", "option \"bind\": host \"a b\" contains ' '".into()),
        ("tcp://h:1?bind=::g", "option \"bind\": host \"::g\" is not an IPv6 address".into()),
        ("tcp://h:1?bind=[::1]x", "option \"bind\": host \"[::1]x\" contains '['".into()),
        ("tcp://h:1?bind=[::1]:x!", "option \"bind\": port \"x!\" is not a number from 0 to 65535, nor a service".into()),
        ("tcp://h:1?bind=[::1]:80&ipv4", "option \"bind\": host \"::1\" is an IPv6 address, and the options leave only IPv4".into()),
        ("tcp://127.0.0.1:1?bind=::1", "option \"bind\": ::1 and 127.0.0.1 are of two families".into()),
        ("tcp://127.0.0.1:1?bind=h&numeric", "option \"bind\": host \"h\" is a name, and option \"numeric\" is on".into()),
        ("listen:tcp://:1?bind=::1", format!("option \"bind\" is only for connecting ({tcp_listening})")),
        ("tcp://h:1?to=2", format!("option \"to\" is only for listening ({tcp})")),
        ("tcp://h:1?reuse-port", format!("option \"reuse-port\" is only for listening ({tcp})")),
        ("listen:tcp://:80?to=79", "option \"to\": port 79 is below the first one, 80".into()),
        ("listen:tcp://?to=79", "option \"to\" ends a range of ports that has no first one (the port is the number of the first)".into()),
        ("listen:tcp://:0?to=79", "option \"to\" ends a range of ports that has no first one (the port is the number of the first)".into()),
        ("listen:tcp://:http?to=81", "option \"to\" ends a range of ports that has no first one (the port is the number of the first)".into()),
        ("listen:tcp://:80?to=65536", "option \"to\": \"65536\" is not a number from 1 to 65535 (to=1-65535)".into()),
        ("listen:tcp://[::]:80?ipv4", "host \"::\" is an IPv6 address, and the options leave only IPv4".into()),
        ("listen:tcp://0.0.0.0:80?ipv4=off", "host \"0.0.0.0\" is an IPv4 address, and the options leave only IPv6".into()),
        ("listen:tcp://:80?ipv4=off&ipv6=off", "\"ipv4=off\" and \"ipv6=off\" leave no family".into()),
        ("unix:", "there is no path (unix:PATH or unix:@NAME)".into()),
        ("unix:/a%00b", "the path contains a NUL byte".into()),
        ("unix:/a%zz", "\"%zz\" is no escape (% and two hexadecimal digits are one byte; a % itself is written %25)".into()),
        ("unix:/a%4", "\"%4\" is no escape (% and two hexadecimal digits are one byte; a % itself is written %25)".into()),
        ("unix:@", "there is no name behind the @".into()),
        ("unix:?abstract", "there is no name to be abstract".into()),
        ("listen:unix:?abstract", "there is no name to be abstract".into()),
        ("unix:@x?abstract=off", "\"abstract=off\" contradicts the @ (a path that begins with @ is written %40 or ./@)".into()),
        ("unix:/x?tight", "option \"tight\" is for abstract names only (unix:@NAME, or option \"abstract\")".into()),
        ("unix:/x?tight=off&abstract=off", "option \"tight\" is for abstract names only (unix:@NAME, or option \"abstract\")".into()),
        ("listen:unix:a?abstract&unlink=off", "option \"unlink\" contradicts the abstract name (an abstract name leaves no file behind)".into()),
        ("listen:unix:@a?user=root", "option \"user\" contradicts the abstract name (an abstract name has no permissions: every process can connect)".into()),
        ("listen:unix:/x?user=4294967295", "option \"user\": 4294967295 is the number of no user".into()),
        ("unix:/x?mode=600", format!("option \"mode\" is only for listening ({unix})")),
        ("listen:unix:/x?mode=9", "option \"mode\": \"9\" is not an octal mode like 660 (mode=MODE)".into()),
        ("listen:unix:@x?mode=600", "option \"mode\" contradicts the abstract name (an abstract name has no permissions: every process can connect)".into()),
        ("vsock:", "a vsock address is a CID and a port (vsock:CID:PORT)".into()),
        ("vsock:1024", "a vsock address is a CID and a port (vsock:CID:PORT)".into()),
        ("listen:vsock:1:2:3", "a vsock address is a CID and a port (listen:vsock:[CID:]PORT)".into()),
        ("listen:vsock:", "port \"\" is not a number from 0 to 4294967295, nor any".into()),
        ("vsock:3:1024x", "port \"1024x\" is not a number from 0 to 4294967295, nor any".into()),
        ("vsock:3:4294967296", "port \"4294967296\" is not a number from 0 to 4294967295, nor any".into()),
        ("vsock:3x:1", "CID \"3x\" is not a number from 0 to 4294967295 (nor a name: any, host, local)".into()),
        ("vsock:+3:1", "CID \"+3\" is not a number from 0 to 4294967295 (nor a name: any, host, local)".into()),
        ("vsock::1", "CID \"\" is not a number from 0 to 4294967295 (nor a name: any, host, local)".into()),
        ("vsock:any:1", "there is no CID to connect to (vsock:CID:PORT)".into()),
        ("vsock:2:4294967295", "there is no port to connect to (vsock:CID:PORT)".into()),
        ("vsock:2:1?backlog=1", format!("option \"backlog\" is only for listening ({})", keys_to_connect("vsock"))),
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
        ("pty:", "there is no program to start (pty:PROGRAM ARGUMENTS)".into()),
        ("pty:a?cols=0", "option \"cols\": \"0\" is not a number from 1 to 65535 (cols=1-65535)".into()),
        ("pty:a?raw&echo", "\"echo\" contradicts \"raw\"".into()),
        ("listen:pty:a", format!("pty cannot be listened on (these can: {able})")),
        ("exec:a?env=x", "option \"env\": \"x\" is not NAME=VALUE".into()),
        ("exec:a?linger=1&linger=2", "option \"linger\" is given twice".into()),
        ("pipe:x?read&write", "a FIFO is either read or written".into()),
        ("pipe:x?read=off", "a FIFO is either read or written".into()),
        ("fd:", "\"\" is neither the number nor the name of a descriptor (a name has up to 255 printable ASCII characters and no colon)".into()),
        ("fd:a:b", "\"a:b\" is neither the number nor the name of a descriptor (a name has up to 255 printable ASCII characters and no colon)".into()),
        ("fd:-1", "\"-1\" is not the number of a descriptor".into()),
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
fn an_address_knows_whether_a_listener_has_a_choice() {
    for (text, expected) in [
        ("listen:tcp://", true),
        ("listen:tcp://:0", true),
        ("listen:tcp://:000", true),
        ("listen:tcp://:1", false),
        ("listen:tcp://:http", false),
        ("listen:unix:", true),
        ("listen:unix:x", false),
        ("listen:unix:@x", false),
        ("listen:vsock:any", true),
        ("listen:vsock:3:4294967295", true),
        ("listen:vsock:any:1", false),
        ("listen:fd:0", false),
    ] {
        assert_eq!(parse(text).unwrap().leaves_choice(), expected, "{text}");
    }
}

#[test]
fn what_is_built_is_checked_when_it_is_used() {
    let address = Address::tcp("", 80);
    let error = net::connect(&address, &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "connect tcp://:80: there is no host to connect to (tcp://HOST:PORT)"
    );
    let error = Address::null().with_option("size", "1").unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "set an option of null:: option \"size\" is not known (options here: none)"
    );
    let error = net::listen(&Address::file("x").listening(), &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "listen file:x: file cannot be listened on \
         (these can: tcp, unix, vsock, udp, unix-seqpacket, fd)"
    );
    let error = net::listen(&Address::tcp("", 80), &Default::default()).unwrap_err();
    assert_eq!(
        error.report().to_string(),
        "listen tcp://:80: this is an address to connect to \
         (listen:tcp://:80 is one to listen on)"
    );
    let error = net::connect(&Address::unix("x").listening(), &Default::default());
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

/// A text that the option takes.
fn any_value(option: &'static OptionInfo) -> BoxedStrategy<Vec<u8>> {
    let words = |words: &'static [&'static str]| proptest::sample::select(words.to_vec());
    const SWITCHES: &[&str] = &["on", "off", "true", "false", "yes", "no"];
    let text = match option.value {
        Value::Switch => words(SWITCHES).prop_map(str::to_owned).boxed(),
        Value::Duration => {
            let unit = words(&["", "us", "ms", "s", "m", "min", "h"]);
            (0..30_000u32, unit).prop_map(|(number, unit)| format!("{number}{unit}")).boxed()
        }
        Value::Count { from, to } => (from..=to).prop_map(|count| count.to_string()).boxed(),
        Value::Size => {
            let unit = words(&["", "k", "K", "m", "M"]);
            (1..1000u32, unit).prop_map(|(number, unit)| format!("{number}{unit}")).boxed()
        }
        Value::Rate => {
            let unit = words(&["", "k", "K", "M", "G", "Ki", "Mi", "Gi"]);
            (1..900u32, unit).prop_map(|(number, unit)| format!("{number}{unit}")).boxed()
        }
        Value::FileMode => (0..=0o7777u32).prop_map(|mode| format!("{mode:o}")).boxed(),
        Value::SwitchOrMode => {
            let mode = (0..=0o7777u32).prop_map(|mode| format!("0{mode:o}"));
            prop_oneof![words(SWITCHES).prop_map(str::to_owned), mode].boxed()
        }
        Value::Choice(choices) => words(choices).prop_map(str::to_owned).boxed(),
        Value::Text("HOST[:PORT]") => {
            let port =
                prop_oneof![Just(String::new()), (0..=65535u16).prop_map(|p| format!(":{p}"))];
            let host = prop_oneof![
                "[a-z0-9.-]{1,40}",
                any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
                any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
            ];
            (host, port).prop_map(|(host, port)| format!("{host}{port}")).boxed()
        }
        Value::CountOrForever => {
            prop_oneof![any::<u32>().prop_map(|n| n.to_string()), Just("forever".to_owned())]
                .boxed()
        }
        Value::Text("SHA256") => "[0-9a-f]{64}".boxed(),
        Value::Text("/PATH") => "/[a-z?]{0,9}".boxed(),
        Value::Text("NAME: VALUE") => "[A-Z]{1,9}: ?[a-z]{0,9}".boxed(),
        Value::Text("NAME=VALUE") => {
            return ("[A-Z]{1,5}=", bytes_without_nul())
                .prop_map(|(name, value)| [name.into_bytes(), value].concat())
                .boxed();
        }
        Value::Text(_) => {
            return prop_oneof!["[a-z0-9]{1,15}".prop_map(String::into_bytes), bytes_without_nul(),]
                .boxed();
        }
        other => panic!("what are values of {other:?}?"),
    };
    text.prop_map(String::into_bytes).boxed()
}

/// Some options of layers, by the name of the layer, which the address need not have.
fn any_layer_options() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let all: Vec<_> = net::layers()
        .iter()
        .flat_map(|layer| layer.options.iter().map(|option| (layer.name, option)))
        .collect();
    let option = proptest::sample::select(all).prop_flat_map(|(layer, option)| {
        (Just(format!("{layer}.{}", option.name)), any_value(option))
    });
    proptest::collection::vec(option, 0..8)
}

/// Some of the options of the scheme with values that they take; an address with all of them need
/// not make sense.
fn any_options(scheme: &'static Scheme) -> BoxedStrategy<Vec<(&'static str, Vec<u8>)>> {
    if scheme.options.is_empty() {
        return Just(Vec::new()).boxed();
    }
    let option = proptest::sample::select(scheme.options.iter().collect::<Vec<_>>())
        .prop_flat_map(|option| (Just(option.name), any_value(option)));
    proptest::collection::vec(option, 0..4).boxed()
}

/// A target of every scheme.
fn any_target() -> impl Strategy<Value = Address> {
    let host = prop_oneof![
        "[a-z0-9.-]{1,40}",
        any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        "fe80::[0-9]{1,3}%[a-z]{1,8}",
    ];
    let tcp = (host, 1..=65535u16).prop_map(|(host, port)| Address::tcp(host, port));
    let path = bytes_without_nul().boxed();
    let file = path.clone().prop_map(|path| Address::file(os(&path)));
    let unix = path.clone().prop_map(|path| Address::unix(os(&path)));
    let name = proptest::collection::vec(any::<u8>(), 1..107).prop_map(Address::unix_abstract);
    let padded = (name.clone(), proptest::sample::select(vec!["on", "off"]))
        .prop_map(|(address, tight)| address.with_option("tight", tight).unwrap());
    let marked = path.clone().prop_filter("a name has room", |path| path.len() <= 107);
    let marked =
        marked.prop_map(|name| Address::unix(os(&name)).with_option("abstract", "on").unwrap());
    let vsock = (0..u32::MAX, 0..u32::MAX).prop_map(|(cid, port)| Address::vsock(cid, port));
    let vsock_any = any::<u32>().prop_map(|port| Address::vsock(u32::MAX, port).listening());
    let word = prop_oneof![path.clone(), Just(Vec::new())];
    let exec =
        (path.clone(), proptest::collection::vec(word, 0..5)).prop_map(|(first, mut rest)| {
            rest.insert(0, first);
            Address::exec(rest.into_iter().map(std::ffi::OsString::from_vec))
        });
    let pipe = path.prop_map(|path| Address::pipe(os(&path)));
    let fd = prop_oneof![
        (0..1000u32).prop_map(Address::fd),
        "[a-z/@?%&. -][ -9;-~]{0,40}".prop_filter_map("a number", |name| {
            let address = Address::fd_named(name.clone());
            address.to_string().parse::<Address>().is_ok().then_some(address)
        }),
    ];
    let fixed = proptest::sample::select(vec![Address::stdio(), Address::null(), Address::echo()]);
    let written = prop_oneof![
        "pty:[a-z]{1,8}",
        "serial:/dev/[a-z]{1,8}",
        "udp://[a-z]{1,8}:[1-9][0-9]{0,3}",
        "unix-dgram:[@/]?[a-z]{1,8}",
        "unix-seqpacket:[@/]?[a-z]{1,8}",
    ]
    .prop_map(|text: String| parse(&text).unwrap());
    let under_layers = (any_layers(), bytes_without_nul()).prop_map(|(text, path)| {
        let address = parse(&text).unwrap();
        let path = [b"/", &*path].concat();
        let path = os(&path);
        // Not every stack has a path, and a query is for clients alone.
        let with_path = address.clone().with_option("path", path);
        with_path.ok().filter(makes_sense).unwrap_or(address)
    });
    prop_oneof![
        4 => under_layers, 6 => tcp, 2 => file, 2 => unix, 1 => name, 1 => padded, 1 => marked,
        2 => vsock, 1 => vsock_any, 2 => exec, 2 => pipe, 2 => fd, 10 => written, 2 => fixed
    ]
}

/// Layers over transports with a host and without one, as they can be written.
fn any_layers() -> impl Strategy<Value = String> {
    let mut outer = vec!["ws+", "ws+", "zstd+"];
    outer.retain(|name| {
        net::layers().iter().any(|layer| name.strip_suffix('+') == Some(layer.name))
    });
    let outer = proptest::sample::select(outer);
    let layers = proptest::collection::vec(outer, 0..3).prop_map(|layers| layers.concat());
    let mut below = vec![
        "ws://h",
        "ws://[::1]:8080",
        "ws+tcp://h:80",
        "ws+tcp://a:1",
        "ws+unix:/x",
        "ws+unix:@x",
        "ws+vsock:2:80",
        "ws+exec:cat -n",
        "ws+-",
        "ws+null:",
        "ws+fd:3",
        "ws+ws+tcp://h:443?host=x",
        "ws://h/%3Fa?ping=1s&pong-timeout=2s&text",
        "ws+unix:/x?ws.origin=https://h&header=A:%20b",
        "ws://h?user=u&password-file=/p&protocol=a&protocol=b&nodelay=off",
        "throttle+tcp://h:80?rate=1M",
        "throttle+null:?read-rate=5&write-rate=64Ki&burst=1k",
        "throttle+exec:cat?throttle.write-rate=1",
        "tap+unix:/x?file=/tmp/t",
        "tap+ws+throttle+tcp://h:80?file=t&rate=1k",
        "ws+tap+tcp://h:80/x?tap.file=%3Ft%26",
        "tap+file:x?tap.file=t&write",
        "zstd+tcp://h:7001?level=19&window=1k&max-window=4M",
        "tls+tcp://h:443?cert=/c&key=/k",
        "tls+tap+unix:@x?file=t&sni=h",
        "tls+tls+exec:cat?verify=off&tls2.sni=h",
    ];
    below.retain(|text| {
        let names =
            text.split(':').next().unwrap().rsplit_once('+').map_or("", |(layers, _)| layers);
        let known = |name: &str| net::layers().iter().any(|layer| layer.name == name);
        names.split_terminator('+').all(known)
    });
    (layers, proptest::sample::select(below)).prop_map(|(layers, below)| format!("{layers}{below}"))
}

#[test]
fn layers_are_written_in_one_way() {
    for (text, canonical) in [
        ("ws+tcp://h:80/x", "ws://h/x"),
        ("ws://h:80", "ws://h"),
        ("ws://h:443/?path=/y", "refused"),
        ("ws://h:8080?path=/a%3Fb c", "ws://h:8080/a%3Fb c"),
        ("listen:ws://:0?ping=3s&path=/x", "listen:ws://:0/x?ping=3s"),
        ("listen:ws+tcp://h", "listen:ws+tcp://h"),
        ("ws+ws://h/x?ws2.path=/y&ws2.text", "ws+ws://h/x?ws2.path=/y&ws2.text"),
        ("ws+unix:/s?path=/x&unix.abstract", "ws+unix:/s?path=/x&abstract"),
        ("ws+stdio:", "ws+-"),
    ] {
        let printed = parse(text).map_or("refused".to_owned(), |address| address.to_string());
        assert_eq!(printed, canonical, "{text}");
    }
    for (text, reason) in [
        ("ws://h?path=x", "ws: option \"path\" does not begin with a slash"),
        ("listen:ws://h/x%3Fy", "ws: option \"path\" has a query, which no server looks at"),
        ("ws://h?user=u", "ws: option \"user\" needs \"password-file\""),
        ("ws+ws://h?ws2.header=x", "ws2: option \"header\": \"x\" has no colon"),
        ("wss+tcp://h:1", "layer \"wss\" is not known"),
        ("ws://h/x/y:80?nodleay", "option \"nodleay\" is not known"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.to_string(), format!("parse {text}: {reason}"));
    }
}

/// An address of any scheme, to connect to or to listen on, with any options of the table that
/// make sense together.
fn any_address() -> impl Strategy<Value = Address> {
    let address = any_target().prop_flat_map(|address| {
        let options = any_options(address.scheme());
        (Just(address), any::<bool>(), options, any_layer_options())
    });
    address.prop_map(|(address, listening, options, of_layers)| {
        let listening = listening
            && address.scheme().can_listen()
            && (!address.has_layers() || makes_sense(&address.clone().listening()));
        let mut address = if listening { address.listening() } else { address };
        for (key, value) in options {
            let with_it = address.clone().with_option(key, os(&value)).unwrap();
            if makes_sense(&with_it) {
                address = with_it;
            }
        }
        for (key, value) in of_layers {
            let with_it = address.clone().with_option(&key, os(&value));
            address = with_it.ok().filter(makes_sense).unwrap_or(address);
        }
        assert!(makes_sense(&address), "{address}");
        address
    })
}

/// Whether nothing is wrong with the address: what it names is not looked at.
fn makes_sense(address: &Address) -> bool {
    let given_up = Cancel::new();
    given_up.trigger();
    let options = ConnectOptions::new().cancel(given_up);
    match net::resolve(address, &options).unwrap_err().class() {
        Class::Cancelled => true,
        Class::Usage => false,
        class => panic!("{address}: {class:?}"),
    }
}

#[test]
fn every_option_of_the_table_makes_sense_in_some_address_of_the_property_test() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut missing: std::collections::BTreeSet<_> = schemes()
        .iter()
        .flat_map(|scheme| scheme.options.iter().map(|option| (scheme.name, option.name)))
        .collect();
    let layers = net::layers().iter();
    let mut of_layers: std::collections::BTreeSet<_> = layers
        .flat_map(|layer| layer.options.iter().map(|option| (layer.name, option.name)))
        // Written behind the host.
        .filter(|option| *option != ("ws", "path"))
        .collect();
    let addresses = any_address();
    for _ in 0..20_000 {
        if missing.is_empty() && of_layers.is_empty() {
            return;
        }
        let address = addresses.new_tree(&mut runner).unwrap().current();
        let text = address.to_string();
        missing.retain(|(scheme, option)| {
            *scheme != address.scheme().name
                || !["?", "&"].iter().any(|start| text.contains(&format!("{start}{option}=")))
        });
        let names = text.strip_prefix("listen:").unwrap_or(&text).split(':').next().unwrap();
        let names = names.replace("wss", "ws+tls");
        of_layers.retain(|(layer, option)| {
            let has_it = names.split('+').any(|name| name == *layer);
            let starts = ["?", "&"].map(|start| format!("{start}{option}="));
            let named = format!("{layer}.{option}=");
            !has_it || !(starts.iter().any(|start| text.contains(start)) || text.contains(&named))
        });
    }
    panic!("never generated: {missing:?}, {of_layers:?}");
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
            "", "listen:", "tcp://", "listen:tcp://[", "unix:", "exec:", "file:", "fd:", "-?", "listen:vsock:",
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
