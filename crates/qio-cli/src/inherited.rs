//! What the program was started with: descriptors, and what a service manager says about them.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;

use qio::InheritedFds;

use crate::service::Variables;

/// What the program was started with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) fds: InheritedFds,
    pub(crate) service: Variables,
}

/// Takes standard input and output, sockets of a service manager, and each `fd:N` of the command
/// line. Must run before any descriptor is opened and before any thread is started.
#[expect(unsafe_code, reason = "only the start of a program knows what it inherited")]
pub(crate) fn take() -> Start {
    let names = [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];
    // SAFETY: `main` calls this first: no thread was started.
    let [pid, count, names, _, notify, watchdog, watchdog_pid] =
        unsafe { qio_os::take_variables(names) };
    let activation = Activation::read([pid, count, names], std::process::id());
    let mut numbers = BTreeSet::from([0, 1]);
    numbers.extend(activation.numbers());
    numbers.extend(env::args_os().skip(1).flat_map(|arg| named_in(arg.as_encoded_bytes())));
    // SAFETY: `main` calls this first: no thread was started and nothing was opened, so what is
    // open was inherited and belongs to the program. Standard input and output are from here on
    // used through the table alone.
    let mut fds = unsafe { qio_os::take_inherited(numbers) };
    for (number, name) in activation.numbers().zip(activation.names) {
        fds.set_name(number, name);
    }
    if let Some(remark) = activation.remark {
        fds.set_remark(remark);
    }
    Start { fds, service: Variables { notify, watchdog, watchdog_pid } }
}

/// The sockets that a service manager passes (sd_listen_fds_with_names(3)).
#[derive(Debug, Default)]
struct Activation {
    count: u32,
    /// As many as there are sockets, or none.
    names: Vec<String>,
    remark: Option<String>,
}

/// The first of them.
const FIRST: i32 = 3;

/// More than any unit has; a bound for what somebody may have put into the environment.
const MOST: u32 = 1024;

impl Activation {
    /// Reads LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES.
    fn read([pid, count, names]: [Option<OsString>; 3], own: u32) -> Self {
        let text = |value: OsString| value.to_string_lossy().into_owned();
        let (Some(pid), Some(count)) = (pid.map(text), count.map(text)) else {
            return Self::default();
        };
        let remark = |remark: String| Self { remark: Some(remark), ..Self::default() };
        if pid.parse() != Ok(own) {
            return remark(format!(
                "LISTEN_PID is {pid}, and this is process {own}: the sockets are another's"
            ));
        }
        let Some(count) = count.parse().ok().filter(|&count| count <= MOST) else {
            return remark(format!("LISTEN_FDS is {count:?}, which is no number up to {MOST}"));
        };
        let names = match names.map(text) {
            Some(names) => names.split(':').map(str::to_owned).collect(),
            // As systemd's own function has it.
            None => vec!["unknown".to_owned(); count as usize],
        };
        if names.len() != count as usize {
            let remark =
                format!("LISTEN_FDNAMES has {} names, and there are {count} sockets", names.len());
            return Self { count, names: Vec::new(), remark: Some(remark) };
        }
        Self { count, names, remark: None }
    }

    fn numbers(&self) -> std::ops::Range<i32> {
        FIRST..FIRST + i32::try_from(self.count).unwrap_or(0)
    }
}

/// The numbers behind each "fd:" in an argument.
fn named_in(arg: &[u8]) -> Vec<i32> {
    let mut numbers = Vec::new();
    let mut rest = arg;
    while let Some(at) = rest.windows(3).position(|part| part == b"fd:") {
        rest = &rest[at + 3..];
        rest = rest.strip_prefix(b"//").unwrap_or(rest);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = std::str::from_utf8(&rest[..digits]).unwrap_or_default();
        numbers.extend(digits.parse::<i32>());
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::{Activation, named_in};

    fn read(pid: &str, count: &str, names: Option<&str>) -> Activation {
        Activation::read([Some(pid.into()), Some(count.into()), names.map(Into::into)], 17)
    }

    #[test]
    fn sockets_of_a_service_manager_have_numbers_and_names() {
        let three = read("17", "3", Some("web:admin:web"));
        assert_eq!((three.numbers(), three.names.len(), three.remark), (3..6, 3, None));
        let unnamed = read("17", "2", None);
        assert_eq!(unnamed.names, ["unknown", "unknown"]);
        let nobody = Activation::read([None, Some("3".into()), None], 17);
        assert_eq!((nobody.numbers(), nobody.remark), (3..3, None));
    }

    #[test]
    fn what_is_wrong_with_them_is_remarked() {
        let others = read("18", "1", Some("web"));
        assert_eq!(others.numbers(), 3..3);
        let remark = "LISTEN_PID is 18, and this is process 17: the sockets are another's";
        assert_eq!(others.remark.unwrap(), remark);
        let few = read("17", "3", Some("web:admin"));
        assert_eq!((few.numbers(), few.names.len()), (3..6, 0), "by number they are there");
        assert!(few.remark.unwrap().contains("2 names, and there are 3 sockets"));
        for count in ["-1", "x", "99999999999", "2000"] {
            let bad = read("17", count, None);
            assert_eq!(bad.numbers(), 3..3, "{count}");
            assert!(bad.remark.unwrap().contains("LISTEN_FDS is "), "{count}");
        }
    }

    #[test]
    fn every_descriptor_of_an_address_is_found() {
        assert_eq!(named_in(b"listen:fd:3?backlog=1"), [3]);
        assert_eq!(named_in(b"fd://12"), [12]);
        assert_eq!(named_in(b"fd:name"), [0; 0]);
        assert_eq!(named_in(b"fd:99999999999999"), [0; 0]);
        assert_eq!(named_in(b"tcp://localhost:80"), [0; 0]);
    }
}
