//! Which relay holds which machine's tunnel.
//!
//! A fleet needs one answer to that, and a number that grows with each claim, so that a relay
//! which was cut off and comes back is known to be late. One relay alone is its own answer.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};

use betcode_schema_tunnel::MachineId;
use betcode_service::sync::lock;
use betcode_storage::Clock;

/// What a registry's operations return: they may have to ask other machines.
pub type RegistryFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, RegistryError>> + Send + 'a>>;

/// A registry that could not answer.
#[derive(Debug, thiserror::Error)]
#[error("the registry of tunnels does not answer: {why}; the tunnel can be dialled again")]
pub struct RegistryError {
    /// What went wrong.
    pub why: String,
}

/// The relay that holds a machine's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The relay's name.
    pub relay_id: String,
    /// Number of the claim; the highest is the one that counts.
    pub epoch: u64,
}

/// Where relays agree on who holds a machine's tunnel.
pub trait Registry: Send + Sync {
    /// Makes `relay_id` the owner of `machine` and returns an epoch above all earlier ones.
    fn claim<'a>(&'a self, machine: &'a MachineId, relay_id: &'a str) -> RegistryFuture<'a, u64>;

    /// Gives a claim up. One that was overtaken already stays with its new owner.
    fn release<'a>(&'a self, machine: &'a MachineId, epoch: u64) -> RegistryFuture<'a, ()>;

    /// The owner of a machine's tunnel, if any.
    fn owner<'a>(&'a self, machine: &'a MachineId) -> RegistryFuture<'a, Option<Owner>>;
}

/// The registry of one relay alone: tunnels do not outlive the process, so memory is enough.
pub struct EmbeddedRegistry {
    state: Mutex<State>,
}

struct State {
    epoch_last: u64,
    owners: HashMap<MachineId, Owner>,
}

impl EmbeddedRegistry {
    /// An empty registry. Epochs begin at the time of day, and so go on growing over restarts.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Self {
        Self {
            state: Mutex::new(State {
                epoch_last: u64::try_from(clock.now_ms()).unwrap_or(0),
                owners: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Registry for EmbeddedRegistry {
    fn claim<'a>(&'a self, machine: &'a MachineId, relay_id: &'a str) -> RegistryFuture<'a, u64> {
        let mut state = self.state();
        state.epoch_last += 1;
        let epoch = state.epoch_last;
        let relay_id = relay_id.to_owned();
        state
            .owners
            .insert(machine.clone(), Owner { relay_id, epoch });
        Box::pin(std::future::ready(Ok(epoch)))
    }

    fn release<'a>(&'a self, machine: &'a MachineId, epoch: u64) -> RegistryFuture<'a, ()> {
        let mut state = self.state();
        if state.owners.get(machine).is_some_and(|o| o.epoch == epoch) {
            state.owners.remove(machine);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn owner<'a>(&'a self, machine: &'a MachineId) -> RegistryFuture<'a, Option<Owner>> {
        let owner = self.state().owners.get(machine).cloned();
        Box::pin(std::future::ready(Ok(owner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use betcode_storage::ManualClock;

    #[tokio::test]
    async fn a_later_claim_wins_and_an_overtaken_release_takes_nothing() {
        let registry = EmbeddedRegistry::new(&ManualClock::at(1_000));
        let machine: MachineId = "m".parse().unwrap();
        let first = registry.claim(&machine, "a").await.unwrap();
        let second = registry.claim(&machine, "b").await.unwrap();
        assert!(1_000 < first && first < second);
        registry.release(&machine, first).await.unwrap();
        let owner = registry.owner(&machine).await.unwrap().unwrap();
        assert_eq!((owner.relay_id.as_str(), owner.epoch), ("b", second));
        registry.release(&machine, second).await.unwrap();
        assert_eq!(registry.owner(&machine).await.unwrap(), None);
    }
}
