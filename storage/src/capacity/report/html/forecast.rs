//! The forecast against the limit, with and without compaction.

use std::fmt::Write;

use super::markup::{TABLE_END, cell, table_start};
use super::plot::{Plot, Side};
use super::scale::day_marks;
use crate::capacity::forecast::{Forecast, Projection, Reach, When};
use crate::capacity::report::CapacityReport;
use crate::capacity::report::text::{self, ignored, rounded_bytes, when};
use crate::capacity::text::{DAY_MS, bytes, date, days_ahead, hours};

const DAYS_SHOWN_MIN: f64 = 30.0;
const DAYS_SHOWN_MAX: f64 = 1100.0;
/// Days shown when no date is near enough to be shown.
const DAYS_SHOWN_DEFAULT: f64 = 365.0;

/// The section.
pub(super) fn section(report: &CapacityReport) -> String {
    let body = match &report.forecast {
        Forecast::NotEnoughHistory {
            days,
            days_min,
            session_hours_with_compaction,
            ..
        } => {
            let room = session_hours_with_compaction.map_or_else(String::new, |room| {
                format!(
                    " At the growth measured so far there is room for {} of sessions, \
                         compacted.",
                    hours(room)
                )
            });
            format!(
                "<p class=\"note\">A date takes {days_min} whole days of history; there are {days}.\
                 {room}</p>"
            )
        }
        Forecast::Projected {
            window_days,
            days_used,
            daily_raw_bytes,
            without_compaction: without,
            with_compaction: with,
            ..
        } => {
            let note = format!(
                "<p class=\"note\">At the pace of the {window_days} days to today, {days_used} of them \
                 in use: usually {} a day before compaction, {} in quiet weeks, {} in busy ones.</p>\n",
                rounded_bytes(daily_raw_bytes.median),
                rounded_bytes(daily_raw_bytes.low),
                rounded_bytes(daily_raw_bytes.high),
            );
            format!(
                "{note}{}{}",
                chart(report, without, with),
                dates(without, with)
            )
        }
    };
    let ignored =
        ignored(report).map_or_else(String::new, |told| format!("<p class=\"note\">{told}</p>"));
    format!("<section><h2>Forecast</h2>{body}{ignored}</section>\n")
}

fn days_until(when: When) -> Option<f64> {
    match when {
        When::At { days, .. } => Some(days),
        _ => None,
    }
}

fn days_shown(without: &Projection, with: &Projection) -> f64 {
    let near = |reach: &Reach| days_until(reach.likely).filter(|days| *days * 1.2 < DAYS_SHOWN_MAX);
    let wanted = [
        near(&without.limit).map(|days| days * 1.6),
        near(&with.limit).map(|d| d * 1.2),
    ];
    wanted
        .into_iter()
        .flatten()
        .reduce(f64::max)
        .or_else(|| days_until(without.limit.earliest).map(|days| days * 1.5))
        .unwrap_or(DAYS_SHOWN_DEFAULT)
        .clamp(DAYS_SHOWN_MIN, DAYS_SHOWN_MAX)
}

/// The size over time at one pace: up to the limit, where new messages are refused.
fn course(start: f64, daily: f64, limit: f64, days: f64) -> Vec<(f64, f64)> {
    let end = start + daily * days;
    if start >= limit || end <= limit {
        return vec![(0.0, start), (1.0, end.min(start.max(limit)))];
    }
    vec![
        (0.0, start),
        ((limit - start) / daily / days, limit),
        (1.0, limit),
    ]
}

fn chart(report: &CapacityReport, without: &Projection, with: &Projection) -> String {
    let days = days_shown(without, with);
    let limit = report.limit_bytes as f64;
    let top = limit.max(without.start_bytes as f64) * 1.16;
    let title = format!(
        "Size over the next {days:.0} days against the limit of {}. Without compaction the limit \
         is reached: {}; with compaction: {}.",
        bytes(report.limit_bytes),
        when(without.limit.likely),
        when(with.limit.likely)
    );
    let mut plot = Plot::new("tall", &title);
    plot.y_mark(0.0, "base", "0");
    for (name, reach) in with.reaches() {
        let at = reach.bytes as f64 / top;
        let class = if name == "limit" {
            "limit"
        } else {
            "threshold"
        };
        plot.y_mark(at, class, name);
    }
    for (class, band, projection) in [
        ("other", "other-band", without),
        ("main", "main-band", with),
    ] {
        let at = |daily: f64| {
            let points = course(projection.start_bytes as f64, daily, limit, days);
            points
                .into_iter()
                .map(|(x, y)| (x, y / top))
                .collect::<Vec<_>>()
        };
        let mut around = at(projection.daily_bytes.high);
        around.extend(at(projection.daily_bytes.low).into_iter().rev());
        plot.area(band, &around);
        plot.line(class, &at(projection.daily_bytes.median));
    }
    let place = |projection: &Projection| {
        days_until(projection.limit.likely)
            .map(|d| d / days)
            .filter(|at| *at <= 1.0)
    };
    let places = (place(without), place(with));
    let sides = match places {
        (Some(a), Some(b)) if (b - a).abs() < 0.3 => (Side::Left, Side::Right),
        _ => (Side::Middle, Side::Middle),
    };
    let mut mark = |class: &str, at: Option<f64>, reach: &Reach, side| {
        if let Some(at) = at {
            plot.dot(class, at, limit / top, &when(reach.likely), side);
        }
    };
    mark("other", places.0, &without.limit, sides.0);
    mark("main", places.1, &with.limit, sides.1);
    let end_ms = report
        .generated_ms
        .saturating_add((days * DAY_MS as f64) as i64);
    let at = |ms: i64| (ms - report.generated_ms) as f64 / (end_ms - report.generated_ms) as f64;
    let mut marks = vec![(0.0, "now".to_owned())];
    let named = day_marks(report.generated_ms, end_ms, 4);
    marks.extend(
        named
            .into_iter()
            .map(|(ms, name)| (at(ms), name))
            .filter(|(at, _)| *at > 0.12),
    );
    plot.x_marks(&marks);
    format!("<div class=\"plot\">{}{KEY}</div>\n", plot.finish())
}

/// What the lines are; the bands reach from quiet to busy weeks.
const KEY: &str = "<ul class=\"key\"><li><svg viewBox=\"0 0 28 12\" aria-hidden=\"true\">\
    <path class=\"other\" d=\"M0 6h28\"/></svg>without compaction (dashed)</li>\
    <li><svg viewBox=\"0 0 28 12\" aria-hidden=\"true\"><path class=\"main\" d=\"M0 6h28\"/></svg>\
    with compaction (solid)</li><li class=\"note\">shaded: quiet to busy weeks</li></ul>";

fn dates(without: &Projection, with: &Projection) -> String {
    let mut out = table_start(
        "stack two",
        "When the size reaches each level",
        &[
            ("", "Level"),
            ("", "Without compaction"),
            ("", "With compaction"),
        ],
    );
    let mut row = |name: &str, without: &str, with: &str| {
        let _ = writeln!(
            out,
            "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\" class=\"name\">{name}</th>{}{}</tr>",
            cell("Without compaction", without),
            cell("With compaction", with)
        );
    };
    for ((name, without), (_, with)) in without.reaches().into_iter().zip(with.reaches()) {
        let label = format!("{name} <small>{}</small>", bytes(with.bytes));
        row(&label, &likely(without), &likely(with));
    }
    let month = |p: &Projection| format!("{} in use", rounded_bytes(p.in_30_days_bytes.median));
    row("in 30 days", &month(without), &month(with));
    let room = |p: &Projection| text::room(p.end().session_hours);
    row("room for sessions", &room(without), &room(with));
    out.push_str(TABLE_END);
    out
}

/// The likely date, and the range below it.
fn likely(reach: &Reach) -> String {
    let first = match reach.likely {
        When::At { unix_ms, days } => format!("{}, {}", date(unix_ms), days_ahead(days)),
        other => when(other),
    };
    let (earliest, latest) = (when(reach.earliest), when(reach.latest));
    if earliest == latest {
        return first;
    }
    format!("{first}<br><small class=\"note\">{earliest} to {latest}</small>")
}
