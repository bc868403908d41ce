//! What is told to `tracing`.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::fmt::{self, Write as _};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use qio::relay::{Relay, RelayOptions};
use qio::transport::{Duplex, MessageKind, Messages, Socket};
use qio::{Channel, ChannelExt, WriteFlags, watch};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps each event as one line: level, then fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "qio"
    }

    fn event(&self, event: &Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                write!(self.0, " {}={value:?}", field.name()).unwrap();
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The lines that `body` causes on this thread.
fn lines(body: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), body);
    let lines = lines.0.lock().unwrap();
    lines.clone()
}

#[test]
fn descriptors_that_nobody_asked_for_are_told_with_the_name_of_the_channel() {
    let told = lines(|| {
        let (left, right) = Socket::pair().unwrap();
        right.set_name("vhost-user");
        let stdin = std::io::stdin();
        let fds = [stdin.as_fd()];
        left.write_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds).unwrap();
        assert_eq!(right.read(&mut [0]).unwrap(), 1);
        // Nothing is told of data alone.
        left.write(b"y").unwrap();
        assert_eq!(right.read(&mut [0]).unwrap(), 1);
    });
    let warnings: Vec<_> = told.iter().filter(|line| line.starts_with("WARN")).collect();
    let [warning] = warnings[..] else { panic!("{told:#?}") };
    assert!(warning.contains("channel=vhost-user") && warning.contains("descriptors"), "{warning}");
}

#[test]
fn descriptors_that_nobody_asked_for_are_told_of_messages_too() {
    let told = lines(|| {
        let (left, right) = Messages::pair(MessageKind::SeqPacket).unwrap();
        let stdin = std::io::stdin();
        left.send_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &[stdin.as_fd()]).unwrap();
        assert_eq!(right.peek(&mut [0]).unwrap(), 1);
        assert_eq!(right.receive(&mut [0]).unwrap(), Some(1));
        left.send(b"y").unwrap();
        assert_eq!(right.receive(&mut [0]).unwrap(), Some(1));
    });
    let warnings: Vec<_> = told.iter().filter(|line| line.starts_with("WARN")).collect();
    let [warning] = warnings[..] else { panic!("{told:#?}") };
    assert!(warning.contains("channel=unix seqpacket socket"), "{warning}");
}

#[test]
fn a_close_is_told_once() {
    let told = lines(|| {
        let (left, _right) = Socket::pair().unwrap();
        left.set_name("mine");
        left.close().unwrap();
        left.close().unwrap();
    });
    let [closed] = &told[..] else { panic!("{told:#?}") };
    assert!(closed.contains("channel=mine") && closed.contains("message=closed"), "{closed}");
}

#[test]
fn the_end_of_a_relay_is_told_with_what_moved() {
    let told = lines(|| {
        let (client, left) = Duplex::pair();
        let (right, server) = Duplex::pair();
        client.write_all(b"question").unwrap();
        client.finish().unwrap();
        server.finish().unwrap();
        let relay = Relay::new(Arc::new(left), Arc::new(right), RelayOptions::default());
        assert!(watch::run(relay, None).unwrap().is_break());
    });
    let ended = told.iter().find(|line| line.contains("relay ended")).unwrap();
    assert!(ended.contains("left_to_right=8") && ended.contains("end=Finished"), "{ended}");
}
