//! Deleting a session: out of sight in one transaction, its rows in small ones after it.

use crate::compact::{Pace, rest_for_other_processes};
use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{DELETE_BYTES_PER_STEP, DELETE_ROWS_PER_STEP};
use crate::message::{ImportMark, SessionMeta};
use crate::session::Session;
use crate::sql::db::is_invalid_value;
use crate::sql::totals::Delta;
use crate::sql::{self, DeletionStep};
use crate::store::Store;

impl Store {
    /// Deletes a session and all its messages. Whether there was one.
    ///
    /// It is gone at once and for good when this returns; its space comes back in small steps,
    /// of which a crash leaves the rest for later.
    ///
    /// # Errors
    /// When the file cannot be written, and the session is still there;
    /// [`StoreError::SpaceNotGivenBack`] when it is gone, and what is left of it is not.
    pub fn delete(&self, id: &SessionId) -> Result<bool> {
        self.delete_if(id, None)
    }

    /// As [`Store::delete`]; only if the session is as `expected`, where that is given.
    pub(crate) fn delete_if(
        &self,
        id: &SessionId,
        expected: Option<SessionFingerprint>,
    ) -> Result<bool> {
        let (id, gone) = (id.clone(), id.clone());
        let deleted = self.writer()?.run(move |context| {
            let now_ms = context.options.clock.now_ms();
            context.maintain("delete the session", |db, connection| {
                db.named(
                    "delete the session",
                    delete_session(connection, &id, expected.as_ref(), now_ms),
                )
                .map_err(|error| error.in_session(&id))
            })
        })?;
        if let Some(key) = deleted {
            self.give_back_space_of(&gone, key)?;
        }
        Ok(deleted.is_some())
    }

    /// Deletes the rows of the session `gone`, and of those whose deletion was not finished before.
    fn give_back_space_of(&self, gone: &SessionId, key: SessionKey) -> Result<()> {
        let mut finished = self.finish_deletions();
        if let Err(error) = &finished
            && error.kind() == ErrorKind::Damaged
            && !self.query("find deletions", |c| sql::sessions::is_deletion(c, key))?
        {
            tracing::warn!(%error, "the space of a session deleted earlier is not given back");
            finished = Ok(());
        }
        finished.map_err(|source| StoreError::SpaceNotGivenBack {
            id: gone.clone(),
            source: Box::new(source),
        })
    }

    /// Finishes the deletions that were cut short before, if that is possible: nothing else needs
    /// them. On a full disk they take room before they make any, and damaged pages cannot be
    /// deleted from; neither may keep a store from being opened.
    pub(crate) fn finish_deletions_if_possible(&self) -> Result<()> {
        match self.finish_deletions() {
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Damaged) => {
                tracing::warn!(path = %self.path().display(), %error,
                    "the space of deleted sessions is not given back yet");
                Ok(())
            }
            finished => finished,
        }
    }

    /// Deletes the rows of sessions that are gone, a bounded number at a time. Where that meets
    /// damage the others are deleted all the same, and the first damage is the answer.
    fn finish_deletions(&self) -> Result<()> {
        let (mut after, mut damaged, mut deleted) = (None, Ok(()), false);
        let mut pace = Pace::new(self);
        let next = |after| self.query("find deletions", |c| sql::sessions::next_deletion(c, after));
        while let Some(key) = next(after)? {
            after = Some(key);
            match self.delete_rows_of(&mut pace, key) {
                Ok(()) => deleted = true,
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    damaged = damaged.and(Err(error))
                }
                Err(error) => return Err(error),
            }
        }
        if deleted {
            self.delete_unused_bases()?;
        }
        damaged
    }

    /// Crash point: each step is a transaction, and the key stays among the deletions until the last, so
    /// that whoever comes next goes on from there.
    fn delete_rows_of(&self, pace: &mut Pace<'_>, key: SessionKey) -> Result<()> {
        loop {
            let step = pace.maintain(move |context| {
                context.maintain("delete messages", |db, connection| {
                    db.named("delete messages", delete_step(connection, key))
                })
            })?;
            if !step.value {
                return Ok(());
            }
            rest_for_other_processes();
        }
    }
}

/// What must not have changed since a session was archived for it to be deleted: its messages, which only
/// get more, and what can change without a message.
#[derive(Debug, Clone)]
pub(crate) struct SessionFingerprint {
    pub(crate) key: SessionKey,
    pub(crate) messages: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) updated_ms: i64,
    pub(crate) meta: SessionMeta,
    pub(crate) import: Option<ImportMark>,
}

impl SessionFingerprint {
    /// Whether it was imported. Its messages' received times are then those of the import, which another
    /// import of the same file does not repeat.
    pub(crate) fn is_imported(&self) -> bool {
        self.import.is_some()
    }

    /// Whether it is that session, and has as many messages and was last written when it had.
    pub(crate) fn has_counts(&self, key: SessionKey, messages: u64, updated_ms: i64) -> bool {
        (self.key, self.messages, self.updated_ms) == (key, messages, updated_ms)
    }

    fn matches(
        &self,
        connection: &rusqlite::Connection,
        session: &Session,
    ) -> rusqlite::Result<bool> {
        let (key, messages, updated_ms) = (session.key, session.messages, session.updated_ms);
        if !self.has_counts(key, messages, updated_ms)
            || self.raw_bytes != session.raw_bytes
            || self.meta != session.meta
            || sql::damaged::has_rows_past(connection, key, messages)?
        {
            return Ok(false);
        }
        let import = sql::imports::of_session(connection, session.key)?;
        Ok(import.map(|record| record.mark) == self.import)
    }
}

/// Takes a session out of sight and out of all sums; only if it has the contents `expected` of it.
/// Its key, if there was such a session.
fn delete_session(
    connection: &rusqlite::Connection,
    id: &SessionId,
    expected: Option<&SessionFingerprint>,
    now_ms: i64,
) -> rusqlite::Result<Option<SessionKey>> {
    let (key, delta) = match sql::sessions::find(connection, id) {
        // To say that there is none, or that it is deleted, it has to be in no row.
        Ok(None) => {
            return match sql::sessions::key_by_rows(connection, id)? {
                None => Ok(None),
                Some(_) => Err(sql::sessions::index_mismatch()),
            };
        }
        Ok(Some(session)) => {
            if let Some(expected) = expected
                && !expected.matches(connection, &session)?
            {
                return Ok(None);
            }
            (session.key, all_of(&session))
        }
        // An odd number in its row must not keep a session for ever.
        Err(error) if is_invalid_value(&error) && expected.is_none() => {
            match sql::sessions::find_as_far_as_readable(connection, id)? {
                Some(found) => found,
                None => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    sql::totals::add(connection, &delta)?;
    sql::growth::remove_session(connection, key)?;
    sql::imports::remove(connection, key)?;
    sql::sessions::mark_deleted(connection, key, now_ms)?;
    Ok(Some(key))
}

/// What the totals lose with a session.
fn all_of(session: &Session) -> Delta {
    let minus = |value: u64| -sql::signed(value);
    Delta {
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
        ..Delta::default()
    }
}

/// Deletes some rows of a session that is gone; whether there may be more to do.
fn delete_step(connection: &rusqlite::Connection, key: SessionKey) -> rusqlite::Result<bool> {
    if !sql::sessions::is_deletion(connection, key)? {
        return Ok(false);
    }
    let step = DeletionStep {
        rows_max: DELETE_ROWS_PER_STEP,
        bytes_max: DELETE_BYTES_PER_STEP,
    };
    if sql::messages::delete_some(connection, key, step)? > 0 {
        return Ok(true);
    }
    if sql::segments::delete_some(connection, key, step)? > 0 {
        return Ok(true);
    }
    sql::sessions::finish_deletion(connection, key)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::message::Batch;
    use crate::options::StoreOptions;

    const MESSAGES: usize = 20;

    /// A store with a session of `MESSAGES` messages of 1 MiB each.
    fn store_with_big_messages(folder: &tempfile::TempDir) -> (Store, SessionId) {
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(&folder.path().join("h.db"), options).unwrap();
        let id: SessionId = "s".parse().unwrap();
        let line = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        store
            .append(Batch::new(id.clone(), vec![line; MESSAGES]))
            .unwrap();
        (store, id)
    }

    /// Counts the writer's commits from now on.
    fn count_commits(store: &Store) -> Arc<AtomicUsize> {
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&commits);
        let count = move |context: &mut crate::writer::WriterContext| {
            context.maintain("count the commits", |_, connection| {
                let counted = Arc::clone(&counted);
                let hook = connection.commit_hook(Some(move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                    false
                }));
                hook.unwrap();
                Ok(())
            })
        };
        store.writer().unwrap().run(count).unwrap();
        commits.store(0, Ordering::SeqCst);
        commits
    }

    #[test]
    fn a_transaction_deletes_no_more_bytes_than_a_commit_writes() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = store_with_big_messages(&folder);
        let commits = count_commits(&store);
        assert!(store.delete(&id).unwrap());
        // One that takes it out of sight, one for each 8 MiB, and one that ends the deletion.
        assert_eq!(commits.load(Ordering::SeqCst), 1 + 3 + 1);
        assert_eq!(store.query("count", count_rows).unwrap(), 0);
    }

    fn count_rows(connection: &rusqlite::Connection) -> rusqlite::Result<i64> {
        let rows = "SELECT (SELECT count(*) FROM hot_messages) + (SELECT count(*) FROM segments)
                 + (SELECT count(*) FROM deletions)";
        connection.query_row(rows, [], |row| row.get(0))
    }
}
