//! The channel: one object for everything that bytes go through.

mod base;
mod check;
mod corked;
mod credentials;
mod ext;
mod fd_sink;
mod features;
mod forward;
mod io;
mod message;
mod op;
mod owned;
mod peek;
mod transfer;
mod wait;
mod watch;

use std::any::Any;
use std::fmt;
use std::io::{Result, SeekFrom};
use std::net::Shutdown;
use std::time::Instant;

use bytes::Bytes;

pub use base::{Base, Mode};
pub use corked::Corked;
pub use credentials::PeerCredentials;
pub use ext::ChannelExt;
pub use fd_sink::{FdSink, MAX_FDS_PER_MESSAGE};
pub use features::Features;
pub use io::Io;
pub use message::MessageError;
pub use op::{ReadFlags, ReadOp, WriteFlags, WriteOp};
pub use owned::Confirmed;
pub(crate) use owned::copy as copy_owned;
pub use watch::Watch;

use crate::interest::{Direction, Interest, Readiness};
use crate::watch::{LOOK_AGAIN, PollSet, SharedFd};

/// A duplex byte object: a socket, a file, a pipe pair, a child process, a protocol layer.
///
/// This trait is what the author of a channel writes: single attempts, and what to wait for.
/// Users call the methods of [`ChannelExt`], which check features, wait, and repeat.
///
/// # Contract
///
/// - **One attempt.** `try_read`, `try_write`, `finish`, `flush` and `drive` make one attempt and
///   return [`WouldBlock`](std::io::ErrorKind::WouldBlock) when they would have to wait. (On a
///   socket in blocking mode the attempt itself blocks, in one system call that `close` and
///   `shutdown` wake.) `EINTR` is repeated inside.
/// - **Results.** `Ok(0)` from a read is the end of the stream and nothing else, and it is sticky:
///   every later read returns it again. (Files and memory buffers end where their position says.)
///   Never more bytes are reported than were asked for. Partial progress is normal.
/// - **Messages.** With [`Features::MESSAGES`] one call is one message, whole or not at all; what
///   that means for each call is told there.
/// - **Waiting is data.** [`watch`](Channel::watch) says what to poll. No channel stores a
///   callback, a waker or an event loop, and none has a thread of its own.
/// - **Threads.** One reader, one writer, and any number of callers of the other methods may use a
///   channel at the same time. No lock is held over a system call that can block.
/// - **Cancellation.** Bytes that were taken from below live in the channel, never in a call: a
///   call that is given up loses nothing.
///
/// # Writing a layer
///
/// A layer is a channel over another one. This one turns letters by 13 places on their way through,
/// in either direction:
///
/// ```
/// use std::io::{IoSlice, Result};
/// use qio::channel::Base;
/// use qio::watch::PollSet;
/// use qio::{Channel, ChannelExt, Features, Interest, ReadOp, Readiness, WriteOp};
///
/// fn rot13(byte: u8) -> u8 {
///     match byte {
///         b'a'..=b'm' | b'A'..=b'M' => byte + 13,
///         b'n'..=b'z' | b'N'..=b'Z' => byte - 13,
///         _ => byte,
///     }
/// }
///
/// #[derive(Debug)]
/// struct Rot13<C> {
///     base: Base,
///     below: C,
/// }
///
/// impl<C: Channel> Rot13<C> {
///     fn new(below: C) -> Self {
///         // Of what the channel below can do, a layer announces what also holds through it.
///         let kept = Features::DUPLEX | Features::FD_PASS | Features::PEEK | Features::STORAGE;
///         let base = Base::new("rot13", below.features() & kept);
///         base.set_name(format!("rot13 over {}", below.name()));
///         Self { base, below }
///     }
/// }
///
/// impl<C: Channel> Channel for Rot13<C> {
///     fn base(&self) -> &Base {
///         &self.base
///     }
///
///     fn inner(&self) -> Option<&dyn Channel> {
///         Some(&self.below)
///     }
///
///     fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize> {
///         let count = self.below.try_read(op)?;
///         let bytes = op.bufs().iter_mut().flat_map(|buf| buf.iter_mut());
///         bytes.take(count).for_each(|byte| *byte = rot13(*byte));
///         Ok(count)
///     }
///
///     fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize> {
///         // A part is a write, too, and what the channel below does not take is turned again.
///         let bytes = op.bufs().iter().flat_map(|buf| buf.iter());
///         let turned: Vec<u8> = bytes.take(4096).map(|byte| rot13(*byte)).collect();
///         self.below.try_write(&mut op.forward(&[IoSlice::new(&turned)]))
///     }
///
///     fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness {
///         // Nothing is buffered here: this layer is ready when the channel below is.
///         self.below.watch(interest, set)
///     }
///
///     fn close(&self) -> Result<()> {
///         self.below.close()
///     }
///
///     fn finish(&self) -> Result<()> {
///         self.below.finish()
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let (left, right) = qio::transport::Duplex::pair();
/// let left = Rot13::new(left);
/// left.write_all(b"Hello")?;
/// let mut text = [0; 5];
/// right.read_exact(&mut text)?;
/// assert_eq!(&text, b"Uryyb");
///
/// right.write_all(&text)?;
/// left.read_exact(&mut text)?;
/// assert_eq!(&text, b"Hello");
///
/// left.finish_all(None)?;
/// assert_eq!(right.read(&mut text)?, 0);
/// # Ok(())
/// # }
/// ```
///
/// Everything that waits works through it, with and without an event loop. A layer with a buffer
/// has more to say in [`watch`](Channel::watch), and flushes it in [`drive`](Channel::drive).
///
/// QEMU's `QIOChannelClass`.
#[doc(alias = "QIOChannel")]
pub trait Channel: AsChannel + Any + fmt::Debug + Send + Sync {
    /// The state that every channel has: name, features, mode, who waits.
    fn base(&self) -> &Base;

    /// Reads once: fills each buffer before the next.
    ///
    /// The operation has room for at least one byte, and its flags, offset and descriptor sink
    /// were checked against [`Base::features`]: what the channel does not announce does not
    /// arrive here.
    ///
    /// A channel with [`Features::MESSAGES`] asks [`ReadOp::require_whole`] first, and gives
    /// [`MessageError::Empty`] for an empty message.
    #[doc(alias = "qio_channel_readv_full")]
    fn try_read(&self, op: &mut ReadOp<'_, '_>) -> Result<usize>;

    /// Writes once: sends each buffer before the next, descriptors with the first byte.
    ///
    /// The operation has at least one byte, and was checked like that of a read. Only to a channel
    /// with [`Features::MESSAGES`] comes one without: an empty message. Such a channel asks
    /// [`WriteOp::require_whole`] first.
    #[doc(alias = "qio_channel_writev_full")]
    fn try_write(&self, op: &mut WriteOp<'_, '_>) -> Result<usize>;

    /// Writes once from buffers that the channel may keep, without a copy where it can.
    ///
    /// The channel holds its own shares of the buffers until nothing reads them any more, and says
    /// with [`confirm`](Channel::confirm) when that is. By default the bytes are copied: that is
    /// right for every layer that has to see them.
    ///
    /// There is at least one byte, in the first buffer.
    fn try_write_owned(&self, bufs: &[Bytes], flags: WriteFlags) -> Result<usize> {
        owned::copy(self.as_channel(), bufs, flags)
    }

    /// Says which of the wanted conditions hold now without asking the kernel (buffered data, an
    /// end that was seen, a closed channel), and otherwise adds to `set` what to poll.
    ///
    /// When nothing of `interest` holds now, `set` must get at least one leg or a deadline. When a
    /// leg fires that grants nothing, or the deadline passes, the waiter calls
    /// [`drive`](Channel::drive) and asks again.
    ///
    /// An empty interest asks for hang-up alone: whoever has nothing to write wants to know all
    /// the same that nobody would read it. The answer is [`Readiness::HANGUP`] when that is known,
    /// else a leg that grants nothing and fires when the peer reads no more. A peer that only ended
    /// its own side (TCP's FIN) is not gone. A channel that has no peer, or whose peer is
    /// missed by the next read, adds nothing.
    ///
    /// After an attempt that would have blocked, a loop may wait for the next edge of the legs: the
    /// descriptors were tried, and the kernel had nothing. A channel that refused for a reason of
    /// its own says here that the condition holds.
    #[doc(alias = "qio_channel_create_watch")]
    fn watch(&self, interest: Interest, set: &mut PollSet) -> Readiness;

    /// Whether [`watch`](Channel::watch) for `interest`, asked now, would say that nothing holds, and
    /// add one leg and nothing else: `fd`, polled for `interest`, which is not empty, and granting it.
    ///
    /// Spares an event loop that has this leg already the question after each event. By default no,
    /// which is always right.
    #[inline]
    fn watch_stands(&self, interest: Interest, fd: &SharedFd) -> bool {
        let _ = (interest, fd);
        false
    }

    /// Adds what fires when more arrives than there is now, for somebody whose peek has shown
    /// `seen` bytes, too few. What is there does not count.
    ///
    /// [`Readiness::READ`] says that there is more to read than `seen`; [`Readiness::HANGUP`] that
    /// no more will come. When neither is known, `set` gets at least one leg or a deadline, and the
    /// caller looks once more before it waits.
    ///
    /// By default what the channel [below](Channel::inner) says, which is right where bytes come
    /// through one for one. A channel that has [`Features::PEEK`] and nothing below answers for
    /// itself; else it would be looked at 100 times a second, and never known to have ended.
    fn watch_more(&self, seen: usize, set: &mut PollSet) -> Readiness {
        if let Some(inner) = self.inner() {
            return inner.watch_more(seen, set);
        }
        set.wake_at(Instant::now() + LOOK_AGAIN);
        Readiness::empty()
    }

    /// Closes the channel, from any thread, also while calls are in flight.
    ///
    /// The peer sees the end now, and every parked or blocked call of this channel wakes and fails
    /// with `NotConnected`. Makes one attempt to get rid of pending output. Idempotent: the first
    /// call gets the result, later ones `Ok`.
    #[doc(alias = "qio_channel_close")]
    fn close(&self) -> Result<()>;

    /// Chooses whether reads and writes wait ([`Mode::Blocking`], the start) or would-block.
    ///
    /// By default the channel [below](Channel::inner), if there is one, gets the same mode.
    #[doc(alias = "qio_channel_set_blocking")]
    fn set_mode(&self, mode: Mode) -> Result<()> {
        if let Some(inner) = self.inner() {
            inner.set_mode(mode)?;
        }
        self.base().set_mode(mode);
        Ok(())
    }

    /// Moves internal bytes and timers along, without blocking. By default those of the channel
    /// [below](Channel::inner).
    ///
    /// # Errors
    ///
    /// Not for what a later read or write will report; only for what makes waiting pointless.
    fn drive(&self, now: Instant) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.drive(now))
    }

    /// Ends one or both directions at once, abortively; blocked calls of any thread wake up. By
    /// default those of the channel [below](Channel::inner).
    ///
    /// # Errors
    ///
    /// `Unsupported` without [`Features::SHUTDOWN`].
    #[doc(alias = "qio_channel_shutdown")]
    fn shutdown(&self, how: Shutdown) -> Result<()> {
        match self.inner() {
            Some(inner) => inner.shutdown(how),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ends our side politely, so that the peer reads an end of stream after the last byte, and
    /// leaves reading open. Idempotent.
    ///
    /// One attempt: `WouldBlock` means that the farewell is not out yet; wait for
    /// [`Interest::WRITE`] and call again.
    #[doc(alias = "qio_channel_tls_bye")]
    fn finish(&self) -> Result<()>;

    /// Makes sure that what was accepted is out of this process, as far as the channel buffers.
    ///
    /// One attempt, like [`finish`](Channel::finish). By default what the channel
    /// [below](Channel::inner) buffers.
    #[doc(alias = "qio_channel_flush")]
    fn flush(&self) -> Result<()> {
        self.inner().map_or(Ok(()), |inner| inner.flush())
    }

    /// Makes sure that no [owned](Channel::try_write_owned) buffer that was written is in use any
    /// more, and says whether any was copied since the last call.
    ///
    /// One attempt, like [`flush`](Channel::flush), which it includes. Covers every write that
    /// came back before.
    #[doc(alias = "qio_channel_flush")]
    fn confirm(&self) -> Result<Confirmed> {
        owned::confirm(self.as_channel())
    }

    /// Moves the position of a seekable channel and returns the new one, from the start.
    ///
    /// # Errors
    ///
    /// `Unsupported` without [`Features::SEEK`]; `InvalidInput` for a position before the start.
    #[doc(alias = "qio_channel_io_seek")]
    fn seek(&self, to: SeekFrom) -> Result<u64> {
        let _ = to;
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// A hint: whether small writes may be held back to be sent together (Nagle's algorithm).
    #[doc(alias = "qio_channel_set_delay")]
    fn set_delay(&self, delay: bool) {
        if let Some(inner) = self.inner() {
            inner.set_delay(delay);
        }
    }

    /// A hint: while corked, partial packets are held back until uncorked.
    /// [`ChannelExt::corked`] does not forget the second half.
    #[doc(alias = "qio_channel_set_cork")]
    fn set_cork(&self, cork: bool) {
        if let Some(inner) = self.inner() {
            inner.set_cork(cork);
        }
    }

    /// The descriptor whose bytes are, for `direction`, exactly the bytes of this channel; `None`
    /// when something is buffered, must see the bytes, or the descriptor may block.
    ///
    /// For moving pages with splice(2): the caller may read from it (or write to it) without
    /// blocking, and the channel will neither miss the bytes nor see them.
    fn splice_fd(&self, direction: Direction) -> Option<SharedFd> {
        let _ = direction;
        None
    }

    /// The channel below, for layers and forwarders.
    fn inner(&self) -> Option<&dyn Channel> {
        None
    }
}

/// Gives any channel as a trait object. Implemented for every [`Channel`]; nothing to write.
pub trait AsChannel {
    /// This channel as a trait object.
    fn as_channel(&self) -> &dyn Channel;
}

impl<C: Channel> AsChannel for C {
    #[inline]
    fn as_channel(&self) -> &dyn Channel {
        self
    }
}
