//! Which descriptors are open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::Once;
use std::time::{Duration, Instant};

use qio::transport::Pipe;
use qio::watch::PollSet;
use qio::{Channel, Interest};

/// What was open when a test began.
#[derive(Debug)]
pub struct Ledger {
    before: BTreeMap<i32, Descriptor>,
}

/// An open descriptor, as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What it leads to: `socket:[4711]`, a path…
    pub target: String,
    /// Whether it is closed when the process starts another program.
    pub close_on_exec: bool,
}

impl Ledger {
    /// Records what is open now.
    pub fn open() -> Self {
        warm_up();
        Self { before: open_descriptors() }
    }

    /// The descriptors that were opened since and are open now.
    pub fn opened(&self) -> Vec<Descriptor> {
        let mut now = open_descriptors();
        now.retain(|number, descriptor| {
            self.before.get(number).is_none_or(|before| before.target != descriptor.target)
        });
        now.into_values().collect()
    }

    /// Checks that a program started now would inherit none of the descriptors opened since.
    ///
    /// # Panics
    ///
    /// Names the descriptors without close-on-exec.
    pub fn check_close_on_exec(&self) {
        let mut opened = self.opened();
        opened.retain(|descriptor| descriptor.number > 2 && !descriptor.close_on_exec);
        assert!(opened.is_empty(), "a child process would inherit {}", Listed(&opened));
    }

    /// Checks that nothing is open that was not when the ledger began.
    ///
    /// # Panics
    ///
    /// Names the leaked descriptors.
    pub fn check_closed(&self) {
        // A thread that is ending lets go of what it holds a moment after its work is known to be
        // done; what is leaked is still there after any time.
        let until = Instant::now() + GRACE;
        loop {
            let leaked = self.opened();
            if leaked.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "leaked {}", Listed(&leaked));
            std::thread::yield_now();
        }
    }
}

/// How long threads that are ending may take to let go.
const GRACE: Duration = Duration::from_secs(1);

struct Listed<'a>(&'a [Descriptor]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} descriptors:", self.0.len())?;
        for Descriptor { number, target, close_on_exec } in self.0 {
            let flag = if *close_on_exec { "" } else { " (not close-on-exec)" };
            write!(out, " {number} -> {target}{flag},")?;
        }
        Ok(())
    }
}

/// Has the library make the descriptors that it makes once and keeps.
fn warm_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (reader, _writer) = Pipe::pair().unwrap();
        let _ = reader.watch(Interest::READ, &mut PollSet::new());
        reader.close().unwrap();
    });
}

fn open_descriptors() -> BTreeMap<i32, Descriptor> {
    let numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    // The descriptor of the directory itself is closed by now, and has no entry any more.
    let described = numbers.into_iter().filter_map(|number| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        let close_on_exec = flags & rustix::fs::OFlags::CLOEXEC.bits() != 0;
        let target = target.to_string_lossy().into_owned();
        Some((number, Descriptor { number, target, close_on_exec }))
    });
    described.collect()
}
