//! `throttle+`, `tap+` and `zstd+` in addresses, in both roles.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Running, dial, is_installed, noise, qio, run, serve};
use qio::layer::tap::{Entry, Reader};

/// The records of a recording: the number of the channel, and what happened.
fn records(path: &Path) -> Vec<(u32, Entry)> {
    let reader = Reader::new(File::open(path).unwrap()).unwrap();
    reader.map(|record| record.map(|record| (record.stream, record.entry)).unwrap()).collect()
}

/// What was read and what was written, in all channels of a recording.
fn bytes(path: &Path) -> [Vec<u8>; 2] {
    let mut both = [Vec::new(), Vec::new()];
    for (_, entry) in records(path) {
        match entry {
            Entry::Read(bytes) => both[0].extend(bytes),
            Entry::Written(bytes) => both[1].extend(bytes),
            Entry::Gap { .. } => panic!("something is missing"),
            _ => {}
        }
    }
    both
}

/// Answers a request after its end with as many bytes as fit in no buffer.
fn thoughtful(mut client: TcpStream) {
    let mut request = Vec::new();
    if client.read_to_end(&mut request).is_ok() {
        let _ = client.write_all(&answer_to(&request));
    }
}

fn answer_to(request: &[u8]) -> Vec<u8> {
    [b"you said: ", request, &noise(300_000, 1)].concat()
}

#[test]
fn the_whole_reply_arrives_through_every_layer_in_any_order_after_the_end_of_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let tap = |name: &str| format!("tap.file={}", folder.path().join(name).display());
    let request = noise(70_000, 2);
    for (number, (listen, listens, connects)) in [
        ("throttle+tcp://127.0.0.1:0", "throttle.rate=100M", ""),
        ("tap+tcp://127.0.0.1:0", &*tap("a"), ""),
        ("zstd+tcp://127.0.0.1:0", "level=1&window=8M", ""),
        ("zstd+tls+tcp://127.0.0.1:0", "self-signed", "level=19"),
        ("ws+zstd+tap+throttle+tcp://127.0.0.1:0", &format!("rate=100M&{}", tap("b")), ""),
        ("tap+ws+throttle+tcp://127.0.0.1:0", &format!("rate=100M&{}", tap("c")), ""),
        (&format!("tls+zstd+unix:{}", folder.path().join("x").display()), "self-signed", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let listen = format!("listen:{listen}?{listens}");
        let (_relay, address) = Running::relay(&[&listen, &serve(thoughtful)]);
        let separator = if address.contains('?') { "&" } else { "?" };
        let connects =
            if connects.is_empty() { connects } else { &format!("{separator}{connects}") };
        // And once more on the side of the client.
        let address = format!("throttle+tap+{address}{connects}");
        let separator = if address.contains('?') { "&" } else { "?" };
        let own = tap(&format!("own-{number}"));
        let address = format!("{address}{separator}throttle.rate=100M&{own}");
        let outcome = run(&mut qio(["connect", &address]), &request);
        assert_eq!((outcome.status, &*outcome.stderr), (0, ""), "{address}");
        assert!(outcome.stdout == answer_to(&request), "{address}: {}", outcome.stdout.len());
        let [read, written] = bytes(&folder.path().join(format!("own-{number}")));
        assert!(written == request && read == answer_to(&request), "{address}");
    }
}

#[test]
fn a_rate_is_kept_in_each_direction_and_role() {
    let data = noise(400_000, 3);
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), &data).unwrap();
    let file = format!("file:{}", path.path().display());
    let swallow = || serve(|mut client| drop(client.read_to_end(&mut Vec::new())));
    let fast = |command: &mut Command, input: &[u8]| {
        let start = Instant::now();
        let outcome = run(command, input);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        (outcome, start.elapsed())
    };
    // 0.4 s, of which a tenth of a second's bytes pass at once.
    let kept = |time: Duration, what: &str| {
        assert!(time >= Duration::from_millis(250), "{what}: {time:?}");
        assert!(time < Duration::from_secs(10), "{what}: {time:?}");
    };
    let (outcome, time) = fast(&mut qio(["connect", &format!("throttle+{file}?rate=1M")]), b"");
    assert!(outcome.stdout == data);
    kept(time, "read from a file");
    let target = format!("throttle+{}?write-rate=1M", swallow());
    kept(fast(&mut qio(["connect", &target]), &data).1, "written to a server");
    let (_relay, address) =
        Running::relay(&["listen:throttle+tcp://127.0.0.1:0?read-rate=1M&burst=100k", "echo:"]);
    let (outcome, time) = fast(&mut qio(["connect", &address]), &data);
    assert!(outcome.stdout == data);
    kept(time, "read from a client");
    let (outcome, time) = fast(&mut qio(["connect", "throttle+exec:cat?write-rate=976Ki"]), &data);
    assert!(outcome.stdout == data);
    kept(time, "written to a program");
    // The other direction is free, and so is what has no layer.
    let target = format!("throttle+{}?read-rate=1k", swallow());
    let (_, time) = fast(&mut qio(["connect", &target]), &data);
    assert!(time < Duration::from_secs(100), "400 s at that rate: {time:?}");
}

#[test]
fn each_connection_has_its_own_rate_and_no_layer_leaves_splice_alone() {
    let data = noise(4 << 20, 4);
    let (mut relay, address) = Running::relay(&["listen:tcp://127.0.0.1:0", &serve(common::echo)]);
    let outcome = run(&mut qio(["connect", &address]), &data);
    assert!(outcome.stdout == data);
    assert!(relay.event("connection")["spliced"].as_u64().unwrap() > 0);
    let listen = "listen:throttle+tcp://127.0.0.1:0?rate=1G";
    let (mut relay, address) = Running::relay(&[listen, &serve(common::echo)]);
    assert!(!address.contains("throttle"), "a client needs no limit of its own: {address}");
    let outcome = run(&mut qio(["connect", &address]), &data);
    assert!(outcome.stdout == data);
    assert_eq!(relay.event("connection")["spliced"], 0);
}

#[test]
fn many_clients_and_both_sides_are_in_one_recording_that_tells_them_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both");
    let listen = format!("listen:tap+tcp://127.0.0.1:0?file={}", path.display());
    let target = format!("tap+{}?file={}", serve(common::echo), path.display());
    let (mut relay, address) = Running::relay(&["--drain", "0s", &listen, &target]);
    assert!(!address.contains("tap"), "{address}");
    let mut clients: Vec<_> = (0..5_u8).map(|_| dial(&address)).collect();
    for (number, client) in (0..).zip(&mut clients) {
        client.write_all(&[number; 10]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
    }
    for mut client in clients {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
        relay.event("connection");
    }
    relay.signal(rustix::process::Signal::TERM);
    assert_eq!(relay.wait(), 0);
    let records = records(&path);
    let opened = records.iter().filter(|(_, entry)| matches!(entry, Entry::Opened(_)));
    let mut streams: Vec<_> = opened.map(|(stream, _)| *stream).collect();
    streams.sort_unstable();
    assert_eq!(streams, (0..10).collect::<Vec<_>>());
    for number in 0..5 {
        let data = |wanted: &Entry| {
            let found = records.iter().filter(|(_, entry)| entry == wanted);
            found.map(|(stream, _)| *stream).collect::<Vec<_>>()
        };
        // A client's channel reads what that of the target writes, and the reverse.
        let [read, written] = [Entry::Read(vec![number; 10]), Entry::Written(vec![number; 10])];
        let (mut read, mut written) = (data(&read), data(&written));
        read.sort_unstable();
        written.sort_unstable();
        assert!(read == written && read.len() == 2 && read[0] != read[1], "{number}: {records:?}");
    }
    let ends = records.iter().filter(|(_, entry)| *entry == Entry::Closed).count();
    assert_eq!(ends, 10);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what was said is for the owner");
}

#[test]
fn a_recording_is_whole_when_the_program_has_ended_and_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    let data = noise(900_000, 5);
    let address = format!("tap+exec:cat?file={}&limit=64M", path.display());
    let outcome = run(&mut qio(["connect", &address]), &data);
    assert!(outcome.status == 0 && outcome.stdout == data);
    let [read, written] = bytes(&path);
    assert!(read == data && written == data, "{} and {}", read.len(), written.len());

    let address = format!("tap+exec:cat?file={}", path.display());
    assert_eq!(run(&mut qio(["connect", &address]), b"GET /\r\n").status, 0);
    let path = path.to_str().unwrap();
    let text = run(&mut qio(["tap", "show", path]), b"");
    assert!(text.text().contains(&format!("#0 opened {address}")), "{}", text.text());
    assert!(text.text().contains("#0 > 7 bytes\n    GET /\\r\\n\n"), "{}", text.text());
    let hex = run(&mut qio(["tap", "show", "--hex", path]), b"");
    assert!(hex.text().contains("  47 45 54 20 2f 0d 0a  "), "{}", hex.text());
}

#[test]
fn a_signal_that_has_files_read_again_leaves_a_recording_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    let target = format!("tap+{}?file={}", serve(common::echo), path.display());
    let (mut relay, address) = Running::relay(&["-v", "listen:tcp://127.0.0.1:0", &target]);
    let ask = |word: &[u8]| assert_eq!(run(&mut qio(["connect", &address]), word).stdout, word);
    ask(b"before");
    relay.event("connection");
    relay.signal(rustix::process::Signal::HUP);
    while !relay.event("note")["message"].as_str().unwrap().contains("read again") {}
    ask(b"after");
    relay.event("connection");
    relay.signal(rustix::process::Signal::TERM);
    assert_eq!(relay.wait(), 0);
    assert_eq!(bytes(&path), [b"beforeafter", b"beforeafter"]);
    let last = records(&path).into_iter().map(|(stream, _)| stream).max();
    assert_eq!(last, Some(1), "two channels of one recording");
}

#[test]
fn a_recording_that_cannot_be_written_is_said_at_the_end_and_costs_the_stream_nothing() {
    let outcome = run(&mut qio(["connect", "tap+exec:cat?file=/dev/full"]), b"hello");
    assert_eq!(outcome.text(), "hello");
    assert_eq!(outcome.status, 1);
    assert_eq!(outcome.stderr, "qio: record to /dev/full: no space left on device\n");
    let outcome = run(&mut qio(["connect", "tap+null:?file=/nowhere/t"]), b"");
    assert_eq!(outcome.status, 4);
    assert_eq!(outcome.complaint(), "record to /nowhere/t: no such file or directory");
}

#[test]
fn compression_shows_on_the_wire_and_works_with_the_program_zstd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wire");
    let text = b"the same words again and again, ".repeat(20_000);
    let (_relay, address) = Running::relay(&["listen:zstd+tcp://127.0.0.1:0", "echo:"]);
    // Below the compression, where the wire is.
    let address = address.replace("zstd+", "zstd+tap+");
    let address = format!("{address}?file={}", path.display());
    let outcome = run(&mut qio(["connect", &address]), &text);
    assert!(outcome.status == 0 && outcome.stdout == text, "{}", outcome.stderr);
    for way in bytes(&path) {
        assert!(way.len() < text.len() / 50, "{} of {}", way.len(), text.len());
        assert!(way.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "RFC 8878, section 3.1.1");
    }

    let file = folder.path().join("x.zst");
    let address = format!("zstd+file:{}?write&create", file.display());
    assert_eq!(run(&mut qio(["connect", &address]), &text).status, 0);
    let outcome = run(&mut qio(["connect", &format!("zstd+file:{}", file.display())]), b"");
    assert!(outcome.status == 0 && outcome.stdout == text, "{}", outcome.stderr);
    if is_installed("zstd") {
        let outcome = run(Command::new("zstd").args(["-dc", file.to_str().unwrap()]), b"");
        assert!(outcome.status == 0 && outcome.stdout == text, "{}", outcome.stderr);
    }
}

#[test]
fn a_peer_that_does_not_compress_is_a_failure_of_the_protocol() {
    let plain = serve(|mut client| {
        let _ = client.write_all(b"hello, I speak plainly\n");
        let _ = client.read_to_end(&mut Vec::new());
    });
    let address = format!("zstd+{plain}");
    let outcome = run(&mut qio(["connect", &address]), b"");
    assert_eq!(outcome.status, 7, "{outcome:?}");
    assert!(outcome.stderr.contains("the peer sends no valid zstd frame"), "{outcome:?}");

    // As a server, and with a window that is too large for the other side.
    let (mut relay, address) =
        Running::relay(&["--once", "listen:zstd+tcp://127.0.0.1:0", "echo:"]);
    let mut client = dial(address.strip_prefix("zstd+").unwrap());
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let record = relay.event("connection");
    assert!(record["error"].as_str().unwrap().contains("no valid zstd frame"), "{record}");
    assert_eq!(relay.wait(), 7);
    let listen = "listen:zstd+tcp://127.0.0.1:0?max-window=128k";
    let (mut relay, address) = Running::relay(&[listen, "echo:"]);
    run(&mut qio(["connect", &format!("{address}?window=8M")]), &noise(200_000, 6));
    let record = relay.event("connection");
    assert!(
        record["error"].as_str().unwrap().contains("Frame requires too much memory"),
        "{record}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_the_way_out() {
    for (address, status, text) in [
        ("throttle+tcp://h:1", 2, "throttle: nothing is limited (rate=1M is "),
        ("throttle+tcp://h:1?rate=0", 2, "\"0\" is not a rate from 1 to 1000G bytes a second"),
        ("throttle+tcp://h:1?rate=1MB", 2, "\"1MB\" is not a rate in bytes a second like 500k"),
        ("tap+tcp://h:1", 2, "tap: there is no file to record to (file=FILE)"),
        ("tap+tap+null:?file=/tmp/x", 2, "tap2: there is no file to record to"),
        ("zstd+tcp://h:1?level=0", 2, "\"0\" is not a number from 1 to 19"),
        ("zstd+tcp://h:1?window=3k", 2, "zstd: option \"window\": 3072 is no power of two"),
        ("throttle+zstd+tap+tcp://h:1?rate=1&file=x&x=1", 2, "option \"x\" is not known"),
    ] {
        let outcome = run(&mut qio(["connect", address]), b"");
        assert_eq!(outcome.status, status, "{outcome:?}");
        assert!(outcome.complaint().contains(text), "{outcome:?}");
    }
    // Messages would lose their ends.
    for layer in ["throttle+udp://127.0.0.1:9?rate=1k", "zstd+udp://127.0.0.1:9"] {
        let outcome = run(&mut qio(["relay", "udp://127.0.0.1:9", layer]), b"");
        assert_eq!(outcome.status, 4, "{outcome:?}");
        let name = layer.split('+').next().unwrap();
        let text = format!("{name}: {layer}: a layer over a stream cannot go over messages");
        assert!(outcome.complaint().ends_with(&text), "{outcome:?}");
    }
}
