//! Connections: how each is opened, what it may do, and what its failures are called.

mod failure;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use betcode_schema_sql::SCHEMA_VERSION;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::clock::millis;
use crate::error::{Result, StoreError};
use crate::files;
use crate::limits;
use crate::open_files::CutOff;
use crate::options::Durability;
use failure::{is_out_of_space, may_be_read_only};

pub(crate) use failure::{is_damage, is_damaged_page, is_invalid_value};

/// SQLite before 3.51.3 can lose committed writes when two connections write and checkpoint at
/// the same time (the WAL-reset bug).
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// A database file and the names of the files beside it.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    path: PathBuf,
}

impl Db {
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `<file><suffix>` beside the database.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Bytes of the WAL file; 0 when there is none.
    pub(crate) fn wal_bytes(&self) -> Result<u64> {
        bytes_of(&self.beside("-wal"))
    }

    /// Bytes of the main file; 0 when there is none.
    pub(crate) fn main_bytes(&self) -> Result<u64> {
        bytes_of(&self.path)
    }

    /// Whether there may be something in the log. True if its size cannot be read.
    pub(crate) fn may_have_log(&self) -> bool {
        !matches!(self.wal_bytes(), Ok(0))
    }

    pub(crate) fn check_sqlite_version() -> Result<()> {
        let found = rusqlite::version_number();
        if found < SQLITE_VERSION_MIN {
            return Err(StoreError::SqliteTooOld { found });
        }
        Ok(())
    }

    /// Opens a connection that may write, creating an empty file when there is none.
    pub(crate) fn connect_writer(&self, durability: Durability) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let name = name_for_sqlite(&self.path);
        let connection =
            self.context("open for writing", Connection::open_with_flags(name, flags))?;
        self.context("set up the writer", set_up_writer(&connection, durability))?;
        Ok(connection)
    }

    /// How readers open the file. The first of these that works:
    ///
    /// 1. For writing, held back by `query_only`: readers of a WAL file write to its shared memory.
    /// 2. Read-only, where the user may not write.
    /// 3. `immutable`, without a log: on a read-only file system, and on a full disk if no process has the
    ///    file open, because there is no space for the shared memory.
    ///
    /// A file that may be `cut_off` is opened a second time with `writable_schema`, which lets SQLite read the
    /// pages that are there. It is cut off if SQLite finds it damaged without that.
    pub(crate) fn reader_target(&self, cut_off: Option<CutOff>) -> Result<ReaderTarget> {
        if !self.path.exists() {
            return Err(StoreError::Missing {
                path: self.path.clone(),
            });
        }
        let shared = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let name = name_for_sqlite(&self.path);
        let candidates = [
            (name.clone(), shared | OpenFlags::SQLITE_OPEN_READ_WRITE),
            (name, shared | OpenFlags::SQLITE_OPEN_READ_ONLY),
            (
                self.immutable_uri(),
                shared | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            ),
        ];
        let is_in_use = self.is_in_use();
        let mut failure = None;
        for (name, flags) in candidates {
            // `immutable` reads the file without its log.
            if flags.contains(OpenFlags::SQLITE_OPEN_URI) && self.may_have_log() {
                continue;
            }
            let mut target = ReaderTarget {
                name,
                flags,
                cut_off: None,
            };
            let probe = |target: &ReaderTarget| {
                let connection = Connection::open_with_flags(&target.name, target.flags)?;
                target.set_up(&connection)?;
                self.leave_log(&connection)?;
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            };
            let mut probed = probe(&target);
            if probed.as_ref().is_err_and(is_damaged_page) && cut_off.is_some() {
                target.cut_off = cut_off;
                probed = probe(&target);
            }
            match probed {
                Ok(()) => return Ok(target),
                Err(error)
                    if is_damaged_page(&error)
                        && let Some(cut_off) = target.cut_off =>
                {
                    return Err(StoreError::Damaged {
                        session: None,
                        what: format!(
                            "{}: {cut_off}, and the pages with its schema are not among them: nothing of it \
                             can be read",
                            self.path.display()
                        ),
                    });
                }
                Err(error) if may_be_read_only(&error) => failure = failure.or(Some(error)),
                Err(error) if is_out_of_space(&error) && !is_in_use => {
                    failure = failure.or(Some(error));
                }
                // A file in use must not be opened as immutable.
                Err(error) => return Err(self.store_error("open for reading", error)),
            }
        }
        let error = failure.unwrap_or(rusqlite::Error::InvalidQuery);
        Err(self.store_error("open for reading", error))
    }

    /// Opens one connection for reading.
    pub(crate) fn connect_reader(&self) -> Result<Connection> {
        self.connect_to(&self.reader_target(None)?)
    }

    pub(crate) fn connect_to(&self, target: &ReaderTarget) -> Result<Connection> {
        let opened = Connection::open_with_flags(&target.name, target.flags);
        let connection = self.context("open for reading", opened)?;
        self.context("set up a reader", target.set_up(&connection))?;
        self.context("set up a reader", self.leave_log(&connection))?;
        Ok(connection)
    }

    /// How the file is cut off if a part of its last page is there: SQLite treats such a page as whole.
    pub(crate) fn cut_off_in_last_page(&self, connection: &Connection) -> Result<Option<CutOff>> {
        // The file has no other length while something is read from it and its log is empty.
        let snapshot = self.context("begin to read", connection.unchecked_transaction())?;
        let pages = self.context("count pages", super::space::pages(&snapshot))?;
        let page_bytes = u64::from(limits::PAGE_BYTES);
        let main_bytes = self.main_bytes()?;
        let is_short = main_bytes < pages * page_bytes && self.wal_bytes()? == 0;
        Ok(is_short.then(|| CutOff {
            pages_there: main_bytes / page_bytes,
            pages,
        }))
    }

    /// Keeps a reader that is the last to close from moving the log into the main file, so that reading the store of
    /// a killed process changes nothing. The next writer reads that log.
    ///
    /// If the log is empty, closing removes the empty files as usual.
    pub(crate) fn leave_log(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.may_have_log() {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        Ok(())
    }

    /// Whether a process has the file open: its shared memory exists then. A failed attempt to create that leaves a
    /// few bytes.
    fn is_in_use(&self) -> bool {
        const SHARED_MEMORY_BYTES_MIN: u64 = 32 << 10;
        bytes_of(&self.beside("-shm")).map_or(true, |bytes| bytes >= SHARED_MEMORY_BYTES_MIN)
    }

    fn immutable_uri(&self) -> PathBuf {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut uri = b"file:".to_vec();
        for &byte in self.path.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
                uri.push(byte);
            } else {
                uri.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        uri.extend_from_slice(b"?immutable=1");
        PathBuf::from(std::ffi::OsString::from_vec(uri))
    }
}

/// Bytes of a file; 0 only when there is none. If the system does not say, decisions that depend on a
/// file's being empty must not be made.
fn bytes_of(path: &Path) -> Result<u64> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(files::io_error("read the size of", path)(error)),
    }
}

/// How readers open a file: the name to give SQLite, and the flags.
#[derive(Debug, Clone)]
pub(crate) struct ReaderTarget {
    pub(crate) name: PathBuf,
    pub(crate) flags: OpenFlags,
    /// Set where the file ends before its last page.
    pub(crate) cut_off: Option<CutOff>,
}

impl ReaderTarget {
    /// Sets a connection up that was opened so.
    pub(crate) fn set_up(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.cut_off.is_some() {
            // First, for the other pragmas read the file: without it SQLite reads nothing of a file that
            // is shorter than its header says, and with it each page that is there. It writes no more
            // for it, see `query_only`.
            connection.pragma_update(None, "writable_schema", true)?;
        }
        set_up_reader(connection)
    }
}

/// A path by a name that SQLite takes for a file's. `file:x.db` is a URI to it, which leads to another file
/// than the system's calls do, and `:memory:` is none at all: what was written there would be gone.
pub(crate) fn name_for_sqlite(path: &Path) -> PathBuf {
    if path.is_absolute() {
        path.to_owned()
    } else {
        Path::new(".").join(path)
    }
}

/// SQLite's number for `PRAGMA auto_vacuum = INCREMENTAL`.
pub(crate) const AUTO_VACUUM_INCREMENTAL: i64 = 2;

/// Pragmas of the one connection that writes. `page_size` and `auto_vacuum` only have effect on
/// an empty file, in this order, before the journal mode and the first table.
fn set_up_writer(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    set_busy_wait(connection)?;
    connection.pragma_update(None, "page_size", limits::PAGE_BYTES)?;
    // Setting it writes to the file even when it is set already, and opening should not.
    let auto_vacuum: i64 = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))?;
    if auto_vacuum != AUTO_VACUUM_INCREMENTAL {
        connection.pragma_update(None, "auto_vacuum", AUTO_VACUUM_INCREMENTAL)?;
    }
    set_common(connection, limits::WRITER_CACHE_KIB)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(
        None,
        "journal_size_limit",
        limits::WAL_BYTES_KEPT_MAX as i64,
    )?;
    // macOS: there a sync reaches the disk itself only with these. Elsewhere they do nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // The writer thread checkpoints between commits, so that no commit pays for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn set_up_reader(connection: &Connection) -> rusqlite::Result<()> {
    set_busy_wait(connection)?;
    set_common(connection, limits::READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn set_common(connection: &Connection, cache_kib: i64) -> rusqlite::Result<()> {
    // An I/O error under mmap is a signal that kills the process instead of an error code.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// Turns the file to WAL, which is kept in it.
pub(crate) fn set_wal(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
}

thread_local! {
    /// How long the connections of this thread wait for a lock, and since when one of them does:
    /// SQLite's busy handler is a plain function.
    static BUSY_WAIT_MS: Cell<u64> = const { Cell::new(limits::BUSY_WAIT_MS_MAX) };
    static BUSY_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// How long the last wait was that was given up; 0 once that was reported.
    static BUSY_WAITED_MS: Cell<u64> = const { Cell::new(0) };
}

/// Times that a connection of this process found a lock taken and waited for it.
static BUSY_WAITS: AtomicU64 = AtomicU64::new(0);

/// How often a connection of this process has waited for a lock that another connection had, in any store.
#[must_use]
pub fn busy_waits() -> u64 {
    BUSY_WAITS.load(Ordering::Relaxed)
}

/// Looks for a lock every millisecond, and more often at first, instead of SQLite's sleeps of up to
/// 100 ms: other processes' transactions are short, and appends wait behind this.
fn set_busy_wait(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(|attempts| {
        let now = Instant::now();
        if attempts == 0 {
            BUSY_WAITS.fetch_add(1, Ordering::Relaxed);
            BUSY_SINCE.set(Some(now));
            BUSY_WAITED_MS.set(0);
        }
        let waited = BUSY_SINCE.get().map_or(Duration::ZERO, |since| now - since);
        if waited >= Duration::from_millis(BUSY_WAIT_MS.get()) {
            BUSY_WAITED_MS.set(millis(waited));
            return false;
        }
        std::thread::sleep(
            if waited < Duration::from_millis(limits::BUSY_POLL_OFTEN_MS_MAX) {
                Duration::from_micros(limits::BUSY_POLL_OFTEN_US)
            } else {
                Duration::from_millis(limits::BUSY_POLL_MS)
            },
        );
        true
    }))
}

/// Does `work` with connections that wait for locks no longer than `wait_ms_max`.
pub(crate) fn waiting_at_most<T>(wait_ms_max: u64, work: impl FnOnce() -> T) -> T {
    let usual = BUSY_WAIT_MS.replace(wait_ms_max);
    let result = work();
    BUSY_WAIT_MS.set(usual);
    result
}

/// Runs `work` in a transaction that holds the write lock from its beginning, so that what it
/// reads cannot be outdated when it writes.
pub(crate) fn write_transaction<T>(
    db: &Db,
    connection: &mut Connection,
    action: &'static str,
    work: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = db.context(action, transaction)?;
    refuse_newer(db, &transaction)?;
    let value = work(&transaction)?;
    // Crash point: until the commit returns, nothing of this exists; a failed commit rolls back
    // when the transaction is dropped.
    db.context(action, transaction.commit())?;
    Ok(value)
}

/// Refuses to write a file that a newer build has migrated since this process opened it: rows of an earlier format
/// would be damage there.
fn refuse_newer(db: &Db, connection: &Connection) -> Result<()> {
    let found = connection
        .prepare_cached("PRAGMA user_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
    let found: i64 = db.context("read the file's header", found)?;
    if found > i64::from(SCHEMA_VERSION) {
        return Err(StoreError::Newer {
            path: db.path().to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> rusqlite::Error {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY_SNAPSHOT);
        rusqlite::Error::SqliteFailure(code, None)
    }

    #[test]
    fn a_log_whose_size_the_system_does_not_tell_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::at(&folder.path().join("h.db"));
        assert_eq!(db.wal_bytes().unwrap(), 0);
        assert!(!db.may_have_log());
        // A link that leads to itself.
        let log = db.beside("-wal");
        std::os::unix::fs::symlink(&log, &log).unwrap();
        let error = db.wal_bytes().unwrap_err();
        assert!(error.to_string().contains("h.db-wal"), "{error}");
        assert!(db.may_have_log());
        // SQLite reads no log there, and nothing may be read as if there were none.
        std::fs::write(db.path(), "").unwrap();
        let opened = crate::store::Store::open(db.path(), crate::options::StoreOptions::default());
        opened.unwrap_err();
    }

    #[test]
    fn a_lock_that_nobody_waited_for_is_told_as_such() {
        let error = Db::at(Path::new("h.db")).store_error("read", busy());
        let StoreError::Busy { waited_ms, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(waited_ms, 0);
    }
}
