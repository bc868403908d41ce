//! What a channel that wraps another gets for nothing.

use std::io::{ErrorKind, Result};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qio::channel::Base;
use qio::transport::Socket;
use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Features, Interest, Mode, ReadOp, Readiness, WriteOp};

/// The least that an author of a layer writes.
#[derive(Debug)]
struct Plain<C> {
    base: Base,
    inner: C,
}

impl<C: Channel> Plain<C> {
    fn new(inner: C) -> Self {
        Self { base: Base::new("plain", Features::empty()), inner }
    }
}

impl<C: Channel> Channel for Plain<C> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.inner)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.inner.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        self.inner.try_write(op)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        self.inner.watch(interest, set)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
    }
}

/// Notes that it was driven and flushed.
#[derive(Debug)]
struct Noting {
    base: Base,
    driven: AtomicBool,
    flushed: AtomicBool,
}

impl Channel for Noting {
    fn base(&self) -> &Base {
        &self.base
    }

    fn try_read(&self, _op: &mut ReadOp<'_, '_>) -> Result<usize> {
        Ok(0)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        Ok(op.bufs()[0].len())
    }

    fn watch(&self, interest: Interest, _set: &mut PollSet) -> Readiness {
        interest.into()
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn drive(&self, _now: Instant) -> Result<()> {
        self.driven.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.flushed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_mode_reaches_the_socket_below() {
    let (left, right) = Socket::pair().unwrap();
    let layer = Plain::new(Plain::new(left));
    layer.set_mode(Mode::NonBlocking).unwrap();
    assert_eq!(layer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    layer.set_mode(Mode::Blocking).unwrap();
    right.write_all(b"x").unwrap();
    assert_eq!(layer.read(&mut [0]).unwrap(), 1);
}

#[test]
fn a_shutdown_reaches_the_socket_below_and_is_refused_where_there_is_none() {
    let (left, right) = Socket::pair().unwrap();
    Plain::new(left).shutdown(Shutdown::Write).unwrap();
    assert_eq!(right.read(&mut [0]).unwrap(), 0);
    let alone = Noting {
        base: Base::new("noting", Features::empty()),
        driven: AtomicBool::new(false),
        flushed: AtomicBool::new(false),
    };
    assert_eq!(alone.shutdown(Shutdown::Both).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn driving_and_flushing_reach_the_channel_below() {
    let below = Arc::new(Noting {
        base: Base::new("noting", Features::empty()),
        driven: AtomicBool::new(false),
        flushed: AtomicBool::new(false),
    });
    let layer = Plain::new(Arc::clone(&below));
    layer.drive(Instant::now()).unwrap();
    layer.flush_all(None).unwrap();
    assert!(below.driven.load(Ordering::Relaxed) && below.flushed.load(Ordering::Relaxed));
}

#[test]
fn a_channel_goes_both_ways_unless_it_says_that_it_does_not() {
    let features = |features| Base::new("some", features).features() & Features::DUPLEX;
    assert_eq!(features(Features::SEEK), Features::DUPLEX);
    assert_eq!(features(Features::READ), Features::READ);
    assert_eq!(features(Features::WRITE | Features::SEEK), Features::WRITE);
}
