//! The report as text of at most 80 columns.

mod forecast;

use super::build::is_mostly_empty;
use super::{CapacityReport, PlannedRow, SessionRow, Unit};
use crate::capacity::forecast::When;
use crate::capacity::text::{
    bytes, count, date, date_time, elide_middle, fit, fit_end, hours, percent, three_digits,
    used_percent,
};

/// Message types, sessions and projects that a table shows before it sums up the rest.
const ROWS_MAX: usize = 8;
const SESSIONS_MAX: usize = 5;
const RUNS_MAX: usize = 5;
const METER_CELLS: usize = 20;
/// The first column of a table.
const LABEL_CELLS: usize = 40;

/// The report as text, lines ending with a newline.
#[must_use]
pub fn text(report: &CapacityReport) -> String {
    let mut out = Lines::default();
    size(&mut out, report);
    growth(&mut out, report);
    forecast::forecast(&mut out, report);
    types(&mut out, report);
    sessions(&mut out, "Biggest sessions", &report.biggest_sessions);
    sessions(
        &mut out,
        "Fastest-growing sessions",
        &report.fastest_sessions,
    );
    projects(&mut out, report);
    runs(&mut out, report);
    out.0
}

/// The main lines of the report: size, footprint, pace, what lies ahead, biggest sessions.
#[must_use]
pub fn main_points(report: &CapacityReport) -> String {
    let mut out = Lines::default();
    limit(&mut out, report);
    footprint(&mut out, report);
    let paces = report
        .planned
        .iter()
        .filter(|row| row.name == "bytes_per_session_hour");
    for pace in paces {
        if let (Some(measured), Some(ratio)) = (pace.measured, pace.ratio) {
            out.line(&format!(
                "Growth      {} a session-hour, {} the plan's {}",
                figure(pace, measured),
                times(ratio),
                figure(pace, pace.planned)
            ));
        }
    }
    forecast::main_points(&mut out, report);
    for (place, session) in report.biggest_sessions.iter().take(3).enumerate() {
        out.line(&format!(
            "{:<11} {}, {} in {}",
            if place == 0 { "Biggest" } else { "" },
            elide_middle(session_label(session), LABEL_CELLS),
            bytes(session.raw_bytes),
            bytes(session.stored_bytes)
        ));
    }
    out.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn section(&mut self, line: &str) {
        self.0.push('\n');
        self.line(line);
    }
}

fn size(out: &mut Lines, report: &CapacityReport) {
    out.line(&format!("Database    {}", fit_end(&report.database, 68)));
    limit(out, report);
    out.line(&format!(
        "            file {}, of which {} are free for new messages; log {}",
        bytes(report.database_bytes),
        bytes(report.free_bytes),
        bytes(report.wal_bytes)
    ));
    out.line(&format!(
        "History     {}, {}, {}",
        counted(report.sessions, "session"),
        counted(report.messages, "message"),
        bytes(report.raw_bytes)
    ));
    footprint(out, report);
}

fn limit(out: &mut Lines, report: &CapacityReport) {
    out.line(&format!(
        "Size        {} of {} ({}) {} {}",
        bytes(report.used_bytes()),
        bytes(report.limit_bytes),
        used_percent(report.used_bytes(), report.limit_bytes),
        meter(report.used_fraction),
        report.level.shown()
    ));
    if let Some(free) = report.disk_short_of_limit() {
        let free = bytes(free);
        out.line(&format!(
            "            {free} free on its disk, which is full before the limit is reached"
        ));
    }
    if report.used_bytes() >= report.limit_bytes {
        out.line("            free pages and a log of usual size do not count against the limit");
    }
}

fn footprint(out: &mut Lines, report: &CapacityReport) {
    let Some(footprint) = report.footprint else {
        out.line("Footprint   nothing is recorded yet");
        return;
    };
    if is_mostly_empty(report.footprint, report.uncompacted_bytes) {
        out.line("Footprint   tells nothing yet: an empty database takes about 100 KB as well");
        return;
    }
    let verdict = if footprint <= report.footprint_target {
        "within"
    } else {
        "over"
    };
    out.line(&format!(
        "Footprint   {} of the {} it takes uncompacted; {verdict} the plan's {}",
        percent(footprint),
        bytes(report.uncompacted_bytes),
        percent(report.footprint_target)
    ));
    let more = if report.compactable_bytes > 0 {
        format!(
            "; compaction would save {} more{}",
            bytes(report.compactable_bytes),
            report.by_the_plan()
        )
    } else {
        String::new()
    };
    out.line(&format!(
        "            {} saved{more}",
        bytes(report.saved_bytes)
    ));
}

/// A bar with marks where the levels begin.
fn meter(fraction: f64) -> String {
    let thresholds = crate::capacity::levels::Metric::SqliteSize.thresholds();
    let cell = |share: f64| ((share * METER_CELLS as f64).round() as usize).min(METER_CELLS);
    let marks = [thresholds.warning_percent, thresholds.critical_percent]
        .map(|percent| cell(f64::from(percent) / 100.0));
    let filled = cell(fraction.max(0.0));
    let cells: String = (0..METER_CELLS)
        .map(|at| match at {
            at if at < filled => '#',
            at if marks.contains(&at) => '|',
            _ => '.',
        })
        .collect();
    format!("[{cells}]")
}

fn growth(out: &mut Lines, report: &CapacityReport) {
    if report.messages == 0 {
        return;
    }
    out.section(&row("Growth", ["measured", "plan", "of plan"]));
    for planned in &report.planned {
        let measured = planned
            .measured
            .map_or_else(unknown, |value| figure(planned, value));
        let ratio = planned.ratio.map_or_else(unknown, times);
        let plan = figure(planned, planned.planned);
        out.line(&row(
            &format!("  {}", planned.label),
            [&measured, &plan, &ratio],
        ));
    }
    if report.growth.active_hours > 0.0 {
        out.line(&format!(
            "  over {} of active time ({} between first and last messages)",
            hours(report.growth.active_hours),
            hours(report.growth.wall_hours)
        ));
        out.line("  measured of all sessions together; the plan's days and months are of one");
    }
    if let Some(until) = planned_until(report) {
        out.line(&format!("  {until}"));
    }
    if let Some(untimed) = untimed(report) {
        out.line(&format!("  {untimed}"));
    }
}

/// Which days the figures by the day and month are of; `None` when they are those of the forecast.
pub(super) fn planned_until(report: &CapacityReport) -> Option<String> {
    let until = date(report.planned_until_ms()?);
    Some(match report.measured("workdays_per_month") {
        Some(_) => format!("days and months: the four weeks to {until}, the last full day of use"),
        None => format!("days: those up to {until}, the last full day of use"),
    })
}

/// Which sessions are in no figure by the hour; `None` when all are.
pub(super) fn untimed(report: &CapacityReport) -> Option<String> {
    let untimed = &report.untimed;
    let which = match untimed.sessions {
        0 => return None,
        all if all == report.sessions => "any session".to_owned(),
        some => counted(some, "session"),
    };
    let bytes = bytes(untimed.raw_bytes);
    Some(format!(
        "no time between lines in {which} ({bytes}): left out by the hour"
    ))
}

/// Which hours are not in the forecast; `None` when all are.
pub(super) fn ignored(report: &CapacityReport) -> Option<String> {
    let ignored = report.forecast.ignored_hours();
    (ignored > 0).then(|| {
        let hours = counted(ignored as u64, "hour");
        format!("{hours} of growth left out: later than now or before 2020")
    })
}

fn row(label: &str, cells: [&str; 3]) -> String {
    let [first, second, third] = cells;
    let label = fit(label, LABEL_CELLS);
    format!("{label} {first:>12} {second:>12} {third:>12}")
}

/// A planned or measured value in its unit.
pub(super) fn figure(row: &PlannedRow, value: f64) -> String {
    match row.unit {
        Unit::Bytes => rounded_bytes(value),
        Unit::Fraction => percent(value),
        Unit::Count => three_digits(value),
    }
}

pub(super) fn rounded_bytes(value: f64) -> String {
    bytes(value.round().max(0.0) as u64)
}

fn unknown() -> String {
    "-".into()
}

pub(super) fn counted(number: u64, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", count(number))
}

/// A moment in a few characters.
pub(super) fn when(when: When) -> String {
    match when {
        When::Reached => "reached".into(),
        When::At { unix_ms, .. } => date(unix_ms),
        When::Beyond => "over 10 years".into(),
        When::Never => "never".into(),
    }
}

/// Session-hours that there is room for.
pub(super) fn room(session_hours: Option<f64>) -> String {
    match session_hours {
        None => unknown(),
        Some(room) if room > 0.0 => hours(room),
        Some(_) => "none".into(),
    }
}

/// How many times as much: `2.54 x`.
pub(super) fn times(ratio: f64) -> String {
    format!("{} x", three_digits(ratio))
}

fn types(out: &mut Lines, report: &CapacityReport) {
    if report.by_type.is_empty() {
        return;
    }
    out.section(&row("By message type", ["messages", "bytes", "share"]));
    let shown = report.by_type.len().min(ROWS_MAX);
    let (head, rest) = report.by_type.split_at(shown);
    for kind in head {
        let cells = [
            count(kind.messages),
            bytes(kind.raw_bytes),
            percent(kind.share),
        ];
        out.line(&row(
            &format!("  {}", kind.message_type),
            cells.each_ref().map(String::as_str),
        ));
    }
    if !rest.is_empty() {
        let cells = [
            count(rest.iter().map(|kind| kind.messages).sum()),
            bytes(rest.iter().map(|kind| kind.raw_bytes).sum()),
            percent(rest.iter().map(|kind| kind.share).sum()),
        ];
        let label = format!("  {} more", rest.len());
        out.line(&row(&label, cells.each_ref().map(String::as_str)));
    }
}

fn sessions(out: &mut Lines, title: &str, sessions: &[SessionRow]) {
    if sessions.is_empty() {
        return;
    }
    out.section(&row(title, ["recorded", "stored", "per hour"]));
    for session in sessions.iter().take(SESSIONS_MAX) {
        let per_hour = session
            .bytes_per_session_hour
            .map_or_else(unknown, rounded_bytes);
        let cells = [
            bytes(session.raw_bytes),
            bytes(session.stored_bytes),
            per_hour,
        ];
        let label = format!(
            "  {}",
            elide_middle(session_label(session), LABEL_CELLS - 2)
        );
        out.line(&row(&label, cells.each_ref().map(String::as_str)));
    }
}

/// The session's name, else its id.
pub(super) fn session_label(session: &SessionRow) -> &str {
    if session.name.trim().is_empty() {
        &session.session_id
    } else {
        &session.name
    }
}

/// The directory, or words for sessions that name none.
pub(super) fn project_label(working_directory: &str) -> &str {
    if working_directory.is_empty() {
        "(no directory)"
    } else {
        working_directory
    }
}

fn projects(out: &mut Lines, report: &CapacityReport) {
    if report.projects.is_empty() {
        return;
    }
    out.section(&row("Projects", ["sessions", "recorded", "stored"]));
    for project in report.projects.iter().take(SESSIONS_MAX) {
        let cells = [
            count(project.sessions),
            bytes(project.raw_bytes),
            bytes(project.stored_bytes),
        ];
        let label = format!(
            "  {}",
            fit_end(project_label(&project.working_directory), LABEL_CELLS - 2)
        );
        out.line(&row(&label, cells.each_ref().map(String::as_str)));
    }
    let shown = report.projects.len().min(SESSIONS_MAX) as u64;
    if report.projects_total > shown {
        out.line(&format!(
            "  and {} more",
            count(report.projects_total - shown)
        ));
    }
}

fn runs(out: &mut Lines, report: &CapacityReport) {
    if report.compaction_runs.is_empty() {
        return;
    }
    out.section("Last compactions (UTC)");
    for run in report.compaction_runs.iter().take(RUNS_MAX) {
        out.line(&format!(
            "  {}  {} {:>9} -> {:>9} {:>9}  {}",
            date_time(run.started_ms),
            fit(&run.tier, 6),
            bytes(run.bytes_before),
            bytes(run.bytes_after),
            format!("{} s", three_digits(run.seconds)),
            fit(&format!("{}, {}", run.trigger, run.outcome.name()), 18),
        ));
    }
}
