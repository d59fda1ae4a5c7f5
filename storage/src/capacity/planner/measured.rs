//! Taking the plan's inputs from a real store and the daemon that serves it.

use super::inputs::PlanInputs;
use super::latency::Stage;
use super::thresholds::MetricSample;
use crate::capacity::quantity::{Amount, ByteCount, Input, MeanBytes, Source};
use crate::capacity::report::CapacityReport;

/// Inputs that a measured plan has from the settings of the daemon that serves the store.
pub const DAEMON_INPUTS: [&str; 4] = [
    "daemon_memory.sessions",
    "daemon_memory.clients",
    "daemon_memory.subprocesses",
    "memory_budget.limit_bytes",
];

/// What was measured beside the plan's tables; nothing by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// Footprint of what a store has compacted.
    pub footprint: Option<Amount>,
    /// 95th percentiles of stages, milliseconds.
    pub latency_p95_ms: Vec<(Stage, f64)>,
    /// Uses of what has a limit. Of a metric that is there twice the first counts.
    pub samples: Vec<MetricSample>,
}

impl Measured {
    /// Takes what a daemon measured of one of its stages, if that is a stage of the plan and was passed
    /// at all.
    pub fn take_stage(&mut self, daemon_stage: &str, count: u64, p95_ms: f64) {
        let of_plan = |stage: &Stage| stage.measured_as() == Some(daemon_stage);
        let stage = Stage::ALL.into_iter().find(of_plan);
        let passed = stage.filter(|_| count > 0);
        self.latency_p95_ms
            .extend(passed.map(|stage| (stage, p95_ms)));
    }

    /// Takes a level of a daemon, if it is one of the plan's.
    pub fn take_level(&mut self, metric: &str, used: u64, limit: u64, level: &str) {
        self.samples
            .extend(MetricSample::named(metric, used, limit, level));
    }
}

impl PlanInputs {
    /// Replaces what `report` measured: messages per session-hour, size of a message, what the database
    /// takes already without its free pages; and the limit, which is no measure and comes from
    /// `limit_source`. What it did not measure keeps its value. Gives what else was measured, for
    /// [`Plan::compute`](super::Plan::compute): the size, and the footprint of what is compacted; that of
    /// the whole file says nothing of compaction while most of it is not compacted.
    pub fn take_measured(&mut self, report: &CapacityReport, limit_source: Source) -> Measured {
        let growth = &mut self.storage_growth;
        if let Some(messages) = report.growth.messages_per_session_hour {
            growth.messages_per_session_hour = Input::measured(Amount(messages));
        }
        // Messages by the hour are those of sessions with hours; others may be of another size.
        let bytes_with_hours = || {
            let messages = report.growth.messages_per_session_hour?;
            let bytes = report.growth.bytes_per_session_hour?;
            (messages > 0.0).then(|| bytes / messages)
        };
        if let Some(bytes) = bytes_with_hours().or(report.growth.bytes_per_message) {
            growth.message_bytes = Input::measured(MeanBytes(bytes));
        }
        let in_use_bytes = report.used_bytes().saturating_sub(report.free_bytes);
        growth.used_bytes = Input::measured(ByteCount(in_use_bytes));
        growth.limit_bytes = Input {
            value: ByteCount(report.limit_bytes),
            source: limit_source,
        };
        Measured {
            footprint: report.compacted_ratio().map(Amount),
            latency_p95_ms: Vec::new(),
            samples: vec![MetricSample::of_store(report)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::planner::Plan;
    use crate::capacity::report::tests::{empty, report, with_untimed};

    #[test]
    fn a_measured_plan_grows_as_the_store_did() {
        let mut inputs = PlanInputs::default();
        let measured = inputs.take_measured(&report(), Source::Given);
        // 5 MB of segments for 50 MB.
        assert_eq!(measured.footprint, Some(Amount(0.1)));
        assert_eq!(measured.samples, [MetricSample::of_store(&report())]);
        let plan = Plan::compute(&inputs, &measured, None).unwrap();
        // To the byte what the report has: 461 messages of 5,509.8 bytes, where the plan has 200 of 5,000.
        assert_eq!(
            plan.storage_growth.bytes_per_session_hour,
            ByteCount(2_540_000)
        );
        let sources: Vec<_> = inputs
            .storage_growth
            .rows()
            .iter()
            .map(|row| row.source)
            .collect();
        assert_eq!(sources[1..3], [Source::Measured, Source::Measured]);
        assert_eq!(sources.last(), Some(&Source::Given), "the limit");
        assert_eq!(plan.storage_growth.compacted.len(), 2);
        // 6.24 MB, of which 40 KB are free.
        assert_eq!(inputs.storage_growth.used_bytes.value, ByteCount(6_200_000));
    }

    #[test]
    fn sessions_without_hours_change_nothing_of_a_measured_plan() {
        let grown = |report: &CapacityReport| {
            let mut inputs = PlanInputs::default();
            inputs.take_measured(report, Source::Given);
            let plan = Plan::compute(&inputs, &Measured::default(), None).unwrap();
            plan.storage_growth.bytes_per_session_hour
        };
        assert_eq!(grown(&with_untimed()), grown(&report()));
    }

    #[test]
    fn before_anything_is_compacted_the_plans_own_footprint_stands_alone() {
        let uncompacted = CapacityReport {
            hot_bytes: report().raw_bytes,
            segment_bytes: 0,
            footprint: Some(1.31),
            ..report()
        };
        let mut inputs = PlanInputs::default();
        let measured = inputs.take_measured(&uncompacted, Source::Given);
        assert_eq!(measured.footprint, None);
        let plan = Plan::compute(&inputs, &measured, None).unwrap();
        let footprints = plan.storage_growth.compacted.iter();
        let sources: Vec<_> = footprints.map(|row| row.footprint.source).collect();
        assert_eq!(sources, [Source::PlanDefault]);
    }

    #[test]
    fn an_empty_store_measures_nothing_but_its_size_and_limit() {
        let mut inputs = PlanInputs::default();
        let measured = inputs.take_measured(&empty(), Source::PlanDefault);
        assert_eq!(measured.footprint, None);
        let expected = PlanInputs::default().storage_growth.message_bytes;
        assert_eq!(inputs.storage_growth.message_bytes, expected);
    }
}
