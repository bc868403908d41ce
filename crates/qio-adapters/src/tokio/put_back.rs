//! Bytes that a read has taken and was given up with.

/// They are read again before any others. Empty, as it nearly always is, it is one word.
#[derive(Debug, Default)]
pub(super) struct PutBack(Option<Box<Kept>>);

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    taken: usize,
}

impl PutBack {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What is read next.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |kept| &kept.bytes[kept.taken..])
    }

    /// Keeps bytes. Whatever was kept before has been read: they were read after it.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty() || self.is_empty(), "the reader had not read these");
        if !bytes.is_empty() {
            self.0 = Some(Box::new(Kept { bytes: bytes.to_vec(), taken: 0 }));
        }
    }

    /// Forgets the first bytes, and gives the memory back with the last.
    pub(super) fn consume(&mut self, n: usize) {
        if let Some(kept) = &mut self.0 {
            kept.taken += n;
            if kept.taken == kept.bytes.len() {
                self.0 = None;
            }
        }
    }

    /// Forgets all, and says how many there were.
    pub(super) fn clear(&mut self) -> usize {
        let n = self.bytes().len();
        self.0 = None;
        n
    }
}
