//! The pool of read-only connections: `r2d2` with `r2d2_sqlite`, and two additions.
//!
//! r2d2 opens connections on its own threads, so one of these may be the last to hold a connection. Therefore the
//! pool counts connections, and dropping it waits until all are closed. Otherwise a process could end before, and
//! leave an empty log and its shared memory beside the file.
//!
//! r2d2 retries when a connection cannot be opened, and keeps only the text of the error. Therefore the last error
//! is kept here, and a waiting reader gets it at once.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, ffi};

use crate::clock::millis;
use crate::error::{Held, Holder, Result, StoreError};
use crate::limits::{READER_CLOSE_MS_MAX, READER_POLL_MS, READER_WAIT_MS_MAX};
use crate::open_files::OpenFile;
use crate::sql::db::{Db, ReaderTarget};

/// A connection out of the pool, to which it goes back when it is dropped.
pub(crate) type Reader = PooledConnection<Manager>;

#[derive(Debug)]
pub(super) struct Pool {
    db: Db,
    /// `Some` until the pool is dropped.
    connections: Option<r2d2::Pool<Manager>>,
    open: Arc<OpenConnections>,
    failure: Arc<LastFailure>,
    /// Each connection holds it as well, so that it counts as open until the last of them is closed.
    open_file: Arc<OpenFile>,
}

impl Pool {
    /// Opens no connection yet. A store without a writer was opened with a connection, set up as `target` says, which
    /// becomes the `first` one. The connections of such a store leave the log alone, see [`Db::leave_log`].
    pub(super) fn new(
        db: &Db,
        target: ReaderTarget,
        connections_max: u32,
        first: Option<Connection>,
        open_file: Arc<OpenFile>,
    ) -> Self {
        let leaves_log = first.is_some();
        let of_log = db.clone();
        let open = Arc::<OpenConnections>::default();
        let failure = Arc::<LastFailure>::default();
        let manager = SqliteConnectionManager::file(&target.name)
            .with_flags(target.flags)
            .with_init(move |connection| {
                target.set_up(connection)?;
                match leaves_log {
                    true => of_log.leave_log(connection),
                    false => Ok(()),
                }
            });
        let connections = r2d2::Pool::builder()
            .max_size(connections_max)
            .min_idle(Some(0))
            // A connection to a file does not go stale: no need to test it or to renew it.
            .test_on_check_out(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_timeout(Duration::from_millis(READER_WAIT_MS_MAX))
            .error_handler(Box::new(NoteErrors(Arc::clone(&failure))))
            .build_unchecked(Manager {
                manager,
                first: Mutex::new(first.map(|connection| CountedConnection {
                    connection,
                    _open_file: Arc::clone(&open_file),
                    _counted: open.count(),
                })),
                open: Arc::clone(&open),
                open_file: Arc::downgrade(&open_file),
                db: db.clone(),
            });
        Self {
            db: db.clone(),
            connections: Some(connections),
            open,
            failure,
            open_file,
        }
    }

    /// A connection. Waits up to [`READER_WAIT_MS_MAX`] until one is free; fails at once if another one has to be
    /// opened and cannot be.
    pub(super) fn get(&self) -> Result<Reader> {
        let started = Instant::now();
        let wait_max = Duration::from_millis(READER_WAIT_MS_MAX);
        let connections = self
            .connections
            .as_ref()
            .ok_or(StoreError::Closed { why: None })?;
        loop {
            let left = wait_max.saturating_sub(started.elapsed());
            match connections.get_timeout(left.min(Duration::from_millis(READER_POLL_MS))) {
                Ok(connection) => return Ok(connection),
                Err(_) => {
                    if let Some(failure) = self.failure.since(started) {
                        self.open_file.refuse_moved(&self.db)?;
                        return Err(self.db.store_error("open for reading", failure));
                    }
                    if left.is_zero() {
                        return Err(StoreError::Busy {
                            path: self.db.path().to_owned(),
                            what: Held::Readers,
                            holder: Holder::OtherReaders,
                            waited_ms: millis(started.elapsed()),
                        });
                    }
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.connections.take());
        self.open.wait_until_closed();
    }
}

/// When a connection could last not be opened, and why.
#[derive(Debug, Default)]
struct LastFailure(Mutex<Option<(Instant, rusqlite::Error)>>);

impl LastFailure {
    /// The last failure, if it came after `began`. Others who wait for a connection get it as well.
    fn since(&self, began: Instant) -> Option<rusqlite::Error> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, error) = last.as_ref().filter(|(at, _)| *at >= began)?;
        let why = Some(error.to_string());
        Some(match error {
            rusqlite::Error::SqliteFailure(code, why) => {
                rusqlite::Error::SqliteFailure(*code, why.clone())
            }
            other => {
                let code = other.sqlite_error().copied();
                let code = code.unwrap_or_else(|| ffi::Error::new(ffi::SQLITE_ERROR));
                rusqlite::Error::SqliteFailure(code, why)
            }
        })
    }
}

/// Logs why a connection could not be opened, and keeps it for those who wait for one.
#[derive(Debug)]
struct NoteErrors(Arc<LastFailure>);

impl r2d2::HandleError<rusqlite::Error> for NoteErrors {
    fn handle_error(&self, error: rusqlite::Error) {
        tracing::warn!(%error, "a reader's connection could not be opened");
        let mut last = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), error));
    }
}

/// How many connections there are, being opened, in use or idle.
#[derive(Debug, Default)]
struct OpenConnections {
    count: Mutex<usize>,
    closed: Condvar,
}

impl OpenConnections {
    fn count(self: &Arc<Self>) -> Counted {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counted(Arc::clone(self))
    }

    fn wait_until_closed(&self) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let wait_max = Duration::from_millis(READER_CLOSE_MS_MAX);
        let waited = self
            .closed
            .wait_timeout_while(count, wait_max, |count| *count > 0);
        drop(waited);
    }
}

#[derive(Debug)]
struct Counted(Arc<OpenConnections>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.closed.notify_all();
    }
}

/// Opens connections, and counts them.
#[derive(Debug)]
pub(crate) struct Manager {
    manager: SqliteConnectionManager,
    /// A connection that is open already, until it is given out.
    first: Mutex<Option<CountedConnection>>,
    open: Arc<OpenConnections>,
    /// Weak, because a thread of r2d2 may hold the manager a little longer than the pool exists. It opens nothing
    /// then, and must not keep the file registered as open.
    open_file: Weak<OpenFile>,
    db: Db,
}

#[derive(Debug)]
pub(crate) struct CountedConnection {
    connection: Connection,
    // After the connection, which is dropped first: the file counts as open until it is closed.
    _open_file: Arc<OpenFile>,
    // Last, so that nothing of the connection is left once it is not counted any more.
    _counted: Counted,
}

impl Deref for CountedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for CountedConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl ManageConnection for Manager {
    type Connection = CountedConnection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<CountedConnection> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = first.take() {
            return Ok(first);
        }
        drop(first);
        let counted = self.open.count();
        let Some(open_file) = self.open_file.upgrade() else {
            let code = ffi::Error::new(ffi::SQLITE_INTERRUPT);
            let why = Some("the store is closed".to_owned());
            return Err(rusqlite::Error::SqliteFailure(code, why));
        };
        // Another database in its place is never read as this one: neither if it came before, nor meanwhile.
        let refuse_moved = || {
            open_file.refuse_moved(&self.db).map_err(|error| {
                let code = ffi::Error::new(ffi::SQLITE_CANTOPEN);
                rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
            })
        };
        refuse_moved()?;
        let connection = self.manager.connect()?;
        refuse_moved()?;
        Ok(CountedConnection {
            connection,
            _open_file: open_file,
            _counted: counted,
        })
    }

    fn is_valid(&self, connection: &mut CountedConnection) -> rusqlite::Result<()> {
        self.manager.is_valid(&mut connection.connection)
    }

    fn has_broken(&self, connection: &mut CountedConnection) -> bool {
        self.manager.has_broken(&mut connection.connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crate::error::ErrorKind;
    use crate::open_files;
    use crate::options::StoreOptions;
    use crate::store::Store;

    #[test]
    fn a_connection_that_cannot_be_opened_fails_with_its_own_error_and_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let _only = store.inner.readers.get().unwrap();
        std::fs::rename(&path, folder.path().join("moved.db")).unwrap();
        let began = Instant::now();
        let error = store.inner.readers.get().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Moved, "{error}");
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    #[test]
    fn another_database_in_a_store_s_place_is_never_read_as_that_store() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("h.db"), folder.path().join("other.db"));
        drop(Store::open(&other, StoreOptions::default()).unwrap());
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let _only = store.inner.readers.get().unwrap();
        std::fs::rename(&path, folder.path().join("moved.db")).unwrap();
        std::fs::rename(&other, &path).unwrap();
        let error = store.inner.readers.get().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Moved, "{error}");
    }

    #[test]
    fn the_connection_that_looked_at_a_store_serves_its_first_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db");
        drop(Store::open(&path, StoreOptions::default()).unwrap());
        let store = Store::open_read_only(&path, StoreOptions::default()).unwrap();
        std::fs::rename(&path, folder.path().join("moved.db")).unwrap();
        let first = store.inner.readers.get().unwrap();
        let error = store.inner.readers.get().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Moved, "{error}");
        drop(first);
        assert!(store.inner.readers.get().is_ok());
    }

    #[test]
    fn a_file_counts_as_open_as_long_as_a_reader_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let reader = store.inner.readers.get().unwrap();
        // Waits for the reader for a while, and then goes.
        drop(store);
        assert!(open_files::is_open(&path));
        drop(reader);
        assert!(!open_files::is_open(&path));
    }
}
