//! Rows of `sessions`.

use std::borrow::Cow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Rows, ffi, params};

use super::db::{is_damaged_page, is_invalid_value};
use super::totals::Delta;
use super::{out_of_range, signed, unsigned};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{SEQUENCE_MAX, SESSION_KEY_MAX};
use crate::message::SessionMeta;
use crate::session::{DamagedSession, Session, SessionFilter, SessionList};
use crate::usage::SessionUsage;

pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Session> {
    let usage: String = row.get("usage")?;
    let id: String = row.get("session_id")?;
    let agent_session_id = agent_id_from_row(row.get("agent_session_id")?, &id);
    let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
    };
    Ok(Session {
        key: key(row)?,
        id: SessionId::new(id).map_err(|e| invalid(Box::new(e)))?,
        meta: SessionMeta {
            name: row.get("name")?,
            model: row.get("model")?,
            working_directory: row.get("working_directory")?,
            worktree_id: row.get("worktree_id")?,
            agent_session_id,
        },
        created_ms: row.get("created_ms")?,
        updated_ms: row.get("updated_ms")?,
        messages: last_sequence(row)?,
        raw_bytes: unsigned(row, "raw_bytes")?,
        uncompacted_bytes: unsigned(row, "uncompacted_bytes")?,
        hot_messages: unsigned(row, "hot_messages")?,
        hot_bytes: unsigned(row, "hot_bytes")?,
        segments: unsigned(row, "segments")?,
        segment_bytes: unsigned(row, "segment_bytes")?,
        first_time_ms: row.get("first_time_ms")?,
        last_time_ms: row.get("last_time_ms")?,
        active_ms: signed(unsigned(row, "active_ms")?),
        // Usage is an estimate beside the history: a damaged one reads as none.
        usage: serde_json::from_str::<SessionUsage>(&usage).unwrap_or_default(),
        last_preview: row.get("last_preview")?,
    })
}

/// What a row has as the agent's id of a session that is the session's own, as of most imported ones.
const OWN_ID: &str = "=";

/// The agent's id of the session `own` as its row has it. An id of nothing but [`OWN_ID`]s gets one more.
fn agent_id_of_row<'t>(agent_id: &'t str, own: &str) -> Cow<'t, str> {
    if agent_id == own {
        Cow::Borrowed(OWN_ID)
    } else if is_own_ids(agent_id) {
        Cow::Owned(format!("{OWN_ID}{agent_id}"))
    } else {
        Cow::Borrowed(agent_id)
    }
}

/// What [`agent_id_of_row`] was given. Rows of earlier formats have the id itself.
fn agent_id_from_row(stored: String, own: &str) -> String {
    if stored == OWN_ID {
        own.to_owned()
    } else if is_own_ids(&stored) {
        stored.replacen(OWN_ID, "", 1)
    } else {
        stored
    }
}

fn is_own_ids(text: &str) -> bool {
    !text.is_empty() && text.replace(OWN_ID, "").is_empty()
}

/// Keys of sessions whose agents' ids are nothing but [`OWN_ID`]s, in a store of a format before 3, where they stand for
/// themselves. Not in the transaction that migrates it: SQLite writes no more in one that has met a damaged page.
///
/// Such a page does not keep the store from being migrated. An id behind it reads as another one since.
pub(super) fn with_ids_to_carry_over(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare(
        "SELECT session_key FROM sessions NOT INDEXED
         WHERE agent_session_id <> '' AND trim(agent_session_id, ?1) = ''",
    )?;
    let mut keys = Vec::new();
    let mut rows = statement.query([OWN_ID])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => keys.push(row.get(0)?),
            Ok(None) => return Ok(keys),
            Err(error) if is_damaged_page(&error) => {
                tracing::warn!(%error, "not all ids of agents' sessions can be migrated");
                return Ok(keys);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Gives the agents' ids of these sessions one more [`OWN_ID`].
pub(super) fn carry_over_agent_ids(connection: &Connection, keys: &[i64]) -> rusqlite::Result<()> {
    for key in keys {
        connection.execute(
            "UPDATE sessions SET agent_session_id = ?2 || agent_session_id WHERE session_key = ?1",
            params![key, OWN_ID],
        )?;
    }
    Ok(())
}

/// A key beyond the range is that of another session once it is made part of a message's.
pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<SessionKey> {
    let key: i64 = row.get("session_key")?;
    if (1..=SESSION_KEY_MAX).contains(&key) {
        Ok(SessionKey(key))
    } else {
        Err(out_of_range(row, "session_key", key))
    }
}

fn last_sequence(row: &Row<'_>) -> rusqlite::Result<u64> {
    let sequence = unsigned(row, "last_sequence")?;
    if sequence <= SEQUENCE_MAX {
        Ok(sequence)
    } else {
        Err(out_of_range(row, "last_sequence", signed(sequence)))
    }
}

/// The sessions of a query, and those whose rows cannot be read.
pub(super) fn readable(
    mut rows: Rows<'_>,
) -> rusqlite::Result<(Vec<Session>, Vec<DamagedSession>)> {
    let (mut sessions, mut damaged) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        match from_row(row) {
            Ok(session) => sessions.push(session),
            // One invalid row hides no other session.
            Err(error) if is_invalid_value(&error) => {
                let id: Option<String> = row.get("session_id").ok();
                damaged.push(DamagedSession {
                    id: id.and_then(|id| SessionId::new(id).ok()),
                    what: format!("its row cannot be read: {error}"),
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok((sessions, damaged))
}

pub(crate) fn find(connection: &Connection, id: &SessionId) -> rusqlite::Result<Option<Session>> {
    by_id(connection, id, from_row)
}

/// Reads the row that the index entry of `id` points to, from the table itself. SQLite would otherwise return
/// the id from the index without looking at the row. Fails with an error of [`is_index_mismatch`] if the row
/// is missing or has another id.
fn by_id<T>(
    connection: &Connection,
    id: &SessionId,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection
        .prepare_cached(
            "SELECT sessions.* FROM
                (SELECT session_key AS entry_key FROM sessions WHERE session_id = ?1)
                LEFT JOIN sessions NOT INDEXED ON sessions.session_key = entry_key",
        )?
        .query_row([id.as_str()], |row| match row.get_ref("session_id")? {
            ValueRef::Text(found) if found == id.as_str().as_bytes() => read(row),
            _ => Err(index_mismatch()),
        })
        .optional()
}

/// The index of ids and the rows contradict each other.
pub(crate) fn index_mismatch() -> rusqlite::Error {
    let what = "the index of session ids does not lead to the session's row";
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_CORRUPT_INDEX),
        Some(what.to_owned()),
    )
}

/// Whether an index led past a row.
pub(crate) fn is_index_mismatch(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(ffi::SQLITE_CORRUPT_INDEX)
}

/// The key of a session. Nothing else of its row has to be readable.
pub(crate) fn key_of(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<SessionKey>> {
    by_id(connection, id, key)
}

/// The key that the index has for an id, whatever row it leads to.
pub(super) fn entry_of(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<SessionKey>> {
    connection
        .prepare_cached("SELECT session_key FROM sessions WHERE session_id = ?1")?
        .query_row([id.as_str()], key)
        .optional()
}

/// The key of a session, by looking at each row: for those that the index does not lead to. Of two the
/// later one, which is appended to.
pub(crate) fn key_by_rows(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<SessionKey>> {
    connection
        .prepare_cached(
            "SELECT session_key FROM sessions NOT INDEXED WHERE session_id = ?1
             ORDER BY session_key DESC LIMIT 1",
        )?
        .query_row([id.as_str()], key)
        .optional()
}

/// Whether the index leads from the id of each row to that row. Looks at all of them.
pub(super) fn is_index_whole(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM sessions NOT INDEXED WHERE session_key IS NOT
            (SELECT session_key FROM sessions AS entry WHERE entry.session_id = sessions.session_id))",
        [],
        |row| row.get(0),
    )
}

/// The key of a session whose row cannot be read, and what the totals lose with it as far as the row
/// can: what is invalid in it counts as nothing.
pub(crate) fn find_as_far_as_readable(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<(SessionKey, Delta)>> {
    by_id(connection, id, |row| {
        let minus = |column| unsigned(row, column).map_or(0, |value| -signed(value));
        let time = |column| row.get::<_, i64>(column).unwrap_or_default();
        let lost = Delta {
            sessions: -1,
            messages: minus("last_sequence"),
            raw_bytes: minus("raw_bytes"),
            uncompacted_bytes: minus("uncompacted_bytes"),
            hot_messages: minus("hot_messages"),
            hot_bytes: minus("hot_bytes"),
            segments: minus("segments"),
            segment_bytes: minus("segment_bytes"),
            active_ms: minus("active_ms"),
            wall_ms: time("first_time_ms")
                .saturating_sub(time("last_time_ms"))
                .min(0),
            ..Delta::default()
        };
        Ok((key(row)?, lost))
    })
}

pub(crate) fn by_key(
    connection: &Connection,
    key: SessionKey,
) -> rusqlite::Result<Option<Session>> {
    connection
        .prepare_cached("SELECT * FROM sessions WHERE session_key = ?1")?
        .query_row([key.as_i64()], from_row)
        .optional()
}

/// Key and last sequence, all that a page of a replay needs.
pub(crate) fn position(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<(SessionKey, u64)>> {
    by_id(connection, id, |row| Ok((key(row)?, last_sequence(row)?)))
}

/// Whether the session exists, whatever else its row says.
pub(crate) fn is_there(connection: &Connection, key: SessionKey) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM sessions WHERE session_key = ?1)")?
        .query_row([key.as_i64()], |row| row.get(0))
}

pub(crate) fn list(
    connection: &Connection,
    filter: &SessionFilter,
) -> rusqlite::Result<SessionList> {
    // A slash at the end of a directory names no other. `/` itself is not what is no directory.
    const MATCHES: &str = "(?1 IS NULL OR working_directory = ?1
            OR (rtrim(?1, '/') <> '' AND rtrim(working_directory, '/') = rtrim(?1, '/')))
         AND (?2 IS NULL OR worktree_id = ?2)";
    // Rows, as `LIMIT` and `OFFSET` count them: the same whichever page it is.
    let total = connection
        .prepare_cached(&format!(
            "SELECT count(*) AS total FROM sessions WHERE {MATCHES}"
        ))?
        .query_row(
            params![filter.working_directory, filter.worktree_id],
            |row| unsigned(row, "total"),
        )?;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT * FROM sessions WHERE {MATCHES}
         ORDER BY updated_ms DESC, session_key DESC LIMIT ?3 OFFSET ?4"
    ))?;
    let (sessions, damaged) = readable(statement.query(params![
        filter.working_directory,
        filter.worktree_id,
        filter.limit.map_or(-1, signed),
        signed(filter.offset)
    ])?)?;
    Ok(SessionList {
        total,
        sessions,
        damaged,
    })
}

pub(crate) fn insert(
    connection: &Connection,
    id: &SessionId,
    meta: &SessionMeta,
    now_ms: i64,
) -> rusqlite::Result<SessionKey> {
    connection
        .prepare_cached(
            "INSERT INTO sessions (session_id, name, model, working_directory, worktree_id,
                agent_session_id, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
        )?
        .execute(params![
            id.as_str(),
            meta.name,
            meta.model,
            meta.working_directory,
            meta.worktree_id,
            agent_id_of_row(&meta.agent_session_id, id.as_str()),
            now_ms
        ])?;
    Ok(SessionKey(connection.last_insert_rowid()))
}

/// Writes what appending changes. Counts are those of `session` after the append. `false` when SQLite
/// does not find the row by its key.
pub(crate) fn update(connection: &Connection, session: &Session) -> rusqlite::Result<bool> {
    let usage = serde_json::to_string(&session.usage)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    let updated = connection
        .prepare_cached(
            "UPDATE sessions SET name = ?2, model = ?3, working_directory = ?4, worktree_id = ?5,
                agent_session_id = ?6, updated_ms = ?7, last_sequence = ?8, raw_bytes = ?9,
                uncompacted_bytes = ?10, hot_messages = ?11, hot_bytes = ?12,
                first_time_ms = ?13, last_time_ms = ?14, active_ms = ?15, usage = ?16,
                last_preview = ?17
             WHERE session_key = ?1",
        )?
        .execute(params![
            session.key.as_i64(),
            session.meta.name,
            session.meta.model,
            session.meta.working_directory,
            session.meta.worktree_id,
            agent_id_of_row(&session.meta.agent_session_id, session.id.as_str()),
            session.updated_ms,
            signed(session.messages),
            signed(session.raw_bytes),
            signed(session.uncompacted_bytes),
            signed(session.hot_messages),
            signed(session.hot_bytes),
            session.first_time_ms,
            session.last_time_ms,
            session.active_ms,
            usage,
            session.last_preview,
        ])?;
    Ok(updated == 1)
}

/// Moves bytes between hot rows and segments, as a compaction step does.
pub(crate) fn shift(
    connection: &Connection,
    key: SessionKey,
    delta: &Delta,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sessions SET hot_messages = hot_messages + ?2, hot_bytes = hot_bytes + ?3,
                segments = segments + ?4, segment_bytes = segment_bytes + ?5
             WHERE session_key = ?1",
        )?
        .execute(params![
            key.as_i64(),
            delta.hot_messages,
            delta.hot_bytes,
            delta.segments,
            delta.segment_bytes
        ])?;
    Ok(())
}

pub(crate) fn rename(
    connection: &Connection,
    key: SessionKey,
    name: &str,
    now_ms: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE sessions SET name = ?2, updated_ms = ?3 WHERE session_key = ?1")?
        .execute(params![key.as_i64(), name, now_ms])?;
    Ok(())
}

/// Removes the session's row; its messages are deleted afterwards, in steps.
pub(crate) fn mark_deleted(
    connection: &Connection,
    key: SessionKey,
    now_ms: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO deletions (session_key, deleted_ms) VALUES (?1, ?2)",
        params![key.as_i64(), now_ms],
    )?;
    connection.execute(
        "DELETE FROM sessions WHERE session_key = ?1",
        [key.as_i64()],
    )?;
    Ok(())
}

/// Sessions that a compaction may have something to do for: those with hot messages or with
/// segments of the quick tier; all with `everything`.
pub(crate) fn compactable(
    connection: &Connection,
    everything: bool,
) -> rusqlite::Result<(Vec<Session>, Vec<DamagedSession>)> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM sessions WHERE last_sequence > 0 AND (?1 OR hot_messages > 0
            OR session_key IN (SELECT segment_key >> 32 FROM segments WHERE tier = 1))
         ORDER BY session_key",
    )?;
    readable(statement.query([everything])?)
}

/// A session whose rows still have to be deleted. A row in `deletions` for a session that exists, or with a key
/// out of range, is ignored.
pub(crate) fn next_deletion(
    connection: &Connection,
    after: Option<SessionKey>,
) -> rusqlite::Result<Option<SessionKey>> {
    connection
        .query_row(
            "SELECT session_key FROM deletions
             WHERE session_key > ?1 AND session_key <= ?2
                AND session_key NOT IN (SELECT session_key FROM sessions NOT INDEXED)
             ORDER BY session_key LIMIT 1",
            [after.map_or(0, |key| key.0), SESSION_KEY_MAX],
            |row| row.get(0).map(SessionKey),
        )
        .optional()
}

/// Whether a key is listed as deleted and no session has it.
pub(crate) fn is_deletion(connection: &Connection, key: SessionKey) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM deletions WHERE session_key = ?1)
                AND NOT EXISTS (SELECT 1 FROM sessions NOT INDEXED WHERE session_key = ?1)",
        )?
        .query_row([key.0], |row| row.get(0))
}

/// Keys in `deletions` that are out of range or of existing sessions, for `verify`.
pub(crate) fn invalid_deletions(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare(
            "SELECT session_key FROM deletions WHERE session_key NOT BETWEEN 1 AND ?1
                OR session_key IN (SELECT session_key FROM sessions NOT INDEXED)",
        )?
        .query_map([SESSION_KEY_MAX], |row| row.get(0))?
        .collect()
}

pub(crate) fn finish_deletion(connection: &Connection, key: SessionKey) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM deletions WHERE session_key = ?1",
        [key.as_i64()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_id_comes_back_whatever_it_is() {
        for agent_id in ["", "own", "=", "==", "===", "=own", "other"] {
            let stored = agent_id_of_row(agent_id, "own").into_owned();
            assert_eq!(agent_id_from_row(stored, "own"), agent_id);
        }
        assert_eq!(agent_id_of_row("own", "own"), "=");
        assert_eq!(agent_id_from_row("own".to_owned(), "own"), "own");
    }
}
