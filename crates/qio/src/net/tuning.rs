//! The socket options of TCP that are right without being asked for.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::address::{Address, Refusal, Value};
use super::scheme::OptionInfo;
use super::socket_setup::failed;
use super::tcp_socket::MPTCP;
use crate::transport::KeepAlive;

/// The options of TCP sockets.
pub(crate) const TUNING_OPTIONS: &[OptionInfo] = &[
    OptionInfo::new("nodelay", Value::Switch, "send small writes at once (TCP_NODELAY)")
        .default("on"),
    OptionInfo::new("keep-alive", Value::Switch, "notice a dead peer by probing it").default("on"),
    OptionInfo::new("keep-alive-idle", Value::Duration, "silence before the first probe")
        .default("60s"),
    OptionInfo::new("keep-alive-interval", Value::Duration, "time between two probes")
        .default("10s"),
    OptionInfo::new(
        "keep-alive-count",
        Value::Count { from: 1, to: 127 },
        "unanswered probes after which the peer is dead",
    )
    .default("6"),
    OptionInfo::new(
        "user-timeout",
        Value::Duration,
        "how long sent data may stay unacknowledged (TCP_USER_TIMEOUT)",
    ),
];

/// What is set on every TCP socket, connected or accepted.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    no_delay: bool,
    keep_alive: Option<KeepAlive>,
    user_timeout_ms: Option<u32>,
    /// The options that were asked for.
    given: Vec<&'static str>,
    /// The others are left out where the socket does not have them.
    mptcp: bool,
}

impl Tuning {
    /// What the options of a `tcp:` address ask for.
    pub(crate) fn of(address: &Address) -> Self {
        let keep_alive = address.switch("keep-alive").then(|| {
            let KeepAlive { idle, interval, count } = KeepAlive::default();
            KeepAlive::new()
                .idle(address.duration("keep-alive-idle").unwrap_or(idle))
                .interval(address.duration("keep-alive-interval").unwrap_or(interval))
                .count(address.count("keep-alive-count").unwrap_or(count))
        });
        let user_timeout_ms = address.duration("user-timeout").and_then(milliseconds);
        let given = TUNING_OPTIONS.iter().map(|option| option.name);
        Self {
            no_delay: address.switch("nodelay"),
            keep_alive,
            user_timeout_ms,
            given: given.filter(|key| address.is_given(key)).collect(),
            mptcp: address.switch(MPTCP.name),
        }
    }

    /// Finds what the kernel would refuse, and what contradicts itself.
    pub(crate) fn check(address: &Address) -> Result<(), Refusal> {
        for key in ["keep-alive-idle", "keep-alive-interval", "keep-alive-count"] {
            if address.is_given(key) && !address.switch("keep-alive") {
                let text = format!("option {key:?} contradicts \"keep-alive=off\"");
                return Err(Refusal::new(text));
            }
        }
        for key in ["keep-alive-idle", "keep-alive-interval"] {
            let time = address.duration(key).unwrap_or_default();
            if !KeepAlive::can_be_kept(time) {
                let text = format!("option {key:?}: {time:?} is no time that TCP can keep");
                return Err(Refusal::new(text).hint("whole seconds from 1 to 32767"));
            }
        }
        if let Some(time) = address.duration("user-timeout")
            && milliseconds(time).is_none()
        {
            let text = format!("option \"user-timeout\": {time:?} is no time that TCP can keep");
            return Err(Refusal::new(text).hint("whole milliseconds from 1 to 2147483647"));
        }
        Ok(())
    }

    /// Sets everything. On a listening socket: its connections inherit it (tcp(7), Linux).
    ///
    /// # Errors
    ///
    /// Names the option. Multipath TCP learns the options one after the other, kernel by kernel:
    /// what it lacks is an error only when it was asked for.
    pub(crate) fn apply(&self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        let named = |option, result| match result {
            Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT)
                if self.mptcp && !self.given.contains(&option) =>
            {
                Ok(())
            }
            result => result.map_err(|error| failed(option, error)),
        };
        if self.no_delay {
            named("nodelay", sockopt::set_tcp_nodelay(socket, true))?;
        }
        if let Some(KeepAlive { idle, interval, count }) = self.keep_alive {
            named("keep-alive-idle", sockopt::set_tcp_keepidle(socket, idle))?;
            named("keep-alive-interval", sockopt::set_tcp_keepintvl(socket, interval))?;
            named("keep-alive-count", sockopt::set_tcp_keepcnt(socket, count))?;
            named("keep-alive", sockopt::set_socket_keepalive(socket, true))?;
        }
        if let Some(milliseconds) = self.user_timeout_ms {
            named("user-timeout", sockopt::set_tcp_user_timeout(socket, milliseconds))?;
        }
        Ok(())
    }
}

/// What TCP_USER_TIMEOUT can be set to; 0 would be the kernel's default, not a time.
fn milliseconds(time: Duration) -> Option<u32> {
    let whole = time.subsec_nanos().is_multiple_of(1_000_000);
    let milliseconds = i32::try_from(time.as_millis()).ok()?;
    u32::try_from(milliseconds).ok().filter(|&milliseconds| whole && milliseconds > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_times_that_the_help_tells_are_those_that_are_set() {
        let [.., idle, interval, count, _] = TUNING_OPTIONS else { panic!() };
        let told = Address::tcp("h", 1);
        let told = [idle, interval, count].into_iter().fold(told, |address, option| {
            address.with_option(option.name, option.default.unwrap()).unwrap()
        });
        assert_eq!(Tuning::of(&told).keep_alive, Some(KeepAlive::default()));
        assert_eq!(Tuning::of(&Address::tcp("h", 1)).keep_alive, Some(KeepAlive::default()));
    }

    #[test]
    fn what_a_socket_lacks_is_an_error_unless_it_is_a_default_of_multipath_tcp() {
        // It has no option of TCP.
        let (socket, _peer) = UnixStream::pair().unwrap();
        let result = |options: &[(&str, &str)]| {
            let mut address = Address::tcp("h", 1);
            for (key, value) in options {
                address = address.with_option(key, value).unwrap();
            }
            Tuning::of(&address).apply(&socket).map_err(|error| error.to_string())
        };
        let lacking = |option: &str| Err(format!("option {option:?}: operation not supported"));
        assert_eq!(result(&[]), lacking("nodelay"));
        assert_eq!(result(&[("mptcp", "on")]), Ok(()));
        assert_eq!(result(&[("mptcp", "on"), ("nodelay", "on")]), lacking("nodelay"));
        let idle = ("keep-alive-idle", "9s");
        assert_eq!(result(&[("mptcp", "on"), idle]), lacking("keep-alive-idle"));
        assert_eq!(result(&[("mptcp", "on"), ("user-timeout", "1s")]), lacking("user-timeout"));
    }
}
