//! Rows of `message_types`, `growth`, `activity` and `growth_hours`.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{signed, unsigned};
use crate::ids::SessionKey;
use crate::limits::MESSAGE_TYPES_MAX;

/// Type under which messages count when there are too many types.
const OTHER: &str = "(other)";

/// Messages and bytes of one message type, over all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeGrowth {
    /// The `type` that the lines carry, or a name in parentheses.
    pub message_type: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
}

/// Growth of all sessions in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HourGrowth {
    /// Unix hour: milliseconds since 1970 divided by 3,600,000.
    pub hour: i64,
    /// Messages said in it.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Active time in it, summed over the sessions.
    pub active_ms: i64,
}

/// Growth of one session, in one hour, by one message type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGrowth {
    /// Unix hour.
    pub hour: i64,
    /// The `type` that the lines carry.
    pub message_type: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
}

/// Messages of a type, and their payload bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TypeCount {
    pub(crate) messages: u64,
    pub(crate) raw_bytes: u64,
}

/// What one commit adds, keyed by session, hour and type.
#[derive(Debug, Default)]
pub(crate) struct GrowthDelta {
    pub(crate) by_type: HashMap<(SessionKey, i64, i64), TypeCount>,
    pub(crate) active: HashMap<(SessionKey, i64), i64>,
}

/// The number of a type's name, given on first sight.
pub(crate) fn type_id(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    let find = |name: &str| {
        connection
            .prepare_cached("SELECT type_id FROM message_types WHERE name = ?1")?
            .query_row([name], |row| row.get::<_, i64>(0))
            .optional()
    };
    if let Some(id) = find(name)? {
        return Ok(id);
    }
    let count: i64 =
        connection.query_row("SELECT count(*) FROM message_types", [], |row| row.get(0))?;
    let full = usize::try_from(count).unwrap_or(usize::MAX) >= MESSAGE_TYPES_MAX - 1;
    let name = if full { OTHER } else { name };
    if full && let Some(id) = find(OTHER)? {
        return Ok(id);
    }
    connection.execute("INSERT INTO message_types (name) VALUES (?1)", [name])?;
    Ok(connection.last_insert_rowid())
}

pub(crate) fn add(connection: &Connection, delta: &GrowthDelta) -> rusqlite::Result<()> {
    for (&(session, hour, type_id), count) in &delta.by_type {
        let (messages, raw_bytes) = (signed(count.messages), signed(count.raw_bytes));
        connection
            .prepare_cached(
                "INSERT INTO growth (session_key, hour, type_id, messages, raw_bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET messages = messages + ?4, raw_bytes = raw_bytes + ?5",
            )?
            .execute(params![
                session.as_i64(),
                hour,
                type_id,
                messages,
                raw_bytes
            ])?;
        connection
            .prepare_cached(
                "UPDATE message_types SET messages = messages + ?2, raw_bytes = raw_bytes + ?3
                 WHERE type_id = ?1",
            )?
            .execute(params![type_id, messages, raw_bytes])?;
        add_to_hour(connection, hour, messages, raw_bytes, 0)?;
    }
    for (&(session, hour), &active_ms) in &delta.active {
        connection
            .prepare_cached(
                "INSERT INTO activity (session_key, hour, active_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET active_ms = active_ms + ?3",
            )?
            .execute(params![session.as_i64(), hour, active_ms])?;
        add_to_hour(connection, hour, 0, 0, active_ms)?;
    }
    Ok(())
}

fn add_to_hour(
    connection: &Connection,
    hour: i64,
    messages: i64,
    raw_bytes: i64,
    active_ms: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO growth_hours (hour, messages, raw_bytes, active_ms)
             VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET messages = messages + ?2, raw_bytes = raw_bytes + ?3,
                active_ms = active_ms + ?4",
        )?
        .execute(params![hour, messages, raw_bytes, active_ms])?;
    Ok(())
}

/// Takes a session that goes away out of all sums.
pub(crate) fn remove_session(connection: &Connection, key: SessionKey) -> rusqlite::Result<()> {
    let key = [key.as_i64()];
    connection.execute(
        "UPDATE message_types SET messages = message_types.messages - gone.messages,
            raw_bytes = message_types.raw_bytes - gone.raw_bytes
         FROM (SELECT type_id, sum(messages) AS messages, sum(raw_bytes) AS raw_bytes
               FROM growth WHERE session_key = ?1 GROUP BY type_id) AS gone
         WHERE message_types.type_id = gone.type_id",
        key,
    )?;
    connection.execute(
        "UPDATE growth_hours SET messages = growth_hours.messages - gone.messages,
            raw_bytes = growth_hours.raw_bytes - gone.raw_bytes
         FROM (SELECT hour, sum(messages) AS messages, sum(raw_bytes) AS raw_bytes
               FROM growth WHERE session_key = ?1 GROUP BY hour) AS gone
         WHERE growth_hours.hour = gone.hour",
        key,
    )?;
    connection.execute(
        "UPDATE growth_hours SET active_ms = growth_hours.active_ms - gone.active_ms
         FROM (SELECT hour, active_ms FROM activity WHERE session_key = ?1) AS gone
         WHERE growth_hours.hour = gone.hour",
        key,
    )?;
    connection.execute(
        "DELETE FROM growth_hours WHERE messages = 0 AND raw_bytes = 0 AND active_ms = 0
         AND hour IN (SELECT hour FROM growth WHERE session_key = ?1
                      UNION SELECT hour FROM activity WHERE session_key = ?1)",
        key,
    )?;
    // A type without messages would take one of the few places. Its number, which a
    // writer may remember, is forgotten with each commit of another kind than its own appends.
    connection.execute(
        "DELETE FROM message_types WHERE messages = 0 AND raw_bytes = 0
         AND type_id IN (SELECT type_id FROM growth WHERE session_key = ?1)",
        key,
    )?;
    connection.execute("DELETE FROM growth WHERE session_key = ?1", key)?;
    connection.execute("DELETE FROM activity WHERE session_key = ?1", key)?;
    Ok(())
}

/// Growth by type over all sessions, the biggest first.
pub(crate) fn by_type(connection: &Connection) -> rusqlite::Result<Vec<TypeGrowth>> {
    connection
        .prepare_cached(
            "SELECT name, messages, raw_bytes FROM message_types WHERE messages > 0
             ORDER BY raw_bytes DESC, name",
        )?
        .query_map([], |row| {
            Ok(TypeGrowth {
                message_type: row.get("name")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })?
        .collect()
}

/// The growth curve from `first_hour`, in order.
pub(crate) fn by_hour(
    connection: &Connection,
    first_hour: i64,
) -> rusqlite::Result<Vec<HourGrowth>> {
    connection
        .prepare_cached("SELECT * FROM growth_hours WHERE hour >= ?1 ORDER BY hour")?
        .query_map([first_hour], |row| {
            Ok(HourGrowth {
                hour: row.get("hour")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
                active_ms: row.get("active_ms")?,
            })
        })?
        .collect()
}

/// Growth of one session by hour and type, in order.
pub(crate) fn of_session(
    connection: &Connection,
    key: SessionKey,
) -> rusqlite::Result<Vec<SessionGrowth>> {
    connection
        .prepare_cached(
            "SELECT hour, name, growth.messages AS messages, growth.raw_bytes AS raw_bytes
             FROM growth JOIN message_types USING (type_id)
             WHERE session_key = ?1 ORDER BY hour, name",
        )?
        .query_map([key.as_i64()], |row| {
            Ok(SessionGrowth {
                hour: row.get("hour")?,
                message_type: row.get("name")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })?
        .collect()
}

/// What the hours of one session add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) messages: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) active_ms: u64,
}

/// The growth and activity of one session, summed up.
pub(crate) fn sums_of(connection: &Connection, key: SessionKey) -> rusqlite::Result<Sums> {
    connection
        .prepare_cached(
            "SELECT coalesce(sum(messages), 0) AS messages, coalesce(sum(raw_bytes), 0) AS raw_bytes,
                (SELECT coalesce(sum(active_ms), 0) FROM activity WHERE session_key = ?1) AS active_ms
             FROM growth WHERE session_key = ?1",
        )?
        .query_row([key.as_i64()], |row| {
            Ok(Sums {
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
                active_ms: unsigned(row, "active_ms")?,
            })
        })
}

/// What one way of counting growth adds up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrowthSum {
    /// What it is counted by.
    pub(crate) by: &'static str,
    pub(crate) messages: u64,
    pub(crate) raw_bytes: u64,
}

/// What each way of counting growth adds up to, for `verify`.
pub(crate) fn recount(connection: &Connection) -> rusqlite::Result<[GrowthSum; 3]> {
    let sum = |by, table| -> rusqlite::Result<GrowthSum> {
        let sql = format!(
            "SELECT coalesce(sum(messages), 0) AS messages, coalesce(sum(raw_bytes), 0) AS raw_bytes
             FROM {table}"
        );
        connection.query_row(&sql, [], |row| {
            Ok(GrowthSum {
                by,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
            })
        })
    };
    Ok([
        sum("session", "growth")?,
        sum("type", "message_types")?,
        sum("hour", "growth_hours")?,
    ])
}
