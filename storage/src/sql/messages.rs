//! Rows of `hot_messages`.

use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{MessageKey, SessionKey};
use crate::limits::SEQUENCE_MAX;
use crate::message::Message;
use crate::sql::{DeletionStep, sequence_of_row, signed};

/// A message that is a row of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HotMessage {
    pub(crate) sequence: u64,
    pub(crate) received_ms: i64,
    pub(crate) digest: i64,
    pub(crate) payload: Bytes,
}

impl HotMessage {
    /// Whether the payload is what was written.
    pub(crate) fn is_intact(&self) -> bool {
        digest(&self.payload) == self.digest
    }
}

/// XXH3-64 of a payload, as SQLite's signed integer.
pub(crate) fn digest(payload: &[u8]) -> i64 {
    xxh3_64(payload).cast_signed()
}

pub(crate) fn insert(
    connection: &Connection,
    key: MessageKey,
    received_ms: i64,
    digest: i64,
    payload: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO hot_messages (message_key, received_ms, digest, payload)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![key.as_i64(), received_ms, digest, payload])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<HotMessage> {
    Ok(HotMessage {
        sequence: MessageKey::from_i64(row.get(0)?).sequence(),
        received_ms: row.get(1)?,
        digest: row.get(2)?,
        payload: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
    })
}

/// Hands the rows `first..=last` of a session to `each`, in order, until it says to stop.
pub(crate) fn scan(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
    mut each: impl FnMut(HotMessage) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT message_key, received_ms, digest, payload FROM hot_messages
         WHERE message_key BETWEEN ?1 AND ?2 ORDER BY message_key",
    )?;
    let mut rows = statement.query(MessageKey::range(session, first, last))?;
    while let Some(row) = rows.next()? {
        if !each(from_row(row)?) {
            break;
        }
    }
    Ok(())
}

/// What distinguishes a row from any other with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowMark {
    pub(crate) received_ms: i64,
    pub(crate) digest: i64,
    pub(crate) payload_bytes: i64,
}

impl RowMark {
    /// The mark of the row that holds this message.
    pub(crate) fn of(message: &Message) -> Self {
        Self {
            received_ms: message.received_ms,
            digest: digest(&message.payload),
            payload_bytes: signed(message.payload.len() as u64),
        }
    }
}

/// Holds the rows `first..=last` of a session against what they should be, without reading their
/// payloads. The first sequence whose row is missing, or to which `same` says no.
pub(crate) fn first_difference(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
    mut same: impl FnMut(u64, RowMark) -> bool,
) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare_cached(
        "SELECT message_key, received_ms, digest, length(payload) FROM hot_messages
         WHERE message_key BETWEEN ?1 AND ?2 ORDER BY message_key",
    )?;
    let mut rows = statement.query(MessageKey::range(session, first, last))?;
    for sequence in first..=last {
        let Some(row) = rows.next()? else {
            return Ok(Some(sequence));
        };
        let found = MessageKey::from_i64(row.get(0)?).sequence();
        let mark = RowMark {
            received_ms: row.get(1)?,
            digest: row.get(2)?,
            payload_bytes: row.get(3)?,
        };
        if found != sequence || !same(sequence, mark) {
            return Ok(Some(sequence));
        }
    }
    Ok(None)
}

/// Hands sequence and payload size of rows `first..=last` to `each`, without reading payloads.
pub(crate) fn scan_sizes(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
    mut each: impl FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT message_key, length(payload) FROM hot_messages
         WHERE message_key BETWEEN ?1 AND ?2 ORDER BY message_key",
    )?;
    let mut rows = statement.query(MessageKey::range(session, first, last))?;
    while let Some(row) = rows.next()? {
        let size: i64 = row.get(1)?;
        each(
            MessageKey::from_i64(row.get(0)?).sequence(),
            size.unsigned_abs(),
        );
    }
    Ok(())
}

/// Number of rows among `first..=last`, without reading them.
pub(crate) fn count(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> rusqlite::Result<u64> {
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM hot_messages WHERE message_key BETWEEN ?1 AND ?2")?
        .query_row(MessageKey::range(session, first, last), |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Sequence of the first row after `sequence`.
pub(crate) fn next_after(
    connection: &Connection,
    session: SessionKey,
    sequence: u64,
) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT message_key FROM hot_messages WHERE message_key > ?1 AND message_key <= ?2
               ORDER BY message_key LIMIT 1";
    sequence_of_row(
        connection,
        sql,
        MessageKey::range(session, sequence, SEQUENCE_MAX),
    )
}

/// Sequence of a session's last row.
pub(crate) fn last_sequence(
    connection: &Connection,
    session: SessionKey,
) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT message_key FROM hot_messages WHERE message_key BETWEEN ?1 AND ?2
               ORDER BY message_key DESC LIMIT 1";
    sequence_of_row(connection, sql, MessageKey::range(session, 0, SEQUENCE_MAX))
}

/// Deletes rows `first..=last`; returns how many there were.
pub(crate) fn delete(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> rusqlite::Result<u64> {
    let deleted = connection
        .prepare_cached("DELETE FROM hot_messages WHERE message_key BETWEEN ?1 AND ?2")?
        .execute(MessageKey::range(session, first, last))?;
    Ok(deleted as u64)
}

/// Deletes the first rows of a session that is going away, as many as `step` allows; returns how many.
pub(crate) fn delete_some(
    connection: &Connection,
    session: SessionKey,
    step: DeletionStep,
) -> rusqlite::Result<u64> {
    let sizes = "SELECT message_key, length(payload) FROM hot_messages
         WHERE message_key BETWEEN ?1 AND ?2 ORDER BY message_key LIMIT ?3";
    match step.last_of(
        connection,
        sizes,
        MessageKey::range(session, 0, SEQUENCE_MAX),
    )? {
        Some(last) => delete(connection, session, 0, last),
        None => Ok(0),
    }
}

/// Keys of the first rows, hot or segment, of sessions that are neither there nor being deleted.
pub(crate) fn orphans(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare(
            "SELECT min(key) FROM (SELECT message_key AS key FROM hot_messages
                UNION ALL SELECT segment_key FROM segments)
             WHERE key >> 32 NOT IN (SELECT session_key FROM sessions NOT INDEXED
                UNION ALL SELECT session_key FROM deletions)
             GROUP BY key >> 32",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}
