//! The store's write lock, held by somebody else: the daemon's writer has to wait.

use std::path::Path;

use rusqlite::Connection;

/// Another process's transaction, as the daemon sees it.
pub(crate) struct Held(Connection);

impl Held {
    /// Takes the lock of the store at `db`.
    pub(crate) fn take(db: &Path) -> Self {
        let connection = Connection::open(db).unwrap();
        connection
            .busy_timeout(std::time::Duration::from_secs(30))
            .unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    /// Lets go of it, nothing changed.
    pub(crate) fn give_back(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}
