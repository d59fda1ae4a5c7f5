//! How near a limit something is (plan: *Scaling Thresholds*): one evaluation for daemon, relay,
//! metrics, health and `betcode-db`.
//!
//! A level is entered at its threshold and left only a margin below it, so that a value that
//! hovers does not flap. A metric that counts when it is *sustained* changes its level only
//! after so many samples in a row. [`LevelTracker`] turns samples into events, each once.

mod thresholds;
mod tracker;

use std::str::FromStr;

use serde::Serialize;

pub use thresholds::{
    CPU_SAMPLE_INTERVAL_MS, CPU_SUSTAINED_SAMPLES, LEVEL_MARGIN_PERCENT, Thresholds,
};
pub use tracker::{CapacityEvent, LevelTracker, MetricState};

use super::error::{CapacityError, Result};
use super::text;

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing to do.
    #[default]
    Ok,
    /// Scale soon.
    Warning,
    /// Scale now.
    Critical,
}

impl Level {
    /// The level as in JSON: `ok`, `warning`, `critical`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The level for people: what needs them is not overlooked.
    #[must_use]
    pub fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }
}

/// Reads [`Level::name`].
impl FromStr for Level {
    type Err = CapacityError;

    fn from_str(name: &str) -> Result<Self> {
        const ALL: [Level; 3] = [Level::Ok, Level::Warning, Level::Critical];
        by_name("level", name, &ALL, Level::name)
    }
}

/// Reads [`Metric::name`].
impl FromStr for Metric {
    type Err = CapacityError;

    fn from_str(name: &str) -> Result<Self> {
        let known: Vec<_> = Self::ALL.into_iter().chain([Self::Disk]).collect();
        by_name("metric", name, &known, Metric::name)
    }
}

fn by_name<T: Copy>(
    kind: &'static str,
    name: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T> {
    let found = all.iter().copied().find(|one| name_of(*one) == name);
    found.ok_or_else(|| CapacityError::UnknownName {
        kind,
        name: name.chars().take(80).collect(),
        known: all
            .iter()
            .map(|one| name_of(*one))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// What is held against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Sessions in use, of the most there may be.
    Sessions,
    /// Resident bytes, of the memory limit.
    Memory,
    /// Busy thousandths of a processor, of those there are. Counts when sustained.
    Cpu,
    /// Tunnels, of the most a relay carries.
    Tunnels,
    /// Messages or bytes buffered, of the buffer's capacity.
    BufferSize,
    /// Bytes of the database and its WAL, of the size limit.
    SqliteSize,
    /// The same, of what they may take until the disk is full. Ours: the plan names no disk.
    Disk,
}

impl Metric {
    /// The plan's metrics, in its order: all but [`Metric::Disk`].
    pub const ALL: [Self; 6] = [
        Self::Sessions,
        Self::Memory,
        Self::Cpu,
        Self::Tunnels,
        Self::BufferSize,
        Self::SqliteSize,
    ];

    /// The metric as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Tunnels => "tunnels",
            Self::BufferSize => "buffer_size",
            Self::SqliteSize => "sqlite_size",
            Self::Disk => "disk",
        }
    }

    /// The metric as the plan's table has it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Sessions => "Sessions",
            Self::Memory => "Memory",
            Self::Cpu => "CPU",
            Self::Tunnels => "Tunnels",
            Self::BufferSize => "Buffer size",
            Self::SqliteSize => "SQLite size",
            Self::Disk => "Disk",
        }
    }

    /// The metric in a sentence.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Sessions => "sessions in use",
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Tunnels => "tunnels",
            Self::BufferSize => {
                "the buffer (requests in all or of one machine, or bytes, whichever is nearest)"
            }
            Self::SqliteSize => "the database",
            Self::Disk => "the disk (the database, of what it may take before the disk is full)",
        }
    }

    /// What helps, in one sentence that is true in whichever program says it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Sessions => {
                "close sessions that are done, raise max_sessions, or use another machine"
            }
            Self::Memory => {
                "close sessions or clients (a daemon: or raise max_memory_bytes; a relay: or add another)"
            }
            Self::Cpu => {
                "use a machine with more processors (a daemon: or pause its compaction; a relay: or add another)"
            }
            Self::Tunnels => "add a relay",
            Self::BufferSize => {
                "bring the daemons that are away back, or raise the buffer's limits"
            }
            Self::SqliteSize => {
                "compact, delete sessions, or raise the limit (--limit-bytes, a daemon's max_db_bytes)"
            }
            Self::Disk => {
                "free space on the disk, compact, delete sessions, or move the database (betcode-db backup)"
            }
        }
    }

    /// Its thresholds in the plan.
    #[must_use]
    pub const fn thresholds(self) -> Thresholds {
        let (warning_percent, critical_percent) = match self {
            Self::Sessions => (80, 95),
            Self::Memory => (70, 85),
            Self::Cpu | Self::Tunnels | Self::BufferSize | Self::SqliteSize | Self::Disk => {
                (70, 90)
            }
        };
        let samples_min = match self {
            Self::Cpu => CPU_SUSTAINED_SAMPLES,
            _ => 1,
        };
        Thresholds {
            warning_percent,
            critical_percent,
            margin_percent: LEVEL_MARGIN_PERCENT,
            samples_min,
        }
    }

    /// `used` of `limit`, in what people count it in.
    pub(crate) fn used_of(self, used: u64, limit: u64) -> String {
        let limit = self.amount(limit);
        match self {
            Self::Cpu => format!("{}.{:03} of {limit}", used / 1000, used % 1000),
            _ => format!("{} of {limit}", self.amount(used)),
        }
    }

    pub(crate) fn amount(self, value: u64) -> String {
        match self {
            Self::Memory | Self::SqliteSize | Self::Disk => text::bytes(value),
            Self::Cpu => format!("{}.{:03} processors", value / 1000, value % 1000),
            Self::Sessions | Self::Tunnels | Self::BufferSize => text::count(value),
        }
    }
}

/// The level of `used` against `limit`, when it was `previous` before: the one evaluation that
/// everything else uses. Integers only: at exactly its threshold a level is reached.
///
/// ```
/// use betcode_storage::capacity::levels::{Level, Metric, level_of};
/// assert_eq!(level_of(Metric::SqliteSize, 700, 1000, Level::Ok).unwrap(), Level::Warning);
/// // It fell below 70 %, but not below 65 %: still a warning.
/// assert_eq!(level_of(Metric::SqliteSize, 660, 1000, Level::Warning).unwrap(), Level::Warning);
/// assert_eq!(level_of(Metric::SqliteSize, 649, 1000, Level::Warning).unwrap(), Level::Ok);
/// ```
///
/// # Errors
/// [`CapacityError::Zero`] for a limit of 0.
pub fn level_of(metric: Metric, used: u64, limit: u64, previous: Level) -> Result<Level> {
    metric.thresholds().level_of(used, limit, previous)
}

/// Share of the limit that is used.
///
/// # Errors
/// [`CapacityError::Zero`] for a limit of 0.
pub fn used_fraction(used: u64, limit: u64) -> Result<f64> {
    if limit == 0 {
        return Err(zero_limit());
    }
    Ok(used as f64 / limit as f64)
}

pub(crate) fn zero_limit() -> CapacityError {
    CapacityError::Zero {
        what: "limit",
        why: "nothing fits under a limit of 0, so no share of it can be used",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Warning and critical are reached at these percentages, and not one unit before.
    fn assert_thresholds(metric: Metric, warning: u64, critical: u64) {
        let level = |used| level_of(metric, used, 100_000, Level::Ok).unwrap();
        assert_eq!(level(warning * 1000 - 1), Level::Ok);
        assert_eq!(level(warning * 1000), Level::Warning);
        assert_eq!(level(critical * 1000 - 1), Level::Warning);
        assert_eq!(level(critical * 1000), Level::Critical);
    }

    #[test]
    fn threshold_row_sessions_80_and_95_percent() {
        assert_thresholds(Metric::Sessions, 80, 95);
    }

    #[test]
    fn threshold_row_memory_70_and_85_percent() {
        assert_thresholds(Metric::Memory, 70, 85);
    }

    #[test]
    fn threshold_row_cpu_70_and_90_percent_sustained() {
        assert_thresholds(Metric::Cpu, 70, 90);
        assert!(Metric::Cpu.thresholds().samples_min > 1);
    }

    #[test]
    fn threshold_row_tunnels_70_and_90_percent() {
        assert_thresholds(Metric::Tunnels, 70, 90);
    }

    #[test]
    fn threshold_row_buffer_size_70_and_90_percent() {
        assert_thresholds(Metric::BufferSize, 70, 90);
    }

    #[test]
    fn threshold_row_sqlite_size_70_and_90_percent() {
        assert_thresholds(Metric::SqliteSize, 70, 90);
    }

    #[test]
    fn the_disk_has_the_levels_of_the_database_and_its_name_is_read() {
        assert_thresholds(Metric::Disk, 70, 90);
        assert_eq!("disk".parse::<Metric>().unwrap(), Metric::Disk);
    }

    #[test]
    fn a_limit_of_zero_is_refused_for_every_metric() {
        for metric in Metric::ALL {
            assert!(level_of(metric, 0, 0, Level::Ok).is_err());
        }
        assert!(used_fraction(1, 0).is_err());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        assert_eq!(
            level_of(Metric::Memory, u64::MAX, 1, Level::Ok).unwrap(),
            Level::Critical
        );
        assert_eq!(
            level_of(Metric::Memory, u64::MAX, u64::MAX, Level::Ok).unwrap(),
            Level::Critical
        );
        assert_eq!(
            level_of(Metric::Memory, 1, u64::MAX, Level::Critical).unwrap(),
            Level::Ok
        );
    }
}
