//! What a store holds, how big it is against its limit, and how fast it grows.
//!
//! Everything comes from counters that the engine keeps with each commit; only the list of the
//! biggest sessions looks at every session's row (never at messages).

pub mod render;

use betcode_storage::limits::FOOTPRINT_TARGET;
use betcode_storage::{SessionFilter, Store, Totals};
use serde::Serialize;

use crate::error::Result;

/// What the capacity plan assumes of one session-hour.
pub const PLAN: Plan = Plan {
    messages_per_session_hour: 200,
    bytes_per_message: 5_000,
    bytes_per_session_hour: 1_000_000,
};

/// Compaction runs shown.
const RUNS_MAX: u32 = 5;

/// The fields of `report --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The database.
    pub database: String,
    /// Main file.
    pub database_bytes: u64,
    /// Write-ahead log.
    pub wal_bytes: u64,
    /// Bytes of the main file that hold nothing.
    pub free_bytes: u64,
    /// The most that file and log together may take.
    pub limit_bytes: u64,
    /// What they take of it.
    pub used_fraction: f64,
    /// `ok`, `warning` or `critical`.
    pub level: &'static str,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes the same messages take as uncompacted rows.
    pub uncompacted_bytes: u64,
    /// Database and log against that; `null` when there is no history yet.
    pub footprint: Option<f64>,
    /// What the capacity plan hopes for.
    pub footprint_target: f64,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Messages not compacted yet.
    pub hot_messages: u64,
    /// Their payload bytes.
    pub hot_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Their encoded bytes.
    pub segment_bytes: u64,
    /// How fast sessions grow.
    pub growth: Growth,
    /// Messages and bytes by their `type`, biggest first.
    pub message_types: Vec<MessageType>,
    /// Biggest sessions, biggest first.
    pub biggest_sessions: Vec<BigSession>,
    /// Last compaction runs, newest first.
    pub compaction_runs: Vec<Run>,
}

/// Growth over all sessions and all time. Rates are `null` when no time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Growth {
    /// Hours of active time: gaps between messages, each capped at five minutes.
    pub active_hours: f64,
    /// Hours between first and last message, summed over sessions.
    pub wall_hours: f64,
    /// Messages per active hour.
    pub messages_per_session_hour: Option<f64>,
    /// Payload bytes of a message.
    pub bytes_per_message: Option<f64>,
    /// Payload bytes per active hour.
    pub bytes_per_session_hour: Option<f64>,
    /// What the capacity plan assumes.
    pub plan: Plan,
}

/// Assumptions of the capacity plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Messages per session-hour.
    pub messages_per_session_hour: u64,
    /// Bytes of a message.
    pub bytes_per_message: u64,
    /// Bytes per session-hour.
    pub bytes_per_session_hour: u64,
}

/// One type of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageType {
    /// The lines' `type`, or a name in parentheses.
    #[serde(rename = "type")]
    pub name: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
}

/// One session in the list of the biggest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BigSession {
    /// Its id.
    pub session: String,
    /// Name, else the beginning of its last text.
    pub about: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes in the database.
    pub stored_bytes: u64,
    /// Hours of active time.
    pub active_hours: f64,
}

/// One compaction run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// When it began, Unix milliseconds.
    pub started_ms: i64,
    /// How long it took.
    pub milliseconds: i64,
    /// What asked for it.
    pub trigger: String,
    /// `quick` or `deep`.
    pub tier: String,
    /// `done`, `cancelled` or `failed`.
    pub outcome: String,
    /// File and log before.
    pub bytes_before: u64,
    /// File and log after.
    pub bytes_after: u64,
    /// Messages compacted.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
}

impl Growth {
    fn of(totals: &Totals) -> Self {
        let hours = |ms: i64| ms as f64 / 3_600_000.0;
        let per = |amount: u64, whole: f64| (whole > 0.0).then(|| amount as f64 / whole);
        let active_hours = hours(totals.active_ms);
        Self {
            active_hours,
            wall_hours: hours(totals.wall_ms),
            messages_per_session_hour: per(totals.messages, active_hours),
            bytes_per_message: per(totals.raw_bytes, totals.messages as f64),
            bytes_per_session_hour: per(totals.raw_bytes, active_hours),
            plan: PLAN,
        }
    }
}

impl Report {
    /// The report on a store, with its `top` biggest sessions.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of(store: &Store, top: usize) -> Result<Self> {
        let totals = store.totals()?;
        let space = store.space()?;
        let used_bytes = space.used_bytes();
        Ok(Self {
            database: store.path().display().to_string(),
            database_bytes: space.database_bytes,
            wal_bytes: space.wal_bytes,
            free_bytes: space.free_bytes,
            limit_bytes: space.limit_bytes,
            used_fraction: space.used_fraction(),
            level: space.level().name(),
            raw_bytes: totals.raw_bytes,
            uncompacted_bytes: totals.uncompacted_bytes,
            footprint: (totals.uncompacted_bytes > 0)
                .then(|| used_bytes as f64 / totals.uncompacted_bytes as f64),
            footprint_target: FOOTPRINT_TARGET,
            sessions: totals.sessions,
            messages: totals.messages,
            hot_messages: totals.hot_messages,
            hot_bytes: totals.hot_bytes,
            segments: totals.segments,
            segment_bytes: totals.segment_bytes,
            growth: Growth::of(&totals),
            message_types: message_types(store)?,
            biggest_sessions: biggest(store, top)?,
            compaction_runs: runs(store)?,
        })
    }
}

fn message_types(store: &Store) -> Result<Vec<MessageType>> {
    let mut types: Vec<_> = store
        .growth_by_type()?
        .into_iter()
        .map(|t| MessageType {
            name: t.message_type,
            messages: t.messages,
            raw_bytes: t.raw_bytes,
        })
        .collect();
    types.sort_by(|a, b| {
        b.raw_bytes
            .cmp(&a.raw_bytes)
            .then_with(|| a.name.cmp(&b.name))
    });
    Ok(types)
}

fn biggest(store: &Store, top: usize) -> Result<Vec<BigSession>> {
    if top == 0 {
        return Ok(Vec::new());
    }
    let mut sessions = store.sessions(&SessionFilter::default())?.sessions;
    sessions.sort_by(|a, b| b.raw_bytes.cmp(&a.raw_bytes).then_with(|| a.id.cmp(&b.id)));
    sessions.truncate(top);
    Ok(sessions
        .into_iter()
        .map(|s| BigSession {
            session: s.id.to_string(),
            messages: s.messages,
            raw_bytes: s.raw_bytes,
            stored_bytes: s.stored_bytes(),
            active_hours: s.active_ms as f64 / 3_600_000.0,
            about: if s.meta.name.is_empty() {
                s.last_preview
            } else {
                s.meta.name
            },
        })
        .collect())
}

fn runs(store: &Store) -> Result<Vec<Run>> {
    Ok(store
        .compaction_runs(RUNS_MAX)?
        .into_iter()
        .map(|run| Run {
            started_ms: run.started_ms,
            milliseconds: run.finished_ms - run.started_ms,
            trigger: run.trigger,
            tier: run.tier,
            outcome: run.outcome,
            bytes_before: run.bytes_before,
            bytes_after: run.bytes_after,
            messages: run.messages,
            raw_bytes: run.raw_bytes,
        })
        .collect())
}
