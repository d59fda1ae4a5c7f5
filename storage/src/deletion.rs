//! Deleting a session: out of sight in one transaction, its rows in small ones after it.

use std::ops::ControlFlow;

use crate::compact::{Pace, rest_for_other_processes};
use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{DELETE_BYTES_PER_STEP, DELETE_ROWS_PER_STEP, OPEN_DELETION_STEPS_MAX};
use crate::message::{ImportMark, SessionMeta};
use crate::session::Session;
use crate::sql::db::is_invalid_value;
use crate::sql::totals::Delta;
use crate::sql::{self, DeletionStep};
use crate::store::Store;

impl Store {
    /// Deletes a session and all its messages. Returns whether there was such a session.
    ///
    /// It is gone at once and for good when this returns; its space comes back in small steps,
    /// of which a crash leaves the rest for later.
    ///
    /// # Errors
    /// When the file cannot be written, and the session is still there;
    /// [`StoreError::SpaceNotGivenBack`] when it is gone, and what is left of it is not.
    pub fn delete(&self, id: &SessionId) -> Result<bool> {
        self.delete_observed(id, &mut || ControlFlow::Continue(()))
    }

    /// As [`Store::delete`]. `observe` is called before each step of giving the space back, and may stop
    /// it there: the session is gone all the same, and the next compaction or deletion gives the rest back.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub fn delete_observed(
        &self,
        id: &SessionId,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<bool> {
        self.writer()?;
        // Not under the write lock: if the index does not have the id, all rows are read.
        match self.key_of(id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(false),
            found => found?,
        };
        let Some(key) = self.hide_session(id, None)? else {
            return Ok(false);
        };
        self.delete_rows_of(id, key, observe)?;
        self.delete_unused_bases()
            .map_err(|source| space_not_given_back(id, source))?;
        Ok(true)
    }

    /// Deletes a session if it is as `expected`, and returns whether it was. `observe` is as in
    /// [`Store::delete_observed`]. The caller deletes the bases that no session needs any more.
    pub(crate) fn delete_if(
        &self,
        id: &SessionId,
        expected: SessionFingerprint,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<bool> {
        let Some(key) = self.hide_session(id, Some(expected))? else {
            return Ok(false);
        };
        self.delete_rows_of(id, key, observe)?;
        Ok(true)
    }

    /// The first transaction of a deletion, after which nobody finds the session. Returns the session's key, if
    /// there was such a session.
    fn hide_session(
        &self,
        id: &SessionId,
        expected: Option<SessionFingerprint>,
    ) -> Result<Option<SessionKey>> {
        let id = id.clone();
        self.writer()?.run(move |context| {
            let now_ms = context.options.clock.now_ms();
            context.maintain("delete the session", |db, connection| {
                db.context(
                    "delete the session",
                    delete_session(connection, &id, expected.as_ref(), now_ms),
                )
                .map_err(|error| error.in_session(&id))
            })
        })
    }

    /// Deletes the rows of the session `gone`, and of those whose deletion was not finished before, until
    /// `go_on` stops it.
    fn delete_rows_of(
        &self,
        gone: &SessionId,
        key: SessionKey,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        let mut finished = match self.finish_deletions(go_on) {
            Err(StoreError::Cancelled) => return Ok(()),
            finished => finished,
        };
        if let Err(error) = &finished
            && error.kind() == ErrorKind::Damaged
            && !self.query("find deletions", |c| sql::sessions::is_deletion(c, key))?
        {
            tracing::warn!(%error, "the space of a session deleted earlier is not given back");
            finished = Ok(());
        }
        finished.map_err(|source| space_not_given_back(gone, source))
    }

    /// Finishes the deletions that were cut short before, if that is possible: nothing else needs
    /// them. On a full disk they take room before they make any, and damaged pages cannot be
    /// deleted from; neither may keep a store from being opened.
    pub(crate) fn finish_deletions_if_possible(
        &self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        match self.finish_deletions(go_on) {
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Damaged) => {
                tracing::warn!(path = %self.path().display(), %error,
                    "the space of deleted sessions is not given back yet");
                Ok(())
            }
            finished => finished,
        }
    }

    /// Does at most [`OPEN_DELETION_STEPS_MAX`] steps of deletions that were cut short, so that opening a store
    /// takes a bounded time. The next compaction does the rest.
    pub(crate) fn finish_short_deletions(&self) -> Result<()> {
        let mut steps = 0;
        let finished = self.finish_deletions_if_possible(&mut || {
            steps += 1;
            match steps <= OPEN_DELETION_STEPS_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        match finished {
            Err(StoreError::Cancelled) => {
                tracing::info!(path = %self.path().display(),
                    "the next compaction gives back the space of deleted sessions");
                Ok(())
            }
            finished => finished,
        }
    }

    /// Deletes the rows of sessions that are gone, a bounded number at a time, as long as `go_on` says so.
    /// If one meets damage the others are still deleted, and the first damage is returned.
    fn finish_deletions(&self, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
        let (mut after, mut damaged) = (None, Ok(()));
        let mut pace = Pace::new(self);
        let next = |after| self.query("find deletions", |c| sql::sessions::next_deletion(c, after));
        while let Some(key) = next(after)? {
            after = Some(key);
            match self.finish_deletion(&mut pace, key, go_on) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    damaged = damaged.and(Err(error))
                }
                finished => finished?,
            }
        }
        damaged
    }

    /// Crash point: each step is a transaction, and the key stays among the deletions until the last, so
    /// that the next deletion or compaction continues from there.
    fn finish_deletion(
        &self,
        pace: &mut Pace<'_>,
        key: SessionKey,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<()> {
        loop {
            if go_on().is_break() {
                return Err(StoreError::Cancelled);
            }
            let step = pace.maintain(move |context| {
                context.maintain("delete messages", |db, connection| {
                    db.context("delete messages", delete_step(connection, key))
                })
            })?;
            if !step.value {
                return Ok(());
            }
            rest_for_other_processes();
        }
    }
}

fn space_not_given_back(gone: &SessionId, source: StoreError) -> StoreError {
    StoreError::SpaceNotGivenBack {
        id: gone.clone(),
        source: Box::new(source),
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

/// Deletes a session's row and its share of all sums, only if the session is as `expected`. Returns its key, if
/// there was such a session.
fn delete_session(
    connection: &rusqlite::Connection,
    id: &SessionId,
    expected: Option<&SessionFingerprint>,
    now_ms: i64,
) -> rusqlite::Result<Option<SessionKey>> {
    let (key, delta) = match sql::sessions::find(connection, id) {
        // The index may be wrong, so make sure that no row has the id.
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
            (session.key, Delta::minus(&session))
        }
        // An invalid number in its row must not make a session impossible to delete.
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

/// Deletes some rows of a session that is gone. Returns whether there may be more to do.
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
    sql::segments::delete_tails_of_session(connection, key)?;
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
            session_bytes_max: 1 << 30,
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

    #[test]
    fn a_deletion_that_is_stopped_deletes_the_session_and_the_next_compaction_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = store_with_big_messages(&folder);
        let stop = &mut || ControlFlow::Break(());
        assert!(store.delete_observed(&id, stop).unwrap());
        assert!(!store.delete_observed(&id, stop).unwrap());
        assert_eq!(store.totals().unwrap().messages, 0);
        let rows = 1 + MESSAGES as i64;
        assert_eq!(store.query("count", count_rows).unwrap(), rows);
        let request = crate::CompactionRequest::manual();
        store
            .compact(&request, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(store.query("count", count_rows).unwrap(), 0);
    }

    #[test]
    fn opening_a_store_deletes_little_of_what_a_deletion_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = store_with_big_messages(&folder);
        let line = bytes::Bytes::from(vec![b'y'; 1 << 20]);
        let lines = vec![line; MESSAGES];
        store.append(Batch::new(id.clone(), lines)).unwrap();
        let stop = &mut || ControlFlow::Break(());
        assert!(store.delete_observed(&id, stop).unwrap());
        store.close().unwrap();
        let path = folder.path().join("h.db");
        let left = |store: &Store| store.query("count", count_rows).unwrap();
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let deleted = (u64::from(OPEN_DELETION_STEPS_MAX) * DELETE_BYTES_PER_STEP) >> 20;
        assert_eq!(left(&store), 1 + 2 * MESSAGES as i64 - deleted as i64);
        store.close().unwrap();
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        assert_eq!(left(&store), 0);
    }

    fn count_rows(connection: &rusqlite::Connection) -> rusqlite::Result<i64> {
        let rows = "SELECT (SELECT count(*) FROM hot_messages) + (SELECT count(*) FROM segments)
                 + (SELECT count(*) FROM deletions)";
        connection.query_row(rows, [], |row| row.get(0))
    }
}
