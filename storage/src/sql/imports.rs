//! Rows of `imports`, `import_folders`, `import_paths` and `joins`.
//!
//! Reading understands the tables of format 1 as well, for stores that cannot be migrated because they are backups
//! or on a read-only file system.

mod paths;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::paths::{Paths, part_starts, path_hash};
use super::db::is_damage;
use super::{signed, unsigned};
use crate::ids::{SessionId, SessionKey};
use crate::message::{ImportMark, ImportRecord};

/// Which tables a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Format1,
    Format2,
}

/// Reads layout and rows as of one moment: another process may migrate the file.
fn read_rows<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection, Layout) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let snapshot = connection
        .is_autocommit()
        .then(|| connection.unchecked_transaction())
        .transpose()?;
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let layout = match version {
        1 => Layout::Format1,
        _ => Layout::Format2,
    };
    let found = read(connection, layout);
    drop(snapshot);
    found
}

/// Notes how far a file was taken by a batch, which adds messages to the session or finds them there.
pub(crate) fn write(
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    mark: &ImportMark,
    adds_messages: bool,
) -> rusqlite::Result<()> {
    let known = by_key(connection, Layout::Format2, key);
    // Of two imports of a file that grows, the one that saw less of it may come last.
    let is_older = matches!(&known, Ok(Some(known)) if known.mark.taken_bytes > mark.taken_bytes);
    if is_older && !adds_messages {
        return Ok(());
    }
    let is_at_same_place = matches!(&known, Ok(Some(known)) if known.mark.source_path
        == mark.source_path && known.mark.relative_path == mark.relative_path);
    if is_at_same_place {
        connection
            .prepare_cached(
                "UPDATE imports SET taken_bytes = ?2, taken_digest = ?3, unterminated = ?4
                 WHERE session_key = ?1",
            )?
            .execute(params![
                key.as_i64(),
                signed(mark.taken_bytes),
                mark.taken_digest.to_be_bytes(),
                mark.unterminated,
            ])?;
    } else {
        remove_row(connection, key, known)?;
        insert(connection, key, Some(id.as_str()), mark)?;
    }
    for &sequence in &mark.joins {
        connection
            .prepare_cached("INSERT OR IGNORE INTO joins (session_key, sequence) VALUES (?1, ?2)")?
            .execute(params![key.as_i64(), signed(sequence)])?;
    }
    Ok(())
}

/// Writes the rows of a session that has none.
fn insert(
    connection: &Connection,
    key: SessionKey,
    id: Option<&str>,
    mark: &ImportMark,
) -> rusqlite::Result<()> {
    let paths = Paths::of(mark);
    let after_id = id.and_then(|id| paths.file_name.strip_prefix(id.as_bytes()));
    connection
        .prepare_cached(
            "INSERT INTO imports (session_key, folder_id, begins_with_id, file_name, taken_bytes,
                taken_digest, unterminated, relative_path)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            key.as_i64(),
            enter_folder(connection, &paths)?,
            after_id.is_some(),
            after_id.unwrap_or(paths.file_name),
            signed(mark.taken_bytes),
            mark.taken_digest.to_be_bytes(),
            mark.unterminated,
            paths.relative,
        ])?;
    for hash in Paths::hashes(mark) {
        connection
            .prepare_cached("INSERT INTO import_paths (path_hash, session_key) VALUES (?1, ?2)")?
            .execute(params![hash, key.as_i64()])?;
    }
    Ok(())
}

/// Counts a file for its folder; the folder's number.
///
/// The number is a hash of the folder, so no index is needed to find it. If another folder has that number,
/// the next free one is taken. If the other folder is deleted later, the same folder may be entered twice,
/// which is harmless.
fn enter_folder(connection: &Connection, paths: &Paths<'_>) -> rusqlite::Result<i64> {
    let root_bytes = paths.root_bytes as u64;
    // Short enough to take three bytes in a row.
    let mut folder_id = signed(xxh3_64_with_seed(paths.folder, root_bytes) >> 41);
    loop {
        let is_same: Option<bool> = connection
            .prepare_cached(
                "SELECT path = ?2 AND root_bytes = ?3 FROM import_folders WHERE folder_id = ?1",
            )?
            .query_row(
                params![folder_id, paths.folder, signed(root_bytes)],
                |row| row.get(0),
            )
            .optional()?;
        match is_same {
            Some(false) => folder_id += 1,
            Some(true) => {
                connection
                    .prepare_cached(
                        "UPDATE import_folders SET files = files + 1 WHERE folder_id = ?1",
                    )?
                    .execute([folder_id])?;
                return Ok(folder_id);
            }
            None => {
                connection
                    .prepare_cached(
                        "INSERT INTO import_folders (folder_id, path, root_bytes, files)
                         VALUES (?1, ?2, ?3, 1)",
                    )?
                    .execute(params![folder_id, paths.folder, signed(root_bytes)])?;
                return Ok(folder_id);
            }
        }
    }
}

/// Removes all that is kept of where a session comes from.
pub(crate) fn remove(connection: &Connection, key: SessionKey) -> rusqlite::Result<()> {
    remove_row(connection, key, by_key(connection, Layout::Format2, key))?;
    connection.execute("DELETE FROM joins WHERE session_key = ?1", [key.as_i64()])?;
    Ok(())
}

/// Removes a row that reads as `known`, what it is found by, and its folder if it was the last one
/// of it.
fn remove_row(
    connection: &Connection,
    key: SessionKey,
    known: rusqlite::Result<Option<ImportRecord>>,
) -> rusqlite::Result<()> {
    match known {
        Ok(None) => return Ok(()),
        Ok(Some(known)) => {
            for hash in Paths::hashes(&known.mark) {
                connection
                    .prepare_cached(
                        "DELETE FROM import_paths WHERE path_hash = ?1 AND session_key = ?2",
                    )?
                    .execute(params![hash, key.as_i64()])?;
            }
        }
        // What failed for another reason may have ended the transaction.
        Err(error) if !is_damage(&error) => return Err(error),
        // A damaged row does not keep a session from being deleted; it only takes a search.
        Err(_) => {
            connection.execute(
                "DELETE FROM import_paths WHERE session_key = ?1",
                [key.as_i64()],
            )?;
        }
    }
    connection
        .prepare_cached(
            "UPDATE import_folders SET files = files - 1
             WHERE folder_id = (SELECT folder_id FROM imports WHERE session_key = ?1)",
        )?
        .execute([key.as_i64()])?;
    connection
        .prepare_cached(
            "DELETE FROM import_folders WHERE files <= 0
             AND folder_id = (SELECT folder_id FROM imports WHERE session_key = ?1)",
        )?
        .execute([key.as_i64()])?;
    connection
        .prepare_cached("DELETE FROM imports WHERE session_key = ?1")?
        .execute([key.as_i64()])?;
    Ok(())
}

/// Brings the rows of format 1 into the tables of format 2, in the transaction that made these.
///
/// A damaged row is not carried over (the backup has it): it must not keep the store from being migrated.
pub(crate) fn carry_over_format_1(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT imports_1.*, session_id FROM imports_1 LEFT JOIN sessions USING (session_key)
         ORDER BY session_key",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = SessionKey(row.get("session_key")?);
        let id: Option<String> = row.get("session_id").unwrap_or_default();
        match mark(row, Layout::Format1, id.as_deref().unwrap_or_default()) {
            Ok(mark) => insert(connection, key, id.as_deref(), &mark)?,
            Err(error) => tracing::warn!(
                session = id,
                %error,
                "where the session was imported from cannot be read, and is not migrated"
            ),
        }
    }
    drop(rows);
    drop(statement);
    connection.execute_batch("DROP TABLE imports_1")
}

/// Rows without their joins, the newest session first. `restriction` says which.
fn rows(
    connection: &Connection,
    layout: Layout,
    restriction: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<(SessionKey, ImportRecord)>> {
    let columns = match layout {
        Layout::Format1 => "imports.*, session_id, last_sequence",
        Layout::Format2 => "imports.*, session_id, last_sequence, path, root_bytes",
    };
    let folders = folders_joined(layout);
    connection
        .prepare_cached(&format!(
            "SELECT {columns} FROM imports JOIN sessions USING (session_key) {folders}
             WHERE {restriction} ORDER BY session_key DESC"
        ))?
        .query_map(parameters, |row| record(row, layout))?
        .collect()
}

fn folders_joined(layout: Layout) -> &'static str {
    match layout {
        Layout::Format1 => "",
        // A folder that is not there is damage, and not a file that was never imported.
        Layout::Format2 => "LEFT JOIN import_folders USING (folder_id)",
    }
}

/// Rows that are found by a hash of a path.
fn by_hash(
    connection: &Connection,
    hash: i64,
) -> rusqlite::Result<Vec<(SessionKey, ImportRecord)>> {
    const HASHED: &str =
        "session_key IN (SELECT session_key FROM import_paths WHERE path_hash = ?1)";
    rows(connection, Layout::Format2, HASHED, [hash])
}

fn by_key(
    connection: &Connection,
    layout: Layout,
    key: SessionKey,
) -> rusqlite::Result<Option<ImportRecord>> {
    let found = rows(connection, layout, "session_key = ?1", [key.as_i64()])?;
    Ok(found.into_iter().next().map(|(_, record)| record))
}

/// Records of the file at `source_path`, newest session first.
pub(crate) fn by_source(
    connection: &Connection,
    source_path: &[u8],
) -> rusqlite::Result<Vec<ImportRecord>> {
    read_rows(connection, |connection, layout| {
        let found = match layout {
            Layout::Format1 => rows(connection, layout, "source_path = ?1", [source_path])?,
            Layout::Format2 => {
                // The row is found by its relative path, which is one of the path's ends.
                let ends = part_starts(source_path).filter_map(|at| source_path.get(at..));
                let hashes: BTreeSet<_> = ends.chain([source_path]).map(path_hash).collect();
                let mut found = Vec::new();
                for hash in hashes {
                    let mut with_hash = by_hash(connection, hash)?;
                    with_hash.retain(|(_, record)| record.mark.source_path == source_path);
                    found.append(&mut with_hash);
                }
                found.sort_by_key(|(key, _)| Reverse(*key));
                found.dedup_by_key(|(key, _)| *key);
                found
            }
        };
        with_joins(connection, found)
    })
}

/// Records of files with this `relative_path` below an imported folder, newest first.
pub(crate) fn by_relative(
    connection: &Connection,
    relative_path: &[u8],
) -> rusqlite::Result<Vec<ImportRecord>> {
    read_rows(connection, |connection, layout| {
        let found = match layout {
            Layout::Format1 => rows(connection, layout, "relative_path = ?1", [relative_path])?,
            Layout::Format2 => {
                let mut found = by_hash(connection, path_hash(relative_path))?;
                found.retain(|(_, record)| record.mark.relative_path == relative_path);
                found
            }
        };
        with_joins(connection, found)
    })
}

/// The record of one session, when it was imported.
pub(crate) fn of_session(
    connection: &Connection,
    key: SessionKey,
) -> rusqlite::Result<Option<ImportRecord>> {
    read_rows(connection, |connection, layout| {
        let found = rows(connection, layout, "session_key = ?1", [key.as_i64()])?;
        Ok(with_joins(connection, found)?.pop())
    })
}

/// Where a session comes from, to find its project.
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
    read_rows(connection, |connection, layout| {
        let columns = match layout {
            Layout::Format1 => "source_path",
            Layout::Format2 => "path, begins_with_id, file_name",
        };
        let folders = folders_joined(layout);
        connection
            .prepare_cached(&format!(
                "SELECT session_key, session_id, working_directory, raw_bytes,
                    taken_bytes IS NOT NULL AS is_imported, {columns}
                 FROM sessions LEFT JOIN imports USING (session_key) {folders}"
            ))?
            .query_map([], |row| {
                let is_imported: bool = row.get("is_imported")?;
                // A damaged value counts as missing, so that the other sessions still get their projects.
                let id: String = row.get("session_id").unwrap_or_default();
                let source = is_imported.then(|| source_path(row, layout, &id).ok());
                Ok(Origin {
                    session: SessionKey(row.get("session_key")?),
                    working_directory: row.get("working_directory").unwrap_or_default(),
                    source_path: source.flatten(),
                    raw_bytes: unsigned(row, "raw_bytes").unwrap_or_default(),
                })
            })?
            .collect()
    })
}

fn source_path(row: &Row<'_>, layout: Layout, id: &str) -> rusqlite::Result<Vec<u8>> {
    match layout {
        Layout::Format1 => row.get("source_path"),
        Layout::Format2 => {
            let mut path: Vec<u8> = row.get("path")?;
            if row.get("begins_with_id")? {
                path.extend_from_slice(id.as_bytes());
            }
            path.append(&mut row.get("file_name")?);
            Ok(path)
        }
    }
}

fn mark(row: &Row<'_>, layout: Layout, id: &str) -> rusqlite::Result<ImportMark> {
    let source_path = source_path(row, layout, id)?;
    let relative_path = match layout {
        Layout::Format1 => row.get("relative_path")?,
        Layout::Format2 => match row.get("relative_path")? {
            Some(relative) => relative,
            None => {
                let root_bytes: i64 = row.get("root_bytes")?;
                usize::try_from(root_bytes)
                    .ok()
                    .and_then(|at| source_path.get(at..))
                    .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, root_bytes))?
                    .to_vec()
            }
        },
    };
    let digest: [u8; 16] = row.get("taken_digest")?;
    Ok(ImportMark {
        source_path,
        relative_path,
        taken_bytes: unsigned(row, "taken_bytes")?,
        taken_digest: u128::from_be_bytes(digest),
        unterminated: row.get("unterminated")?,
        joins: Vec::new(),
    })
}

fn record(row: &Row<'_>, layout: Layout) -> rusqlite::Result<(SessionKey, ImportRecord)> {
    let id: String = row.get("session_id")?;
    let mark = mark(row, layout, &id)?;
    let record = ImportRecord {
        session: SessionId::new(id).map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e))
        })?,
        last_sequence: unsigned(row, "last_sequence")?,
        mark,
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

/// What does not fit together in these tables, for `verify`.
pub(crate) fn problems(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    read_rows(connection, |connection, layout| {
        if layout == Layout::Format1 {
            return Ok(Vec::new());
        }
        let mut problems = connection
            .prepare(
                "SELECT folder_id, files, used FROM import_folders FULL JOIN
                    (SELECT folder_id, count(*) AS used FROM imports GROUP BY folder_id)
                    USING (folder_id)
                 WHERE files IS NOT used",
            )?
            .query_map([], |row| {
                let number = |column| -> rusqlite::Result<i64> {
                    Ok(row.get::<_, Option<i64>>(column)?.unwrap_or_default())
                };
                let (folder, files, used) =
                    (number("folder_id")?, number("files")?, number("used")?);
                Ok(format!(
                    "import folder {folder} counts {files} files, and {used} are in it"
                ))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let kept: BTreeSet<(i64, i64)> = connection
            .prepare("SELECT path_hash, session_key FROM import_paths")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let due: BTreeSet<(i64, i64)> = rows(connection, layout, "TRUE", [])?
            .iter()
            .flat_map(|(key, record)| {
                Paths::hashes(&record.mark)
                    .into_iter()
                    .map(|hash| (hash, key.as_i64()))
            })
            .collect();
        problems.extend(kept.symmetric_difference(&due).map(|(hash, key)| {
            format!(
                "the import of session key {key} is not found by its path, or by another ({hash})"
            )
        }));
        Ok(problems)
    })
}
