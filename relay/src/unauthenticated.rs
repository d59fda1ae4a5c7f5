//! Client connections that have shown no token yet, counted by address: callers without a token can take only a part
//! of the slots.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use betcode_service::sync::lock;
use http::HeaderValue;
use uuid::Uuid;

use crate::limits;
use crate::router::rate_limit_key;

/// Connections that have shown no token yet, by address.
#[derive(Debug)]
pub struct UnauthenticatedConnections {
    per_address_max: usize,
    /// Connections by address; entries are removed at zero.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
struct CountGuard {
    unauthenticated: Arc<UnauthenticatedConnections>,
    address: IpAddr,
}

/// Whether a caller of a connection has shown a token. Until then the connection is counted.
#[derive(Debug)]
pub(crate) struct ConnectionAuth {
    counted: Mutex<Option<CountGuard>>,
    name: Option<HeaderValue>,
}

impl UnauthenticatedConnections {
    /// The count for a relay with so many slots for clients.
    #[must_use]
    pub fn among(clients_max: usize) -> Arc<Self> {
        let share = clients_max.div_ceil(limits::CLIENTS_UNKNOWN_SHARE);
        Arc::new(Self {
            per_address_max: share.min(limits::CLIENTS_UNKNOWN_PER_ADDRESS_MAX),
            by_address: Mutex::default(),
        })
    }

    /// Counts a new connection of an address. `None` when it has too many.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionAuth> {
        let address = rate_limit_key(address);
        let mut by_address = self.lock();
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        let unauthenticated = self.clone();
        let counted = CountGuard {
            unauthenticated,
            address,
        };
        Some(ConnectionAuth {
            counted: Mutex::new(Some(counted)),
            name: HeaderValue::from_str(&Uuid::new_v4().simple().to_string()).ok(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        lock(&self.by_address)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let mut by_address = self.unauthenticated.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl ConnectionAuth {
    /// Of a connection that is not counted: a load balancer's stands for many callers.
    pub(crate) fn of_proxy() -> Self {
        Self {
            counted: Mutex::new(None),
            name: None,
        }
    }

    /// What daemons know the connection by; `None` for a load balancer's.
    pub(crate) fn name(&self) -> Option<&HeaderValue> {
        self.name.as_ref()
    }

    /// A caller of the connection has shown a token: it is no longer counted.
    pub(crate) fn mark_authenticated(&self) {
        let counted = lock(&self.counted).take();
        // Not under that lock: it takes the other one.
        drop(counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strangers_count_and_only_by_address() {
        let unauthenticated = UnauthenticatedConnections::among(8);
        let meet = |address: &str| unauthenticated.admit(address.parse().unwrap());
        let (first, second) = (meet("192.0.2.1"), meet("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(meet("192.0.2.1").is_none());
        assert!(meet("192.0.2.2").is_some(), "another address");
        first.as_ref().unwrap().mark_authenticated();
        let third = meet("192.0.2.1");
        assert!(third.is_some() && meet("192.0.2.1").is_none());
        drop((first, second, third));
        assert!(unauthenticated.lock().is_empty());
    }
}
