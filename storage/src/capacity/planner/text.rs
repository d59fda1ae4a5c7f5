//! The plan as text of at most 80 columns, with every input and where it comes from.

use super::bandwidth::Traffic;
use super::latency::Stage;
use super::machines::MachineRow;
use super::memory::BudgetNow;
use super::plan::Plan;
use super::storage_growth::CompactedGrowth;
use super::thresholds::ThresholdRow;
use crate::capacity::forecast::HORIZON_DAYS;
use crate::capacity::levels::Metric;
use crate::capacity::quantity::{ByteCount, Source};
use crate::capacity::report::DAYS_PER_MONTH;
use crate::capacity::text::{count, fit, percent, round_bytes, three_digits, used_percent};

/// The plan as text, lines ending with a newline.
#[must_use]
pub fn text(plan: &Plan) -> String {
    let mut out = Lines(String::new());
    memory(&mut out, plan);
    growth(&mut out, plan);
    relays(&mut out, plan);
    machines(&mut out, plan);
    budgets(&mut out, plan);
    thresholds(&mut out, plan);
    bandwidth(&mut out, plan);
    inputs(&mut out, plan);
    out.0
}

struct Lines(String);

impl Lines {
    fn title(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(title);
        self.0.push('\n');
    }

    fn row(&mut self, label: &str, value: &str, note: &str) {
        let line = format!("  {} {value:>10}  {note}", fit(label, 24));
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn size(&mut self, label: &str, size: ByteCount) {
        self.size_of(label, size, "");
    }

    fn size_of(&mut self, label: &str, size: ByteCount, note: &str) {
        self.row(label, &round_bytes(size.0), note);
    }
}

fn memory(out: &mut Lines, plan: &Plan) {
    let of = |name: &str| number_of(plan, name);
    let daemon = &plan.daemon_memory;
    out.title("Daemon memory");
    out.size("base", daemon.base_bytes);
    out.size_of(
        "sessions",
        daemon.sessions_bytes,
        &of("daemon_memory.sessions"),
    );
    out.size_of(
        "clients",
        daemon.clients_bytes,
        &of("daemon_memory.clients"),
    );
    let subprocesses = of("daemon_memory.subprocesses");
    out.size_of("subprocesses", daemon.subprocesses_bytes, &subprocesses);
    out.size("total", daemon.total_bytes);
    let relay = &plan.relay_memory;
    // Of another load than that of all relays together, which has inputs of its own.
    out.title("Relay memory, of one relay");
    out.size("base", relay.base_bytes);
    out.size_of("tunnels", relay.tunnels_bytes, &of("relay_memory.tunnels"));
    out.size_of("clients", relay.clients_bytes, &of("relay_memory.clients"));
    let buffered = of("relay_memory.buffered_messages");
    out.size_of("buffered messages", relay.buffer_bytes, &buffered);
    out.size("total", relay.total_bytes);
}

/// A number that the plan was computed for.
fn number_of(plan: &Plan, input: &str) -> String {
    let row = plan.inputs.iter().find(|row| row.name == input);
    row.map_or_else(String::new, |row| format!("for {}", plain(row.value)))
}

fn growth(out: &mut Lines, plan: &Plan) {
    let growth = &plan.storage_growth;
    out.title("Storage growth");
    out.size("per session-hour", growth.bytes_per_session_hour);
    out.size("a day, uncompacted", growth.daily_bytes);
    out.row(
        "a month, uncompacted",
        &round_bytes(growth.monthly_bytes.0),
        &months(growth.months_to_limit),
    );
    for CompactedGrowth {
        footprint,
        monthly_bytes,
        months_to_limit,
        ..
    } in &growth.compacted
    {
        let share = percent(footprint.value.get());
        let source = footprint.source.label();
        let note = format!("to {share} ({source}), {}", months(*months_to_limit));
        out.row("a month, compacted", &round_bytes(monthly_bytes.0), &note);
    }
}

fn months(to_limit: Option<f64>) -> String {
    match to_limit {
        Some(0.0) => "full already".into(),
        // Further ahead than the report's forecast says a date.
        Some(months) if months * DAYS_PER_MONTH > HORIZON_DAYS => "full in over 10 years".into(),
        Some(months) => format!("full in {} months", three_digits(months)),
        None => "never full".into(),
    }
}

fn relays(out: &mut Lines, plan: &Plan) {
    let of = |name: &str| number_of(plan, name);
    out.title("Relays needed, for all together");
    let needed = &plan.relays;
    out.row(
        "for tunnels",
        &count(needed.for_tunnels),
        &of("relays.tunnels"),
    );
    out.row(
        "for clients",
        &count(needed.for_clients),
        &of("relays.clients"),
    );
    let requests = of("relays.requests_per_second");
    out.row("for requests", &count(needed.for_requests), &requests);
    out.row("relays", &count(plan.relays.relays), "");
}

fn machines(out: &mut Lines, plan: &Plan) {
    out.title("Machines, by users");
    let asked = |row: &MachineRow| plan.machine.as_ref() == Some(row);
    for row in &plan.machines {
        let mark = if asked(row) { ">" } else { " " };
        let users = row.users();
        let (daemon, relay) = (row.daemon.to_string(), row.relay.to_string());
        let line = format!("{mark} {users:<10} daemon {daemon:<20} relay {relay}");
        out.0.push_str(line.trim_end());
        out.0.push('\n');
    }
}

fn budgets(out: &mut Lines, plan: &Plan) {
    out.title("Latency budget (P95)");
    for row in &plan.latency_budget.rows {
        // Beside the plan's own note it would not fit the line.
        let note = row.measured_p95_ms.map_or_else(
            || unmeasured(plan, row.stage).unwrap_or(row.notes).to_owned(),
            |ms| {
                let ms = three_digits(ms.get());
                match (row.measured_part, row.within) {
                    (Some(part), None) => format!("measured {ms} ms, {part}"),
                    (Some(part), Some(within)) => {
                        format!("measured {ms} ms, {part}: {}", verdict(within))
                    }
                    (None, within) => {
                        format!("measured {ms} ms: {}", verdict(within == Some(true)))
                    }
                }
            },
        );
        out.row(row.component, &format!("{} ms", row.budget_ms), &note);
    }
    let latency = &plan.latency_budget;
    let measured = latency.rows.iter().any(|row| row.measured_p95_ms.is_some());
    let estimate = match measured {
        true => format!(
            "estimate {} ms: {}",
            three_digits(latency.total_estimate_ms),
            verdict(latency.within)
        ),
        false => String::new(),
    };
    let total = format!("{} ms", latency.total_budget_ms);
    out.row("total", &total, &estimate);
    out.title("Memory budget");
    for row in &plan.memory_budget.rows {
        let note = row.now.map_or_else(String::new, now);
        out.row(&row.component, &round_bytes(row.budget_bytes.0), &note);
    }
    if plan.memory_budget.fits() {
        out.size("Headroom", plan.memory_budget.headroom_bytes);
    } else {
        out.row(
            "MISSING",
            &round_bytes(plan.memory_budget.missing_bytes.0),
            "over the limit",
        );
    }
    let budget = &plan.memory_budget;
    let in_ram = match (budget.resident_bytes, budget.above_base_bytes) {
        (Some(all), Some(above)) => format!(
            "in RAM {}, {} above the base",
            round_bytes(all.0),
            round_bytes(above.0)
        ),
        _ => String::new(),
    };
    out.row("limit", &round_bytes(budget.limit_bytes.0), &in_ram);
}

/// What is known of a row of the memory budget.
fn now(known: BudgetNow) -> String {
    match known {
        BudgetNow::Measured { bytes } => format!("measured {}", round_bytes(bytes.0)),
        BudgetNow::Derived { in_use, bytes } => {
            let planned = round_bytes(bytes.0);
            format!("{} in use, by the plan {planned}", count(in_use))
        }
        BudgetNow::Configured { bytes } => {
            format!("configured {} at most", round_bytes(bytes.0))
        }
    }
}

/// Whether a daemon was asked what it measures.
fn daemon_was_asked(plan: &Plan) -> bool {
    plan.memory_budget.resident_bytes.is_some()
}

/// Why a daemon that was asked has no figure of a stage.
fn unmeasured(plan: &Plan, stage: Stage) -> Option<&'static str> {
    let why = match stage {
        Stage::Client => "not measured: clients are other programs",
        Stage::Network | Stage::Relay => "not measured: nothing came through a relay",
        Stage::Daemon | Stage::Subprocess => "not measured yet",
    };
    daemon_was_asked(plan).then_some(why)
}

fn verdict(within: bool) -> &'static str {
    if within { "within" } else { "OVER" }
}

fn thresholds(out: &mut Lines, plan: &Plan) {
    out.title("Scaling thresholds  warning  critical");
    for row in &plan.thresholds {
        let line = format!(
            "  {} {:>9} % {:>7} %  {}",
            fit(row.label, 13),
            row.warning_percent,
            row.critical_percent,
            of_limit(row)
        );
        out.0.push_str(&line);
        out.0.push('\n');
    }
}

/// What is used of the limit, as far as both are known.
fn of_limit(row: &ThresholdRow) -> String {
    match (row.used, row.limit, row.level) {
        (Some(used), Some(limit), Some(level)) => {
            let share = used_percent(used, limit);
            let used_of = row.metric.used_of(used, limit);
            format!("{used_of} ({share}): {}", level.shown())
        }
        (_, Some(limit), _) => format!("of {}, not measured", row.metric.amount(limit)),
        // A daemon has no tunnels but its own, and no buffer.
        _ if matches!(row.metric, Metric::Tunnels | Metric::BufferSize) => {
            "the relay's: `betcode-relay budget`".into()
        }
        _ => "not measured".into(),
    }
}

fn bandwidth(out: &mut Lines, plan: &Plan) {
    out.title("Bandwidth");
    let rate = |size: ByteCount| format!("{}/s", round_bytes(size.0));
    for row in &plan.bandwidth.rows {
        let measured = match row.measured_bytes_per_second {
            Some(bytes) if row.traffic == Traffic::IdleKeepalive => {
                format!(
                    ", measured {}/min",
                    round_bytes((bytes * 60.0).round() as u64)
                )
            }
            Some(bytes) => format!(", measured {}/s", round_bytes(bytes.round() as u64)),
            None if daemon_was_asked(plan) => ", not measured yet".to_owned(),
            None => String::new(),
        };
        let note = format!("{} at {}{measured}", count(row.streams), row.rate);
        out.row(row.name, &rate(row.bytes_per_second), &note);
    }
    out.row(
        "sustained",
        &rate(plan.bandwidth.sustained_bytes_per_second),
        "",
    );
    out.row("peak", &rate(plan.bandwidth.peak_bytes_per_second), "");
}

fn inputs(out: &mut Lines, plan: &Plan) {
    out.title("Inputs");
    for row in &plan.inputs {
        let value = match row.unit {
            "bytes" => round_bytes(row.value as u64),
            unit => format!("{} {unit}", plain(row.value)).trim_end().to_owned(),
        };
        let mark = match row.source {
            Source::PlanDefault | Source::PlanExample => "",
            Source::Given | Source::Measured | Source::Derived => " *",
        };
        let line = format!(
            "  {} {value:>14}  {}{mark}",
            fit(&row.name, 44),
            row.source.label()
        );
        out.0.push_str(line.trim_end());
        out.0.push('\n');
    }
}

/// Counts whole, ratios with what they have.
fn plain(value: f64) -> String {
    if value.fract() == 0.0 {
        count(value as u64)
    } else {
        three_digits(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::planner::{Measured, MemoryNow, MetricSample, PlanInputs};
    use crate::capacity::quantity::Amount;

    #[test]
    fn text_shows_the_worked_examples_and_every_input_with_its_source() {
        let mut inputs = PlanInputs::default();
        inputs
            .set("relays.tunnels", 26_000.0, Source::Given)
            .unwrap();
        let mut measured = Measured {
            footprint: Some(Amount(0.1)),
            latency_p95_ms: Vec::new(),
            traffic: Vec::new(),
            memory: Some(MemoryNow {
                resident_bytes: 30_000_000,
                base_bytes: 18_000_000,
                sessions: 3,
                clients: 2,
                subprocesses: 1,
                sqlite_cache_bytes: 33_554_432,
            }),
            samples: [
                MetricSample::named("cpu", 250, 2_000, "ok"),
                MetricSample::named("sqlite_size", 699_960_000, 1_000_000_000, "ok"),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        measured.take_stage("answer", 3, 0.5);
        measured.take_stage("deliver", 3, 2.5);
        measured.take_stage("answer", 0, 99.0);
        measured.take_stage("record", 1, 41.0);
        measured.take_stage("page", 1, 7.0);
        measured.take_stage("relay_routing", 9, 0.5);
        measured.take_stage("relay_round_trip", 2, 12.0);
        measured.take_traffic("idle_keepalive", Some(9.0));
        measured.take_traffic("active_streaming", Some(88_000.0));
        measured.take_traffic("large_file_read", None);
        measured.take_traffic("small_talk", Some(1.0));
        let plan = Plan::compute(&inputs, &measured, Some(50)).unwrap();
        let text = text(&plan);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in [
            "300 MB",
            "850 MB",
            "1.76 GB full in 0.57 months",
            "a month, compacted 528 MB to 30 % (plan), full in 1.89 months",
            "a month, compacted 176 MB to 10 % (measured), full in 5.68 months",
            "> 10-100 daemon 4 CPU, 4 GB RAM",
            "Client processing 20 ms not measured: clients are other programs",
            "Network RTT (2x) 80 ms measured 12.0 ms, daemon-relay only",
            "Relay routing 10 ms measured 0.50 ms: within",
            "Daemon processing 50 ms measured 2.50 ms: within",
            "Subprocess overhead 40 ms measured 41.0 ms: OVER",
            "total 200 ms estimate 144 ms: within",
            "Base runtime 50 MB measured 18 MB",
            "Session state (20) 100 MB 3 in use, by the plan 15 MB",
            "SQLite cache 100 MB configured 33.6 MB at most",
            "limit 512 MB in RAM 30 MB, 12 MB above the base",
            "Tunnels 70 % 90 % the relay's: `betcode-relay budget`",
            "Idle keepalive 17 B/s 1 at 1 KB/min, measured 540 B/min",
            "Active streaming 100 KB/s 1 at 100 KB/s, measured 88 KB/s",
            "Large file read 1 MB/s 1 at 1 MB/s burst, not measured yet",
            "Sessions 80 % 95 % not measured",
            "Memory 70 % 85 % of 512 MB, not measured",
            "CPU 70 % 90 % 0.250 of 2.000 processors (12 %): ok",
            "SQLite size 70 % 90 % 700 MB of 1.00 GB (69 %): ok",
            "Headroom 112 MB",
            "relays.tunnels 26,000 given *",
            "Relay memory, of one relay base 100 MB tunnels 250 MB for 5,000",
            "Relays needed, for all together for tunnels 3 for 26,000",
            "storage_growth.session_hours_per_day 8 h/day plan",
        ] {
            assert!(words.contains(expected), "{expected} is missing in\n{text}");
        }
        assert!(inputs.rows().iter().all(|row| text.contains(&row.name)));
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn text_says_when_the_database_is_full_already() {
        let mut inputs = PlanInputs::default();
        inputs
            .set("storage_growth.used_bytes", 2e9, Source::Given)
            .unwrap();
        let text = text(&Plan::compute(&inputs, &Measured::default(), None).unwrap());
        assert!(
            text.contains("full already") && !text.contains("months"),
            "{text}"
        );
    }

    #[test]
    fn text_says_when_a_load_does_not_fit() {
        let mut inputs = PlanInputs::default();
        inputs
            .set("daemon_memory.sessions", 60.0, Source::Given)
            .unwrap();
        let plan = Plan::compute(&inputs, &Measured::default(), None).unwrap();
        assert!(text(&plan).contains("MISSING"));
    }
}
