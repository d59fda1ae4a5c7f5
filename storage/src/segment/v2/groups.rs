//! Groups of messages that share a digest.
//!
//! A digest for each message would take more bytes than many short messages do once they are compressed.
//! Groups follow from the messages' lengths alone, so they are not stored: encoder and decoder derive the
//! same ones.

use xxhash_rust::xxh3::Xxh3;

use super::super::Entry;
use super::super::header::digest_of;

/// Messages of a group.
const GROUP_MESSAGES_MAX: usize = 64;
/// A group ends with the message that brings it to this many payload bytes.
const GROUP_BYTES_MIN: usize = 64 << 10;

/// The group that is being filled.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    messages: usize,
    bytes: usize,
}

impl Grouping {
    /// Adds a message, and says whether the group ends with it.
    pub(super) fn closes_after(&mut self, payload_bytes: usize) -> bool {
        self.messages += 1;
        self.bytes += payload_bytes;
        let closes = self.messages == GROUP_MESSAGES_MAX || self.bytes >= GROUP_BYTES_MIN;
        if closes {
            *self = Self::default();
        }
        closes
    }
}

/// The digest of each group of messages.
pub(super) fn digests(entries: &[Entry<'_>]) -> Vec<u32> {
    let mut grouping = Grouping::default();
    let mut digests = Vec::new();
    let mut group = Xxh3::new();
    for (index, entry) in entries.iter().enumerate() {
        group.update(entry.payload);
        if grouping.closes_after(entry.payload.len()) || index + 1 == entries.len() {
            digests.push(digest_of(group.digest()));
            group.reset();
        }
    }
    digests
}
