//! The running relay beside the capacity plan: memory, routing, thresholds, relays needed, traffic.

mod socket;
mod text;

pub use socket::{AskError, ask};
pub(crate) use socket::{BudgetSocket, serve};

use betcode_storage::capacity::levels::{Level, Metric};
use betcode_storage::capacity::planner::latency::Stage;
use betcode_storage::capacity::planner::memory::{
    RELAY_BASE_BYTES, RELAY_BUFFERED_MESSAGE_BYTES, RELAY_CLIENT_BYTES, RELAY_TUNNEL_BYTES,
};
use betcode_storage::capacity::planner::relays::RelaysNeeded;
use serde::Serialize;

use crate::levels::{BufferBound, Levels};
use crate::metrics::{Gauges, Metrics};
use crate::plan::{self, Load};

/// What the relay measures, each beside what the plan says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// The process.
    pub pid: u32,
    /// The relay's name.
    pub relay_id: String,
    /// Memory beside *Relay Memory Formula*.
    pub memory: MemoryUse,
    /// Routing beside its row of *Latency Budget*.
    pub routing: RoutingTimes,
    /// *Scaling Thresholds*, those that a relay has.
    pub thresholds: Vec<Threshold>,
    /// *Relay Scaling Formula* for the load that there is.
    pub load: LoadNow,
    /// Relays that it needs; `null` if that cannot be computed.
    pub relays: Option<RelaysNeeded>,
    /// Bytes of connections from daemons since the start, TLS and probes included.
    pub tunnel_bytes: TunnelBytes,
}

/// Memory, measured and by the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// In RAM now.
    pub resident_bytes: u64,
    /// The most that ever was.
    pub resident_bytes_max: u64,
    /// In RAM when it began to serve: what the plan calls the base.
    pub base_bytes: u64,
    /// The plan's base.
    pub base_bytes_planned: u64,
    /// Open tunnels.
    pub tunnels: u64,
    /// What the plan gives each.
    pub tunnel_bytes_planned: u64,
    /// Client connections.
    pub clients: u64,
    /// What the plan gives each.
    pub client_bytes_planned: u64,
    /// Requests that wait.
    pub waiting_requests: u64,
    /// What the plan gives each.
    pub waiting_request_bytes_planned: u64,
    /// The formula for so many of each.
    pub planned_bytes: u64,
    /// The formula for as many as the settings allow.
    pub limit_bytes: u64,
}

/// How long the relay takes to hand a call over to its tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoutingTimes {
    /// Calls handed over since the start.
    pub count: u64,
    /// Half of all were faster, milliseconds; `null` before the first.
    pub p50_ms: Option<f64>,
    /// 95 % of all were faster.
    pub p95_ms: Option<f64>,
    /// 99 % of all were faster.
    pub p99_ms: Option<f64>,
    /// What the plan allows at p95.
    pub budget_ms: u64,
    /// Whether p95 is within that; `null` before the first call.
    pub within: Option<bool>,
}

impl RoutingTimes {
    /// What `metrics` have of it.
    #[must_use]
    pub fn of(metrics: &Metrics) -> Self {
        let times = metrics.routing_times();
        let count = times.count();
        let quantile = |q| (count > 0).then(|| times.quantile_ms(q));
        let budget_ms = Stage::Relay.budget_ms();
        let p95_ms = quantile(0.95);
        Self {
            count,
            p50_ms: quantile(0.5),
            p95_ms,
            p99_ms: quantile(0.99),
            budget_ms,
            within: p95_ms.map(|ms| ms <= budget_ms as f64),
        }
    }
}

/// A metric against its limit and the plan's thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Threshold {
    /// The metric.
    pub metric: Metric,
    /// The plan's name of it.
    pub label: &'static str,
    /// At this share of the limit it is time to scale soon …
    pub warning_percent: u8,
    /// … and at this one to scale now.
    pub critical_percent: u8,
    /// What is used.
    pub used: u64,
    /// Of how much.
    pub limit: u64,
    /// The level.
    pub level: Level,
    /// Of the buffer: which of its bounds is nearest, and so counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<BufferBound>,
}

/// What this relay carries, as the plan counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadNow {
    /// Open tunnels.
    pub tunnels: u64,
    /// Client connections.
    pub clients: u64,
    /// Calls a second in the last sample, which takes ten seconds.
    pub calls_per_s: u64,
    /// The most in any sample since the start: what the plan's requests a second are computed from.
    pub calls_per_s_max: u64,
}

/// Bytes on tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TunnelBytes {
    /// From daemons.
    pub received: u64,
    /// To daemons.
    pub sent: u64,
}

impl Budget {
    /// What a relay measures now.
    #[must_use]
    pub fn of(relay_id: &str, gauges: &Gauges, metrics: &Metrics, levels: &Levels) -> Self {
        let rate = levels.call_rate();
        let load = LoadNow {
            tunnels: gauges.tunnels as u64,
            clients: gauges.clients as u64,
            calls_per_s: rate.per_s,
            calls_per_s_max: rate.per_s_max,
        };
        let planned = plan::plan(&Load {
            tunnels: load.tunnels,
            clients: load.clients,
            buffered: gauges.waiting as u64,
            rps: load.calls_per_s_max,
        });
        let bytes = metrics.tunnel_bytes();
        Self {
            pid: std::process::id(),
            relay_id: relay_id.to_owned(),
            memory: MemoryUse {
                resident_bytes: gauges.resident_bytes,
                resident_bytes_max: gauges.resident_bytes_max,
                base_bytes: gauges.base_bytes,
                base_bytes_planned: RELAY_BASE_BYTES.0,
                tunnels: load.tunnels,
                tunnel_bytes_planned: RELAY_TUNNEL_BYTES.0,
                clients: load.clients,
                client_bytes_planned: RELAY_CLIENT_BYTES.0,
                waiting_requests: gauges.waiting as u64,
                waiting_request_bytes_planned: RELAY_BUFFERED_MESSAGE_BYTES.0,
                planned_bytes: gauges.planned_bytes,
                limit_bytes: gauges.memory_bytes_max,
            },
            routing: RoutingTimes::of(metrics),
            thresholds: thresholds(gauges, levels),
            load,
            relays: planned.ok().map(|plan| plan.relays),
            tunnel_bytes: TunnelBytes {
                received: bytes.received(),
                sent: bytes.sent(),
            },
        }
    }
}

fn thresholds(gauges: &Gauges, levels: &Levels) -> Vec<Threshold> {
    let row = |sample: betcode_storage::capacity::planner::MetricSample| {
        let thresholds = sample.metric.thresholds();
        let is_buffer = sample.metric == Metric::BufferSize;
        Threshold {
            metric: sample.metric,
            label: sample.metric.label(),
            warning_percent: thresholds.warning_percent,
            critical_percent: thresholds.critical_percent,
            used: sample.used,
            limit: sample.limit,
            level: sample.level,
            bound: is_buffer.then(|| BufferBound::nearest(gauges).0),
        }
    };
    levels.now(gauges).into_iter().map(row).collect()
}
