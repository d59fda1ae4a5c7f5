//! How near the daemon is to its limits, by the capacity plan's thresholds.

use betcode_service::process::{CpuSampler, CpuUse, resident_bytes};
use betcode_storage::capacity::levels::{LevelTracker, Metric, level_of};
use betcode_storage::capacity::planner::MetricSample;

use crate::core::Core;

/// Takes samples, and follows the levels that they are at.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    tracker: LevelTracker,
    cpu: CpuSampler,
}

impl Sampler {
    /// Takes a sample of everything but the processor; all levels.
    pub(crate) fn sample(&mut self, core: &Core) -> Vec<MetricSample> {
        for metric in Metric::ALL.into_iter().chain([Metric::Disk]) {
            if let Some((used, limit)) = used_now(core, metric) {
                self.observe(metric, used, limit);
            }
        }
        let states = self.tracker.states();
        states
            .map(|(metric, state)| MetricSample {
                metric,
                used: state.used,
                limit: state.limit,
                level: state.level,
            })
            .collect()
    }

    /// Takes a sample of the processor. Its level counts samples that are
    /// [`CPU_SAMPLE_INTERVAL_MS`](betcode_storage::capacity::levels::CPU_SAMPLE_INTERVAL_MS) apart.
    pub(crate) fn sample_processor(&mut self) {
        let CpuUse { used, limit } = self.cpu.sample();
        self.observe(Metric::Cpu, used, limit);
    }

    /// Takes a sample, and logs what changed by it.
    fn observe(&mut self, metric: Metric, used: u64, limit: u64) {
        // Refused only for a limit of 0, which no setting allows.
        let events = self.tracker.observe(metric, used, limit);
        let events = events.unwrap_or_default();
        // The store logs the levels of its database itself.
        for event in events.iter().filter(|_| metric != Metric::SqliteSize) {
            if event.is_worse() {
                tracing::warn!(%event, "capacity");
            } else {
                tracing::info!(%event, "capacity");
            }
        }
    }
}

/// The levels when they were last sampled, with uses, limits and levels as they are now: so they agree with the
/// figures that clients see beside them. The processor's use is one between two samples, and stays.
pub(crate) fn levels_now(core: &Core) -> Vec<MetricSample> {
    let mut samples = core.levels.borrow().clone();
    for sample in &mut samples {
        let Some((used, limit)) = used_now(core, sample.metric) else {
            continue;
        };
        // Never fails: a limit of 0 is refused when it is set.
        let level = level_of(sample.metric, used, limit, sample.level);
        *sample = MetricSample {
            used,
            limit,
            level: level.unwrap_or(sample.level),
            ..*sample
        };
    }
    samples
}

/// What is used of a metric's limit, and the limit; `None` if that cannot be looked up at once.
fn used_now(core: &Core, metric: Metric) -> Option<(u64, u64)> {
    match metric {
        Metric::SqliteSize => Some((core.database_bytes(), core.store.limits().db_bytes_max)),
        Metric::Sessions => {
            let sessions = &core.admission.sessions;
            Some((sessions.used(), sessions.max()))
        }
        Metric::Memory => Some((resident_bytes().now, core.admission.memory.max())),
        Metric::Disk => {
            let used = core.database_bytes();
            Some((used, core.store.disk_limit_bytes(used)?))
        }
        Metric::Cpu | Metric::Tunnels | Metric::BufferSize => None,
    }
}

/// Puts `now` in the place of `last`; whether a level or a limit changed. Uses change all the time, and alone are
/// no change that clients are sent.
pub(crate) fn replace(last: &mut Vec<MetricSample>, now: Vec<MetricSample>) -> bool {
    let key = |sample: &MetricSample| (sample.metric, sample.level, sample.limit);
    let changed = last.iter().map(key).ne(now.iter().map(key));
    *last = now;
    changed
}
