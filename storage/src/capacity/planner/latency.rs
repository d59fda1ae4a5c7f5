//! Where the 200 ms of a request go (plan: *Latency Budget*).

use serde::Serialize;

use crate::capacity::error::{CapacityError, Result};
use crate::capacity::quantity::Amount;

/// The whole, at the 95th percentile.
pub const LATENCY_P95_MS_MAX: u64 = 200;

/// A daemon's name for what its relay says of its routing.
pub const RELAY_ROUTING: &str = "relay_routing";
/// A daemon's name for the time to its relay and back.
pub const RELAY_ROUND_TRIP: &str = "relay_round_trip";

/// A part of a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In the client.
    Client,
    /// On the network, both ways twice.
    Network,
    /// In the relay.
    Relay,
    /// In the daemon.
    Daemon,
    /// Between daemon and agent.
    Subprocess,
}

impl Stage {
    /// All stages, in the plan's order.
    pub const ALL: [Self; 5] = [
        Self::Client,
        Self::Network,
        Self::Relay,
        Self::Daemon,
        Self::Subprocess,
    ];

    /// The plan's name of it.
    #[must_use]
    pub fn component(self) -> &'static str {
        match self {
            Self::Client => "Client processing",
            Self::Network => "Network RTT (2x)",
            Self::Relay => "Relay routing",
            Self::Daemon => "Daemon processing",
            Self::Subprocess => "Subprocess overhead",
        }
    }

    /// Its budget, milliseconds at the 95th percentile.
    #[must_use]
    pub const fn budget_ms(self) -> u64 {
        match self {
            Self::Client => 20,
            Self::Network => 80,
            Self::Relay => 10,
            Self::Daemon => 50,
            Self::Subprocess => 40,
        }
    }

    /// The stages of a daemon's latencies that measure it, of which the slowest counts; none of what a
    /// daemon does not see.
    #[must_use]
    pub fn measured_as(self) -> &'static [&'static str] {
        match self {
            Self::Daemon => &["answer", "deliver", "permit"],
            Self::Subprocess => &["record"],
            Self::Relay => &[RELAY_ROUTING],
            Self::Network => &[RELAY_ROUND_TRIP],
            Self::Client => &[],
        }
    }

    /// What of it is measured, if that is only a part of it.
    #[must_use]
    pub fn measured_part(self) -> Option<&'static str> {
        (self == Self::Network).then_some("daemon-relay only")
    }

    /// The plan's note on it.
    #[must_use]
    pub fn notes(self) -> &'static str {
        match self {
            Self::Client => "UI responsiveness",
            Self::Network => "40ms one-way",
            Self::Relay => "Pure forwarding",
            Self::Daemon => "Permission + broadcast",
            Self::Subprocess => "NDJSON I/O",
        }
    }
}

const _: () = {
    let mut sum = 0;
    let mut index = 0;
    while index < Stage::ALL.len() {
        sum += Stage::ALL[index].budget_ms();
        index += 1;
    }
    assert!(
        sum == LATENCY_P95_MS_MAX,
        "the stages' budgets make up the whole"
    );
};

/// A stage against its budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyRow {
    /// The stage.
    pub stage: Stage,
    /// The plan's name of it.
    pub component: &'static str,
    /// Its budget.
    pub budget_ms: u64,
    /// The plan's note.
    pub notes: &'static str,
    /// Its measured 95th percentile.
    pub measured_p95_ms: Option<Amount>,
    /// Whether it is within its budget; `None` when it was not measured, and while a part of it is.
    pub within: Option<bool>,
    /// What was measured, if that is only a part of the stage.
    pub measured_part: Option<&'static str>,
}

/// All stages against the whole budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyBudget {
    /// The stages in the plan's order.
    pub rows: Vec<LatencyRow>,
    /// The whole.
    pub total_budget_ms: u64,
    /// Measured stages at their measured P95, the others at their budget. P95s do not add up
    /// exactly: this is an estimate of the whole, not a measurement of it.
    pub total_estimate_ms: f64,
    /// Whether the estimate is within the whole.
    pub within: bool,
}

impl LatencyBudget {
    /// The plan's table, with measured 95th percentiles in milliseconds beside it. Of a stage
    /// given twice the later counts.
    ///
    /// # Errors
    /// When a measured value is NaN, infinite or negative.
    pub fn plan(measured_p95_ms: &[(Stage, f64)]) -> Result<Self, CapacityError> {
        let rows = Stage::ALL
            .into_iter()
            .map(|stage| {
                let measured = measured_p95_ms
                    .iter()
                    .rev()
                    .find(|(measured, _)| *measured == stage)
                    .map(|(_, ms)| Amount::new(stage.component(), *ms))
                    .transpose()?;
                let within = measured.map(|ms| ms.get() <= as_ms(stage.budget_ms()));
                let part = stage.measured_part().filter(|_| measured.is_some());
                Ok(LatencyRow {
                    stage,
                    component: stage.component(),
                    budget_ms: stage.budget_ms(),
                    notes: stage.notes(),
                    measured_p95_ms: measured,
                    // A part that is within the budget says nothing of the whole.
                    within: within.filter(|within| part.is_none() || !within),
                    measured_part: part,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let expected = |row: &LatencyRow| {
            let budget_ms = as_ms(row.budget_ms);
            match (row.measured_p95_ms.map(Amount::get), row.measured_part) {
                (Some(ms), None) => ms,
                (Some(part_ms), Some(_)) => part_ms.max(budget_ms),
                (None, _) => budget_ms,
            }
        };
        let total_estimate_ms = rows.iter().map(expected).sum();
        Ok(Self {
            rows,
            total_budget_ms: LATENCY_P95_MS_MAX,
            total_estimate_ms,
            within: total_estimate_ms <= as_ms(LATENCY_P95_MS_MAX),
        })
    }
}

fn as_ms(budget_ms: u64) -> f64 {
    budget_ms as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_row(component: &str, budget_ms: u64, notes: &str) {
        let budget = LatencyBudget::plan(&[]).unwrap();
        let row = budget
            .rows
            .iter()
            .find(|row| row.component == component)
            .unwrap();
        assert_eq!(
            (row.budget_ms, row.notes, row.within),
            (budget_ms, notes, None)
        );
    }

    #[test]
    fn latency_row_client_processing_20_ms() {
        assert_row("Client processing", 20, "UI responsiveness");
    }

    #[test]
    fn latency_row_network_rtt_80_ms() {
        assert_row("Network RTT (2x)", 80, "40ms one-way");
    }

    #[test]
    fn latency_row_relay_routing_10_ms() {
        assert_row("Relay routing", 10, "Pure forwarding");
    }

    #[test]
    fn latency_row_daemon_processing_50_ms() {
        assert_row("Daemon processing", 50, "Permission + broadcast");
    }

    #[test]
    fn latency_row_subprocess_overhead_40_ms() {
        assert_row("Subprocess overhead", 40, "NDJSON I/O");
    }

    #[test]
    fn latency_total_is_200_ms_p95() {
        let budget = LatencyBudget::plan(&[]).unwrap();
        assert_eq!(budget.total_budget_ms, 200);
        assert!((budget.total_estimate_ms - 200.0).abs() < 1e-9 && budget.within);
    }

    #[test]
    fn a_measured_stage_is_held_against_its_budget_and_the_whole() {
        let budget = LatencyBudget::plan(&[(Stage::Daemon, 51.0), (Stage::Relay, 3.0)]).unwrap();
        let within: Vec<_> = budget.rows.iter().map(|row| row.within).collect();
        assert_eq!(within, [None, None, Some(true), Some(false), None]);
        assert!(budget.within, "what the relay saves pays for the daemon");
        let slow = LatencyBudget::plan(&[(Stage::Network, 81.0)]).unwrap();
        assert!(!slow.within);
    }

    #[test]
    fn a_part_of_a_stage_is_not_taken_for_the_whole_of_it() {
        let row = |ms| {
            let budget = LatencyBudget::plan(&[(Stage::Network, ms)]).unwrap();
            let row = budget.rows[1];
            assert_eq!(row.measured_p95_ms, Some(Amount(ms)));
            assert_eq!(row.measured_part, Some("daemon-relay only"));
            (row.within, budget.total_estimate_ms)
        };
        // The client's way to the relay takes the rest of the budget, for all that is known.
        assert_eq!(row(12.0), (None, 200.0));
        assert_eq!(row(81.0), (Some(false), 201.0));
    }

    #[test]
    fn a_latency_that_is_no_number_is_refused() {
        assert!(LatencyBudget::plan(&[(Stage::Relay, f64::NAN)]).is_err());
        assert!(LatencyBudget::plan(&[(Stage::Relay, -1.0)]).is_err());
    }
}
