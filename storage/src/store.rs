//! The façade: one open history store.

mod open;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::capacity::levels::Level;
use crate::error::{Argument, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{FULL_DISK_FREE_BYTES_MIN, SESSION_TEXT_BYTES_MAX};
use crate::message::{Appended, Batch, ImportRecord};
use crate::open_files::{CutOff, OpenFile};
use crate::options::{SizeLimits, StoreOptions, check_size_limits};
use crate::reader::{ReadRange, Readers, Replay};
use crate::refusals::SpaceRefusals;
use crate::session::{Session, SessionFilter, SessionList};
use crate::space::Space;
use crate::sql;
use crate::sql::damaged::IdIndex;
use crate::sql::db::Db;
use crate::sql::growth::{HourGrowth, SessionGrowth, TypeGrowth};
use crate::sql::interruptible::interruptible;
use crate::sql::runs::CompactionRun;
use crate::sql::segments::SegmentInfo;
use crate::sql::totals::Totals;
use crate::watch::{CapacityWatch, TimedEvent};
use crate::writer::{QueueDepth, Writer};

/// An open history store. Clones share it; it closes when the last one goes.
///
/// Reading never waits for writing. Several processes may have the same file open. In one process, open it once and
/// clone it: of two openings, neither hears of what is appended by the other.
///
/// Calls block, and so does dropping the last handle, until the writer has carried out what is queued;
/// [`Store::close`] also says how that went. See [*Embedding it*](crate#embedding-it).
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) options: StoreOptions,
    pub(crate) readers: Readers,
    pub(crate) watch: Arc<CapacityWatch>,
    /// Opened for reading only, and the file ends before its last page.
    pub(crate) cut_off: Option<CutOff>,
    /// `None` when opened for reading only.
    writer: Option<Writer>,
    /// Each connection holds it as well, so that it counts as open until the last of them is closed.
    pub(crate) open: Arc<OpenFile>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.db.path())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.db.path()
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.inner
            .writer
            .as_ref()
            .ok_or_else(|| StoreError::ReadOnly {
                path: self.path().to_owned(),
                why: "it was opened for reading only".into(),
            })
    }

    /// Appends a batch to its session, all or nothing. When it returns, the messages are on disk
    /// and have these sequences.
    ///
    /// # Errors
    /// Refused batches ([`StoreError::PayloadTooLarge`], [`StoreError::SequenceConflict`], …) and
    /// batches that could not be committed ([`StoreError::DiskFull`], [`StoreError::QueueFull`],
    /// …) leave nothing behind.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Batch, SessionId, Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// let store = Store::open(&path, StoreOptions::default())?;
    /// let session = SessionId::new("s")?;
    /// store.append(Batch::new(session.clone(), vec!["one".into(), "two".into()]))?;
    /// let appended = store.append(Batch::new(session, vec!["three".into()]))?;
    /// assert_eq!(appended.first_sequence, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append(&self, batch: Batch) -> Result<Appended> {
        self.writer()?.append(batch)
    }

    /// Queues a batch and returns; `done` gets the answer once it is on disk, or why it is not. The batch is checked
    /// and its lines are read on the caller's thread. If the queue is full it waits for room, at most for `wait_max`,
    /// which also bounds the wait for its turn; zero is as in [`StoreOptions::append_wait_ms_max`].
    ///
    /// Batches are recorded in the order in which they were queued, but for those that are refused. So that no later
    /// batch takes the place of a refused one, each says its [`Batch::expected_sequence`].
    ///
    /// `done` runs on the writer's thread and must neither block nor panic, which ends the writer. Calls of
    /// the store in it that would wait for the writer are refused ([`StoreError::InvalidArgument`]); it may
    /// queue more with this, and is refused where there is no room at once.
    ///
    /// # Errors
    /// An error here means that nothing was queued and that `done` is not called.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Batch, SessionId, Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// let (answer, answered) = std::sync::mpsc::channel();
    /// let batch = Batch::new(SessionId::new("s")?, vec!["one".into()]);
    /// store.append_then(batch, std::time::Duration::from_secs(10), move |result| {
    ///     let _ = answer.send(result);
    /// })?;
    /// assert_eq!(answered.recv()??.last_sequence, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_then(
        &self,
        batch: Batch,
        wait_max: Duration,
        done: impl FnOnce(Result<Appended>) + Send + 'static,
    ) -> Result<()> {
        self.writer()?.submit(batch, wait_max, Box::new(done))
    }

    /// What waits for the writer now.
    #[must_use]
    pub fn queue_depth(&self) -> QueueDepth {
        let writer = self.inner.writer.as_ref();
        writer.map(Writer::waiting).unwrap_or_default()
    }

    /// Reads a session's messages, in order, in bounded memory.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`]; what goes wrong on the way comes from the replay.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Batch, ReadRange, SessionId, Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// # let session = SessionId::new("s")?;
    /// # store.append(Batch::new(session.clone(), vec!["one".into(), "two".into(), "three".into()]))?;
    /// let last_two = ReadRange { last: Some(2), ..ReadRange::all() };
    /// let mut payloads = Vec::new();
    /// for message in store.read(&session, last_two)? {
    ///     payloads.push(message?.payload);
    /// }
    /// assert_eq!(payloads, ["two", "three"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self, session: &SessionId, range: ReadRange) -> Result<Replay> {
        Replay::new(self.inner.readers.clone(), session.clone(), range)
    }

    /// Reads a session's messages from sequence `from` on, as [`Store::read`] does, and those that are appended
    /// later, by whatever process. At the last message that there is, [`Replay::next_page`] answers `None`; called
    /// again, it looks again.
    ///
    /// [`StoreOptions::on_commit`] says when to look, except for what others append who have the file open: for
    /// that, look now and then. Meanwhile the replay holds nothing but its position.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`]: an append of an empty batch creates a session. What goes wrong on the way
    /// comes from the replay; that it cannot find out whether there is more, each time that it looks.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Batch, SessionId, Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// let session = SessionId::new("s")?;
    /// store.append(Batch::new(session.clone(), vec!["one".into()]))?;
    /// let mut replay = store.follow(&session, 1)?;
    /// assert_eq!(replay.next_page()?.map(|page| page.len()), Some(1));
    /// assert_eq!(replay.next_page()?, None);
    /// store.append(Batch::new(session, vec!["two".into()]))?;
    /// assert_eq!(replay.next_page()?.map(|page| page.len()), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn follow(&self, session: &SessionId, from: u64) -> Result<Replay> {
        Replay::following(self.inner.readers.clone(), session.clone(), from)
    }

    /// Like [`Store::read`], but also reads a session whose row is damaged: up to the last message found in
    /// the file.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`]; what goes wrong on the way comes from the replay.
    pub fn salvage(&self, session: &SessionId, range: ReadRange) -> Result<Replay> {
        Replay::of_damaged(self.inner.readers.clone(), session.clone(), range)
    }

    /// One session.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub fn session(&self, id: &SessionId) -> Result<Session> {
        self.query("find the session", |connection| {
            self.inner.readers.ids.find(connection, id)
        })
        .map_err(|error| error.in_session(id))?
        .ok_or_else(|| StoreError::not_found(id))
    }

    /// Lists sessions, the last changed first, with the number of all that match. If pages of the list are
    /// damaged, sessions are looked up one by one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<SessionList> {
        self.query("list the sessions", |connection| {
            let listed = sql::sessions::list(connection, filter);
            sql::damaged::or_else(listed, || sql::damaged::list(connection, filter))
        })
    }

    /// Names a session.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`], [`StoreError::InvalidArgument`] for a name too long.
    pub fn rename(&self, id: &SessionId, name: &str) -> Result<()> {
        if name.len() > SESSION_TEXT_BYTES_MAX {
            return Err(StoreError::InvalidArgument {
                what: Argument::Named("the name"),
                why: format!(
                    "it has {} bytes, and may have {SESSION_TEXT_BYTES_MAX}",
                    name.len()
                ),
            });
        }
        let writer = self.writer()?;
        // Not under the write lock: if the index does not have the id, all rows are read.
        self.key_of(id)?;
        let (id, name) = (id.clone(), name.to_owned());
        writer.run(move |context| {
            let now_ms = context.options.clock.now_ms();
            context.write_without_reserve("rename the session", |db, connection| {
                let key = IdIndex::default().key_of(connection, &id);
                let Some(key) = db.context("find the session", key)? else {
                    return Err(StoreError::not_found(&id));
                };
                let renamed = sql::sessions::rename(connection, key, &name, now_ms);
                db.context("rename the session", renamed)
            })
        })
    }

    /// Totals over all sessions. Costs the same whatever the size of the history.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn totals(&self) -> Result<Totals> {
        self.query("read the totals", sql::totals::read)
    }

    /// Sizes of the files, and the limit.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn space(&self) -> Result<Space> {
        let free_pages = self.query("count free pages", sql::space::free_pages)?;
        let limit_bytes = self.inner.watch.db_bytes_max();
        Space::of(&self.inner.db, free_pages, limit_bytes)
    }

    /// Changes the limits of the open store. What there is room for now is admitted at once; the level follows
    /// when the writer has looked at the size.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] for limits below which a store cannot work.
    pub fn set_limits(&self, limits: SizeLimits) -> Result<()> {
        check_size_limits(limits)?;
        self.inner.watch.set(limits);
        if let Some(writer) = &self.inner.writer {
            writer.observe_size_soon();
        }
        Ok(())
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> SizeLimits {
        self.inner.watch.limits()
    }

    /// Level of the database's size, with hysteresis, as its writer has seen it: `Ok` when opened
    /// for reading only (see [`Store::space`]).
    ///
    /// That size is what the file takes: all its pages, also those that hold nothing, and the part of the log
    /// beyond the usual size. Appends are refused by another one, in which free pages do not count
    /// ([`StoreOptions::db_bytes_max`]): after a big deletion the level goes down only when compaction has
    /// given the free pages back, and appends are accepted at once.
    #[must_use]
    pub fn level(&self) -> Level {
        self.inner.watch.level()
    }

    /// What main file and log together may reach before the disk is full and appends are refused, when they
    /// take `used_bytes`; `None` when the free space is unknown.
    #[must_use]
    pub fn disk_limit_bytes(&self, used_bytes: u64) -> Option<u64> {
        let free_bytes = crate::files::free_bytes(self.path())?;
        let left_bytes = free_bytes.saturating_sub(FULL_DISK_FREE_BYTES_MIN);
        Some(used_bytes.saturating_add(left_bytes))
    }

    /// Appends that were refused for lack of space since the store was opened, and whether they are refused now.
    #[must_use]
    pub fn space_refusals(&self) -> SpaceRefusals {
        self.inner.watch.refusals.now()
    }

    /// Logs a warning with the capacity level unless it is Ok, for callers that opened the store without
    /// [`StoreOptions::logs_levels`].
    pub fn warn_of_capacity(&self) {
        self.inner.watch.warn_of_capacity();
    }

    /// The last capacity events of this process, oldest first: each change of level and each
    /// reaching of the limit, once.
    #[must_use]
    pub fn capacity_events(&self) -> Vec<TimedEvent> {
        self.inner.watch.events()
    }

    /// Calls `listener` with each further capacity event, until it answers `false`. It runs on the
    /// writer's thread and must neither block, as writing to the store does, nor panic, which ends the
    /// writer.
    pub fn on_capacity_event(&self, listener: impl Fn(&TimedEvent) -> bool + Send + 'static) {
        self.inner.watch.listen(Box::new(listener));
    }

    /// Growth by message type over all sessions, the biggest first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn growth_by_type(&self) -> Result<Vec<TypeGrowth>> {
        self.query("read the growth", sql::growth::by_type)
    }

    /// Growth of all sessions by Unix hour, from `first_unix_hour` on.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn growth_by_hour(&self, first_unix_hour: i64) -> Result<Vec<HourGrowth>> {
        self.query("read the growth", |connection| {
            sql::growth::by_hour(connection, first_unix_hour)
        })
    }

    /// Growth of one session by hour and message type.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub fn growth_of_session(&self, id: &SessionId) -> Result<Vec<SessionGrowth>> {
        let key = self.key_of(id)?;
        self.query("read the growth", |connection| {
            sql::growth::of_session(connection, key)
        })
    }

    /// The segments of a session, in order.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub fn segments(&self, id: &SessionId) -> Result<Vec<SegmentInfo>> {
        let key = self.key_of(id)?;
        self.query("list the segments", |connection| {
            sql::segments::list(connection, key)
        })
    }

    /// What was taken from the file at `source_path`, the newest session first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn imports_by_source_path(&self, source_path: &[u8]) -> Result<Vec<ImportRecord>> {
        self.query("find the import", |c| {
            sql::imports::by_source(c, source_path)
        })
    }

    /// What was taken from files at `relative_path` below an imported folder, newest first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn imports_by_relative_path(&self, relative_path: &[u8]) -> Result<Vec<ImportRecord>> {
        self.query("find the import", |c| {
            sql::imports::by_relative(c, relative_path)
        })
    }

    /// Where a session was imported from; `None` when it was recorded here.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub fn import_of(&self, id: &SessionId) -> Result<Option<ImportRecord>> {
        let key = self.key_of(id)?;
        self.query("find the import", |connection| {
            sql::imports::of_session(connection, key)
        })
    }

    /// The last `limit` compaction runs, newest first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Busy`] or [`StoreError::Io`] when the file cannot be read.
    pub fn compaction_runs(&self, limit: u32) -> Result<Vec<CompactionRun>> {
        self.query("list the runs", |connection| {
            sql::runs::list(connection, limit)
        })
    }

    /// Carries out what waits in the queue, moves the log into the main file, and ends the writer.
    /// Other clones answer [`StoreError::Closed`] to writes from then on. In a callback it returns at once, because the
    /// writer, which it would wait for, waits for the callback; the writer ends after that.
    ///
    /// # Errors
    /// When the log could not be moved into the main file. Nothing is lost: the next opening reads it
    /// from there.
    pub fn close(self) -> Result<()> {
        match &self.inner.writer {
            Some(writer) => writer.close(),
            None => Ok(()),
        }
    }

    /// The session's key. Only its key and id must be readable.
    pub(crate) fn key_of(&self, id: &SessionId) -> Result<SessionKey> {
        self.query("find the session", |connection| {
            self.inner.readers.ids.key_of(connection, id)
        })
        .map_err(|error| error.in_session(id))?
        .ok_or_else(|| StoreError::not_found(id))
    }

    /// As [`interruptible`], on a reader's connection.
    pub(crate) fn interruptible<T: Send>(
        &self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
        read: impl FnOnce(&rusqlite::Connection) -> T + Send,
    ) -> Result<T> {
        let mut connection = self.inner.readers.get()?;
        interruptible(&mut connection, go_on, read)
    }

    pub(crate) fn query<T>(
        &self,
        action: &'static str,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let connection = self.inner.readers.get()?;
        self.inner.db.context(action, read(&connection))
    }
}
