//! What the fuzz targets in `fuzz/` run: each is a function of bytes that panics at a finding.
//!
//! They are here so that an ordinary test can feed them the committed corpora, too.

use std::ffi::OsStr;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::layer::web::{self, Site, SiteOptions};
use qio::layer::{Handshaking, Layer, tap};
use qio::transport::Duplex;
use qio::watch::Steps;
use qio::{Address, Channel, ChannelExt, Mode, ReadFlags, WriteFlags};
use qio_proto::ws::{
    BasicAuth, ClientHandshake, ClientOptions, Origins, ServerHandshake, ServerOptions, WebSocket,
    WsOptions,
};
use qio_proto::{Engine, Handshake, Progress};

use crate::chaos::scramble;
use crate::{Chaos, Plan};

/// A target's name, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// The targets that need nothing but bytes.
pub const TARGETS: &[Target] = &[
    ("ws_server", ws_server),
    ("ws_client", ws_client),
    ("ws_server_handshake", ws_server_handshake),
    ("ws_client_handshake", ws_client_handshake),
    ("pump", pump),
    ("address", address),
    ("tap_reader", tap_reader),
    ("http_files", http_files),
];

/// The server's side of a WebSocket, fed with the frames of anybody.
pub fn ws_server(data: &[u8]) {
    let Some((options, data)) = ws_options(data) else { return };
    engine(|| WebSocket::server(options.clone()), data);
}

/// The client's side of a WebSocket, fed with the frames of anybody.
pub fn ws_client(data: &[u8]) {
    let Some((options, data)) = ws_options(data) else { return };
    let keys = |key: &mut [u8; 4]| *key = [1, 2, 3, 4];
    engine(|| WebSocket::client(options.clone(), Box::new(keys)), data);
}

fn ws_options(data: &[u8]) -> Option<(WsOptions, &[u8])> {
    let (first, data) = data.split_first()?;
    let mut options = WsOptions::default();
    options.accept_text = first & 1 != 0;
    options.send_text = first & 2 != 0;
    if first & 4 != 0 {
        options.ping_interval = Some(Duration::from_secs(1));
    }
    Some((options, data))
}

/// The server's handshake, and the WebSocket after it.
pub fn ws_server_handshake(data: &[u8]) {
    handshake(|| ServerHandshake::new(ServerOptions::default()), data);
}

/// The client's handshake with a known nonce, and the WebSocket after it.
pub fn ws_client_handshake(data: &[u8]) {
    let new = || {
        let keys = Box::new(|key: &mut [u8; 4]| *key = [1, 2, 3, 4]);
        ClientHandshake::new(ClientOptions::new("localhost"), [0; 16], keys).unwrap()
    };
    handshake(new, data);
}

/// An engine that gets `data` from the wire must bear it, and give the same plain bytes however
/// it is cut.
///
/// # Panics
///
/// At a finding.
pub fn engine<E: Engine>(make: impl Fn() -> E, data: &[u8]) {
    let Some((seed, data)) = data.split_first() else { return };
    let whole = feed(&mut make(), data, &mut Cuts::whole());
    let parts = feed(&mut make(), data, &mut Cuts::new(u64::from(*seed)));
    compare(&whole, &parts);
}

/// The same for a handshake and the engine that it ends with.
///
/// # Panics
///
/// At a finding.
pub fn handshake<H: Handshake>(make: impl Fn() -> H, data: &[u8]) {
    let Some((seed, data)) = data.split_first() else { return };
    let mut cuts = [Cuts::whole(), Cuts::new(u64::from(*seed))];
    let [whole, parts] = cuts.each_mut().map(|cuts| shake_hands(make(), data, cuts));
    compare(&whole, &parts);
}

/// A handshake behind the pump, over memory, fed with `data` that cannot be what it asks for.
///
/// # Panics
///
/// When it succeeds all the same, or does not end.
pub fn refused_handshake<H: Handshake>(
    make: impl FnOnce(Chaos<Duplex>) -> Handshaking<Chaos<Duplex>, H>,
    data: &[u8],
) {
    let [seed, data @ ..] = data else { return };
    let (left, right) = Duplex::pair_with_limit(1 << 16);
    let plan = Plan::new(u64::from(*seed)).short(500).would_block_every(u64::from(seed % 4) + 2);
    left.set_mode(Mode::NonBlocking).unwrap();
    let data = &data[..data.len().min(1 << 16)];
    assert!(data.is_empty() || left.write(data).unwrap() == data.len());
    left.finish().unwrap();
    let mut handshaking = make(Chaos::new(right, plan));
    for _ in 0..1_000_000 {
        match handshaking.step(Instant::now()) {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => return assert!(!error.to_string().is_empty()),
            Poll::Ready(Ok(_)) => panic!("the handshake has succeeded"),
        }
    }
    panic!("the handshake does not end");
}

/// What has come out.
struct Outcome {
    plain: Vec<u8>,
    failed: bool,
}

fn compare(whole: &Outcome, parts: &Outcome) {
    assert_eq!(whole.failed, parts.failed, "whether it fails depends on the cuts");
    let len = whole.plain.len().min(parts.plain.len());
    assert!(whole.plain[..len] == parts.plain[..len], "what comes out depends on the cuts");
    if !whole.failed {
        assert_eq!(whole.plain.len(), parts.plain.len(), "how much depends on the cuts");
    }
}

/// Sizes that look random and depend on the seed alone.
struct Cuts {
    seed: Option<u64>,
    count: u64,
}

impl Cuts {
    fn whole() -> Self {
        Self { seed: None, count: 0 }
    }

    fn new(seed: u64) -> Self {
        Self { seed: Some(seed), count: 0 }
    }

    fn next(&mut self, most: usize) -> usize {
        let Some(seed) = self.seed else { return most };
        self.count += 1;
        let random = scramble(seed << 32 | self.count);
        // Small ones half of the time.
        let most = if random & 1 == 0 { most.min(7) } else { most };
        usize::try_from((random >> 1) % (most as u64 + 1)).unwrap()
    }
}

fn shake_hands<H: Handshake>(mut handshake: H, mut data: &[u8], cuts: &mut Cuts) -> Outcome {
    let mut wire: Vec<u8> = Vec::new();
    let failed = Outcome { plain: Vec::new(), failed: true };
    let mut sent = [0; 300];
    loop {
        loop {
            while handshake.wants_wire() {
                assert!(handshake.poll_wire(&mut sent) > 0, "it wants to send, and sends nothing");
            }
            match handshake.handle_wire(&mut wire) {
                Ok(0) => break,
                Ok(count) => drop(wire.drain(..count)),
                Err(_) => {
                    while handshake.wants_wire() {
                        assert!(handshake.poll_wire(&mut sent) > 0, "the reason is not told");
                    }
                    return failed;
                }
            }
        }
        if handshake.is_done() && !handshake.wants_wire() {
            wire.extend(data);
            return feed(&mut handshake.into_engine(), &wire, cuts);
        }
        assert!(
            wire.len() <= handshake.limit_bytes(),
            "the handshake waits for more than it takes"
        );
        if data.is_empty() {
            let _ = handshake.handle_end();
            return failed;
        }
        let room = handshake.limit_bytes().max(wire.len() + 1) - wire.len();
        let (now, later) = data.split_at(cuts.next(room.min(data.len() - 1)).max(1));
        wire.extend(now);
        data = later;
    }
}

fn feed<E: Engine>(engine: &mut E, mut data: &[u8], cuts: &mut Cuts) -> Outcome {
    let mut outcome = Outcome { plain: Vec::new(), failed: false };
    let mut wire: Vec<u8> = Vec::new();
    let mut plain = vec![0; 4096];
    let mut sent = vec![0; 1024];
    let _ = engine.handle_time(Duration::ZERO);
    loop {
        // All that is here.
        loop {
            let looks = cuts.next(3) == 0;
            let size = if looks { 0 } else { cuts.next(4096).max(1) };
            let Ok(moved) = engine.handle_wire(&mut wire, &mut plain[..size]) else {
                outcome.failed = true;
                break;
            };
            assert!(moved.consumed <= wire.len() && moved.produced <= size);
            wire.drain(..moved.consumed);
            outcome.plain.extend(&plain[..moved.produced]);
            if looks && engine.is_readable(&wire) {
                let moved = engine.handle_wire(&mut wire, &mut plain[..1]);
                if let Ok(moved) = moved {
                    assert_eq!(moved.produced, 1, "it said that there is something to read");
                    wire.drain(..moved.consumed);
                    outcome.plain.push(plain[0]);
                    continue;
                }
                outcome.failed = true;
                break;
            }
            if moved == Progress::default() && !looks {
                break;
            }
        }
        speak(engine, &mut sent, cuts);
        if outcome.failed || engine.has_ended() {
            break;
        }
        assert!(wire.len() < engine.inbound_bytes(), "no progress with all the room there is");
        if data.is_empty() {
            outcome.failed = engine.handle_end().is_err();
            break;
        }
        let through = engine.passthrough();
        if wire.is_empty() && through > 0 && cuts.next(2) == 0 {
            let (now, later) = data.split_at(cuts.next(through.min(data.len())));
            let mut now = now.to_vec();
            engine.transform(&mut now);
            outcome.plain.extend(now);
            data = later;
            continue;
        }
        let room = engine.inbound_bytes() - wire.len();
        let (now, later) = data.split_at(cuts.next(room.min(data.len())).max(1));
        wire.extend(now);
        data = later;
    }
    engine.finish();
    speak(engine, &mut sent, &mut Cuts::whole());
    assert!(!engine.wants_wire(), "there is no end of what it has to say");
    outcome
}

/// Has the engine say what it wants, some of the time.
fn speak<E: Engine>(engine: &mut E, sent: &mut [u8], cuts: &mut Cuts) {
    let mut rounds = 0;
    while engine.wants_wire() && (cuts.seed.is_none() || cuts.next(1) == 0) {
        engine.poll_wire(sent);
        rounds += 1;
        assert!(rounds < 1000, "there is no end of what it has to say");
    }
    if cuts.next(3) == 1
        && let Ok(moved) = engine.handle_plain(b"said in between", sent)
    {
        assert!(moved.consumed <= 15 && moved.produced <= sent.len());
    }
}

/// Two pumps with WebSockets over memory that is small and chaotic; `data` says who does what.
///
/// # Panics
///
/// When bytes are lost, changed or late.
pub fn pump(data: &[u8]) {
    let [seed, limit, longest, block, steps @ ..] = data else { return };
    let limit = usize::from(*limit) * 16 + 1;
    let (left, right) = Duplex::pair_with_limit(limit);
    let plan = Plan::new(u64::from(*seed))
        .short(usize::from(*longest) * 4 + 1)
        .would_block_every(u64::from(*block) + 2);
    let keys = |key: &mut [u8; 4]| *key = [5, 6, 7, 8];
    let client = WebSocket::client(WsOptions::default(), Box::new(keys));
    let server = WebSocket::server(WsOptions::default());
    let mut sides = [
        PumpSide::new(Arc::new(Layer::new("ws", Chaos::new(left, plan), client))),
        PumpSide::new(Arc::new(Layer::new("ws", Chaos::new(right, plan), server))),
    ];
    for step in steps.iter().take(2000) {
        let [one, other] = &mut sides;
        let (me, peer) = if step & 1 == 0 { (one, other) } else { (other, one) };
        // No more than fills the pipe often: what goes byte by byte takes time, and shows no more.
        let amount = (1 << (step >> 4)).min(32 * limit);
        match (step >> 1) & 7 {
            0..=2 => me.write(amount),
            3 | 4 => drop(me.read(amount, peer.written)),
            5 => drop(me.channel.drive(Instant::now())),
            6 => drop(me.channel.flush()),
            _ => {
                let mut set = qio::watch::PollSet::new();
                let _ = me.channel.watch(qio::Interest::READ | qio::Interest::WRITE, &mut set);
            }
        }
    }
    for round in 0.. {
        assert!(round < 1_000_000, "what was written does not arrive");
        let written = sides.each_ref().map(|side| side.written);
        let mut ended = true;
        for (me, written) in sides.iter_mut().zip([written[1], written[0]]) {
            let _ = me.channel.drive(Instant::now());
            if !me.finished {
                me.finished = me.channel.finish().is_ok();
            }
            // Reads in any case: the peer may wait for room.
            ended &= me.read(1 << 16, written) && me.finished;
        }
        if ended {
            break;
        }
    }
    assert_eq!(sides[0].read, sides[1].written);
    assert_eq!(sides[1].read, sides[0].written);
}

struct PumpSide {
    channel: Arc<dyn Channel>,
    written: usize,
    read: usize,
    finished: bool,
}

impl PumpSide {
    fn new(channel: Arc<dyn Channel>) -> Self {
        channel.set_mode(Mode::NonBlocking).unwrap();
        Self { channel, written: 0, read: 0, finished: false }
    }

    fn write(&mut self, amount: usize) {
        let bytes: Vec<u8> = (self.written..self.written + amount).map(nth).collect();
        let (one, two) = bytes.split_at(amount / 3);
        let bufs = [IoSlice::new(one), IoSlice::new(two)];
        match self.channel.write_with(&bufs, WriteFlags::NONBLOCK, &[]) {
            Ok(count) => self.written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// Whether the end was read.
    fn read(&mut self, amount: usize, written: usize) -> bool {
        let mut bytes = vec![0; amount];
        let (one, two) = bytes.split_at_mut(amount / 4);
        let bufs = &mut [IoSliceMut::new(one), IoSliceMut::new(two)];
        match self.channel.read_with(bufs, ReadFlags::NONBLOCK, None) {
            Ok(count) => {
                assert!(bytes[..count].iter().copied().eq((self.read..).map(nth).take(count)));
                self.read += count;
                assert!(self.read <= written, "more was read than written");
                count == 0
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    }
}

fn nth(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap()
}

/// An address that can be read is printed so that it can be read again, and is the same.
///
/// # Panics
///
/// When it is not.
pub fn address(data: &[u8]) {
    let parsed =
        [Address::parse_os(OsStr::from_bytes(data)), Address::parse_qemu(OsStr::from_bytes(data))];
    for address in parsed.into_iter().flatten() {
        let text = address.to_string();
        let again: Address =
            text.parse().unwrap_or_else(|error| panic!("{text:?} was printed: {error}"));
        assert_eq!(again, address, "{text:?} was printed");
        assert_eq!(again.to_string(), text, "printed twice");
    }
}

/// A recording from anybody is read to its end or its first fault, and what was read can be
/// written and read again.
///
/// # Panics
///
/// At a finding.
pub fn tap_reader(data: &[u8]) {
    let Ok(reader) = tap::Reader::new(data) else { return };
    let _ = reader.started();
    let header = &data[..24];
    for record in reader {
        let record = match record {
            Ok(record) => record,
            Err(error) => return drop(error.to_string()),
        };
        assert!(!record.text().to_string().is_empty() && !record.hex().to_string().is_empty());
        let mut bytes = header.to_vec();
        record.encode(&mut bytes);
        let mut again = tap::Reader::new(&bytes[..]).unwrap();
        assert_eq!(again.next().unwrap().unwrap(), record);
        assert!(again.next().is_none());
    }
}

/// Requests of anybody for the files in `fuzz/site`, of which some must never be seen. Every answer
/// is whole, and the same however the requests are cut.
///
/// # Panics
///
/// At a finding.
pub fn http_files(data: &[u8]) {
    let [options, seed, data @ ..] = data else { return };
    let data = &data[..data.len().min(1 << 16)];
    let whole = visit(*options, None, data);
    let parts = visit(*options, Some(*seed), data);
    let [whole, parts] = [&whole, &parts].map(|bytes| replies(bytes));
    assert_eq!(whole.len(), parts.len(), "how much is answered depends on the cuts");
    for (one, other) in whole.iter().zip(&parts) {
        assert_eq!(one, other, "what is answered depends on the cuts");
    }
}

/// Everything that is answered to `data`.
fn visit(options: u8, seed: Option<u8>, data: &[u8]) -> Vec<u8> {
    let mut site = SiteOptions::default();
    site.listing = options & 1 != 0;
    site.health = (options & 2 != 0).then(|| "/healthz".to_owned());
    let mut server = ServerOptions::default();
    server.limit_bytes = web::LIMIT_BYTES;
    if options & 4 != 0 {
        server.origins = Origins::Loopback;
    }
    if options & 8 != 0 {
        server.basic_auth = Some(BasicAuth::new("a", "b"));
    }
    let site = match options & 16 {
        0 => {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/site");
            Site::open(folder.as_ref(), site).unwrap()
        }
        _ => Site::without_files(site),
    };
    let (left, right) = Duplex::pair_with_limit(1 << 16);
    let plan = Plan::new(seed.unwrap_or(0).into());
    let plan = match seed {
        Some(seed) => plan.short(300).would_block_every(u64::from(seed % 4) + 2),
        None => plan,
    };
    left.set_mode(Mode::NonBlocking).unwrap();
    let mut visiting = web::server(Chaos::new(right, plan), server, Arc::new(site), None);
    let (mut sent, mut answers, mut upgraded) = (0, Vec::new(), None);
    let mut buf = vec![0; 1 << 14];
    for _ in 0..4_000_000 {
        match data.get(sent..).filter(|rest| !rest.is_empty()) {
            // Who is sent away need not be able to say more.
            Some(rest) => sent += left.write(rest).unwrap_or(0),
            None => drop(left.finish()),
        }
        let step = match &upgraded {
            None => visiting.step(Instant::now()),
            Some(_) => Poll::Pending,
        };
        if let Poll::Ready(Ok(Some(established))) = step {
            // What follows is for other targets.
            upgraded = Some(established.into_layer("ws"));
        }
        match left.read(&mut buf) {
            Ok(0) => return answers,
            Ok(count) => answers.extend(&buf[..count]),
            Err(_) if upgraded.is_some() => return answers,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    panic!("the visit does not end");
}

/// The status, the fields but the date, and the body of each answer; of those to HEAD, which are
/// known by nothing, the body is what comes next, as far as it is none.
fn replies(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let Range { start, end } = find(bytes, b"\r\n\r\n").expect("a head is whole");
        let head = std::str::from_utf8(&bytes[..start]).expect("a head is text");
        bytes = &bytes[end..];
        let (status, fields) = head.split_once("\r\n").expect("there are fields");
        assert!(status.starts_with("HTTP/1.1 ") && status.is_ascii(), "{status}");
        let mut kept = status.to_owned();
        let mut length = 0;
        for field in fields.split("\r\n") {
            let (name, value) = field.split_once(": ").expect("a field has a name and a value");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
                "{name}"
            );
            assert!(!value.bytes().any(|byte| byte.is_ascii_control()), "{value:?}");
            match name {
                "Date" => continue,
                "Content-Length" => length = value.parse().expect("a length is a number"),
                "Location" => assert!(value.starts_with("./") && !value.contains('\\'), "{value}"),
                _ => {}
            }
            kept += field;
        }
        let is_next = |bytes: &[u8]| bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 ");
        let is_of_head = bytes.len() < length || !is_next(&bytes[length..]);
        let length = if is_of_head { 0 } else { length };
        assert!(is_next(&bytes[length..]), "an answer is as long as it says");
        let body = bytes[..length].to_vec();
        for secret in [&b"SECRET"[..], b"root:", b"[dependencies]"] {
            assert!(find(&body, secret).is_none(), "what is outside was served");
        }
        bytes = &bytes[length..];
        replies.push((kept, body));
    }
    replies
}

fn find(bytes: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let at = bytes.windows(part.len()).position(|window| window == part)?;
    Some(at..at + part.len())
}
