//! Whether a session's messages and line ends still make the file that they were imported from.

use xxhash_rust::xxh3::Xxh3;

use crate::message::{ImportMark, Message};

/// Puts an imported file together again, as far as it was taken, and holds its digest against the record.
pub(crate) struct SourceCheck {
    mark: ImportMark,
    hasher: Xxh3,
    bytes: u64,
    is_unterminated: bool,
}

impl SourceCheck {
    pub(crate) fn of(mark: ImportMark) -> Self {
        Self {
            mark,
            hasher: Xxh3::new(),
            bytes: 0,
            is_unterminated: false,
        }
    }

    /// Takes the session's next message. Those after what was taken of the file came from elsewhere.
    pub(crate) fn push(&mut self, message: &Message) {
        let taken_bytes = self.mark.taken_bytes;
        if self.bytes >= taken_bytes {
            return;
        }
        self.add(&message.payload);
        let goes_on = self.mark.joins.binary_search(&message.sequence).is_ok();
        self.is_unterminated = goes_on || (self.mark.unterminated && self.bytes == taken_bytes);
        if !self.is_unterminated {
            self.add(b"\n");
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Whether what was pushed begins with all that was taken of the file.
    pub(crate) fn is_same(&self) -> bool {
        self.bytes == self.mark.taken_bytes
            && self.is_unterminated == self.mark.unterminated
            && self.hasher.digest128() == self.mark.taken_digest
    }
}
