//! How near the daemon is to its limits, by the capacity plan's thresholds.

use std::time::{Duration, Instant};

use betcode_schema_grpc::history::ResourceLevel;
use betcode_storage::capacity::levels::{LevelTracker, Metric};

use crate::core::Core;

/// Samples of the measures, and the levels they are at.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    tracker: LevelTracker,
    busy_before: Option<(Instant, Duration)>,
}

impl Sampler {
    /// Takes a sample of everything but the processor; all levels.
    pub(crate) fn sample(&mut self, core: &Core) -> Vec<ResourceLevel> {
        let db_bytes_max = core.store.limits().db_bytes_max;
        let sessions = &core.admission.sessions;
        self.observe(Metric::SqliteSize, core.database_bytes(), db_bytes_max);
        self.observe(Metric::Sessions, sessions.used(), sessions.max());
        let memory_bytes_max = core.admission.memory.max();
        self.observe(Metric::Memory, resident_bytes().0, memory_bytes_max);
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
        let (busy, processors) = self.busy();
        self.observe(Metric::Cpu, busy, processors);
    }

    /// Busy thousandths of a processor since the last sample, of those there are.
    fn busy(&mut self) -> (u64, u64) {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let now = (Instant::now(), processor_time());
        let busy = self.busy_before.replace(now).map_or(0.0, |(then, before)| {
            let passed = now.0.duration_since(then).as_secs_f64().max(1e-3);
            now.1.saturating_sub(before).as_secs_f64() / passed
        });
        ((busy * 1000.0) as u64, processors * 1000)
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
        Metric::SqliteSize | Metric::Memory => "bytes",
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

/// Processor time of this process; its agents are processes of their own.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Memory of this process that is in RAM now, and the most that ever was; 0 where the system does
/// not tell.
#[must_use]
pub fn resident_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    };
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_spins_is_busy() {
        let mut sampler = Sampler::default();
        sampler.busy();
        let before = processor_time();
        while processor_time() == before {
            std::hint::black_box(before);
        }
        let (busy, processors) = sampler.busy();
        assert!(busy > 0 && processors >= 1000, "{busy} of {processors}");
    }
}
