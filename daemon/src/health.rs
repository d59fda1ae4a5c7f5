//! Health of the daemon: measured by reading from and writing to the store, and by looking at its other components.
//!
//! `monitor` probes at intervals and reports what was found.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use betcode_storage::capacity::levels::{Level, Metric};
use betcode_storage::{Clock, CompactionService, StoreError, SystemClock};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::limits::PROBES_PER_WRITE;
use crate::tunnel::TunnelState;

/// Components, by their names.
pub const COMPONENTS: [&str; 5] = ["store", "compaction", "capacity", "agents", "relay"];

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
    /// Its components; empty before the first probe.
    pub components: Vec<Component>,
    /// The last probe of the store ended in time, whatever it found.
    pub in_time: bool,
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

/// Decides when a probe writes. Each probe reads; a write wakes a sleeping disk, and shows nothing
/// that a client's commit since the last probe has not shown.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    probes: u64,
    appended: u64,
    last_failed: bool,
    /// A probe that did not end in time. While it goes on there is no other: a store that hangs costs one
    /// thread, not one for each probe.
    unended: Option<(Instant, JoinHandle<Result<(), StoreError>>)>,
}

impl Prober {
    fn writes(&mut self, appended: u64) -> bool {
        let committed = appended > std::mem::replace(&mut self.appended, appended);
        self.probes = if committed { 1 } else { self.probes + 1 };
        self.last_failed || self.probes.is_multiple_of(PROBES_PER_WRITE)
    }
}

/// What a probe found.
#[derive(Debug)]
pub(crate) struct ProbeResult {
    components: Vec<Component>,
    in_time: bool,
}

impl ProbeResult {
    /// Puts the result into the health that clients see.
    pub(crate) fn apply_to(self, health: &mut Health) {
        health.components = self.components;
        health.in_time = self.in_time;
    }
}

/// Probes every component.
pub(crate) async fn probe(
    core: &Arc<Core>,
    prober: &mut Prober,
    wait_max: Duration,
) -> ProbeResult {
    let checked_ms = SystemClock.now_ms();
    let (probed, did) = probe_store(core, prober, wait_max).await;
    let in_time = probed.is_some();
    let (serving, message) = match probed {
        Some(Ok(took)) => (true, format!("{did} in {} ms", took.as_millis())),
        Some(Err(error)) => (false, error.to_string()),
        None => {
            let asked = prober.unended.as_ref().map(|(asked, _)| asked.elapsed());
            let waited = asked.unwrap_or(wait_max).as_millis();
            (false, format!("no answer within {waited} ms"))
        }
    };
    prober.last_failed = !serving;
    let compaction = core.compaction().as_ref().map(CompactionService::status);
    let trouble = compaction.and_then(|status| status.last_error);
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
        capacity(core, checked_ms),
    ];
    components.extend(agents(core, checked_ms).await);
    components.extend(relay(&core.tunnel.borrow(), checked_ms));
    ProbeResult {
        components,
        in_time,
    }
}

/// How near the daemon is to its limits. It needs somebody while the database's size is not at level ok, while
/// another measure is critical, and while appends are refused for want of space.
fn capacity(core: &Core, checked_ms: i64) -> Component {
    let size = core.store.level();
    let mut message = format!("the database's size is at level {}", size.name());
    let mut degraded = size != Level::Ok;
    let levels = core.levels.borrow();
    for sample in levels
        .iter()
        .filter(|sample| sample.metric != Metric::SqliteSize && sample.level == Level::Critical)
    {
        degraded = true;
        message.push_str(&format!(
            "; {} is at level critical ({} of {})",
            sample.metric.name(),
            sample.used,
            sample.limit
        ));
    }
    if let Some(limit) = core.store.space_refusals().refusing {
        degraded = true;
        message.push_str(&format!(
            "; appends are refused for want of space ({})",
            limit.name()
        ));
    }
    Component {
        name: "capacity",
        serving: true,
        degraded,
        message,
        checked_ms,
    }
}

/// Reads the store, or writes to it as well: how long that took, or `None` when it has not ended in
/// time; and what was done.
async fn probe_store(
    core: &Core,
    prober: &mut Prober,
    wait_max: Duration,
) -> (Option<Result<Duration, StoreError>>, &'static str) {
    let (asked, mut probe, did) = match prober.unended.take() {
        Some((asked, probe)) => (asked, probe, "answered"),
        None => {
            let appended = core.metrics.messages_appended.load(Ordering::Relaxed);
            let writes = prober.writes(appended);
            let store = core.store.clone();
            // Outside the bounds of other calls, which must not keep it waiting.
            let probe = tokio::task::spawn_blocking(move || match writes {
                true => store.probe(),
                false => store
                    .check_in_place()
                    .and_then(|()| store.totals().map(|_| ())),
            });
            let did = if writes { "read and wrote" } else { "read" };
            (Instant::now(), probe, did)
        }
    };
    match timeout(wait_max, &mut probe).await {
        Ok(ended) => {
            let panicked = |_| {
                Err(StoreError::Closed {
                    why: Some("the probe of it ended by an internal error".into()),
                })
            };
            let ended = ended.unwrap_or_else(panicked);
            (Some(ended.map(|()| asked.elapsed())), did)
        }
        Err(_) => {
            prober.unended = Some((asked, probe));
            (None, did)
        }
    }
}

/// Agents, unless none are to run. Without the executable history is served all the same, and a
/// machine that has no agent is well; one whose agent was named by its path and is gone is not.
async fn agents(core: &Core, checked_ms: i64) -> Option<Component> {
    let limit = &core.admission.subprocesses;
    if limit.max() == 0 {
        return None;
    }
    let command = core.settings.agent_command.clone();
    let looking = core
        .blocking
        .files(move || crate::agents::executable(&command));
    let found = match looking.await {
        Ok(found) => found.map_err(|refusal| refusal.message),
        Err(status) => Err(status.message().to_owned()),
    };
    let missed = found.is_err() && core.settings.agent_command.contains('/');
    Some(Component {
        name: "agents",
        serving: !missed,
        degraded: missed,
        message: match found {
            Ok(path) => format!("{} of {} run {}", limit.used(), limit.max(), path.display()),
            Err(why) => why,
        },
        checked_ms,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_writes_when_nobody_did_for_long_and_while_there_is_trouble() {
        let mut prober = Prober::default();
        let idle = (1..=2 * PROBES_PER_WRITE).filter(|_| prober.writes(0));
        assert_eq!(idle.count(), 2);
        let busy = (1..=2 * PROBES_PER_WRITE).filter(|&appended| prober.writes(appended));
        assert_eq!(busy.count(), 0);
        prober.last_failed = true;
        assert!(prober.writes(u64::MAX) && prober.writes(u64::MAX));
    }
}
