//! What is measured, each beside its control. Ping-pongs and events count one byte as one.

use std::future::Future;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use calloop::generic::Generic;
use calloop::{EventLoop, PostAction};
use glib::{IOCondition, MainContext};
use qio::layer::tls::{self, ClientSettings, SelfSigned, ServerSettings};
use qio::transport::Socket;
use qio::{Channel, ChannelExt, Interest};
use qio_adapters::coroutine::{Coroutine, yield_now};
use qio_adapters::tokio::{AsyncChannel, run};
use qio_testkit::finished;
use qio_testkit::pairs::tcp_sockets;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local, yield_now as yield_task};

use crate::transfer::Cost;
use crate::watched::{socket, unix, watch_in_calloop, watch_in_glib};

/// What a run of `work` on a runtime costs, without making what it works with.
pub(crate) fn timed<T, F: Future<Output = ()>>(
    make: impl FnOnce() -> T,
    work: impl FnOnce(T) -> F,
) -> Cost {
    let runtime = runtime();
    let entered = runtime.enter();
    let with = make();
    drop(entered);
    let tasks = LocalSet::new();
    Cost::of(|| tasks.block_on(&runtime, work(with)))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Two ends of a connection, as every row and its control get them: what is small is sent at once.
/// With Nagle's algorithm on one side only, who sends small messages would be compared with who
/// waits for the peer to acknowledge them.
pub(crate) fn sockets() -> (Socket, Socket) {
    let (left, right) = tcp_sockets();
    left.set_delay(false);
    right.set_delay(false);
    (left, right)
}

pub(crate) fn channels() -> [AsyncChannel<Socket>; 2] {
    let (left, right) = sockets();
    [left, right].map(|socket| AsyncChannel::new(socket).expect("a channel"))
}

pub(crate) fn streams() -> [TcpStream; 2] {
    let (left, right) = sockets();
    [left, right].map(|socket| {
        let fd = socket.descriptor().expect("a socket").try_clone().expect("dup");
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true).expect("a mode");
        TcpStream::from_std(stream).expect("a stream")
    })
}

pub(crate) fn ping(bytes: usize) -> Cost {
    timed(channels, |ends| ping_pong(ends, bytes))
}

pub(crate) fn tokio_ping(bytes: usize) -> Cost {
    timed(streams, |ends| ping_pong(ends, bytes))
}

pub(crate) fn bulk(bytes: usize) -> Cost {
    timed(channels, |ends| send_all(ends, bytes, 64 << 10))
}

pub(crate) fn tokio_bulk(bytes: usize) -> Cost {
    timed(streams, |ends| send_all(ends, bytes, 64 << 10))
}

async fn ping_pong<S>([mut left, mut right]: [S; 2], bytes: usize)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let rounds = bytes / 64;
    let answers = spawn_local(async move {
        let mut buf = [0; 64];
        for _ in 0..rounds {
            right.read_exact(&mut buf).await.expect("read");
            right.write_all(&buf).await.expect("write");
        }
    });
    let mut buf = [7; 64];
    for _ in 0..rounds {
        left.write_all(&buf).await.expect("write");
        left.read_exact(&mut buf).await.expect("read");
    }
    answers.await.expect("the other end");
}

async fn send_all<S>(ends: [S; 2], bytes: usize, size: usize)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let [left, right] = ends;
    move_all(left, right, bytes, size).await;
}

pub(crate) async fn move_all<W, R>(mut left: W, mut right: R, bytes: usize, size: usize)
where
    W: AsyncWrite + Unpin + 'static,
    R: AsyncRead + Unpin,
{
    let sends = spawn_local(async move {
        let block = vec![7; size];
        for _ in 0..bytes / size {
            left.write_all(&block).await.expect("write");
        }
        left.flush().await.expect("flush");
        left
    });
    let mut block = vec![0; 64 << 10];
    let mut left = bytes / size * size;
    while left > 0 {
        let count = right.read(&mut block).await.expect("read");
        assert_ne!(count, 0, "the stream ended early");
        left -= count;
    }
    drop(sends.await.expect("the sender"));
}

/// What both sides of TLS need.
pub(crate) struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let identity = SelfSigned::generate(["localhost"]).expect("a key");
        let server = ServerSettings::new().identity(identity.identity()).build();
        let client = ClientSettings::new().pin(identity.fingerprint()).build();
        Self { client: client.expect("settings"), server: server.expect("settings") }
    }
}

pub(crate) fn tls(keys: &Keys, bytes: usize) -> Cost {
    let make = || {
        let (left, right) = sockets();
        let server = tls::server(right, Arc::clone(&keys.server), None).expect("a server");
        let server = thread::spawn(move || finished(server).into_layer(tls::NAME));
        let name = "localhost".try_into().expect("a name");
        let client = tls::client(left, Arc::clone(&keys.client), name, None).expect("a client");
        let client = finished(client).into_layer(tls::NAME);
        let server = server.join().expect("the server");
        (AsyncChannel::new(client).expect("a channel"), AsyncChannel::new(server).expect("one"))
    };
    timed(make, |(left, right)| move_all(left, right, bytes, 16 << 10))
}

pub(crate) fn tokio_rustls(keys: &Keys, bytes: usize) -> Cost {
    let runtime = runtime();
    let (client, server) = runtime.block_on(async {
        let [left, right] = streams();
        let name = "localhost".try_into().expect("a name");
        let client = tokio_rustls::TlsConnector::from(Arc::clone(&keys.client));
        let server = tokio_rustls::TlsAcceptor::from(Arc::clone(&keys.server));
        tokio::try_join!(client.connect(name, left), server.accept(right)).expect("a handshake")
    });
    let tasks = LocalSet::new();
    Cost::of(|| tasks.block_on(&runtime, move_all(client, server, bytes, 16 << 10)))
}

pub(crate) fn calloop(events: usize) -> Cost {
    let (left, turns) = watch_in_calloop();
    dispatch(left, turns, events)
}

pub(crate) fn bare_calloop(events: usize) -> Cost {
    let (left, right) = unix();
    let turns = EventLoop::try_new().expect("a loop");
    let source = Generic::new(right, calloop::Interest::READ, calloop::Mode::Level);
    let called = |_, right: &mut calloop::generic::NoIoDrop<UnixStream>, (): &mut ()| {
        (&**right).read_exact(&mut [0])?;
        Ok(PostAction::Continue)
    };
    turns.handle().insert_source(source, called).expect("a source");
    dispatch(left, turns, events)
}

fn dispatch(mut left: UnixStream, mut turns: EventLoop<'_, ()>, events: usize) -> Cost {
    Cost::of(|| {
        for _ in 0..events {
            left.write_all(b"x").expect("write");
            turns.dispatch(None, &mut ()).expect("dispatch");
        }
    })
}

/// Two coroutines that wait for each other.
pub(crate) fn switch(bytes: usize) -> Cost {
    let (left, right) = unix();
    let (left, right) = (socket(left), socket(right));
    timed(
        || (),
        |()| async move {
            let answers = Coroutine::new(move || {
                for _ in 0..bytes {
                    right.read_exact(&mut [0]).expect("read");
                    right.write_all(b"x").expect("write");
                }
            });
            let asks = Coroutine::new(move || {
                for _ in 0..bytes {
                    left.write_all(b"x").expect("write");
                    left.read_exact(&mut [0]).expect("read");
                }
            });
            let answers = spawn_local(run(answers.expect("a stack")));
            let _ = run(asks.expect("a stack")).await.expect("a run");
            let _ = answers.await.expect("a task").expect("a run");
        },
    )
}

/// Two tasks that do.
pub(crate) fn tasks(bytes: usize) -> Cost {
    let make = || {
        let (left, right) = unix();
        left.set_nonblocking(true).expect("a mode");
        [left, right].map(|end| tokio::net::UnixStream::from_std(end).expect("a stream"))
    };
    timed(make, |[mut left, mut right]| async move {
        let answers = spawn_local(async move {
            for _ in 0..bytes {
                right.read_exact(&mut [0]).await.expect("read");
                right.write_all(b"x").await.expect("write");
            }
        });
        for _ in 0..bytes {
            left.write_all(b"x").await.expect("write");
            left.read_exact(&mut [0]).await.expect("read");
        }
        answers.await.expect("a task");
    })
}

/// Two coroutines that let each other run.
pub(crate) fn bare_switch(rounds: usize) -> Cost {
    let body = move || {
        for _ in 0..rounds / 2 {
            yield_now().expect("a coroutine");
        }
    };
    timed(
        || (),
        |()| async move {
            let other = spawn_local(run(Coroutine::new(body).expect("a stack")));
            let _ = run(Coroutine::new(body).expect("a stack")).await.expect("a run");
            let _ = other.await.expect("a task").expect("a run");
        },
    )
}

pub(crate) fn bare_tasks(rounds: usize) -> Cost {
    let body = move || async move {
        for _ in 0..rounds / 2 {
            yield_task().await;
        }
    };
    timed(
        || (),
        |()| async move {
            let other = spawn_local(body());
            body().await;
            other.await.expect("a task");
        },
    )
}

/// A watch whose peer writes when the watch waits.
pub(crate) fn watch(events: usize) -> Cost {
    let (left, right) = unix();
    let right = socket(right);
    timed(
        || (),
        |()| async move {
            let taken = Rc::new(Notify::new());
            let writes = spawn_local(write_each(left, events, Rc::clone(&taken)));
            let mut done = 0;
            let called = |_, watch: &mut qio::channel::Watch<Arc<Socket>>| {
                watch.channel().read(&mut [0]).expect("read");
                done += 1;
                taken.notify_one();
                if done == events { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            qio_adapters::tokio::watch(right, Interest::READ, called).await.expect("a watch");
            writes.await.expect("the writer");
        },
    )
}

/// A stream that is waited for, and read until it has no more.
pub(crate) fn stream(events: usize) -> Cost {
    let make = || {
        let (left, right) = unix();
        (left, tokio::net::UnixStream::from_std(right).expect("a stream"))
    };
    timed(make, |(left, right)| async move {
        let taken = Rc::new(Notify::new());
        let writes = spawn_local(write_each(left, events, Rc::clone(&taken)));
        for _ in 0..events {
            while right.try_read(&mut [0]).is_err() {
                right.readable().await.expect("a wait");
            }
            taken.notify_one();
        }
        writes.await.expect("the writer");
    })
}

/// Writes a byte whenever the last one was taken, and the reader has had its turn.
async fn write_each(mut left: UnixStream, events: usize, taken: Rc<Notify>) {
    for _ in 0..events {
        yield_task().await;
        left.write_all(b"x").expect("write");
        taken.notified().await;
    }
}

pub(crate) fn glib(events: usize) -> Cost {
    let (left, source) = watch_in_glib();
    let cost = iterate(left, events);
    source.destroy();
    cost
}

pub(crate) fn bare_glib(events: usize) -> Cost {
    let (left, right) = unix();
    let fd = right.as_raw_fd();
    let source = glib_unix::unix_fd_add_local(fd, IOCondition::IN, move |_, _| {
        (&right).read_exact(&mut [0]).expect("read");
        glib::ControlFlow::Continue
    });
    let cost = iterate(left, events);
    source.remove();
    cost
}

fn iterate(mut left: UnixStream, events: usize) -> Cost {
    let context = MainContext::default();
    Cost::of(|| {
        for _ in 0..events {
            left.write_all(b"x").expect("write");
            context.iteration(true);
        }
    })
}
