//! The report as Prometheus reads it: text exposition format 0.0.4.

use std::fmt::Write;

use super::CapacityReport;
use crate::RunOutcome;
use crate::capacity::forecast::{Forecast, Projection, Range, When};
use crate::capacity::levels::Level;
use crate::capacity::text::harmless;

/// Writes one sample after its labels.
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, help: &str, samples: &[(String, f64)]) {
        if samples.is_empty() {
            return;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
        let _ = writeln!(self.0, "# TYPE {name} gauge");
        for (labels, value) in samples {
            // Rust writes floats without exponent and round trips them: both are valid here.
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.family(name, help, &[(String::new(), value)]);
        }
    }
}

/// The report's figures as gauges named `betcode_store_…`, units in their names. What is not
/// known has no sample. Sessions and projects are left out: their number is not bounded and
/// their names are private.
#[must_use]
pub fn prometheus(report: &CapacityReport) -> String {
    let mut out = Exposition(String::new());
    size(&mut out, report);
    growth(&mut out, report);
    forecast(&mut out, report);
    out.0
}

/// A gauge: its name, its help, and its value in a report.
type Gauge = (
    &'static str,
    &'static str,
    fn(&CapacityReport) -> Option<f64>,
);

/// The file and its limit.
const SIZE: [Gauge; 5] = [
    (
        "betcode_store_database_bytes",
        "Size of the main database file.",
        |report| Some(as_f64(report.database_bytes)),
    ),
    (
        "betcode_store_wal_bytes",
        "Size of the write-ahead log.",
        |report| Some(as_f64(report.wal_bytes)),
    ),
    (
        "betcode_store_free_bytes",
        "Part of the main file that holds nothing and is used again.",
        |report| Some(as_f64(report.free_bytes)),
    ),
    (
        "betcode_store_limit_bytes",
        "Size that main file and write-ahead log may reach.",
        |report| Some(as_f64(report.limit_bytes)),
    ),
    (
        "betcode_store_used_ratio",
        "Share of the limit that main file and write-ahead log use.",
        |report| Some(report.used_fraction),
    ),
];

/// What is in the file.
const CONTENTS: [Gauge; 16] = [
    (
        "betcode_store_raw_bytes",
        "Payload bytes recorded.",
        |report| Some(as_f64(report.raw_bytes)),
    ),
    (
        "betcode_store_uncompacted_bytes",
        "What the history would take without compaction.",
        |report| Some(as_f64(report.uncompacted_bytes)),
    ),
    (
        "betcode_store_footprint_ratio",
        "Main file and write-ahead log, divided by what the history would take without compaction.",
        |report| report.footprint,
    ),
    (
        "betcode_store_footprint_target_ratio",
        "What the capacity plan expects of the footprint.",
        |report| Some(report.footprint_target),
    ),
    (
        "betcode_store_saved_bytes",
        "Bytes that compaction has saved so far.",
        |report| Some(as_f64(report.saved_bytes)),
    ),
    (
        "betcode_store_disk_free_bytes",
        "Bytes that the disk of the store has free.",
        |report| report.disk_free_bytes.map(as_f64),
    ),
    (
        "betcode_store_last_compaction_failed",
        "1 if the last run of compaction failed, wholly or for a session.",
        |report| {
            let last = report.compaction_runs.first()?;
            Some(f64::from(u8::from(last.outcome == RunOutcome::Failed)))
        },
    ),
    (
        "betcode_store_last_compaction_timestamp_seconds",
        "When the last run of compaction ended, Unix seconds.",
        |report| {
            let last = report.compaction_runs.first()?;
            Some(last.started_ms as f64 / 1000.0 + last.seconds)
        },
    ),
    (
        "betcode_store_compactable_bytes",
        "Bytes that compaction would still save.",
        |report| Some(as_f64(report.compactable_bytes)),
    ),
    ("betcode_store_sessions", "Sessions recorded.", |report| {
        Some(as_f64(report.sessions))
    }),
    ("betcode_store_messages", "Messages recorded.", |report| {
        Some(as_f64(report.messages))
    }),
    (
        "betcode_store_hot_messages",
        "Messages that are not compacted yet.",
        |report| Some(as_f64(report.hot_messages)),
    ),
    ("betcode_store_segments", "Compacted segments.", |report| {
        Some(as_f64(report.segments))
    }),
    (
        "betcode_store_segment_bytes",
        "Size of the compacted segments.",
        |report| Some(as_f64(report.segment_bytes)),
    ),
    (
        "betcode_store_bases",
        "Bases: what the segments of a project are encoded with.",
        |report| Some(as_f64(report.bases)),
    ),
    ("betcode_store_base_bytes", "Size of the bases.", |report| {
        Some(as_f64(report.base_bytes))
    }),
];

fn size(out: &mut Exposition, report: &CapacityReport) {
    for (name, help, value) in SIZE {
        out.gauge(name, help, value(report));
    }
    let levels = [Level::Ok, Level::Warning, Level::Critical].map(|level| {
        let is = if level == report.level { 1.0 } else { 0.0 };
        (label("level", level.name()), is)
    });
    out.family(
        "betcode_store_level",
        "1 for the level that the size has against its limit, 0 for the others.",
        &levels,
    );
    for (name, help, value) in CONTENTS {
        out.gauge(name, help, value(report));
    }
}

fn growth(out: &mut Exposition, report: &CapacityReport) {
    let growth = &report.growth;
    out.gauge(
        "betcode_store_active_seconds",
        "Active time of all sessions: gaps between messages, each capped at five minutes, and turns of \
         imported streams.",
        growth.active_hours * 3600.0,
    );
    out.gauge(
        "betcode_store_wall_seconds",
        "Time between first and last message, summed over all sessions.",
        growth.wall_hours * 3600.0,
    );
    out.gauge(
        "betcode_store_untimed_sessions",
        "Sessions that tell no time: they are in no figure by the hour.",
        as_f64(report.untimed.sessions),
    );
    out.gauge(
        "betcode_store_untimed_raw_bytes",
        "Payload bytes of sessions that tell no time.",
        as_f64(report.untimed.raw_bytes),
    );
    let planned = |planned: f64, measured: Option<f64>| {
        let mut samples = vec![(label("basis", "planned"), planned)];
        samples.extend(measured.map(|measured| (label("basis", "measured"), measured)));
        samples
    };
    for row in &report.planned {
        let Some((name, help)) = planned_metric(row.name) else {
            continue;
        };
        out.family(name, help, &planned(row.planned, row.measured));
    }
    out.family(
        "betcode_store_type_messages",
        "Messages recorded, by their type.",
        &by_type(report, |row| row.messages),
    );
    out.family(
        "betcode_store_type_raw_bytes",
        "Payload bytes recorded, by message type.",
        &by_type(report, |row| row.raw_bytes),
    );
}

/// The name and the help of the metric for a constant of the plan.
fn planned_metric(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "messages_per_session_hour" => (
            "betcode_store_messages_per_session_hour",
            "Messages of an active hour, planned and measured.",
        ),
        "bytes_per_message" => (
            "betcode_store_message_bytes",
            "Size of a message on average, planned and measured.",
        ),
        "bytes_per_session_hour" => (
            "betcode_store_bytes_per_session_hour",
            "Payload bytes of an active hour, planned and measured.",
        ),
        "session_hours_per_day" => (
            "betcode_store_session_hours_per_day",
            "Active hours of a day in use: planned for one session, measured of all.",
        ),
        "workdays_per_month" => (
            "betcode_store_workdays_per_month",
            "Days of a month on which something is recorded, planned and measured.",
        ),
        "bytes_per_day" => (
            "betcode_store_bytes_per_day",
            "Payload bytes of a day in use: planned for one session, measured of all.",
        ),
        "bytes_per_month" => (
            "betcode_store_bytes_per_month",
            "Payload bytes of a month: planned for one session, measured of all.",
        ),
        "compaction_saving" => (
            "betcode_store_compaction_saving_ratio",
            "Share that compaction saves of what it compacts, planned and measured.",
        ),
        // The footprint has metrics of its own.
        _ => return None,
    })
}

/// A sample for each type of message.
fn by_type(report: &CapacityReport, value: fn(&super::TypeRow) -> u64) -> Vec<(String, f64)> {
    let mut samples: Vec<(String, f64)> = Vec::new();
    for row in &report.by_type {
        let (label, value) = (label("type", &row.message_type), as_f64(value(row)));
        // Names that differ only in what became `·` are one series, which may occur once only.
        match samples.iter_mut().find(|(known, _)| *known == label) {
            Some((_, sum)) => *sum += value,
            None => samples.push((label, value)),
        }
    }
    samples
}

fn forecast(out: &mut Exposition, report: &CapacityReport) {
    let Forecast::Projected {
        daily_raw_bytes: Range { low, median, high },
        without_compaction,
        with_compaction,
        ..
    } = &report.forecast
    else {
        return;
    };
    let paces = [("low", *low), ("median", *median), ("high", *high)];
    out.family(
        "betcode_store_pace_bytes_per_day",
        "Payload bytes recorded in a day, idle days included: the pace of the forecast.",
        &paces.map(|(pace, bytes)| (label("pace", pace), bytes)),
    );
    let of = |compaction: &str, projection: &Projection| {
        let mut samples = Vec::new();
        for (at, reach) in projection.reaches() {
            let paces = [
                ("high", reach.earliest),
                ("median", reach.likely),
                ("low", reach.latest),
            ];
            for (pace, when) in paces {
                let labels = labels(&[("compaction", compaction), ("at", at), ("pace", pace)]);
                samples.extend(seconds(when).map(|seconds| (labels, seconds)));
            }
        }
        samples
    };
    let samples = [of("off", without_compaction), of("on", with_compaction)].concat();
    out.family(
        "betcode_store_forecast_seconds",
        "Time until the size reaches a level at the measured pace; no sample when it never does.",
        &samples,
    );
}

fn seconds(when: When) -> Option<f64> {
    match when {
        When::Reached => Some(0.0),
        When::At { days, .. } => Some((days * 86_400.0).round()),
        When::Beyond | When::Never => None,
    }
}

fn label(name: &str, value: &str) -> String {
    labels(&[(name, value)])
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// Label values may hold anything but an unescaped backslash, quote or newline. They are input: what
/// could act on a terminal, newlines too, becomes `·`.
fn escaped(value: &str) -> String {
    harmless(value).replace('\\', "\\\\").replace('"', "\\\"")
}

fn as_f64(value: u64) -> f64 {
    value as f64
}
