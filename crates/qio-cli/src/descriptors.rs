//! How many connections the limit of open files has room for.

use std::fs;

use qio::Address;
use qio::net::DEFAULT_PENDING;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many connections to serve at a time, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) connections: u32,
    /// The limit of open files, when it is what allows no more.
    pub(crate) limited_by: Option<u64>,
}

/// What is open before /proc can be asked, where there is none.
const USUALLY_OPEN: u64 = 32;

/// What connections that open or splice, and name lookups, need for a while: at least, and at most
/// for each thread (which keeps some pipes for the next transfer).
const RESERVE: (u64, u64) = (4, 12);

/// What those need who are no connections yet: a descriptor for each that is in its handshakes, and
/// two for each that is sent a file. They are wanted, and no connection goes without one for them:
/// at the limit, handshakes and files have to wait.
const BESIDE: u64 = 3 * DEFAULT_PENDING as u64;

impl Room {
    /// As many of `asked` connections from `left` to `right` as there are descriptors for.
    ///
    /// A client is accepted only when there is one for its other side, too: clients that got one
    /// each would wait for each other for ever. The soft limit is raised first as far as needed and
    /// allowed, except for programs: they inherit it, and some cannot cope with a high one.
    pub(crate) fn make(asked: u32, [left, right]: [&Address; 2], threads: u16) -> Self {
        let each = descriptors_of(right);
        let (open, limit) = (open_now(), getrlimit(Resource::Nofile));
        let beside = if left.has_layers() { BESIDE } else { 0 };
        let wanted = open + beside + RESERVE.1 * u64::from(threads) + u64::from(asked) * each;
        let mut allowed = limit.current.unwrap_or(u64::MAX);
        if allowed < wanted && right.scheme().name != "exec" {
            let raised = wanted.min(limit.maximum.unwrap_or(u64::MAX));
            let new = Rlimit { current: Some(raised), maximum: limit.maximum };
            if raised > allowed && setrlimit(Resource::Nofile, new).is_ok() {
                allowed = raised;
            }
        }
        Self::within(allowed, open, each, asked, threads)
    }

    fn within(limit: u64, open: u64, each: u64, asked: u32, threads: u16) -> Self {
        let free = limit.saturating_sub(open);
        let reserve = (free / 4).clamp(RESERVE.0, RESERVE.1 * u64::from(threads.max(1)));
        let fit = (free.saturating_sub(reserve) / each).max(1);
        match u32::try_from(fit) {
            Ok(fit) if fit < asked => Self { connections: fit, limited_by: Some(limit) },
            _ => Self { connections: asked, limited_by: None },
        }
    }
}

/// How many descriptors a connection to `right` holds, its client's socket among them.
fn descriptors_of(right: &Address) -> u64 {
    match right.scheme().name {
        _ if right.is_listening() => 2,
        "tcp" | "unix" | "udp" | "unix-dgram" | "unix-seqpacket" | "file" | "null" => 2,
        // Two pipes, what watches each, and the process.
        "exec" => 8,
        _ => 6,
    }
}

/// How many descriptors are open that count for the limit.
fn open_now() -> u64 {
    match fs::read_dir("/proc/self/fd") {
        // One of them is that of the folder itself.
        Ok(numbers) => (numbers.count() as u64).saturating_sub(1),
        Err(_) => USUALLY_OPEN,
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn there_is_room_for_both_sides_of_each_connection() {
        let room = |limit, each, asked| Room::within(limit, 10, each, asked, 1).connections;
        assert_eq!(room(24, 2, 4096), 5);
        assert_eq!(room(24, 8, 4096), 1);
        assert_eq!(room(5, 2, 4096), 1, "one is always tried");
        assert_eq!(room(1024, 2, 4096), 501);
        assert_eq!(room(20_000, 2, 4096), 4096);
        assert_eq!(room(u64::MAX, 2, u32::MAX), u32::MAX);
    }
}
