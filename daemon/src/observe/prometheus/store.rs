//! What the store says of itself: its report, its runs of compaction, its waits for locks.

use std::borrow::Cow;
use std::sync::Arc;

use betcode_storage::busy_waits;
use betcode_storage::capacity::report;
use betcode_storage::limits::COMPACTION_RUNS_KEPT_MAX;
use tokio::time::timeout;

use super::Text;
use crate::core::Core;
use crate::limits::SCRAPE_READ_MS_MAX;
use crate::observe::ms;

/// Adds the metrics of the store. Those that have to be read from a store that cannot be read, or not in time,
/// have no sample: `betcode_serving` and `betcode_degraded` say that there is trouble.
pub(super) async fn store(core: &Arc<Core>, text: &mut Text) {
    text.one(
        (
            "store_busy_waits_total",
            "counter",
            "Times that the daemon waited for a lock of the database",
        ),
        busy_waits(),
    );
    let (store, reading) = (core.store.clone(), Arc::clone(core));
    let read = core.blocking.read(move || {
        let runs = store.compaction_runs(COMPACTION_RUNS_KEPT_MAX)?;
        reading.metrics.compaction_runs.observe(&runs);
        store.capacity_report()
    });
    let read = timeout(ms(SCRAPE_READ_MS_MAX), read).await;
    compaction(core, text);
    match read {
        Ok(Ok(read)) => text.append(&report::prometheus(&read)),
        Ok(Err(error)) => tracing::debug!(%error, "metrics without those of the store"),
        Err(_) => tracing::debug!("metrics without those of the store: no answer in time"),
    }
}

fn compaction(core: &Core, text: &mut Text) {
    let runs = &core.metrics.compaction_runs;
    let samples = runs.by_outcome().into_iter().map(|(outcome, runs)| {
        let label = format!("{{outcome=\"{outcome}\"}}");
        (Cow::Owned(label), runs as f64)
    });
    text.family(
        (
            "compaction_runs_total",
            "counter",
            "Runs of compaction that ended since the start, whoever asked for them",
        ),
        samples,
    );
    let last_failed = runs.last_failed_ms();
    text.family(
        (
            "compaction_last_failure_timestamp_seconds",
            "gauge",
            "When the last run of compaction that failed ended, Unix seconds; no sample if none did",
        ),
        last_failed.map(|at_ms| (Cow::Borrowed(""), at_ms as f64 / 1000.0)),
    );
}
