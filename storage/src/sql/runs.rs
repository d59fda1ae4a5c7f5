//! Rows of `compaction_runs`.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::{signed, unsigned};
use crate::limits::COMPACTION_RUNS_KEPT_MAX;

/// One run of compaction, as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionRun {
    /// Number, rising.
    pub run_id: i64,
    /// When it began, Unix milliseconds.
    pub started_ms: i64,
    /// When it ended.
    pub finished_ms: i64,
    /// What asked for it: `manual`, `background`, ….
    pub trigger: String,
    /// The highest tier of the segments that it wrote, `quick` or `deep`; what it was asked for if it wrote
    /// none.
    pub tier: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Main file and WAL before.
    pub bytes_before: u64,
    /// Main file and WAL after.
    pub bytes_after: u64,
    /// Messages that it wrote into segments.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Segments written.
    pub segments_written: u64,
    /// Segments that these replaced.
    pub segments_replaced: u64,
    /// Error or remark; empty when there is none.
    pub detail: String,
}

/// How a run of compaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunOutcome {
    /// It did all that was due.
    Done,
    /// It was stopped.
    Cancelled,
    /// An error ended it, or kept a session from being compacted.
    Failed,
    /// Its row says something else.
    Unknown,
}

impl RunOutcome {
    /// The outcome as its row and reports name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    fn of(name: &str) -> Self {
        let known = [Self::Done, Self::Cancelled, Self::Failed];
        let outcome = known.into_iter().find(|outcome| outcome.name() == name);
        outcome.unwrap_or(Self::Unknown)
    }
}

pub(crate) fn insert(connection: &Connection, run: &CompactionRun) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO compaction_runs (started_ms, finished_ms, trigger, tier, outcome,
            bytes_before, bytes_after, messages, raw_bytes, segments_written, segments_replaced,
            detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            run.started_ms,
            run.finished_ms,
            run.trigger,
            run.tier,
            run.outcome.name(),
            signed(run.bytes_before),
            signed(run.bytes_after),
            signed(run.messages),
            signed(run.raw_bytes),
            signed(run.segments_written),
            signed(run.segments_replaced),
            run.detail,
        ],
    )?;
    connection.execute(
        "DELETE FROM compaction_runs WHERE run_id <= ?1",
        [connection.last_insert_rowid() - i64::from(COMPACTION_RUNS_KEPT_MAX)],
    )?;
    Ok(())
}

/// The last `limit` runs, newest first.
pub(crate) fn list(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<CompactionRun>> {
    connection
        .prepare_cached("SELECT * FROM compaction_runs ORDER BY run_id DESC LIMIT ?1")?
        .query_map([limit], |row| {
            Ok(CompactionRun {
                run_id: row.get("run_id")?,
                started_ms: row.get("started_ms")?,
                finished_ms: row.get("finished_ms")?,
                trigger: row.get("trigger")?,
                tier: row.get("tier")?,
                outcome: RunOutcome::of(&row.get::<_, String>("outcome")?),
                bytes_before: unsigned(row, "bytes_before")?,
                bytes_after: unsigned(row, "bytes_after")?,
                messages: unsigned(row, "messages")?,
                raw_bytes: unsigned(row, "raw_bytes")?,
                segments_written: unsigned(row, "segments_written")?,
                segments_replaced: unsigned(row, "segments_replaced")?,
                detail: row.get("detail")?,
            })
        })?
        .collect()
}
