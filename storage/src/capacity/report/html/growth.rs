//! The growth curve: all history recorded, and what each day or week added.

use std::fmt::Write;

use super::markup::{TABLE_END, cell, table_start};
use super::plot::Plot;
use super::scale::{day_marks, round_steps};
use crate::capacity::report::{CapacityReport, DayRow};
use crate::capacity::text::{DAY_MS, bytes, count, date, hours, round_bytes};

/// Days shown one bar each; more are shown by week …
const DAILY_BARS_MAX: i64 = 120;
/// … and more than these by four weeks.
const WEEKLY_BARS_DAYS_MAX: i64 = 840;
const X_MARKS: i64 = 5;

/// The section.
pub(super) fn section(report: &CapacityReport) -> String {
    let Some(span) = Span::of(report) else {
        return "<section><h2>Growth</h2><p class=\"note\">Nothing is recorded yet.</p></section>\n"
            .into();
    };
    let bars = bars(report, &span);
    format!(
        "<section><h2>Growth</h2><p class=\"note\">{}</p>\n<div class=\"plot\">{}{bars}</div>\n{}\
         </section>\n",
        note(report, &span),
        curve(report, &span),
        months(report),
    )
}

/// The days that the charts show.
struct Span {
    first_ms: i64,
    end_ms: i64,
    bar_days: i64,
    /// The last day with growth, when the charts end there because nothing came for long.
    idle_since_ms: Option<i64>,
}

impl Span {
    fn of(report: &CapacityReport) -> Option<Self> {
        let first_ms = report.by_day.first()?.day_ms;
        let last_ms = report.by_day.last()?.day_ms;
        let today_ms = report.generated_ms.div_euclid(DAY_MS) * DAY_MS;
        let idle = today_ms - last_ms > ((last_ms - first_ms) / 2).max(7 * DAY_MS);
        let end_ms = if idle { last_ms } else { today_ms.max(last_ms) } + DAY_MS;
        let days = (end_ms - first_ms) / DAY_MS;
        Some(Self {
            first_ms,
            end_ms,
            bar_days: if days <= DAILY_BARS_MAX {
                1
            } else if days <= WEEKLY_BARS_DAYS_MAX {
                7
            } else {
                28
            },
            idle_since_ms: idle.then_some(last_ms),
        })
    }

    fn unit(&self) -> &'static str {
        match self.bar_days {
            1 => "day",
            7 => "week",
            _ => "four weeks",
        }
    }

    /// Where a time stands, as a share of the charts' width.
    fn at(&self, ms: i64) -> f64 {
        (ms - self.first_ms) as f64 / (self.end_ms - self.first_ms) as f64
    }
}

fn note(report: &CapacityReport, span: &Span) -> String {
    let mut note = format!(
        "All that was recorded, before compaction, and what each {} added.",
        span.unit()
    );
    if let Some(idle_ms) = span.idle_since_ms {
        let _ = write!(note, " Nothing was recorded after {}.", date(idle_ms));
    }
    if report.earlier_raw_bytes > 0 {
        let _ = write!(
            note,
            " {} are older than shown.",
            bytes(report.earlier_raw_bytes)
        );
    }
    if report.later_raw_bytes > 0 {
        let later = bytes(report.later_raw_bytes);
        let _ = write!(note, " {later} carry times in the future and are left out.");
    }
    note
}

fn curve(report: &CapacityReport, span: &Span) -> String {
    let added: u64 = report.by_day.iter().map(|day| day.raw_bytes).sum();
    let total = report.earlier_raw_bytes.saturating_add(added);
    let (top, steps) = round_steps(total as f64, 4.0);
    let title = format!(
        "Growth curve: {} recorded by {}, {} of them since {}.",
        bytes(total),
        date(span.end_ms - DAY_MS),
        bytes(added),
        date(span.first_ms)
    );
    let mut plot = Plot::new("tall curve", &title);
    for step in steps {
        let class = if step > 0.0 { "grid" } else { "base" };
        plot.y_mark(step / top, class, &round_bytes(step as u64));
    }
    let mut sum = report.earlier_raw_bytes as f64;
    let mut points = vec![(0.0, sum / top)];
    for day in &report.by_day {
        points.push((span.at(day.day_ms), sum / top));
        sum += day.raw_bytes as f64;
        points.push((span.at(day.day_ms + DAY_MS), sum / top));
    }
    points.push((1.0, sum / top));
    let ground = [&[(0.0, 0.0)], points.as_slice(), &[(1.0, 0.0)]].concat();
    plot.area("main-band", &ground);
    plot.line("main", &points);
    plot.finish()
}

fn bars(report: &CapacityReport, span: &Span) -> String {
    let bar_ms = span.bar_days * DAY_MS;
    let index = |day: &DayRow| (day.day_ms - span.first_ms) / bar_ms;
    let mut sums: Vec<(i64, u64)> = Vec::new();
    for day in &report.by_day {
        match sums.last_mut() {
            Some((last, sum)) if *last == index(day) => *sum += day.raw_bytes,
            _ => sums.push((index(day), day.raw_bytes)),
        }
    }
    let most = sums.iter().map(|(_, sum)| *sum).max().unwrap_or(0);
    let (top, steps) = round_steps(most as f64, 3.0);
    let title = format!("Growth: at most {} in one {}.", bytes(most), span.unit());
    let mut plot = Plot::new("low", &title);
    for step in steps {
        let class = if step > 0.0 { "grid" } else { "base" };
        plot.y_mark(step / top, class, &round_bytes(step as u64));
    }
    for (index, sum) in sums {
        let start_ms = span.first_ms + index * bar_ms;
        let width = bar_ms as f64 / (span.end_ms - span.first_ms) as f64;
        let title = format!("{}: {}", date(start_ms), bytes(sum));
        let left = span.at(start_ms);
        // A gap between bars; the last one may not run over the edge.
        let width = (width * 0.84).min(1.0 - left);
        plot.bar(left, width, sum as f64 / top, &title);
    }
    let marks: Vec<(f64, String)> = day_marks(span.first_ms, span.end_ms - DAY_MS, X_MARKS)
        .into_iter()
        .map(|(ms, name)| (span.at(ms), name))
        .collect();
    plot.x_marks(&marks);
    plot.finish()
}

/// The charts' figures by month.
fn months(report: &CapacityReport) -> String {
    let mut rows: Vec<(String, DayRow)> = Vec::new();
    for day in &report.by_day {
        let month: String = date(day.day_ms).chars().take(7).collect();
        match rows.last_mut() {
            Some((last, sum)) if *last == month => {
                sum.messages += day.messages;
                sum.raw_bytes += day.raw_bytes;
                sum.active_ms += day.active_ms;
            }
            _ => rows.push((month, *day)),
        }
    }
    let mut out = String::from("<details><summary>By month, as a table</summary>");
    out.push_str(&table_start(
        "stack",
        "Growth by month",
        &[
            ("", "Month"),
            ("", "Messages"),
            ("", "Recorded"),
            ("", "Active time"),
        ],
    ));
    for (month, sum) in rows.iter().rev() {
        let active = hours(sum.active_ms as f64 / 3_600_000.0);
        let _ = writeln!(
            out,
            "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\" class=\"name\">{month}</th>{}{}{}</tr>",
            cell("Messages", &count(sum.messages)),
            cell("Recorded", &bytes(sum.raw_bytes)),
            cell("Active time", &active),
        );
    }
    out.push_str(TABLE_END);
    out.push_str("</details>\n");
    out
}
