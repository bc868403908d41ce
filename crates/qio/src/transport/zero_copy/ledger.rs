//! Which sends the kernel has not confirmed yet.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};

use qio_os::Confirmation;

/// The account of one socket: what was sent without a copy, and what of it was confirmed.
///
/// The kernel numbers the successful sends modulo 2^32, and names closed ranges of numbers, in
/// most cases in order and several sends at once, but in any order after retransmissions.
#[derive(Debug)]
pub(super) struct Ledger<B> {
    /// The number of the first send in `sends`.
    first: u32,
    /// Confirmed ones leave a gap until all before them are confirmed too.
    sends: VecDeque<Option<Sent<B>>>,
    bytes: usize,
    unconfirmed: usize,
    confirmed: u64,
    copied: bool,
}

#[derive(Debug)]
struct Sent<B> {
    bufs: B,
    bytes: usize,
}

impl<B> Ledger<B> {
    pub(super) fn new() -> Self {
        Self::starting_at(0)
    }

    fn starting_at(first: u32) -> Self {
        let (bytes, unconfirmed, confirmed, copied) = (0, 0, 0, false);
        Self { first, sends: VecDeque::new(), bytes, unconfirmed, confirmed, copied }
    }

    /// Whether every send was confirmed.
    pub(super) fn is_settled(&self) -> bool {
        self.unconfirmed == 0
    }

    /// How many numbers are in use, those of gaps included.
    pub(super) fn sends(&self) -> usize {
        self.sends.len()
    }

    /// How many bytes were sent and not confirmed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many sends were confirmed since [`take`](Ledger::take).
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Records a successful send, which has taken the next number.
    pub(super) fn sent(&mut self, bufs: B, bytes: usize) {
        self.bytes += bytes;
        self.unconfirmed += 1;
        self.sends.push_back(Some(Sent { bufs, bytes }));
    }

    /// Records what the kernel has confirmed. The buffers come back to be dropped by the caller,
    /// because what their owners do then must not run under a lock.
    ///
    /// # Errors
    ///
    /// `InvalidData`, and nothing is changed, when the range has a send that was not made, or that
    /// was confirmed before.
    pub(super) fn confirm(&mut self, range: Confirmation, released: &mut Vec<B>) -> Result<()> {
        // What is before the first is far behind it.
        let from = range.first.wrapping_sub(self.first) as usize;
        let count = range.last.wrapping_sub(range.first) as usize + 1;
        let Some(sends) = self.sends.make_contiguous().get_mut(from..).and_then(|sends| {
            sends.get_mut(..count).filter(|sends| sends.iter().all(Option::is_some))
        }) else {
            return Err(unknown(range));
        };
        for send in sends.iter_mut().filter_map(Option::take) {
            self.bytes -= send.bytes;
            self.unconfirmed -= 1;
            self.confirmed += 1;
            released.push(send.bufs);
        }
        self.copied |= range.copied;
        while let Some(None) = self.sends.front() {
            self.sends.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        Ok(())
    }

    /// How many sends were confirmed since the last call, and whether any was copied.
    pub(super) fn take(&mut self) -> (u64, bool) {
        (std::mem::take(&mut self.confirmed), std::mem::take(&mut self.copied))
    }

    /// Moves everything into an account of its own.
    pub(super) fn split_off(&mut self) -> Self {
        std::mem::replace(self, Self::new())
    }
}

#[cold]
fn unknown(Confirmation { first, last, .. }: Confirmation) -> Error {
    let text = format!("the kernel confirmed sends {first} to {last}, which are not outstanding");
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use qio_os::{ErrorMessage, parse_error_message};

    use super::*;

    /// What the kernel would say, through the parser.
    fn range(first: u32, last: u32, copied: bool) -> Confirmation {
        let mut bytes = 32usize.to_ne_bytes().to_vec();
        bytes.extend([0i32.to_ne_bytes(), 11i32.to_ne_bytes()].concat());
        bytes.extend([0, 0, 0, 0, 5, 0, copied.into(), 0]);
        bytes.extend([first.to_ne_bytes(), last.to_ne_bytes()].concat());
        match parse_error_message(&bytes, false).unwrap() {
            ErrorMessage::ZeroCopy(confirmation) => confirmation,
            other => panic!("{other:?}"),
        }
    }

    fn with_sends(first: u32, count: usize) -> Ledger<usize> {
        let mut ledger = Ledger::starting_at(first);
        (0..count).for_each(|n| ledger.sent(n, 10));
        ledger
    }

    fn confirm(ledger: &mut Ledger<usize>, first: u32, last: u32) -> Result<Vec<usize>> {
        let mut released = Vec::new();
        ledger.confirm(range(first, last, false), &mut released).map(|()| released)
    }

    #[test]
    fn a_fresh_account_is_settled_and_nothing_was_copied() {
        let mut ledger = Ledger::<usize>::new();
        assert!(ledger.is_settled());
        assert_eq!(ledger.take(), (0, false));
    }

    #[test]
    fn both_ends_of_a_range_are_confirmed_and_nothing_beside_it() {
        let mut ledger = with_sends(0, 5);
        assert_eq!(confirm(&mut ledger, 1, 3).unwrap(), [1, 2, 3]);
        assert_eq!((ledger.bytes(), ledger.confirmed()), (20, 3));
        assert_eq!(confirm(&mut ledger, 4, 4).unwrap(), [4]);
        assert!(!ledger.is_settled());
        assert_eq!(confirm(&mut ledger, 0, 0).unwrap(), [0]);
        assert!(ledger.is_settled());
        assert_eq!((ledger.sends(), ledger.bytes(), ledger.confirmed()), (0, 0, 5));
        // The numbers go on.
        ledger.sent(5, 10);
        assert_eq!(confirm(&mut ledger, 5, 5).unwrap(), [5]);
    }

    #[test]
    fn numbers_and_ranges_wrap_around() {
        let mut ledger = with_sends(u32::MAX - 1, 4);
        assert_eq!(confirm(&mut ledger, u32::MAX - 1, u32::MAX - 1).unwrap(), [0]);
        assert_eq!(confirm(&mut ledger, u32::MAX, 0).unwrap(), [1, 2]);
        assert_eq!(confirm(&mut ledger, 1, 1).unwrap(), [3]);
        assert!(ledger.is_settled());

        let mut ledger = with_sends(u32::MAX, 2);
        assert_eq!(confirm(&mut ledger, u32::MAX, 0).unwrap(), [0, 1]);
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_range_with_a_send_that_is_not_outstanding_is_refused_whole() {
        let outside = |first, last| {
            let mut ledger = with_sends(10, 3);
            let error = confirm(&mut ledger, first, last).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{first}..={last}");
            assert_eq!((ledger.bytes(), ledger.confirmed()), (30, 0), "{first}..={last}");
            assert_eq!(confirm(&mut ledger, 10, 12).unwrap(), [0, 1, 2]);
        };
        outside(9, 9);
        outside(9, 10);
        outside(12, 13);
        outside(13, 13);
        // The ends the wrong way round: nearly all numbers there are.
        outside(11, 10);
        outside(0, u32::MAX);
        outside(u32::MAX, u32::MAX);
    }

    #[test]
    fn no_send_is_confirmed_twice() {
        let mut ledger = with_sends(0, 4);
        confirm(&mut ledger, 0, 0).unwrap();
        confirm(&mut ledger, 2, 2).unwrap();
        for (first, last) in [(0, 0), (2, 2), (1, 2), (0, 3)] {
            let error = confirm(&mut ledger, first, last).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert_eq!((ledger.bytes(), ledger.confirmed()), (20, 2));
        }
    }

    #[test]
    fn a_single_copied_range_among_others_is_reported_until_it_is_asked_for() {
        let mut ledger = with_sends(0, 3);
        let mut released = Vec::new();
        for (number, copied) in [(0, false), (1, true), (2, false)] {
            ledger.confirm(range(number, number, copied), &mut released).unwrap();
        }
        assert_eq!(ledger.take(), (3, true));
        assert_eq!(ledger.take(), (0, false));
        ledger.sent(3, 1);
        ledger.confirm(range(3, 3, false), &mut released).unwrap();
        assert_eq!(ledger.take(), (1, false));
    }

    #[test]
    fn a_refused_range_does_not_count_as_copied() {
        let mut ledger = with_sends(0, 1);
        ledger.confirm(range(1, 1, true), &mut Vec::new()).unwrap_err();
        assert_eq!(ledger.take(), (0, false));
    }
}
