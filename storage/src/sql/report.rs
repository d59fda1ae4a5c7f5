//! What the capacity report shows of the sessions: chosen and summed up by SQLite, so that the
//! report looks at rows of sessions and never at messages, and keeps a handful of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, params};

use super::sessions::readable;
use super::{bases, unsigned};
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
    /// Bytes in the database: segments, hot messages as rows, and the project's bases.
    pub stored_bytes: u64,
    /// Active time.
    pub active_ms: i64,
}

/// Sessions without times: none of their lines has a timestamp, and none says how long a turn took. They are in no
/// figure by the hour. One with a single time is not among them: it took no time, and its bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Untimed {
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
}

/// What a report shows of the sessions, and what it sums up of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReportSelection {
    pub(crate) biggest: Vec<Session>,
    pub(crate) fastest: Vec<Session>,
    pub(crate) projects: Vec<ProjectGrowth>,
    pub(crate) projects_total: u64,
    pub(crate) untimed: Untimed,
}

/// The `limit` sessions and projects that take the most room, and the `limit` sessions with the most
/// payload bytes an active hour, of those with at least `active_ms_min` of active time.
pub(crate) fn select(
    connection: &Connection,
    active_ms_min: i64,
    limit: u32,
) -> rusqlite::Result<ReportSelection> {
    let (projects, projects_total) = projects(connection, limit)?;
    Ok(ReportSelection {
        biggest: biggest(connection, limit)?,
        fastest: fastest(connection, active_ms_min, limit)?,
        projects,
        projects_total,
        untimed: untimed(connection)?,
    })
}

/// As [`select`], of sessions that SQLite cannot go through any more.
pub(crate) fn select_of(
    connection: &Connection,
    mut sessions: Vec<Session>,
    active_ms_min: i64,
    limit: u32,
) -> rusqlite::Result<ReportSelection> {
    let limit = limit as usize;
    let mut projects: BTreeMap<&str, ProjectGrowth> = BTreeMap::new();
    let mut untimed = Untimed::default();
    for session in &sessions {
        let directory = session.meta.working_directory.as_str();
        let project = match projects.entry(directory) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(ProjectGrowth {
                working_directory: directory.to_owned(),
                sessions: 0,
                messages: 0,
                raw_bytes: 0,
                stored_bytes: bases::bytes_of(connection, directory)?,
                active_ms: 0,
            }),
        };
        project.sessions += 1;
        project.messages += session.messages;
        project.raw_bytes += session.raw_bytes;
        project.stored_bytes += session.stored_bytes();
        project.active_ms += session.active_ms;
        if session.active_ms == 0 && session.first_time_ms.is_none() && session.messages > 0 {
            untimed.sessions += 1;
            untimed.messages += session.messages;
            untimed.raw_bytes += session.raw_bytes;
        }
    }
    let mut projects: Vec<ProjectGrowth> = projects.into_values().collect();
    let projects_total = projects.len() as u64;
    projects.sort_by_key(|project| Reverse(project.stored_bytes));
    projects.truncate(limit);
    let pace = |session: &Session| session.raw_bytes as f64 / session.active_ms as f64;
    let mut fastest: Vec<Session> = sessions
        .iter()
        .filter(|session| session.active_ms >= active_ms_min)
        .cloned()
        .collect();
    fastest.sort_by(|a, b| pace(b).total_cmp(&pace(a)).then(a.id.cmp(&b.id)));
    fastest.truncate(limit);
    sessions.sort_by(|a, b| {
        let by_size = b.stored_bytes().cmp(&a.stored_bytes());
        by_size.then(a.id.cmp(&b.id))
    });
    sessions.truncate(limit);
    Ok(ReportSelection {
        biggest: sessions,
        fastest,
        projects,
        projects_total,
        untimed,
    })
}

/// [`Session::stored_bytes`] of a row.
const STORED_BYTES: &str = "(segment_bytes + hot_bytes + CAST(
    max(uncompacted_bytes - raw_bytes, 0) * min(hot_messages, last_sequence)
        / max(last_sequence, 1) AS INTEGER))";

fn biggest(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<Session>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT * FROM sessions ORDER BY {STORED_BYTES} DESC, session_id LIMIT ?1"
    ))?;
    let (sessions, _damaged) = readable(statement.query([limit])?)?;
    Ok(sessions)
}

fn fastest(
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

/// The projects that take the most room, and how many projects there are.
fn projects(connection: &Connection, limit: u32) -> rusqlite::Result<(Vec<ProjectGrowth>, u64)> {
    // The length of a blob is in its row's header, so the bases themselves are not read.
    let mut statement = connection.prepare_cached(&format!(
        "WITH shared AS
            (SELECT project, sum(length(encoded)) AS bytes FROM bases GROUP BY project)
         SELECT working_directory, count(*) AS sessions, sum(last_sequence) AS messages,
            sum(raw_bytes) AS raw_bytes, sum(active_ms) AS active_ms,
            sum({STORED_BYTES}) + coalesce(
                (SELECT bytes FROM shared WHERE project = working_directory), 0) AS stored_bytes,
            count(*) OVER () AS projects
         FROM sessions GROUP BY working_directory
         ORDER BY stored_bytes DESC, working_directory LIMIT ?1"
    ))?;
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

fn untimed(connection: &Connection) -> rusqlite::Result<Untimed> {
    connection
        .prepare_cached(
            "SELECT count(*) AS sessions, coalesce(sum(last_sequence), 0) AS messages,
                coalesce(sum(raw_bytes), 0) AS raw_bytes
             FROM sessions
             WHERE active_ms = 0 AND first_time_ms IS NULL AND last_sequence > 0",
        )?
        .query_row([], |row| {
            Ok(Untimed {
                sessions: unsigned(row, "sessions")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })
}
