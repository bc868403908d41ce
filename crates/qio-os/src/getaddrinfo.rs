//! From names to addresses, as the system is configured to do it.

use std::error::Error as StdError;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

/// What to look up, besides the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupHints {
    /// Only IPv4 (`Some(true)`) or only IPv6 (`Some(false)`) addresses.
    pub v4: Option<bool>,
    /// For a datagram socket instead of a stream: service names differ.
    pub datagram: bool,
    /// Addresses to bind to: no host is the address of every interface, not loopback.
    pub passive: bool,
    /// No name is looked up anywhere: host and service are numbers.
    pub numeric: bool,
}

impl LookupHints {
    /// For a stream socket of any family, to connect.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Why getaddrinfo(3) had no answer.
#[derive(Debug)]
pub struct LookupError {
    code: i32,
    /// For `EAI_SYSTEM`.
    system: Option<io::Error>,
}

impl LookupError {
    /// The error of one of the `EAI_…` numbers.
    pub fn from_code(code: i32) -> Self {
        let system = (code == libc::EAI_SYSTEM).then(io::Error::last_os_error);
        Self { code, system }
    }

    /// One of the `EAI_…` numbers of getaddrinfo(3).
    pub fn code(&self) -> i32 {
        self.code
    }

    /// Whether the same question may get an answer later (`EAI_AGAIN`).
    pub fn may_pass(&self) -> bool {
        self.code == libc::EAI_AGAIN
    }

    /// Whether it is the service that is not known (`EAI_SERVICE`).
    pub fn is_service(&self) -> bool {
        self.code == libc::EAI_SERVICE
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.system {
            return error.fmt(out);
        }
        // SAFETY: the function takes any number.
        let text = unsafe { libc::gai_strerror(self.code) };
        // SAFETY: a NUL-terminated text that lives for ever (glibc and musl: constants, or
        // translations that are never unloaded).
        let text = unsafe { CStr::from_ptr(text) };
        out.write_str(&text.to_string_lossy())
    }
}

impl StdError for LookupError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.system.as_ref().and_then(StdError::source)
    }
}

/// All addresses of a host and a service, in the order in which to try them (RFC 6724).
///
/// Blocks for as long as name servers take. `service` is a name or a number; empty is port 0.
///
/// # Errors
///
/// [`LookupError`]; a name with a NUL byte in it is one that is not known.
pub fn lookup(
    host: &str,
    service: &str,
    hints: LookupHints,
) -> Result<Vec<SocketAddr>, LookupError> {
    let unknown = |_| LookupError::from_code(libc::EAI_NONAME);
    let host = CString::new(host).map_err(unknown)?;
    let service = CString::new(if service.is_empty() { "0" } else { service }).map_err(unknown)?;
    let mut flags = 0;
    if hints.passive {
        flags |= libc::AI_PASSIVE;
    }
    if hints.numeric {
        flags |= libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;
    }
    let asked = libc::addrinfo {
        ai_flags: flags,
        ai_family: match hints.v4 {
            None => libc::AF_UNSPEC,
            Some(true) => libc::AF_INET,
            Some(false) => libc::AF_INET6,
        },
        // Without a type, every address comes once for each that there is.
        ai_socktype: if hints.datagram { libc::SOCK_DGRAM } else { libc::SOCK_STREAM },
        ai_protocol: 0,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    };
    let host = if host.is_empty() { ptr::null() } else { host.as_ptr() };
    let mut found = ptr::null_mut();
    // SAFETY: the names are NUL-terminated (or null) and outlive the call, `asked` has only what
    // the manual asks of hints (the rest 0 or null), and `found` is valid for a pointer.
    let code =
        unsafe { libc::getaddrinfo(host, service.as_ptr(), &raw const asked, &raw mut found) };
    if code != 0 {
        return Err(LookupError::from_code(code));
    }
    let list = List(found);
    Ok(list.addresses())
}

/// What getaddrinfo(3) gave, until it is dropped.
struct List(*mut libc::addrinfo);

impl List {
    fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        let mut next = self.0;
        while !next.is_null() {
            // SAFETY: a node of the list that getaddrinfo made, which lives until `self` is dropped.
            let node = unsafe { &*next };
            addresses.extend(address(node));
            next = node.ai_next;
        }
        addresses
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the pointer came from getaddrinfo, was not changed, and is freed once, here.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

fn address(node: &libc::addrinfo) -> Option<SocketAddr> {
    let len = node.ai_addrlen as usize;
    if node.ai_addr.is_null() {
        return None;
    }
    match node.ai_family {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says what the address is, its length that it is whole, and it
            // lives as long as the node; unaligned reads have no demands.
            let v4 = unsafe { ptr::read_unaligned(node.ai_addr.cast::<libc::sockaddr_in>()) };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { ptr::read_unaligned(node.ai_addr.cast::<libc::sockaddr_in6>()) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let (flow, scope) = (u32::from_be(v6.sin6_flowinfo), v6.sin6_scope_id);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), flow, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(host: &str, service: &str, hints: LookupHints) -> Vec<String> {
        lookup(host, service, hints).unwrap().iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn numbers_of_both_families_come_out_as_they_went_in() {
        let numeric = LookupHints { numeric: true, ..LookupHints::new() };
        assert_eq!(texts("192.0.2.7", "80", numeric), ["192.0.2.7:80"]);
        assert_eq!(texts("2001:db8::7", "65535", numeric), ["[2001:db8::7]:65535"]);
        assert_eq!(texts("192.0.2.7", "", numeric), ["192.0.2.7:0"]);
    }

    #[test]
    fn hints_say_what_no_host_means() {
        let v4 = LookupHints { v4: Some(true), ..LookupHints::new() };
        assert_eq!(texts("", "1", v4), ["127.0.0.1:1"]);
        assert_eq!(texts("", "1", LookupHints { passive: true, ..v4 }), ["0.0.0.0:1"]);
        let v6 = LookupHints { v4: Some(false), passive: true, ..LookupHints::new() };
        assert_eq!(texts("", "1", v6), ["[::]:1"]);
    }

    #[test]
    fn what_has_no_answer_says_so() {
        let numeric = LookupHints { numeric: true, ..LookupHints::new() };
        let error = lookup("localhost", "1", numeric).unwrap_err();
        assert_eq!(error.code(), libc::EAI_NONAME);
        assert!(!error.may_pass() && !error.is_service());
        assert_eq!(lookup("a\0b", "1", numeric).unwrap_err().code(), libc::EAI_NONAME);
        let error = lookup("127.0.0.1", "no-such-service", LookupHints::new()).unwrap_err();
        assert!(error.is_service(), "{error}");
        assert!(!error.to_string().is_empty());
    }
}
