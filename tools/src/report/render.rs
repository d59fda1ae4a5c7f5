//! The report as text, within 80 columns.

use super::Report;
use crate::output::format::{
    bytes, count, counted, cut, minute, percent, percent_of, seconds, three_figures,
};

/// Message types shown; the rest is summed up.
const TYPES_MAX: usize = 8;

/// The report's lines.
#[must_use]
pub fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    size(report, &mut lines);
    history(report, &mut lines);
    growth(report, &mut lines);
    types(report, &mut lines);
    sessions(report, &mut lines);
    runs(report, &mut lines);
    lines
}

fn size(report: &Report, lines: &mut Vec<String>) {
    let used = report.database_bytes + report.wal_bytes;
    lines.push(format!("Database    {}", report.database));
    lines.push(format!(
        "Size        {} of {} ({}): {}",
        bytes(used),
        bytes(report.limit_bytes),
        percent_of(report.used_fraction),
        match report.level {
            "warning" => "warning, 70 % of the limit is passed",
            "critical" => "CRITICAL, 90 % of the limit is passed",
            other => other,
        }
    ));
    lines.push(format!(
        "            file {} ({} of it free), write-ahead log {}",
        bytes(report.database_bytes),
        bytes(report.free_bytes),
        bytes(report.wal_bytes)
    ));
}

fn history(report: &Report, lines: &mut Vec<String>) {
    lines.push(format!(
        "History     {}, {}, {}",
        counted(report.sessions, "session"),
        counted(report.messages, "message"),
        bytes(report.raw_bytes)
    ));
    let Some(footprint) = report.footprint else {
        lines.push("            record some with `betcode-db import PATH`".to_owned());
        return;
    };
    let verdict = if footprint <= report.footprint_target {
        "within the plan's"
    } else if report.hot_bytes > report.raw_bytes / 10 {
        "compact to reach the plan's"
    } else {
        "over the plan's"
    };
    lines.push(format!(
        "Footprint   {} of the {} it takes uncompacted; {verdict} {:.0} %",
        percent_of(footprint),
        bytes(report.uncompacted_bytes),
        report.footprint_target * 100.0
    ));
    lines.push(format!(
        "            {} in {}; {} ({}) not compacted yet",
        bytes(report.segment_bytes),
        counted(report.segments, "segment"),
        counted(report.hot_messages, "message"),
        bytes(report.hot_bytes)
    ));
}

fn growth(report: &Report, lines: &mut Vec<String>) {
    let growth = &report.growth;
    let (Some(messages), Some(message_bytes), Some(hour_bytes)) = (
        growth.messages_per_session_hour,
        growth.bytes_per_message,
        growth.bytes_per_session_hour,
    ) else {
        return;
    };
    lines.push(String::new());
    lines.push(format!("{:<24} {:>12} {:>12}", "Growth", "here", "plan"));
    let mut row = |what: &str, here: String, plan: String| {
        lines.push(format!("  {what:<22} {here:>12} {plan:>12}"));
    };
    row(
        "messages/session-hour",
        if messages < 100.0 {
            three_figures(messages)
        } else {
            count(messages.round() as u64)
        },
        count(growth.plan.messages_per_session_hour),
    );
    row(
        "bytes/message",
        bytes(message_bytes as u64),
        bytes(growth.plan.bytes_per_message),
    );
    row(
        "bytes/session-hour",
        bytes(hour_bytes as u64),
        bytes(growth.plan.bytes_per_session_hour),
    );
    lines.push(format!(
        "  over {:.1} active hours ({:.1} between first and last message)",
        growth.active_hours, growth.wall_hours
    ));
}

fn types(report: &Report, lines: &mut Vec<String>) {
    if report.message_types.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<36} {:>10} {:>10} {:>8}",
        "By type", "messages", "bytes", "share"
    ));
    let mut row = |name: &str, messages: u64, raw: u64| {
        lines.push(format!(
            "  {:<34} {:>10} {:>10} {:>8}",
            cut(name, 34),
            count(messages),
            bytes(raw),
            percent(raw, report.raw_bytes)
        ));
    };
    for kind in report.message_types.iter().take(TYPES_MAX) {
        row(&kind.name, kind.messages, kind.raw_bytes);
    }
    let rest = report.message_types.get(TYPES_MAX..).unwrap_or_default();
    if !rest.is_empty() {
        let name = format!("({} more)", rest.len());
        row(
            &name,
            rest.iter().map(|t| t.messages).sum(),
            rest.iter().map(|t| t.raw_bytes).sum(),
        );
    }
}

fn sessions(report: &Report, lines: &mut Vec<String>) {
    if report.biggest_sessions.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<38} {:>9} {:>9} {:>9} {:>7}",
        "Biggest sessions", "messages", "bytes", "stored", ""
    ));
    for session in &report.biggest_sessions {
        let id = if session.session.len() > 36 {
            lines.push(format!("  {}", session.session));
            String::new()
        } else {
            session.session.clone()
        };
        lines.push(format!(
            "  {id:<36} {:>9} {:>9} {:>9} {:>7}",
            count(session.messages),
            bytes(session.raw_bytes),
            bytes(session.stored_bytes),
            percent(session.stored_bytes, session.raw_bytes)
        ));
    }
}

fn runs(report: &Report, lines: &mut Vec<String>) {
    if report.compaction_runs.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.push("Last compactions (UTC)".to_owned());
    for run in &report.compaction_runs {
        lines.push(format!(
            "  {}  {:<6} {:>9} → {:>9}  {:>11}  {}, {}",
            minute(run.started_ms),
            run.tier,
            bytes(run.bytes_before),
            bytes(run.bytes_after),
            seconds(run.milliseconds.max(0) as f64 / 1000.0),
            run.trigger,
            run.outcome
        ));
    }
}
