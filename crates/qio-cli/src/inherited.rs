//! The descriptors that the program was started with.

use std::collections::BTreeSet;
use std::env;

use qio::net::{ConnectOptions, Inherited};
use qio::{Address, InheritedFds};

use crate::exit::Failure;

/// Takes standard input and output, sockets of a service manager, and each `fd:N` of the command
/// line. Must run before any descriptor is opened and before any thread is started.
#[expect(unsafe_code, reason = "only the start of a program knows which descriptors it inherited")]
pub(crate) fn take() -> InheritedFds {
    let mut numbers = BTreeSet::from([0, 1]);
    numbers.extend(activated());
    numbers.extend(env::args_os().skip(1).flat_map(|arg| named_in(arg.as_encoded_bytes())));
    // SAFETY: `main` calls this first: no thread was started and nothing was opened, so what is
    // open was inherited and belongs to the program. Standard input and output are from here on
    // used through the table alone.
    unsafe { qio_os::take_inherited(numbers) }
}

/// The sockets that a service manager passes (sd_listen_fds(3)).
fn activated() -> std::ops::Range<i32> {
    const FIRST: i32 = 3;
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let for_us = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0).min(1024);
    FIRST..FIRST + count as i32
}

/// Finds out at the start what would fail for each client: that a descriptor is not there.
pub(crate) fn check(address: &Address, table: &Inherited) -> Result<(), Failure> {
    if address.scheme().name != "fd" || address.is_listening() {
        return Ok(());
    }
    let numbers = named_in(address.to_string().as_bytes());
    let there = numbers.iter().all(|number| table.lock().numbers().any(|there| there == *number));
    if there {
        return Ok(());
    }
    // The attempt says what there is instead.
    let options = ConnectOptions::new().inherited(table.clone());
    qio::net::connect(address, &options).map(drop).map_err(Failure::from)
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
    use super::named_in;

    #[test]
    fn every_descriptor_of_an_address_is_found() {
        assert_eq!(named_in(b"listen:fd:3?backlog=1"), [3]);
        assert_eq!(named_in(b"fd://12"), [12]);
        assert_eq!(named_in(b"fd:name"), [0; 0]);
        assert_eq!(named_in(b"fd:99999999999999"), [0; 0]);
        assert_eq!(named_in(b"tcp://localhost:80"), [0; 0]);
    }
}
