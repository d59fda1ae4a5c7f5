//! Lists and finds sessions of a file in which pages of the session table or of its index are damaged.
//!
//! A session is in two b-trees: its row in the table, and its id and key in the index. What one of them has lost,
//! the other usually has, and the messages are in neither.

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;

use rusqlite::{Connection, OptionalExtension};

use super::db::{is_damage, is_damaged_page};
use super::imports::Origin;
use super::{imports, messages, segments, sessions};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{DAMAGED_KEYS_IN_A_ROW_MAX, SEQUENCE_MAX, SESSION_KEY_MAX};
use crate::session::{DamagedSession, Session, SessionFilter, SessionList};

/// The usual result, or that of `otherwise` if the usual way met a damaged page.
pub(crate) fn or_else<T>(
    usual: rusqlite::Result<T>,
    otherwise: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    match usual {
        Err(error) if is_damaged_page(&error) => otherwise(),
        usual => usual,
    }
}

/// Like [`sessions::list`]. Sessions without a readable row are returned with the first page, because nobody
/// knows whether they match.
pub(crate) fn list(
    connection: &Connection,
    filter: &SessionFilter,
) -> rusqlite::Result<SessionList> {
    let (mut sessions, damaged) = all(connection)?;
    sessions.retain(|session| filter.matches(&session.meta));
    sessions.sort_by_key(|session| std::cmp::Reverse((session.updated_ms, session.key)));
    let bounded = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let total = (sessions.len() + damaged.len()) as u64;
    let sessions = sessions
        .into_iter()
        .skip(bounded(filter.offset))
        .take(filter.limit.map_or(usize::MAX, bounded))
        .collect();
    Ok(SessionList {
        sessions,
        total,
        damaged: if filter.offset == 0 {
            damaged
        } else {
            Vec::new()
        },
    })
}

/// As [`sessions::compactable`], and perhaps a few more: planning finds out whether a session has work.
pub(crate) fn compactable(
    connection: &Connection,
    everything: bool,
) -> rusqlite::Result<(Vec<Session>, Vec<DamagedSession>)> {
    let (mut sessions, damaged) = all(connection)?;
    sessions.retain(|s| s.messages > 0 && (everything || s.hot_messages > 0 || s.segments > 0));
    Ok((sessions, damaged))
}

/// As [`imports::origins`].
pub(crate) fn origins(connection: &Connection) -> rusqlite::Result<Vec<Origin>> {
    let (sessions, _) = all(connection)?;
    let origin = |session: Session| {
        let source_path = match imports::of_session(connection, session.key) {
            Err(error) if is_damage(&error) => None,
            record => record?.map(|record| record.mark.source_path),
        };
        Ok(Origin {
            session: session.key,
            working_directory: session.meta.working_directory,
            source_path,
            raw_bytes: session.raw_bytes,
        })
    };
    sessions.into_iter().map(origin).collect()
}

/// All sessions in the order of their keys, and those that cannot be read. One without an id stands for all that
/// are in neither b-tree any more.
pub(crate) fn all(
    connection: &Connection,
) -> rusqlite::Result<(Vec<Session>, Vec<DamagedSession>)> {
    // One snapshot, so that a concurrent deletion does not make the two trees differ.
    let _snapshot = connection
        .is_autocommit()
        .then(|| connection.unchecked_transaction())
        .transpose()?;
    let (mut ids, is_complete) = indexed(connection)?;
    if is_complete && let Some(all) = all_of(connection, &ids)? {
        return Ok(all);
    }
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let highest = ids.keys().next_back().copied().unwrap_or_default();
    let end = highest.max(last_key(connection)?);
    let mut next = 1;
    let mut failed_in_a_row = 0;
    let mut first_failure = None;
    while next <= end && failed_in_a_row < DAMAGED_KEYS_IN_A_ROW_MAX {
        let from = next;
        let failure = rows_from(connection, from, |key, session| {
            // Never go back: a damaged tree may return rows that were not asked for.
            if key < next {
                return;
            }
            next = key.saturating_add(1);
            let id = ids.remove(&key);
            match session {
                Ok(session) => found.push(session),
                Err(error) => damaged.push(lost(id.as_deref(), &error.to_string())),
            }
        })?;
        let Some(failure) = failure else { break };
        first_failure.get_or_insert_with(|| failure.to_string());
        failed_in_a_row = if next == from { failed_in_a_row + 1 } else { 0 };
        next = next.saturating_add(1);
    }
    // A session whose index entry is wrong may have been found by its row.
    let names: HashSet<&str> = found.iter().map(|session| session.id.as_str()).collect();
    let why = first_failure.as_deref().unwrap_or("it has none");
    let left = ids.values().filter(|id| !names.contains(id.as_str()));
    damaged.extend(left.map(|id| lost(Some(id), why)));
    if let Some(why) = first_failure {
        damaged.push(lost(
            None,
            &format!("{why}; nor can the index that names it"),
        ));
    }
    Ok((found, damaged))
}

/// The sessions of a complete index; `None` if it and the rows contradict each other.
fn all_of(
    connection: &Connection,
    ids: &BTreeMap<i64, String>,
) -> rusqlite::Result<Option<(Vec<Session>, Vec<DamagedSession>)>> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for (key, id) in ids {
        match sessions::by_key(connection, SessionKey(*key)) {
            Ok(Some(session)) if session.id.as_str() == id => found.push(session),
            Ok(_) => return Ok(None),
            Err(error) if is_damage(&error) => {
                damaged.push(lost(Some(id), &error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some((found, damaged)))
}

fn lost(id: Option<&str>, why: &str) -> DamagedSession {
    DamagedSession {
        id: id.and_then(|id| SessionId::new(id).ok()),
        what: format!("its row cannot be read: {why}"),
    }
}

/// Calls `each` with the rows from `key` on, as far as pages can be read. Returns the error that ended it, if any.
fn rows_from(
    connection: &Connection,
    key: i64,
    mut each: impl FnMut(i64, rusqlite::Result<Session>),
) -> rusqlite::Result<Option<rusqlite::Error>> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM sessions NOT INDEXED WHERE session_key >= ?1 ORDER BY session_key",
    )?;
    let mut rows = statement.query([key])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => each(row.get("session_key")?, sessions::from_row(row)),
            Ok(None) => return Ok(None),
            Err(error) if is_damaged_page(&error) => return Ok(Some(error)),
            Err(error) => return Err(error),
        }
    }
}

/// Ids by their keys, as far as the index can be read from its two ends, and whether that is all of it.
/// An index with two ids for one key is not whole.
fn indexed(connection: &Connection) -> rusqlite::Result<(BTreeMap<i64, String>, bool)> {
    let mut ids = BTreeMap::new();
    let mut is_unambiguous = true;
    for order in ["ASC", "DESC"] {
        // Both columns are in the index, so no row is read.
        let mut statement = connection.prepare_cached(&format!(
            "SELECT session_key, session_id FROM sessions ORDER BY session_id {order}"
        ))?;
        let mut rows = statement.query([])?;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let id: String = row.get("session_id").unwrap_or_default();
                    let is_same = |other: String| other == id;
                    let before = ids.insert(row.get("session_key")?, id.clone());
                    is_unambiguous &= before.is_none_or(is_same);
                }
                Ok(None) => return Ok((ids, is_unambiguous)),
                Err(error) if is_damaged_page(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok((ids, false))
}

/// The highest key that was ever used, as far as that is known.
fn last_key(connection: &Connection) -> rusqlite::Result<i64> {
    let last = connection
        .query_row(
            "SELECT seq FROM sqlite_sequence WHERE name = 'sessions'",
            [],
            |row| row.get::<_, i64>(0),
        )
        .optional();
    match last {
        Ok(last) => Ok(last.unwrap_or(SESSION_KEY_MAX).min(SESSION_KEY_MAX)),
        Err(error) if is_damage(&error) => Ok(SESSION_KEY_MAX),
        Err(error) => Err(error),
    }
}

/// What is known of the index of session ids.
///
/// A wrong entry is noticed when it is followed; a missing one is not. So when an id is not found the whole
/// index is compared with the rows, once per opened store. The writer skips this, because it would hold up
/// appends: it creates a new session, both are listed, and `verify` reports the old one.
#[derive(Debug, Default)]
pub(crate) struct IdIndex {
    is_whole: OnceLock<bool>,
}

impl IdIndex {
    fn is_whole(&self, connection: &Connection) -> rusqlite::Result<bool> {
        if let Some(is_whole) = self.is_whole.get() {
            return Ok(*is_whole);
        }
        let is_whole = match sessions::is_index_whole(connection) {
            Err(error) if is_damage(&error) => false,
            is_whole => is_whole?,
        };
        Ok(*self.is_whole.get_or_init(|| is_whole))
    }

    /// The key of a session, by the index or else by the rows.
    pub(crate) fn key_of(
        &self,
        connection: &Connection,
        id: &SessionId,
    ) -> rusqlite::Result<Option<SessionKey>> {
        let by_index = sessions::key_of(connection, id);
        self.or_by_rows(connection, id, by_index, |key| Ok(Some(key)))
    }

    /// As [`sessions::find`], or else by the rows.
    pub(crate) fn find(
        &self,
        connection: &Connection,
        id: &SessionId,
    ) -> rusqlite::Result<Option<Session>> {
        let by_index = sessions::find(connection, id);
        self.or_by_rows(connection, id, by_index, |key| {
            sessions::by_key(connection, key)
        })
    }

    /// As [`sessions::position`], or else by the rows.
    pub(crate) fn position(
        &self,
        connection: &Connection,
        id: &SessionId,
    ) -> rusqlite::Result<Option<(SessionKey, u64)>> {
        let by_index = sessions::position(connection, id);
        self.or_by_rows(connection, id, by_index, |key| {
            let found = sessions::by_key(connection, key)?;
            Ok(found.map(|session| (session.key, session.messages)))
        })
    }

    fn or_by_rows<T>(
        &self,
        connection: &Connection,
        id: &SessionId,
        by_index: rusqlite::Result<Option<T>>,
        by_key: impl FnOnce(SessionKey) -> rusqlite::Result<Option<T>>,
    ) -> rusqlite::Result<Option<T>> {
        let failure = match by_index {
            Err(error) if is_damaged_page(&error) => Some(error),
            Ok(None) if !self.is_whole(connection)? => None,
            by_index => return by_index,
        };
        match key_without_index(connection, id, failure)? {
            Some(key) => by_key(key),
            None => Ok(None),
        }
    }
}

/// The key of a session to which the index does not lead, which may have ended in a `failure`.
fn key_without_index(
    connection: &Connection,
    id: &SessionId,
    failure: Option<rusqlite::Error>,
) -> rusqlite::Result<Option<SessionKey>> {
    match sessions::key_by_rows(connection, id) {
        Ok(None) => {
            return match failure {
                // The index knows it, so its row has been lost, or what that says of its id.
                Some(error) if sessions::is_index_mismatch(&error) => Err(error),
                _ => Ok(None),
            };
        }
        Err(error) if is_damaged_page(&error) => {}
        found => return found,
    }
    let (sessions, _) = all(connection)?;
    if let Some(found) = sessions.iter().rfind(|session| session.id == *id) {
        return Ok(Some(found.key));
    }
    // If the row cannot be read, nothing contradicts the index.
    let entry = sessions::entry_of(connection, id);
    if let Ok(Some(key)) = entry
        && sessions::by_key(connection, key).is_err_and(|error| is_damage(&error))
    {
        return Ok(Some(key));
    }
    failure.map_or(Ok(None), Err)
}

/// Whether there is a message or a segment after `end`, the last sequence in the session's row.
pub(crate) fn has_rows_past(
    connection: &Connection,
    key: SessionKey,
    end: u64,
) -> rusqlite::Result<bool> {
    let segment = segments::last_sequence(connection, key)?;
    let has_more = segment.is_some_and(|last| last > end);
    Ok(has_more || messages::next_after(connection, key, end)?.is_some())
}

/// The highest sequence of a session's messages and segments, whatever its row says.
///
/// If some of these cannot be read, the count of appended messages in the growth table is used as well.
pub(crate) fn last_sequence(connection: &Connection, key: SessionKey) -> rusqlite::Result<u64> {
    let found = [
        messages::last_sequence(connection, key),
        segments::last_sequence(connection, key),
    ];
    let mut last = 0;
    let mut is_all_read = true;
    for found in found {
        match found {
            Ok(sequence) => last = last.max(sequence.unwrap_or_default()),
            Err(error) if is_damage(&error) => is_all_read = false,
            Err(error) => return Err(error),
        }
    }
    if !is_all_read {
        match super::growth::sums_of(connection, key) {
            Ok(counted) => last = last.max(counted.messages),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(last.min(SEQUENCE_MAX))
}
