//! Rows of `imports` and `joins`.

use rusqlite::{Connection, Row, params};

use super::{signed, unsigned};
use crate::ids::{SessionId, SessionKey};
use crate::message::{ImportMark, ImportRecord};

pub(crate) fn write(
    connection: &Connection,
    key: SessionKey,
    mark: &ImportMark,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO imports (session_key, source_path, relative_path, taken_bytes,
                taken_digest, unterminated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET source_path = ?2, relative_path = ?3, taken_bytes = ?4,
                taken_digest = ?5, unterminated = ?6",
        )?
        .execute(params![
            key.as_i64(),
            mark.source_path,
            mark.relative_path,
            signed(mark.taken_bytes),
            mark.taken_digest.to_be_bytes(),
            mark.unterminated,
        ])?;
    for &sequence in &mark.joins {
        connection
            .prepare_cached("INSERT OR IGNORE INTO joins (session_key, sequence) VALUES (?1, ?2)")?
            .execute(params![key.as_i64(), signed(sequence)])?;
    }
    Ok(())
}

pub(crate) fn remove(connection: &Connection, key: SessionKey) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM imports WHERE session_key = ?1", [key.as_i64()])?;
    connection.execute("DELETE FROM joins WHERE session_key = ?1", [key.as_i64()])?;
    Ok(())
}

const RECORD: &str = "SELECT imports.*, session_id, last_sequence
    FROM imports JOIN sessions USING (session_key)";

/// Records of the file at `source_path`, newest session first.
pub(crate) fn by_source(
    connection: &Connection,
    source_path: &[u8],
) -> rusqlite::Result<Vec<ImportRecord>> {
    let sql = format!("{RECORD} WHERE source_path = ?1 ORDER BY session_key DESC");
    let rows = connection
        .prepare_cached(&sql)?
        .query_map([source_path], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    with_joins(connection, rows)
}

/// Records of files that stood at `relative_path` below an imported folder, newest first.
pub(crate) fn by_relative(
    connection: &Connection,
    relative_path: &[u8],
) -> rusqlite::Result<Vec<ImportRecord>> {
    let sql = format!("{RECORD} WHERE relative_path = ?1 ORDER BY session_key DESC");
    let rows = connection
        .prepare_cached(&sql)?
        .query_map([relative_path], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    with_joins(connection, rows)
}

/// The record of one session, when it was imported.
pub(crate) fn of_session(
    connection: &Connection,
    key: SessionKey,
) -> rusqlite::Result<Option<ImportRecord>> {
    let sql = format!("{RECORD} WHERE session_key = ?1");
    let rows = connection
        .prepare_cached(&sql)?
        .query_map([key.as_i64()], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(with_joins(connection, rows)?.pop())
}

/// Where a session comes from, for telling its project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) session: SessionKey,
    pub(crate) working_directory: String,
    /// The file that it was imported from.
    pub(crate) source_path: Option<Vec<u8>>,
    pub(crate) raw_bytes: u64,
}

/// The origins of all sessions.
pub(crate) fn origins(connection: &Connection) -> rusqlite::Result<Vec<Origin>> {
    connection
        .prepare_cached(
            "SELECT session_key, working_directory, source_path, raw_bytes
             FROM sessions LEFT JOIN imports USING (session_key)",
        )?
        .query_map([], |row| {
            Ok(Origin {
                session: SessionKey(row.get("session_key")?),
                working_directory: row.get("working_directory")?,
                source_path: row.get("source_path")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })?
        .collect()
}

fn record(row: &Row<'_>) -> rusqlite::Result<(SessionKey, ImportRecord)> {
    let id: String = row.get("session_id")?;
    let digest: [u8; 16] = row.get("taken_digest")?;
    let record = ImportRecord {
        session: SessionId::new(id).map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e))
        })?,
        last_sequence: unsigned(row, "last_sequence")?,
        mark: ImportMark {
            source_path: row.get("source_path")?,
            relative_path: row.get("relative_path")?,
            taken_bytes: unsigned(row, "taken_bytes")?,
            taken_digest: u128::from_be_bytes(digest),
            unterminated: row.get("unterminated")?,
            joins: Vec::new(),
        },
    };
    Ok((SessionKey(row.get("session_key")?), record))
}

fn with_joins(
    connection: &Connection,
    rows: Vec<(SessionKey, ImportRecord)>,
) -> rusqlite::Result<Vec<ImportRecord>> {
    let mut statement = connection
        .prepare_cached("SELECT sequence FROM joins WHERE session_key = ?1 ORDER BY sequence")?;
    rows.into_iter()
        .map(|(key, mut record)| {
            record.mark.joins = statement
                .query_map([key.as_i64()], |row| unsigned(row, "sequence"))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(record)
        })
        .collect()
}
