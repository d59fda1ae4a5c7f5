//! When a measured history reaches its limit, with and without compaction, and how sure that is.
//!
//! # How
//! The last [`WINDOW_DAYS`] days before now (or as many whole days as there is history) are
//! taken as they were, idle days included. Their daily growth is averaged over every *run*: as many consecutive
//! days as make a quarter of the window, seven at most. The 10 %, 50 % and 90 % quantiles of these averages are the
//! low, median and high pace, widened to include the plain average of the window.
//!
//! Runs are averaged instead of single days because a date weeks ahead depends on the pace of weeks: weekends and
//! single busy days cancel out. Runs are no longer than a quarter of the window because a busy day is in as many
//! runs as a run has days, and must not reach the median: it has to stay out of half of them. A date's range is
//! that of the paces; it does not know what will be used tomorrow.
//!
//! Hours later than now (a clock that was ahead) and before 2020 (a clock that was reset) are
//! left out, and counted.

use std::collections::BTreeSet;

use serde::Serialize;

use super::error::{CapacityError, Result};
use super::levels::Metric;
use super::quantile::{moving_means, quantile};
use super::quantity::{Amount, Input};
use super::text::DAY_MS;
use crate::HourGrowth;
use crate::growth::HOUR_MS;
use crate::limits::TIMESTAMP_MS_MIN;

/// Days of history that the pace is taken from: four weeks, so that weekends count as they come.
pub const WINDOW_DAYS: usize = 28;
/// Whole days of history below which no date is told.
pub const HISTORY_DAYS_MIN: usize = 3;
/// Days of a run that is averaged, at most.
const RUN_DAYS_MAX: usize = 7;
/// A run is this part of the window, so that fewer than half of the runs hold any one day, or the two
/// that a busy night falls on.
const RUNS_IN_WINDOW: usize = 4;
/// Dates further ahead than this are not told: no pace of four weeks says anything about them.
pub const HORIZON_DAYS: f64 = 3652.5;
/// Hours before hold what earlier versions believed of clocks that were reset.
const EARLIEST_HOUR: i64 = TIMESTAMP_MS_MIN / HOUR_MS;
const HOURS_PER_DAY: i64 = 24;

/// What a forecast is made from.
#[derive(Debug, Clone, Copy)]
pub struct ForecastInput<'a> {
    /// Growth by hour, in any order; hours without growth may be missing. At least the last
    /// [`WINDOW_DAYS`] days.
    pub hours: &'a [HourGrowth],
    /// Unix hour of the first history there is, when it is earlier than `hours` begin.
    pub first_hour: Option<i64>,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
    /// Bytes of the database file and its WAL.
    pub used_bytes: u64,
    /// Of these, bytes of pages that hold nothing: new history fills them first.
    pub free_bytes: u64,
    /// Bytes that compaction would still make free.
    pub compactable_bytes: u64,
    /// Size that the database may reach.
    pub limit_bytes: u64,
    /// What its disk has free, if that is known.
    pub disk_free_bytes: Option<u64>,
    /// Bytes that a byte of history takes in the database uncompacted …
    pub uncompacted_ratio: Input<Amount>,
    /// … and compacted.
    pub compacted_ratio: Input<Amount>,
    /// Bytes of history that an active hour of a session adds, of the sessions that have any;
    /// `None` when none was measured. Not taken from `hours`: they hold bytes of sessions without
    /// active time as well.
    pub raw_bytes_per_session_hour: Option<f64>,
}

/// A low, a likely and a high value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// At the pace of quiet weeks.
    pub low: f64,
    /// At the usual pace.
    pub median: f64,
    /// At the pace of busy weeks.
    pub high: f64,
}

impl Range {
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            low: f(self.low),
            median: f(self.median),
            high: f(self.high),
        }
    }
}

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum When {
    /// It has happened.
    Reached,
    /// On this day.
    At {
        /// Unix milliseconds.
        unix_ms: i64,
        /// Days from now.
        days: f64,
    },
    /// Later than [`HORIZON_DAYS`] from now.
    Beyond,
    /// Not at this pace: nothing is added.
    Never,
}

/// When a size is reached, at three paces.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reach {
    /// The size.
    pub bytes: u64,
    /// At the high pace.
    pub earliest: When,
    /// At the median pace.
    pub likely: When,
    /// At the low pace.
    pub latest: When,
    /// Active session-hours until then at the measured growth per session-hour; `None` when
    /// none was measured, 0 when it is reached.
    pub session_hours: Option<f64>,
}

/// The future of the database, with or without compaction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Projection {
    /// Bytes that a byte of history takes in the database.
    pub ratio: Input<Amount>,
    /// Bytes in use to begin with: free pages left out, and with compaction also what it would
    /// still make free.
    pub start_bytes: u64,
    /// Bytes added in a day.
    pub daily_bytes: Range,
    /// Bytes in use in 30 days, whatever the limit.
    pub in_30_days_bytes: Range,
    /// When the size becomes a warning.
    pub warning: Reach,
    /// When it becomes critical.
    pub critical: Reach,
    /// When the limit is reached.
    pub limit: Reach,
    /// When the disk is full; `None` if that is not before the limit is reached.
    pub disk: Option<Reach>,
}

impl Projection {
    /// The sizes that have dates, by name.
    #[must_use]
    pub fn reaches(&self) -> Vec<(&'static str, &Reach)> {
        let mut reaches = vec![
            ("warning", &self.warning),
            ("critical", &self.critical),
            ("limit", &self.limit),
        ];
        reaches.extend(self.disk.as_ref().map(|disk| ("disk", disk)));
        reaches
    }

    /// The size at which nothing more is taken: the limit, or the end of the disk if that comes first.
    #[must_use]
    pub fn end(&self) -> &Reach {
        self.disk.as_ref().unwrap_or(&self.limit)
    }
}

/// What can be said about the future.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Forecast {
    /// Too little history to tell a date.
    NotEnoughHistory {
        /// Whole days of history.
        days: usize,
        /// Days that are needed.
        days_min: usize,
        /// Active session-hours without compaction until the limit, or until the disk is full if that
        /// comes first, at the growth measured so far; `None` when none was measured.
        session_hours_without_compaction: Option<f64>,
        /// With compaction.
        session_hours_with_compaction: Option<f64>,
        /// Hours left out because they are later than now or before 2020.
        ignored_hours: usize,
    },
    /// Dates, at the pace of the window.
    Projected {
        /// Days that the pace is taken from.
        window_days: usize,
        /// Of so many days of the calendar (UTC), those on which something was recorded.
        days_used: usize,
        /// Days of the runs that were averaged.
        run_days: usize,
        /// Bytes of history recorded in a day, before compaction.
        daily_raw_bytes: Range,
        /// If compaction stopped now.
        without_compaction: Box<Projection>,
        /// With compaction.
        with_compaction: Box<Projection>,
        /// Hours left out because they are later than now or before 2020.
        ignored_hours: usize,
    },
}

impl ForecastInput<'_> {
    /// The size at which the disk is full, if that is less than the limit.
    fn disk_bytes(&self) -> Option<u64> {
        let bytes = self.used_bytes.saturating_add(self.disk_free_bytes?);
        Some(bytes).filter(|bytes| *bytes < self.limit_bytes)
    }
}

impl Forecast {
    /// Hours left out because they are later than now or before 2020.
    #[must_use]
    pub fn ignored_hours(&self) -> usize {
        match self {
            Self::NotEnoughHistory { ignored_hours, .. }
            | Self::Projected { ignored_hours, .. } => *ignored_hours,
        }
    }
}

/// Makes the forecast described in the [module's documentation](self).
///
/// # Errors
/// [`CapacityError::Zero`] for a limit of 0.
pub fn forecast(input: &ForecastInput<'_>) -> Result<Forecast> {
    if input.limit_bytes == 0 {
        let why = "a limit of 0 is reached before anything is stored";
        return Err(CapacityError::Zero {
            what: "limit_bytes",
            why,
        });
    }
    let now_hour = input.now_ms.div_euclid(HOUR_MS);
    let plausible = |hour: i64| (EARLIEST_HOUR..=now_hour).contains(&hour);
    let ignored_hours = input.hours.iter().filter(|h| !plausible(h.hour)).count();
    let hours: Vec<HourGrowth> = input
        .hours
        .iter()
        .copied()
        .filter(|h| plausible(h.hour))
        .collect();
    let known_first = input.first_hour.filter(|hour| plausible(*hour));
    let first_hour = hours.iter().map(|h| h.hour).chain(known_first).min();
    let days = first_hour.map_or(0, |first| whole_days(first, now_hour));
    let hourly = input.raw_bytes_per_session_hour;
    let in_use = input.used_bytes.saturating_sub(input.free_bytes);
    let compacted = in_use.saturating_sub(input.compactable_bytes);
    if days < HISTORY_DAYS_MIN {
        let session_hours = |start: u64, ratio: Input<Amount>| {
            let end = input.disk_bytes().unwrap_or(input.limit_bytes);
            let room = as_f64(end.saturating_sub(start));
            hours_until(room, hourly.map(|raw| raw * ratio.value.get()))
        };
        return Ok(Forecast::NotEnoughHistory {
            days,
            days_min: HISTORY_DAYS_MIN,
            session_hours_without_compaction: session_hours(in_use, input.uncompacted_ratio),
            session_hours_with_compaction: session_hours(compacted, input.compacted_ratio),
            ignored_hours,
        });
    }
    let daily = daily_raw_bytes(&hours, now_hour, days.min(WINDOW_DAYS));
    let run_days = (daily.len() / RUNS_IN_WINDOW).clamp(1, RUN_DAYS_MAX);
    let pace = pace(&daily, run_days);
    let project =
        |start_bytes, ratio: Input<Amount>| Box::new(projection(input, start_bytes, ratio, pace));
    Ok(Forecast::Projected {
        window_days: daily.len(),
        days_used: days_used(&hours, now_hour, daily.len()),
        run_days,
        daily_raw_bytes: pace,
        without_compaction: project(in_use, input.uncompacted_ratio),
        with_compaction: project(compacted, input.compacted_ratio),
        ignored_hours,
    })
}

fn whole_days(first_hour: i64, now_hour: i64) -> usize {
    usize::try_from((now_hour - first_hour + 1) / HOURS_PER_DAY).unwrap_or(0)
}

/// Raw bytes of each of the last `days` spans of 24 hours, the oldest first. Spans end with the
/// current hour, so that no day is counted before it is over.
fn daily_raw_bytes(hours: &[HourGrowth], now_hour: i64, days: usize) -> Vec<f64> {
    let mut daily = vec![0.0; days];
    for hour in hours {
        let days_ago = usize::try_from((now_hour - hour.hour) / HOURS_PER_DAY).unwrap_or(days);
        if let Some(bytes) = days
            .checked_sub(days_ago + 1)
            .and_then(|day| daily.get_mut(day))
        {
            *bytes += as_f64(hour.raw_bytes);
        }
    }
    daily
}

/// Days of the calendar on which something was recorded within the last `days` spans of 24 hours. What
/// there is of the first of them and today are a day together: so a day of work is one also when a span
/// ends in the middle of it.
fn days_used(hours: &[HourGrowth], now_hour: i64, days: usize) -> usize {
    let spans = days as i64;
    let in_window = |hour: &&HourGrowth| now_hour - hour.hour < spans * HOURS_PER_DAY;
    let used = hours.iter().filter(|hour| hour.raw_bytes > 0);
    let used: BTreeSet<i64> = used
        .filter(in_window)
        .map(|hour| hour.hour.div_euclid(HOURS_PER_DAY).rem_euclid(spans))
        .collect();
    used.len()
}

fn pace(daily: &[f64], run_days: usize) -> Range {
    let mut means = moving_means(daily, run_days);
    means.sort_by(f64::total_cmp);
    let at = |fraction| quantile(&means, fraction).unwrap_or(0.0);
    let average = daily.iter().sum::<f64>() / as_f64(daily.len().max(1) as u64);
    Range {
        low: at(0.1).min(average),
        median: at(0.5),
        high: at(0.9).max(average),
    }
}

fn projection(
    input: &ForecastInput<'_>,
    start_bytes: u64,
    ratio: Input<Amount>,
    pace: Range,
) -> Projection {
    let daily_bytes = pace.map(|raw| raw * ratio.value.get());
    let hourly = input
        .raw_bytes_per_session_hour
        .map(|raw| raw * ratio.value.get());
    let thresholds = Metric::SqliteSize.thresholds();
    let share = |percent: u8| {
        let bytes = u128::from(input.limit_bytes) * u128::from(percent) / 100;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let reach = |bytes| reach(input.now_ms, start_bytes, bytes, daily_bytes, hourly);
    Projection {
        ratio,
        start_bytes,
        daily_bytes,
        in_30_days_bytes: daily_bytes.map(|daily| as_f64(start_bytes) + daily * 30.0),
        warning: reach(share(thresholds.warning_percent)),
        critical: reach(share(thresholds.critical_percent)),
        limit: reach(input.limit_bytes),
        disk: input.disk_bytes().map(reach),
    }
}

fn reach(now_ms: i64, start: u64, bytes: u64, daily: Range, hourly: Option<f64>) -> Reach {
    let room = as_f64(bytes.saturating_sub(start));
    let when = |daily: f64| {
        if start >= bytes {
            When::Reached
        } else if daily <= 0.0 {
            When::Never
        } else if room / daily > HORIZON_DAYS {
            When::Beyond
        } else {
            let days = room / daily;
            let ahead_ms = (days * DAY_MS as f64) as i64;
            When::At {
                unix_ms: now_ms.saturating_add(ahead_ms),
                days,
            }
        }
    };
    Reach {
        bytes,
        earliest: when(daily.high),
        likely: when(daily.median),
        latest: when(daily.low),
        session_hours: hourly
            .filter(|hourly| *hourly > 0.0)
            .map(|hourly| room / hourly),
    }
}

fn hours_until(room_bytes: f64, bytes_per_hour: Option<f64>) -> Option<f64> {
    bytes_per_hour
        .filter(|bytes| *bytes > 0.0)
        .map(|bytes| room_bytes / bytes)
}

fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
