//! The whole plan for one set of inputs.

use serde::Serialize;

use super::bandwidth::Bandwidth;
use super::inputs::{InputRow, PlanInputs};
use super::latency::LatencyBudget;
use super::machines::{MACHINES, MachineRow, machines_for};
use super::measured::Measured;
use super::memory::{DaemonMemory, MemoryBudget, RelayMemory};
use super::relays::RelaysNeeded;
use super::storage_growth::StorageGrowth;
use super::thresholds::{ThresholdRow, thresholds};
use crate::capacity::error::Result;

/// Every table of the plan, computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What it was computed from, with sources.
    pub inputs: Vec<InputRow>,
    /// *Daemon Memory Formula*.
    pub daemon_memory: DaemonMemory,
    /// *Relay Memory Formula*.
    pub relay_memory: RelayMemory,
    /// *Storage Growth*.
    pub storage_growth: StorageGrowth,
    /// *Relay Scaling Formula*.
    pub relays: RelaysNeeded,
    /// *Vertical Scaling Guide*, all rows.
    pub machines: Vec<MachineRow>,
    /// The row of the guide for the users asked about.
    pub machine: Option<MachineRow>,
    /// *Latency Budget*.
    pub latency_budget: LatencyBudget,
    /// *Memory Budget*.
    pub memory_budget: MemoryBudget,
    /// *Scaling Thresholds*.
    pub thresholds: Vec<ThresholdRow>,
    /// *Network Bandwidth*.
    pub bandwidth: Bandwidth,
}

impl Plan {
    /// Computes all tables, with what was measured beside them; `users` picks a row of the
    /// vertical scaling guide.
    ///
    /// # Errors
    /// When an input makes no sense: see the tables' own functions.
    pub fn compute(inputs: &PlanInputs, measured: &Measured, users: Option<u64>) -> Result<Self> {
        Ok(Self {
            inputs: inputs.rows(),
            daemon_memory: DaemonMemory::plan(&inputs.daemon_memory)?,
            relay_memory: RelayMemory::plan(&inputs.relay_memory)?,
            storage_growth: StorageGrowth::plan(&inputs.storage_growth, measured.footprint)?,
            relays: RelaysNeeded::plan(&inputs.relays)?,
            machines: MACHINES.to_vec(),
            machine: users.map(machines_for).transpose()?,
            latency_budget: LatencyBudget::plan(&measured.latency_p95_ms)?,
            memory_budget: MemoryBudget::plan(
                &inputs.daemon_memory,
                &inputs.memory_budget,
                measured.memory.as_ref(),
            )?,
            thresholds: thresholds(inputs, &measured.samples)?,
            bandwidth: Bandwidth::plan(&inputs.bandwidth, &measured.traffic)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::quantity::Amount;

    #[test]
    fn the_whole_plan_serializes_with_stable_names() {
        let measured = Measured {
            footprint: Some(Amount(0.1)),
            ..Measured::default()
        };
        let plan = Plan::compute(&PlanInputs::default(), &measured, Some(50)).unwrap();
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["daemon_memory"]["total_bytes"], 300_000_000);
        assert_eq!(json["relay_memory"]["total_bytes"], 850_000_000);
        assert_eq!(json["storage_growth"]["monthly_bytes"], 1_760_000_000);
        assert_eq!(
            json["storage_growth"]["compacted"][1]["footprint"]["source"],
            "measured"
        );
        assert_eq!(json["relays"]["relays"], 3);
        assert_eq!(json["machine"]["daemon"]["cpus"], 4);
        assert_eq!(json["latency_budget"]["rows"][3]["stage"], "daemon");
        assert_eq!(json["memory_budget"]["headroom_bytes"], 112_000_000);
        assert_eq!(json["thresholds"][5]["metric"], "sqlite_size");
        assert_eq!(json["thresholds"][5]["limit"], 1_000_000_000);
        assert_eq!(json["inputs"][0]["name"], "daemon_memory.sessions");
        assert_eq!(json["inputs"][0]["source"], "plan_example");
    }
}
