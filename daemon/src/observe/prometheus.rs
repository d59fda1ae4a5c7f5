//! Metrics in Prometheus' text format, over HTTP on loopback.

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
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&core))
}

/// A level by its name, as the number that the relay's metrics have for it.
fn severity(name: &str) -> u64 {
    let levels = [Level::Ok, Level::Warning, Level::Critical];
    let level = levels.into_iter().find(|level| level.name() == name);
    level.unwrap_or_default() as u64
}

/// All metrics as text.
#[must_use]
pub fn render(core: &Core) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "# HELP betcode_{name} {help}.\n# TYPE betcode_{name} {kind}"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "betcode_{name}{labels} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value as f64)];
    for (name, help, value) in core.metrics.counters() {
        family(&format!("{name}_total"), "counter", help, &one(value));
    }
    let limits = core.admission.all();
    let by_limit = |value: &dyn Fn(&crate::admission::Limit) -> u64| -> Vec<(String, f64)> {
        let label = |name: &str| format!("{{limit=\"{name}\"}}");
        limits
            .iter()
            .map(|limit| (label(limit.name()), value(limit) as f64))
            .collect()
    };
    family(
        "limit_used",
        "gauge",
        "How much of a limit is used",
        &by_limit(&|l| l.used()),
    );
    family(
        "limit_max",
        "gauge",
        "How much of it there is",
        &by_limit(&|l| l.max()),
    );
    family(
        "limit_refused_total",
        "counter",
        "Requests it refused",
        &by_limit(&|l| l.refused()),
    );
    let levels = core.levels_now();
    let by_metric = |value: &dyn Fn(&ResourceLevel) -> u64| -> Vec<(String, f64)> {
        let label = |metric: &str| format!("{{metric=\"{metric}\"}}");
        levels
            .iter()
            .map(|level| (label(&level.resource), value(level) as f64))
            .collect()
    };
    family(
        "level",
        "gauge",
        "How near its limit by the capacity plan: 0 ok, 1 warning, 2 critical",
        &by_metric(&|l| severity(&l.level)),
    );
    family(
        "level_used",
        "gauge",
        "How much of it is used: bytes, a count, or thousandths of a processor",
        &by_metric(&|l| l.used),
    );
    family(
        "level_limit",
        "gauge",
        "How much there may be, in the same unit",
        &by_metric(&|l| l.limit),
    );
    let queue = core.store.queue_depth();
    family(
        "queue_requests",
        "gauge",
        "Batches waiting for the writer",
        &one(queue.requests as u64),
    );
    family(
        "queue_bytes",
        "gauge",
        "Bytes waiting for the writer: payloads, and a little more for each message",
        &one(queue.bytes as u64),
    );
    family(
        "database_bytes",
        "gauge",
        "Main file and log",
        &one(core.database_bytes()),
    );
    family(
        "database_limit_bytes",
        "gauge",
        "What they may reach",
        &one(core.store.limits().db_bytes_max),
    );
    family(
        "resident_bytes",
        "gauge",
        "Memory of the daemon in RAM",
        &one(resident_bytes().now),
    );
    let serving = u64::from(core.health.borrow().serving());
    family(
        "serving",
        "gauge",
        "1 while the store reads and writes",
        &one(serving),
    );
    let open = u64::from(matches!(*core.tunnel.borrow(), TunnelState::Open { .. }));
    family(
        "tunnel_open",
        "gauge",
        "1 while clients of the relay reach the daemon",
        &one(open),
    );
    let mut stages = Vec::new();
    let mut counts = Vec::new();
    let mut sums = Vec::new();
    for (stage, latency, _) in core.metrics.stages() {
        for q in ["0.5", "0.95", "0.99"] {
            let seconds = latency.quantile_ms(q.parse().unwrap_or_default()) / 1000.0;
            stages.push((format!("{{stage=\"{stage}\",quantile=\"{q}\"}}"), seconds));
        }
        counts.push((
            format!("_count{{stage=\"{stage}\"}}"),
            latency.count() as f64,
        ));
        sums.push((format!("_sum{{stage=\"{stage}\"}}"), latency.sum_seconds()));
    }
    stages.extend(sums);
    stages.extend(counts);
    family(
        "stage_seconds",
        "summary",
        "Latency of a stage since the start",
        &stages,
    );
    text
}
