//! The plan's *Scaling Thresholds* beside the limits in force and what is used of them.

use serde::Serialize;

use super::inputs::PlanInputs;
use crate::capacity::error::Result;
use crate::capacity::levels::{Level, Metric, level_of};
use crate::capacity::report::CapacityReport;

/// A sample of a metric that somebody measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricSample {
    /// Of what.
    pub metric: Metric,
    /// What is used.
    pub used: u64,
    /// Of how much.
    pub limit: u64,
    /// The level that it is at, by whoever follows it.
    pub level: Level,
}

impl MetricSample {
    /// The size of a store.
    #[must_use]
    pub fn of_store(report: &CapacityReport) -> Self {
        Self {
            metric: Metric::SqliteSize,
            used: report.used_bytes(),
            limit: report.limit_bytes,
            level: report.level,
        }
    }

    /// A sample as programs tell it, by names; `None` when a name says nothing here.
    #[must_use]
    pub fn named(metric: &str, used: u64, limit: u64, level: &str) -> Option<Self> {
        Some(Self {
            metric: metric.parse().ok()?,
            used,
            limit,
            level: level.parse().ok()?,
        })
    }
}

/// A row of the plan's table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThresholdRow {
    /// The metric.
    pub metric: Metric,
    /// The plan's name of it.
    pub label: &'static str,
    /// At this share of the limit it is time to scale soon …
    pub warning_percent: u8,
    /// … and at this one to scale now.
    pub critical_percent: u8,
    /// The limit that is configured; `None` where the plan's inputs have none and none was measured.
    pub limit: Option<u64>,
    /// What is used; `None` when it was not measured.
    pub used: Option<u64>,
    /// The level of that against the limit.
    pub level: Option<Level>,
}

/// The table, with what `samples` measured. The limits of memory and database are the inputs', which
/// may be others than those that were measured against. Of a metric given twice the first counts.
///
/// # Errors
/// [`CapacityError::Zero`](crate::capacity::CapacityError::Zero) for a limit of 0.
pub(super) fn thresholds(
    inputs: &PlanInputs,
    samples: &[MetricSample],
) -> Result<Vec<ThresholdRow>> {
    let row = |metric: Metric| {
        let sample = samples.iter().find(|sample| sample.metric == metric);
        let configured = match metric {
            Metric::Memory => Some(inputs.memory_budget.limit_bytes.value.0),
            Metric::SqliteSize => Some(inputs.storage_growth.limit_bytes.value.0),
            Metric::Sessions
            | Metric::Cpu
            | Metric::Tunnels
            | Metric::BufferSize
            | Metric::Disk => None,
        };
        let limit = configured.or_else(|| sample.map(|sample| sample.limit));
        let level = match (sample, limit) {
            (Some(sample), Some(limit)) if limit == sample.limit => Some(sample.level),
            (Some(sample), Some(limit)) => Some(level_of(metric, sample.used, limit, Level::Ok)?),
            _ => None,
        };
        let thresholds = metric.thresholds();
        Ok(ThresholdRow {
            metric,
            label: metric.label(),
            warning_percent: thresholds.warning_percent,
            critical_percent: thresholds.critical_percent,
            limit,
            used: sample.map(|sample| sample.used),
            level,
        })
    };
    Metric::ALL.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::quantity::{ByteCount, Input, MB};

    #[test]
    fn each_threshold_of_the_plan_stands_beside_the_limit_and_what_was_measured() {
        let mut inputs = PlanInputs::default();
        inputs.memory_budget.limit_bytes = Input::given(ByteCount(100 * MB));
        let samples = [
            MetricSample::named("sessions", 17, 20, "warning").unwrap(),
            // Held by its margin where it was measured, and not against another limit.
            MetricSample::named("memory", 66 * MB, 99 * MB, "warning").unwrap(),
            MetricSample::named("sqlite_size", 660 * MB, 1_000 * MB, "warning").unwrap(),
        ];
        let rows = thresholds(&inputs, &samples).unwrap();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                let percents = (row.warning_percent, row.critical_percent);
                (row.label, percents, row.used, row.limit, row.level)
            })
            .collect();
        let mb = |count: u64| Some(count * MB);
        let warning = Some(Level::Warning);
        assert_eq!(
            shown,
            [
                ("Sessions", (80, 95), Some(17), Some(20), warning),
                ("Memory", (70, 85), mb(66), mb(100), Some(Level::Ok)),
                ("CPU", (70, 90), None, None, None),
                ("Tunnels", (70, 90), None, None, None),
                ("Buffer size", (70, 90), None, None, None),
                ("SQLite size", (70, 90), mb(660), mb(1_000), warning),
            ]
        );
    }

    #[test]
    fn a_sample_of_something_unknown_is_none() {
        assert_eq!(MetricSample::named("network", 1, 2, "ok"), None);
        assert_eq!(MetricSample::named("cpu", 1, 2, "fine"), None);
    }
}
