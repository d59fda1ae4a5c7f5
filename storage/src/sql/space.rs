//! Pages and the write-ahead log: what is free, giving it back, checkpoints.

use rusqlite::Connection;

use super::db::waiting_at_most;
use super::unsigned;
use crate::limits::CHECKPOINT_WAIT_MS_MAX;

/// How a checkpoint went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// A reader or writer kept it from finishing.
    pub(crate) busy: bool,
    /// Frames in the WAL.
    pub(crate) log_frames: i64,
    /// Frames of them that are in the main file now.
    pub(crate) checkpointed_frames: i64,
}

/// Which checkpoint to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckpointMode {
    /// Copies what it can without waiting for anyone.
    Passive,
    /// Waits a moment for readers, and cuts the WAL back to nothing.
    Truncate,
}

pub(crate) fn checkpoint(
    connection: &Connection,
    mode: CheckpointMode,
) -> rusqlite::Result<Checkpoint> {
    let sql = match mode {
        CheckpointMode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        CheckpointMode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    // SQLite waits for readers with the write lock in hand, and appends wait behind that. Whoever
    // reads for long, as a backup does, must not hold them up; the next checkpoint tries again.
    waiting_at_most(CHECKPOINT_WAIT_MS_MAX, || {
        connection.query_row(sql, [], |row| {
            Ok(Checkpoint {
                busy: row.get::<_, i64>(0)? != 0,
                log_frames: row.get(1)?,
                checkpointed_frames: row.get(2)?,
            })
        })
    })
}

/// Pages of the file that hold nothing.
pub(crate) fn free_pages(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("PRAGMA freelist_count")?
        .query_row([], |row| unsigned(row, "freelist_count"))
}

/// Pages of the file.
pub(crate) fn pages(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("PRAGMA page_count")?
        .query_row([], |row| unsigned(row, "page_count"))
}

/// A number that changes when another connection commits.
pub(crate) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

/// Gives up to `pages_max` free pages back. Outside a transaction it is one of its own.
///
/// The pragma frees one page per step of its statement: it has to be stepped to the end, which
/// `execute_batch` does not do.
pub(crate) fn reclaim(connection: &Connection, pages_max: u32) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages_max})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// SQLite's own check of the file's structure; the problems, at most `problems_max`, in its words.
///
/// SQLite reports all that is wrong with the pages as one text of many lines, under a heading.
pub(crate) fn integrity_problems(
    connection: &Connection,
    problems_max: u32,
) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({problems_max})"))?;
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let problems = lines.iter().flat_map(|text| text.lines());
    Ok(problems
        .filter(|line| *line != "ok" && !line.starts_with("*** in database"))
        .map(|line| format!("SQLite finds: {line}"))
        .take(problems_max as usize)
        .collect())
}
