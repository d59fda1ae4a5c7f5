//! Connections that cannot write, kept for the next reader.
//!
//! Whoever needs a connection makes it, on its own thread, and whoever drops the last handle closes
//! them all. Nothing is left to a thread in the background: a process that ended before it would
//! leave an empty log and its shared memory beside the file.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::error::{Result, StoreError};
use crate::limits::READER_WAIT_MS_MAX;
use crate::open_files::OpenFile;
use crate::sql::db::{Db, set_up_reader};

pub(super) struct Pool {
    db: Db,
    target: PathBuf,
    flags: OpenFlags,
    beside_writer: bool,
    connections_max: u32,
    connections: Mutex<Connections>,
    freed: Condvar,
    // Last: it must outlive the connections.
    _open: Arc<OpenFile>,
}

#[derive(Default)]
struct Connections {
    idle: Vec<Connection>,
    /// Idle ones, those in use, and those being opened.
    count: u32,
}

impl Pool {
    /// Opens none yet. Beside no writer of this process they leave the log alone, see
    /// [`Db::leave_log`].
    pub(super) fn new(
        db: &Db,
        connections_max: u32,
        beside_writer: bool,
        open: Arc<OpenFile>,
    ) -> Result<Self> {
        let (target, flags) = db.reader_target()?;
        Ok(Self {
            db: db.clone(),
            target,
            flags,
            beside_writer,
            connections_max,
            connections: Mutex::default(),
            freed: Condvar::new(),
            _open: open,
        })
    }

    /// A connection, which comes back when it is dropped. Waits while all are in use.
    pub(super) fn get(self: &Arc<Self>) -> Result<Reader> {
        let started = Instant::now();
        let wait_max = Duration::from_millis(READER_WAIT_MS_MAX);
        let in_use = |connections: &mut Connections| {
            connections.idle.is_empty() && connections.count >= self.connections_max
        };
        let waited = self
            .freed
            .wait_timeout_while(self.lock(), wait_max, in_use)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut connections, timeout) = waited;
        if timeout.timed_out() {
            return Err(StoreError::Busy {
                path: self.db.path().to_owned(),
                what: "every reader's connection",
                holder: "other readers".to_owned(),
                waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        let idle = connections.idle.pop();
        if idle.is_none() {
            connections.count += 1;
        }
        drop(connections);
        let connection = idle.map_or_else(|| self.connect(), Ok);
        if connection.is_err() {
            self.lock().count -= 1;
            self.freed.notify_one();
        }
        Ok(Reader {
            connection: Some(connection?),
            pool: Arc::clone(self),
        })
    }

    fn connect(&self) -> Result<Connection> {
        let connected = Connection::open_with_flags(&self.target, self.flags).and_then(|new| {
            set_up_reader(&new)?;
            if !self.beside_writer {
                self.db.leave_log(&new)?;
            }
            Ok(new)
        });
        self.db.named("open for reading", connected)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // No code panics while it holds the lock, so a poisoned one is still whole.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

/// A connection out of the pool.
pub(crate) struct Reader {
    /// There until it is dropped.
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Deref for Reader {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "only dropping takes it")]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a reader in use")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pool.lock().idle.extend(self.connection.take());
        self.pool.freed.notify_one();
    }
}
