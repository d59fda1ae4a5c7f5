//! The plan's constants beside what a store measures.

use super::{CapacityReport, DayRow, Growth, PlannedRow, Unit};
use crate::capacity::forecast::WINDOW_DAYS;
use crate::capacity::planner::storage_growth::{
    MESSAGE_BYTES, MESSAGES_PER_SESSION_HOUR, SESSION_HOURS_PER_DAY, WORKDAYS_PER_MONTH,
};
use crate::capacity::quantity::Quantity;
use crate::capacity::text::DAY_MS;
use crate::growth::HOUR_MS;
use crate::limits::FOOTPRINT_TARGET;

/// Days of a month, on average.
pub(in crate::capacity) const DAYS_PER_MONTH: f64 = 365.25 / 12.0;

/// The rows, in the plan's order. `compacted_ratio` is what a byte of compacted history takes.
pub(super) fn planned(
    growth: &Growth,
    use_by_day: &DailyUse,
    compacted_ratio: Option<f64>,
    footprint: Option<f64>,
) -> Vec<PlannedRow> {
    let row = |name, label, unit, planned: f64, measured: Option<f64>| PlannedRow {
        name,
        label,
        unit,
        planned,
        measured,
        ratio: measured.map(|measured| measured / planned),
    };
    let messages = MESSAGES_PER_SESSION_HOUR.get();
    let bytes = MESSAGE_BYTES.get();
    let hours = SESSION_HOURS_PER_DAY.as_f64();
    let days = WORKDAYS_PER_MONTH.as_f64();
    let daily = messages * bytes * hours;
    #[rustfmt::skip]
    let rows = vec![
        row("messages_per_session_hour", "Messages per session-hour", Unit::Count, messages, growth.messages_per_session_hour),
        row("bytes_per_message", "Size of a message", Unit::Bytes, bytes, growth.bytes_per_message),
        row("bytes_per_session_hour", "Growth per session-hour", Unit::Bytes, messages * bytes, growth.bytes_per_session_hour),
        row("session_hours_per_day", "Session-hours of a day in use", Unit::Count, hours, use_by_day.session_hours),
        row("workdays_per_month", "Days in use of a month", Unit::Count, days, use_by_day.workdays_per_month),
        row("bytes_per_day", "Growth of a day in use", Unit::Bytes, daily, use_by_day.bytes),
        row("bytes_per_month", "Growth of a month", Unit::Bytes, daily * days, use_by_day.bytes_per_month()),
        row("compaction_saving", "Saved of what is compacted", Unit::Fraction, 1.0 - FOOTPRINT_TARGET, compacted_ratio.map(|ratio| 1.0 - ratio)),
        row("footprint", "Footprint", Unit::Fraction, FOOTPRINT_TARGET, footprint),
    ];
    rows
}

/// How much a store is used on a day, by the last four weeks that it was.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct DailyUse {
    /// Active hours of a day with any, of all sessions.
    session_hours: Option<f64>,
    /// Payload bytes of a day with any.
    bytes: Option<f64>,
    /// Days with growth in a month; `None` of less than four weeks of history.
    workdays_per_month: Option<f64>,
}

impl DailyUse {
    /// Of `days`, the earliest first. Today is not over, and left out.
    pub(super) fn of(days: &[DayRow], now_ms: i64) -> Self {
        let over: Vec<&DayRow> = days_over(days, now_ms).collect();
        let (Some(first), Some(last)) = (over.first(), over.last()) else {
            return Self::default();
        };
        let begin_ms = last.day_ms - (WINDOW_DAYS as i64 - 1) * DAY_MS;
        let window = || over.iter().filter(|day| day.day_ms >= begin_ms);
        let days_used = window().count() as f64;
        let mean = |sum: f64, of: f64| (of > 0.0).then(|| sum / of);
        let bytes: u64 = window()
            .map(|day| day.raw_bytes)
            .fold(0, u64::saturating_add);
        let active = || window().map(|day| day.active_ms).filter(|ms| *ms > 0);
        let active_ms = active().fold(0, i64::saturating_add);
        let in_month = || days_used / WINDOW_DAYS as f64 * DAYS_PER_MONTH;
        Self {
            session_hours: mean(active_ms as f64 / HOUR_MS as f64, active().count() as f64),
            bytes: mean(bytes as f64, days_used),
            workdays_per_month: (first.day_ms <= begin_ms).then(in_month),
        }
    }

    fn bytes_per_month(&self) -> Option<f64> {
        Some(self.bytes? * self.workdays_per_month?)
    }
}

/// The days of use that are over: today is not.
fn days_over(days: &[DayRow], now_ms: i64) -> impl Iterator<Item = &DayRow> {
    let today_ms = now_ms.div_euclid(DAY_MS) * DAY_MS;
    days.iter().filter(move |day| day.day_ms < today_ms)
}

impl CapacityReport {
    /// When the four weeks end that `planned` has days and months of, where those are not the ones up
    /// to yesterday, which the forecast looks at: the last day of use.
    #[must_use]
    pub fn planned_until_ms(&self) -> Option<i64> {
        let yesterday_ms = (self.generated_ms.div_euclid(DAY_MS) - 1) * DAY_MS;
        let last = days_over(&self.by_day, self.generated_ms).last()?;
        Some(last.day_ms).filter(|last| *last < yesterday_ms)
    }

    /// What was measured of a constant of the plan.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<f64> {
        let row = self.planned.iter().find(|row| row.name == name)?;
        row.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_MS: i64 = 1_771_070_400_000;

    fn day(days_ago: i64, raw_bytes: u64, active_hours: i64) -> DayRow {
        DayRow {
            day_ms: (NOON_MS.div_euclid(DAY_MS) - days_ago) * DAY_MS,
            messages: 1,
            raw_bytes,
            active_ms: active_hours * HOUR_MS,
        }
    }

    #[test]
    fn days_and_months_of_use_are_those_of_the_last_four_weeks_of_it() {
        // The last use was 100 days ago, on 14 days of four weeks. What was before does not count.
        let mut days = vec![day(140, 1_000_000, 20)];
        days.extend((100..128).rev().step_by(2).map(|ago| day(ago, 3_000, 2)));
        days.push(day(100, 3_000, 0));
        days.dedup_by_key(|day| day.day_ms);
        let used = DailyUse::of(&days, NOON_MS);
        assert_eq!((used.session_hours, used.bytes), (Some(2.0), Some(3_000.0)));
        let workdays = 15.0 / 28.0 * DAYS_PER_MONTH;
        assert_eq!(used.workdays_per_month, Some(workdays));
        assert_eq!(used.bytes_per_month(), Some(3_000.0 * workdays));
    }

    #[test]
    fn a_short_history_tells_no_month_and_today_is_no_day_yet() {
        let used = DailyUse::of(&[day(2, 4_000, 1), day(1, 2_000, 3), day(0, 9, 9)], NOON_MS);
        assert_eq!((used.session_hours, used.bytes), (Some(2.0), Some(3_000.0)));
        assert_eq!(used.workdays_per_month, None);
        assert_eq!(used.bytes_per_month(), None);
        assert_eq!(DailyUse::of(&[day(0, 9, 9)], NOON_MS), DailyUse::default());
    }
}
