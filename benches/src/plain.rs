//! The peer: one row a message, a unique index on session and sequence, one INSERT per commit.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

/// How the plain table keeps its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Write-ahead log, as most tools set it.
    Wal,
    /// SQLite's default.
    Rollback,
}

/// The plain table.
pub struct Plain(Connection);

impl Plain {
    /// A new one at `path`, with `synchronous=FULL`.
    #[must_use]
    pub fn create(path: &Path, journal: Journal) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        let mode = match journal {
            Journal::Wal => "WAL",
            Journal::Rollback => "DELETE",
        };
        connection
            .query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(()))
            .unwrap();
        connection
            .execute_batch(
                "PRAGMA synchronous=FULL;
                CREATE TABLE messages (
                    id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
                    sequence INTEGER NOT NULL, message_type TEXT NOT NULL, payload TEXT NOT NULL,
                    created_at INTEGER NOT NULL);
                CREATE UNIQUE INDEX messages_by_sequence ON messages (session_id, sequence);",
            )
            .unwrap();
        Self(connection)
    }

    /// One message. Outside a transaction it is one of its own.
    pub fn insert(&self, session: &str, sequence: u64, payload: &[u8]) {
        self.0
            .prepare_cached(
                "INSERT INTO messages (session_id, sequence, message_type, payload, created_at)
                 VALUES (?1, ?2, 'assistant', CAST(?3 AS TEXT), 1700000000)",
            )
            .unwrap()
            .execute(params![session, sequence as i64, payload])
            .unwrap();
    }

    /// Many messages in one transaction.
    pub fn insert_all<'a>(&self, session: &str, payloads: impl Iterator<Item = &'a [u8]>) {
        self.0.execute_batch("BEGIN").unwrap();
        for (sequence, payload) in (1..).zip(payloads) {
            self.insert(session, sequence, payload);
        }
        self.0.execute_batch("COMMIT").unwrap();
    }

    /// Reads a session in order; messages and bytes.
    #[must_use]
    pub fn scan(&self, session: &str) -> (u64, u64) {
        let mut statement = self
            .0
            .prepare_cached(
                "SELECT sequence, payload FROM messages WHERE session_id = ?1 ORDER BY sequence",
            )
            .unwrap();
        let mut rows = statement.query([session]).unwrap();
        let (mut messages, mut bytes) = (0, 0);
        while let Some(row) = rows.next().unwrap() {
            let payload = row.get_ref(1).unwrap();
            messages += 1;
            bytes += payload.as_bytes().unwrap().len() as u64;
        }
        (messages, bytes)
    }

    /// Bytes of one message.
    #[must_use]
    pub fn one(&self, session: &str, sequence: u64) -> usize {
        self.0
            .prepare_cached("SELECT payload FROM messages WHERE session_id = ?1 AND sequence = ?2")
            .unwrap()
            .query_row(params![session, sequence as i64], |row| {
                Ok(row.get_ref(0)?.as_bytes()?.len())
            })
            .unwrap()
    }

    /// Rewrites the file without gaps, as the comparison's size is measured.
    pub fn vacuum(&self) {
        self.0.execute_batch("VACUUM").unwrap();
        self.0
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
    }
}

/// Bytes of a database and its log.
#[must_use]
pub fn bytes_on_disk(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path.as_os_str(), &log]
        .into_iter()
        .filter_map(|file| std::fs::metadata(file).ok())
        .map(|metadata| metadata.len())
        .sum()
}
