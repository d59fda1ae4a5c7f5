//! All that is known of a store's size, growth and future, as one value.
//!
//! [`build`] makes it of plain inputs; `--json` prints it as it is, so its field names are
//! stable. Renderers for people and for Prometheus take nothing else.

mod build;
mod csv;
mod html;
mod planned;
mod prometheus;
mod text;

use serde::Serialize;

use super::forecast::Forecast;
use super::levels::Level;
use super::text::percent;
use crate::{RunOutcome, Untimed};

pub use build::{GROWTH_DAYS_MAX, PACE_ACTIVE_MS_MIN, ReportInput, SESSIONS_SHOWN_MAX, build};
pub use csv::csv;
pub use html::html;
pub(in crate::capacity) use planned::DAYS_PER_MONTH;
pub use prometheus::prometheus;
pub use text::{main_points, text};

/// Size, growth and future of a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CapacityReport {
    /// Where the store is.
    pub database: String,
    /// When it was made, Unix milliseconds.
    pub generated_ms: i64,
    /// Which store.
    pub store_id: String,

    /// Main file.
    pub database_bytes: u64,
    /// Write-ahead log.
    pub wal_bytes: u64,
    /// Part of the main file that holds nothing and is used again.
    pub free_bytes: u64,
    /// What main file and log together may reach.
    pub limit_bytes: u64,
    /// What their disk has free; `None` when it does not tell.
    pub disk_free_bytes: Option<u64>,
    /// Share of the limit that main file and log use.
    pub used_fraction: f64,
    /// How near the limit is.
    pub level: Level,

    /// Payload bytes recorded.
    pub raw_bytes: u64,
    /// What they would take as rows of their own.
    pub uncompacted_bytes: u64,
    /// Main file and log, divided by [`uncompacted_bytes`](Self::uncompacted_bytes); `None`
    /// without history.
    pub footprint: Option<f64>,
    /// What the plan expects of it.
    pub footprint_target: f64,
    /// Bytes that compaction saved so far: what is compacted takes so much less than as rows.
    pub saved_bytes: u64,
    /// Bytes that it would still save.
    pub compactable_bytes: u64,
    /// Messages that are rows of their own.
    pub hot_messages: u64,
    /// Their payload bytes.
    pub hot_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Their encoded bytes.
    pub segment_bytes: u64,
    /// Bases: what the segments of a project are encoded with.
    pub bases: u64,
    /// Their encoded bytes.
    pub base_bytes: u64,

    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// How fast history grows.
    pub growth: Growth,
    /// Sessions without active time: they are in no figure by the hour.
    pub untimed: Untimed,
    /// The plan's constants beside what was measured.
    pub planned: Vec<PlannedRow>,
    /// Growth by message type, the biggest first.
    pub by_type: Vec<TypeRow>,
    /// Growth by UTC day; days without growth are left out.
    pub by_day: Vec<DayRow>,
    /// Payload bytes of days before the first that [`by_day`](Self::by_day) may hold.
    pub earlier_raw_bytes: u64,
    /// Payload bytes of days after today: from clocks that were ahead.
    pub later_raw_bytes: u64,
    /// When the limit will be reached.
    pub forecast: Forecast,
    /// Sessions that take the most room.
    pub biggest_sessions: Vec<SessionRow>,
    /// Sessions that grow fastest while they are in use.
    pub fastest_sessions: Vec<SessionRow>,
    /// Sessions by working directory, the biggest first.
    pub projects: Vec<ProjectRow>,
    /// Projects there are, shown or not.
    pub projects_total: u64,
    /// The last runs of compaction, newest first.
    pub compaction_runs: Vec<RunRow>,
}

impl CapacityReport {
    /// Main file and log.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.database_bytes.saturating_add(self.wal_bytes)
    }

    /// What the disk has free, if it is full before the limit is reached.
    #[must_use]
    pub fn disk_short_of_limit(&self) -> Option<u64> {
        let left = self.limit_bytes.saturating_sub(self.used_bytes());
        self.disk_free_bytes.filter(|free| *free < left)
    }

    /// What stands after a figure of what compaction would save, while too little is compacted to measure
    /// it and the plan's footprint stands in: ` by the plan's 30 %`. Nothing after a measured one.
    #[must_use]
    pub fn by_the_plan(&self) -> String {
        match self.compacted_ratio() {
            Some(_) => String::new(),
            None => format!(" by the plan's {}", percent(self.footprint_target)),
        }
    }
}

/// How fast history grows, over all of it. `None` where there is nothing to divide by. What is by the
/// hour leaves out [`Untimed`] sessions, which have no hours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Growth {
    /// Gaps between messages, each capped at five minutes, and turns of imported streams, summed
    /// over the sessions.
    pub active_hours: f64,
    /// Time between first and last message, summed over the sessions.
    pub wall_hours: f64,
    /// Messages of an active hour.
    pub messages_per_session_hour: Option<f64>,
    /// Payload bytes of a message, on average.
    pub bytes_per_message: Option<f64>,
    /// Payload bytes of an active hour.
    pub bytes_per_session_hour: Option<f64>,
    /// Payload bytes of a wall-clock hour.
    pub bytes_per_wall_hour: Option<f64>,
}

/// A constant of the plan beside what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PlannedRow {
    /// Name for programs: a field of [`Growth`], `footprint`, or of its own.
    pub name: &'static str,
    /// What it is, for tables.
    pub label: &'static str,
    /// What both are counted in.
    pub unit: Unit,
    /// What the plan assumes.
    pub planned: f64,
    /// What was measured.
    pub measured: Option<f64>,
    /// Measured divided by planned.
    pub ratio: Option<f64>,
}

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// A share.
    Fraction,
}

/// Growth of one message type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TypeRow {
    /// The `type` that the lines carry, or a name in parentheses.
    pub message_type: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Share of all payload bytes.
    pub share: f64,
    /// That share of the growth per session-hour; `None` where that is not measured.
    pub bytes_per_session_hour: Option<f64>,
}

/// Growth of one day (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DayRow {
    /// When the day begins, Unix milliseconds.
    pub day_ms: i64,
    /// Messages said in it.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Active time in it, summed over the sessions.
    pub active_ms: i64,
}

/// A session's size and growth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRow {
    /// Its id.
    pub session_id: String,
    /// Its name; empty when it has none.
    pub name: String,
    /// Directory that the agent worked in.
    pub working_directory: String,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes in the database.
    pub stored_bytes: u64,
    /// Stored bytes divided by those it would take as rows; `None` when empty.
    pub footprint: Option<f64>,
    /// Active hours.
    pub active_hours: f64,
    /// Payload bytes of an active hour; `None` for a session too short to tell.
    pub bytes_per_session_hour: Option<f64>,
    /// When its last message was said, Unix milliseconds.
    pub last_time_ms: Option<i64>,
}

/// Sessions of one working directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProjectRow {
    /// The directory; empty for sessions that name none.
    pub working_directory: String,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes in the database.
    pub stored_bytes: u64,
    /// Active hours.
    pub active_hours: f64,
    /// Payload bytes of an active hour.
    pub bytes_per_session_hour: Option<f64>,
}

/// One run of compaction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Number, rising.
    pub run_id: i64,
    /// When it began, Unix milliseconds.
    pub started_ms: i64,
    /// How long it took.
    pub seconds: f64,
    /// What asked for it.
    pub trigger: String,
    /// `quick` or `deep`.
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
    pub segments: u64,
    /// Error or remark; empty when there is none.
    pub detail: String,
}

#[cfg(test)]
pub(in crate::capacity) mod tests;
