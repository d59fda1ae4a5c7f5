//! The write-ahead log: how long it is, and when it is moved into the main file and truncated.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rusqlite::hooks::Wal;

use super::{WriterContext, WriterIdleness};
use crate::error::Result;
use crate::limits::{
    LOG_CUT_MS_MIN, PAGE_BYTES, WAL_BYTES_LULL_MAX, WAL_BYTES_SOFT_MAX, WAL_BYTES_SOFT_MIN,
    WAL_LIMIT_DIVISOR,
};
use crate::sql;
use crate::sql::db::Db;
use crate::sql::space::{Checkpoint, CheckpointMode};
use crate::watch::CapacityWatch;

thread_local! {
    /// Pages in the WAL after the last commit of this thread's connection: SQLite reports it to a
    /// plain function only.
    static WAL_PAGES: Cell<i32> = const { Cell::new(0) };
}

pub(super) fn note_pages(_: &Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
    WAL_PAGES.set(pages);
    Ok(())
}

/// Bytes of the WAL after the last commit.
fn current_bytes() -> u64 {
    u64::from(WAL_PAGES.get().unsigned_abs()) * u64::from(PAGE_BYTES)
}

impl WriterContext {
    /// Moves the log into the main file before it is larger than the reserve. On a full disk the main file can grow
    /// only by the reserve, so a longer log would stay for ever and take the space that compacting and deleting
    /// need.
    pub(super) fn keep_log_within_reserve(&mut self, coming_bytes: u64) -> Result<()> {
        let log_bytes = self.fresh_wal_bytes() + coming_bytes;
        let held_bytes = self.reserve.held_bytes();
        if held_bytes.is_none_or(|held| log_bytes <= held.max(WAL_BYTES_LULL_MAX)) {
            return Ok(());
        }
        self.checkpoint(CheckpointMode::Passive).map(drop)
    }

    /// Moves the log into the main file and truncates it. The log may be another process's, or that of one that
    /// crashed. Returns false if there was none, or if a reader kept it from being truncated.
    pub(super) fn truncate_log(&mut self) -> bool {
        self.db.may_have_log()
            && self
                .checkpoint(CheckpointMode::Truncate)
                .is_ok_and(|done| !done.busy)
    }

    /// Truncates the WAL if it is longer than usual, as happens while a long reader blocks checkpoints.
    /// Returns whether it was truncated. It waits CHECKPOINT_WAIT_MS_MAX for readers, so it is tried at most
    /// once per LOG_CUT_MS_MIN.
    pub(super) fn truncate_oversized_log(&mut self) -> bool {
        let wait = Duration::from_millis(LOG_CUT_MS_MIN);
        if matches!(excess_bytes(&self.db, &self.watch), Ok(0))
            || self
                .last_truncate_attempt
                .is_some_and(|at| at.elapsed() < wait)
        {
            return false;
        }
        self.last_truncate_attempt = Some(Instant::now());
        self.truncate_log()
    }

    /// Bytes of the log that the last checkpoint has not seen.
    pub(super) fn fresh_wal_bytes(&mut self) -> u64 {
        // SQLite has restarted the WAL since.
        if current_bytes() < self.checkpointed_bytes {
            self.checkpointed_bytes = 0;
        }
        current_bytes() - self.checkpointed_bytes
    }

    pub(crate) fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpoint> {
        let result = sql::space::checkpoint(&self.connection, mode);
        if let Ok(done) = &result {
            self.may_have_uncopied_frames =
                done.busy || done.log_frames != done.checkpointed_frames;
            if mode == CheckpointMode::Truncate && !self.may_have_uncopied_frames {
                WAL_PAGES.set(0);
            }
            self.checkpointed_bytes = current_bytes();
        }
        self.db.context("checkpoint", result)
    }

    /// Moves the WAL into the main file when it has grown, between commits, so that no answer
    /// waits for it.
    pub(in crate::writer) fn checkpoint_when_due(&mut self, idleness: WriterIdleness) {
        let fresh_bytes = self.fresh_wal_bytes();
        let is_due = match idleness {
            WriterIdleness::Busy => fresh_bytes >= soft_max(&self.watch),
            WriterIdleness::Drained => fresh_bytes >= WAL_BYTES_LULL_MAX,
            WriterIdleness::Idle => fresh_bytes > 0 || self.may_have_uncopied_frames,
        };
        if is_due {
            if let Err(error) = self.checkpoint(CheckpointMode::Passive) {
                tracing::warn!(%error, "checkpoint failed");
            }
            // A busy store must not be without its reserve until it is idle.
            self.reserve.restore_when_possible();
        }
    }
}

fn soft_max(watch: &CapacityWatch) -> u64 {
    (watch.db_bytes_max() / WAL_LIMIT_DIVISOR).clamp(WAL_BYTES_SOFT_MIN, WAL_BYTES_SOFT_MAX)
}

/// The part of the log beyond what it usually has. The usual part is on its way into pages that
/// the main file counts already; it comes and goes, and a size that counted it would flap. What
/// exceeds it is held there by a reader, and takes space like anything else.
pub(super) fn excess_bytes(db: &Db, watch: &CapacityWatch) -> Result<u64> {
    let bytes = db.wal_bytes()?;
    Ok(bytes.saturating_sub(soft_max(watch) * 2))
}
