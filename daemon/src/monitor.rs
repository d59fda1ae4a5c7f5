//! What the daemon looks at in intervals: the health of its components, how near it is to its limits, and what other
//! processes do to the sessions that are followed.

use std::sync::Arc;
use std::time::Duration;

use betcode_service::process::resident_bytes;
use betcode_storage::StoreError;
use betcode_storage::capacity::levels::CPU_SAMPLE_INTERVAL_MS;
use betcode_storage::capacity::planner::MetricSample;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::core::Core;
use crate::health::{self, Health, Prober};
use crate::levels;
use crate::limits::{FOLLOW_POLL_MS, PROBE_MS_MAX};
use crate::observe::ms;
use crate::server::SERVICES;
use crate::tunnel::TunnelState;

/// Probes the daemon's components, samples its levels, and reports both.
pub(crate) struct Monitor {
    health: watch::Sender<Health>,
    levels: watch::Sender<Vec<MetricSample>>,
    reporter: HealthReporter,
    prober: Prober,
    sampler: levels::Sampler,
}

impl Monitor {
    /// A monitor that reports to these.
    pub(crate) fn new(
        health: watch::Sender<Health>,
        levels: watch::Sender<Vec<MetricSample>>,
        reporter: HealthReporter,
    ) -> Self {
        Self {
            health,
            levels,
            reporter,
            prober: Prober::default(),
            sampler: levels::Sampler::default(),
        }
    }

    /// Looks at everything once, before the daemon serves.
    pub(crate) async fn begin(&mut self, core: &Arc<Core>) {
        self.probe(core, ms(PROBE_MS_MAX)).await;
        self.sampler.sample_processor();
        self.levels.send_replace(self.sampler.sample(core));
    }

    /// Looks at intervals, until the daemon stops.
    pub(crate) async fn run(mut self, core: Arc<Core>) {
        let every = ms(core.settings.health_interval_ms);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let processor_every = ms(CPU_SAMPLE_INTERVAL_MS);
        let mut processor_ticks = interval_at(Instant::now() + processor_every, processor_every);
        // Samples that are closer than that would make a moment's load a sustained one.
        processor_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => tokio::select! {
                    () = self.probe(&core, every.max(ms(PROBE_MS_MAX))) => {}
                    () = core.drained() => break,
                },
                _ = processor_ticks.tick() => self.sampler.sample_processor(),
                () = core.drained() => break,
            }
            let now = self.sampler.sample(&core);
            self.levels
                .send_if_modified(|last| levels::replace(last, now));
            core.admission.expire();
            let is_open = matches!(*core.tunnel.borrow(), TunnelState::Open { .. });
            core.metrics.tunnel.measure_idle(is_open);
        }
        // In this order: the streams of those who watch end with what they are sent here.
        report(&self.reporter, false).await;
        self.health.send_modify(|health| health.draining = true);
    }

    async fn probe(&mut self, core: &Arc<Core>, wait_max: Duration) {
        let found = health::probe(core, &mut self.prober, wait_max).await;
        self.health.send_modify(|health| found.apply_to(health));
        let is_serving = self.health.borrow().serving();
        report(&self.reporter, is_serving).await;
    }
}

async fn report(reporter: &HealthReporter, is_serving: bool) {
    let status = if is_serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in std::iter::once("").chain(SERVICES) {
        reporter.set_service_status(service, status).await;
    }
}

/// Looks at what nobody announces, until the daemon stops: memory, and what other processes append to the sessions
/// that are followed, or delete.
pub(crate) async fn poll(core: Arc<Core>) {
    let mut ticks = interval(ms(FOLLOW_POLL_MS));
    // A pause follows a pass over many sessions that took long, too.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.drained() => return,
        }
        core.admission.memory.observe(resident_bytes().now);
        for id in core.hub.followed() {
            let (store, session) = (core.store.clone(), id.clone());
            match core.blocking.read(move || store.session(&session)).await {
                Ok(session) => core.hub.compare(&session),
                Err(StoreError::SessionNotFound { .. }) => core.hub.deleted(&id),
                Err(error) => tracing::warn!(%error, session = %id, "cannot look at a session"),
            }
        }
    }
}
