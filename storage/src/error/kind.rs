//! The kinds of errors, by which programs decide.

use rustix::io::Errno;

use super::StoreError;

/// The kinds of errors that callers distinguish.
///
/// After `Overloaded`, `Timeout` and `Busy` the same request may succeed later, though nobody does anything; after
/// `NoSpace` once there is space, which background compaction may make. An append that failed with one of these
/// recorded nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request can never succeed as it is.
    Invalid,
    /// The file, session or folder does not exist.
    NotFound,
    /// Something of that name, with other content, is there.
    Conflict,
    /// A limit of the running system; the same request may succeed soon.
    Overloaded,
    /// The deadline passed before its turn came.
    Timeout,
    /// Another process has it, or somebody else in this one.
    Busy,
    /// No room on the disk or under the limit.
    NoSpace,
    /// The file is foreign or newer: a precondition that waiting does not change.
    Unsupported,
    /// Permissions or a read-only file system.
    Denied,
    /// Stored bytes are damaged.
    Damaged,
    /// The store's files were moved, deleted or replaced while it was open.
    Moved,
    /// Cancelled by the caller.
    Cancelled,
    /// The store is shut. If a panic ended its writer, an append under way may have been recorded.
    Closed,
    /// Anything else.
    Internal,
}

impl StoreError {
    /// The error's kind, for decisions.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidSessionId { .. }
            | Self::InvalidArgument { .. }
            | Self::PayloadTooLarge { .. }
            | Self::SequenceExhausted { .. } => ErrorKind::Invalid,
            Self::SessionNotFound { .. } | Self::Missing { .. } => ErrorKind::NotFound,
            Self::SequenceConflict { .. } | Self::FileExists { .. } | Self::StrayLog { .. } => {
                ErrorKind::Conflict
            }
            Self::QueueFull { .. } => ErrorKind::Overloaded,
            Self::DeadlineExceeded { .. } => ErrorKind::Timeout,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::DiskFull { .. }
            | Self::LimitReached { .. }
            | Self::SessionLimitReached { .. } => ErrorKind::NoSpace,
            Self::Foreign { .. } | Self::Newer { .. } | Self::SqliteTooOld { .. } => {
                ErrorKind::Unsupported
            }
            Self::ReadOnly { .. } | Self::ReadOnlyFileSystem { .. } => ErrorKind::Denied,
            Self::Damaged { .. } | Self::CutOff { .. } | Self::Segment { .. } => ErrorKind::Damaged,
            Self::FileMoved { .. } => ErrorKind::Moved,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Closed { .. } => ErrorKind::Closed,
            Self::Io { source, .. } => match source.kind() {
                // A path through a file, or with an impossible name, leads to nothing.
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::InvalidFilename => ErrorKind::NotFound,
                std::io::ErrorKind::IsADirectory => ErrorKind::Conflict,
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorKind::Denied
                }
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::NoSpace
                }
                // A link that leads to itself leads to nothing.
                _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                    ErrorKind::NotFound
                }
                _ => ErrorKind::Internal,
            },
            Self::SpaceNotGivenBack { source, .. }
            | Self::CopyNotSynced { source, .. }
            | Self::LeftAside { source, .. } => source.kind(),
            Self::Encode { .. }
            | Self::OutOfMemory { .. }
            | Self::Sqlite { .. }
            | Self::Panicked { .. } => ErrorKind::Internal,
        }
    }
}
