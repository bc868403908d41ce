//! What a channel is and what it says about itself.

use std::io::{ErrorKind, Read as _, SeekFrom, Write as _};
use std::net::Shutdown;
use std::sync::Arc;

use qio::{Channel, ChannelExt, Features, Io, Mode};

use super::Subject;
use super::data::MODES;
use crate::soon;
use crate::{Chaos, Job, Plan};

/// What is announced works, what is not is refused with one kind; each feature by itself.
pub fn features_tell_what_works(subject: &Subject) {
    let pair = subject.make();
    let unsupported = |result: std::io::Result<u64>| {
        let kind = result.expect_err("works without being announced").kind();
        assert_eq!(kind, ErrorKind::Unsupported);
    };
    for channel in [&pair.left, &pair.right] {
        let before = channel.features();
        assert_eq!(before, channel.base().features());
        if before.contains(Features::SEEK) {
            channel.seek(SeekFrom::Start(0)).unwrap();
        } else {
            unsupported(channel.seek(SeekFrom::Start(0)));
            unsupported(channel.read_at(&mut [0], 0).map(|n| n as u64));
            unsupported(channel.write_at(&[0], 0).map(|n| n as u64));
            unsupported(channel.read_exact_at(&mut [0], 0).map(|()| 0));
            unsupported(channel.write_all_at(&[0], 0).map(|()| 0));
        }
        if !before.contains(Features::READ) {
            unsupported(channel.read(&mut [0]).map(|n| n as u64));
        }
        if !before.contains(Features::WRITE) {
            unsupported(channel.write(&[0]).map(|n| n as u64));
        }
        // Hints are never errors.
        channel.set_delay(false);
        channel.set_delay(true);
        channel.set_cork(true);
        channel.set_cork(false);
        if before.contains(Features::SHUTDOWN) {
            channel.shutdown(Shutdown::Both).unwrap();
        } else {
            unsupported(channel.shutdown(Shutdown::Both).map(|()| 0));
        }
        assert_eq!(channel.features(), before);
    }
}

/// Whichever way they were made, client and server can do the same.
pub fn both_sides_have_the_same_features(subject: &Subject) {
    if !subject.is_duplex() {
        return;
    }
    let pair = subject.make();
    assert_eq!(pair.left.features(), pair.right.features());
}

/// However often a channel is wrapped and shared, it is found.
pub fn find_sees_through_every_wrapper(subject: &Subject) {
    fn found<C: Channel>(subject: &Subject, channel: &C) {
        assert!(subject.is_found_in(channel), "{} is hidden", subject.name());
    }
    let shared = subject.make().left;
    assert!(subject.is_found_in(&*shared));
    found(subject, &shared);
    let twice = Arc::new(Arc::clone(&shared));
    found(subject, &twice);
    let chaos = Chaos::new(Arc::clone(&shared), Plan::new(0));
    found(subject, &chaos);
    let chaos: Arc<dyn Channel> = Arc::new(Chaos::new(Arc::new(chaos), Plan::new(0)));
    found(subject, &chaos);
    assert!(chaos.find::<Chaos<Arc<Chaos<Arc<dyn Channel>>>>>().is_some());
    assert!(chaos.find::<Chaos<Arc<dyn Channel>>>().is_some());
    assert!(chaos.find::<Arc<dyn Channel>>().is_some());
    assert!(chaos.find::<Chaos<Arc<Arc<dyn Channel>>>>().is_none());
}

/// Whatever takes `Read` and `Write` takes a channel.
pub fn a_channel_is_std_io(subject: &Subject) {
    let pair = subject.make();
    let text = "through std::io\n".repeat(20);
    if subject.is_stream() {
        let left = Arc::clone(&pair.left);
        let sent = text.clone();
        let writer = Job::start(move || {
            let mut left_io = Io(&*left);
            writeln!(left_io, "first").unwrap();
            left_io.write_all(sent.as_bytes()).unwrap();
            left_io.flush().unwrap();
            left.finish_all(soon()).unwrap();
        });
        let mut got = String::new();
        Io(Arc::clone(&pair.right)).read_to_string(&mut got).unwrap();
        assert_eq!(got, format!("first\n{text}"));
        writer.finish();
    } else {
        Io(&*pair.left).write_all(text.as_bytes()).unwrap();
        Io(&*pair.left).flush().unwrap();
    }
}

/// A name belongs to the channel, not to the handle, and an error that needs it tells it.
pub fn a_name_is_shared_and_told(subject: &Subject) {
    let pair = subject.make();
    assert!(!pair.left.name().is_empty());
    let other_handle = Chaos::new(Arc::clone(&pair.left), Plan::new(0));
    pair.left.set_name("the database");
    assert_eq!(other_handle.name(), "the database");
    assert_eq!(pair.left.base().name(), "the database");
    if !pair.left.features().contains(Features::SEEK) {
        let error = pair.left.read_at(&mut [0], 0).unwrap_err();
        assert!(error.to_string().starts_with("the database: "), "{error}");
    }
}

/// The mode is what was set last, for reads, writes and the forms that wait in either.
pub fn the_mode_can_be_changed_at_any_time(subject: &Subject) {
    let pair = subject.make();
    assert_eq!(pair.left.base().mode(), Mode::Blocking);
    for _ in 0..2 {
        for mode in MODES {
            pair.left.set_mode(mode).unwrap();
            pair.right.set_mode(mode).unwrap();
            assert_eq!((pair.left.base().mode(), pair.right.base().mode()), (mode, mode));
            if !subject.is_stream() {
                pair.left.write_all(b"x").unwrap();
                continue;
            }
            if mode == Mode::NonBlocking {
                let error = pair.right.read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
            let right = Arc::clone(&pair.right);
            let reader = Job::start(move || right.read_exact(&mut [0; 2]));
            reader.wait_until_asleep();
            pair.left.write_all(b"xy").unwrap();
            reader.finish().unwrap();
        }
    }
}
