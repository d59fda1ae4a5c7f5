//! What errors are about, as types: callers decide by them, and people read their texts.

use std::fmt;

use crate::limits::ADMISSION_SLACK_BYTES;

/// What an operation found held, in [`StoreError::Busy`](super::StoreError::Busy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Held {
    /// SQLite's lock on writing.
    WriteLock,
    /// The lock of compaction, of which one runs at a time.
    Compaction,
    /// The database that is to be replaced.
    Database,
    /// The copy that is to be made.
    Copy,
    /// Every connection for reading.
    Readers,
    /// A session whose segments are replaced while it is read.
    Session,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteLock => "the write lock",
            Self::Compaction => "compaction",
            Self::Database => "the database",
            Self::Copy => "the copy",
            Self::Readers => "every reader's connection",
            Self::Session => "the session",
        })
    }
}

/// Who holds it, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// The process with this id.
    Process(u32),
    /// A process whose id is not known.
    AnotherProcess,
    /// The process that asked.
    ThisProcess,
    /// Another connection, of this process or of another one.
    AnotherConnection,
    /// Other reads of the same opened store.
    OtherReaders,
    /// A compaction, in this process or in another one.
    Compaction,
}

impl Holder {
    /// What a person may try.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Process(_) | Self::AnotherProcess => "wait for the other process, or stop it",
            Self::ThisProcess => "close the store first, or end what uses the file in this process",
            Self::AnotherConnection => "try again once the other transaction has ended",
            Self::OtherReaders => "try again when fewer reads are under way",
            Self::Compaction => "try again when the compaction has ended",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process(id) => return write!(f, "process {id}"),
            Self::AnotherProcess => "another process",
            Self::ThisProcess => "this process",
            Self::AnotherConnection => "another connection",
            Self::OtherReaders => "other readers",
            Self::Compaction => "compaction",
        })
    }
}

/// The argument that an operation refused, in
/// [`StoreError::InvalidArgument`](super::StoreError::InvalidArgument).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Argument {
    /// The path of a database that is to be opened or made.
    DatabasePath,
    /// The path of a copy that is to be made.
    CopyPath,
    /// The backup that is to be restored.
    Backup,
    /// [`StoreOptions::db_bytes_max`](crate::StoreOptions::db_bytes_max).
    DbBytesMax,
    /// [`StoreOptions::session_bytes_max`](crate::StoreOptions::session_bytes_max).
    SessionBytesMax,
    /// Any other, by its name in the API.
    Named(&'static str),
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DatabasePath => "the database's name",
            Self::CopyPath => "the name of the copy",
            Self::Backup => "the backup",
            Self::DbBytesMax => "db_bytes_max",
            Self::SessionBytesMax => "session_bytes_max",
            Self::Named(name) => name,
        })
    }
}

impl super::StoreError {
    /// Payload bytes that would have fitted under the limit that refused a batch; `None` for errors that
    /// no such limit is the reason of.
    #[must_use]
    pub fn fitting_bytes(&self) -> Option<u64> {
        match self {
            Self::LimitReached {
                used_bytes,
                limit_bytes,
                ..
            } => Some(
                limit_bytes
                    .saturating_sub(ADMISSION_SLACK_BYTES)
                    .saturating_sub(*used_bytes),
            ),
            Self::SessionLimitReached {
                used_bytes,
                limit_bytes,
                ..
            } => Some(limit_bytes.saturating_sub(*used_bytes)),
            _ => None,
        }
    }
}
