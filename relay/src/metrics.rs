//! What operators see: counts and times as Prometheus reads them, on loopback.
//!
//! Few enough to be kept by hand: no name comes from a caller, so their number is fixed.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use betcode_schema_tunnel::RelayRouting;
use betcode_service::histogram::Histogram;
use betcode_service::io_bytes::IoBytes;
use betcode_storage::capacity::planner::MetricSample;
use betcode_storage::capacity::planner::latency::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::limits;

/// Upper bounds of the histograms of times, seconds. The plan's 10 ms for the relay's routing stand
/// among them.
const TIMES_S: [f64; 13] = [
    0.0001, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0,
];

/// gRPC codes, 0 to 16.
const CODES: usize = 17;

/// The relay's counters.
#[derive(Default)]
pub struct Metrics {
    /// Calls that the relay answered itself, by code; under 0 those that it passed on.
    answered: [AtomicU64; CODES],
    routing: Buckets,
    /// The same times, finely enough for quantiles.
    routing_times: Histogram,
    /// Bytes of all tunnels.
    tunnel_bytes: Arc<IoBytes>,
    answers: Buckets,
    tunnels_opened: AtomicU64,
    tunnels_refused: AtomicU64,
    buffered: AtomicU64,
    delivered: AtomicU64,
    delivered_failed: AtomicU64,
    expired: AtomicU64,
}

/// Times in the buckets of a Prometheus histogram.
#[derive(Default)]
struct Buckets {
    times: [AtomicU64; TIMES_S.len() + 1],
    sum_us: AtomicU64,
}

/// What is measured at the moment at which it is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Open tunnels.
    pub tunnels: usize,
    /// The most there may be.
    pub tunnels_max: usize,
    /// Client connections.
    pub clients: usize,
    /// The most there may be.
    pub clients_max: usize,
    /// Calls under way.
    pub calls: usize,
    /// The most there may be.
    pub calls_max: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// The most that may.
    pub waiting_max: usize,
    /// Requests that wait for the machine that has the most of them.
    pub waiting_of_fullest: usize,
    /// The most that may wait for one machine.
    pub waiting_per_machine_max: usize,
    /// Bytes of all that wait.
    pub waiting_bytes: u64,
    /// The most that may be.
    pub waiting_bytes_max: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The most that it ever was.
    pub resident_bytes_max: u64,
    /// What it was before anybody was connected: what the plan calls the base.
    pub base_bytes: u64,
    /// Memory that the plan gives a relay with as many tunnels, clients and waiting requests as there are.
    pub planned_bytes: u64,
    /// Memory that the plan gives a relay of this size.
    pub memory_bytes_max: u64,
}

impl Metrics {
    /// A call was handed over to its tunnel `time` after the relay could do so.
    pub(crate) fn routed(&self, time: Duration) {
        self.routing.count(time);
        self.routing_times.record(time);
    }

    /// How long the relay took to hand calls over to their tunnels.
    pub(crate) fn routing_times(&self) -> &Histogram {
        &self.routing_times
    }

    /// The same for daemons, in microseconds; `None` before the first call.
    pub(crate) fn routing_now(&self) -> Option<RelayRouting> {
        let times = &self.routing_times;
        let us = |q| times.quantile(q) as u64;
        (times.count() > 0).then(|| RelayRouting {
            calls: times.count(),
            p50_us: us(0.5),
            p95_us: us(0.95),
            p99_us: us(0.99),
        })
    }

    /// Where the bytes of tunnels are counted.
    pub(crate) fn tunnel_bytes(&self) -> Arc<IoBytes> {
        self.tunnel_bytes.clone()
    }

    /// Calls so far, passed on or answered by the relay itself.
    pub(crate) fn calls(&self) -> u64 {
        let answered = self.answered.iter();
        answered.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// A call was passed on, and its answer began after `time`.
    pub(crate) fn passed(&self, time: Duration) {
        self.answered[0].fetch_add(1, Ordering::Relaxed);
        self.answers.count(time);
    }

    /// The relay answered a call itself.
    pub(crate) fn refused(&self, code: Code) {
        if let Some(count) = self.answered.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn tunnel(&self, opened: bool) {
        let count = match opened {
            true => &self.tunnels_opened,
            false => &self.tunnels_refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn buffered(&self) {
        self.buffered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn delivered(&self, code: Code) {
        let count = match code {
            Code::Ok => &self.delivered,
            _ => &self.delivered_failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expired(&self, requests: usize) {
        self.expired.fetch_add(requests as u64, Ordering::Relaxed);
    }

    /// All of it as text.
    #[must_use]
    pub fn render(&self, gauges: &Gauges, levels: &[MetricSample]) -> String {
        let mut text = String::new();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (name, help, value) in gauges.described() {
            put(&mut text, name, help, "gauge", &[("", value)]);
        }
        for (name, help, count) in self.counters() {
            put(&mut text, name, help, "counter", &[("", read(count))]);
        }
        let bytes = [
            ("{direction=\"from_daemons\"}", self.tunnel_bytes.received()),
            ("{direction=\"to_daemons\"}", self.tunnel_bytes.sent()),
        ];
        let help = "Bytes of connections from daemons, TLS and probes included";
        put(&mut text, "tunnel_bytes_total", help, "counter", &bytes);
        render_levels(&mut text, levels);
        let labels: Vec<_> = (0..CODES)
            .map(|code| (format!("{{code=\"{code}\"}}"), read(&self.answered[code])))
            .collect();
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, n)| (label.as_str(), *n))
            .collect();
        let help = "Calls: passed on (code 0), or answered by the relay itself with this code";
        put(&mut text, "calls_total", help, "counter", &labels);
        let name = "betcode_relay_routing_seconds";
        let help = "The relay's own part: from a call's arrival (of one that may wait: whole) to its \
                    hand-over to the tunnel. The plan gives it 10 ms";
        self.routing.render(&mut text, name, help);
        render_routing_budget(&mut text);
        let name = "betcode_relay_answer_seconds";
        let help =
            "From a call's arrival to the beginning of its answer: network and daemon included";
        self.answers.render(&mut text, name, help);
        text
    }

    fn counters(&self) -> [(&'static str, &'static str, &AtomicU64); 6] {
        [
            (
                "tunnels_opened_total",
                "Tunnels opened",
                &self.tunnels_opened,
            ),
            (
                "tunnels_refused_total",
                "Connections that became no tunnel",
                &self.tunnels_refused,
            ),
            ("buffered_total", "Requests buffered", &self.buffered),
            (
                "delivered_total",
                "Requests that waited and were done",
                &self.delivered,
            ),
            (
                "delivered_failed_total",
                "Requests that waited and ended with an error",
                &self.delivered_failed,
            ),
            (
                "expired_total",
                "Requests that waited too long",
                &self.expired,
            ),
        ]
    }
}

impl Gauges {
    fn described(&self) -> [(&'static str, &'static str, u64); 17] {
        let per_machine = self.waiting_per_machine_max as u64;
        [
            ("tunnels", "Open tunnels", self.tunnels as u64),
            ("tunnels_max", "Tunnels at most", self.tunnels_max as u64),
            ("clients", "Client connections", self.clients as u64),
            (
                "clients_max",
                "Client connections at most",
                self.clients_max as u64,
            ),
            ("calls", "Calls under way", self.calls as u64),
            (
                "calls_max",
                "Calls under way at most",
                self.calls_max as u64,
            ),
            (
                "waiting_requests",
                "Requests that wait",
                self.waiting as u64,
            ),
            (
                "waiting_requests_max",
                "Requests that may wait",
                self.waiting_max as u64,
            ),
            (
                "waiting_requests_of_fullest_machine",
                "Requests that wait for the machine that has the most of them",
                self.waiting_of_fullest as u64,
            ),
            (
                "waiting_requests_per_machine_max",
                "Requests that may wait for one machine",
                per_machine,
            ),
            ("waiting_bytes", "Bytes that wait", self.waiting_bytes),
            (
                "waiting_bytes_max",
                "Bytes that may wait",
                self.waiting_bytes_max,
            ),
            ("resident_bytes", "Resident memory", self.resident_bytes),
            (
                "resident_bytes_max",
                "The most that it ever was",
                self.resident_bytes_max,
            ),
            (
                "base_bytes",
                "Resident memory when the relay began to serve",
                self.base_bytes,
            ),
            (
                "planned_bytes",
                "Memory by the plan, for as many tunnels, clients and waiting requests as there are",
                self.planned_bytes,
            ),
            (
                "memory_bytes_max",
                "Memory by the plan, for as many as there may be by the settings",
                self.memory_bytes_max,
            ),
        ]
    }
}

impl Buckets {
    fn count(&self, time: Duration) {
        let time_s = time.as_secs_f64();
        let at = TIMES_S.partition_point(|bound| *bound < time_s);
        self.times[at].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn render(&self, text: &mut String, name: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut count = 0;
        for (at, times) in self.times.iter().enumerate() {
            count += times.load(Ordering::Relaxed);
            let bound = TIMES_S.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let sum_s = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{name}_sum {sum_s}\n{name}_count {count}");
    }
}

/// How near its limits the relay is: 0 for well, 1 for a warning, 2 for critical.
fn render_levels(text: &mut String, levels: &[MetricSample]) {
    let labels: Vec<String> = levels
        .iter()
        .map(|sample| format!("{{metric=\"{}\"}}", sample.metric.name()))
        .collect();
    let mut family = |name: &str, help: &str, value: fn(&MetricSample) -> u64| {
        let values = labels.iter().zip(levels);
        let values: Vec<_> = values
            .map(|(label, of)| (label.as_str(), value(of)))
            .collect();
        put(text, name, help, "gauge", &values);
    };
    let help = "How near its limit by the capacity plan: 0 ok, 1 warning, 2 critical";
    family("level", help, |sample| sample.level as u64);
    let help = "How much of it is used: bytes, a count, or thousandths of a processor";
    family("level_used", help, |sample| sample.used);
    let help = "How much there may be, in the same unit";
    family("level_limit", help, |sample| sample.limit);
}

/// What `betcode_relay_routing_seconds` may be at its 0.95 quantile.
fn render_routing_budget(text: &mut String) {
    let name = "betcode_relay_routing_budget_seconds";
    let budget_s = Stage::Relay.budget_ms() as f64 / 1000.0;
    let _ = writeln!(
        text,
        "# HELP {name} What the capacity plan allows the relay's routing at its 0.95 quantile\n\
         # TYPE {name} gauge\n{name} {budget_s}"
    );
}

fn put(text: &mut String, name: &str, help: &str, kind: &str, values: &[(&str, u64)]) {
    let _ = writeln!(
        text,
        "# HELP betcode_relay_{name} {help}\n# TYPE betcode_relay_{name} {kind}"
    );
    for (label, value) in values {
        let _ = writeln!(text, "betcode_relay_{name}{label} {value}");
    }
}

/// Answers every request on the listener with the metrics, until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    render: Arc<dyn Fn() -> String + Send + Sync>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            // One after the other: there is one reader, and a slow one is cut off.
            Ok((stream, _)) => {
                let within = Duration::from_millis(limits::METRICS_MS_MAX);
                let _ = tokio::time::timeout(within, answer(stream, &render())).await;
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    // The request is read to the end of its head. What it asks for does not matter: there is one page.
    let mut request = [0; limits::METRICS_REQUEST_BYTES_MAX];
    let mut bytes = 0;
    while !request[..bytes].windows(4).any(|end| end == b"\r\n\r\n") && bytes < request.len() {
        match stream.read(&mut request[bytes..]).await? {
            0 => return Ok(()),
            more => bytes += more,
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use betcode_storage::capacity::levels::{Level, Metric};

    use super::*;

    #[test]
    fn counts_and_times_stand_where_they_belong() {
        let metrics = Metrics::default();
        metrics.passed(Duration::from_millis(2));
        metrics.passed(Duration::from_millis(9));
        metrics.passed(Duration::from_secs(60));
        metrics.routed(Duration::from_micros(30));
        metrics.refused(Code::Unavailable);
        metrics.delivered(Code::Ok);
        metrics.delivered(Code::DataLoss);
        let gauges = Gauges {
            tunnels: 7,
            tunnels_max: 10,
            ..Gauges::default()
        };
        let sample = MetricSample {
            metric: Metric::Tunnels,
            used: 7,
            limit: 10,
            level: Level::Warning,
        };
        let text = metrics.render(&gauges, &[sample]);
        for line in [
            "betcode_relay_tunnels 7",
            "betcode_relay_level{metric=\"tunnels\"} 1",
            "betcode_relay_level_used{metric=\"tunnels\"} 7",
            "betcode_relay_level_limit{metric=\"tunnels\"} 10",
            "betcode_relay_routing_budget_seconds 0.01",
            "betcode_relay_tunnel_bytes_total{direction=\"to_daemons\"} 0",
            "betcode_relay_calls_total{code=\"0\"} 3",
            "betcode_relay_calls_total{code=\"14\"} 1",
            "betcode_relay_delivered_total 1",
            "betcode_relay_delivered_failed_total 1",
            "betcode_relay_answer_seconds_bucket{le=\"0.001\"} 0",
            "betcode_relay_answer_seconds_bucket{le=\"0.002\"} 1",
            "betcode_relay_answer_seconds_bucket{le=\"0.01\"} 2",
            "betcode_relay_answer_seconds_bucket{le=\"10\"} 2",
            "betcode_relay_answer_seconds_bucket{le=\"+Inf\"} 3",
            "betcode_relay_answer_seconds_count 3",
            "betcode_relay_routing_seconds_bucket{le=\"0.0001\"} 1",
            "betcode_relay_routing_seconds_count 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} not in\n{text}"
            );
        }
    }
}
