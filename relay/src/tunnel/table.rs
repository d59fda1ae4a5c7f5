//! The newest tunnel of each machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use betcode_schema_tunnel::MachineId;
use betcode_service::sync::{lock, read, write};

use super::Link;

/// The tunnels that this relay holds.
#[derive(Default)]
pub struct Table {
    links: RwLock<HashMap<MachineId, Arc<Link>>>,
    /// Every connection, by machine and epoch: also of tunnels that were left or replaced, on which
    /// calls may still be under way.
    connections: Mutex<HashMap<(MachineId, u64), Arc<Link>>>,
}

/// What became of a new tunnel.
pub enum Registered {
    /// It is the machine's tunnel now.
    Newest {
        /// The one it took over from, which has to be told.
        replaced: Option<Arc<Link>>,
    },
    /// A tunnel with a higher epoch is there already: this one has to go.
    Outdated,
}

impl Table {
    /// Makes `link` its machine's tunnel, unless a newer one is there.
    pub fn register(&self, link: &Arc<Link>) -> Registered {
        let id = (link.machine().clone(), link.epoch());
        lock(&self.connections).insert(id, link.clone());
        let mut links = write(&self.links);
        match links.get(link.machine()) {
            Some(there) if there.epoch() > link.epoch() => Registered::Outdated,
            _ => Registered::Newest {
                replaced: links.insert(link.machine().clone(), link.clone()),
            },
        }
    }

    /// Takes `link` out, unless a newer tunnel has its place.
    pub fn remove(&self, link: &Link) -> bool {
        let mut links = write(&self.links);
        let mine = links
            .get(link.machine())
            .is_some_and(|there| there.epoch() == link.epoch());
        if mine {
            links.remove(link.machine());
        }
        mine
    }

    /// Forgets the connection of `link`, which is gone.
    pub(crate) fn forget(&self, link: &Link) {
        let id = (link.machine().clone(), link.epoch());
        lock(&self.connections).remove(&id);
    }

    /// All tunnels, and those that are being left and still have their connection.
    pub(crate) fn connections(&self) -> Vec<Arc<Link>> {
        lock(&self.connections).values().cloned().collect()
    }

    /// The tunnel of a machine, if it takes calls.
    #[must_use]
    pub fn find(&self, machine: &MachineId) -> Option<Arc<Link>> {
        let links = read(&self.links);
        links.get(machine).filter(|link| link.is_open()).cloned()
    }

    /// The newest tunnel of a machine, also when it is being left.
    pub(super) fn newest(&self, machine: &MachineId) -> Option<Arc<Link>> {
        let links = read(&self.links);
        links.get(machine).cloned()
    }

    /// All tunnels.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Link>> {
        let links = read(&self.links);
        links.values().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        read(&self.links).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
