//! Taking the plan's inputs from a real store and the daemon that serves it.

use super::bandwidth::Traffic;
use super::inputs::PlanInputs;
use super::latency::Stage;
use super::memory::MemoryNow;
use super::storage_growth::StorageGrowthInputs;
use super::thresholds::MetricSample;
use crate::capacity::forecast::{Forecast, WINDOW_DAYS};
use crate::capacity::quantity::{
    Amount, ByteCount, DaysPerMonth, HoursPerDay, Input, MeanBytes, Quantity, Source,
};
use crate::capacity::report::{CapacityReport, DAYS_PER_MONTH};

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
    /// Rates of one of each kind of traffic, bytes a second.
    pub traffic: Vec<(Traffic, f64)>,
    /// Memory of a daemon.
    pub memory: Option<MemoryNow>,
    /// Uses of what has a limit. Of a metric that is there twice the first counts.
    pub samples: Vec<MetricSample>,
}

impl Measured {
    /// Takes what a daemon measured of one of its stages, if that is part of a stage of the plan and was
    /// passed at all. Of several parts the slowest counts.
    pub fn take_stage(&mut self, daemon_stage: &str, count: u64, p95_ms: f64) {
        let of_plan = |stage: &Stage| stage.measured_as().contains(&daemon_stage);
        let Some(stage) = Stage::ALL.into_iter().find(of_plan).filter(|_| count > 0) else {
            return;
        };
        let known = &mut self.latency_p95_ms;
        match known.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, slowest)) => *slowest = slowest.max(p95_ms),
            None => known.push((stage, p95_ms)),
        }
    }

    /// Takes the rate of one of the plan's kinds of traffic, by its name, if it was measured.
    pub fn take_traffic(&mut self, traffic: &str, bytes_per_second: Option<f64>) {
        let mut all = Traffic::ALL.into_iter();
        let named = all.find(|kind| kind.programs_name() == traffic);
        let sound = bytes_per_second.filter(|rate| rate.is_finite() && *rate >= 0.0);
        self.traffic.extend(named.zip(sound));
    }

    /// Takes a level of a daemon, if it is one of the plan's.
    pub fn take_level(&mut self, metric: &str, used: u64, limit: u64, level: &str) {
        self.samples
            .extend(MetricSample::named(metric, used, limit, level));
    }
}

impl PlanInputs {
    /// Replaces the assumptions that `report` has measured: messages per session-hour, size of a message, hours of
    /// use per day and days of use per month, what the database takes already without its free pages, and what
    /// compaction would still free. It replaces the limit as well, which is not measured and comes from
    /// `limit_source`. What was not measured keeps its value.
    ///
    /// Returns what else was measured, for [`Plan::compute`](super::Plan::compute): the size, and the footprint of
    /// what is compacted. The footprint of the whole file says nothing about compaction while most of it is not
    /// compacted.
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
        growth.take_days(report);
        let in_use_bytes = report.used_bytes().saturating_sub(report.free_bytes);
        growth.used_bytes = Input::measured(ByteCount(in_use_bytes));
        growth.compactable_bytes = Input::measured(ByteCount(report.compactable_bytes));
        growth.limit_bytes = Input {
            value: ByteCount(report.limit_bytes),
            source: limit_source,
        };
        Measured {
            footprint: report.compacted_ratio().map(Amount),
            latency_p95_ms: Vec::new(),
            traffic: Vec::new(),
            memory: None,
            samples: vec![MetricSample::of_store(report)],
        }
    }
}

impl StorageGrowthInputs {
    /// Takes a day in use and how many there are in a month, so that a day and a month of the plan are those
    /// that the report measured of all sessions together.
    ///
    /// The hours are as many as make the growth of such a day at the pace by the hour: sessions without
    /// hours grow as well, and older ones had another pace. More than a day has are those of several
    /// sessions. When the forecast expects no growth, because little or nothing was recorded in the days
    /// that it looks at, there are no days in use: the plan says never where the forecast does.
    fn take_days(&mut self, report: &CapacityReport) {
        const HOURS_OF_A_DAY: f64 = 24.0;
        let per_hour =
            self.messages_per_session_hour.value.get() * self.message_bytes.value.as_f64();
        let per_day = report.measured("bytes_per_day");
        if let Some(per_day) = per_day.filter(|_| per_hour > 0.0) {
            let hours = per_day / per_hour;
            let sessions = (hours / HOURS_OF_A_DAY).ceil().max(1.0);
            self.sessions = Input::derived(sessions as u64);
            self.session_hours_per_day = Input::derived(HoursPerDay(hours / sessions));
        }
        let used_of_window = match &report.forecast {
            Forecast::Projected {
                daily_raw_bytes, ..
            } if daily_raw_bytes.median <= 0.0 => Some((0, WINDOW_DAYS)),
            Forecast::Projected {
                window_days,
                days_used,
                ..
            } => Some((*days_used, *window_days)),
            Forecast::NotEnoughHistory { .. } => None,
        };
        let workdays = used_of_window.map(|(used, window)| match used {
            0 => 0.0,
            // Before there are four weeks, by the days there are.
            used => report
                .measured("workdays_per_month")
                .unwrap_or(used as f64 / window.max(1) as f64 * DAYS_PER_MONTH),
        });
        if let Some(workdays) = workdays {
            self.workdays_per_month = Input::measured(DaysPerMonth(workdays));
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
    fn a_day_and_a_month_of_a_measured_plan_are_those_of_the_report() {
        for report in [report(), with_untimed()] {
            let mut inputs = PlanInputs::default();
            let measured = inputs.take_measured(&report, Source::Given);
            let growth = Plan::compute(&inputs, &measured, None)
                .unwrap()
                .storage_growth;
            let day = report.measured("bytes_per_day").unwrap();
            assert!((growth.daily_bytes.0 as f64 / day - 1.0).abs() < 1e-5);
            let month = growth.monthly_bytes.0 as f64;
            let Forecast::Projected {
                daily_raw_bytes, ..
            } = &report.forecast
            else {
                panic!("there is history enough")
            };
            let by_forecast = daily_raw_bytes.low..=daily_raw_bytes.high * 1.001;
            assert!(by_forecast.contains(&(month / DAYS_PER_MONTH)), "{month}");
        }
    }

    #[test]
    fn a_day_with_more_hours_than_it_has_is_one_of_several_sessions() {
        let mut busy = report();
        for row in &mut busy.planned {
            if row.name == "bytes_per_day" {
                row.measured = Some(60.0 * 2_540_000.0);
            }
        }
        let mut inputs = PlanInputs::default();
        inputs.take_measured(&busy, Source::Given);
        let growth = inputs.storage_growth;
        assert_eq!(growth.sessions.value, 3);
        // No more than a way to write the measured day: nobody counted three sessions.
        assert_eq!(growth.sessions.source, Source::Derived);
        assert_eq!(growth.session_hours_per_day.source, Source::Derived);
        assert!((growth.session_hours_per_day.value.as_f64() - 20.0).abs() < 1e-6);
    }

    #[test]
    fn where_nothing_was_recorded_for_four_weeks_both_plan_and_forecast_say_never() {
        let mut idle = report();
        if let Forecast::Projected {
            days_used,
            daily_raw_bytes,
            ..
        } = &mut idle.forecast
        {
            *days_used = 0;
            daily_raw_bytes.median = 0.0;
        }
        assert_eq!(months_to_limit(&idle), None);
    }

    #[test]
    fn a_single_day_of_use_in_four_weeks_is_no_pace_for_the_plan_either() {
        let mut rare = report();
        if let Forecast::Projected {
            days_used,
            daily_raw_bytes,
            ..
        } = &mut rare.forecast
        {
            *days_used = 1;
            daily_raw_bytes.median = 0.0;
        }
        assert_eq!(months_to_limit(&rare), None);
    }

    fn months_to_limit(report: &CapacityReport) -> Option<f64> {
        let mut inputs = PlanInputs::default();
        let measured = inputs.take_measured(report, Source::Given);
        let growth = Plan::compute(&inputs, &measured, None)
            .unwrap()
            .storage_growth;
        growth.months_to_limit
    }

    #[test]
    fn months_with_compaction_start_where_the_forecast_with_compaction_does() {
        let mut inputs = PlanInputs::default();
        let report = CapacityReport {
            compactable_bytes: 2_000_000,
            ..report()
        };
        let measured = inputs.take_measured(&report, Source::Given);
        let growth = Plan::compute(&inputs, &measured, None)
            .unwrap()
            .storage_growth;
        let room = report.limit_bytes - (report.used_bytes() - report.free_bytes) + 2_000_000;
        for row in growth.compacted {
            let months = room as f64 / row.monthly_bytes.0 as f64;
            assert!(
                (row.months_to_limit.unwrap() / months - 1.0).abs() < 1e-6,
                "{row:?}"
            );
        }
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
