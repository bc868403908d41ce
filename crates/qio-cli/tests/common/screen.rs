//! Terminals that a test sits in front of.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::eventually;

/// A terminal that a test sits in front of.
#[derive(Debug)]
pub struct Pty {
    pub master: File,
    pub slave: File,
    /// What was printed so far.
    pub screen: Arc<Mutex<String>>,
}

impl Pty {
    pub fn new() -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let printed = Arc::clone(&screen);
        thread::spawn(move || {
            let mut part = [0; 4096];
            // EIO once nobody has the other side open.
            while let Ok(n @ 1..) = reader.read(&mut part) {
                printed.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..n]));
            }
        });
        Self { master, slave: File::from(slave), screen }
    }

    pub fn side(&self) -> File {
        self.slave.try_clone().unwrap()
    }

    pub fn types(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    pub fn shows(&self, text: &str) {
        eventually(&format!("{text} on the screen"), || self.screen.lock().unwrap().contains(text));
    }

    /// The command in a session of its own, which has this terminal.
    pub fn session(&self, program: &str) -> Command {
        let mut command = Command::new("setsid");
        command.args(["--ctty", program]).stdin(self.side()).stdout(self.side());
        command
    }
}
