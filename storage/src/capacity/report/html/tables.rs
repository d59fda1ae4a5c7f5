//! The page's tables: plan against measured, types, sessions, projects, compaction.

use std::fmt::Write;

use super::markup::{TABLE_END, bar, bars, cell, css_percent, esc, path, table_start};
use crate::capacity::report::text::{
    figure, planned_until, project_label, rounded_bytes, session_label, times,
};
use crate::capacity::report::{CapacityReport, SessionRow};
use crate::capacity::text::{
    bytes, count, date, date_time, elide_middle, hours, percent, three_digits,
};

/// Message types shown; the rest is summed up.
const TYPES_MAX: usize = 8;
const RUNS_MAX: usize = 10;
/// Columns of a name: about two lines of the page.
const NAME_CELLS_MAX: usize = 56;
/// Fastest-growing sessions and projects shown.
const ROWS_MAX: usize = 8;

fn section(title: &str, note: &str, table: &str) -> String {
    format!("<section><h2>{title}</h2><p class=\"note\">{note}</p>\n{table}</section>\n")
}

fn row_head(name: &str, below: &str) -> String {
    let below = if below.is_empty() {
        String::new()
    } else {
        elided("small", below)
    };
    format!(
        "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\" class=\"name\">{}{below}</th>",
        elided("span", name)
    )
}

/// A name or path of which the middle is left out when it is long; all of it is its title.
fn elided(tag: &str, text: &str) -> String {
    format!(
        "<{tag} class=\"clamp\" title=\"{}\">{}</{tag}>",
        esc(text),
        path(&elide_middle(text, NAME_CELLS_MAX))
    )
}

fn drawing(markup: &str) -> String {
    format!("<td role=\"cell\" class=\"draw\">{markup}</td>")
}

/// The plan's constants beside what was measured.
pub(super) fn planned(report: &CapacityReport) -> String {
    let mut out = table_start(
        "stack",
        "The plan's constants and what was measured",
        &[
            ("", "Constant"),
            ("", "Plan"),
            ("", "Measured"),
            ("", "Ratio"),
            ("draw", "of the plan"),
        ],
    );
    for row in &report.planned {
        let measured = row
            .measured
            .map_or_else(|| "–".into(), |value| figure(row, value));
        let ratio = row
            .ratio
            .map_or_else(|| "–".into(), |r| times(r).replace(" x", "×"));
        let _ = writeln!(
            out,
            "{}{}{}{}{}</tr>",
            row_head(row.label, ""),
            cell("Plan", &figure(row, row.planned)),
            cell("Measured", &measured),
            cell("Ratio", &ratio),
            drawing(&row.ratio.map_or_else(String::new, against))
        );
    }
    out.push_str(TABLE_END);
    let mut note =
        "The line in the middle is the plan; each side is a factor of up to 16.".to_owned();
    if let Some(until) = planned_until(report) {
        let _ = write!(note, " {until}.");
    }
    section("Plan against measured", &note, &out)
}

/// A dot left or right of the plan, by the logarithm of the ratio.
fn against(ratio: f64) -> String {
    const FACTOR_MAX: f64 = 16.0;
    let at = 0.5 + (ratio.max(1e-9).log(FACTOR_MAX) / 2.0).clamp(-0.5, 0.5);
    let (left, width) = if at < 0.5 {
        (at, 0.5 - at)
    } else {
        (0.5, at - 0.5)
    };
    format!(
        "<span class=\"against\" aria-hidden=\"true\"><i class=\"line\" style=\"left:{};width:{}\">\
         </i><i class=\"mid\"></i><i class=\"dot\" style=\"left:{}\"></i></span>",
        css_percent(left),
        css_percent(width),
        css_percent(at)
    )
}

/// Growth by message type.
pub(super) fn types(report: &CapacityReport) -> String {
    if report.by_type.is_empty() {
        return String::new();
    }
    let mut out = table_start(
        "stack",
        "Growth by message type",
        &[
            ("", "Type"),
            ("draw", ""),
            ("", "Recorded"),
            ("", "Share"),
            ("", "Per hour"),
            ("", "Messages"),
        ],
    );
    let per_hour = |share: f64| {
        let all = report.growth.bytes_per_session_hour;
        all.map_or_else(|| "–".to_owned(), |all| rounded_bytes(all * share))
    };
    let most = report
        .by_type
        .iter()
        .map(|kind| kind.share)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut row = |name: &str, messages: u64, raw: u64, share: f64| {
        let _ = writeln!(
            out,
            "{}{}{}{}{}{}</tr>",
            row_head(name, ""),
            drawing(&bar(share / most)),
            cell("Recorded", &bytes(raw)),
            cell("Share", &percent(share)),
            cell("Per hour", &per_hour(share)),
            cell("Messages", &count(messages)),
        );
    };
    let (head, rest) = report.by_type.split_at(report.by_type.len().min(TYPES_MAX));
    for kind in head {
        row(
            &kind.message_type,
            kind.messages,
            kind.raw_bytes,
            kind.share,
        );
    }
    if !rest.is_empty() {
        row(
            &format!("{} more", rest.len()),
            rest.iter().map(|kind| kind.messages).sum(),
            rest.iter().map(|kind| kind.raw_bytes).sum(),
            rest.iter().map(|kind| kind.share).sum(),
        );
    }
    out.push_str(TABLE_END);
    section(
        "By message type",
        "What the recorded bytes are made of.",
        &out,
    )
}

/// Sessions that take the most room: recorded as an outline, stored as a solid bar within it.
pub(super) fn biggest(report: &CapacityReport) -> String {
    if report.biggest_sessions.is_empty() {
        return String::new();
    }
    let most = report
        .biggest_sessions
        .iter()
        .map(|s| s.raw_bytes)
        .max()
        .unwrap_or(0)
        .max(1);
    let share = |bytes: u64| bytes as f64 / most as f64;
    let mut out = table_start(
        "stack",
        "Sessions by size",
        &[
            ("", "Session"),
            ("draw", ""),
            ("", "Recorded"),
            ("", "Stored"),
            ("", "Footprint"),
            ("", "Messages"),
            ("", "Active"),
            ("", "Last message"),
        ],
    );
    for session in &report.biggest_sessions {
        let _ = writeln!(
            out,
            "{}{}{}{}{}{}{}{}</tr>",
            session_head(session),
            drawing(&bars(share(session.raw_bytes), share(session.stored_bytes))),
            cell("Recorded", &bytes(session.raw_bytes)),
            cell("Stored", &bytes(session.stored_bytes)),
            cell(
                "Footprint",
                &session.footprint.map_or_else(|| "–".into(), percent)
            ),
            cell("Messages", &count(session.messages)),
            cell("Active", &hours(session.active_hours)),
            cell(
                "Last message",
                &session.last_time_ms.map_or_else(|| "–".into(), date)
            ),
        );
    }
    out.push_str(TABLE_END);
    let note = format!(
        "The biggest of {} by what they take in the database. Outlined: recorded; solid: stored.",
        count(report.sessions)
    );
    section("Sessions by size", &note, &out)
}

fn session_head(session: &SessionRow) -> String {
    row_head(session_label(session), &session.working_directory)
}

/// Sessions that grow fastest while in use.
pub(super) fn fastest(report: &CapacityReport) -> String {
    if report.fastest_sessions.is_empty() {
        return String::new();
    }
    let pace = |session: &SessionRow| session.bytes_per_session_hour.unwrap_or(0.0);
    let most = report.fastest_sessions.iter().map(pace).fold(1.0, f64::max);
    let mut out = table_start(
        "stack",
        "Fastest-growing sessions",
        &[
            ("", "Session"),
            ("draw", ""),
            ("", "Per hour"),
            ("", "Active"),
            ("", "Recorded"),
        ],
    );
    for session in report.fastest_sessions.iter().take(ROWS_MAX) {
        let _ = writeln!(
            out,
            "{}{}{}{}{}</tr>",
            session_head(session),
            drawing(&bar(pace(session) / most)),
            cell("Per hour", &rounded_bytes(pace(session))),
            cell("Active", &hours(session.active_hours)),
            cell("Recorded", &bytes(session.raw_bytes)),
        );
    }
    out.push_str(TABLE_END);
    let note = "Bytes recorded in an active hour, of sessions in use for six minutes or more.";
    section("Fastest-growing sessions", note, &out)
}

/// Sessions by working directory.
pub(super) fn projects(report: &CapacityReport) -> String {
    if report.projects.is_empty() {
        return String::new();
    }
    let most = report
        .projects
        .iter()
        .map(|p| p.raw_bytes)
        .max()
        .unwrap_or(0)
        .max(1);
    let share = |bytes: u64| bytes as f64 / most as f64;
    let mut out = table_start(
        "stack",
        "Projects by size",
        &[
            ("", "Directory"),
            ("draw", ""),
            ("", "Recorded"),
            ("", "Stored"),
            ("", "Sessions"),
        ],
    );
    for project in report.projects.iter().take(ROWS_MAX) {
        let _ = writeln!(
            out,
            "{}{}{}{}{}</tr>",
            row_head(project_label(&project.working_directory), ""),
            drawing(&bars(share(project.raw_bytes), share(project.stored_bytes))),
            cell("Recorded", &bytes(project.raw_bytes)),
            cell("Stored", &bytes(project.stored_bytes)),
            cell("Sessions", &count(project.sessions)),
        );
    }
    out.push_str(TABLE_END);
    let note = format!(
        "Sessions by working directory, {} in all. Outlined: recorded; solid: stored.",
        count(report.projects_total)
    );
    section("Projects", &note, &out)
}

/// The last runs of compaction.
pub(super) fn runs(report: &CapacityReport) -> String {
    if report.compaction_runs.is_empty() {
        return section("Compaction", "Compaction has not run yet.", "");
    }
    let most = report
        .compaction_runs
        .iter()
        .map(|run| run.bytes_before.max(run.bytes_after))
        .max()
        .unwrap_or(0)
        .max(1);
    let share = |bytes: u64| bytes as f64 / most as f64;
    let mut out = table_start(
        "stack",
        "Runs of compaction",
        &[
            ("", "Run"),
            ("draw", ""),
            ("", "Before"),
            ("", "After"),
            ("", "Messages"),
            ("", "Took"),
            ("text", "Outcome"),
        ],
    );
    for run in report.compaction_runs.iter().take(RUNS_MAX) {
        let kind = format!("{}, {}", run.tier, run.trigger);
        let outcome = if run.detail.is_empty() {
            esc(run.outcome.name())
        } else {
            format!(
                "{}<br><small class=\"note\">{}</small>",
                esc(run.outcome.name()),
                esc(&run.detail)
            )
        };
        let _ = writeln!(
            out,
            "{}{}{}{}{}{}<td role=\"cell\" class=\"text name\" data-label=\"Outcome\">{outcome}</td></tr>",
            row_head(&date_time(run.started_ms), &kind),
            drawing(&bars(share(run.bytes_before), share(run.bytes_after))),
            cell("Before", &bytes(run.bytes_before)),
            cell("After", &bytes(run.bytes_after)),
            cell("Messages", &count(run.messages)),
            cell("Took", &format!("{} s", three_digits(run.seconds))),
        );
    }
    out.push_str(TABLE_END);
    let note = "The last runs, newest first. Outlined: size before; solid: size after.";
    section("Compaction", note, &out)
}
