//! What a channel can do beyond reading and writing.

use bitflags::bitflags;

bitflags! {
    /// What a channel can do beyond plain reads and writes. Fixed when the channel is made.
    #[doc(alias = "QIOChannelFeature")]
    #[doc(alias = "qio_channel_has_feature")]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u16 {
        /// There is something to read: the channel was not opened for writing only.
        const READ = 1 << 0;
        /// There is somewhere to write: the channel was not opened for reading only.
        const WRITE = 1 << 1;
        /// Descriptors travel with the data (Unix sockets).
        const FD_PASS = 1 << 2;
        /// One direction can be shut down by itself.
        const SHUTDOWN = 1 << 3;
        /// There is a position: seek, and reads and writes at an offset.
        const SEEK = 1 << 4;
        /// Data can be looked at without taking it; a look shows all there is room for.
        const PEEK = 1 << 5;
        /// Operations may wait for a disk: they never would-block, and an event loop runs them in
        /// another thread.
        const STORAGE = 1 << 6;
        /// A read that filled less than it had room for, and brought no descriptors, has taken all
        /// there was: an edge-triggered loop may wait for the next edge without another attempt.
        const DRAINS = 1 << 7;
        /// One call is one message (UDP, Unix datagrams, `SOCK_SEQPACKET`).
        ///
        /// - **A write** sends all of its buffers as one message, or fails: never a part. What is
        ///   too long for the socket is `InvalidInput`
        ///   ([`MessageError::TooLong`](super::MessageError::TooLong)).
        /// - **A read** gives one message. One that is longer than the buffers is `InvalidData`
        ///   ([`MessageError::Truncated`](super::MessageError::Truncated), with its length) and
        ///   gone; a peek gives its start.
        /// - **An empty message** is not the end:
        ///   [`receive`](super::ChannelExt::receive) tells them apart, `read` skips it. Only
        ///   [`send`](super::ChannelExt::send) sends one; an empty `write` does nothing, as ever.
        /// - **The end**: of a `SOCK_SEQPACKET` connection, and of what was shut down here. A
        ///   datagram socket has no other.
        /// - `read_exact…`, `peek_at_least` and `write_all…`, which would put messages together or
        ///   take them apart, are `Unsupported`.
        const MESSAGES = 1 << 8;
        /// Owned buffers are sent without a copy where the kernel can. Without it they are copied.
        #[doc(alias = "QIO_CHANNEL_FEATURE_WRITE_ZERO_COPY")]
        const ZERO_COPY = 1 << 9;
    }
}

impl Features {
    /// Both directions.
    pub const DUPLEX: Self = Self::READ.union(Self::WRITE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Base;

    /// The two directions apart, of which a channel without either has both.
    #[test]
    fn a_feature_that_is_set_alone_is_the_only_one() {
        for (name, feature) in Features::all().iter_names() {
            let base = Base::new("test", feature);
            for (other, flag) in (Features::all() - Features::DUPLEX).iter_names() {
                assert_eq!(base.features().contains(flag), name == other, "{name}, {other}");
            }
        }
    }
}
