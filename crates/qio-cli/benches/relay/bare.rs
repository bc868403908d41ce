//! The bare loops: what a relay cannot do without, and nothing else.
//!
//! One blocking thread per direction of a connection; started as processes of their own.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use rustix::pipe::{PipeFlags, SpliceFlags};

/// The first argument that makes this program a bare loop.
pub(crate) const SUBCOMMAND: &str = "bare-loop";

const CHUNK_BYTES: usize = 64 * 1024;

/// As much as the relay of qio takes, so that the loops differ in what is around them.
const PIPE_BYTES: usize = 512 * 1024;

pub(crate) fn run(args: &[String]) -> Result<()> {
    let usage = || Error::new(ErrorKind::InvalidInput, "bare-loop splice|copy|connect PORT TARGET");
    match args {
        [kind, port] if kind == "connect" => connect(port.parse().map_err(|_| usage())?),
        [kind, port, target] => {
            let carry = match &kind[..] {
                "splice" => splice,
                "copy" => copy,
                _ => return Err(usage()),
            };
            serve(port.parse().map_err(|_| usage())?, target, carry)
        }
        _ => Err(usage()),
    }
}

fn serve(port: u16, target: &str, carry: fn(&OwnedFd, &OwnedFd) -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    loop {
        let (left, _) = listener.accept()?;
        left.set_nodelay(true)?;
        let target = target.to_owned();
        thread::spawn(move || -> Result<()> {
            let right: OwnedFd = match target.strip_prefix("tcp:") {
                Some(port) => {
                    let port: u16 = port.parse().map_err(Error::other)?;
                    let stream = TcpStream::connect(("127.0.0.1", port))?;
                    stream.set_nodelay(true)?;
                    stream.into()
                }
                None => UnixStream::connect(target.trim_start_matches("unix:"))?.into(),
            };
            let (left, right) = (Arc::new(OwnedFd::from(left)), Arc::new(right));
            let (from, to) = (Arc::clone(&right), Arc::clone(&left));
            let back = thread::spawn(move || one_way(&from, &to, carry));
            one_way(&left, &right, carry);
            drop((left, right));
            let _ = back.join();
            Ok(())
        });
    }
}

fn one_way(from: &OwnedFd, to: &OwnedFd, carry: fn(&OwnedFd, &OwnedFd) -> Result<()>) {
    let _ = carry(from, to);
    let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
}

fn splice(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let (exit, entry) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // The limits on pipes may forbid it; then it is the usual 64 KiB.
    let _ = rustix::pipe::fcntl_setpipe_size(&entry, PIPE_BYTES);
    loop {
        let flags = SpliceFlags::MOVE;
        let mut left = rustix::pipe::splice(from, None, entry.as_fd(), None, PIPE_BYTES, flags)?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            left -= rustix::pipe::splice(exit.as_fd(), None, to, None, left, flags)?;
        }
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut buf = vec![0; CHUNK_BYTES];
    loop {
        let n = rustix::io::read(from, &mut buf[..])?;
        if n == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < n {
            done += rustix::io::write(to, &buf[done..n])?;
        }
    }
}

/// The least that a one-shot connect can do: send nothing, print what comes.
fn connect(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    std::io::stdout().write_all(&reply)
}
