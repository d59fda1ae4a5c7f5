//! The four figures at the top: size, footprint, growth, and when the limit is reached.

use crate::capacity::forecast::{Forecast, When};
use crate::capacity::levels::{Level, Metric};
use crate::capacity::report::CapacityReport;
use crate::capacity::report::text::{counted, rounded_bytes, times, untimed, when};
use crate::capacity::text::{bytes, date, days_ahead, hours, percent, three_digits, used_percent};

use super::markup::meter;

/// The cards.
pub(super) fn cards(report: &CapacityReport) -> String {
    format!(
        "<div class=\"cards\">\n{}{}{}{}</div>\n",
        size(report),
        footprint(report),
        growth(report),
        limit(report)
    )
}

fn card(title: &str, value: &str, unit: &str, rest: &str) -> String {
    format!(
        "<div class=\"card\"><h2>{title}</h2><div class=\"value\">{value} <small>{unit}</small>\
         </div>{rest}</div>\n"
    )
}

fn size(report: &CapacityReport) -> String {
    let thresholds = Metric::SqliteSize.thresholds();
    let at = |percent: u8| f64::from(percent) / 100.0;
    let (warning, critical) = (thresholds.warning_percent, thresholds.critical_percent);
    let names = [format!("{warning} %"), format!("{critical} %")];
    let ticks = [
        (at(warning), names[0].as_str()),
        (at(critical), names[1].as_str()),
    ];
    let meter = meter(
        "Share of the limit",
        report.used_fraction,
        report.level,
        &ticks,
    );
    let disk = report
        .disk_short_of_limit()
        .map_or_else(String::new, |free| {
            let free = bytes(free);
            format!(" {free} free on its disk, which is full before the limit is reached.")
        });
    let rest = format!(
        "{meter}<p>{} of its limit. File {}, {} of it free for new messages; write-ahead log {}.{disk}</p>",
        used_percent(report.used_bytes(), report.limit_bytes),
        bytes(report.database_bytes),
        bytes(report.free_bytes),
        bytes(report.wal_bytes)
    );
    let of = format!("of {}", bytes(report.limit_bytes));
    card("Size", &bytes(report.used_bytes()), &of, &rest)
}

fn footprint(report: &CapacityReport) -> String {
    let Some(footprint) = report.footprint else {
        return card("Footprint", "–", "", "<p>Nothing is recorded yet.</p>");
    };
    let target = format!("plan {}", percent(report.footprint_target));
    let ticks = [(report.footprint_target, target.as_str())];
    let more = if report.compactable_bytes > 0 {
        format!(
            "; compaction would save {} more{}",
            bytes(report.compactable_bytes),
            report.by_the_plan()
        )
    } else {
        String::new()
    };
    let rest = format!(
        "{}<p>{} saved{more}. No byte of the history was lost.</p>",
        meter("Footprint", footprint, Level::Ok, &ticks),
        bytes(report.saved_bytes),
    );
    let of = format!("of {} uncompacted", bytes(report.uncompacted_bytes));
    card("Footprint", &percent(footprint), &of, &rest)
}

fn growth(report: &CapacityReport) -> String {
    let growth = &report.growth;
    let history = history(report);
    let (Some(per_hour), Some(messages), Some(size)) = (
        growth.bytes_per_session_hour,
        growth.messages_per_session_hour,
        growth.bytes_per_message,
    ) else {
        return card("Growth", "–", "per session-hour", &history);
    };
    let planned = report
        .planned
        .iter()
        .find(|row| row.name == "bytes_per_session_hour");
    let ratio = planned
        .and_then(|row| row.ratio)
        .map_or_else(String::new, |ratio| {
            format!(", {} the plan", times(ratio).replace(" x", "×"))
        });
    let rest = format!(
        "<p>{} messages of {} an hour{ratio}.</p>{history}",
        three_digits(messages),
        rounded_bytes(size),
    );
    card(
        "Growth",
        &rounded_bytes(per_hour),
        "per session-hour",
        &rest,
    )
}

/// What is recorded, and in how much active time as far as it has any.
fn history(report: &CapacityReport) -> String {
    let active_hours = report.growth.active_hours;
    let untimed = untimed(report);
    let timed_bytes = report.raw_bytes.saturating_sub(report.untimed.raw_bytes);
    let of_it = match untimed {
        Some(_) => format!(", {} of it", bytes(timed_bytes)),
        None => String::new(),
    };
    let active = if active_hours > 0.0 {
        format!("{of_it} in {} of active time", hours(active_hours))
    } else {
        String::new()
    };
    let untimed = untimed.map_or_else(String::new, |told| format!("; {told}"));
    format!(
        "<p>{}, {}, {} recorded{active}{untimed}.</p>",
        counted(report.sessions, "session"),
        counted(report.messages, "message"),
        bytes(report.raw_bytes),
    )
}

fn limit(report: &CapacityReport) -> String {
    const TITLE: &str = "Limit reached";
    let room = |session_hours: Option<f64>| match session_hours {
        None => String::new(),
        Some(room) if room > 0.0 => {
            format!("<p>There is room for {} more of sessions.</p>", hours(room))
        }
        Some(_) => "<p>There is no room for more.</p>".into(),
    };
    match &report.forecast {
        Forecast::NotEnoughHistory {
            days_min,
            session_hours_with_compaction,
            ..
        } => {
            let rest = format!(
                "<p>A date takes {days_min} whole days of history.</p>{}",
                room(*session_hours_with_compaction)
            );
            card(TITLE, "–", "", &rest)
        }
        Forecast::Projected {
            with_compaction,
            without_compaction,
            ..
        } => {
            let (with, without) = (with_compaction.limit, without_compaction.limit);
            let (value, unit) = match with.likely {
                When::At { unix_ms, days } => (days_ahead(days), date(unix_ms)),
                When::Reached => ("now".into(), String::new()),
                When::Beyond => ("in over 10 years".into(), String::new()),
                When::Never => ("never".into(), "at this pace".into()),
            };
            let rest = format!(
                "<p>With compaction; without it: {}.</p>{}",
                when(without.likely),
                room(with.session_hours)
            );
            card(TITLE, &value, &unit, &rest)
        }
    }
}
