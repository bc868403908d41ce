//! Who listens where we wanted to.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process, as far as `/proc` shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    name: String,
    pid: u32,
}

/// The process that listens on the port. Sees processes of the same user only, unless privileged.
pub(crate) fn of_tcp(address: SocketAddr) -> Option<Owner> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| inode(line, address.port(), "0A"))
    })?;
    of_inode(&inode)
}

/// The process that has the UDP port, which may be a client.
pub(crate) fn of_udp(address: SocketAddr) -> Option<Owner> {
    let inode = ["/proc/net/udp", "/proc/net/udp6"].into_iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| inode(line, address.port(), "07"))
    })?;
    of_inode(&inode)
}

/// The process that listens on the Unix socket.
pub(crate) fn of_unix(path: &Path) -> Option<Owner> {
    let table = fs::read("/proc/net/unix").ok()?;
    let path = path.as_os_str().as_bytes();
    let inode = table.split(|&byte| byte == b'\n').find_map(|line| unix_inode(line, path))?;
    of_inode(&inode)
}

/// `sl local_address rem_address st … inode …`; the state 0A listens, 07 is that of a UDP socket
/// without a peer.
fn inode(line: &str, port: u16, state: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let here = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == state;
    here.then(|| fields.get(9).map(|&inode| inode.to_owned())).flatten()
}

/// `Num RefCount Protocol Flags Type St Inode Path`; the flag 00010000 listens.
fn unix_inode(line: &[u8], path: &[u8]) -> Option<String> {
    let rest = line.strip_suffix(path)?.strip_suffix(b" ")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    match fields.as_slice() {
        [_, _, _, "00010000", _, _, inode] => Some((*inode).to_owned()),
        _ => None,
    }
}

fn of_inode(inode: &str) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        if targets.any(|target| target.as_os_str() == wanted.as_str()) {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            // A process can call itself anything, also what moves the cursor.
            let name = String::from_utf8_lossy(&name).trim_end().escape_debug().to_string();
            return Some(Owner { name, pid });
        }
    }
    None
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, process {},", self.name, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    1000        0 4242 1 0000000000000000 100 0 0 10 0";
        assert_eq!(inode(line, 8080, "0A").as_deref(), Some("4242"));
        assert_eq!(inode(line, 8081, "0A"), None);
        assert_eq!(inode(&line.replace(" 0A ", " 01 "), 8080, "0A"), None);
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 77 /run/a b.sock";
        assert_eq!(unix_inode(line, b"/run/a b.sock").as_deref(), Some("77"));
        assert_eq!(unix_inode(line, b"b.sock"), None);
    }

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = of_tcp(listener.local_addr().unwrap()).unwrap();
        assert_eq!(owner.pid, std::process::id());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let owner = of_udp(socket.local_addr().unwrap()).unwrap();
        assert_eq!(owner.pid, std::process::id());
    }
}
