//! The store's one row of totals.

use rusqlite::{Connection, params};

use super::db::is_damage;
use super::{signed, unsigned};
use crate::session::Session;

/// Totals over all sessions, kept with each commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Random name of this store, given at birth.
    pub store_id: String,
    /// When it was created, Unix milliseconds.
    pub created_ms: i64,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes that all messages would take as rows of their own.
    pub uncompacted_bytes: u64,
    /// Messages that are rows of their own.
    pub hot_messages: u64,
    /// Their payload bytes.
    pub hot_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Their encoded bytes.
    pub segment_bytes: u64,
    /// Bases: what sessions of a project share.
    pub bases: u64,
    /// Their encoded bytes.
    pub base_bytes: u64,
    /// Active time of all sessions.
    pub active_ms: i64,
    /// Time between the first and the last message, summed over all sessions.
    pub wall_ms: i64,
}

/// Changes to the totals, and to one session's row, by one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delta {
    pub(crate) sessions: i64,
    pub(crate) messages: i64,
    pub(crate) raw_bytes: i64,
    pub(crate) uncompacted_bytes: i64,
    pub(crate) hot_messages: i64,
    pub(crate) hot_bytes: i64,
    pub(crate) segments: i64,
    pub(crate) segment_bytes: i64,
    pub(crate) bases: i64,
    pub(crate) base_bytes: i64,
    pub(crate) active_ms: i64,
    pub(crate) wall_ms: i64,
}

impl Delta {
    /// What the totals lose with a session.
    pub(crate) fn minus(session: &Session) -> Self {
        let minus = |value: u64| -signed(value);
        Self {
            sessions: -1,
            messages: minus(session.messages),
            raw_bytes: minus(session.raw_bytes),
            uncompacted_bytes: minus(session.uncompacted_bytes),
            hot_messages: minus(session.hot_messages),
            hot_bytes: minus(session.hot_bytes),
            segments: minus(session.segments),
            segment_bytes: minus(session.segment_bytes),
            active_ms: -session.active_ms,
            wall_ms: -session.times().wall_ms(),
            ..Self::default()
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            sessions: self.sessions + other.sessions,
            messages: self.messages + other.messages,
            raw_bytes: self.raw_bytes + other.raw_bytes,
            uncompacted_bytes: self.uncompacted_bytes + other.uncompacted_bytes,
            hot_messages: self.hot_messages + other.hot_messages,
            hot_bytes: self.hot_bytes + other.hot_bytes,
            segments: self.segments + other.segments,
            segment_bytes: self.segment_bytes + other.segment_bytes,
            bases: self.bases + other.bases,
            base_bytes: self.base_bytes + other.base_bytes,
            active_ms: self.active_ms + other.active_ms,
            // No count: of sessions with absurd times it may be anything.
            wall_ms: self.wall_ms.saturating_add(other.wall_ms),
        }
    }
}

/// Writes a page as it is: it goes to disk like any other. The store's name.
pub(crate) fn touch(connection: &Connection) -> rusqlite::Result<String> {
    // Not an UPDATE: SQLite does not write a row that is equal to the stored one.
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)?;
    connection
        .prepare_cached("SELECT store_id FROM store WHERE singleton = 1")?
        .query_row([], |row| row.get(0))
}

pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Totals> {
    connection
        .prepare_cached("SELECT * FROM store WHERE singleton = 1")?
        .query_row([], |row| {
            Ok(Totals {
                store_id: row.get("store_id")?,
                created_ms: row.get("created_ms")?,
                sessions: unsigned(row, "sessions")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
                uncompacted_bytes: unsigned(row, "uncompacted_bytes")?,
                hot_messages: unsigned(row, "hot_messages")?,
                hot_bytes: unsigned(row, "hot_bytes")?,
                segments: unsigned(row, "segments")?,
                segment_bytes: unsigned(row, "segment_bytes")?,
                bases: unsigned(row, "bases")?,
                base_bytes: unsigned(row, "base_bytes")?,
                active_ms: row.get("active_ms")?,
                wall_ms: row.get("wall_ms")?,
            })
        })
}

/// What distinguishes two states of a store, which may have any format. One change does not show: a session that gets a
/// name as long as its last one, while the clock is behind the last change of any session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HistoryFingerprint {
    format: u32,
    totals: Totals,
    /// `None` if not all of the sessions can be read.
    sessions: Option<SessionsFingerprint>,
    /// How much was taken of imported files; `None` if not all of this can be read.
    taken_bytes: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
struct SessionsFingerprint {
    /// When a session was last appended to or renamed.
    updated_ms: Option<i64>,
    /// Length of all sessions' names.
    name_bytes: i64,
}

impl HistoryFingerprint {
    /// A damaged page is the same in a copy, so the two still compare.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let sessions = connection.query_row(
            "SELECT max(updated_ms) AS updated_ms, coalesce(sum(length(name)), 0) AS name_bytes
             FROM sessions NOT INDEXED",
            [],
            |row| {
                Ok(SessionsFingerprint {
                    updated_ms: row.get("updated_ms")?,
                    name_bytes: row.get("name_bytes")?,
                })
            },
        );
        let taken_bytes = connection.query_row(
            "SELECT coalesce(sum(taken_bytes), 0) FROM imports NOT INDEXED",
            [],
            |row| row.get(0),
        );
        Ok(Self {
            format: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
            totals: read(connection)?,
            sessions: unless_damaged(sessions)?,
            taken_bytes: unless_damaged(taken_bytes)?,
        })
    }
}

fn unless_damaged<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(error) if is_damage(&error) => Ok(None),
        read => read.map(Some),
    }
}

/// Sets when the store was created.
pub(crate) fn set_created(connection: &Connection, created_ms: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE store SET created_ms = ?1", [created_ms])?;
    Ok(())
}

pub(crate) fn add(connection: &Connection, delta: &Delta) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE store SET sessions = sessions + ?1, messages = messages + ?2,
                raw_bytes = raw_bytes + ?3, uncompacted_bytes = uncompacted_bytes + ?4,
                hot_messages = hot_messages + ?5, hot_bytes = hot_bytes + ?6,
                segments = segments + ?7, segment_bytes = segment_bytes + ?8,
                active_ms = active_ms + ?9, wall_ms = wall_ms + ?10,
                bases = bases + ?11, base_bytes = base_bytes + ?12
             WHERE singleton = 1",
        )?
        .execute(params![
            delta.sessions,
            delta.messages,
            delta.raw_bytes,
            delta.uncompacted_bytes,
            delta.hot_messages,
            delta.hot_bytes,
            delta.segments,
            delta.segment_bytes,
            delta.active_ms,
            delta.wall_ms,
            delta.bases,
            delta.base_bytes,
        ])?;
    Ok(())
}

/// The totals as a full count of the sessions gives them, for `verify`. A session's wall-clock time
/// is that of `growth::SessionTimes::wall_ms`.
pub(crate) fn recount(connection: &Connection) -> rusqlite::Result<Totals> {
    connection.query_row(
        "SELECT count(*) AS sessions, coalesce(sum(last_sequence), 0) AS messages,
            coalesce(sum(raw_bytes), 0) AS raw_bytes, coalesce(sum(uncompacted_bytes), 0) AS uncompacted_bytes,
            coalesce(sum(hot_messages), 0) AS hot_messages, coalesce(sum(hot_bytes), 0) AS hot_bytes,
            coalesce(sum(segments), 0) AS segments, coalesce(sum(segment_bytes), 0) AS segment_bytes,
            (SELECT count(*) FROM bases) AS bases,
            (SELECT coalesce(sum(length(encoded)), 0) FROM bases) AS base_bytes,
            coalesce(sum(active_ms), 0) AS active_ms,
            coalesce(sum(coalesce(max(last_time_ms - first_time_ms, 0), active_ms)), 0) AS wall_ms
         FROM sessions",
        [],
        |row| {
            Ok(Totals {
                sessions: unsigned(row, "sessions")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
                uncompacted_bytes: unsigned(row, "uncompacted_bytes")?,
                hot_messages: unsigned(row, "hot_messages")?,
                hot_bytes: unsigned(row, "hot_bytes")?,
                segments: unsigned(row, "segments")?,
                segment_bytes: unsigned(row, "segment_bytes")?,
                bases: unsigned(row, "bases")?,
                base_bytes: unsigned(row, "base_bytes")?,
                active_ms: signed(unsigned(row, "active_ms")?),
                // No count: a clock that jumped may have said anything.
                wall_ms: row.get("wall_ms")?,
                ..Totals::default()
            })
        },
    )
}
