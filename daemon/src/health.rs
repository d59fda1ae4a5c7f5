//! Health: found by reading and writing, told to whoever asks.

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_grpc::history::ResourceLevel;
use betcode_storage::capacity::levels::Level;
use betcode_storage::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::core::Core;
use crate::levels;
use crate::tunnel::TunnelState;

/// Components, by their names.
pub const COMPONENTS: [&str; 4] = ["store", "compaction", "capacity", "relay"];

/// Health of one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// One of [`COMPONENTS`].
    pub name: &'static str,
    /// Whether it does its work.
    pub serving: bool,
    /// It works, and somebody should look after it.
    pub degraded: bool,
    /// What was found.
    pub message: String,
    /// When, Unix milliseconds.
    pub checked_ms: i64,
}

/// Health of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// It is stopping.
    pub draining: bool,
    /// Its components; empty before the first look.
    pub components: Vec<Component>,
}

impl Health {
    /// Whether requests are served: the store reads and writes, and the daemon is not stopping.
    /// Compaction and capacity may need somebody, and history is recorded all the same.
    #[must_use]
    pub fn serving(&self) -> bool {
        let store = self
            .components
            .iter()
            .find(|component| component.name == "store");
        !self.draining && store.is_some_and(|store| store.serving)
    }
}

/// Looks at every component.
pub(crate) async fn look(core: &Arc<Core>, wait_max: Duration) -> Vec<Component> {
    let checked_ms = SystemClock.now_ms();
    let store = core.store.clone();
    let started = Instant::now();
    let probed = timeout(wait_max, core.blocking.write(move || store.probe())).await;
    let (serving, message) = match probed {
        Ok(Ok(())) => (
            true,
            format!("read and wrote in {} ms", started.elapsed().as_millis()),
        ),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (
            false,
            format!("no answer within {} ms", wait_max.as_millis()),
        ),
    };
    let status = core.compaction().as_ref().map(|running| running.0.status());
    let trouble = status.and_then(|status| status.last_error);
    let level = core.store.level();
    let mut components = vec![
        Component {
            name: "store",
            serving,
            degraded: false,
            message,
            checked_ms,
        },
        Component {
            name: "compaction",
            serving: trouble.is_none(),
            degraded: trouble.is_some(),
            message: trouble.unwrap_or_else(|| "in order".to_owned()),
            checked_ms,
        },
        Component {
            name: "capacity",
            serving: true,
            degraded: level != Level::Ok,
            message: format!("the database's size is at level {}", level.name()),
            checked_ms,
        },
    ];
    components.extend(relay(&core.tunnel.borrow(), checked_ms));
    components
}

/// The tunnel, when one is wanted. Without it this machine's own clients are served all the same.
fn relay(tunnel: &TunnelState, checked_ms: i64) -> Option<Component> {
    let (open, message) = match tunnel {
        TunnelState::Off => return None,
        TunnelState::Open { relay_id, .. } => (true, format!("clients of {relay_id} come through")),
        TunnelState::Dialling => (false, "dialling the relay".to_owned()),
        TunnelState::Waiting { why, .. } => (false, format!("no tunnel to the relay: {why}")),
        TunnelState::Unusable { why } => (false, format!("no tunnel to the relay: {why}")),
        TunnelState::Stopped => (false, "the tunnel is closed".to_owned()),
    };
    Some(Component {
        name: "relay",
        serving: open,
        degraded: !open,
        message,
        checked_ms,
    })
}

/// Looks now and then, and tells; until the daemon stops.
pub(crate) async fn watch(
    core: Arc<Core>,
    health: watch::Sender<Health>,
    levels: watch::Sender<Vec<ResourceLevel>>,
    reporter: HealthReporter,
) {
    let every = Duration::from_millis(core.settings.health_interval_ms);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sampler = levels::Sampler::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.drained() => break,
        }
        let components = look(&core, every.max(Duration::from_secs(5))).await;
        health.send_modify(|health| health.components = components);
        let serving = health.borrow().serving();
        report(&reporter, serving).await;
        let now = sampler.sample(&core);
        levels.send_if_modified(|kept| levels::changed(kept, now));
        core.admission.expire();
    }
    health.send_modify(|health| health.draining = true);
    report(&reporter, false).await;
}

pub(crate) async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in std::iter::once("").chain(crate::server::SERVICES) {
        reporter.set_service_status(service, status).await;
    }
}
