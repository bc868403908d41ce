//! The direction between two channels that keep messages apart.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Flow, Held, Next};
use crate::channel::{Channel, ChannelExt, MessageError, ReadFlags, WriteFlags};
use crate::relay::pool::Buffer;

impl Flow {
    /// Moves one message, whole.
    pub(super) fn carry(&mut self, source: &dyn Channel, sink: &dyn Channel, now: Instant) -> Next {
        if self.flushing {
            return self.flush(sink);
        }
        if !matches!(self.held, Held::Nothing) {
            return self.deliver(sink);
        }
        let mut buffer = Buffer::take_for_message();
        let result = {
            let mut bufs = [IoSliceMut::new(&mut buffer)];
            source.receive_with(&mut bufs, ReadFlags::NONBLOCK, self.fds.as_mut())
        };
        match result {
            Ok(None) => self.source_ended(),
            Ok(Some(length)) => {
                self.note_first_byte(now);
                self.note_fds();
                self.held = Held::Message { buffer, length };
                self.deliver(sink)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_source(),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.record.refusals += 1;
                Next::GoOn
            }
            Err(error) => match MessageError::of(&error) {
                Some(&MessageError::Truncated { length_bytes, .. }) => {
                    self.lose(length_bytes, error)
                }
                _ => self.source_failed(error),
            },
        }
    }

    pub(super) fn deliver_message(&mut self, sink: &dyn Channel) -> Next {
        let Held::Message { buffer, length } = &self.held else { return Next::GoOn };
        let length = *length;
        let bufs = [IoSlice::new(&buffer[..length])];
        let fds = match &self.fds {
            Some(fds) if self.pass_fds => fds.fds().iter().map(OwnedFd::as_fd).collect(),
            _ => Vec::new(),
        };
        let result = sink.send_with(&bufs, WriteFlags::NONBLOCK, &fds);
        drop(fds);
        match result {
            Ok(()) => {
                self.record.bytes += length as u64;
                self.record.messages += 1;
                if self.pass_fds
                    && let Some(fds) = &mut self.fds
                {
                    self.record.fds_passed += fds.drain().count() as u64;
                }
                self.refused = false;
                self.release();
                self.flushing = true;
                self.flush(sink)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_sink(),
            // Of an earlier message (UDP), then this one was not sent; or of this one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.record.refusals += 1;
                if std::mem::replace(&mut self.refused, true) {
                    return self.lose(length, error);
                }
                Next::GoOn
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => self.lose(length, error),
            Err(error) => self.sink_failed(error),
        }
    }

    /// A message is lost, and the relay goes on with the next.
    fn lose(&mut self, length: usize, error: io::Error) -> Next {
        self.record.lost += length as u64;
        self.record.messages_lost += 1;
        self.record.loss.get_or_insert(error);
        if let Some(fds) = &mut self.fds {
            self.fds_lost += fds.drain().count() as u64;
        }
        self.refused = false;
        self.release();
        Next::GoOn
    }

    /// Waits until the sink has got a message out.
    fn flush(&mut self, sink: &dyn Channel) -> Next {
        match sink.flush() {
            Ok(()) => {
                self.flushing = false;
                Next::GoOn
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_sink(),
            Err(error) => self.sink_failed(error),
        }
    }
}
