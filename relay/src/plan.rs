//! What the capacity plan says of relays, by the planner that all programs share.

use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::planner::PlanInputs;
use betcode_storage::capacity::planner::memory::RelayMemory;
use betcode_storage::capacity::planner::relays::RelaysNeeded;
use betcode_storage::capacity::quantity::Source;
use serde::Serialize;

use crate::settings::Settings;

/// What relays have to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Tunnels.
    pub tunnels: u64,
    /// Clients.
    pub clients: u64,
    /// Requests that wait.
    pub buffered: u64,
    /// Calls a second.
    pub rps: u64,
}

impl Load {
    /// The most that one relay with these settings takes.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            tunnels: settings.tunnels_max as u64,
            clients: settings.clients_max as u64,
            buffered: settings.buffer_requests_max as u64,
            rps: 0,
        }
    }
}

/// The plan for a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelayPlan {
    /// The load.
    pub load: Load,
    /// Memory of one relay that carries all of it.
    pub memory: RelayMemory,
    /// Relays that share it.
    pub relays: RelaysNeeded,
}

impl RelayPlan {
    /// The plan for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Load {
            tunnels,
            clients,
            buffered,
            rps,
        } = self.load;
        let mb = self.memory.total_bytes.0 / 1_000_000;
        let relays = self.relays.relays;
        format!(
            "load    {tunnels} tunnels, {clients} clients, {buffered} waiting requests, {rps} calls/s\n\
             relays  {relays}\n\
             memory  {mb} MB for one that carries all"
        )
    }
}

/// Computes the plan.
///
/// # Errors
/// When a number is beyond what the plan can be computed for.
pub fn plan(load: &Load) -> Result<RelayPlan, CapacityError> {
    let mut inputs = PlanInputs::default();
    for (name, value) in [
        ("relay_memory.tunnels", load.tunnels),
        ("relay_memory.clients", load.clients),
        ("relay_memory.buffered_messages", load.buffered),
        ("relays.tunnels", load.tunnels),
        ("relays.clients", load.clients),
        ("relays.requests_per_second", load.rps),
    ] {
        inputs.set(name, value as f64, Source::Given)?;
    }
    Ok(RelayPlan {
        load: *load,
        memory: RelayMemory::plan(&inputs.relay_memory)?,
        relays: RelaysNeeded::plan(&inputs.relays)?,
    })
}

/// Memory that the plan gives a relay with this load; 0 when it cannot be computed.
#[must_use]
pub fn memory_bytes(load: &Load) -> u64 {
    plan(load).map_or(0, |plan| plan.memory.total_bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_own_examples() {
        let memory = plan(&Load {
            tunnels: 5_000,
            clients: 20_000,
            buffered: 10_000,
            rps: 0,
        });
        assert_eq!(memory.unwrap().memory.total_bytes.0, 850_000_000);
        let relays = plan(&Load {
            tunnels: 25_000,
            clients: 80_000,
            buffered: 0,
            rps: 150_000,
        });
        assert_eq!(relays.unwrap().relays.relays, 3);
    }
}
