//! Rows of `bases`: what the sessions of a project share.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::totals::Delta;
use super::{signed, unsigned};

/// A base without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseInfo {
    pub(crate) base_id: u64,
    /// Payload bytes of the messages that it was made from.
    pub(crate) source_raw_bytes: u64,
}

/// The newest base of a project: a project grows, and clocks jump.
pub(crate) fn newest(connection: &Connection, project: &str) -> rusqlite::Result<Option<BaseInfo>> {
    connection
        .prepare_cached(
            "SELECT base_id, source_raw_bytes FROM bases WHERE project = ?1
             ORDER BY source_raw_bytes DESC, created_ms DESC, base_id LIMIT 1",
        )?
        .query_row([project], base_info)
        .optional()
}

/// A base, if it is there.
pub(crate) fn info(connection: &Connection, base_id: u64) -> rusqlite::Result<Option<BaseInfo>> {
    connection
        .prepare_cached("SELECT base_id, source_raw_bytes FROM bases WHERE base_id = ?1")?
        .query_row([base_id.cast_signed()], base_info)
        .optional()
}

fn base_info(row: &Row<'_>) -> rusqlite::Result<BaseInfo> {
    Ok(BaseInfo {
        base_id: row.get::<_, i64>("base_id")?.cast_unsigned(),
        source_raw_bytes: unsigned(row, "source_raw_bytes")?,
    })
}

/// The bytes of a base.
pub(crate) fn encoded(connection: &Connection, base_id: u64) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT encoded FROM bases WHERE base_id = ?1")?
        .query_row([base_id.cast_signed()], |row| row.get(0))
        .optional()
}

/// What a base takes, and what it is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseUse {
    pub(crate) stored_bytes: u64,
    /// Payload bytes of all segments that need it.
    pub(crate) segments_raw_bytes: u64,
}

/// The size of a base, and the payload bytes of all segments that need it.
pub(crate) fn use_of(connection: &Connection, base_id: u64) -> rusqlite::Result<BaseUse> {
    connection
        .prepare(
            "SELECT (SELECT coalesce(sum(length(encoded)), 0) FROM bases WHERE base_id = ?1)
                        AS stored_bytes,
                    (SELECT coalesce(sum(raw_bytes), 0) FROM segments WHERE base_id = ?1)
                        AS raw_bytes",
        )?
        .query_row([base_id.cast_signed()], |row| {
            Ok(BaseUse {
                stored_bytes: unsigned(row, "stored_bytes")?,
                segments_raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })
}

/// Bytes of a project's bases.
pub(crate) fn bytes_of(connection: &Connection, project: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT coalesce(sum(length(encoded)), 0) AS bytes FROM bases WHERE project = ?1",
        )?
        .query_row([project], |row| unsigned(row, "bytes"))
}

/// Adds a base, unless it is there already; the change to the totals.
pub(crate) fn insert(
    connection: &Connection,
    base: &BaseInfo,
    project: &str,
    created_ms: i64,
    encoded: &[u8],
) -> rusqlite::Result<Delta> {
    let added = connection
        .prepare_cached(
            "INSERT INTO bases (base_id, project, source_raw_bytes, created_ms, encoded)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            base.base_id.cast_signed(),
            project,
            signed(base.source_raw_bytes),
            created_ms,
            encoded
        ])?;
    let added = added as i64;
    Ok(Delta {
        bases: added,
        base_bytes: added * encoded.len() as i64,
        ..Delta::default()
    })
}

/// Deletes a base's row and inserts it again as it was, which puts its pages in order: SQLite takes,
/// for each, the free page nearest to the one before.
pub(crate) fn write_again(connection: &Connection, base_id: u64) -> rusqlite::Result<()> {
    let base_id = base_id.cast_signed();
    let (project, source_raw_bytes, created_ms, encoded) = connection
        .prepare_cached(
            "SELECT project, source_raw_bytes, created_ms, encoded FROM bases WHERE base_id = ?1",
        )?
        .query_row([base_id], |row| {
            Ok((
                row.get::<_, String>("project")?,
                row.get::<_, i64>("source_raw_bytes")?,
                row.get::<_, i64>("created_ms")?,
                row.get::<_, Vec<u8>>("encoded")?,
            ))
        })?;
    connection
        .prepare_cached("DELETE FROM bases WHERE base_id = ?1")?
        .execute([base_id])?;
    connection
        .prepare_cached(
            "INSERT INTO bases (base_id, project, source_raw_bytes, created_ms, encoded)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            base_id,
            project,
            source_raw_bytes,
            created_ms,
            encoded
        ])?;
    Ok(())
}

/// The bases that no segment needs, as the index has it.
pub(crate) fn unused_by_index(connection: &Connection) -> rusqlite::Result<BTreeSet<u64>> {
    connection
        .prepare_cached(
            "SELECT base_id FROM bases WHERE NOT EXISTS
                (SELECT 1 FROM segments WHERE segments.base_id = bases.base_id)",
        )?
        .query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?
        .collect()
}

/// Deletes those of the bases that no segment needs; the change to the totals.
pub(crate) fn delete_unused(connection: &Connection, unused: &[u64]) -> rusqlite::Result<Delta> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM bases WHERE base_id = ?1 AND NOT EXISTS
            (SELECT 1 FROM segments WHERE segments.base_id = ?1)
         RETURNING length(encoded)",
    )?;
    let mut delta = Delta::default();
    for base_id in unused {
        let mut rows = statement.query([base_id.cast_signed()])?;
        while let Some(row) = rows.next()? {
            delta.bases -= 1;
            delta.base_bytes -= row.get::<_, i64>(0)?;
        }
    }
    Ok(delta)
}

/// Bases that segments need and that are not there, for `verify`.
pub(crate) fn missing(connection: &Connection) -> rusqlite::Result<Vec<u64>> {
    connection
        .prepare(
            "SELECT DISTINCT base_id FROM segments
             WHERE base_id IS NOT NULL AND base_id NOT IN (SELECT base_id FROM bases)",
        )?
        .query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?
        .collect()
}
