//! Taking the plan's inputs from a real store.

use super::inputs::PlanInputs;
use crate::capacity::quantity::{Amount, ByteCount, Input, MeanBytes, Source};
use crate::capacity::report::CapacityReport;

impl PlanInputs {
    /// Replaces what `report` measured: messages per session-hour, size of a message, what the database
    /// takes already without its free pages; and the limit, which is no measure and comes from
    /// `limit_source`. What it did not measure keeps its value. Gives the measured footprint of what is
    /// compacted, for [`Plan::compute`](super::Plan::compute); the footprint of the whole file says
    /// nothing of compaction while most of it is not compacted.
    pub fn take_measured(
        &mut self,
        report: &CapacityReport,
        limit_source: Source,
    ) -> Option<Amount> {
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
        report.compacted_ratio().map(Amount)
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
        let footprint = inputs.take_measured(&report(), Source::Given);
        // 5 MB of segments for 50 MB.
        assert_eq!(footprint, Some(Amount(0.1)));
        let plan = Plan::compute(&inputs, footprint, None).unwrap();
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
            let plan = Plan::compute(&inputs, None, None).unwrap();
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
        let footprint = inputs.take_measured(&uncompacted, Source::Given);
        assert_eq!(footprint, None);
        let plan = Plan::compute(&inputs, footprint, None).unwrap();
        let footprints = plan.storage_growth.compacted.iter();
        let sources: Vec<_> = footprints.map(|row| row.footprint.source).collect();
        assert_eq!(sources, [Source::PlanDefault]);
    }

    #[test]
    fn an_empty_store_measures_nothing_but_its_limit() {
        let mut inputs = PlanInputs::default();
        assert_eq!(inputs.take_measured(&empty(), Source::PlanDefault), None);
        let expected = PlanInputs::default().storage_growth.message_bytes;
        assert_eq!(inputs.storage_growth.message_bytes, expected);
    }
}
