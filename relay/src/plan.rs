//! What the capacity plan says of relays, by the planner that all programs share.

use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::planner::PlanInputs;
use betcode_storage::capacity::planner::memory::RelayMemory;
use betcode_storage::capacity::planner::relays::RelaysNeeded;
use betcode_storage::capacity::quantity::Source;
use betcode_storage::capacity::text::bytes;
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
    /// Memory of each of them, if they share it evenly.
    pub memory_each: RelayMemory,
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
        let relays = self.relays.relays;
        let all = bytes(self.memory.total_bytes.0);
        let each = match relays {
            0 | 1 => String::new(),
            _ => format!(
                ", {} for each of {relays} that share it",
                bytes(self.memory_each.total_bytes.0)
            ),
        };
        format!(
            "load    {tunnels} tunnels, {clients} clients, {buffered} waiting requests, {rps} calls/s\n\
             relays  {relays} (for tunnels {}, clients {}, calls {})\n\
             memory  {all} for one that carries all{each}",
            self.relays.for_tunnels, self.relays.for_clients, self.relays.for_requests
        )
    }
}

/// Computes the plan.
///
/// # Errors
/// When a number is beyond what the plan can be computed for.
pub fn plan(load: &Load) -> Result<RelayPlan, CapacityError> {
    let inputs = inputs(load)?;
    let relays = RelaysNeeded::plan(&inputs.relays)?;
    let share = |of_all: u64| of_all.div_ceil(relays.relays.max(1));
    let each = Load {
        tunnels: share(load.tunnels),
        clients: share(load.clients),
        buffered: share(load.buffered),
        rps: share(load.rps),
    };
    let of_each = self::inputs(&each)?;
    Ok(RelayPlan {
        load: *load,
        memory: RelayMemory::plan(&inputs.relay_memory)?,
        relays,
        memory_each: RelayMemory::plan(&of_each.relay_memory)?,
    })
}

fn inputs(load: &Load) -> Result<PlanInputs, CapacityError> {
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
    Ok(inputs)
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
        let relays = relays.unwrap();
        assert_eq!(relays.relays.relays, 3);
        // 100 MB, and a third of 25,000 x 0.05 and of 80,000 x 0.02, each rounded up to a whole one.
        assert_eq!(relays.memory.total_bytes.0, 2_950_000_000);
        assert_eq!(relays.memory_each.total_bytes.0, 1_050_040_000);
        let text = relays.text();
        assert!(
            text.contains("2.95 GB for one that carries all, 1.05 GB for each of 3"),
            "{text}"
        );
    }
}
