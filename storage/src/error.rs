//! What can go wrong, typed: each error names the operation's object, the reason, and what to try.
//!
//! Callers that only need a decision use [`StoreError::kind`] (the daemon maps it to a gRPC
//! status, `betcode-db` to an exit code) and [`StoreError::hint`] (what a person may try).

mod details;
mod kind;

use std::any::Any;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::capacity::text::{bytes as shown_bytes, bytes_apart};
use crate::ids::SessionId;
use crate::segment::SegmentError;

pub use details::{Argument, Held, Holder};
pub use kind::ErrorKind;

/// Result of the engine's operations.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An operation of the store that failed. Nothing of it was answered as done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The id cannot name a session.
    #[error("session id {id:?} is not valid: {why}")]
    InvalidSessionId {
        /// The id as given, cut when long.
        id: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// An argument outside its stated bounds.
    #[error("{what} is not valid: {why}")]
    InvalidArgument {
        /// The argument.
        what: Argument,
        /// The value and the bound.
        why: String,
    },
    /// No session has this id.
    #[error("there is no session {id}")]
    SessionNotFound {
        /// The id asked for.
        id: SessionId,
    },
    /// A payload over the limit: refused whole, never cut.
    #[error(
        "message {index} of the batch for session {id} has {}, over the limit of {}",
        bytes_apart(*bytes as u64, *bytes_max as u64).0, bytes_apart(*bytes as u64, *bytes_max as u64).1
    )]
    PayloadTooLarge {
        /// The session.
        id: SessionId,
        /// Position in the batch, from 0.
        index: usize,
        /// Its size.
        bytes: usize,
        /// The limit in force.
        bytes_max: usize,
    },
    /// The appender expected another next sequence, and the bytes there are not the ones it sent.
    #[error(
        "session {id}: expected to append at sequence {expected}, but its next one is {next}, and message {sequence} there is missing or has other bytes"
    )]
    SequenceConflict {
        /// The session.
        id: SessionId,
        /// The sequence that the appender expected for its first message.
        expected: u64,
        /// The sequence that comes next.
        next: u64,
        /// The first sequence that differs, or is missing.
        sequence: u64,
    },
    /// A session ran out of sequences.
    #[error("session {id} has reached the last sequence, {max}")]
    SequenceExhausted {
        /// The session.
        id: SessionId,
        /// The last sequence.
        max: u64,
    },
    /// The writer's queue had no room before the deadline.
    #[error(
        "the writer's queue stayed full for {waited_ms} ms ({requests} requests, {} waiting)",
        shown_bytes(*bytes as u64)
    )]
    QueueFull {
        /// How long the caller waited.
        waited_ms: u64,
        /// Requests in the queue.
        requests: usize,
        /// Bytes in the queue: payloads, and what is counted for each message.
        bytes: usize,
    },
    /// The request's deadline passed while it waited for its turn; it was not carried out.
    #[error("the append to session {id} waited {waited_ms} ms for its turn and was withdrawn")]
    DeadlineExceeded {
        /// The session.
        id: SessionId,
        /// How long it waited.
        waited_ms: u64,
    },
    /// Somebody holds SQLite's write lock, a lease of the store or every reader's connection.
    #[error("{path}: {what} is held by {holder} (waited {waited_ms} ms)")]
    Busy {
        /// The database file.
        path: PathBuf,
        /// What is held.
        what: Held,
        /// Who holds it, as far as is known.
        holder: Holder,
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// The disk, or the file's own bound, has no room left. Nothing was written.
    #[error("{path}: no room to write: {why}")]
    DiskFull {
        /// The database file.
        path: PathBuf,
        /// What said so.
        why: String,
    },
    /// A session is deleted, and its messages, which nobody can read any more, still take room.
    #[error("session {id} is deleted, but its space could not be given back yet: {source}")]
    SpaceNotGivenBack {
        /// The session that is gone.
        id: SessionId,
        /// What was in the way.
        source: Box<StoreError>,
    },
    /// The database has reached its size limit: new messages are refused, reading goes on.
    #[error(
        "{path}: the database has {} in use, and {} more do not fit under its limit of {}, of which {} are kept for indexes",
        shown_bytes(*used_bytes), shown_bytes(*incoming_bytes), shown_bytes(*limit_bytes),
        shown_bytes(crate::limits::ADMISSION_SLACK_BYTES)
    )]
    LimitReached {
        /// The database file.
        path: PathBuf,
        /// Pages in use, and what the log has beyond the usual: see [`crate::StoreOptions::db_bytes_max`].
        used_bytes: u64,
        /// Payload bytes of the batch that was refused.
        incoming_bytes: u64,
        /// The limit in force.
        limit_bytes: u64,
    },
    /// A session has reached its own size limit.
    #[error(
        "session {id} takes {}, and {} more do not fit under its limit of {}",
        shown_bytes(*used_bytes), shown_bytes(*incoming_bytes), shown_bytes(*limit_bytes)
    )]
    SessionLimitReached {
        /// The session.
        id: SessionId,
        /// Segments, and hot messages as they are.
        used_bytes: u64,
        /// Payload bytes of the batch that was refused.
        incoming_bytes: u64,
        /// The limit in force.
        limit_bytes: u64,
    },
    /// The file is not a history store.
    #[error("{path} is not a BetCode history store: {why}; it was left untouched")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that was recognised.
        why: String,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has format {found}, and this build knows formats up to {known}; it was left untouched"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that this build knows.
        known: u32,
    },
    /// There is no such database.
    #[error("there is no database at {path}")]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file or its folder cannot be written.
    #[error("{path} cannot be written: {why}")]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What refused.
        why: String,
    },
    /// The file system became read-only under a file that is open for writing.
    #[error("{path} cannot be written, because its file system is read-only now: {why}")]
    ReadOnlyFileSystem {
        /// The file.
        path: PathBuf,
        /// What failed.
        why: String,
    },
    /// Stored bytes are not what was written. Other sessions are not touched by it.
    #[error("damaged data{}: {what}", where_in(session))]
    Damaged {
        /// The session and sequence, when known.
        session: Option<String>,
        /// What is wrong, where.
        what: String,
    },
    /// The file ends before its last page. What is there can be read; nothing is written to it.
    #[error(
        "{path}: damaged data: the file is cut off: {pages_there} of its {pages} pages are there"
    )]
    CutOff {
        /// The database file.
        path: PathBuf,
        /// Whole pages that it has.
        pages_there: u64,
        /// Pages that it says it has.
        pages: u64,
    },
    /// A segment could not be encoded or decoded.
    #[error("session {id}, segment at sequence {first_sequence}: {source}")]
    Segment {
        /// The session.
        id: SessionId,
        /// Its first sequence.
        first_sequence: u64,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// Messages could not be encoded as a segment. They stay as they were.
    #[error(
        "session {id}: the messages from sequence {first_sequence} on cannot be encoded: {source}"
    )]
    Encode {
        /// The session.
        id: SessionId,
        /// Sequence of the first of them.
        first_sequence: u64,
        /// What was in the way.
        source: SegmentError,
    },
    /// There was not enough memory. Nothing is damaged.
    #[error("there is not enough memory to {action} {what}")]
    OutOfMemory {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
    },
    /// An existing file is in the way.
    #[error("{path} exists already")]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// A copy is whole, was checked and has its name; the system did not say that this is on disk.
    #[error(
        "{copy} is there, whole and checked, but may not outlast a loss of power{}: {source}",
        .moved_aside.as_ref().map(|at| format!(" (what stood there is {} now)", at.display())).unwrap_or_default()
    )]
    CopyNotSynced {
        /// The copy.
        copy: PathBuf,
        /// Where a restore moved the store that was there before.
        moved_aside: Option<PathBuf>,
        /// What the system said.
        source: Box<StoreError>,
    },
    /// A restore failed when the store in its place was moved aside, and it could not be moved back.
    #[error("nothing was restored, and what stood there is {aside} now: {source}")]
    LeftAside {
        /// Where that store is.
        aside: PathBuf,
        /// Why the restore failed.
        source: Box<StoreError>,
    },
    /// The log of a database that no longer exists is in the way.
    #[error(
        "{log} is the log of a database that is not there: it may hold the last messages of it"
    )]
    StrayLog {
        /// The log.
        log: PathBuf,
    },
    /// The database, or a file of its log, is not the one any more that was opened. SQLite would go on with the
    /// opened one, where nobody would look for what is recorded.
    #[error("{path} was moved, deleted or replaced while a program had it open")]
    FileMoved {
        /// The file.
        path: PathBuf,
        /// Whether it is a file of the log, and the database itself is in its place.
        is_log: bool,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// SQLite failed in a way that has no better name.
    #[error("{path}: {action}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The linked SQLite is older than the store needs.
    #[error("the linked SQLite is {found}, and versions before 3.51.3 can lose committed writes")]
    SqliteTooOld {
        /// Its version number.
        found: i32,
    },
    /// A bug ended the operation by a panic. What was done before stays done.
    #[error("{what} ended by an internal error: {why}")]
    Panicked {
        /// The operation.
        what: &'static str,
        /// What the panic said.
        why: String,
    },
    /// The operation was cancelled between two steps; what was done stays done.
    #[error("cancelled")]
    Cancelled,
    /// The store was closed, or its writer ended after an error that was reported before.
    #[error("the store is closed{}", .why.as_ref().map(|w| format!(": {w}")).unwrap_or_default())]
    Closed {
        /// Why, when it was not asked for.
        why: Option<String>,
    },
}

fn where_in(session: &Option<String>) -> String {
    session
        .as_ref()
        .map(|s| format!(" in session {s}"))
        .unwrap_or_default()
}

impl StoreError {
    /// Names the session whose damage it is, if it does not say.
    pub(crate) fn in_session(self, id: &SessionId) -> Self {
        match self {
            Self::Damaged {
                session: None,
                what,
            } => Self::damaged(Some(id.as_str()), what),
            other => other,
        }
    }

    pub(crate) fn damaged(session: Option<&str>, what: impl Into<String>) -> Self {
        Self::Damaged {
            session: session.map(str::to_owned),
            what: what.into(),
        }
    }

    /// A segment that could not be decoded.
    pub(crate) fn of_segment(id: &SessionId, first_sequence: u64, source: SegmentError) -> Self {
        match source {
            SegmentError::OutOfMemory => Self::OutOfMemory {
                action: "decode",
                what: format!("the segment at sequence {first_sequence} of session {id}"),
            },
            source => Self::Segment {
                id: id.clone(),
                first_sequence,
                source,
            },
        }
    }

    /// Whether only one session is affected, so that others can still be compacted.
    pub(crate) fn is_of_one_session(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Segment { .. }
                | Self::Encode { .. }
                | Self::OutOfMemory { .. }
        )
    }

    pub(crate) fn not_found(id: &SessionId) -> Self {
        Self::SessionNotFound { id: id.clone() }
    }

    /// The error of an operation that panicked.
    pub(crate) fn panicked(what: &'static str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let why = text.unwrap_or("a panic without a message").to_owned();
        Self::Panicked { what, why }
    }

    /// A session's row says that it ends at sequence `end`, and there is more.
    pub(crate) fn rows_past_end(id: &SessionId, end: u64) -> Self {
        let what =
            format!("its row says that it ends at sequence {end}, and messages stand after that");
        Self::damaged(Some(id.as_str()), what)
    }

    /// What a person may try, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::InvalidSessionId { .. } => {
                "list the sessions and take an id from there; for a new session, choose one that keeps this rule"
            }
            Self::SessionNotFound { .. } => {
                "list the sessions: the id may be misspelt, or the session deleted"
            }
            Self::PayloadTooLarge { .. } => {
                "raise the limit on payloads (at most 100 MiB), or send the message in parts"
            }
            Self::SequenceConflict { .. } => {
                "read the session from the expected sequence: another writer appended first"
            }
            Self::QueueFull { .. } | Self::DeadlineExceeded { .. } => {
                "try again later, with a longer deadline or smaller batches"
            }
            Self::Busy { holder, .. } => holder.hint(),
            Self::DiskFull { .. } => {
                "free space on the disk, then compact: the store goes on by itself"
            }
            Self::SpaceNotGivenBack { .. } => {
                "once that is settled, it is given back when the store is compacted or opened, or a session deleted, the next time"
            }
            Self::LimitReached { .. } => {
                "compact, delete sessions, or raise the limit: the store goes on at once"
            }
            Self::SessionLimitReached { .. } => {
                "compact the session, go on in a new one, or raise the limit on sessions"
            }
            Self::Foreign { .. } => {
                "check the path: it must name a history store, or a file that does not exist yet"
            }
            Self::Newer { .. } => "install the version that wrote it, or a later one",
            Self::Missing { .. } => "check the path, or import sessions to create it",
            Self::ReadOnly { .. } => {
                "check the permissions of the file and its folder, and that the file system is writable"
            }
            Self::ReadOnlyFileSystem { .. } => {
                "the system's log says why, which is mostly a disk that fails; what was answered is on disk, and can be \
                 read and backed up to another one; make the file system writable again"
            }
            Self::Damaged {
                session: Some(_), ..
            }
            | Self::Segment { .. } => {
                "verify the store to see how far it goes, and restore a backup; other sessions stay readable"
            }
            // It may be in the way of any session, or of all.
            Self::Damaged { session: None, .. } => {
                "verify the store to see how far it goes; restore a backup; salvage what can be read"
            }
            Self::CutOff { .. } => {
                "restore a backup; salvage what is left; verify the store to see what is missing"
            }
            Self::FileExists { .. } => "choose another name, or move the file away",
            Self::CopyNotSynced { .. } => {
                "run `sync`, and look at what the system says of that disk"
            }
            Self::LeftAside { .. } => {
                "move it back with the files that continue its name (-wal, -journal), once nothing stands in its place"
            }
            Self::StrayLog { .. } => {
                "put it beside its database under the database's name and -wal; delete it only if that database is gone for good"
            }
            Self::FileMoved { is_log: false, .. } => {
                "put that file back in its place; or stop the program, and start it again with the database that is to be used"
            }
            Self::FileMoved { is_log: true, .. } => {
                "stop the program with SIGTERM, and start it again: when it ends in order, it moves what its log holds into the database"
            }
            Self::Io { source, .. } if is_out_of_handles(source) => {
                "raise the limit of open files (ulimit -n, LimitNOFILE of a service), or close programs that have many open"
            }
            Self::OutOfMemory { .. } => "free memory and try again: nothing is damaged",
            Self::Encode { .. } | Self::Panicked { .. } => {
                "nothing that was recorded is lost: go on, and report it with what the log says"
            }
            Self::SqliteTooOld { .. } => "build against the bundled SQLite",
            Self::SequenceExhausted { .. } => "go on in a new session",
            Self::Closed { why: Some(_) } => {
                "open the store again; the log says what ended the writer"
            }
            Self::Closed { why: None } => "open the store again",
            // Their texts say what is wrong, or there is no general advice.
            Self::InvalidArgument { .. }
            | Self::Cancelled
            | Self::Io { .. }
            | Self::Sqlite { .. } => return None,
        })
    }
}

/// Whether the process, or the system, has as many files open as it may have.
fn is_out_of_handles(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

#[cfg(test)]
mod tests;
