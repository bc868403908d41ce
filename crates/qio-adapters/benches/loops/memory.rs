//! What an idle connection holds in memory, in a process of its own for each kind.

use std::process::Command;
use std::sync::Arc;

use calloop::{EventLoop, PostAction};
use qio::transport::Socket;
use qio::{Channel as _, ChannelExt, Interest, Mode};
use qio_adapters::coroutine::Coroutine;
use qio_adapters::tokio::{AsyncChannel, run};
use qio_testkit::resident_bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, yield_now};

const KINDS: [&str; 5] = ["tokio UnixStream", "qio in tokio", "calloop", "coroutine", "none"];

/// Prints a row for each kind: a task, source or coroutine that waits for one byte. Unix sockets,
/// whose memory is the kernel's, and not counted.
pub(crate) fn table(count: usize) {
    println!("\n| {count} idle connections | resident bytes for each |");
    println!("|---|---:|");
    for kind in KINDS {
        let program = std::env::current_exe().expect("this program");
        let output = Command::new(program).args(["--idle", kind, &count.to_string()]).output();
        let text = String::from_utf8(output.expect("a child").stdout).expect("a number");
        println!("| {kind} | {} |", text.trim());
    }
}

/// Prints the bytes for each of `count` connections of a kind.
pub(crate) fn measure(kind: &str, count: usize) {
    let wanted = 2 * count as u64 + 100;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = Rlimit { current: Some(current), ..limit };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum");
    // Where it is lower, some less.
    let count = count.min(usize::try_from(current - 100).expect("a number") / 2);
    let pairs = (0..count).map(|_| std::os::unix::net::UnixStream::pair().expect("a pair"));
    let pairs: Vec<_> = pairs.collect();
    let before = resident_bytes();
    let (_left, right): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let sockets = right.into_iter().map(|stream| {
        let socket = Socket::from_fd(stream.into()).map_err(|(error, _)| error).expect("a socket");
        socket.set_mode(Mode::NonBlocking).expect("a mode");
        socket
    });
    let after = match kind {
        "calloop" => {
            let mut turns = EventLoop::<()>::try_new().expect("a loop");
            for socket in sockets {
                let source = qio_adapters::calloop::watch(Arc::new(socket), Interest::READ);
                let called = |_, _: &mut _, (): &mut ()| PostAction::Continue;
                turns.handle().insert_source(source, called).expect("a source");
            }
            turns.dispatch(Some(std::time::Duration::ZERO), &mut ()).expect("dispatch");
            resident_bytes()
        }
        _ => {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                for socket in sockets {
                    begin(kind, socket);
                }
                for _ in 0..10 {
                    yield_now().await;
                }
                resident_bytes()
            })
        }
    };
    println!("{}", after.saturating_sub(before) / count as u64);
}

fn begin(kind: &str, socket: Socket) {
    match kind {
        "tokio UnixStream" => {
            let fd = socket.descriptor().expect("a socket").try_clone().expect("dup");
            let stream = UnixStream::from_std(fd.into()).expect("a stream");
            drop(socket);
            tokio::task::spawn_local(async move {
                let mut stream = stream;
                let _ = stream.read(&mut [0]).await;
            });
        }
        "qio in tokio" => {
            let mut channel = AsyncChannel::new(socket).expect("a channel");
            tokio::task::spawn_local(async move {
                let _ = channel.read(&mut [0]).await;
            });
        }
        "coroutine" => {
            let waits = Coroutine::new(move || socket.read_exact(&mut [0]));
            tokio::task::spawn_local(run(waits.expect("a stack")));
        }
        _ => drop(socket),
    }
}
