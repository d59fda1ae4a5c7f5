//! The newest tunnel of each machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use betcode_schema_tunnel::MachineId;
use betcode_service::sync::{lock, read, write};

use super::Tunnel;

/// The tunnels that this relay holds.
#[derive(Default)]
pub struct Table {
    tunnels: RwLock<HashMap<MachineId, Arc<Tunnel>>>,
    /// Every connection, by machine and epoch: also of tunnels that were left or replaced, on which
    /// calls may still be under way.
    connections: Mutex<HashMap<(MachineId, u64), Arc<Tunnel>>>,
}

/// What became of a new tunnel.
pub enum Registered {
    /// It is the machine's tunnel now.
    Newest {
        /// The one it took over from, which the daemon has to be asked to leave.
        replaced: Option<Arc<Tunnel>>,
    },
    /// A tunnel with a higher epoch is there already: this one has to go.
    Outdated,
}

impl Table {
    /// Makes `tunnel` its machine's tunnel, unless a newer one is there.
    pub fn register(&self, tunnel: &Arc<Tunnel>) -> Registered {
        let id = (tunnel.machine().clone(), tunnel.epoch());
        lock(&self.connections).insert(id, tunnel.clone());
        let mut tunnels = write(&self.tunnels);
        match tunnels.get(tunnel.machine()) {
            Some(there) if there.epoch() > tunnel.epoch() => Registered::Outdated,
            _ => Registered::Newest {
                replaced: tunnels.insert(tunnel.machine().clone(), tunnel.clone()),
            },
        }
    }

    /// Takes `tunnel` out, unless a newer one has replaced it.
    pub fn remove(&self, tunnel: &Tunnel) -> bool {
        let mut tunnels = write(&self.tunnels);
        let mine = tunnels
            .get(tunnel.machine())
            .is_some_and(|there| there.epoch() == tunnel.epoch());
        if mine {
            tunnels.remove(tunnel.machine());
        }
        mine
    }

    /// Forgets the connection of `tunnel`, which is gone.
    pub(crate) fn forget(&self, tunnel: &Tunnel) {
        let id = (tunnel.machine().clone(), tunnel.epoch());
        lock(&self.connections).remove(&id);
    }

    /// All tunnels, and those that are being left and still have their connection.
    pub(crate) fn connections(&self) -> Vec<Arc<Tunnel>> {
        lock(&self.connections).values().cloned().collect()
    }

    /// The tunnel of a machine, if it takes calls.
    #[must_use]
    pub fn find(&self, machine: &MachineId) -> Option<Arc<Tunnel>> {
        let tunnels = read(&self.tunnels);
        tunnels
            .get(machine)
            .filter(|tunnel| tunnel.is_open())
            .cloned()
    }

    /// The newest tunnel of a machine, also when it is being left.
    pub(super) fn newest(&self, machine: &MachineId) -> Option<Arc<Tunnel>> {
        let tunnels = read(&self.tunnels);
        tunnels.get(machine).cloned()
    }

    /// All tunnels.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Tunnel>> {
        let tunnels = read(&self.tunnels);
        tunnels.values().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        read(&self.tunnels).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
