//! Deleting a session: out of sight in one transaction, its rows in small ones after it.

use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::DELETE_ROWS_PER_STEP;
use crate::message::{ImportMark, SessionMeta};
use crate::session::Session;
use crate::sql::db::Db;
use crate::sql::totals::Delta;
use crate::sql::{self};
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
        let (id, gone) = (id.clone(), id.clone());
        let deleted = self.writer()?.run(move |context| {
            let now_ms = context.options.clock.now_ms();
            context.maintain("delete the session", |db, connection| {
                db.named(
                    "delete the session",
                    delete_session(connection, &id, None, now_ms),
                )
            })
        })?;
        if deleted {
            self.give_back_space_of(&gone)?;
        }
        Ok(deleted)
    }

    /// Deletes the rows of the session `gone`, and of those whose deletion was not finished before.
    pub(crate) fn give_back_space_of(&self, gone: &SessionId) -> Result<()> {
        self.finish_deletions()
            .map_err(|source| StoreError::SpaceNotGivenBack {
                id: gone.to_string(),
                source: Box::new(source),
            })
    }

    /// Finishes the deletions that were cut short before. On a full disk they are left once more:
    /// they take room before they make any, and nothing else needs them.
    pub(crate) fn finish_deletions_if_there_is_room(&self) -> Result<()> {
        match self.finish_deletions() {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(path = %self.path().display(), %error,
                    "the space of deleted sessions is not given back yet: the disk is full");
                Ok(())
            }
            finished => finished,
        }
    }

    /// Deletes the rows of sessions that are gone, a bounded number at a time.
    fn finish_deletions(&self) -> Result<()> {
        let mut deleted = false;
        while self
            .writer()?
            .run(|context| context.maintain("delete messages", delete_step))?
        {
            deleted = true;
        }
        if deleted {
            self.delete_unused_bases()?;
        }
        Ok(())
    }
}

/// All of a session that cannot be had again once it is deleted: its messages, which only get more,
/// and what can change without a message.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) key: SessionKey,
    pub(crate) messages: u64,
    pub(crate) updated_ms: i64,
    pub(crate) meta: SessionMeta,
    pub(crate) import: Option<ImportMark>,
}

impl Contents {
    /// Whether it is that session, and has as many messages and was last written when it had.
    pub(crate) fn are_as_counted(&self, key: SessionKey, messages: u64, updated_ms: i64) -> bool {
        (self.key, self.messages, self.updated_ms) == (key, messages, updated_ms)
    }

    fn are_those_of(
        &self,
        connection: &rusqlite::Connection,
        session: &Session,
    ) -> rusqlite::Result<bool> {
        let (key, messages, updated_ms) = (session.key, session.messages, session.updated_ms);
        if !self.are_as_counted(key, messages, updated_ms) || self.meta != session.meta {
            return Ok(false);
        }
        let import = sql::imports::of_session(connection, session.key)?;
        Ok(import.map(|record| record.mark) == self.import)
    }
}

/// Takes a session out of sight and out of all sums; only if it has the contents `expected` of it.
/// Whether there was such a session.
pub(crate) fn delete_session(
    connection: &rusqlite::Connection,
    id: &SessionId,
    expected: Option<&Contents>,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    let Some(session) = sql::sessions::find(connection, id)? else {
        return Ok(false);
    };
    if let Some(expected) = expected
        && !expected.are_those_of(connection, &session)?
    {
        return Ok(false);
    }
    let minus = |value: u64| -sql::signed(value);
    sql::totals::add(
        connection,
        &Delta {
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
        },
    )?;
    sql::growth::remove_session(connection, session.key)?;
    sql::imports::remove(connection, session.key)?;
    sql::sessions::mark_deleted(connection, session.key, now_ms)?;
    Ok(true)
}

/// Deletes some rows of a session that is gone; whether there may be more to do.
fn delete_step(db: &Db, connection: &rusqlite::Connection) -> Result<bool> {
    let step = || -> rusqlite::Result<bool> {
        let Some(key) = sql::sessions::next_deletion(connection)? else {
            return Ok(false);
        };
        let rows = sql::messages::delete_some(connection, key, DELETE_ROWS_PER_STEP)?;
        if rows > 0 {
            return Ok(true);
        }
        let rows = sql::segments::delete_some(connection, key, DELETE_ROWS_PER_STEP / 64)?;
        if rows == 0 {
            sql::sessions::finish_deletion(connection, key)?;
        }
        Ok(true)
    };
    db.named("delete messages", step())
}
