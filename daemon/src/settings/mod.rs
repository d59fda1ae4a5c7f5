//! Settings: a table of parameters with defaults and bounds, and where each value came from.
//!
//! A value is looked for in the settings file (JSON, an object by parameter names), then in the
//! environment (`BETCODE_` and the name in capitals), then in the flags; the later wins. A value
//! out of its bounds, or a name that there is not, is an error that says so.

mod load;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;

use betcode_storage::{
    CompactionPolicy, Durability, ServiceOptions, StoreOptions, capacity::planner::memory,
};

pub use load::{Loaded, Origin, SettingsError, Sources, load, socket_beside};
pub use table::{Kind, PARAMETERS, Parameter};

use crate::admission::Maxima;
use crate::limits::REQUEST_OVERHEAD_BYTES;

/// The settings in force. Fields are the parameters of [`PARAMETERS`], described there.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "described in the table, which is what users see"
)]
pub struct Settings {
    pub db: PathBuf,
    pub socket: PathBuf,
    pub tcp_listen: Option<SocketAddr>,
    pub tls_listen: Option<SocketAddr>,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub tls_client_ca: PathBuf,
    pub prometheus_listen: Option<SocketAddr>,
    pub relay: bool,
    pub relay_address: String,
    pub relay_folder: PathBuf,
    pub durability: Durability,
    pub max_payload_bytes: usize,
    pub db_bytes_max: u64,
    pub session_bytes_max: u64,
    pub readers_max: u32,
    pub queue_requests_max: usize,
    pub queue_bytes_max: usize,
    pub append_wait_ms_max: u64,
    pub connections_max: usize,
    pub clients_max: u64,
    pub sessions_max: u64,
    pub followers_max: u64,
    pub in_flight_bytes_max: u64,
    pub client_in_flight_bytes_max: usize,
    pub follower_buffer_bytes_max: usize,
    pub memory_bytes_max: u64,
    pub drain_ms_max: u64,
    pub health_interval_ms: u64,
    pub compaction: bool,
    pub compaction_interval_ms: u64,
    pub compaction_cpu_percent: u64,
    pub quick_idle_ms: i64,
    pub deep_idle_ms: i64,
    pub log_filter: String,
    pub log_json: bool,
}

impl Settings {
    /// How the store is opened; without the hook that followers need.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            durability: self.durability,
            payload_bytes_max: self.max_payload_bytes,
            db_bytes_max: self.db_bytes_max,
            session_bytes_max: self.session_bytes_max,
            queue_requests_max: self.queue_requests_max,
            queue_bytes_max: self.queue_bytes_max,
            append_wait_ms_max: self.append_wait_ms_max,
            readers_max: self.readers_max,
            ..StoreOptions::default()
        }
    }

    /// Values of the daemon's limits.
    #[must_use]
    pub fn maxima(&self) -> Maxima {
        Maxima {
            clients: self.clients_max,
            followers: self.followers_max,
            in_flight_bytes: self.in_flight_bytes_max,
            sessions: self.sessions_max,
        }
    }

    /// When and how to compact.
    #[must_use]
    pub fn compaction_policy(&self) -> CompactionPolicy {
        CompactionPolicy {
            quick_idle_ms_min: self.quick_idle_ms,
            deep_idle_ms_min: self.deep_idle_ms,
            ..CompactionPolicy::default()
        }
    }

    /// Settings of background compaction.
    #[must_use]
    pub fn compaction_options(&self) -> ServiceOptions {
        ServiceOptions {
            policy: self.compaction_policy(),
            interval_ms: self.compaction_interval_ms,
            cpu_fraction_max: self.compaction_cpu_percent as f64 / 100.0,
        }
    }

    /// Size of the largest request: one message of the largest size, or many smaller ones.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        self.max_payload_bytes + REQUEST_OVERHEAD_BYTES
    }

    /// Memory that the capacity plan's formula gives for so many sessions and clients.
    #[must_use]
    pub fn planned_memory_bytes(&self) -> u64 {
        memory::DAEMON_BASE_BYTES.0
            + self.sessions_max * memory::DAEMON_SESSION_BYTES.0
            + self.clients_max * memory::DAEMON_CLIENT_BYTES.0
    }
}
