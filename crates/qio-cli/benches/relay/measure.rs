//! CPU time and memory of a relay, from `/proc`.

use std::io::{Error, Result};
use std::path::Path;

use rustix::process::{Resource, Rlimit};

/// The processes of a process group.
pub(crate) fn group(leader: u32) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat(&entry.path()).is_ok_and(|fields| fields[GROUP] == u64::from(leader)) {
            pids.push(pid);
        }
    }
    pids
}

/// User and system time of a process group and of the children it has waited for, in seconds.
///
/// `stat` counts in hundredths of a second, process by process, and shows nothing of sixty-four
/// that took a few milliseconds each; the scheduler's own count is finer, but only for threads that
/// are still there.
pub(crate) fn cpu_seconds(leader: u32) -> Result<f64> {
    let mut sum = 0.0;
    for pid in group(leader) {
        let process = format!("/proc/{pid}");
        // A process that ended meanwhile is counted with its parent.
        if let Ok(fields) = stat(Path::new(&process)) {
            let own = fields[USER..USER + 2].iter().sum::<u64>() as f64 / TICKS_PER_SECOND;
            let children = fields[USER + 2..USER + 4].iter().sum::<u64>() as f64;
            sum += own.max(scheduled_seconds(&process)) + children / TICKS_PER_SECOND;
        }
    }
    Ok(sum)
}

/// The time that the live threads of a process have run.
fn scheduled_seconds(process: &str) -> f64 {
    let threads = std::fs::read_dir(format!("{process}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// User and system time of all children that this process has waited for, in seconds.
pub(crate) fn children_cpu_seconds() -> Result<f64> {
    let fields = stat(Path::new("/proc/self"))?;
    Ok(fields[USER + 2..USER + 4].iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// Memory of a process group, shared pages by their share, in KiB. Without the kernel's.
pub(crate) fn pss_kib(leader: u32) -> f64 {
    let mut sum = 0;
    for pid in group(leader) {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let rollup = rollup.unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += kib.unwrap_or(0);
    }
    sum as f64
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Thousands of connections need descriptors, here and in the relays that inherit the limit.
pub(crate) fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(65536, |most| most.min(65536));
    let raised = Rlimit { current: Some(most), maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

/// The fields of `/proc/PID/stat` after the command's name (proc(5)); what is no number is 0.
fn stat(process: &Path) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(process.join("stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or_else(|| Error::other("an unknown stat format"))?;
    let fields: Vec<u64> =
        rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    if fields.len() < USER + 4 {
        return Err(Error::other("a short stat"));
    }
    Ok(fields)
}

const GROUP: usize = 2;

/// utime, stime, cutime, cstime.
const USER: usize = 11;

/// `USER_HZ`, which Linux has fixed at 100 for what `/proc` shows.
const TICKS_PER_SECOND: f64 = 100.0;
