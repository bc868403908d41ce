//! Files for browsers on a WebSocket's server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use common::{PATIENCE, in_own_process, patience};
use qio::layer::web::{self, Site, SiteOptions, Visit, Visiting};
use qio::layer::ws;
use qio::net::{self, ConnectOptions, ListenEvent, ListenOptions, Listener};
use qio::transport::{Duplex, Socket};
use qio::watch::{PollSet, Steps, run};
use qio::{Address, Channel, ChannelExt, Io, Mode};
use qio_testkit::{Chaos, Plan};
use tempfile::TempDir;

const UPGRADE: &str = "GET /any HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// A folder with a few files, and what must not be served beside it.
struct Folder {
    all: TempDir,
}

impl Folder {
    fn new() -> Self {
        let all = TempDir::new().unwrap();
        fs::write(all.path().join("secret"), "SECRET").unwrap();
        let site = all.path().join("site");
        fs::create_dir_all(site.join("sub/.hidden")).unwrap();
        fs::write(site.join("index.html"), "<h1>front</h1>").unwrap();
        fs::write(site.join("a.js"), "let a;").unwrap();
        fs::write(site.join("hundred"), (0..100).collect::<Vec<u8>>()).unwrap();
        fs::write(site.join("empty.txt"), "").unwrap();
        fs::write(site.join("sub/x y&<z>.css"), "b {}").unwrap();
        fs::write(site.join("sub/.hidden/file"), "hidden").unwrap();
        fs::write(site.join(".dot"), "hidden").unwrap();
        let folder = Self { all };
        folder.age();
        folder
    }

    fn path(&self) -> std::path::PathBuf {
        self.all.path().join("site")
    }

    /// Nothing was changed just now.
    fn age(&self) {
        let then = SystemTime::now() - Duration::from_secs(3600);
        for name in ["index.html", "a.js", "hundred", "empty.txt"] {
            let file = fs::File::options().write(true).open(self.path().join(name)).unwrap();
            file.set_modified(then).unwrap();
        }
    }

    fn site(&self) -> Arc<Site> {
        self.site_with(|_| ())
    }

    fn site_with(&self, change: impl FnOnce(&mut SiteOptions)) -> Arc<Site> {
        let mut options = SiteOptions::default();
        change(&mut options);
        Arc::new(Site::open(&self.path(), options).unwrap())
    }

    /// A file of so many bytes that look random.
    fn big(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
        fs::write(self.path().join(name), &bytes).unwrap();
        bytes
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// All answers in front of `bytes`, read strictly, and what follows them. `of_head` are those that
/// have no body though they tell its length.
fn answers(mut bytes: &[u8], of_head: &[usize]) -> (Vec<Answer>, Vec<u8>) {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(len)) = parsed.parse(bytes) else { break };
        let status = parsed.code.unwrap();
        let length = parsed.headers.iter().find(|field| field.name == "Content-Length");
        let length = length.map(|f| std::str::from_utf8(f.value).unwrap().parse().unwrap());
        assert_eq!(length.is_none(), matches!(status, 101 | 304), "{status}");
        let body = if of_head.contains(&all.len()) { 0 } else { length.unwrap_or(0) };
        if bytes.len() < len + body {
            break;
        }
        let head = String::from_utf8(bytes[..len].to_vec()).unwrap();
        all.push(Answer { status, head, body: bytes[len..len + body].to_vec() });
        bytes = &bytes[len + body..];
        if status == 101 {
            break;
        }
    }
    (all, bytes.to_vec())
}

fn finished<C: Channel + 'static>(
    visiting: &mut Visiting<C>,
) -> std::io::Result<Option<qio::layer::Established<C, ws::ServerHandshake>>> {
    match run(&mut *visiting, patience()).unwrap() {
        ControlFlow::Break(result) => result,
        ControlFlow::Continue(_) => panic!("it hangs"),
    }
}

/// What is answered to these bytes, and told.
fn ask_with(site: Arc<Site>, options: ws::ServerOptions, bytes: &[u8]) -> (Vec<u8>, Vec<Visit>) {
    let (near, far) = Socket::pair().unwrap();
    near.write_all(bytes).unwrap();
    near.finish().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        Io(&near).read_to_end(&mut all).unwrap();
        all
    });
    let mut visiting = web::server(far, options, site, None);
    let _ = finished(&mut visiting);
    let visits = visiting.take_visits();
    drop(visiting);
    (reader.join().unwrap(), visits)
}

fn ask(site: Arc<Site>, bytes: &[u8]) -> Vec<Answer> {
    let (bytes, _) = ask_with(site, ws::ServerOptions::default(), bytes);
    let (answers, rest) = answers(&bytes, &[]);
    assert!(rest.is_empty(), "an answer is not whole: {}", String::from_utf8_lossy(&rest));
    answers
}

fn get(site: &Arc<Site>, path: &str, fields: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let mut answers = ask(Arc::clone(site), request.as_bytes());
    assert_eq!(answers.len(), 1, "{path}");
    answers.pop().unwrap()
}

#[test]
fn files_are_served_with_what_browsers_want_to_know() {
    let folder = Folder::new();
    let site = folder.site();
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", &b"<h1>front</h1>"[..]),
        ("/index.html?x=../..", "text/html; charset=utf-8", b"<h1>front</h1>"),
        ("/a.js", "text/javascript; charset=utf-8", b"let a;"),
        ("http://elsewhere.example/a.js", "text/javascript; charset=utf-8", b"let a;"),
        ("/sub/x%20y&%3Cz%3e.css", "text/css; charset=utf-8", b"b {}"),
        ("/empty.txt", "text/plain; charset=utf-8", b""),
    ] {
        let answer = get(&site, path, "");
        assert_eq!((answer.status, &*answer.body), (200, body), "{path}");
        assert_eq!(answer.field("Content-Type"), Some(kind), "{path}");
        assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(answer.field("Accept-Ranges"), Some("bytes"));
        assert_eq!(answer.field("Connection"), None);
    }
    let answer = get(&site, "/hundred", "");
    assert_eq!(answer.field("Content-Type"), Some("application/octet-stream"));
    for kind in
        ["x.mjs text/javascript; charset=utf-8", "x.wasm application/wasm", "x.svg image/svg+xml"]
    {
        let (name, kind) = kind.split_once(' ').unwrap();
        folder.big(name, 3);
        let answer = get(&site, &format!("/{name}"), "");
        assert!(answer.field("Content-Type").unwrap().starts_with(kind), "{answer:?}");
    }
}

#[test]
fn no_path_leads_outside() {
    let folder = Folder::new();
    let path = folder.path();
    symlink("../secret", path.join("out")).unwrap();
    symlink(folder.all.path().join("secret"), path.join("absolute")).unwrap();
    symlink("/proc/self/root", path.join("magic")).unwrap();
    symlink("..", path.join("sub/up")).unwrap();
    symlink("../..", path.join("sub/upup")).unwrap();
    symlink("a.js", path.join("in")).unwrap();
    symlink("sub", path.join("folder")).unwrap();
    symlink("loop", path.join("loop")).unwrap();
    symlink(".dot", path.join("seen")).unwrap();
    let site = folder.site_with(|options| options.listing = true);
    let long = format!("/{}", "a".repeat(300));
    let deep = "/sub/up".repeat(60);
    for (path, status) in [
        ("/../secret", 400),
        ("/sub/../../secret", 400),
        ("/%2e%2e/secret", 400),
        ("/.%2e/secret", 400),
        ("/..%2fsecret", 400),
        ("/%2e%2e%2fsecret", 400),
        ("/..%5csecret", 404),
        ("/%252e%252e/secret", 404),
        ("/..", 400),
        ("/.", 400),
        ("//etc/passwd", 404),
        ("//../secret", 404),
        ("/sub//x", 404),
        ("/a.js%00.html", 400),
        ("/a%00b", 400),
        ("/a%zz", 400),
        ("/%c0%ae%c0%ae/secret", 404),
        ("/a.js/", 404),
        ("/a.js/x", 404),
        ("/out", 404),
        ("/absolute", 404),
        ("/magic/etc/passwd", 404),
        ("/sub/upup/secret", 404),
        ("/sub/upup/", 404),
        ("/loop", 404),
        ("/missing", 404),
        (&long, 404),
        (&deep, 404),
        ("secret", 400),
        ("*", 400),
        ("file:///etc/passwd", 400),
        ("/in", 200),
        ("/sub/up/a.js", 200),
        ("/folder/x%20y&%3Cz%3E.css", 200),
        ("/seen", 200),
    ] {
        let answer = get(&site, path, "");
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.body.windows(6).any(|part| part == b"SECRET"), "{path}");
        assert!(!answer.body.windows(5).any(|part| part == b"root:"), "{path}");
    }
}

#[test]
fn only_regular_files_are_served_and_none_of_the_others_holds_anything_up() {
    qio_testkit::scope(Duration::from_secs(30), |_| {
        let folder = Folder::new();
        let path = folder.path();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("fifo"),
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        fs::create_dir_all(path.join("odd/index.html")).unwrap();
        let site = folder.site();
        for name in ["/fifo", "/socket", "/odd/", "/sub/"] {
            assert_eq!(get(&site, name, "").status, 404, "{name}");
        }
        // None of them can be had, so none of them is shown.
        let site = folder.site_with(|options| options.listing = true);
        fs::remove_file(path.join("index.html")).unwrap();
        let page = String::from_utf8(get(&site, "/", "").body).unwrap();
        assert!(
            page.contains("a.js") && !page.contains("fifo") && !page.contains("socket"),
            "{page}"
        );
    });
}

#[test]
fn a_file_that_may_not_be_read_is_said_to_be_so() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may read everything");
        return;
    }
    let folder = Folder::new();
    let file = fs::File::open(folder.path().join("a.js")).unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    assert_eq!(get(&folder.site(), "/a.js", "").status, 403);
}

#[test]
fn folders_lead_to_their_slash_and_to_nobody_else() {
    let folder = Folder::new();
    let mut evil = folder.path().into_os_string();
    evil.push("/\\evil.example/x:y");
    fs::create_dir_all(evil).unwrap();
    let site = folder.site();
    for (path, location) in [
        ("/sub", "./sub/"),
        ("/sub?a=//b&c", "./sub/?a=//b&c"),
        ("/%5Cevil.example", "./%5Cevil.example/"),
        ("/%5cevil.example/x:y", "./x%3Ay/"),
    ] {
        let answer = get(&site, path, "");
        assert_eq!((answer.status, answer.field("Location")), (301, Some(location)), "{path}");
    }
    for path in ["//evil.example", "//evil.example/..", "/%2fevil.example", "/\\evil.example/.."] {
        assert_eq!(get(&site, path, "").field("Location"), None, "{path}");
    }
}

#[test]
fn folders_are_listed_and_hidden_files_shown_only_when_asked_for() {
    let folder = Folder::new();
    let site = folder.site();
    for path in ["/sub/", "/.dot", "/sub/.hidden/file", "/%2edot"] {
        assert_eq!(get(&site, path, "").status, 404, "{path}");
    }
    let site = folder.site_with(|options| options.listing = true);
    let answer = get(&site, "/sub/", "");
    let page = String::from_utf8(answer.body).unwrap();
    let link = "<a href=\"./x%20y%26%3Cz%3E.css\">x y&amp;&lt;z&gt;.css</a>";
    assert!(page.contains(link) && page.contains("\"../\"") && !page.contains(".hidden"), "{page}");
    assert_eq!(get(&site, "/", "").body, b"<h1>front</h1>");
    assert_eq!(get(&site, "/.dot", "").status, 404);
    assert_eq!(get(&site, "/sub/.hidden/", "").status, 404);
    let site = folder.site_with(|options| {
        options.listing = true;
        options.hidden = true;
        options.index = "a.js".to_owned();
    });
    assert_eq!(get(&site, "/.dot", "").body, b"hidden");
    assert_eq!(get(&site, "/", "").body, b"let a;");
    let page = String::from_utf8(get(&site, "/sub/", "").body).unwrap();
    assert!(page.contains("./.hidden/"), "{page}");
    // A folder with very many files is a page all the same.
    for n in 0..5000 {
        fs::write(folder.path().join("sub").join(format!("{n:0>200}")), "").unwrap();
    }
    let page = get(&site, "/sub/", "").body;
    assert!(page.len() < 300_000, "{}", page.len());
    assert!(page.ends_with(b"There are more.\n"));
}

#[test]
fn parts_and_conditions_go_through_to_the_file() {
    let folder = Folder::new();
    let site = folder.site();
    let whole = get(&site, "/hundred", "");
    let tag = whole.field("ETag").unwrap().to_owned();
    let modified = whole.field("Last-Modified").unwrap().to_owned();
    assert!(tag.starts_with('"'), "a file that has not changed for long is told for sure: {tag}");
    for (fields, status, range, body) in [
        ("Range: bytes=10-19\r\n".to_owned(), 206, Some("bytes 10-19/100"), 10..20),
        ("Range: bytes=-5\r\n".to_owned(), 206, Some("bytes 95-99/100"), 95..100),
        ("Range: bytes=98-\r\n".to_owned(), 206, Some("bytes 98-99/100"), 98..100),
        ("Range: bytes=0-1,4-5\r\n".to_owned(), 200, None, 0..100),
        ("Range: bytes=0-1\r\nRange: bytes=4-5\r\n".to_owned(), 200, None, 0..100),
        (format!("Range: bytes=1-1\r\nIf-Range: {tag}\r\n"), 206, Some("bytes 1-1/100"), 1..2),
        ("Range: bytes=1-1\r\nIf-Range: \"x\"\r\n".to_owned(), 200, None, 0..100),
        (format!("If-None-Match: {tag}\r\n"), 304, None, 0..0),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: W/{tag}\r\n"), 304, None, 0..0),
        (format!("If-Modified-Since: {modified}\r\n"), 304, None, 0..0),
    ] {
        let answer = get(&site, "/hundred", &fields);
        assert_eq!((answer.status, answer.field("Content-Range")), (status, range), "{fields}");
        assert!(answer.body.iter().copied().eq(body), "{fields}");
        assert_eq!(answer.field("ETag"), Some(&*tag));
    }
    let answer = get(&site, "/hundred", "Range: bytes=100-\r\n");
    assert_eq!((answer.status, answer.field("Content-Range")), (416, Some("bytes */100")));
    assert_eq!(get(&site, "/hundred", "If-Match: \"x\"\r\n").status, 412);
    let answer = get(&site, "/hundred", "If-None-Match: \"x\"\r\nRange: bytes=1-1\r\n");
    assert_eq!(answer.status, 206);
    fs::write(folder.path().join("hundred"), [7; 100]).unwrap();
    let answer = get(&site, "/hundred", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((answer.status, answer.body), (200, vec![7; 100]));
    let fresh = answer.head;
    assert!(fresh.contains("\r\nETag: W/\""), "it may change again at once: {fresh}");
}

#[test]
fn each_bad_request_gets_its_status_and_a_complete_answer() {
    let folder = Folder::new();
    let long = "x".repeat(web::LIMIT_BYTES);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{}Host: h\r\n\r\n", "A: b\r\n".repeat(70)), 431),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 413),
        (
            "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            413,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        ("\x16\x03\x01\x02\r\n\r\n".to_owned(), 400),
    ] {
        // Behind it comes what nobody may take for a request.
        let request = request + "GET /a.js HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut options = ws::ServerOptions::default();
        options.limit_bytes = web::LIMIT_BYTES;
        let (bytes, visits) = ask_with(folder.site(), options, request.as_bytes());
        let (answers, rest) = answers(&bytes, &[]);
        let [answer] = &answers[..] else { panic!("{status}: {answers:?}") };
        assert_eq!((answer.status, rest.len()), (status, 0));
        assert_eq!(answer.field("Connection"), Some("close"), "{status}");
        assert_eq!(visits.iter().map(|visit| visit.status).collect::<Vec<_>>(), [status]);
    }
    for method in ["OPTIONS", "POST", "DELETE", "get", "CONNECT"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let answers = ask(folder.site(), request.as_bytes());
        assert_eq!((answers[0].status, answers[1].status), (405, 200), "{method}");
        assert_eq!(answers[0].field("Allow"), Some("GET, HEAD"));
    }
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    let folder = Folder::new();
    let big = folder.big("big", 300_000);
    let mut requests = String::new();
    for _ in 0..40 {
        requests += "GET /a.js HTTP/1.1\r\nHost: h\r\n\r\n";
        requests += "HEAD /big HTTP/1.1\r\nHost: h\r\n\r\n";
    }
    requests += "GET /big HTTP/1.1\r\nHost: h\r\n\r\nGET /missing HTTP/1.1\r\nHost: h\r\n\r\n";
    requests += "GET /a.js HTTP/1.0\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n";
    let (bytes, visits) =
        ask_with(folder.site(), ws::ServerOptions::default(), requests.as_bytes());
    let of_head: Vec<_> = (0..40).map(|n| 2 * n + 1).collect();
    let (answers, rest) = answers(&bytes, &of_head);
    assert!(rest.is_empty());
    assert_eq!(answers.len(), 83);
    assert_eq!(answers[1].field("Content-Length"), Some("300000"));
    assert!(answers[80].body == big);
    assert_eq!(answers[81].status, 404);
    assert_eq!(
        (&*answers[82].body, answers[82].field("Connection")),
        (&b"let a;"[..], Some("close"))
    );
    // Nobody has asked what was answered, so only the last answers are known.
    assert_eq!(visits.len(), 64);
    let visits: Vec<_> = visits[60..]
        .iter()
        .map(|visit| (&*visit.method, &*visit.path, visit.status, visit.bytes, visit.is_complete))
        .collect();
    let expected = [
        ("HEAD", "/big", 200, 0, true),
        ("GET", "/big", 200, 300_000, true),
        ("GET", "/missing", 404, 22, true),
        ("GET", "/a.js", 200, 6, true),
    ];
    assert_eq!(visits, expected);
}

/// Drives both ends over memory: `bytes` go in as the channel takes them, and what is answered is
/// read until there is enough or the end.
fn through_chaos(site: &Arc<Site>, plan: Plan, bytes: &[u8]) -> (Vec<u8>, bool) {
    let (near, far) = Duplex::pair_with_limit(700);
    near.set_mode(Mode::NonBlocking).unwrap();
    let options = ws::ServerOptions::default();
    let mut visiting = web::server(Chaos::new(far, plan), options, Arc::clone(site), None);
    let (mut sent, mut got, mut upgraded) = (0, Vec::new(), None);
    for _ in 0..4_000_000 {
        if sent < bytes.len() {
            sent += near.write(&bytes[sent..]).unwrap_or(0);
        }
        if sent == bytes.len() && upgraded.is_none() {
            let _ = near.finish();
        }
        let mut buf = [0; 512];
        match near.read(&mut buf) {
            Ok(0) => return (got, upgraded.is_some()),
            Ok(count) => got.extend(&buf[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        match &upgraded {
            None => match visiting.step(Instant::now()) {
                Poll::Pending => {}
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(established))) => {
                    let channel: Arc<dyn Channel> = Arc::new(established.into_layer(ws::NAME));
                    channel.set_mode(Mode::NonBlocking).unwrap();
                    upgraded = Some(channel);
                }
                Poll::Ready(Err(error)) => panic!("{error}"),
            },
            Some(channel) => {
                let _ = channel.drive(Instant::now());
                let mut buf = [0; 64];
                match channel.read(&mut buf) {
                    Ok(0) => drop(channel.finish()),
                    Ok(count) => channel.write_all(&buf[..count]).unwrap(),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                }
            }
        }
    }
    panic!("it hangs");
}

#[test]
fn files_and_a_websocket_come_through_every_chaos_on_one_connection() {
    let folder = Folder::new();
    let big = folder.big("big", 20_000);
    let site = folder.site();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    // A masked frame with the key 0, right behind the request; then a close.
    let frame = [&[0x82, 0x85, 0, 0, 0, 0][..], b"first", &[0x88, 0x80, 0, 0, 0, 0]].concat();
    let bytes = [
        get("/a.js").as_bytes(),
        get("/big").as_bytes(),
        get("/missing").as_bytes(),
        UPGRADE.as_bytes(),
        &frame,
    ]
    .concat();
    for plan in [
        Plan::new(1),
        Plan::new(2).one_byte(),
        Plan::new(3).one_byte().would_block_every(2),
        Plan::new(4).short(700).would_block_every(3).spurious_every(2),
        Plan::new(5).short(40).would_block_every(5),
    ] {
        let (got, upgraded) = through_chaos(&site, plan, &bytes);
        let (answers, rest) = answers(&got, &[]);
        let status: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(status, [200, 200, 404, 101], "{plan:?}");
        assert!(answers[1].body == big && upgraded, "{plan:?}");
        let (mut echo, mut rest) = (Vec::new(), &rest[..]);
        while let [0x82, len, frames @ ..] = rest {
            let (payload, frames) = frames.split_at((*len).into());
            echo.extend(payload);
            rest = frames;
        }
        assert_eq!((&*echo, rest.first()), (&b"first"[..], Some(&0x88)), "{plan:?}");
    }
}

#[test]
fn what_cannot_be_a_websocket_is_told_so_after_files_too() {
    let folder = Folder::new();
    let request = format!(
        "GET /a.js HTTP/1.1\r\nHost: h\r\n\r\n{}",
        UPGRADE.replace("Version: 13", "Version: 8")
    );
    let answers = ask(folder.site(), request.as_bytes());
    assert_eq!((answers[0].status, answers[1].status), (200, 426));
    // Another protocol that a client offers is none of ours.
    let request = UPGRADE.replace("websocket", "h2c").replace("/any", "/a.js");
    assert_eq!(ask(folder.site(), request.as_bytes())[0].body, b"let a;");
}

/// A server whose client does nothing by itself.
fn visit(site: Arc<Site>, deadline: Option<Instant>) -> (Socket, Visiting<Socket>) {
    let (near, far) = Socket::pair().unwrap();
    near.set_mode(Mode::NonBlocking).unwrap();
    (near, web::server(far, ws::ServerOptions::default(), site, deadline))
}

fn is_pending<C: Channel>(visiting: &mut Visiting<C>, now: Instant) -> bool {
    visiting.step(now).is_pending()
}

/// Reads what is there.
fn drain(near: &Socket) -> usize {
    let mut buf = vec![0; 1 << 16];
    let mut all = 0;
    while let Ok(count @ 1..) = near.read(&mut buf) {
        all += count;
    }
    all
}

#[test]
fn a_file_that_shrinks_is_cut_and_one_that_grows_is_not_longer() {
    let folder = Folder::new();
    folder.big("big", 3_000_000);
    let path = folder.path().join("big");
    for (new_len, complete) in [(2_000_000, false), (4_000_000, true)] {
        folder.big("big", 3_000_000);
        let (near, mut visiting) = visit(folder.site(), None);
        near.write_all(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let now = Instant::now();
        assert!(is_pending(&mut visiting, now));
        fs::File::options().write(true).open(&path).unwrap().set_len(new_len).unwrap();
        let mut got = 0;
        while is_pending(&mut visiting, now) {
            let count = drain(&near);
            got += count;
            if count == 0 && visiting.is_idle() {
                break;
            }
        }
        got += drain(&near);
        let [visit] = &visiting.take_visits()[..] else { panic!("one was asked for") };
        assert_eq!(visit.is_complete, complete, "{visit:?}");
        let head = got as u64 - visit.bytes;
        assert!(head < 500, "{head}");
        match complete {
            true => assert_eq!(visit.bytes, 3_000_000),
            false => {
                assert!(visit.bytes <= 2_000_000, "{visit:?}");
                assert_eq!(near.read(&mut [0]).unwrap(), 0, "the connection has ended");
            }
        }
    }
}

#[test]
fn who_asks_for_nothing_or_takes_nothing_is_sent_away_in_time_and_nobody_else() {
    let folder = Folder::new();
    folder.big("big", 8_000_000);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    // The first request has the time that it was given.
    let (near, mut visiting) = visit(folder.site(), Some(after(10)));
    near.write_all(b"GET / HT").unwrap();
    assert!(is_pending(&mut visiting, after(9)));
    let Poll::Ready(Err(error)) = visiting.step(after(10)) else { panic!("it goes on") };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // One who says nothing at all has failed at nothing: browsers open connections in advance.
    let (_near, mut visiting) = visit(folder.site(), Some(after(10)));
    assert!(is_pending(&mut visiting, after(9)));
    assert!(matches!(visiting.step(after(10)), Poll::Ready(Ok(None))));
    // Each further one has 30 seconds, however it drips.
    let (near, mut visiting) = visit(folder.site(), Some(after(10)));
    near.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert!(is_pending(&mut visiting, after(5)));
    assert!(visiting.is_visitor() && visiting.is_idle());
    for second in 6..35 {
        near.write_all(b"x").unwrap();
        assert!(is_pending(&mut visiting, after(second)), "{second}");
    }
    assert!(!visiting.is_idle());
    assert!(matches!(visiting.step(after(35)), Poll::Ready(Ok(None))));
    // A download goes on for hours as long as a part of it is taken every minute.
    let (near, mut visiting) = visit(folder.site(), Some(after(10)));
    near.write_all(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut now = 0;
    let mut set = PollSet::new();
    let mut taken = 0;
    while now < 5000 {
        assert!(is_pending(&mut visiting, after(now)), "cut after {now} s and {taken} bytes");
        set.clear();
        visiting.watch(&mut set);
        taken += near.read(&mut [0; 60_000]).unwrap_or(0);
        now += 59;
    }
    assert!(taken > 4_000_000 && !visiting.is_idle(), "{taken}");
    assert!(set.deadline().is_some_and(|at| at <= after(now + 60)));
    // Until nothing is.
    while is_pending(&mut visiting, after(now)) {
        now += 59;
        assert!(now < 5300, "it is never cut");
    }
    let [visit] = &visiting.take_visits()[..] else { panic!("one was asked for") };
    assert!(!visit.is_complete && visit.bytes > 4_000_000, "{visit:?}");
}

#[test]
fn a_quick_client_lets_others_have_their_turn() {
    let folder = Folder::new();
    folder.big("big", 8_000_000);
    let (near, far) = Duplex::pair_with_limit(16_000_000);
    let mut visiting = web::server(far, ws::ServerOptions::default(), folder.site(), None);
    near.write_all(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut steps = 0;
    while !visiting.is_visitor() || !visiting.is_idle() {
        assert!(is_pending(&mut visiting, Instant::now()));
        steps += 1;
        let mut set = PollSet::new();
        visiting.watch(&mut set);
        if !visiting.is_idle() {
            let at = set.deadline().unwrap();
            assert!(at <= Instant::now(), "it wants to go on at once");
        }
    }
    assert!((20..=40).contains(&steps), "{steps}");
}

#[test]
fn what_the_server_asks_of_clients_it_asks_of_visitors() {
    let folder = Folder::new();
    let request = |host: &str, fields: &str| {
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n")
    };
    let status = |options: &ws::ServerOptions, site: &Arc<Site>, request: &str| {
        let (bytes, _) = ask_with(Arc::clone(site), options.clone(), request.as_bytes());
        answers(&bytes, &[]).0.pop().unwrap()
    };
    let site = folder.site_with(|options| options.health = Some("/healthz".to_owned()));
    let mut options = ws::ServerOptions::default();
    options.origins = ws::Origins::Loopback;
    for (host, expected) in [
        ("localhost", 200),
        ("LOCALHOST:6080", 200),
        ("127.0.0.1:6080", 200),
        ("127.8.8.8", 200),
        ("[::1]:6080", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:6080", 403),
        ("[::2]", 403),
        ("192.0.2.1", 403),
        ("", 403),
    ] {
        assert_eq!(status(&options, &site, &request(host, "")).status, expected, "{host}");
    }
    options.origins = ws::Origins::SameHost;
    assert_eq!(status(&options, &site, &request("any.example", "")).status, 200);
    options.basic_auth = Some(ws::BasicAuth::new("aladdin", "opensesame"));
    let answer = status(&options, &site, &request("h", ""));
    assert_eq!(answer.status, 401);
    assert!(answer.field("WWW-Authenticate").unwrap().starts_with("Basic "));
    let known = "Authorization: Basic YWxhZGRpbjpvcGVuc2VzYW1l\r\n";
    assert_eq!(status(&options, &site, &request("h", known)).status, 200);
    let wrong = "Authorization: Basic YWxhZGRpbjpvcGVuc2VzYW1m\r\n";
    assert_eq!(status(&options, &site, &request("h", wrong)).status, 401);
    // Whether somebody is there is no secret.
    let health = request("h", "").replace("GET /", "GET /healthz");
    assert_eq!(status(&options, &site, &health).body, b"ok\n");
}

#[test]
fn health_is_answered_alone_or_beside_files_and_told_to_nobody() {
    let folder = Folder::new();
    let mut options = SiteOptions::default();
    options.health = Some("/healthz".to_owned());
    let alone = Arc::new(Site::without_files(options.clone()));
    let beside = folder.site_with(|site| *site = options);
    let request = "GET /healthz?x HTTP/1.1\r\nHost: h\r\n\r\nHEAD /healthz HTTP/1.0\r\n\r\n";
    for site in [&alone, &beside] {
        let options = ws::ServerOptions::default();
        let (bytes, visits) = ask_with(Arc::clone(site), options, request.as_bytes());
        let (answers, _) = answers(&bytes, &[1]);
        let [get, head] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((get.status, &*get.body), (200, &b"ok\n"[..]));
        assert_eq!(get.field("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(visits.is_empty());
    }
    // All else is for the WebSocket's server.
    let answer = get(&alone, "/", "");
    assert_eq!(answer.body, b"Upgrade does not name websocket\n");
    assert_eq!(get(&beside, "/", "").status, 200);
}

#[test]
fn a_visitor_that_leaves_in_the_middle_is_no_failure_and_leaks_nothing() {
    qio_testkit::scope(Duration::from_secs(30), |_| {
        let folder = Folder::new();
        folder.big("big", 1_000_000);
        let request =
            b"GET /a.js HTTP/1.1\r\nHost: h\r\n\r\nGET /big HTTP/1.1\r\nHost: h\r\n\r\nGET ";
        for cut in 0..=request.len() {
            let (near, mut visiting) = visit(folder.site(), None);
            near.write_all(&request[..cut]).unwrap();
            assert!(is_pending(&mut visiting, Instant::now()));
            if cut % 2 == 0 {
                near.close().unwrap();
                let ended = finished(&mut visiting);
                let was_asked = cut >= 31;
                assert!(matches!(ended, Ok(None)) || !was_asked && cut > 0, "{cut}: {ended:?}");
            }
        }
    });
}

/// A listener with files, and what its observer was told.
fn listen(options: ListenOptions, folder: &Folder, rest: &str) -> (Listener, Told) {
    let told = Told::default();
    let observer = Arc::clone(&told);
    let options = options.observe(move |event| {
        let text = match event {
            ListenEvent::Answered { visit, .. } => {
                let complete = if visit.is_complete { "" } else { " cut" };
                format!("{} {}{complete}", visit.path, visit.status)
            }
            other => format!("{other:?}"),
        };
        observer.lock().unwrap().push(text);
    });
    let address = address(folder, rest);
    (net::listen(&address, &options).unwrap(), told)
}

fn address(folder: &Folder, rest: &str) -> Address {
    let web = folder.path();
    let text = format!("listen:{}web={}", rest, Path::new(web.as_os_str()).display());
    text.parse().unwrap()
}

type Told = Arc<Mutex<Vec<String>>>;

fn dial(listener: &Listener) -> std::net::TcpStream {
    let text = listener.local_addresses()[0].to_string();
    let host = text.strip_prefix("ws://").unwrap().split(['/', '?']).next().unwrap();
    let stream = std::net::TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Steps until it holds.
fn until(
    accepting: &mut impl Steps<Output = std::io::Result<net::Accepted>>,
    mut holds: impl FnMut() -> bool,
) -> Option<net::Accepted> {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "it never happens");
        if let Poll::Ready(client) = accepting.step(Instant::now()) {
            return Some(client.unwrap());
        }
        if holds() {
            break;
        }
        let mut set = PollSet::new();
        accepting.watch(&mut set);
        set.poll(Some(Instant::now() + Duration::from_millis(5))).unwrap();
        accepting.woken(&set);
    }
    None
}

#[test]
fn a_thousand_idle_visitors_are_bounded_and_keep_no_client_out() {
    let folder = Folder::new();
    let options = ListenOptions::new().max_pending(16).max_connections(1);
    let (listener, told) = listen(options, &folder, "ws://127.0.0.1:0?");
    let mut accepting = listener.accepting();
    let mut visitors = Vec::new();
    for n in 1..=1000 {
        let mut visitor = dial(&listener);
        visitor.write_all(b"GET /a.js HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        visitors.push(visitor);
        let answered = || told.lock().unwrap().len() >= n;
        assert!(until(&mut accepting, answered).is_none(), "nobody asked for a WebSocket");
    }
    assert!(told.lock().unwrap().iter().all(|text| text == "/a.js 200"));
    let open = visitors.iter().filter(|visitor| {
        visitor.set_nonblocking(true).unwrap();
        let mut visitor = *visitor;
        let mut all = Vec::new();
        let end = visitor.read_to_end(&mut all);
        assert!(all.ends_with(b"let a;"), "everybody was answered");
        end.is_err()
    });
    let open = open.count();
    assert!((1..=16).contains(&open), "{open} are open");
    // And none of them is a client, or takes the place of one.
    let mut client = dial(&listener);
    client.write_all(UPGRADE.as_bytes()).unwrap();
    let accepted = until(&mut accepting, || false).unwrap();
    accepted.channel.write_all(b"welcome").unwrap();
    let mut answer = [0; 13];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101 ");
}

#[test]
fn at_the_limit_of_descriptors_idle_visitors_make_room_for_clients() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    in_own_process("at_the_limit_of_descriptors_idle_visitors_make_room_for_clients", || {
        let folder = Folder::new();
        let (listener, told) = listen(ListenOptions::new(), &folder, "ws://127.0.0.1:0?");
        let limit = Rlimit { current: Some(64), maximum: Some(64) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut accepting = listener.accepting();
        let mut visitor = dial(&listener);
        visitor.write_all(b"GET /a.js HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(until(&mut accepting, || !told.lock().unwrap().is_empty()).is_none());
        let mut client = dial(&listener);
        client.write_all(UPGRADE.as_bytes()).unwrap();
        // What waiting needs is had before there is nothing left.
        accepting.watch(&mut PollSet::new());
        let mut filler = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            filler.push(file);
        }
        // There is no other descriptor to be had than that of the visitor, who is told nothing.
        let accepted = until(&mut accepting, || false).unwrap();
        accepted.channel.write_all(b"welcome").unwrap();
        let mut answer = Vec::new();
        visitor.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(b"let a;"));
        // Who comes now is told that there is none for a file, as long as that is so.
        filler.pop();
        let mut visitor = dial(&listener);
        filler.pop();
        visitor.write_all(b"GET /a.js HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        told.lock().unwrap().clear();
        let is_told = || told.lock().unwrap().iter().any(|text| text.starts_with('/'));
        assert!(until(&mut accepting, is_told).is_none());
        assert!(told.lock().unwrap().contains(&"/a.js 503".to_owned()), "{told:?}");
    });
}

#[test]
fn a_download_that_takes_longer_than_a_handshake_may_is_not_cut() {
    let folder = Folder::new();
    let big = folder.big("big", 6_000_000);
    let options = ListenOptions::new().handshake_timeout(Duration::from_millis(1500));
    let (listener, told) = listen(options, &folder, "ws://127.0.0.1:0?");
    let mut visitor = dial(&listener);
    visitor.write_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut accepting = listener.accepting();
    let mut set = PollSet::new();
    let start = Instant::now();
    // Others in their handshakes run out of time meanwhile.
    let mut slow = dial(&listener);
    slow.write_all(b"GET /").unwrap();
    let mut silent = dial(&listener);
    let mut got = Vec::new();
    let mut now = start;
    visitor.set_nonblocking(true).unwrap();
    while !got.ends_with(&big[big.len() - 100..]) || got.len() < big.len() {
        assert!(accepting.step(now).is_pending());
        set.clear();
        accepting.watch(&mut set);
        let mut part = vec![0; 100_000];
        if let Ok(count) = visitor.read(&mut part) {
            assert!(count > 0, "cut after {} bytes", got.len());
            got.extend(&part[..count]);
        }
        // In steps that are each shorter than what is allowed, and together far longer.
        now += Duration::from_millis(500);
        assert!(start.elapsed() < PATIENCE, "{} bytes", got.len());
    }
    assert!(now - start > Duration::from_secs(20), "{:?}", now - start);
    let (answers, rest) = answers(&got, &[]);
    assert!(answers[0].body == big && rest.is_empty());
    let _ = accepting.step(now);
    let told = told.lock().unwrap().join("\n");
    // One has failed, who had begun to say something, and the silent one is not worth a word.
    assert_eq!(told.matches("HandshakeFailed").count(), 1, "{told}");
    assert!(told.contains("/big 200"), "{told}");
    let mut end = [0; 8];
    assert_eq!(slow.read(&mut end).unwrap_or(0), 0);
    assert_eq!(silent.read(&mut end).unwrap_or(0), 0);
}

#[test]
fn a_visitor_that_becomes_a_client_has_the_time_of_a_handshake_for_it() {
    let folder = Folder::new();
    let options = ListenOptions::new().handshake_timeout(Duration::from_secs(5));
    // Behind the WebSocket there is another one, whose handshake does not come.
    let (listener, told) = listen(options, &folder, "ws+ws+tcp://127.0.0.1:0?ws2.");
    let mut accepting = listener.accepting();
    let port = listener.local_addresses()[0].to_string();
    let host = port.split_once("://").unwrap().1.split(['/', '?']).next().unwrap().to_owned();
    let mut client = std::net::TcpStream::connect(host).unwrap();
    client.set_nonblocking(true).unwrap();
    let start = Instant::now();
    client.write_all(b"GET /a.js HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = [0; 12];
    assert!(until(&mut accepting, || client.read_exact(&mut head).is_ok()).is_none());
    assert_eq!(&head, b"HTTP/1.1 200");
    let _ = client.read(&mut [0; 1000]);
    // 20 seconds later, which is less than a visitor may take, and more than a handshake.
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut step = |seconds| {
        accepting.watch(&mut PollSet::new());
        assert!(accepting.step(after(seconds)).is_pending(), "after {seconds} s");
    };
    step(20);
    client.write_all(UPGRADE.as_bytes()).unwrap();
    let until = Instant::now() + PATIENCE;
    while client.read_exact(&mut head).is_err() {
        step(20);
        assert!(Instant::now() < until);
    }
    assert_eq!(&head, b"HTTP/1.1 101");
    step(24);
    assert_eq!(told.lock().unwrap().len(), 1, "{told:?}");
    step(26);
    let told = told.lock().unwrap();
    assert!(told.len() == 2 && told[1].contains("it was not done within 5s"), "{told:?}");
}

#[test]
fn files_are_served_over_unix_sockets_and_below_a_path_of_the_websocket() {
    let folder = Folder::new();
    let socket = folder.all.path().join("s");
    let rest = format!("ws+unix:{}?path=/websockify&", socket.display());
    let (listener, told) = listen(ListenOptions::new(), &folder, &rest);
    let mut accepting = listener.accepting();
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.write_all(b"GET /a.js HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").unwrap();
    assert!(until(&mut accepting, || !told.lock().unwrap().is_empty()).is_none());
    let mut all = String::new();
    let _ = until(&mut accepting, || client.read_to_string(&mut all).is_ok());
    assert!(all.starts_with("HTTP/1.1 200 OK") && all.ends_with("let a;"), "{all}");
    // The path is that of the WebSocket alone; its files have the others, and a folder may be there.
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.write_all(UPGRADE.as_bytes()).unwrap();
    let mut all = String::new();
    client.set_nonblocking(true).unwrap();
    let _ = until(&mut accepting, || client.read_to_string(&mut all).is_ok());
    assert!(all.starts_with("HTTP/1.1 404 "), "{all}");
    let client = std::thread::spawn(move || {
        net::connect(&listener_address(&socket), &ConnectOptions::new()).map(drop)
    });
    assert!(until(&mut accepting, || false).is_some());
    client.join().unwrap().unwrap();
}

fn listener_address(socket: &Path) -> Address {
    format!("ws+unix:{}?path=/websockify", socket.display()).parse().unwrap()
}

#[cfg(feature = "tls")]
#[test]
fn files_are_served_over_tls() {
    let folder = Folder::new();
    let big = folder.big("big", 500_000);
    let rest = "wss://127.0.0.1:0?self-signed&";
    let (listener, told) = listen(ListenOptions::new(), &folder, rest);
    let reach = listener.local_addresses()[0].to_string();
    let port = reach.split([':', '/', '?']).find_map(|part| part.parse::<u16>().ok()).unwrap();
    let client = std::thread::spawn(move || {
        let address = format!("tls+tcp://127.0.0.1:{port}?verify=off").parse().unwrap();
        let channel = net::connect(&address, &ConnectOptions::new()).unwrap();
        let request = b"GET /big HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        channel.write_all(request).unwrap();
        let mut all = Vec::new();
        // The end is said politely: it would be an error otherwise.
        Io(&channel).read_to_end(&mut all).unwrap();
        all
    });
    let mut accepting = listener.accepting();
    assert!(until(&mut accepting, || client.is_finished()).is_none());
    let (answers, _) = answers(&client.join().unwrap(), &[]);
    assert!(answers[0].body == big);
    assert_eq!(*told.lock().unwrap(), ["/big 200"]);
}

#[test]
fn what_cannot_be_served_is_an_error_at_once() {
    let folder = Folder::new();
    for (path, error) in [
        (folder.path().join("missing"), "no such file or directory"),
        (folder.path().join("a.js"), "not a directory"),
    ] {
        let path = path.display();
        let address: Address = format!("listen:ws://127.0.0.1:0?web={path}").parse().unwrap();
        let failed = net::listen(&address, &ListenOptions::new()).unwrap_err();
        let expected = format!("listen ws://127.0.0.1:0?web={path}: {path}: {error}");
        assert_eq!(failed.report().to_string(), expected);
        assert!(expected.as_bytes().starts_with(b"listen") && !path.to_string().is_empty());
    }
    for (options, reason) in [
        ("listing", "option \"listing\" needs \"web\""),
        ("index=a.html", "option \"index\" needs \"web\""),
        ("hidden", "option \"hidden\" needs \"web\""),
        ("web=/&index=a/b", "option \"index\" is not the name of a file"),
        ("web=/&index=..", "option \"index\" is not the name of a file"),
        ("health=ok", "option \"health\" is not a path that begins with a slash"),
        ("health=/a&path=/a", "\"health\" and \"path\" are the same path"),
    ] {
        let error = format!("listen:ws://127.0.0.1:0?{options}").parse::<Address>().unwrap_err();
        assert!(error.report().to_string().contains(reason), "{options}: {}", error.report());
    }
    let error = "ws://127.0.0.1:1?web=/".parse::<Address>().unwrap_err();
    assert!(error.report().to_string().contains("only for listening"), "{}", error.report());
}

#[test]
fn a_folder_that_was_replaced_is_served_after_a_reload() {
    let folder = Folder::new();
    let (listener, told) = listen(ListenOptions::new(), &folder, "ws://127.0.0.1:0?");
    let mut accepting = listener.accepting();
    let ask = |accepting: &mut net::Accepting<'_>, told: &Told| {
        let mut client = dial(&listener);
        client.write_all(b"GET /a.js HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        told.lock().unwrap().clear();
        assert!(until(accepting, || !told.lock().unwrap().is_empty()).is_none());
        told.lock().unwrap().clone()
    };
    assert_eq!(ask(&mut accepting, &told), ["/a.js 200"]);
    fs::rename(folder.path(), folder.all.path().join("old")).unwrap();
    fs::create_dir(folder.path()).unwrap();
    assert_eq!(ask(&mut accepting, &told), ["/a.js 200"], "the old one is kept");
    listener.reload().unwrap();
    assert_eq!(ask(&mut accepting, &told), ["/a.js 404"]);
    fs::remove_dir(folder.path()).unwrap();
    let error = listener.reload().unwrap_err();
    let text = error.report().to_string();
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    assert_eq!(ask(&mut accepting, &told), ["/a.js 404"], "what was there stays");
}

#[test]
fn names_that_are_no_text_are_served() {
    let folder = Folder::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe.txt");
    fs::write(folder.path().join(name), "odd").unwrap();
    assert_eq!(get(&folder.site(), "/%ff%FE.txt", "").body, b"odd");
}
