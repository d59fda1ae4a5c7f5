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
use betcode_schema_grpc::history::ResourceLevel;
use betcode_service::process::resident_bytes;
use betcode_storage::capacity::levels::Level;
use tokio::net::TcpListener;

use crate::admission::Limit;
use crate::core::Core;
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
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&core).await)
}

/// A level by its name, as the number that the relay's metrics have for it.
fn severity(name: &str) -> u64 {
    let levels = [Level::Ok, Level::Warning, Level::Critical];
    let level = levels.into_iter().find(|level| level.name() == name);
    level.unwrap_or_default() as u64
}

/// All metrics as text.
pub async fn render(core: &Arc<Core>) -> String {
    let mut text = Text::default();
    counters(core, &mut text);
    limits(core, &mut text);
    levels(core, &mut text);
    gauges(core, &mut text);
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
    for (name, help, value) in core.metrics.counters() {
        text.one((&format!("{name}_total"), "counter", help), value);
    }
}

fn limits(core: &Core, text: &mut Text) {
    let all = core.admission.all();
    let samples = |value: fn(&Limit) -> u64| {
        all.iter().map(move |limit| {
            let label = format!("{{limit=\"{}\"}}", limit.name());
            (Cow::Owned(label), value(limit) as f64)
        })
    };
    let used = ("limit_used", "gauge", "How much of a limit is used");
    text.family(used, samples(Limit::used));
    let max = ("limit_max", "gauge", "How much of it there is");
    text.family(max, samples(Limit::max));
    let refused = ("limit_refused_total", "counter", "Requests it refused");
    text.family(refused, samples(Limit::refused));
}

fn levels(core: &Core, text: &mut Text) {
    let all = core.levels_now();
    let samples = |value: fn(&ResourceLevel) -> u64| {
        all.iter().map(move |level| {
            let label = format!("{{metric=\"{}\"}}", level.resource);
            (Cow::Owned(label), value(level) as f64)
        })
    };
    let help = "How near its limit by the capacity plan: 0 ok, 1 warning, 2 critical";
    text.family(
        ("level", "gauge", help),
        samples(|level| severity(&level.level)),
    );
    let help = "How much of it is used: bytes, a count, or thousandths of a processor";
    text.family(("level_used", "gauge", help), samples(|level| level.used));
    let help = "How much there may be, in the same unit";
    text.family(("level_limit", "gauge", help), samples(|level| level.limit));
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
    for (stage, latency, _) in core.metrics.stages() {
        for (name, quantile) in [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)] {
            let labels = format!("{{stage=\"{stage}\",quantile=\"{name}\"}}");
            samples.push((Cow::Owned(labels), latency.quantile_ms(quantile) / 1000.0));
        }
        let labels = format!("_sum{{stage=\"{stage}\"}}");
        sums.push((Cow::Owned(labels), latency.sum_seconds()));
        let labels = format!("_count{{stage=\"{stage}\"}}");
        counts.push((Cow::Owned(labels), latency.count() as f64));
    }
    samples.append(&mut sums);
    samples.append(&mut counts);
    let help = "Latency of a stage since the start";
    text.family(("stage_seconds", "summary", help), samples);
}
