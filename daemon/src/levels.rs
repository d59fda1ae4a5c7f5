//! How near the daemon is to its limits, by the capacity plan's thresholds.

use betcode_schema_grpc::history::ResourceLevel;
use betcode_service::process::{CpuSampler, CpuUse};
use betcode_storage::capacity::levels::{LevelTracker, Metric};

use crate::core::Core;

/// Samples of the measures, and the levels they are at.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    tracker: LevelTracker,
    cpu: CpuSampler,
}

impl Sampler {
    /// Takes a sample of everything but the processor; all levels.
    pub(crate) fn sample(&mut self, core: &Core) -> Vec<ResourceLevel> {
        for metric in Metric::ALL.into_iter().chain([Metric::Disk]) {
            if let Some((used, limit)) = core.used_now(metric) {
                self.observe(metric, used, limit);
            }
        }
        self.tracker
            .states()
            .map(|(metric, state)| ResourceLevel {
                resource: metric.name().to_owned(),
                used: state.used,
                limit: state.limit,
                unit: unit(metric).to_owned(),
                level: state.level.name().to_owned(),
            })
            .collect()
    }

    /// Takes a sample of the processor. Its level counts samples that are
    /// [`CPU_SAMPLE_INTERVAL_MS`](betcode_storage::capacity::levels::CPU_SAMPLE_INTERVAL_MS) apart.
    pub(crate) fn sample_processor(&mut self) {
        let CpuUse { used, limit } = self.cpu.sample();
        self.observe(Metric::Cpu, used, limit);
    }

    /// Takes a sample, and tells the log what changed by it.
    fn observe(&mut self, metric: Metric, used: u64, limit: u64) {
        // Refused only for a limit of 0, which no setting allows.
        let events = self.tracker.observe(metric, used, limit);
        let events = events.unwrap_or_default();
        // The store tells of its database itself.
        for event in events.iter().filter(|_| metric != Metric::SqliteSize) {
            if event.is_worse() {
                tracing::warn!(%event, "capacity");
            } else {
                tracing::info!(%event, "capacity");
            }
        }
    }
}

/// What a metric is counted in, as programs know it.
fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::SqliteSize | Metric::Memory | Metric::Disk => "bytes",
        Metric::Cpu => "milliprocessors",
        Metric::Sessions | Metric::Tunnels | Metric::BufferSize => "count",
    }
}

/// Keeps `now`; whether a level or a limit changed. Uses change all the time, and alone tell nobody.
pub(crate) fn changed(kept: &mut Vec<ResourceLevel>, now: Vec<ResourceLevel>) -> bool {
    let key = |level: &ResourceLevel| (level.resource.clone(), level.level.clone(), level.limit);
    let changed = kept.iter().map(key).ne(now.iter().map(key));
    *kept = now;
    changed
}
