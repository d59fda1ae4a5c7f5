//! When the limit will be reached, as text.

use super::{Lines, ignored, room, rounded_bytes, when};
use crate::capacity::forecast::{Forecast, Projection, Range, Reach, When};
use crate::capacity::report::CapacityReport;
use crate::capacity::text::{bytes, date, days_ahead, fit, hours};

pub(super) fn forecast(out: &mut Lines, report: &CapacityReport) {
    match &report.forecast {
        Forecast::NotEnoughHistory {
            days,
            days_min,
            session_hours_without_compaction: without,
            session_hours_with_compaction: with,
            ..
        } => {
            if report.messages == 0 {
                return;
            }
            out.section(&format!(
                "Forecast    needs {days_min} whole days of history; there are {days}"
            ));
            if let (Some(without), Some(with)) = (without, with) {
                out.line(&format!(
                    "            room for {} of sessions, {} with compaction{}",
                    hours(*without),
                    hours(*with),
                    report.by_the_plan()
                ));
            }
        }
        Forecast::Projected {
            window_days,
            days_used,
            daily_raw_bytes,
            without_compaction,
            with_compaction,
            ..
        } => {
            out.section(&format!(
                "Forecast    {} a day recorded ({})",
                rounded_bytes(daily_raw_bytes.median),
                range(*daily_raw_bytes),
            ));
            out.line(&format!(
                "            in the {window_days} days to today, {days_used} of them in use"
            ));
            let with = match report.compacted_ratio() {
                Some(_) => "with compaction".to_owned(),
                None => format!("compaction{}", report.by_the_plan()),
            };
            out.line(&columns("", "without compaction", &with));
            let month =
                |p: &Projection| format!("{} in use", rounded_bytes(p.in_30_days_bytes.median));
            out.line(&columns(
                "in 30 days",
                &month(without_compaction),
                &month(with_compaction),
            ));
            let pairs = without_compaction
                .reaches()
                .into_iter()
                .zip(with_compaction.reaches());
            for ((label, without), (_, with)) in pairs {
                let label = format!("{label} {}", bytes(without.bytes));
                out.line(&columns(&label, &likely(without), &likely(with)));
                let spans = [span(without), span(with)];
                if spans.iter().any(|span| !span.is_empty()) {
                    out.line(&columns("", &spans[0], &spans[1]));
                }
            }
            let sessions = |p: &Projection| room(p.end().session_hours);
            out.line(&columns(
                "room for sessions",
                &sessions(without_compaction),
                &sessions(with_compaction),
            ));
        }
    }
    if let Some(ignored) = ignored(report) {
        out.line(&format!("  {ignored}"));
    }
}

/// When the limit is reached with compaction, and the room until then.
pub(super) fn main_points(out: &mut Lines, report: &CapacityReport) {
    let (daily_raw_bytes, with_compaction) = match &report.forecast {
        Forecast::Projected {
            daily_raw_bytes,
            with_compaction,
            ..
        } => (daily_raw_bytes, with_compaction),
        Forecast::NotEnoughHistory { days, days_min, .. } => {
            return out.line(&format!(
                "Forecast    needs {days_min} whole days of history; there are {days}"
            ));
        }
    };
    let end = with_compaction.end();
    let what = match with_compaction.disk {
        Some(_) => "the disk is full".to_owned(),
        None => format!("{} is reached", bytes(end.bytes)),
    };
    out.line(&format!(
        "Forecast    {} a day recorded; {what}: {}",
        rounded_bytes(daily_raw_bytes.median),
        likely(end)
    ));
    if end.session_hours.is_some() {
        let compacted = match report.compacted_ratio() {
            Some(_) => "compacted as these are".to_owned(),
            None => format!("compacted{}", report.by_the_plan()),
        };
        out.line(&format!(
            "            room for {} of sessions, {compacted}",
            room(end.session_hours)
        ));
    }
}

fn columns(label: &str, without: &str, with: &str) -> String {
    format!(
        "  {} {} {}",
        fit(label, 18),
        fit(without, 28),
        fit(with, 30)
    )
}

fn range(range: Range) -> String {
    format!(
        "{} to {}",
        rounded_bytes(range.low),
        rounded_bytes(range.high)
    )
}

fn likely(reach: &Reach) -> String {
    match reach.likely {
        When::At { unix_ms, days } => format!("{} ({})", date(unix_ms), days_ahead(days)),
        When::Never => "never at this pace".into(),
        other => when(other),
    }
}

/// From the busiest to the quietest pace; empty when there is nothing between.
fn span(reach: &Reach) -> String {
    let (earliest, latest) = (when(reach.earliest), when(reach.latest));
    if earliest == latest {
        String::new()
    } else {
        format!("{earliest} .. {latest}")
    }
}
