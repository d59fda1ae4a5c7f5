//! From an empty or older file to the current format, and never from a foreign or newer one.

use betcode_schema_sql::{APPLICATION_ID, MIGRATIONS, Migration, SCHEMA_VERSION};
use rusqlite::Connection;

use super::db::{Db, set_wal, write_transaction};
use crate::error::{Result, StoreError};

/// What a file turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    /// No tables yet.
    Empty,
    /// A store of this format.
    Store { version: u32 },
}

/// Looks at a file without changing it.
///
/// # Errors
/// [`StoreError::Foreign`] or [`StoreError::Newer`] for files that are not ours to touch.
pub(crate) fn inspect(db: &Db, connection: &Connection) -> Result<FileState> {
    // One snapshot: another process may be making or migrating the store.
    let _snapshot = db.context("begin to read", connection.unchecked_transaction())?;
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
    };
    let application_id = db.context("read the file's header", number("application_id"))?;
    let version = db.context("read the file's header", number("user_version"))?;
    let tables: i64 = db.context(
        "read the schema",
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)),
    )?;
    if tables == 0 && application_id == 0 && version == 0 {
        return Ok(FileState::Empty);
    }
    if application_id != i64::from(APPLICATION_ID) {
        let why = format!("application_id is {application_id:#x}, not {APPLICATION_ID:#x}");
        return Err(StoreError::Foreign {
            path: db.path().to_owned(),
            why,
        });
    }
    match u32::try_from(version) {
        Ok(0) => Err(StoreError::Foreign {
            path: db.path().to_owned(),
            why: "it has no format number".into(),
        }),
        Ok(version) if version <= SCHEMA_VERSION => Ok(FileState::Store { version }),
        _ => Err(StoreError::Newer {
            path: db.path().to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        }),
    }
}

/// Brings an empty or older file to the current format. Before an older file is touched, a copy
/// of it is written to `<file>.v<version>.backup` by `back_up`. A new store is created at `now_ms`.
pub(crate) fn bring_up(
    db: &Db,
    connection: &mut Connection,
    now_ms: i64,
    back_up: impl FnOnce(&Connection, u32) -> Result<()>,
) -> Result<()> {
    apply(db, connection, MIGRATIONS, now_ms, back_up)
}

/// What steps need that cannot be said in SQL.
struct BeyondSql {
    now_ms: i64,
    /// See [`super::sessions::with_ids_to_carry_over`].
    with_ids_to_carry_over: Vec<i64>,
}

impl BeyondSql {
    /// Does what belongs to the step to `version`.
    fn apply(&self, connection: &Connection, version: u32) -> rusqlite::Result<()> {
        use super::{imports, sessions, totals};
        match version {
            // The statements have SQLite's time, and a store has its own clock.
            1 => totals::set_created(connection, self.now_ms),
            2 => imports::carry_over_format_1(connection),
            3 => sessions::carry_over_agent_ids(connection, &self.with_ids_to_carry_over),
            _ => Ok(()),
        }
    }
}

fn apply(
    db: &Db,
    connection: &mut Connection,
    migrations: &[Migration],
    now_ms: i64,
    back_up: impl FnOnce(&Connection, u32) -> Result<()>,
) -> Result<()> {
    let version = match inspect(db, connection)? {
        FileState::Empty => {
            db.context("turn on the write-ahead log", set_wal(connection))?;
            0
        }
        FileState::Store { version } => version,
    };
    let missing: Vec<_> = migrations.iter().filter(|m| m.version > version).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut beyond_sql = BeyondSql {
        now_ms,
        with_ids_to_carry_over: Vec::new(),
    };
    if version > 0 {
        back_up(connection, version)?;
    }
    if (1..3).contains(&version) {
        let found = super::sessions::with_ids_to_carry_over(connection);
        beyond_sql.with_ids_to_carry_over = db.context("look at the agents' ids", found)?;
    }
    // All steps or none: a crash in between leaves the old format, and the next opening tries again.
    write_transaction(db, connection, "migrate the schema", |transaction| {
        // Another process may have done it while this one waited for the lock.
        let now: u32 = db.context(
            "read the file's header",
            transaction.query_row("PRAGMA user_version", [], |row| row.get(0)),
        )?;
        for migration in missing.iter().filter(|m| m.version > now) {
            db.context(
                "migrate the schema",
                transaction
                    .execute_batch(migration.sql)
                    .and_then(|()| beyond_sql.apply(transaction, migration.version)),
            )?;
            let stamp = format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};",
                migration.version
            );
            db.context("stamp the format", transaction.execute_batch(&stamp))?;
            tracing::info!(
                version = migration.version,
                name = migration.name,
                "schema migrated"
            );
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Durability;

    const NEXT: Migration = Migration {
        version: SCHEMA_VERSION + 1,
        name: "next",
        sql: "CREATE TABLE later (x TEXT) STRICT",
    };

    fn open(folder: &tempfile::TempDir) -> (Db, Connection) {
        let db = Db::at(&folder.path().join("s.db"));
        let connection = db.connect_writer(Durability::Full).unwrap();
        (db, connection)
    }

    fn version(connection: &Connection) -> u32 {
        connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_new_file_gets_the_pragmas_of_birth() {
        let folder = tempfile::tempdir().unwrap();
        let (db, mut connection) = open(&folder);
        bring_up(&db, &mut connection, 0, |_, _| panic!("nothing to back up")).unwrap();
        let pragma = |name: &str| -> String {
            connection
                .query_row(&format!("PRAGMA {name}"), [], |row| {
                    row.get::<_, rusqlite::types::Value>(0)
                })
                .map(|value| format!("{value:?}"))
                .unwrap()
        };
        assert_eq!(pragma("auto_vacuum"), "Integer(2)");
        assert_eq!(
            pragma("page_size"),
            format!("Integer({})", crate::limits::PAGE_BYTES)
        );
        assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
        assert_eq!(pragma("synchronous"), "Integer(2)");
        assert_eq!(version(&connection), SCHEMA_VERSION);
    }

    #[test]
    fn an_older_file_is_backed_up_before_it_is_migrated() {
        let folder = tempfile::tempdir().unwrap();
        let (db, mut connection) = open(&folder);
        bring_up(&db, &mut connection, 0, |_, _| Ok(())).unwrap();
        let all: Vec<_> = MIGRATIONS.iter().copied().chain([NEXT]).collect();
        let mut backed_up = None;
        let result = apply(&db, &mut connection, &all, 0, |connection, from| {
            backed_up = Some((from, version(connection)));
            Ok(())
        });
        result.unwrap();
        assert_eq!(backed_up, Some((SCHEMA_VERSION, SCHEMA_VERSION)));
        assert_eq!(version(&connection), SCHEMA_VERSION + 1);
    }

    #[test]
    fn a_failed_backup_leaves_the_older_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (db, mut connection) = open(&folder);
        bring_up(&db, &mut connection, 0, |_, _| Ok(())).unwrap();
        let all: Vec<_> = MIGRATIONS.iter().copied().chain([NEXT]).collect();
        let refused = apply(&db, &mut connection, &all, 0, |_, _| {
            Err(StoreError::Cancelled)
        });
        assert!(refused.is_err());
        assert_eq!(version(&connection), SCHEMA_VERSION);
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (db, mut connection) = open(&folder);
        bring_up(&db, &mut connection, 0, |_, _| Ok(())).unwrap();
        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
        assert!(matches!(
            inspect(&db, &connection),
            Err(StoreError::Newer { .. })
        ));
        connection.pragma_update(None, "application_id", 7).unwrap();
        assert!(matches!(
            inspect(&db, &connection),
            Err(StoreError::Foreign { .. })
        ));
    }
}
