//! The same session, ended everywhere.
//!
//! A connection can be cut at any byte. Whatever the moment, every call must end with the end of
//! the stream or an error that says so, after a bounded number of waits, and leave nothing open.

use std::io::{ErrorKind, IoSlice, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qio::channel::Base;
use qio::watch::PollSet;
use qio::{Channel, ChannelExt, Interest, Mode, ReadOp, Readiness, WriteOp};

use crate::pairs::Sides;
use crate::{Job, Pair, count_waits, soon};

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

/// Makes the handshakes of a stack and plays the session over it, once for every `step`-th byte that
/// each side sends: the connection below is gone after it.
///
/// # Panics
///
/// When a call of either side ends otherwise than by an error of a lost connection, when a cut looks
/// like the end of the stream, and when a side waits more often than there are bytes.
pub fn after_bytes_of_the_wire(
    sides: Sides,
    below: &dyn Fn() -> Pair,
    script: &Script,
    step: usize,
) {
    for cut_side in [Side::Left, Side::Right] {
        let (_, [left, right]) = wired(sides, below(), script, cut_side, usize::MAX, Way::Drop);
        let other = if cut_side == Side::Left { right.0 } else { left.0 };
        let Err(error) = other else { panic!("{cut_side:?} left without a word: that is no end") };
        check_end(Err(error), "without a farewell");
        let (needed, results) = wired(sides, below(), script, cut_side, usize::MAX, Way::Close);
        for (result, _) in results {
            result.unwrap();
        }
        // Signatures differ in their lengths, and when the outermost farewell is out, those of
        // the layers below it may be missing.
        let some_less = needed.saturating_sub(SLACK);
        for cut in
            (0..some_less).step_by(step).chain((some_less..needed + SLACK).step_by(step.min(7)))
        {
            let context = format!("{cut_side:?} cut after {cut} of {needed} bytes");
            let (_, [left, right]) = wired(sides, below(), script, cut_side, cut, Way::Close);
            let other = if cut_side == Side::Left { &right } else { &left };
            assert!(other.0.is_err() || cut >= some_less, "{context}: it looks like an end");
            for (result, waits) in [left, right] {
                check_end(result, &context);
                assert!(waits <= 2 * needed as u64 + 64, "{context}: {waits} waits");
            }
        }
    }
}

/// More than the farewells of three layers, and what signatures differ in.
const SLACK: usize = 100;

/// How a side came out, and how often it had to wait.
type Outcome = (Result<()>, u64);

/// One session with a cut, or one that ends by dropping the channel there: how many bytes the side with the cut has
/// sent, and what came of it.
fn wired(
    sides: Sides,
    below: Pair,
    script: &Script,
    cut_side: Side,
    cut: usize,
    way: Way,
) -> (usize, [Outcome; 2]) {
    let Pair { left, right } = below.in_mode(Mode::NonBlocking);
    let rest = Arc::new(AtomicUsize::new(cut));
    let cutting =
        |inner| -> Arc<dyn Channel> { Arc::new(Cutting { inner, rest: Arc::clone(&rest) }) };
    let (left, right) = match cut_side {
        Side::Left => (cutting(left), right),
        Side::Right => (left, cutting(right)),
    };
    let play = move |side: Side, below: Arc<dyn Channel>, script: Script| {
        count_waits(|| {
            let wrap = if side == Side::Left { sides.client } else { sides.server };
            let channel = wrap(below)?;
            channel.set_mode(Mode::NonBlocking)?;
            script.play(side, &*channel, script.bytes())?;
            if side == cut_side && matches!(way, Way::Drop) {
                return channel.flush_all(soon());
            }
            channel.finish_all(soon())?;
            match channel.read_exact_or_eof(&mut [0])? {
                false => Ok(()),
                true => panic!("{side:?} reads more than was sent"),
            }
        })
    };
    let its_script = script.clone();
    let server = Job::start(move || play(Side::Right, right, its_script));
    let left = play(Side::Left, left, script.clone());
    let right = server.finish();
    (cut - rest.load(Ordering::Relaxed), [left, right])
}

/// A channel whose connection is cut when so many bytes have been written to it.
#[derive(Debug)]
struct Cutting {
    inner: Arc<dyn Channel>,
    rest: Arc<AtomicUsize>,
}

impl Channel for Cutting {
    fn base(&self) -> &Base {
        self.inner.base()
    }

    fn inner(&self) -> Option<&dyn Channel> {
        Some(&self.inner)
    }

    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
        self.inner.try_read(op)
    }

    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
        // One writer at a time.
        let mut room = self.rest.load(Ordering::Relaxed);
        if room == 0 {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut bufs = Vec::new();
        for buf in op.bufs() {
            let part = &buf[..buf.len().min(room)];
            room -= part.len();
            bufs.push(IoSlice::new(part));
        }
        let count = self.inner.try_write(&mut op.forward(&bufs))?;
        if self.rest.fetch_sub(count, Ordering::Relaxed) == count {
            self.inner.close()?;
        }
        Ok(count)
    }

    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
        // A write says what has happened. A read may have to wait all the same.
        match self.rest.load(Ordering::Relaxed) {
            0 if interest.contains(Interest::WRITE) => Readiness::WRITE,
            _ => self.inner.watch(interest, set),
        }
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
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
