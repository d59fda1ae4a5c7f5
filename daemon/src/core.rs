//! What all services share: the store, and what is around it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use betcode_service::sync::lock;
use betcode_storage::capacity::planner::MetricSample;
use betcode_storage::{CompactionPolicy, CompactionService, SessionId, Store};
use tokio::sync::watch;
use tonic::Status;

use crate::admission::Admission;
use crate::agents::Agents;
use crate::blocking::Blocking;
use crate::health::Health;
use crate::hub::Hub;
use crate::observe::Metrics;
use crate::settings::Settings;
use crate::status;
use crate::tunnel::TunnelState;

/// The open store and everything around it. Services hold it in an [`Arc`].
pub struct Core {
    /// The store.
    pub store: Store,
    /// Messages on their way to followers.
    pub hub: Arc<Hub>,
    /// Agents that run.
    pub agents: Agents,
    /// Limits.
    pub admission: Admission,
    /// Runs calls into the store.
    pub blocking: Blocking,
    /// Counters and latencies.
    pub metrics: Metrics,
    /// Health, as the last probe found it.
    pub health: watch::Receiver<Health>,
    /// Levels as last sampled.
    pub levels: watch::Receiver<Vec<MetricSample>>,
    /// Turns true when the daemon begins to stop.
    pub draining: watch::Receiver<bool>,
    /// The state of the tunnel to the relay.
    pub tunnel: watch::Receiver<TunnelState>,
    /// Memory in RAM when the store was open and no client was connected.
    pub base_bytes: u64,
    /// Settings at the start.
    pub settings: Settings,
    /// Background compaction; `None` when it is disabled or has ended.
    pub compaction: Mutex<Option<CompactionService>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Core {
    /// The background compaction.
    pub fn compaction(&self) -> MutexGuard<'_, Option<CompactionService>> {
        lock(&self.compaction)
    }

    /// The policy of compaction, as the settings have it.
    #[must_use]
    pub fn policy(&self) -> CompactionPolicy {
        self.settings.compaction_policy()
    }

    /// Whether the daemon is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Main file and log, as the file system has them; 0 when they cannot be looked at.
    #[must_use]
    pub fn database_bytes(&self) -> u64 {
        let path = self.store.path();
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        bytes(path) + bytes(Path::new(&log))
    }

    /// Waits until the daemon begins to stop.
    pub async fn drained(&self) {
        let mut draining = self.draining.clone();
        // An error means that the sender is gone: the daemon ends as well.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Waits until the daemon's health says that it stops: those who watch it are sent that before their
    /// streams end.
    pub async fn stop_reported(&self) {
        let mut health = self.health.clone();
        // An error means that the sender is gone: the daemon ends as well.
        let _ = health.wait_for(|health| health.draining).await;
    }
}

/// Checks an id.
///
/// # Errors
/// INVALID_ARGUMENT with what an id looks like.
pub fn session_id(text: &str) -> Result<SessionId, Status> {
    SessionId::new(text).map_err(|error| status::from_store(&error))
}
