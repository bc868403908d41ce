//! Who may come in.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use qio::Address;
use qio::error::plain;
use qio::net::{Admit, Inherited, ListenEvent, ListenOptions, Listener, Network, Verdict};

use crate::args::{AdmissionArgs, HandshakeArgs};
use crate::exit::Failure;
use crate::report::{Report, counted};

/// What a listener knows about its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    /// The IP address.
    Network,
    /// The user and the groups.
    User,
    /// Neither.
    Nothing,
    /// Nobody knows before it is open.
    Later,
}

/// Makes sure that what is said about clients fits the addresses that are listened on: nobody may
/// believe a side to be restricted that is open to everybody.
pub(crate) fn check(args: &AdmissionArgs, addresses: &[&Address]) -> Result<(), Failure> {
    let Some(given) = args.given() else { return Ok(()) };
    let listening = addresses.iter().filter(|address| address.is_listening());
    let sides: Vec<_> = listening.map(|&address| (address, of_scheme(address))).collect();
    if sides.is_empty() {
        return Err(Failure::usage(format!("{given}: nothing is listened on (try listen:)")));
    }
    sides.iter().try_for_each(|&(address, knows)| fits(args, address, knows))?;
    let nobody = |knows| sides.iter().all(|&(_, other)| other != knows && other != Knows::Later);
    let unfit = match (args.of_users(), args.of_networks()) {
        (Some(flag), _) if nobody(Knows::User) => Some((flag, "a Unix socket")),
        (_, Some(flag)) if nobody(Knows::Network) => Some((flag, "an IP socket")),
        _ => None,
    };
    match (unfit, sides.first()) {
        (Some((flag, kind)), Some((address, _))) => Err(is_not(flag, address, kind)),
        _ => Ok(()),
    }
}

/// The options of a listener that lets in only who may come, and reports the others.
pub(crate) fn options(
    args: &AdmissionArgs,
    handshakes: HandshakeArgs,
    inherited: &Inherited,
    report: &Arc<Report>,
) -> ListenOptions {
    let told = Arc::clone(report);
    let options = ListenOptions::new()
        .handshake_timeout(handshakes.handshake_timeout)
        .inherited(inherited.clone())
        .observe(move |event| match event {
            ListenEvent::HandshakeFailed { peer, error } => told.handshake_failed(peer, error),
            ListenEvent::Answered { peer, visit } => told.answered(peer, visit),
            ListenEvent::Refused { peer, reason } => told.refused(&peer.to_string(), reason),
            ListenEvent::Starved { error } => {
                let live = counted(told.live_count() as u64, "live connection");
                told.at_limit(format_args!("accept: {} ({live})", plain(*error)));
            }
            _ => {}
        });
    if args.given().is_none() {
        return options;
    }
    let networks = Admit::networks(args.allow_cidr.clone());
    let users = match (&*args.allow_uid, &*args.allow_gid) {
        (uids, []) => Admit::users(uids.to_vec()),
        ([], gids) => Admit::groups(gids.to_vec()),
        (uids, gids) => Admit::users(uids.to_vec()).or(Admit::groups(gids.to_vec())),
    };
    options.admit(Admit::by(move |peer| -> Verdict {
        if peer.remote().is_some() { networks.check(peer) } else { users.check(peer) }
    }))
}

/// The same as [`check`], for a listener of which more is known now.
pub(crate) fn check_open(
    args: &AdmissionArgs,
    address: &Address,
    listener: &Listener,
) -> Result<(), Failure> {
    let knows = match (listener.is_ip(), listener.is_unix()) {
        (true, _) => Knows::Network,
        (_, true) => Knows::User,
        _ => Knows::Nothing,
    };
    if args.given().is_some() { fits(args, address, knows) } else { Ok(()) }
}

fn of_scheme(address: &Address) -> Knows {
    match address.scheme().name {
        "tcp" | "udp" => Knows::Network,
        "unix" | "unix-seqpacket" => Knows::User,
        "fd" => Knows::Later,
        _ => Knows::Nothing,
    }
}

/// Whether something is said about the clients of this side.
fn fits(args: &AdmissionArgs, address: &Address, knows: Knows) -> Result<(), Failure> {
    match (knows, args.of_users(), args.of_networks()) {
        (Knows::Later, ..) | (Knows::User, Some(_), _) | (Knows::Network, _, Some(_)) => Ok(()),
        (_, Some(flag), _) => Err(is_not(flag, address, "a Unix socket")),
        (_, None, Some(flag)) => Err(is_not(flag, address, "an IP socket")),
        (_, None, None) => Ok(()),
    }
}

fn is_not(flag: &str, address: &Address, kind: &str) -> Failure {
    let address = address.to_string();
    let address = address.trim_start_matches("listen:");
    let other = match kind {
        "a Unix socket" => "--allow-cidr is for IP sockets",
        _ => "--allow-uid and --allow-gid are for Unix sockets",
    };
    Failure::usage(format!("{flag}: {address} is not {kind} ({other})"))
}

/// The number of a user, by number or name.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    id(text, "user", qio_os::user_id)
}

/// The number of a group, by number or name.
pub(crate) fn group(text: &str) -> Result<u32, String> {
    id(text, "group", qio_os::group_id)
}

/// (uid_t) -1 is nobody's: system calls take it for "no change".
fn id(text: &str, what: &str, find: fn(&OsStr) -> io::Result<Option<u32>>) -> Result<u32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = match is_number {
        true => text.parse().ok(),
        false => find(OsStr::new(text)).map_err(|error| plain(&error))?,
    };
    id.filter(|&id| id != u32::MAX).ok_or_else(|| match is_number {
        true => format!("no {what} has this number"),
        false => format!("there is no {what} of this name"),
    })
}

/// A network of IP addresses.
pub(crate) fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|error: qio::Error| {
        let report = error.report().to_string();
        report.strip_prefix(&format!("parse {text}: ")).unwrap_or(&report).to_owned()
    })
}
