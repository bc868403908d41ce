//! `vsock:cid:port`

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio_os::VsockAddr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::tcp::BACKLOG;
use super::{Example, OptionInfo, RETRY_OPTIONS, Scheme, count, join};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::net::address::{Address, Form, Refusal, Role, parse_count};
use crate::net::call::Call;
use crate::net::connect::{Opening, OpeningSteps, Request};
use crate::net::listener::Bound;
use crate::net::options::ListenOptions;
use crate::watch::{PollSet, SharedFd, Steps};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "vsock",
    syntax: "vsock:CID:PORT",
    summary: "a stream between a virtual machine and its host; CID is a number, host, local or any",
    examples: &[
        Example::new("vsock:host:1024", "connect from a virtual machine to its host"),
        Example::new("vsock:3:1024", "connect from a host to the machine with CID 3"),
        Example::new("listen:vsock:1024", "listen on whatever CID this machine has"),
    ],
    options: &join::<{ count(OPTIONS) }>(OPTIONS),
    form: Form::COLONS,
    check: |address| parse(address).map(drop),
    connect,
    listen: Some(listen),
};

const OPTIONS: &[&[OptionInfo]] = &[&[BACKLOG], RETRY_OPTIONS];

/// `VMADDR_CID_ANY` and `VMADDR_PORT_ANY` of vsock(7).
const ANY: u32 = u32::MAX;

/// The names of CIDs, for which vsock(7) has constants.
const NAMES: &[(&str, u32)] = &[("any", ANY), ("host", 2), ("local", 1)];

/// The words of an address.
pub(crate) fn words(address: VsockAddr) -> Vec<Vec<u8>> {
    let word = |number: u32| match number {
        ANY => b"any".to_vec(),
        number => number.to_string().into_bytes(),
    };
    vec![word(address.cid), word(address.port)]
}

fn parse(address: &Address) -> std::result::Result<VsockAddr, Refusal> {
    let listens = address.role() == Role::Listen;
    let (cid, port) = match address.target() {
        [port] if listens => (ANY, port),
        [cid, port] => (parse_cid(cid)?, port),
        _ => {
            let syntax = if listens { "listen:vsock:[CID:]PORT" } else { SCHEME.syntax };
            let text = "a vsock address is a CID and a port";
            return Err(Refusal::new(text).hint(syntax));
        }
    };
    let text = String::from_utf8_lossy(port);
    let port = match number(&text) {
        Some(port) => port,
        None if text == "any" => ANY,
        None => {
            let text = format!("port {text:?} is not a number from 0 to {}, nor any", u32::MAX);
            return Err(Refusal::new(text));
        }
    };
    if !listens && (cid == ANY || port == ANY) {
        let what = if cid == ANY { "CID" } else { "port" };
        return Err(Refusal::new(format!("there is no {what} to connect to")).hint(SCHEME.syntax));
    }
    Ok(VsockAddr { cid, port })
}

fn parse_cid(cid: &[u8]) -> std::result::Result<u32, Refusal> {
    let text = String::from_utf8_lossy(cid);
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|&(_, cid)| cid);
    number(&text).or(named).ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|&(name, _)| name).collect();
        Refusal::new(format!("CID {text:?} is not a number from 0 to {}", u32::MAX))
            .hint(format!("nor a name: {}", names.join(", ")))
    })
}

fn number(text: &str) -> Option<u32> {
    parse_count(text).and_then(|number| number.try_into().ok())
}

fn socket() -> rustix::io::Result<SharedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)
        .map(SharedFd::from)
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let text = request.address();
    let to = parse(address).map_err(|refusal| refusal.of("connect", text))?;
    let failed = |error: io::Error| explained("connect", text, error);
    let fd = socket().map_err(|error| failed(error.into()))?;
    // The deadline of the request comes first, with its own text.
    let limit = request.deadline().map_or(Duration::MAX, |deadline| {
        deadline.saturating_duration_since(Instant::now()).saturating_add(Duration::from_secs(1))
    });
    qio_os::set_vsock_connect_timeout(fd.as_fd(), limit).map_err(failed)?;
    let call = Call::start(fd, &to).map_err(|error| failed(error.into()))?;
    let address = text.to_owned();
    Ok(Opening::Steps(Box::new(Connecting { address, call })))
}

/// A machine that was called and has not answered yet.
struct Connecting {
    address: String,
    call: Call,
}

impl Steps for Connecting {
    type Output = Result<Arc<dyn Channel>>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        let Some(outcome) = self.call.outcome() else { return Poll::Pending };
        let channel = outcome.and_then(|()| self.call.connected(AddressFamily::VSOCK));
        Poll::Ready(channel.map_err(|error| explained("connect", &self.address, error)))
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.call.watch(set);
    }
}

impl OpeningSteps for Connecting {
    fn missing(&self) -> &'static str {
        "no answer"
    }
}

fn listen(address: &Address, _options: &ListenOptions) -> Result<Vec<Bound>> {
    let text = address.to_string();
    let at = parse(address).map_err(|refusal| refusal.of("listen", &text))?;
    let backlog = i32::try_from(address.count("backlog").unwrap_or(4096)).unwrap_or(i32::MAX);
    let listen = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&fd, &at)?;
        rustix::net::listen(&fd, backlog)?;
        let local = VsockAddr::of(&rustix::net::getsockname(&fd)?).unwrap_or(at);
        Ok((fd, local))
    };
    let (fd, local) = listen().map_err(|error: Errno| explained("listen", &text, error.into()))?;
    Ok(vec![Bound::own(fd, AddressFamily::VSOCK, Address::vsock(local.cid, local.port))])
}

/// The error, with what it means for this kind of socket.
fn explained(attempt: &'static str, text: &str, error: io::Error) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let hint = match errno {
        Some(Errno::AFNOSUPPORT) => "this kernel has no vsock, or its module is not loaded",
        Some(Errno::NODEV) => "this machine has no vsock device that leads there",
        Some(Errno::CONNRESET) => "nothing listens there, or there is no machine with that CID",
        Some(Errno::TIMEDOUT) => "the machine with that CID does not answer",
        Some(Errno::ADDRNOTAVAIL) => "that is not the CID of this machine",
        Some(Errno::ACCESS) => "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
        _ => return Error::os(attempt, text, error),
    };
    Error::os(attempt, text, error).hint(hint)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::ops::ControlFlow;

    use super::*;
    use crate::channel::ChannelExt;
    use crate::error::Class;
    use crate::transport::Socket;

    /// A call of a TCP port: machines that answer by vsock are rare, and the steps see no
    /// difference.
    fn call(peer: SocketAddr) -> Connecting {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let call = Call::start(fd.into(), &peer).unwrap();
        Connecting { address: "vsock:3:1".to_owned(), call }
    }

    fn run(call: Connecting) -> Result<Arc<dyn Channel>> {
        let until = Instant::now() + Duration::from_secs(15);
        match crate::watch::run(call, Some(until)).unwrap() {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(_) => panic!("no answer"),
        }
    }

    #[test]
    fn a_call_that_is_answered_is_a_channel_in_blocking_mode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let channel = run(call(listener.local_addr().unwrap())).unwrap();
        let (server, _) = listener.accept().unwrap();
        let fd = channel.find::<Socket>().unwrap().descriptor().unwrap();
        let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
        io::Write::write_all(&mut &server, b"x").unwrap();
        channel.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_call_that_is_refused_is_an_error_that_says_so() {
        let fd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        let error = run(call(rustix::net::getsockname(&fd).unwrap().try_into().unwrap()));
        let error = error.unwrap_err();
        assert_eq!(error.class(), Class::Open);
        let report = "connect vsock:3:1: connection refused (nothing listens there)";
        assert_eq!(error.report().to_string(), report);
    }

    #[test]
    fn a_call_that_is_given_up_is_ended_although_a_wait_still_owns_its_descriptor() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut call = call(listener.local_addr().unwrap());
        let mut forgotten = PollSet::new();
        call.watch(&mut forgotten);
        drop(call);
        let (server, _) = listener.accept().unwrap();
        assert_eq!(io::Read::read(&mut &server, &mut [0]).unwrap(), 0);
        drop(forgotten);
    }

    #[test]
    fn what_the_kernel_says_of_machines_is_explained() {
        for (errno, class, report) in [
            (Errno::NODEV, Class::Open, "no such device (this machine has no vsock device"),
            (Errno::CONNRESET, Class::Open, "connection reset by peer (nothing listens there, or"),
            (Errno::TIMEDOUT, Class::Timeout, "connection timed out (the machine with that CID"),
            (Errno::AFNOSUPPORT, Class::Open, "address family not supported by protocol (this k"),
            (Errno::ADDRNOTAVAIL, Class::Open, "cannot assign requested address (that is not the"),
            (Errno::NOMEM, Class::Open, "cannot allocate memory"),
        ] {
            let error = explained("connect", "vsock:3:1", errno.into());
            assert_eq!(error.class(), class);
            let start = format!("connect vsock:3:1: {report}");
            assert!(error.report().to_string().starts_with(&start), "{error:?}");
        }
    }
}
