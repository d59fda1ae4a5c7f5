//! How near the daemon is to its limits, by the capacity plan's thresholds.

use betcode_schema_grpc::history::ResourceLevel;
use betcode_storage::capacity::levels::{LevelTracker, Metric};

use crate::core::Core;

/// Samples of the measures, and the levels they are at.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    tracker: LevelTracker,
}

impl Sampler {
    /// Takes a sample of everything.
    pub(crate) fn sample(&mut self, core: &Core) -> Vec<ResourceLevel> {
        let (db_bytes_max, _) = core.store.limits();
        let database_bytes = core.database_bytes();
        let sessions = &core.admission.sessions;
        let measures = [
            (Metric::SqliteSize, database_bytes, db_bytes_max, "bytes"),
            (Metric::Sessions, sessions.used(), sessions.max(), "count"),
            (
                Metric::Memory,
                resident_bytes().0,
                core.admission.memory.max(),
                "bytes",
            ),
        ];
        measures
            .into_iter()
            .filter_map(|(metric, used, limit, unit)| {
                self.observe(metric, used, limit)?;
                Some(ResourceLevel {
                    resource: metric.name().to_owned(),
                    used,
                    limit,
                    unit: unit.to_owned(),
                    level: self.tracker.level(metric).name().to_owned(),
                })
            })
            .collect()
    }

    /// Takes a sample, and tells the log what changed by it.
    fn observe(&mut self, metric: Metric, used: u64, limit: u64) -> Option<()> {
        // Refused only for a limit of 0, which no setting allows.
        let events = self.tracker.observe(metric, used, limit).ok()?;
        // The store tells of its database itself.
        for event in events.iter().filter(|_| metric != Metric::SqliteSize) {
            if event.is_worse() {
                tracing::warn!(%event, "capacity");
            } else {
                tracing::info!(%event, "capacity");
            }
        }
        Some(())
    }
}

/// Keeps `now`; whether a level or a limit changed. Uses change all the time, and alone tell nobody.
pub(crate) fn changed(kept: &mut Vec<ResourceLevel>, now: Vec<ResourceLevel>) -> bool {
    let key = |level: &ResourceLevel| (level.resource.clone(), level.level.clone(), level.limit);
    let changed = kept.iter().map(key).ne(now.iter().map(key));
    *kept = now;
    changed
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
