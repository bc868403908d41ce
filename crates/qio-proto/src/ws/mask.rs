//! Masking of payload, RFC 6455, section 5.3.

/// The masking key of a frame, and how far the payload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    /// Rotated: its first byte is for the next byte of the payload.
    key: [u8; 4],
}

impl Mask {
    pub(crate) fn new(key: [u8; 4]) -> Self {
        Self { key }
    }

    /// Masks or unmasks the next bytes of the payload.
    pub(crate) fn apply(&mut self, payload: &mut [u8]) {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.3
        //# Octet i of the transformed data ("transformed-octet-i") is the XOR of
        //# octet i of the original data ("original-octet-i") with octet at index
        //# i modulo 4 of the masking key
        let wide = self.wide();
        let (chunks, rest) = payload.as_chunks_mut::<WIDTH>();
        for chunk in chunks {
            for (byte, key) in chunk.iter_mut().zip(&wide) {
                *byte ^= key;
            }
        }
        for (byte, key) in rest.iter_mut().zip(&wide) {
            *byte ^= key;
        }
        let by = rest.len() % 4;
        self.key.rotate_left(by);
    }

    /// The same from one place to another.
    pub(crate) fn copy(&mut self, from: &[u8], to: &mut [u8]) {
        let wide = self.wide();
        let (from, from_rest) = from.as_chunks::<WIDTH>();
        let (to, to_rest) = to.as_chunks_mut::<WIDTH>();
        for (from, to) in from.iter().zip(to) {
            for ((from, to), key) in from.iter().zip(to).zip(&wide) {
                *to = from ^ key;
            }
        }
        for ((from, to), key) in from_rest.iter().zip(to_rest).zip(&wide) {
            *to = from ^ key;
        }
        self.key.rotate_left(from_rest.len() % 4);
    }

    fn wide(&self) -> [u8; WIDTH] {
        let mut wide = [0; WIDTH];
        // Whole keys: a loop over bytes costs more than the payload of a small frame.
        wide.as_chunks_mut().0.fill(self.key);
        wide
    }
}

/// A multiple of the key's length that fills the widest vector registers in use.
const WIDTH: usize = 64;

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn slowly(key: [u8; 4], payload: &[u8]) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_are_masked_as_one(
            key: [u8; 4],
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..6),
        ) {
            let expected = slowly(key, &pieces.concat());
            let (mut in_place, mut copied) = (Vec::new(), Vec::new());
            let (mut one, mut two) = (Mask::new(key), Mask::new(key));
            for piece in &pieces {
                let mut here = piece.clone();
                one.apply(&mut here);
                in_place.extend(here);
                let mut there = std::vec![0; piece.len()];
                two.copy(piece, &mut there);
                copied.extend(there);
            }
            prop_assert_eq!(&in_place, &expected);
            prop_assert_eq!(&copied, &expected);
            prop_assert_eq!(one, two);
        }
    }
}
