//! Identities: session ids as users see them, keys as the file has them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::StoreError;
use crate::limits::{SEQUENCE_MAX, SESSION_ID_BYTES_MAX};

/// A session's public name: 1 to 128 ASCII letters, digits, `-`, `_`, `.`, `~`, `:`, not
/// beginning with a dot. It never contains a path separator, so it can name a file.
///
/// ```
/// use betcode_storage::SessionId;
/// assert!("019f15f7-b472-7bc3-8651-5547781e25cf".parse::<SessionId>().is_ok());
/// assert!("../../etc/passwd".parse::<SessionId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

impl SessionId {
    /// Checks `text` and takes it as an id.
    ///
    /// # Errors
    /// [`StoreError::InvalidSessionId`] when it is empty, too long or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.~:".contains(&c);
        if text.is_empty() {
            return Err(StoreError::InvalidSessionId {
                id: text,
                why: "it is empty",
            });
        }
        if text.len() > SESSION_ID_BYTES_MAX {
            let id = text.chars().take(40).chain(['…']).collect();
            return Err(StoreError::InvalidSessionId {
                id,
                why: "it is longer than 128 bytes",
            });
        }
        if text.starts_with('.') {
            return Err(StoreError::InvalidSessionId {
                id: text,
                why: "it begins with a dot",
            });
        }
        if !text.bytes().all(allowed) {
            let why = "only ASCII letters, digits and - _ . ~ : are allowed";
            return Err(StoreError::InvalidSessionId { id: text, why });
        }
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for SessionId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

/// A session's key in this file: the high half of its messages' and segments' keys.
/// Never used again after the session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub(crate) i64);

impl SessionKey {
    /// The key as SQLite has it.
    pub(crate) fn as_i64(self) -> i64 {
        self.0
    }
}

/// A place in a file: session and sequence in one integer, `session_key << 32 | sequence`.
///
/// Keys of one session are consecutive and in the order of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MessageKey(i64);

impl MessageKey {
    /// The key of `sequence` of a session. Sequence 0 is before the first message.
    ///
    /// Sequences that were given out have keys of their own. A larger one, which only a damaged row has or a
    /// reader asks for, becomes the last that there can be: no key is another session's.
    pub(crate) fn new(session: SessionKey, sequence: u64) -> Self {
        // Lossless: SEQUENCE_MAX is that of u32.
        let low = i64::try_from(sequence.min(SEQUENCE_MAX)).unwrap_or(0);
        Self((session.0 << 32) | low)
    }

    /// The keys of two sequences of a session, as SQLite has them. All keys between them are the session's.
    pub(crate) fn range(session: SessionKey, first: u64, last: u64) -> [i64; 2] {
        [first, last].map(|sequence| Self::new(session, sequence).0)
    }

    /// The key as SQLite has it.
    pub(crate) fn as_i64(self) -> i64 {
        self.0
    }

    /// The key that SQLite had.
    pub(crate) fn from_i64(key: i64) -> Self {
        Self(key)
    }

    /// The sequence in it.
    pub(crate) fn sequence(self) -> u64 {
        u64::from((self.0 & 0xffff_ffff) as u32)
    }

    /// The session in it.
    pub(crate) fn session(self) -> SessionKey {
        SessionKey(self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_key_keeps_session_and_sequence_apart() {
        for (session, sequence) in [(1, 0), (1, 1), (7, SEQUENCE_MAX), (i64::from(i32::MAX), 42)] {
            let key = MessageKey::new(SessionKey(session), sequence);
            assert!(key.as_i64() > 0);
            assert_eq!(key.session(), SessionKey(session));
            assert_eq!(key.sequence(), sequence);
        }
    }

    #[test]
    fn sequences_beyond_the_last_are_no_keys_of_another_session() {
        for sequence in [SEQUENCE_MAX + 1, 1 << 40, u64::MAX] {
            let key = MessageKey::new(SessionKey(7), sequence);
            assert_eq!(
                (key.session(), key.sequence()),
                (SessionKey(7), SEQUENCE_MAX)
            );
        }
    }

    #[test]
    fn session_ids_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\\b", ".hidden", "a b", "ä", "a\0b"] {
            assert!(SessionId::new(bad).is_err(), "{bad:?}");
        }
        assert!(SessionId::new("x".repeat(129)).is_err());
        assert!(SessionId::new("x".repeat(128)).is_ok());
    }
}
