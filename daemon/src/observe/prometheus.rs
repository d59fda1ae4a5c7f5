//! Metrics in Prometheus' text format, over HTTP on loopback.

mod store;

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use betcode_schema_grpc::history::TrafficRate;
use betcode_service::process::resident_bytes;
use betcode_storage::SpaceLimit;
use betcode_storage::capacity::planner::MetricSample;
use tokio::net::TcpListener;

use crate::admission::Limit;
use crate::core::Core;
use crate::levels::levels_now;
use crate::settings::planned_memory_bytes;
use crate::tunnel::TunnelState;

/// Serves `/metrics` until the daemon begins to stop.
///
/// # Errors
/// Those of the listener.
pub async fn serve(core: Arc<Core>, listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(&core));
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { core.drained().await })
        .await
}

async fn metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        render(&core).await,
    )
}

/// All metrics as text.
pub async fn render(core: &Arc<Core>) -> String {
    let mut text = Text::default();
    counters(core, &mut text);
    limits(core, &mut text);
    levels(core, &mut text);
    gauges(core, &mut text);
    memory(core, &mut text);
    traffic(core, &mut text);
    components(core, &mut text);
    stages(core, &mut text);
    store::store(core, &mut text).await;
    text.0
}

/// Metrics as they are written.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A family of metrics, each sample with what follows the family's name.
    fn family<'a>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        samples: impl IntoIterator<Item = (Cow<'a, str>, f64)>,
    ) {
        // Writing to a String does not fail.
        let _ = writeln!(
            self.0,
            "# HELP betcode_{name} {help}.\n# TYPE betcode_{name} {kind}"
        );
        for (labels, value) in samples {
            let _ = writeln!(self.0, "betcode_{name}{labels} {value}");
        }
    }

    /// Families that are written already.
    fn append(&mut self, families: &str) {
        self.0.push_str(families);
    }

    /// A metric without labels.
    fn one(&mut self, described: (&str, &str, &str), value: u64) {
        self.family(described, [(Cow::Borrowed(""), value as f64)]);
    }
}

fn counters(core: &Core, text: &mut Text) {
    let metrics = &core.metrics;
    let all = metrics.counters().into_iter();
    for (name, help, value) in all.chain(metrics.traffic_counters()) {
        text.one((&format!("{name}_total"), "counter", help), value);
    }
}

/// A limit as it is shown. What has no use or maximum of its own has no sample of it.
struct LimitSample {
    name: &'static str,
    used: Option<u64>,
    max: Option<u64>,
    refused: u64,
}

impl From<&Arc<Limit>> for LimitSample {
    fn from(limit: &Arc<Limit>) -> Self {
        Self {
            name: limit.name(),
            used: Some(limit.used()),
            max: Some(limit.max()),
            refused: limit.refused(),
        }
    }
}

/// The limits of space, which the store counts.
fn space_limits(core: &Core) -> [LimitSample; 3] {
    let (limits, refused) = (core.store.limits(), core.store.space_refusals());
    [
        LimitSample {
            name: SpaceLimit::Database.name(),
            used: Some(core.database_bytes()),
            max: Some(limits.db_bytes_max),
            refused: refused.database,
        },
        LimitSample {
            name: SpaceLimit::Session.name(),
            used: None,
            max: Some(limits.session_bytes_max),
            refused: refused.session,
        },
        LimitSample {
            name: SpaceLimit::Disk.name(),
            used: None,
            max: None,
            refused: refused.disk,
        },
    ]
}

fn limits(core: &Core, text: &mut Text) {
    let admission = &core.admission;
    admission
        .conversations
        .observe(core.agents.conversations() as u64);
    let queued = core.store.queue_depth().requests as u64;
    admission.writer_queue.observe(queued);
    let queue_max = core.settings.max_queue_requests as u64;
    admission.writer_queue.set_max(queue_max);
    let elsewhere = [
        core.blocking.long_jobs(),
        core.blocking.long_lines().limit(),
        &core.metrics.tunnel.large_answers,
    ];
    let counted = admission.all().into_iter().chain(elsewhere);
    let mut all: Vec<LimitSample> = counted.map(LimitSample::from).collect();
    all.extend(space_limits(core));
    let samples = |value: fn(&LimitSample) -> Option<u64>| {
        all.iter().filter_map(move |limit| {
            let label = format!("{{limit=\"{}\"}}", limit.name);
            Some((Cow::Owned(label), value(limit)? as f64))
        })
    };
    let used = ("limit_used", "gauge", "How much of a limit is used");
    text.family(used, samples(|limit| limit.used));
    let max = ("limit_max", "gauge", "How much of it there is");
    text.family(max, samples(|limit| limit.max));
    let refused = ("limit_refused_total", "counter", "Requests it refused");
    text.family(refused, samples(|limit| Some(limit.refused)));
}

fn levels(core: &Core, text: &mut Text) {
    let all = levels_now(core);
    let samples = |value: fn(&MetricSample) -> u64| {
        all.iter().map(move |sample| {
            let label = format!("{{metric=\"{}\"}}", sample.metric.name());
            (Cow::Owned(label), value(sample) as f64)
        })
    };
    let help = "How near its limit by the capacity plan: 0 ok, 1 warning, 2 critical";
    text.family(
        ("level", "gauge", help),
        samples(|sample| sample.level as u64),
    );
    let help = "How much of it is used: bytes, a count, or thousandths of a processor";
    text.family(("level_used", "gauge", help), samples(|sample| sample.used));
    let help = "How much there may be, in the same unit";
    text.family(
        ("level_limit", "gauge", help),
        samples(|sample| sample.limit),
    );
}

fn gauges(core: &Core, text: &mut Text) {
    let queue = core.store.queue_depth();
    let tunnel_since = match *core.tunnel.borrow() {
        TunnelState::Open { since, .. } => Some(since),
        _ => None,
    };
    for (name, help, value) in [
        (
            "queue_requests",
            "Batches waiting for the writer",
            queue.requests as u64,
        ),
        (
            "queue_bytes",
            "Bytes waiting for the writer: payloads, and a little more for each message",
            queue.bytes as u64,
        ),
        ("database_bytes", "Main file and log", core.database_bytes()),
        (
            "database_limit_bytes",
            "What they may reach",
            core.store.limits().db_bytes_max,
        ),
        (
            "resident_bytes",
            "Memory of the daemon in RAM",
            resident_bytes().now,
        ),
        (
            "serving",
            "1 while the store reads and writes",
            u64::from(core.health.borrow().serving()),
        ),
        (
            "tunnel_open",
            "1 while clients of the relay reach the daemon",
            u64::from(tunnel_since.is_some()),
        ),
    ] {
        text.one((name, "gauge", help), value);
    }
    let age = tunnel_since.map(|since| (Cow::Borrowed(""), since.elapsed().as_secs_f64()));
    let help = "For how long the tunnel is open; no sample while it is not";
    text.family(("tunnel_open_seconds", "gauge", help), age);
}

/// The capacity plan's kinds of traffic, one of each, beside what was measured.
fn traffic(core: &Core, text: &mut Text) {
    let rates = core.metrics.traffic_rates();
    let samples = |value: fn(&TrafficRate) -> Option<f64>| {
        rates.iter().filter_map(move |rate| {
            let label = format!("{{traffic=\"{}\"}}", rate.traffic);
            Some((Cow::Owned(label), value(rate)?))
        })
    };
    let help = "What one of a kind of traffic takes: of the tunnel while it is idle, else payload bytes of a \
                stream in the seconds in which it had any; none before the first";
    let measured = ("traffic_bytes_per_second", "gauge", help);
    text.family(measured, samples(|rate| rate.measured_bytes_per_second));
    let help = "What it takes by the capacity plan";
    let planned = ("traffic_planned_bytes_per_second", "gauge", help);
    text.family(planned, samples(|rate| Some(rate.planned_bytes_per_second)));
}

/// Memory beside the capacity plan's formula.
fn memory(core: &Core, text: &mut Text) {
    let admission = &core.admission;
    let planned = planned_memory_bytes(
        admission.sessions.used(),
        admission.clients.used(),
        admission.subprocesses.used(),
    );
    for (name, help, value) in [
        (
            "base_bytes",
            "Memory in RAM when the daemon began to serve",
            core.base_bytes,
        ),
        (
            "planned_bytes",
            "Memory by the capacity plan for the sessions, clients and agents in use",
            planned,
        ),
        (
            "sqlite_cache_limit_bytes",
            "What the page caches of the store may take",
            core.store.options().sqlite_cache_bytes(),
        ),
    ] {
        text.one((name, "gauge", help), value);
    }
}

/// The components of health, as clients of `BetCodeHealth` see them.
fn components(core: &Core, text: &mut Text) {
    let health = core.health.borrow();
    let samples = health.components.iter().map(|component| {
        let label = format!("{{component=\"{}\"}}", component.name);
        let needs_somebody = component.degraded || !component.serving;
        (Cow::Owned(label), f64::from(u8::from(needs_somebody)))
    });
    let help = "1 while a component of the daemon needs somebody; health says why";
    text.family(("degraded", "gauge", help), samples);
}

fn stages(core: &Core, text: &mut Text) {
    let (mut samples, mut sums, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut budgets = Vec::new();
    for (stage, latency, budget_ms) in core.metrics.stages() {
        let of_stage = format!("{{stage=\"{stage}\"}}");
        // A quantile of nothing would look like a perfect one.
        let passed = latency.count() > 0;
        for (name, quantile) in [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)] {
            let labels = format!("{{stage=\"{stage}\",quantile=\"{name}\"}}");
            let seconds = latency.quantile_ms(quantile) / 1000.0;
            samples.extend(passed.then_some((Cow::Owned(labels), seconds)));
        }
        let labels = format!("_sum{of_stage}");
        sums.push((Cow::Owned(labels), latency.sum_seconds()));
        let labels = format!("_count{of_stage}");
        counts.push((Cow::Owned(labels), latency.count() as f64));
        budgets.push((Cow::Owned(of_stage), budget_ms / 1000.0));
    }
    for of_tunnel in core.metrics.tunnel_stages() {
        let stage = &of_tunnel.stage;
        for (name, ms) in [
            ("0.5", of_tunnel.p50_ms),
            ("0.95", of_tunnel.p95_ms),
            ("0.99", of_tunnel.p99_ms),
        ] {
            let labels = format!("{{stage=\"{stage}\",quantile=\"{name}\"}}");
            samples.push((Cow::Owned(labels), ms / 1000.0));
        }
        // Their sums are not known: the relay sends quantiles.
        let labels = format!("_count{{stage=\"{stage}\"}}");
        counts.push((Cow::Owned(labels), of_tunnel.count as f64));
        let labels = format!("{{stage=\"{stage}\"}}");
        budgets.push((Cow::Owned(labels), of_tunnel.budget_ms / 1000.0));
    }
    samples.append(&mut sums);
    samples.append(&mut counts);
    let help = "Latency of a stage: quantiles of all since the start of the daemon, not of the last minutes; \
                none before the first";
    text.family(("stage_seconds", "summary", help), samples);
    let help = "What the capacity plan allows a stage at its 0.95 quantile";
    text.family(("stage_budget_seconds", "gauge", help), budgets);
}
