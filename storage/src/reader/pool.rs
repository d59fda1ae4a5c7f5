//! Connections that cannot write, kept for the next reader.
//!
//! r2d2 opens them on threads of its own, and such a thread may be the last that holds one. So whoever
//! drops the pool waits until all are closed: a process that ended before that would leave an empty
//! log and its shared memory beside the file.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::limits::{READER_CLOSE_MS_MAX, READER_WAIT_MS_MAX};
use crate::open_files::OpenFile;
use crate::sql::db::{Db, ReaderTarget};

/// A connection out of the pool, to which it goes back when it is dropped.
pub(crate) type Reader = PooledConnection<Manager>;

#[derive(Debug)]
pub(super) struct Pool {
    db: Db,
    /// There until it is dropped.
    connections: Option<r2d2::Pool<Manager>>,
    open: Arc<OpenConnections>,
    // Last: it must outlive the connections.
    _open_file: Arc<OpenFile>,
}

impl Pool {
    /// Opens no connection yet. Beside no writer of this process they leave the log alone, see
    /// [`Db::leave_log`].
    pub(super) fn new(
        db: &Db,
        target: ReaderTarget,
        connections_max: u32,
        beside_writer: bool,
        open_file: Arc<OpenFile>,
    ) -> Self {
        let of_log = db.clone();
        let open = Arc::<OpenConnections>::default();
        let manager = SqliteConnectionManager::file(&target.name)
            .with_flags(target.flags)
            .with_init(move |connection| {
                target.set_up(connection)?;
                match beside_writer {
                    true => Ok(()),
                    false => of_log.leave_log(connection),
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
            .error_handler(Box::new(LogErrors))
            .build_unchecked(Manager {
                manager,
                open: Arc::clone(&open),
            });
        Self {
            db: db.clone(),
            connections: Some(connections),
            open,
            _open_file: open_file,
        }
    }

    pub(super) fn get(&self) -> Result<Reader> {
        let started = Instant::now();
        let connections = self.connections.as_ref().ok_or(StoreError::Cancelled)?;
        connections.get().map_err(|error| StoreError::Busy {
            path: self.db.path().to_owned(),
            what: "every reader's connection",
            holder: format!("other readers ({error})"),
            waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.connections.take());
        self.open.wait_until_closed();
    }
}

#[derive(Debug)]
struct LogErrors;

impl r2d2::HandleError<rusqlite::Error> for LogErrors {
    fn handle_error(&self, error: rusqlite::Error) {
        tracing::warn!(%error, "a reader's connection could not be opened");
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
    open: Arc<OpenConnections>,
}

#[derive(Debug)]
pub(crate) struct CountedConnection {
    connection: Connection,
    // Last: it counts until the connection is closed.
    _counted: Counted,
}

impl Deref for CountedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl ManageConnection for Manager {
    type Connection = CountedConnection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<CountedConnection> {
        let counted = self.open.count();
        Ok(CountedConnection {
            connection: self.manager.connect()?,
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
