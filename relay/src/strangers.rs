//! Client connections that have shown no token yet, counted by address, so that whoever has none takes
//! only a part of the places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::limits;
use crate::router::counted;

/// The count.
#[derive(Debug)]
pub struct Strangers {
    per_address_max: usize,
    /// Only addresses that have some.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's part of the count.
#[derive(Debug)]
struct Counted {
    strangers: Arc<Strangers>,
    address: IpAddr,
}

/// What is known of a connection.
#[derive(Debug)]
pub(crate) struct Acquaintance(Mutex<Option<Counted>>);

impl Strangers {
    /// The count for a relay with so many places for clients.
    #[must_use]
    pub fn among(clients_max: usize) -> Arc<Self> {
        let share = clients_max.div_ceil(limits::CLIENTS_UNKNOWN_SHARE);
        Arc::new(Self {
            per_address_max: share.min(limits::CLIENTS_UNKNOWN_PER_ADDRESS_MAX),
            by_address: Mutex::default(),
        })
    }

    /// Counts a new connection of an address. `None` when it has too many.
    pub(crate) fn meet(self: &Arc<Self>, address: IpAddr) -> Option<Acquaintance> {
        let address = counted(address);
        let mut by_address = self.lock();
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        let strangers = self.clone();
        let counted = Counted { strangers, address };
        Some(Acquaintance(Mutex::new(Some(counted))))
    }

    // No code panics while it holds the lock, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_address = self.strangers.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Acquaintance {
    /// Of a connection that is not counted: a load balancer's stands for many callers.
    pub(crate) fn of_proxy() -> Self {
        Self(Mutex::new(None))
    }

    /// Says that a caller was let in on the connection.
    pub(crate) fn make(&self) {
        // No code panics while it holds the lock, so a poisoned one is still whole.
        let counted = self.0.lock().unwrap_or_else(|e| e.into_inner()).take();
        drop(counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strangers_count_and_only_by_address() {
        let strangers = Strangers::among(8);
        let meet = |address: &str| strangers.meet(address.parse().unwrap());
        let (first, second) = (meet("192.0.2.1"), meet("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(meet("192.0.2.1").is_none());
        assert!(meet("192.0.2.2").is_some(), "another address");
        first.as_ref().unwrap().make();
        let third = meet("192.0.2.1");
        assert!(third.is_some() && meet("192.0.2.1").is_none());
        drop((first, second, third));
        assert!(strangers.lock().is_empty());
    }
}
