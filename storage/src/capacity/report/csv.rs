//! The report as CSV (RFC 4180): one long table, a figure a line, so that it can be appended to,
//! filtered and pivoted.

use std::fmt::Display;

use super::{CapacityReport, SessionRow};
use crate::capacity::forecast::{Forecast, Projection, When};
use crate::capacity::text::{date, harmless};

/// `section,name,field,value`, sizes in bytes, times in Unix milliseconds, unknown values empty.
#[must_use]
pub fn csv(report: &CapacityReport) -> String {
    let mut out = Table("section,name,field,value\r\n".into());
    store(&mut out, report);
    for row in &report.planned {
        out.add("planned", row.name, "planned", row.planned);
        out.known("planned", row.name, "measured", row.measured);
    }
    for row in &report.by_type {
        out.add("message_type", &row.message_type, "messages", row.messages);
        out.add(
            "message_type",
            &row.message_type,
            "raw_bytes",
            row.raw_bytes,
        );
        if let Some(per_hour) = row.bytes_per_session_hour {
            let field = "bytes_per_session_hour";
            out.add("message_type", &row.message_type, field, per_hour);
        }
    }
    for row in &report.by_day {
        let day = date(row.day_ms);
        out.add("day", &day, "messages", row.messages);
        out.add("day", &day, "raw_bytes", row.raw_bytes);
        out.add("day", &day, "active_ms", row.active_ms);
    }
    forecast(&mut out, &report.forecast);
    sessions(&mut out, "biggest_session", &report.biggest_sessions);
    sessions(&mut out, "fastest_session", &report.fastest_sessions);
    for row in &report.projects {
        let name = &row.working_directory;
        out.add("project", name, "sessions", row.sessions);
        out.add("project", name, "messages", row.messages);
        out.add("project", name, "raw_bytes", row.raw_bytes);
        out.add("project", name, "stored_bytes", row.stored_bytes);
        out.add("project", name, "active_hours", row.active_hours);
    }
    for row in &report.compaction_runs {
        let name = row.run_id.to_string();
        out.add("compaction_run", &name, "started_ms", row.started_ms);
        out.add("compaction_run", &name, "seconds", row.seconds);
        out.add("compaction_run", &name, "tier", &row.tier);
        out.add("compaction_run", &name, "outcome", row.outcome.name());
        out.add("compaction_run", &name, "bytes_before", row.bytes_before);
        out.add("compaction_run", &name, "bytes_after", row.bytes_after);
    }
    out.0
}

struct Table(String);

impl Table {
    fn add(&mut self, section: &str, name: &str, field: &str, value: impl Display) {
        let cells = [section, name, field, &value.to_string()].map(quoted);
        self.0.push_str(&cells.join(","));
        self.0.push_str("\r\n");
    }

    fn known(&mut self, section: &str, name: &str, field: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.add(section, name, field, value),
            None => self.add(section, name, field, ""),
        }
    }
}

/// Quoted when it must be. Names and directories are input: what could act on a terminal becomes `·`,
/// and a text that a spreadsheet would run as a formula gets an apostrophe before it.
fn quoted(cell: &str) -> String {
    let cell = &harmless(cell);
    let number = cell.parse::<f64>().is_ok();
    let runs = !number && cell.starts_with(['=', '+', '-', '@']);
    let cell = if runs {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

fn store(out: &mut Table, report: &CapacityReport) {
    let mut store = |field, value: &dyn Display| out.add("store", "", field, value);
    store("generated_ms", &report.generated_ms);
    store("database_bytes", &report.database_bytes);
    store("wal_bytes", &report.wal_bytes);
    store("free_bytes", &report.free_bytes);
    store("limit_bytes", &report.limit_bytes);
    if let Some(free) = &report.disk_free_bytes {
        store("disk_free_bytes", free);
    }
    store("used_fraction", &report.used_fraction);
    store("level", &report.level.name());
    store("raw_bytes", &report.raw_bytes);
    store("uncompacted_bytes", &report.uncompacted_bytes);
    store("footprint_target", &report.footprint_target);
    store("saved_bytes", &report.saved_bytes);
    store("compactable_bytes", &report.compactable_bytes);
    store("sessions", &report.sessions);
    store("messages", &report.messages);
    store("hot_messages", &report.hot_messages);
    store("hot_bytes", &report.hot_bytes);
    store("segments", &report.segments);
    store("segment_bytes", &report.segment_bytes);
    store("bases", &report.bases);
    store("base_bytes", &report.base_bytes);
    store("untimed_sessions", &report.untimed.sessions);
    store("untimed_messages", &report.untimed.messages);
    store("untimed_raw_bytes", &report.untimed.raw_bytes);
    store("earlier_raw_bytes", &report.earlier_raw_bytes);
    store("later_raw_bytes", &report.later_raw_bytes);
    store("active_hours", &report.growth.active_hours);
    store("wall_hours", &report.growth.wall_hours);
    let growth = &report.growth;
    out.known("store", "", "footprint", report.footprint);
    out.known(
        "store",
        "",
        "messages_per_session_hour",
        growth.messages_per_session_hour,
    );
    out.known("store", "", "bytes_per_message", growth.bytes_per_message);
    out.known(
        "store",
        "",
        "bytes_per_session_hour",
        growth.bytes_per_session_hour,
    );
    out.known(
        "store",
        "",
        "bytes_per_wall_hour",
        growth.bytes_per_wall_hour,
    );
}

fn forecast(out: &mut Table, forecast: &Forecast) {
    let Forecast::Projected {
        daily_raw_bytes,
        without_compaction,
        with_compaction,
        ..
    } = forecast
    else {
        return;
    };
    for (pace, bytes) in [
        ("low", daily_raw_bytes.low),
        ("median", daily_raw_bytes.median),
        ("high", daily_raw_bytes.high),
    ] {
        out.add("forecast", "daily_raw_bytes", pace, bytes);
    }
    let mut add = |name: &str, projection: &Projection| {
        for (at, reach) in projection.reaches() {
            for (pace, when) in [
                ("earliest", reach.earliest),
                ("likely", reach.likely),
                ("latest", reach.latest),
            ] {
                let days = match when {
                    When::Reached => Some(0.0),
                    When::At { days, .. } => Some(days),
                    When::Beyond | When::Never => None,
                };
                out.known("forecast", name, &format!("{at}_{pace}_days"), days);
            }
        }
    };
    add("without_compaction", without_compaction);
    add("with_compaction", with_compaction);
}

fn sessions(out: &mut Table, section: &str, sessions: &[SessionRow]) {
    for row in sessions {
        let id = &row.session_id;
        out.add(section, id, "name", &row.name);
        out.add(section, id, "messages", row.messages);
        out.add(section, id, "raw_bytes", row.raw_bytes);
        out.add(section, id, "stored_bytes", row.stored_bytes);
        out.add(section, id, "active_hours", row.active_hours);
        out.known(
            section,
            id,
            "bytes_per_session_hour",
            row.bytes_per_session_hour,
        );
    }
}
