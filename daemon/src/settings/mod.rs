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
    CompactionPolicy, Durability, StoreOptions, capacity::planner::memory, compact::ServiceOptions,
};

pub use load::{Loaded, Origin, SettingsError, Sources, load, socket_beside};
pub use table::{Kind, PARAMETERS, Parameter};

use crate::admission::LimitValues;
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
    pub max_connection_age_ms: u64,
    pub prometheus_listen: Option<SocketAddr>,
    pub relay: bool,
    pub relay_address: String,
    pub relay_folder: PathBuf,
    pub durability: Durability,
    pub max_payload_bytes: usize,
    pub max_db_bytes: u64,
    pub max_session_bytes: u64,
    pub max_readers: u32,
    pub max_queue_requests: usize,
    pub max_queue_bytes: usize,
    pub max_append_wait_ms: u64,
    pub max_connections: usize,
    pub max_clients: u64,
    pub max_sessions: u64,
    pub max_followers: u64,
    pub max_in_flight_bytes: u64,
    pub max_client_in_flight_bytes: usize,
    pub max_follower_buffer_bytes: usize,
    pub max_memory_bytes: u64,
    pub max_subprocesses: u64,
    pub agent_command: String,
    pub agent_arguments: Vec<String>,
    pub agent_idle_ms: u64,
    pub agent_request_wait_ms: u64,
    pub max_drain_ms: u64,
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
            db_bytes_max: self.max_db_bytes,
            session_bytes_max: self.max_session_bytes,
            queue_requests_max: self.max_queue_requests,
            queue_bytes_max: self.max_queue_bytes,
            append_wait_ms_max: self.max_append_wait_ms,
            readers_max: self.max_readers,
            ..StoreOptions::default()
        }
    }

    /// Values of the daemon's limits.
    #[must_use]
    pub fn maxima(&self) -> LimitValues {
        LimitValues {
            clients: self.max_clients,
            followers: self.max_followers,
            in_flight_bytes: self.max_in_flight_bytes,
            sessions: self.max_sessions,
            memory_bytes: self.max_memory_bytes,
            subprocesses: self.max_subprocesses,
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

    /// Memory that the capacity plan's formula gives for as many sessions, clients and agents as are
    /// let in.
    #[must_use]
    pub fn planned_memory_bytes(&self) -> u64 {
        planned_memory_bytes(self.max_sessions, self.max_clients, self.max_subprocesses)
    }
}

/// Memory that the capacity plan's formula gives for so many sessions, clients and agents.
#[must_use]
pub fn planned_memory_bytes(sessions: u64, clients: u64, subprocesses: u64) -> u64 {
    memory::DAEMON_BASE_BYTES.0
        + sessions * memory::DAEMON_SESSION_BYTES.0
        + clients * memory::DAEMON_CLIENT_BYTES.0
        + subprocesses * memory::DAEMON_SUBPROCESS_BYTES.0
}
