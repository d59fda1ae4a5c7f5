//! `CapacityService.Report` and `.Plan`: the engine's values as messages.

use betcode_schema_grpc::history as proto;
use betcode_storage::Totals;
use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::forecast::{Forecast, When};
use betcode_storage::capacity::planner::bandwidth::BandwidthRow;
use betcode_storage::capacity::planner::machines::MachineRow;
use betcode_storage::capacity::planner::memory::{MemoryBudget, MemoryBudgetRow};
use betcode_storage::capacity::planner::storage_growth::CompactedGrowth;
use betcode_storage::capacity::planner::{
    self, DAEMON_INPUTS, InputRow, Measured, Plan, PlanInputs, ThresholdRow,
};
use betcode_storage::capacity::quantity::{Amount, Source};
use betcode_storage::capacity::report::{self, CapacityReport};
use tonic::Status;

use crate::core::Core;
use crate::levels::levels_now;
use crate::status::invalid;

/// The report and the totals it was made from, for a client.
pub(super) fn report(report: &CapacityReport, totals: &Totals) -> proto::CapacityReportResponse {
    let growth = &report.growth;
    let (likely, earliest) = limit_reached(&report.forecast, report.generated_ms);
    proto::CapacityReportResponse {
        store_id: report.store_id.clone(),
        created_ms: totals.created_ms,
        sessions: report.sessions,
        messages: report.messages,
        raw_bytes: report.raw_bytes,
        uncompacted_bytes: report.uncompacted_bytes,
        hot_messages: report.hot_messages,
        hot_bytes: report.hot_bytes,
        segments: report.segments,
        segment_bytes: report.segment_bytes,
        active_ms: totals.active_ms,
        wall_ms: totals.wall_ms,
        database_bytes: report.database_bytes,
        wal_bytes: report.wal_bytes,
        free_bytes: report.free_bytes,
        limit_bytes: report.limit_bytes,
        footprint: report.footprint.unwrap_or_default(),
        level: report.level.name().to_owned(),
        generated_ms: report.generated_ms,
        used_fraction: report.used_fraction,
        footprint_target: report.footprint_target,
        saved_bytes: report.saved_bytes,
        compactable_bytes: report.compactable_bytes,
        bases: report.bases,
        base_bytes: report.base_bytes,
        messages_per_session_hour: growth.messages_per_session_hour,
        bytes_per_message: growth.bytes_per_message,
        bytes_per_session_hour: growth.bytes_per_session_hour,
        bytes_per_wall_hour: growth.bytes_per_wall_hour,
        planned: report
            .planned
            .iter()
            .map(|row| proto::PlannedValue {
                name: row.name.to_owned(),
                label: row.label.to_owned(),
                planned: row.planned,
                measured: row.measured,
                ratio: row.ratio,
                unit: name_of(row.unit),
            })
            .collect(),
        limit_reached_ms: likely,
        limit_reached_earliest_ms: earliest,
        disk_full_ms: disk_full(&report.forecast, report.generated_ms),
        by_type: report
            .by_type
            .iter()
            .map(|row| proto::TypeGrowth {
                message_type: row.message_type.clone(),
                messages: row.messages,
                raw_bytes: row.raw_bytes,
            })
            .collect(),
        text: report::text(report),
        json: json(report),
    }
}

/// When the limit is reached with compaction: the likely and the earliest date, now when it has been.
fn limit_reached(forecast: &Forecast, now_ms: i64) -> (Option<i64>, Option<i64>) {
    let Forecast::Projected {
        with_compaction, ..
    } = forecast
    else {
        return (None, None);
    };
    let limit = &with_compaction.limit;
    (date(limit.likely, now_ms), date(limit.earliest, now_ms))
}

/// When the disk is full with compaction, if that is before the limit is reached.
fn disk_full(forecast: &Forecast, now_ms: i64) -> Option<i64> {
    let Forecast::Projected {
        with_compaction, ..
    } = forecast
    else {
        return None;
    };
    date(with_compaction.disk.as_ref()?.likely, now_ms)
}

fn date(when: When, now_ms: i64) -> Option<i64> {
    match when {
        When::Reached => Some(now_ms),
        When::At { unix_ms, .. } => Some(unix_ms),
        When::Beyond | When::Never => None,
    }
}

/// Inputs as the request has them, and what was measured.
///
/// # Errors
/// INVALID_ARGUMENT for an input that there is not, or that cannot have the value.
pub(super) fn inputs(
    core: &Core,
    request: &proto::PlanRequest,
    report: Option<&CapacityReport>,
) -> Result<(PlanInputs, Measured), Status> {
    let mut inputs = PlanInputs::default();
    let set = |inputs: &mut PlanInputs, name: &str, value: f64| {
        inputs
            .set(name, value, Source::Given)
            .map_err(|error| refused(&error))
    };
    let mut measured = Measured::default();
    if let Some(report) = report {
        measured = inputs.take_measured(report, Source::Given);
        measured.samples.extend(levels_now(core));
        measured.memory = Some(super::capacity::memory_now(core));
        for rate in core.metrics.traffic_rates() {
            measured.take_traffic(&rate.traffic, rate.measured_bytes_per_second);
        }
        for stage in core.metrics.budget() {
            measured.take_stage(&stage.stage, stage.count, stage.p95_ms);
        }
        // Not the settings that it was started with: some change while it runs.
        let admission = &core.admission;
        let in_force = [
            admission.sessions.max(),
            admission.clients.max(),
            admission.subprocesses.max(),
            admission.memory.max(),
        ];
        for (name, value) in DAEMON_INPUTS.into_iter().zip(in_force) {
            set(&mut inputs, name, value as f64)?;
        }
    }
    for input in &request.inputs {
        set(&mut inputs, &input.name, input.value)?;
    }
    Ok((inputs, measured))
}

/// The plan for these inputs, for a client.
///
/// # Errors
/// INVALID_ARGUMENT when they make no sense together.
pub(super) fn plan(
    inputs: &PlanInputs,
    measured: &Measured,
    users: u64,
) -> Result<proto::PlanResponse, Status> {
    let users = (users > 0).then_some(users);
    let plan = Plan::compute(inputs, measured, users).map_err(|error| refused(&error))?;
    let (daemon, relay) = (plan.daemon_memory, plan.relay_memory);
    let growth = &plan.storage_growth;
    Ok(proto::PlanResponse {
        inputs: plan.inputs.iter().map(input_row).collect(),
        daemon_memory: Some(proto::DaemonMemoryPlan {
            base_bytes: daemon.base_bytes.0,
            sessions_bytes: daemon.sessions_bytes.0,
            clients_bytes: daemon.clients_bytes.0,
            subprocesses_bytes: daemon.subprocesses_bytes.0,
            total_bytes: daemon.total_bytes.0,
        }),
        relay_memory: Some(proto::RelayMemoryPlan {
            base_bytes: relay.base_bytes.0,
            tunnels_bytes: relay.tunnels_bytes.0,
            clients_bytes: relay.clients_bytes.0,
            buffer_bytes: relay.buffer_bytes.0,
            total_bytes: relay.total_bytes.0,
        }),
        storage_growth: Some(proto::StorageGrowthPlan {
            bytes_per_session_hour: growth.bytes_per_session_hour.0,
            daily_bytes: growth.daily_bytes.0,
            monthly_bytes: growth.monthly_bytes.0,
            months_to_limit: growth.months_to_limit,
            compacted: growth.compacted.iter().map(compacted).collect(),
        }),
        relays: Some(proto::RelaysPlan {
            for_tunnels: plan.relays.for_tunnels,
            for_clients: plan.relays.for_clients,
            for_requests: plan.relays.for_requests,
            relays: plan.relays.relays,
        }),
        latency: plan
            .latency_budget
            .rows
            .iter()
            .map(|row| proto::LatencyPlan {
                component: row.component.to_owned(),
                budget_ms: row.budget_ms,
                measured_p95_ms: row.measured_p95_ms.map(Amount::get),
                within: row.within,
                measured_part: row.measured_part.unwrap_or_default().to_owned(),
            })
            .collect(),
        machines: machines(&plan),
        thresholds: plan.thresholds.iter().map(threshold).collect(),
        bandwidth: plan.bandwidth.rows.iter().map(bandwidth).collect(),
        sustained_bytes_per_second: plan.bandwidth.sustained_bytes_per_second.0,
        peak_bytes_per_second: plan.bandwidth.peak_bytes_per_second.0,
        latency_budget_ms: plan.latency_budget.total_budget_ms,
        latency_estimate_ms: plan.latency_budget.total_estimate_ms,
        latency_within: plan.latency_budget.within,
        memory_budget: Some(memory_budget(&plan.memory_budget)),
        text: planner::text(&plan),
        json: json(&plan),
    })
}

fn input_row(row: &InputRow) -> proto::PlanInputRow {
    proto::PlanInputRow {
        name: row.name.clone(),
        value: row.value,
        unit: row.unit.to_owned(),
        source: source(row.source),
        meaning: row.meaning.trim().to_owned(),
    }
}

fn memory_budget(budget: &MemoryBudget) -> proto::MemoryBudgetPlan {
    let row = |row: &MemoryBudgetRow| proto::MemoryBudgetRow {
        component: row.component.clone(),
        budget_bytes: row.budget_bytes.0,
    };
    proto::MemoryBudgetPlan {
        rows: budget.rows.iter().map(row).collect(),
        limit_bytes: budget.limit_bytes.0,
        used_bytes: budget.used_bytes.0,
        headroom_bytes: budget.headroom_bytes.0,
        missing_bytes: budget.missing_bytes.0,
        resident_bytes: budget.resident_bytes.map(|bytes| bytes.0),
        above_base_bytes: budget.above_base_bytes.map(|bytes| bytes.0),
    }
}

fn machines(plan: &Plan) -> Vec<proto::MachinePlan> {
    let row = |row: &MachineRow| proto::MachinePlan {
        users_min: row.users_min,
        users_max: row.users_max,
        daemon: row.daemon.to_string(),
        relay: row.relay.to_string(),
        asked: plan.machine.as_ref() == Some(row),
    };
    plan.machines.iter().map(row).collect()
}

fn threshold(row: &ThresholdRow) -> proto::ThresholdPlan {
    proto::ThresholdPlan {
        metric: row.metric.name().to_owned(),
        warning_percent: row.warning_percent.into(),
        critical_percent: row.critical_percent.into(),
        limit: row.limit,
        used: row.used,
        level: row
            .level
            .map_or(String::new(), |level| level.name().to_owned()),
    }
}

fn bandwidth(row: &BandwidthRow) -> proto::BandwidthPlan {
    proto::BandwidthPlan {
        traffic: row.traffic.programs_name().to_owned(),
        streams: row.streams,
        bytes_per_second: row.bytes_per_second.0,
        measured_bytes_per_second: row.measured_bytes_per_second,
    }
}

fn compacted(growth: &CompactedGrowth) -> proto::CompactedGrowthPlan {
    proto::CompactedGrowthPlan {
        footprint: growth.footprint.value.get(),
        footprint_source: source(growth.footprint.source),
        daily_bytes: growth.daily_bytes.0,
        monthly_bytes: growth.monthly_bytes.0,
        months_to_limit: growth.months_to_limit,
    }
}

fn source(source: Source) -> String {
    name_of(source)
}

/// The name of one of a few as programs know it: as in the JSON.
fn name_of(value: impl serde::Serialize) -> String {
    let name = serde_json::to_value(value).ok();
    name.as_ref()
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn json(value: &impl serde::Serialize) -> String {
    // Plain structs with text keys: they always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn refused(error: &CapacityError) -> Status {
    invalid("inputs", error.to_string())
}

#[cfg(test)]
mod tests {
    use betcode_storage::HourGrowth;
    use betcode_storage::capacity::forecast::{ForecastInput, forecast};
    use betcode_storage::capacity::quantity::Input;
    use betcode_storage::growth::HOUR_MS;

    use super::*;

    #[test]
    fn a_full_store_differs_from_one_that_is_never_full() {
        const NOW_MS: i64 = 1_771_070_400_000;
        let reached = |used_bytes, daily_bytes| {
            let day = |day: i64| HourGrowth {
                hour: NOW_MS / HOUR_MS - 24 * day - 23,
                messages: 1,
                raw_bytes: daily_bytes,
                active_ms: 0,
            };
            let hours: Vec<HourGrowth> = (0..28).map(day).collect();
            let one = Input::measured(Amount::new("ratio", 1.0).unwrap());
            let found = forecast(&ForecastInput {
                hours: &hours,
                first_hour: None,
                now_ms: NOW_MS,
                used_bytes,
                free_bytes: 0,
                compactable_bytes: 0,
                limit_bytes: 1_000_000,
                disk_free_bytes: None,
                uncompacted_ratio: one,
                compacted_ratio: one,
                raw_bytes_per_session_hour: None,
            });
            limit_reached(&found.unwrap(), NOW_MS)
        };
        let days_ahead = |days: i64| Some(NOW_MS + days * 24 * HOUR_MS);
        assert_eq!(reached(900_000, 10_000), (days_ahead(10), days_ahead(10)));
        assert_eq!(reached(1_000_000, 10_000), (Some(NOW_MS), Some(NOW_MS)));
        assert_eq!(reached(900_000, 0), (None, None));
    }
}
