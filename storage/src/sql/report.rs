//! What the capacity report shows of the sessions: chosen and summed up by SQLite, so that the
//! report looks at rows of sessions and never at messages, and keeps a handful of them.

use rusqlite::{Connection, params};

use super::sessions::readable;
use super::unsigned;
use crate::session::Session;

/// Sessions of one working directory, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectGrowth {
    /// The directory; empty for sessions that name none.
    pub working_directory: String,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes in the database: segments, hot payloads, and the project's bases.
    pub stored_bytes: u64,
    /// Active time.
    pub active_ms: i64,
}

/// Sessions without any active time: no two of their lines tell different times, and none how long a
/// turn took. They are in no figure by the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Untimed {
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
}

/// The `limit` sessions that take the most room.
pub(crate) fn biggest(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<Session>> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM sessions ORDER BY segment_bytes + hot_bytes DESC, session_id LIMIT ?1",
    )?;
    let (sessions, _damaged) = readable(statement.query([limit])?)?;
    Ok(sessions)
}

/// The `limit` sessions with the most payload bytes an active hour, of those with at least
/// `active_ms_min` of active time.
pub(crate) fn fastest(
    connection: &Connection,
    active_ms_min: i64,
    limit: u32,
) -> rusqlite::Result<Vec<Session>> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM sessions WHERE active_ms >= ?1
         ORDER BY CAST(raw_bytes AS REAL) / active_ms DESC, session_id LIMIT ?2",
    )?;
    let (sessions, _damaged) = readable(statement.query(params![active_ms_min, limit])?)?;
    Ok(sessions)
}

/// The `limit` projects that take the most room, and how many projects there are.
pub(crate) fn projects(
    connection: &Connection,
    limit: u32,
) -> rusqlite::Result<(Vec<ProjectGrowth>, u64)> {
    // The length of a blob stands in its row's header: the bases themselves are not read.
    let mut statement = connection.prepare_cached(
        "WITH shared AS
            (SELECT project, sum(length(encoded)) AS bytes FROM bases GROUP BY project)
         SELECT working_directory, count(*) AS sessions, sum(last_sequence) AS messages,
            sum(raw_bytes) AS raw_bytes, sum(active_ms) AS active_ms,
            sum(segment_bytes + hot_bytes) + coalesce(
                (SELECT bytes FROM shared WHERE project = working_directory), 0) AS stored_bytes,
            count(*) OVER () AS projects
         FROM sessions GROUP BY working_directory
         ORDER BY stored_bytes DESC, working_directory LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let (mut projects, mut total) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        total = unsigned(row, "projects")?;
        projects.push(ProjectGrowth {
            working_directory: row.get("working_directory")?,
            sessions: unsigned(row, "sessions")?,
            messages: unsigned(row, "messages")?,
            raw_bytes: unsigned(row, "raw_bytes")?,
            stored_bytes: unsigned(row, "stored_bytes")?,
            active_ms: row.get("active_ms")?,
        });
    }
    Ok((projects, total))
}

pub(crate) fn untimed(connection: &Connection) -> rusqlite::Result<Untimed> {
    connection
        .prepare_cached(
            "SELECT count(*) AS sessions, coalesce(sum(last_sequence), 0) AS messages,
                coalesce(sum(raw_bytes), 0) AS raw_bytes
             FROM sessions WHERE active_ms = 0 AND last_sequence > 0",
        )?
        .query_row([], |row| {
            Ok(Untimed {
                sessions: unsigned(row, "sessions")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })
}
