//! Browsers on a WebSocket listener that serves their pages, too: headless Chromium.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;
#[path = "browser/driver.rs"]
mod driver;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Guard, Running, is_installed};
use driver::Browser;
use serde_json::Value;
use sha2::{Digest, Sha256};

const SIZE: usize = 16 << 20;

/// A folder with a page of ours.
fn site(page: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(pages().join(page), folder.path().join("index.html")).unwrap();
    folder
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// The address that is typed into the browser.
fn url(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap();
    let host = rest.split(['/', '?']).next().unwrap();
    format!("{}://{host}/", if scheme == "wss" { "https" } else { "http" })
}

/// 16 MiB from a page to a program and back; the program keeps what it got.
fn both_ways(scheme: &str, options: &str) {
    let Some(browser) = Browser::start() else { return };
    let folder = site("echo.html");
    let kept = tempfile::NamedTempFile::new().unwrap();
    let listen = format!("listen:{scheme}://127.0.0.1:0?web={}{options}", folder.path().display());
    let (mut relay, address) =
        Running::relay(&[&listen, &format!("exec:tee {}", kept.path().display())]);
    browser.open(&url(&address));
    let result = browser.wait_for("window.result");
    browser.screenshot(&format!("echo-{scheme}"));
    let digest = |key: &str| result[key].as_str().unwrap_or_else(|| panic!("{result}")).to_owned();
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let at_program: String = hex(&fs::read(kept.path()).unwrap());
    assert_eq!(result["bytes"], SIZE, "{result}");
    assert_eq!(digest("sent"), at_program);
    assert_eq!(digest("received"), at_program);
    let shown = browser.run("return document.querySelector('#received').textContent");
    assert_eq!(shown, Value::from(at_program));
    let page = relay.event("answered");
    assert_eq!(
        (&page["path"], &page["status"], &page["complete"]),
        (&Value::from("/"), &Value::from(200), &Value::from(true))
    );
    let record = relay.event("connection");
    assert_eq!((&record["sent"], &record["received"]), (&Value::from(SIZE), &Value::from(SIZE)));
    assert_eq!(record["close"], "ws closed with status 1000, \"done\"");
}

#[test]
#[ignore = "drives a browser; .ci/run full"]
fn a_page_moves_16_mib_both_ways_through_the_listener_that_has_served_it() {
    both_ways("ws", "");
}

#[test]
#[ignore = "drives a browser; .ci/run full"]
fn a_page_moves_16_mib_both_ways_over_tls() {
    both_ways("wss", "&self-signed");
}

/// An X server with a desktop of two colours, which speaks VNC on a Unix socket.
struct Desktop {
    _server: Guard,
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

const COLOURS: [&str; 2] = ["#c03020", "#2040a0"];

impl Desktop {
    fn start() -> Option<Self> {
        if !is_installed("Xtigervnc") || !is_installed("xsetroot") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vnc");
        // It tells the number of the display that it has found free when it can be connected to.
        let mut server = Command::new("Xtigervnc")
            .args([
                "-displayfd",
                "1",
                "-SecurityTypes",
                "None",
                "-rfbport",
                "-1",
                "-nolisten",
                "tcp",
            ])
            .args(["-geometry", "640x480", "-depth", "24", "-rfbunixpath"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let server = Guard(server);
        let display = format!(":{}", number.trim());
        let drawn = Command::new("xsetroot")
            .args(["-display", &display, "-mod", "40", "40", "-fg", COLOURS[0], "-bg", COLOURS[1]])
            .status()
            .unwrap();
        assert!(drawn.success(), "nothing is drawn on {display}");
        Some(Self { _server: server, _folder: folder, socket })
    }
}

/// Where `.ci/run full` has noVNC installed.
fn novnc() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ci-tools");
    let package = tools.join("node_modules/@novnc/novnc");
    if package.join("core/rfb.js").exists() {
        return Some(package);
    }
    println!("skipped: the npm package @novnc/novnc is not in target/ci-tools");
    None
}

#[test]
#[ignore = "drives a browser; .ci/run full"]
fn novnc_shows_a_desktop_through_one_relay() {
    let (Some(package), Some(desktop)) = (novnc(), Desktop::start()) else { return };
    let Some(browser) = Browser::start() else { return };
    let folder = site("vnc.html");
    // A link would lead outside of what is served.
    let copied =
        Command::new("cp").arg("-r").arg(package).arg(folder.path().join("novnc")).status();
    assert!(copied.unwrap().success());
    let (_relay, address) = Running::relay(&[
        &format!("listen:ws://127.0.0.1:0?web={}", folder.path().display()),
        &format!("unix:{}", desktop.socket.display()),
    ]);
    browser.open(&url(&address));
    let seen = browser.wait_for("window.result");
    browser.screenshot("novnc");
    assert_eq!((&seen["width"], &seen["height"]), (&Value::from(640), &Value::from(480)), "{seen}");
    for colour in COLOURS {
        let share = seen["colours"][colour].as_f64().unwrap_or(0.0);
        assert!(share > 0.01, "{colour} is not seen: {seen}");
    }
}
