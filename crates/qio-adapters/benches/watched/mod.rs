//! A watch in each loop of levels, whose callback reads a byte, and the peer that writes it.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use calloop::{EventLoop, PostAction};
use glib::{Priority, Source};
use qio::channel::Watch;
use qio::transport::Socket;
use qio::{Channel, ChannelExt, Interest, Mode};

/// A Unix socket that has no mode of its own, and its peer.
pub(crate) fn unix() -> (UnixStream, UnixStream) {
    let (left, right) = UnixStream::pair().expect("a pair");
    right.set_nonblocking(true).expect("a mode");
    (left, right)
}

pub(crate) fn socket(stream: UnixStream) -> Arc<Socket> {
    let socket = Socket::from_fd(OwnedFd::from(stream)).map_err(|(error, _)| error);
    let socket = socket.expect("a socket");
    socket.set_mode(Mode::NonBlocking).expect("a mode");
    Arc::new(socket)
}

pub(crate) fn watch_in_calloop() -> (UnixStream, EventLoop<'static, ()>) {
    let (left, right) = unix();
    let turns = EventLoop::try_new().expect("a loop");
    let source = qio_adapters::calloop::watch(socket(right), Interest::READ);
    let called = |_, watch: &mut Watch<Arc<Socket>>, (): &mut ()| {
        watch.channel().read(&mut [0]).expect("read");
        PostAction::Continue
    };
    turns.handle().insert_source(source, called).expect("a source");
    (left, turns)
}

pub(crate) fn watch_in_glib() -> (UnixStream, Source) {
    let (left, right) = unix();
    let called = |_, watch: &mut Watch<Arc<Socket>>| {
        watch.channel().read(&mut [0]).expect("read");
        ControlFlow::Continue(())
    };
    let right = socket(right);
    let source = qio_adapters::glib::watch(right, Interest::READ, Priority::DEFAULT, called);
    source.attach(None);
    (left, source)
}
