//! The budget for people.

use std::fmt::Write;

use betcode_storage::capacity::levels::Metric;
use betcode_storage::capacity::text::{bytes, count, three_digits, used_percent};

use super::{Budget, MemoryUse, RoutingTimes, Threshold};
use crate::levels::BufferBound;

const MB: f64 = 1e6;

impl Budget {
    /// All of it, each figure beside the plan's.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        routing(&mut text, &self.routing);
        memory(&mut text, &self.memory);
        thresholds(&mut text, &self.thresholds);
        // Writing to a string does not fail.
        let load = &self.load;
        let _ = writeln!(
            text,
            "Load                             {} tunnels, {} clients, {} calls/s now, {} at most",
            count(load.tunnels),
            count(load.clients),
            count(load.calls_per_s),
            count(load.calls_per_s_max)
        );
        if let Some(relays) = &self.relays {
            let _ = writeln!(
                text,
                "Relays needed by the plan        {} (tunnels {}, clients {}, calls/s at most {})",
                relays.relays, relays.for_tunnels, relays.for_clients, relays.for_requests
            );
        }
        let _ = writeln!(
            text,
            "Tunnels since the start          {} from daemons, {} to daemons",
            bytes(self.tunnel_bytes.received),
            bytes(self.tunnel_bytes.sent)
        );
        text
    }
}

fn routing(text: &mut String, routing: &RoutingTimes) {
    text.push_str("Latency since the start, ms          p50       p95       p99    budget (p95)\n");
    let verdict = match routing.within {
        None => "nothing yet",
        Some(true) => "within",
        Some(false) => "OVER",
    };
    let ms = |time: Option<f64>| time.map_or("-".into(), |ms| format!("{ms:.2}"));
    let _ = writeln!(
        text,
        "  routing   {:>12} times {:>9} {:>9} {:>9} {:>7} {verdict}",
        routing.count,
        ms(routing.p50_ms),
        ms(routing.p95_ms),
        ms(routing.p99_ms),
        routing.budget_ms
    );
}

fn memory(text: &mut String, memory: &MemoryUse) {
    let mb = |bytes: u64| bytes as f64 / MB;
    let each = |bytes: u64| three_digits(mb(bytes));
    let _ = writeln!(
        text,
        "Memory, MB                       measured      plan\n  \
           base                         {:>10.1} {:>9.1}\n  \
           now                          {:>10.1} {:>9.1}  {} tunnels x {}, {} clients x {}, \
                                                          {} waiting requests x {}\n  \
           at most                      {:>10.1} {:>9.1}  as many as the settings allow",
        mb(memory.base_bytes),
        mb(memory.base_bytes_planned),
        mb(memory.resident_bytes),
        mb(memory.planned_bytes),
        memory.tunnels,
        each(memory.tunnel_bytes_planned),
        memory.clients,
        each(memory.client_bytes_planned),
        memory.waiting_requests,
        each(memory.waiting_request_bytes_planned),
        mb(memory.resident_bytes_max),
        mb(memory.limit_bytes),
    );
}

fn thresholds(text: &mut String, rows: &[Threshold]) {
    text.push_str("Scaling thresholds  warning  critical\n");
    for row in rows {
        let _ = writeln!(
            text,
            "  {:<13} {:>9} % {:>7} %  {} ({}): {}",
            row.label,
            row.warning_percent,
            row.critical_percent,
            used_of(row),
            used_percent(row.used, row.limit),
            row.level.shown()
        );
    }
}

fn used_of(row: &Threshold) -> String {
    let in_bytes = || format!("{} of {}", bytes(row.used), bytes(row.limit));
    let counted = |what: &str| format!("{} of {}{what}", count(row.used), count(row.limit));
    match (row.metric, row.bound) {
        (_, Some(BufferBound::Bytes)) | (Metric::Memory, _) => in_bytes(),
        (_, Some(BufferBound::Requests)) => counted(" requests"),
        (_, Some(BufferBound::RequestsOfOneMachine)) => counted(" requests of one machine"),
        (Metric::Cpu, _) => {
            let (used, limit) = (row.used as f64 / 1000.0, row.limit as f64 / 1000.0);
            format!("{used:.3} of {limit:.3} processors")
        }
        _ => counted(""),
    }
}
