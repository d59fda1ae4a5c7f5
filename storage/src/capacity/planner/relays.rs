//! How many relays are needed (plan: *Relay Scaling Formula*).

use serde::Serialize;

use super::inputs::inputs;
use crate::capacity::error::{CapacityError, Result};

/// Tunnels that one relay carries.
pub const TUNNELS_PER_RELAY: u64 = 10_000;
/// Clients that one relay carries.
pub const CLIENTS_PER_RELAY: u64 = 50_000;
/// Requests per second that one relay routes.
pub const REQUESTS_PER_SECOND_PER_RELAY: u64 = 100_000;

inputs! {
    /// Inputs of *Relay Scaling Formula*.
    relays => pub struct RelayInputs {
        /// Tunnels to daemons, over all relays
        tunnels: u64 = 25_000, PlanExample;
        /// Clients connected, over all relays
        clients: u64 = 80_000, PlanExample;
        /// Requests per second, over all relays
        requests_per_second: u64 = 150_000, PlanExample;
        /// Tunnels that one relay carries
        tunnels_per_relay: u64 = TUNNELS_PER_RELAY, PlanDefault;
        /// Clients that one relay carries
        clients_per_relay: u64 = CLIENTS_PER_RELAY, PlanDefault;
        /// Requests per second that one relay routes
        requests_per_second_per_relay: u64 = REQUESTS_PER_SECOND_PER_RELAY, PlanDefault;
    }
}

/// Relays that a load needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RelaysNeeded {
    /// For the tunnels alone.
    pub for_tunnels: u64,
    /// For the clients alone.
    pub for_clients: u64,
    /// For the requests alone.
    pub for_requests: u64,
    /// The most of these; 0 without any load.
    pub relays: u64,
}

impl RelaysNeeded {
    /// Computes `ceil(max(tunnels / 10000, clients / 50000, rps / 100000))`.
    ///
    /// # Errors
    /// [`CapacityError::Zero`] when a relay would carry nothing.
    pub fn plan(inputs: &RelayInputs) -> Result<Self> {
        let needed = |what, load: u64, per_relay: u64| {
            let why = "a relay that carries nothing is never enough";
            if per_relay == 0 {
                return Err(CapacityError::Zero { what, why });
            }
            Ok(load.div_ceil(per_relay))
        };
        let for_tunnels = needed(
            "relays.tunnels_per_relay",
            inputs.tunnels.value,
            inputs.tunnels_per_relay.value,
        )?;
        let for_clients = needed(
            "relays.clients_per_relay",
            inputs.clients.value,
            inputs.clients_per_relay.value,
        )?;
        let for_requests = needed(
            "relays.requests_per_second_per_relay",
            inputs.requests_per_second.value,
            inputs.requests_per_second_per_relay.value,
        )?;
        let relays = for_tunnels.max(for_clients).max(for_requests);
        Ok(Self {
            for_tunnels,
            for_clients,
            for_requests,
            relays,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::quantity::Input;

    fn needed(tunnels: u64, clients: u64, requests: u64) -> RelaysNeeded {
        let inputs = RelayInputs {
            tunnels: Input::given(tunnels),
            clients: Input::given(clients),
            requests_per_second: Input::given(requests),
            ..RelayInputs::default()
        };
        RelaysNeeded::plan(&inputs).unwrap()
    }

    #[test]
    fn plan_example_25000_tunnels_80000_clients_150000_rps_need_3_relays() {
        let needed = RelaysNeeded::plan(&RelayInputs::default()).unwrap();
        assert_eq!(
            (needed.for_tunnels, needed.for_clients, needed.for_requests),
            (3, 2, 2)
        );
        assert_eq!(needed.relays, 3);
    }

    #[test]
    fn a_relay_is_full_at_its_capacity_and_not_before() {
        assert_eq!(needed(10_000, 50_000, 100_000).relays, 1);
        assert_eq!(needed(10_001, 0, 0).relays, 2);
        assert_eq!(needed(0, 50_001, 0).relays, 2);
        assert_eq!(needed(0, 0, 100_001).relays, 2);
    }

    #[test]
    fn no_load_needs_no_relay() {
        assert_eq!(needed(0, 0, 0).relays, 0);
    }

    #[test]
    fn a_relay_that_carries_nothing_is_refused() {
        for name in [
            "tunnels_per_relay",
            "clients_per_relay",
            "requests_per_second_per_relay",
        ] {
            let mut inputs = RelayInputs::default();
            let source = crate::capacity::quantity::Source::Given;
            assert!(inputs.set(name, 0.0, source).unwrap());
            let error = RelaysNeeded::plan(&inputs).unwrap_err();
            assert!(matches!(error, CapacityError::Zero { .. }), "{error}");
        }
    }
}
