//! The same session, ended everywhere.
//!
//! A connection can be cut at any byte. Whatever the moment, every call must end with the end of
//! the stream or an error that says so, after a bounded number of waits, and leave nothing open.

use std::io::{ErrorKind, Result};
use std::sync::Arc;

use qio::{Channel, ChannelExt, Mode};

use crate::{Job, Pair, count_waits};

/// One of the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a session has two sides")]
pub enum Side {
    /// The left channel of a [`Pair`].
    Left,
    /// The right one.
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    fn of(self, pair: &Pair) -> Arc<dyn Channel> {
        match self {
            Self::Left => Arc::clone(&pair.left),
            Self::Right => Arc::clone(&pair.right),
        }
    }
}

/// A recorded session: who sends what, in turn.
#[derive(Clone, Debug, Default)]
pub struct Script {
    turns: Vec<(Side, Vec<u8>)>,
}

impl Script {
    /// A session without a byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what `side` sends next, and the other side waits for.
    #[must_use]
    pub fn turn(mut self, side: Side, bytes: &[u8]) -> Self {
        self.turns.push((side, bytes.to_vec()));
        self
    }

    fn bytes(&self) -> usize {
        self.turns.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Plays one side until the session or the connection ends.
    fn play(&self, side: Side, channel: &dyn Channel, until: usize) -> Result<()> {
        let mut moved = 0;
        for (from, bytes) in &self.turns {
            let part = &bytes[..bytes.len().min(until - moved)];
            moved += part.len();
            if *from == side {
                channel.write_all(part)?;
            } else {
                let mut got = vec![0; part.len()];
                channel.read_exact(&mut got)?;
                assert!(got == part, "{side:?} read other bytes than were sent");
            }
            if moved == until {
                break;
            }
        }
        Ok(())
    }
}

/// Plays the session once for each of its bytes and each side: the peer takes part in so many
/// bytes and is gone.
///
/// # Panics
///
/// When a call ends otherwise than by the end of the stream or an error of a lost connection, or
/// waits more often than there are bytes.
pub fn after_every_byte(make: &dyn Fn() -> Pair, script: &Script) {
    let total = script.bytes();
    for mode in [Mode::Blocking, Mode::NonBlocking] {
        for local in [Side::Left, Side::Right] {
            for cut in 0..=total {
                let pair = make().in_mode(mode);
                let (channel, peer) = (local.of(&pair), local.other().of(&pair));
                drop(pair);
                let its_script = script.clone();
                let peer = Job::start(move || {
                    let result = its_script.play(local.other(), &*peer, cut);
                    // By dropping and by closing, in turn.
                    if cut % 2 == 0 {
                        peer.close().unwrap();
                    }
                    result
                });
                let context = format!("{local:?} in {mode:?}, cut after {cut} of {total} bytes");
                let (result, waits) = count_waits(|| script.play(local, &*channel, total));
                check_end(result, &context);
                check_afterwards(&*channel, &context);
                peer.finish().unwrap_or_else(|error| panic!("{context}: the peer: {error}"));
                let budget = 3 * (total as u64 + 4);
                assert!(waits <= budget, "{context}: {waits} waits for {total} bytes");
            }
        }
    }
}

/// Plays the session once for each of its turns and each side: the local channel is closed, or
/// dropped, before the turn, and from another thread while it waits.
///
/// # Panics
///
/// As [`after_every_byte`].
pub fn at_every_step(make: &dyn Fn() -> Pair, script: &Script) {
    for local in [Side::Left, Side::Right] {
        for step in 0..=script.turns.len() {
            for way in [Way::Close, Way::Drop, Way::CloseFromOutside] {
                let pair = make().in_mode(Mode::NonBlocking);
                let (channel, peer) = (local.of(&pair), local.other().of(&pair));
                drop(pair);
                let context = format!("{local:?}, {way:?} at step {step}");
                let total = script.bytes();
                let its_script = script.clone();
                let peer = Job::start(move || {
                    let played = its_script.play(local.other(), &*peer, total);
                    (played, peer)
                });
                let until = script.turns[..step].iter().map(|(_, bytes)| bytes.len()).sum();
                if until > 0 {
                    script.play(local, &*channel, until).unwrap();
                }
                match way {
                    Way::Drop => drop(channel),
                    Way::Close => {
                        crate::conformance::close(&*channel);
                        refuses(&*channel, &context);
                    }
                    Way::CloseFromOutside => {
                        let inside = Arc::clone(&channel);
                        let caller = Job::start(move || inside.read_exact(&mut [0; 1 << 16]));
                        caller.wait_until_asleep();
                        crate::conformance::close(&*channel);
                        let error = caller.finish().unwrap_err();
                        check_end(Err(error), &context);
                        refuses(&*channel, &context);
                    }
                }
                let (played, peer) = peer.finish();
                check_end(played, &context);
                check_afterwards(&*peer, &context);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    Drop,
    CloseFromOutside,
}

fn check_end(result: Result<()>, context: &str) {
    let Err(error) = result else { return };
    use ErrorKind as Kind;
    let documented = matches!(
        error.kind(),
        Kind::UnexpectedEof
            | Kind::BrokenPipe
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            // A one-way channel that is used the other way.
            | Kind::Unsupported
    );
    assert!(documented, "{context}: {error:?}");
}

/// Once the connection is gone, reads soon give the end for ever, and no call hangs.
fn check_afterwards(channel: &dyn Channel, context: &str) {
    let mut buf = [0; 64];
    let ((), waits) = count_waits(|| {
        for _ in 0..3 {
            check_end(channel.read_exact_or_eof(&mut buf).map(drop), context);
        }
    });
    assert!(waits <= 64, "{context}: {waits} waits at the end");
    check_end(channel.finish_all(None), context);
    crate::conformance::close(channel);
    refuses(channel, context);
}

fn refuses(channel: &dyn Channel, context: &str) {
    let read = channel.read_exact(&mut [0]).unwrap_err().kind();
    let write = channel.write_all(&[0]).unwrap_err().kind();
    let refused = |kind| matches!(kind, ErrorKind::NotConnected | ErrorKind::Unsupported);
    assert!(refused(read) && refused(write), "{context}: {read}, {write}");
}
