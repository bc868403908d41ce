//! UTF-8 that comes in pieces.

use core::str;

/// Checks text whose pieces end anywhere, also in the middle of a character.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Text {
    /// The start of a character whose end has not come.
    start: [u8; 4],
    len: u8,
}

/// Bytes that are no UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotText {
    /// How many bytes of the piece come before the one that cannot be.
    pub(crate) good: usize,
}

impl Text {
    /// Whether no character is in the middle.
    pub(crate) fn is_whole(&self) -> bool {
        self.len == 0
    }

    /// The bytes of the character in the middle.
    pub(crate) fn start(&self) -> &[u8] {
        &self.start[..usize::from(self.len)]
    }

    /// Takes the next piece.
    pub(crate) fn check(&mut self, mut piece: &[u8]) -> Result<(), NotText> {
        let len = piece.len();
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            let good = len - piece.len();
            piece = rest;
            self.start[usize::from(self.len)] = byte;
            self.len += 1;
            match str::from_utf8(self.start()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(NotText { good }),
            }
        }
        match str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let rest = &piece[error.valid_up_to()..];
                self.start[..rest.len()].copy_from_slice(rest);
                self.len = rest.len() as u8;
                Ok(())
            }
            Err(error) => {
                let bad = &piece[error.valid_up_to()..];
                // A character that is not gone on with begins well.
                let begun = error.error_len().filter(|&begun| is_begun(&bad[..begun]));
                let good = len - bad.len() + begun.unwrap_or(0);
                Err(NotText { good })
            }
        }
    }
}

/// Whether more bytes could make a character of it.
fn is_begun(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn accepts(pieces: &[Vec<u8>]) -> bool {
        let mut text = Text::default();
        pieces.iter().all(|piece| text.check(piece).is_ok()) && text.is_whole()
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(
            text in "\\PC{0,12}",
            junk in proptest::collection::vec(any::<u8>(), 0..3),
            size in 1usize..5,
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(junk);
            let pieces: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(accepts(&pieces), str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn the_first_byte_that_cannot_be_is_found_in_any_pieces(
            text in "\\PC{0,6}",
            junk in proptest::collection::vec(any::<u8>(), 0..6),
            size in 1usize..5,
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(junk);
            let good = |size: usize| {
                let mut text = Text::default();
                let mut before = 0;
                for piece in bytes.chunks(size) {
                    if let Err(NotText { good }) = text.check(piece) {
                        return before + good;
                    }
                    before += piece.len();
                }
                before
            };
            prop_assert_eq!(good(size), good(1));
            prop_assert_eq!(good(bytes.len().max(1)), good(1));
        }
    }
}
