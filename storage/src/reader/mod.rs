//! Reading: a pool of connections that cannot write, and the replay of a session.

pub(crate) mod fetch;
mod pool;
mod shared;

use std::sync::Arc;

use rusqlite::Connection;

use self::fetch::{PageReader, SessionSource};
use self::pool::{Pool, Reader};
use self::shared::Shared;
use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::message::Message;
use crate::open_files::OpenFile;
use crate::session::Session;
use crate::sql;
use crate::sql::damaged::IdIndex;
use crate::sql::db::{Db, ReaderTarget, is_damage, is_damaged_page};

/// The readers' connections.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    db: Db,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    pub(crate) ids: Arc<IdIndex>,
}

impl Readers {
    /// See [`Pool::new`].
    pub(crate) fn open(
        db: &Db,
        target: ReaderTarget,
        readers_max: u32,
        first: Option<Connection>,
        open: Arc<OpenFile>,
    ) -> Self {
        Self {
            db: db.clone(),
            pool: Arc::new(Pool::new(db, target, readers_max, first, open)),
            shared: Arc::default(),
            ids: Arc::default(),
        }
    }

    pub(crate) fn get(&self) -> Result<Reader> {
        self.pool.get()
    }
}

/// Which messages of a session to read. That there are none is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// First sequence; 0 counts as 1.
    pub from: u64,
    /// Last sequence, or `None` for the last one there is when reading begins.
    pub to: Option<u64>,
    /// Only this many, counted from the end of the range.
    pub last: Option<u64>,
}

impl ReadRange {
    /// All messages.
    #[must_use]
    pub fn all() -> Self {
        Self {
            from: 1,
            to: None,
            last: None,
        }
    }

    /// From sequence `from` on.
    #[must_use]
    pub fn from(from: u64) -> Self {
        Self {
            from,
            ..Self::all()
        }
    }

    /// The last `count` messages.
    #[must_use]
    pub fn last(count: u64) -> Self {
        Self {
            last: Some(count),
            ..Self::all()
        }
    }
}

/// A session's messages, in order, a page at a time.
///
/// It holds no transaction and no connection between pages, so a slow caller blocks nobody, and compaction may
/// move messages meanwhile. It borrows nothing, so a task may hand it to another thread for each page. Memory is
/// bounded by two segments with their encoded bytes and streams, their base, and one page. If the session is deleted
/// meanwhile, the replay ends with [`StoreError::SessionNotFound`], even if a new session has the same id.
///
/// An error about damaged bytes does not end the replay: what follows the damage comes after it. Any
/// other error ends the iteration, and [`Replay::position`] says where to continue. A replay to the
/// session's last message ends with an error about damage if the file holds messages after that one.
#[derive(Debug)]
#[must_use = "a replay reads only what is asked of it"]
pub struct Replay {
    readers: Readers,
    session: SessionId,
    /// A session deleted and created again has another key.
    key: SessionKey,
    next: u64,
    end: u64,
    /// An error has ended the iteration.
    is_over: bool,
    /// Whether to look past the end, which is the session's, once it is reached.
    checks_past_end: bool,
    /// Whether to go on with messages that are appended later.
    follows: bool,
    reader: PageReader,
    page: std::vec::IntoIter<Message>,
}

impl Replay {
    pub(crate) fn new(readers: Readers, session: SessionId, range: ReadRange) -> Result<Self> {
        Self::begin(readers, session, range, |ids, connection, session| {
            ids.position(connection, session)
        })
    }

    /// From sequence `from` on, and on with what is appended later.
    pub(crate) fn following(readers: Readers, session: SessionId, from: u64) -> Result<Self> {
        let replay = Self::new(readers, session, ReadRange::from(from))?;
        Ok(Self {
            checks_past_end: false,
            follows: true,
            ..replay
        })
    }

    /// As [`Replay::new`], of a session whose row may be damaged.
    pub(crate) fn of_damaged(
        readers: Readers,
        session: SessionId,
        range: ReadRange,
    ) -> Result<Self> {
        Self::begin(readers, session, range, |ids, connection, session| {
            match ids.position(connection, session) {
                Err(error) if is_damage(&error) => {}
                Ok(Some((key, end))) => {
                    return match sql::damaged::has_rows_past(connection, key, end) {
                        Ok(false) => Ok(Some((key, end))),
                        // If that cannot be read, there may be more.
                        Err(error) if !is_damage(&error) => Err(error),
                        Ok(true) | Err(_) => {
                            let last = sql::damaged::last_sequence(connection, key)?;
                            Ok(Some((key, last.max(end))))
                        }
                    };
                }
                position => return position,
            }
            let Some(key) = ids.key_of(connection, session)? else {
                return Ok(None);
            };
            match sql::sessions::by_key(connection, key) {
                Err(error) if is_damage(&error) => {
                    let last = sql::damaged::last_sequence(connection, key)?;
                    Ok(Some((key, last)))
                }
                found => Ok(found?.map(|found| (key, found.messages))),
            }
        })
    }

    fn begin(
        readers: Readers,
        session: SessionId,
        range: ReadRange,
        position: impl FnOnce(
            &IdIndex,
            &Connection,
            &SessionId,
        ) -> rusqlite::Result<Option<(SessionKey, u64)>>,
    ) -> Result<Self> {
        let connection = readers.get()?;
        let position = position(&readers.ids, &connection, &session);
        drop(connection);
        let (key, newest) = readers
            .db
            .context("find the session", position)
            .map_err(|error| error.in_session(&session))?
            .ok_or_else(|| StoreError::not_found(&session))?;
        let end = range.to.unwrap_or(newest).min(newest);
        let mut next = range.from.max(1);
        if let Some(last) = range.last {
            next = next.max((end + 1).saturating_sub(last));
        }
        let reader = PageReader::of_replay(Arc::clone(&readers.shared));
        Ok(Self {
            readers,
            session,
            key,
            next,
            end,
            is_over: false,
            checks_past_end: range.to.is_none_or(|to| to >= newest),
            follows: false,
            reader,
            page: Vec::new().into_iter(),
        })
    }

    /// The next run of messages, at least one, or `None` at the end of the range. A replay of
    /// [`Store::follow`](crate::Store::follow) may have more after it has answered `None`.
    ///
    /// # Errors
    /// Damage is reported once, with the place; the next call continues after it. After any other error
    /// the next call tries the same place again.
    pub fn next_page(&mut self) -> Result<Option<Vec<Message>>> {
        let rest: Vec<Message> = std::mem::take(&mut self.page).collect();
        if !rest.is_empty() {
            return Ok(Some(rest));
        }
        self.fetch()
    }

    fn fetch(&mut self) -> Result<Option<Vec<Message>>> {
        if self.next > self.end && !(self.follows && self.look_for_more()?) {
            return self.check_past_end().map(|()| None);
        }
        let connection = self.readers.get()?;
        let db = &self.readers.db;
        self.check_is_there(&connection)?;
        let source = SessionSource {
            db,
            connection: &connection,
            key: self.key,
            id: &self.session,
        };
        match source.page(self.next, self.end, &mut self.reader) {
            Ok(page) => {
                self.next = page.last().map_or(self.end, |m| m.sequence) + 1;
                Ok(Some(page))
            }
            Err(error) => {
                // Missing messages of a session that was just deleted are not damage.
                if let Err(gone @ StoreError::SessionNotFound { .. }) =
                    self.check_is_there(&connection)
                {
                    return Err(gone);
                }
                // Any other error may not occur at the next try, so the position stays.
                if error.kind() == ErrorKind::Damaged {
                    // What is appended later begins after the end, and a follower must not miss it.
                    self.next = fetch::next_sequence_after_damage(&connection, self.key, self.next)
                        .unwrap_or(self.end + 1);
                }
                Err(error)
            }
        }
    }

    /// Looks how far the session goes by now. Returns whether there is more to read.
    fn look_for_more(&mut self) -> Result<bool> {
        let connection = self.readers.get()?;
        let found = sql::sessions::by_key(&connection, self.key);
        let found = self.readers.db.context("find the session", found);
        let session = found
            .map_err(|error| error.in_session(&self.session))?
            .ok_or_else(|| StoreError::not_found(&self.session))?;
        self.end = session.messages;
        let has_more = self.next <= self.end;
        if !has_more {
            // It may be long until there is more. Until then it keeps no decoded segment.
            self.reader = PageReader::of_replay(Arc::clone(&self.readers.shared));
        }
        Ok(has_more)
    }

    /// Reports messages after the end in the session's row as damage. Messages appended since the replay began are
    /// before that end by now.
    fn check_past_end(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.checks_past_end) {
            return Ok(());
        }
        let connection = self.readers.get()?;
        let db = &self.readers.db;
        let snapshot = db.context("begin to read", connection.unchecked_transaction())?;
        let found = sql::sessions::by_key(&snapshot, self.key);
        let found = found.and_then(|session| match session {
            Some(Session { messages: end, .. }) => {
                let has_more = sql::damaged::has_rows_past(&snapshot, self.key, end)?;
                Ok(has_more.then_some(end))
            }
            None => Ok(None),
        });
        match found {
            Ok(None) => Ok(()),
            Ok(Some(end)) => Err(StoreError::rows_past_end(&self.session, end)),
            // Damage here does not prove that there is a message.
            Err(error) if is_damage(&error) => Ok(()),
            Err(error) => Err(db.store_error("look past the end", error)),
        }
    }

    /// Looks the session up by its key: one deleted and created again has another key.
    fn check_is_there(&self, connection: &Connection) -> Result<()> {
        let is_there = match sql::sessions::is_there(connection, self.key) {
            // On a damaged page the row can neither be read nor deleted.
            Err(error) if is_damaged_page(&error) => true,
            is_there => self.readers.db.context("find the session", is_there)?,
        };
        if is_there {
            Ok(())
        } else {
            Err(StoreError::not_found(&self.session))
        }
    }

    /// Sequence of the next message that will come, or would have come but for an error.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next - self.page.len() as u64
    }

    /// Sequence of the last message that will come, if nothing is damaged; of
    /// [`Store::follow`](crate::Store::follow), the last that there was when it last looked.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Key of the session that is read. A later session with the same id has another key.
    #[must_use]
    pub fn session_key(&self) -> SessionKey {
        self.key
    }
}

impl Iterator for Replay {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(message) = self.page.next() {
            return Some(Ok(message));
        }
        if self.is_over {
            return None;
        }
        // Damage that hides whether there is more is not passed by going on.
        let looks_for_more = self.follows && self.next > self.end;
        match self.fetch() {
            Ok(Some(page)) => {
                self.page = page.into_iter();
                self.page.next().map(Ok)
            }
            Ok(None) => None,
            Err(error) => {
                self.is_over = looks_for_more || error.kind() != ErrorKind::Damaged;
                Some(Err(error))
            }
        }
    }
}
