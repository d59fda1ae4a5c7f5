//! What the writer thread owns: the one connection that writes, and what it caches of the file.

mod wal;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::append::{self, GroupWriter, SpaceBudget, Wrote};
use super::disk_room::{self, PagesBefore};
use super::request::{AppendRequest, Unanswered, note_refusals};
use crate::error::{ErrorKind, Result, StoreError};
use crate::files::free_bytes;
use crate::ids::SessionId;
use crate::limits::{
    APPENDING_MS_MAX, CACHED_SESSIONS_MAX, FULL_DISK_FREE_BYTES_MIN, PAGE_BYTES,
    RESERVE_BYTES_DEFAULT,
};
use crate::message::Appended;
use crate::open_files::OpenFile;
use crate::options::StoreOptions;
use crate::reserve::Reserve;
use crate::session::Session;
use crate::sql::db::{Db, write_transaction};
use crate::sql::space::CheckpointMode;
use crate::sql::{self};
use crate::watch::CapacityWatch;

/// Rows cached between commits, valid as long as no other process commits.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) types: HashMap<String, i64>,
}

impl Cache {
    pub(super) fn keep(&mut self, session: Option<Session>) {
        if let Some(session) = session {
            if self.sessions.len() >= CACHED_SESSIONS_MAX {
                self.sessions.clear();
            }
            self.sessions.insert(session.id.clone(), session);
        }
    }

    fn clear(&mut self) {
        self.sessions.clear();
        self.types.clear();
    }
}

/// SQLite never returns this version.
const DATA_VERSION_UNKNOWN: i64 = -1;

/// How idle the writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriterIdleness {
    /// Appends wait.
    Busy,
    /// No append waits at the moment.
    Drained,
    /// Nothing came for a while, so it tidies up.
    Idle,
}

/// Everything that the writer thread owns. Jobs work with it.
pub(crate) struct WriterContext {
    pub(crate) db: Db,
    pub(crate) options: StoreOptions,
    connection: Connection,
    cache: Cache,
    /// `PRAGMA data_version` when the cache was last known to be true.
    data_version: i64,
    /// When this thread last committed an append, or another process anything.
    last_write_seen: Option<Instant>,
    pub(crate) reserve: Reserve,
    watch: Arc<CapacityWatch>,
    /// Bytes of the WAL that the last checkpoint had seen; 0 once SQLite has restarted the WAL.
    checkpointed_bytes: u64,
    /// Frames may not have been copied to the main file: a reader blocked the last checkpoint, or a
    /// previous process left a WAL.
    may_have_uncopied_frames: bool,
    /// When a log longer than usual was last to be truncated.
    last_truncate_attempt: Option<Instant>,
    /// Writing was refused last because the file, or its log, is not in its place any more.
    is_moved: bool,
    // After the connection, which is dropped first: the file counts as open until it is closed.
    open_file: Arc<OpenFile>,
}

impl WriterContext {
    pub(super) fn new(
        db: Db,
        connection: Connection,
        options: StoreOptions,
        reserve: Reserve,
        watch: Arc<CapacityWatch>,
        open_file: Arc<OpenFile>,
    ) -> Self {
        connection.wal_hook(Some(wal::note_pages));
        Self {
            may_have_uncopied_frames: db.may_have_log(),
            last_truncate_attempt: None,
            db,
            options,
            connection,
            cache: Cache::default(),
            data_version: DATA_VERSION_UNKNOWN,
            last_write_seen: None,
            reserve,
            watch,
            checkpointed_bytes: 0,
            is_moved: false,
            open_file,
        }
    }

    /// Commits a group, answering each request. A refused request does not touch the others; a
    /// failed commit is tried again request by request, so that one cannot fail the rest.
    pub(super) fn append(&mut self, group: Vec<AppendRequest>) {
        let now = Instant::now();
        let is_in_time = |request: &AppendRequest| request.deadline >= now;
        let (group, late): (Vec<_>, Vec<_>) = group.into_iter().partition(is_in_time);
        let (mut group, late) = (Unanswered::of(group), Unanswered::of(late));
        for request in late {
            request.refuse_late();
        }
        if group.requests().is_empty() {
            return;
        }
        match self.commit(group.requests()) {
            Ok(answers) => {
                for (request, answer) in group.by_ref().zip(answers) {
                    (request.done)(answer);
                }
            }
            Err(error) if group.requests().len() <= 1 => {
                if let Some(request) = group.next() {
                    (request.done)(Err(error));
                }
            }
            // Alone, each would wait as long for the same lock.
            Err(StoreError::Busy {
                path,
                what,
                holder,
                waited_ms,
            }) => {
                for request in group {
                    (request.done)(Err(StoreError::Busy {
                        path: path.clone(),
                        what,
                        holder,
                        waited_ms,
                    }));
                }
            }
            Err(StoreError::FileMoved { path, is_log }) => {
                for request in group {
                    let path = path.clone();
                    (request.done)(Err(StoreError::FileMoved { path, is_log }));
                }
            }
            Err(error) => {
                tracing::warn!(%error, requests = group.requests().len(), "group commit failed, trying one by one");
                for request in group {
                    if request.deadline < Instant::now() {
                        request.refuse_late();
                        continue;
                    }
                    let answer =
                        self.commit(std::slice::from_ref(&request))
                            .and_then(|mut answers| {
                                answers.pop().unwrap_or_else(|| Err(super::ended()))
                            });
                    (request.done)(answer);
                }
            }
        }
    }

    /// Commits a group and watches the limit.
    fn commit(&mut self, group: &[AppendRequest]) -> Result<Vec<Result<Appended>>> {
        let result = match self.try_commit(group) {
            Err(StoreError::DiskFull { .. }) if self.truncate_log() => self.try_commit(group),
            Err(_) if group.iter().any(AppendRequest::passes_damage) => self.try_commit(group),
            Ok(answers)
                if !answers.is_empty()
                    && answers.iter().all(|answer| limit_reached(answer).is_some())
                    && self.truncate_oversized_log() =>
            {
                self.try_commit(group)
            }
            result => result,
        };
        note_refusals(&self.watch, group, &result);
        let answers = result.as_ref().map_or(&[][..], Vec::as_slice);
        match answers.iter().find_map(limit_reached) {
            Some(used_bytes) => {
                let now_ms = self.options.clock.now_ms();
                self.watch.observe_refusal(used_bytes, now_ms);
            }
            None => self.observe_size(),
        }
        result
    }

    /// Takes a sample of the size for the levels.
    pub(crate) fn observe_size(&self) {
        // A failed sample is skipped: a zero would mean that there is room again.
        let Ok(pages) = sql::space::pages(&self.connection) else {
            return;
        };
        let Ok(excess_bytes) = wal::excess_bytes(&self.db, &self.watch) else {
            return;
        };
        let used_bytes = pages * u64::from(PAGE_BYTES) + excess_bytes;
        self.watch.observe(used_bytes, self.options.clock.now_ms());
    }

    fn try_commit(&mut self, group: &[AppendRequest]) -> Result<Vec<Result<Appended>>> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        self.refuse_moved()?;
        if self.reserve.allows_appends() {
            let coming_bytes = group.iter().map(|request| request.bytes() as u64).sum();
            self.keep_log_within_reserve(coming_bytes)?;
        } else if !self.has_free_pages()? {
            return Err(StoreError::DiskFull {
                path: self.db.path().to_owned(),
                why: "the space that is left is kept for compacting and deleting".to_owned(),
            });
        }
        let now_ms = self.options.clock.now_ms();
        let keeps_reserve = self.reserve.is_wanted();
        let Self {
            db,
            connection,
            cache,
            data_version,
            watch,
            ..
        } = self;
        let result = write_transaction(db, connection, "append", |transaction| {
            forget_if_outdated(db, transaction, cache, data_version)?;
            let before = PagesBefore::read(db, transaction)?;
            let budget = space_budget(db, transaction, watch)?;
            let writer = GroupWriter::new(db, transaction, cache, now_ms, budget);
            let answers = write_group(writer, group)?;
            if keeps_reserve {
                // The reserve is for freeing space; new messages and their log must leave all of it.
                disk_room::check(db, transaction, before, 0)?;
            }
            Ok(answers)
        });
        match &result {
            Ok(answers) => {
                append::warn_of_sessions(group, answers);
                self.tell_committed(group, answers, now_ms);
            }
            // The cache may hold what was rolled back.
            Err(_) => self.cache.clear(),
        }
        // A refused append does not make compaction pause: compaction may be what frees the space.
        if result
            .as_ref()
            .is_ok_and(|answers| answers.iter().any(Result::is_ok))
        {
            self.last_write_seen = Some(Instant::now());
        }
        let appended = |answer: Result<Wrote>| answer.map(|wrote| wrote.appended);
        result.map(|answers| answers.into_iter().map(appended).collect())
    }

    /// Calls the hook with what is on disk now, before it is answered.
    fn tell_committed(&self, group: &[AppendRequest], answers: &[Result<Wrote>], now_ms: i64) {
        let Some(hook) = &self.options.on_commit else {
            return;
        };
        for (request, answer) in group.iter().zip(answers) {
            let wrote = answer.as_ref().ok();
            if let Some(committed) = wrote.and_then(|wrote| request.committed(wrote, now_ms)) {
                hook(&committed);
            }
        }
    }

    /// Whether the file has room within itself, as after a deletion, for messages and for what
    /// compaction needs.
    fn has_free_pages(&self) -> Result<bool> {
        let free = sql::space::free_pages(&self.connection);
        let free = self.db.context("count free pages", free)?;
        Ok(free * u64::from(PAGE_BYTES) >= FULL_DISK_FREE_BYTES_MIN)
    }

    /// Runs maintenance in a transaction of its own. When the disk is full the reserve is given
    /// up and the work tried once more: compacting and deleting are what makes room again.
    pub(crate) fn maintain<T>(
        &mut self,
        action: &'static str,
        mut work: impl FnMut(&Db, &Connection) -> Result<T>,
    ) -> Result<T> {
        self.forget_rows()?;
        let mut attempt = |context: &mut Self| {
            let held_bytes = context.reserve.held_bytes().unwrap_or(0);
            context.write(action, held_bytes, &mut work)
        };
        // What the log holds goes into the main file first where room is short: an attempt that fails
        // takes what is left of it.
        let held_bytes = self.reserve.held_bytes().unwrap_or(0);
        let room_bytes = free_bytes(self.db.path()).map(|free| free + held_bytes);
        if room_bytes.is_some_and(|room| room < RESERVE_BYTES_DEFAULT) {
            self.truncate_log();
        }
        match attempt(self) {
            Err(StoreError::DiskFull { .. }) => {
                self.reserve.release();
                // That may be all the room there is, where the reserve was given up before.
                self.truncate_log();
                attempt(self)
            }
            result => result,
        }
    }

    /// Runs work that makes no room in a transaction of its own. Unlike [`Self::maintain`] it gives no
    /// reserve up: that is for work which makes room again.
    pub(crate) fn write_without_reserve<T>(
        &mut self,
        action: &'static str,
        mut work: impl FnMut(&Db, &Connection) -> Result<T>,
    ) -> Result<T> {
        self.forget_rows()?;
        match self.write(action, 0, &mut work) {
            Err(StoreError::DiskFull { .. }) if self.truncate_log() => {
                self.write(action, 0, &mut work)
            }
            result => result,
        }
    }

    /// Clears the cache before work other than appends changes rows, and notes commits of other processes.
    fn forget_rows(&mut self) -> Result<()> {
        self.cache.clear();
        let version = data_version(&self.db, &self.connection)?;
        let known = std::mem::replace(&mut self.data_version, version);
        if known != version && known != DATA_VERSION_UNKNOWN {
            self.last_write_seen = Some(Instant::now());
        }
        Ok(())
    }

    /// One transaction, which may use `held_bytes` of the reserve.
    fn write<T>(
        &mut self,
        action: &'static str,
        held_bytes: u64,
        work: &mut impl FnMut(&Db, &Connection) -> Result<T>,
    ) -> Result<T> {
        self.refuse_moved()?;
        let Self { db, connection, .. } = self;
        write_transaction(db, connection, action, |transaction| {
            let before = PagesBefore::read(db, transaction)?;
            let value = work(db, transaction)?;
            disk_room::check(db, transaction, before, held_bytes)?;
            Ok(value)
        })
    }

    /// Refuses to write to files that are not in their place any more. Logs once that it begins and that it is over.
    fn refuse_moved(&mut self) -> Result<()> {
        let result = self.open_file.refuse_moved(&self.db);
        let was_moved = std::mem::replace(&mut self.is_moved, result.is_err());
        match &result {
            Err(error) if !was_moved => {
                tracing::error!(%error, hint = error.hint(), "nothing more is recorded");
            }
            Ok(()) if was_moved => {
                tracing::info!(path = %self.db.path().display(), "the files are back in their place");
            }
            _ => {}
        }
        result
    }

    /// Whether somebody appended since `began` and not long ago, in this process or, as far as it is known, in another.
    pub(crate) fn is_appended_to_since(&self, began: Instant) -> bool {
        let recently = Duration::from_millis(APPENDING_MS_MAX);
        self.last_write_seen
            .is_some_and(|at| at >= began && at.elapsed() < recently)
    }

    /// Commits the store's row as it is, and returns the store's name. Unlike [`Self::maintain`]
    /// it gives no reserve up: a full disk is what a probe is to find.
    pub(crate) fn probe(&mut self) -> Result<String> {
        self.refuse_moved()?;
        let Self { db, connection, .. } = self;
        write_transaction(db, connection, "probe the store", |transaction| {
            db.context("write the probe", sql::totals::touch(transaction))
        })
    }

    /// Does what can be done when nothing else is asked for. Returns whether nothing is left of it: all of the
    /// log is in the main file, its file is no longer than usual, and the reserve is not given up.
    pub(super) fn tidy_when_idle(&mut self) -> bool {
        self.checkpoint_when_due(WriterIdleness::Idle);
        self.truncate_oversized_log();
        self.observe_size();
        self.reserve.restore_when_possible();
        self.fresh_wal_bytes() == 0
            && !self.may_have_uncopied_frames
            && matches!(wal::excess_bytes(&self.db, &self.watch), Ok(0))
            && self.reserve.allows_appends()
    }

    /// Ends the writer: everything into the main file. A reader of another process may keep some of it in
    /// the log, which is not a failure.
    pub(super) fn finish(mut self) -> Result<()> {
        let done = self.checkpoint(CheckpointMode::Truncate);
        if let Err(error) = &done {
            tracing::warn!(%error, "checkpoint at close failed; the log stays and is read next time");
        }
        done.map(drop)
    }
}

/// Writes the requests of a group that may be written, and answers the others with why not.
fn write_group(mut writer: GroupWriter<'_>, group: &[AppendRequest]) -> Result<Vec<Result<Wrote>>> {
    let mut answers = Vec::with_capacity(group.len());
    for request in group {
        match writer.admit(request) {
            Ok(admitted) => answers.push(Ok(writer.write(request, admitted)?)),
            // Having met a damaged page SQLite writes nothing more in this transaction: the
            // others have to be tried without this one, and there is nothing to count.
            Err(error) if error.kind() == ErrorKind::Damaged => return Err(error),
            Err(error) if is_refusal(&error) => answers.push(Err(error)),
            Err(error) => return Err(error),
        }
    }
    for (request, answer) in group.iter().zip(&answers) {
        if let Ok(wrote) = answer {
            writer.check_written(request, wrote)?;
        }
    }
    writer.add_sums()?;
    Ok(answers)
}

/// The bytes in use that made an append meet the limit.
fn limit_reached(answer: &Result<Appended>) -> Option<u64> {
    match answer {
        Err(StoreError::LimitReached { used_bytes, .. }) => Some(*used_bytes),
        _ => None,
    }
}

/// Errors that concern one request only, when they come before it has written anything.
fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::SequenceConflict { .. }
            | StoreError::SequenceExhausted { .. }
            | StoreError::LimitReached { .. }
            | StoreError::SessionLimitReached { .. }
            | StoreError::SessionNotFound { .. }
    )
}

fn forget_if_outdated(
    db: &Db,
    connection: &Connection,
    cache: &mut Cache,
    known: &mut i64,
) -> Result<()> {
    let version = data_version(db, connection)?;
    if version != *known {
        cache.clear();
        *known = version;
    }
    Ok(())
}

fn data_version(db: &Db, connection: &Connection) -> Result<i64> {
    let version = sql::space::data_version(connection);
    db.context("look for other writers", version)
}

/// What the database takes, and may take. Free pages do not count: they are what the next messages
/// are written to.
fn space_budget(db: &Db, connection: &Connection, watch: &CapacityWatch) -> Result<SpaceBudget> {
    let pages = db.context("count pages", sql::space::pages(connection))?;
    let free = db.context("count free pages", sql::space::free_pages(connection))?;
    let live_bytes = pages.saturating_sub(free) * u64::from(PAGE_BYTES);
    Ok(SpaceBudget {
        used_bytes: live_bytes + wal::excess_bytes(db, watch)?,
        limits: watch.limits(),
    })
}

#[cfg(test)]
mod tests;
