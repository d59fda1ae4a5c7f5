//! What SQLite's errors mean for a store.

use rusqlite::{ErrorCode, ffi};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::{BUSY_WAITED_MS, Db};
use crate::error::{Held, Holder, Result, StoreError};
use crate::files;
use crate::limits::FILE_SIZE_LIMIT_NEAR_BYTES;

impl Db {
    /// Adds what was done and to which file to an error of SQLite.
    pub(crate) fn context<T>(
        &self,
        action: &'static str,
        result: rusqlite::Result<T>,
    ) -> Result<T> {
        result.map_err(|error| self.store_error(action, error))
    }

    /// The store's error for one of SQLite.
    pub(crate) fn store_error(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        if is_invalid_value(&source) || is_schema_mismatch(&source) {
            return StoreError::Damaged {
                session: None,
                what: format!("{}: {action}: {source}", path.display()),
            };
        }
        let Some(code) = source.sqlite_error_code() else {
            return StoreError::Sqlite {
                path,
                action,
                source,
            };
        };
        let why = format!("{action}: {source}");
        match code {
            ErrorCode::DiskFull => StoreError::DiskFull { path, why },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Busy {
                path,
                what: Held::WriteLock,
                holder: Holder::AnotherConnection,
                waited_ms: BUSY_WAITED_MS.take(),
            },
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::ReadOnly { path, why },
            ErrorCode::Unknown if is_unknown_format(&source) => StoreError::Foreign {
                path,
                why: source.to_string(),
            },
            ErrorCode::NotADatabase => StoreError::Foreign {
                path,
                why: source.to_string(),
            },
            // An undamaged file accepts all rows that we write.
            ErrorCode::DatabaseCorrupt | ErrorCode::ConstraintViolation => StoreError::Damaged {
                session: None,
                what: format!("{}: {why}", path.display()),
            },
            ErrorCode::CannotOpen if let Some(error) = self.no_new_file(&why) => error,
            ErrorCode::CannotOpen if !path.exists() => {
                if !files::folder_of(&path).exists() {
                    StoreError::Missing { path }
                } else {
                    StoreError::ReadOnly { path, why }
                }
            }
            ErrorCode::CannotOpen => StoreError::ReadOnly { path, why },
            ErrorCode::SystemIoFailure
                if is_out_of_space(&source)
                    || is_failed_write(&source) && files::is_full(&path) =>
            {
                StoreError::DiskFull { path, why }
            }
            ErrorCode::SystemIoFailure
                if is_failed_write(&source) && self.is_at_file_size_limit() =>
            {
                let why = format!(
                    "{why}: no file of this program may be larger (ulimit -f, LimitFSIZE of a service)"
                );
                StoreError::DiskFull { path, why }
            }
            ErrorCode::SystemIoFailure
                if is_failed_write(&source)
                    && files::errno_of_new_file(&path) == Some(Errno::ROFS) =>
            {
                StoreError::ReadOnlyFileSystem { path, why }
            }
            ErrorCode::SystemIoFailure if is_past_end(&source) => StoreError::Damaged {
                session: None,
                what: format!(
                    "{}: {action}: a page is missing at the end of the file",
                    path.display()
                ),
            },
            _ => StoreError::Sqlite {
                path,
                action,
                source,
            },
        }
    }

    /// Why no file can be opened or created beside the database, if that has nothing to do with permissions: SQLite
    /// says of the log and its shared memory no more than that it cannot open them.
    fn no_new_file(&self, why: &str) -> Option<StoreError> {
        let path = self.path.clone();
        match files::errno_of_new_file(&path)? {
            Errno::NOSPC | Errno::DQUOT => Some(StoreError::DiskFull {
                path,
                why: format!("{why}: the file system has no space, or no inode, for another file"),
            }),
            errno @ (Errno::MFILE | Errno::NFILE) => Some(StoreError::Io {
                action: "open",
                path,
                source: errno.into(),
            }),
            _ => None,
        }
    }

    /// Whether the database or its log is about as large as the system lets files of this process become.
    fn is_at_file_size_limit(&self) -> bool {
        getrlimit(Resource::Fsize).current.is_some_and(|limit| {
            [self.main_bytes(), self.wal_bytes()]
                .into_iter()
                .flatten()
                .any(|bytes| bytes.saturating_add(FILE_SIZE_LIMIT_NEAR_BYTES) >= limit)
        })
    }
}

/// Whether a connection failed as one does on a read-only file system, so that a more modest way
/// of opening may work.
pub(super) fn may_be_read_only(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen)
    )
}

/// Whether a row holds what no statement of ours writes: another type, or a number or text that
/// cannot be. SQLite finds nothing wrong with it.
pub(crate) fn is_invalid_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            // Callers treat this error as the answer that there is no such row.
            | Error::QueryReturnedNoRows
    ) || is_integer_overflow(error)
}

/// Whether an error is about what the file holds, be it SQLite that finds it or a row's reader.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    is_invalid_value(error) || is_damaged_page(error)
}

/// Whether SQLite itself finds a page damaged.
pub(crate) fn is_damaged_page(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) || is_past_end(error)
}

/// Whether a page was to be read that begins past the end of the file: where it is one of a long
/// message, SQLite calls that an I/O error.
fn is_past_end(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|e| e.extended_code);
    extended == Some(ffi::SQLITE_IOERR_SHORT_READ)
}

/// Whether a statement does not fit the file's schema. The statements are ours and fit the version that
/// the file says it has, so the text of its schema is not what was written.
fn is_schema_mismatch(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqlInputError { .. } | rusqlite::Error::InvalidColumnName(_) => true,
        // A table that begins past the end of a file that is cut off is none.
        rusqlite::Error::SqliteFailure(_, Some(what)) => {
            what.contains("has no column named") || what.starts_with("no such table: ")
        }
        _ => false,
    }
}

/// Whether the file's header asks for a format that this SQLite does not know.
fn is_unknown_format(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(_, Some(what)) if what == "unsupported file format")
}

/// Whether a sum left what SQLite's integers hold, which only absurd numbers make it do.
fn is_integer_overflow(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(_, Some(what)) if what == "integer overflow")
}

/// Growing the shared-memory file or the WAL on a full disk is reported as an I/O error.
pub(super) fn is_out_of_space(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|e| e.extended_code);
    extended == Some(ffi::SQLITE_IOERR_SHMSIZE) || extended == Some(ffi::SQLITE_IOERR_SHMOPEN)
}

/// Whether a write failed. Where a user's quota ends, SQLite says no more than that.
fn is_failed_write(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|e| e.extended_code);
    matches!(
        extended,
        Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_TRUNCATE)
    )
}
