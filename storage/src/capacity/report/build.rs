//! Making the report of plain numbers.

use std::collections::BTreeMap;

use super::planned::{DailyUse, planned};
use super::{CapacityReport, DayRow, Growth, ProjectRow, RunRow, SessionRow, TypeRow};
use crate::capacity::error::Result;
use crate::capacity::forecast::{self, ForecastInput};
use crate::capacity::levels::{Level, Metric, level_of, used_fraction};
use crate::capacity::quantity::{Amount, Input, MB, Source};
use crate::growth::{HOUR_MS, Rows};
use crate::limits::FOOTPRINT_TARGET;
use crate::session::Session;
use crate::{CompactionRun, HourGrowth, ProjectGrowth, Totals, TypeGrowth, Untimed};

/// Days of growth that the report holds, at most, up to the last day with growth.
pub const GROWTH_DAYS_MAX: i64 = 1100;
/// Sessions and projects that each list of the report holds, at most.
pub const SESSIONS_SHOWN_MAX: usize = 10;
/// Active time below which the pace of a session, or of all, says nothing.
pub const PACE_ACTIVE_MS_MIN: i64 = 6 * 60 * 1000;
/// Compacted history below which its ratio says nothing, and the plan's stands in.
const COMPACTED_RAW_BYTES_MIN: u64 = MB;
/// History below which the size of the database is mostly what an empty one takes.
const TELLING_BYTES_MIN: u64 = MB;
const HOURS_PER_DAY: i64 = 24;

/// What a report is made of.
#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    /// Where the store is, for people.
    pub database: &'a str,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
    /// The store's totals.
    pub totals: &'a Totals,
    /// Main file.
    pub database_bytes: u64,
    /// Write-ahead log.
    pub wal_bytes: u64,
    /// Part of the main file that holds nothing.
    pub free_bytes: u64,
    /// What main file and log may reach.
    pub limit_bytes: u64,
    /// What their disk has free, as far as it tells.
    pub disk_free_bytes: Option<u64>,
    /// The level before, when one is known; a report on its own starts from [`Level::Ok`].
    pub previous_level: Level,
    /// Growth by message type.
    pub types: &'a [TypeGrowth],
    /// Growth by hour, all of it.
    pub hours: &'a [HourGrowth],
    /// The sessions that take the most room, in that order; further ones are left out.
    pub biggest: &'a [Session],
    /// The sessions with the most bytes an active hour, in that order, of those with at least
    /// [`PACE_ACTIVE_MS_MIN`] of active time; further ones are left out.
    pub fastest: &'a [Session],
    /// The projects that take the most room, in that order; further ones are left out.
    pub projects: &'a [ProjectGrowth],
    /// Projects there are.
    pub projects_total: u64,
    /// Sessions without active time.
    pub untimed: Untimed,
    /// Runs of compaction, newest first.
    pub runs: &'a [CompactionRun],
}

/// Makes the report.
///
/// # Errors
/// `CapacityError::Zero` for a limit of 0.
pub fn build(input: &ReportInput<'_>) -> Result<CapacityReport> {
    let totals = input.totals;
    let used_bytes = input.database_bytes.saturating_add(input.wal_bytes);
    let level = level_of(
        Metric::SqliteSize,
        used_bytes,
        input.limit_bytes,
        input.previous_level,
    )?;
    let footprint = ratio(used_bytes, totals.uncompacted_bytes);
    let ratios = Ratios::of(totals);
    let growth = growth(totals, input.untimed);
    let today = input.now_ms.div_euclid(HOUR_MS * HOURS_PER_DAY);
    let days = Days::of(input.hours, today);
    let use_by_day = DailyUse::of(&days.rows, input.now_ms);
    let forecast = forecast::forecast(&ForecastInput {
        hours: input.hours,
        first_hour: None,
        now_ms: input.now_ms,
        used_bytes,
        free_bytes: input.free_bytes,
        compactable_bytes: ratios.compactable_bytes,
        limit_bytes: input.limit_bytes,
        disk_free_bytes: input.disk_free_bytes,
        uncompacted_ratio: ratios.uncompacted,
        compacted_ratio: ratios.compacted,
        raw_bytes_per_session_hour: growth.bytes_per_session_hour,
    })?;
    Ok(CapacityReport {
        database: input.database.to_owned(),
        generated_ms: input.now_ms,
        store_id: totals.store_id.clone(),
        database_bytes: input.database_bytes,
        wal_bytes: input.wal_bytes,
        free_bytes: input.free_bytes,
        limit_bytes: input.limit_bytes,
        disk_free_bytes: input.disk_free_bytes,
        used_fraction: used_fraction(used_bytes, input.limit_bytes)?,
        level,
        raw_bytes: totals.raw_bytes,
        uncompacted_bytes: totals.uncompacted_bytes,
        footprint,
        footprint_target: FOOTPRINT_TARGET,
        saved_bytes: saved_bytes(totals),
        compactable_bytes: ratios.compactable_bytes,
        hot_messages: totals.hot_messages,
        hot_bytes: totals.hot_bytes,
        segments: totals.segments,
        segment_bytes: totals.segment_bytes,
        bases: totals.bases,
        base_bytes: totals.base_bytes,
        sessions: totals.sessions,
        messages: totals.messages,
        growth,
        untimed: input.untimed,
        planned: planned(
            &growth,
            &use_by_day,
            compacted_ratio_of(totals),
            footprint.filter(|_| !is_mostly_empty(footprint, totals.uncompacted_bytes)),
        ),
        by_type: by_type(input.types, &growth),
        by_day: days.rows,
        earlier_raw_bytes: days.earlier_raw_bytes,
        later_raw_bytes: days.later_raw_bytes,
        forecast,
        biggest_sessions: shown(input.biggest, session),
        fastest_sessions: shown(input.fastest, session),
        projects: shown(input.projects, project),
        projects_total: input.projects_total,
        compaction_runs: input.runs.iter().map(run).collect(),
    })
}

/// Whether the size of the database is mostly what an empty one takes: its footprint tells nothing then.
pub(super) fn is_mostly_empty(footprint: Option<f64>, uncompacted_bytes: u64) -> bool {
    footprint.is_some_and(|footprint| footprint > 1.0) && uncompacted_bytes < TELLING_BYTES_MIN
}

/// What a byte of history takes in the database.
struct Ratios {
    uncompacted: Input<Amount>,
    compacted: Input<Amount>,
    compactable_bytes: u64,
}

impl Ratios {
    fn of(totals: &Totals) -> Self {
        let uncompacted = match ratio(totals.uncompacted_bytes, totals.raw_bytes) {
            Some(measured) => Input::measured(Amount(measured)),
            None => Input {
                value: Amount(1.0),
                source: Source::PlanDefault,
            },
        };
        let compacted = match compacted_ratio_of(totals) {
            Some(measured) => Input::measured(Amount(measured)),
            None => Input {
                value: Amount(FOOTPRINT_TARGET * uncompacted.value.get()),
                source: Source::PlanDefault,
            },
        };
        let saved_per_byte = (uncompacted.value.get() - compacted.value.get()).max(0.0);
        let compactable_bytes = (as_f64(totals.hot_bytes) * saved_per_byte) as u64;
        Self {
            uncompacted,
            compacted,
            compactable_bytes,
        }
    }
}

/// What is compacted would take so much more as rows. Neither history that is not compacted nor free
/// pages take anything of it.
fn saved_bytes(totals: &Totals) -> u64 {
    let rows = Rows {
        messages: totals.messages,
        raw_bytes: totals.raw_bytes,
        uncompacted_bytes: totals.uncompacted_bytes,
    };
    totals
        .uncompacted_bytes
        .saturating_sub(rows.hot_bytes(totals.hot_messages, totals.hot_bytes))
        .saturating_sub(totals.segment_bytes.saturating_add(totals.base_bytes))
}

fn compacted_ratio_of(totals: &Totals) -> Option<f64> {
    let compacted_raw_bytes = totals.raw_bytes.saturating_sub(totals.hot_bytes);
    compacted_ratio(compacted_raw_bytes, totals.segment_bytes, totals.base_bytes)
}

/// What a byte of compacted history takes; `None` while too little is compacted to tell.
fn compacted_ratio(compacted_raw_bytes: u64, segment_bytes: u64, base_bytes: u64) -> Option<f64> {
    // Bases are what segments are encoded with: without them, segments hold nothing.
    let compacted_bytes = segment_bytes.saturating_add(base_bytes);
    ratio(compacted_bytes, compacted_raw_bytes)
        .filter(|_| compacted_raw_bytes >= COMPACTED_RAW_BYTES_MIN)
}

impl CapacityReport {
    /// What a byte of compacted history takes in segments and bases; `None` below a megabyte of it,
    /// which says nothing yet.
    #[must_use]
    pub fn compacted_ratio(&self) -> Option<f64> {
        let compacted_raw_bytes = self.raw_bytes.saturating_sub(self.hot_bytes);
        compacted_ratio(compacted_raw_bytes, self.segment_bytes, self.base_bytes)
    }
}

fn growth(totals: &Totals, untimed: Untimed) -> Growth {
    let active_hours = hours(totals.active_ms);
    let wall_hours = hours(totals.wall_ms);
    // A few seconds of work are no pace.
    let paced_hours = match totals.active_ms < PACE_ACTIVE_MS_MIN {
        true => 0.0,
        false => active_hours,
    };
    // What has no hours is in none of them.
    let messages = totals.messages.saturating_sub(untimed.messages);
    let raw_bytes = totals.raw_bytes.saturating_sub(untimed.raw_bytes);
    let per = |amount: u64, of: f64| (of > 0.0).then(|| as_f64(amount) / of);
    Growth {
        active_hours,
        wall_hours,
        messages_per_session_hour: per(messages, paced_hours),
        bytes_per_message: ratio(totals.raw_bytes, totals.messages),
        bytes_per_session_hour: per(raw_bytes, paced_hours),
        bytes_per_wall_hour: per(raw_bytes, wall_hours),
    }
}

fn by_type(types: &[TypeGrowth], growth: &Growth) -> Vec<TypeRow> {
    let total: u64 = types
        .iter()
        .map(|t| t.raw_bytes)
        .fold(0, u64::saturating_add);
    let mut rows: Vec<TypeRow> = types
        .iter()
        .map(|t| {
            let share = ratio(t.raw_bytes, total).unwrap_or(0.0);
            TypeRow {
                message_type: t.message_type.clone(),
                messages: t.messages,
                raw_bytes: t.raw_bytes,
                share,
                bytes_per_session_hour: growth.bytes_per_session_hour.map(|all| all * share),
            }
        })
        .collect();
    rows.sort_by(|a, b| {
        b.raw_bytes
            .cmp(&a.raw_bytes)
            .then_with(|| a.message_type.cmp(&b.message_type))
    });
    rows
}

struct Days {
    rows: Vec<DayRow>,
    earlier_raw_bytes: u64,
    later_raw_bytes: u64,
}

impl Days {
    fn of(hours: &[HourGrowth], today: i64) -> Self {
        let mut rows: BTreeMap<i64, DayRow> = BTreeMap::new();
        let of = |hour: &HourGrowth| hour.hour.div_euclid(HOURS_PER_DAY);
        let last = hours
            .iter()
            .map(of)
            .filter(|day| (0..=today).contains(day))
            .max()
            .unwrap_or(today);
        let (mut earlier_raw_bytes, mut later_raw_bytes) = (0u64, 0u64);
        for hour in hours {
            let day = of(hour);
            if day > today {
                later_raw_bytes = later_raw_bytes.saturating_add(hour.raw_bytes);
                continue;
            }
            // Nothing is recorded before 1970: only a damaged row says so.
            if day < 0 || day <= last.saturating_sub(GROWTH_DAYS_MAX) {
                earlier_raw_bytes = earlier_raw_bytes.saturating_add(hour.raw_bytes);
                continue;
            }
            let row = rows.entry(day).or_insert(DayRow {
                day_ms: day * HOURS_PER_DAY * HOUR_MS,
                messages: 0,
                raw_bytes: 0,
                active_ms: 0,
            });
            row.messages = row.messages.saturating_add(hour.messages);
            row.raw_bytes = row.raw_bytes.saturating_add(hour.raw_bytes);
            row.active_ms = row.active_ms.saturating_add(hour.active_ms);
        }
        Self {
            rows: rows.into_values().collect(),
            earlier_raw_bytes,
            later_raw_bytes,
        }
    }
}

fn shown<T, Row>(items: &[T], row: impl Fn(&T) -> Row) -> Vec<Row> {
    items.iter().take(SESSIONS_SHOWN_MAX).map(row).collect()
}

fn session(session: &Session) -> SessionRow {
    SessionRow {
        session_id: session.id.to_string(),
        name: session.meta.name.clone(),
        working_directory: session.meta.working_directory.clone(),
        messages: session.messages,
        raw_bytes: session.raw_bytes,
        stored_bytes: session.stored_bytes(),
        footprint: ratio(session.stored_bytes(), session.uncompacted_bytes),
        active_hours: hours(session.active_ms),
        bytes_per_session_hour: pace(session.raw_bytes, session.active_ms),
        last_time_ms: session.last_time_ms,
    }
}

fn project(project: &ProjectGrowth) -> ProjectRow {
    ProjectRow {
        working_directory: project.working_directory.clone(),
        sessions: project.sessions,
        messages: project.messages,
        raw_bytes: project.raw_bytes,
        stored_bytes: project.stored_bytes,
        active_hours: hours(project.active_ms),
        bytes_per_session_hour: pace(project.raw_bytes, project.active_ms),
    }
}

fn run(run: &CompactionRun) -> RunRow {
    let seconds = run.finished_ms.saturating_sub(run.started_ms).max(0) as f64 / 1000.0;
    RunRow {
        run_id: run.run_id,
        started_ms: run.started_ms,
        seconds,
        trigger: run.trigger.clone(),
        tier: run.tier.clone(),
        outcome: run.outcome,
        bytes_before: run.bytes_before,
        bytes_after: run.bytes_after,
        messages: run.messages,
        raw_bytes: run.raw_bytes,
        segments: run.segments_written,
        detail: run.detail.clone(),
    }
}

fn pace(raw_bytes: u64, active_ms: i64) -> Option<f64> {
    (active_ms >= PACE_ACTIVE_MS_MIN).then(|| as_f64(raw_bytes) / hours(active_ms))
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| as_f64(part) / as_f64(whole))
}

fn hours(ms: i64) -> f64 {
    ms.max(0) as f64 / HOUR_MS as f64
}

fn as_f64(value: u64) -> f64 {
    value as f64
}
