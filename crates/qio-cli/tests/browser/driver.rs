//! A headless Chromium, driven through chromedriver: W3C WebDriver is HTTP and JSON.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::common::is_installed;

/// A browser with one window, which ends with its test.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

/// How long a page may take for what it does; a slow machine is meant.
const PATIENCE: Duration = Duration::from_secs(120);

impl Browser {
    /// Starts one where there is one.
    pub(crate) fn start() -> Option<Self> {
        if !is_installed("chromium") || !is_installed("chromedriver") {
            return None;
        }
        // In a group of its own, so that nothing is left when it has to be killed.
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            line.rsplit_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        // It may go on to say things.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().unwrap();
        let mut browser =
            Self { driver, port: port.unwrap(), session: String::new(), _profile: profile };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--ignore-certificate-errors", "--window-size=800,600",
            profile,
        ]});
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let opened =
            browser.call("POST", "/session", json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", opened["sessionId"].as_str().unwrap());
        let millis = u64::try_from(PATIENCE.as_millis()).unwrap();
        browser.command("timeouts", json!({ "script": millis, "pageLoad": millis }));
        Some(browser)
    }

    /// Opens a page, and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.command("url", json!({ "url": url }));
    }

    /// The result of a script.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] }))
    }

    /// What a promise of the page comes to.
    pub(crate) fn wait_for(&self, promise: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; \
             Promise.resolve({promise}).then(done, error => done({{ error: String(error) }}))"
        );
        self.command("execute/async", json!({ "script": script, "args": [] }))
    }

    /// Keeps a picture of the page, for whoever wants to look at it.
    pub(crate) fn screenshot(&self, name: &str) {
        let picture = self.call("GET", &format!("{}/screenshot", self.session), Value::Null);
        let picture = BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        fs::write(&path, picture).unwrap();
        println!("a picture is in {}", path.display());
    }

    fn command(&self, name: &str, body: Value) -> Value {
        self.call("POST", &format!("{}/{name}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.try_call(method, path, &body).unwrap();
        let value = &answer["value"];
        assert!(value["error"].is_null() || value["stacktrace"].is_null(), "{path}: {answer}");
        value.clone()
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE + Duration::from_secs(10)))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Politely, so that the browser ends with all its processes; and by force.
        if !self.session.is_empty() {
            let _ = self.try_call("DELETE", &self.session, &Value::Null);
        }
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}
