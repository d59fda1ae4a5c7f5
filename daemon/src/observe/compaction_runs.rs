//! Runs of compaction that ended since the start, by how they ended.

use std::collections::BTreeMap;
use std::sync::Mutex;

use betcode_service::sync::lock;
use betcode_storage::{CompactionRun, RunOutcome};

/// Counts the runs of the store's history, whoever made them: the background, a call, or another process.
#[derive(Debug, Default)]
pub struct CompactionRuns(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// The newest run that was looked at; `None` before the first look.
    last_run_id: Option<i64>,
    done: u64,
    cancelled: u64,
    failed: u64,
    /// When the last failed run ended, Unix milliseconds.
    last_failed_ms: Option<i64>,
}

impl CompactionRuns {
    /// Takes note of the runs that the store's history has, in any order. Those of the first look ended before
    /// the start, and are not counted; the last failure among them is known all the same.
    pub fn observe(&self, runs: &[CompactionRun]) {
        let mut counted = lock(&self.0);
        let newest = runs.iter().map(|run| run.run_id).max();
        for run in runs {
            if run.outcome == RunOutcome::Failed {
                counted.last_failed_ms = counted.last_failed_ms.max(Some(run.finished_ms));
            }
            if counted.last_run_id.is_none_or(|last| run.run_id <= last) {
                continue;
            }
            match run.outcome {
                RunOutcome::Done => counted.done += 1,
                RunOutcome::Cancelled => counted.cancelled += 1,
                _ => counted.failed += 1,
            }
        }
        counted.last_run_id = Some(newest.unwrap_or(0)).max(counted.last_run_id);
    }

    /// How many runs there were since the start, by outcome.
    #[must_use]
    pub fn by_outcome(&self) -> BTreeMap<&'static str, u64> {
        let counted = lock(&self.0);
        BTreeMap::from([
            (RunOutcome::Done.name(), counted.done),
            (RunOutcome::Cancelled.name(), counted.cancelled),
            (RunOutcome::Failed.name(), counted.failed),
        ])
    }

    /// When the last failed run of the history ended, Unix milliseconds; `None` when none failed.
    #[must_use]
    pub fn last_failed_ms(&self) -> Option<i64> {
        lock(&self.0).last_failed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run_id: i64, outcome: RunOutcome) -> CompactionRun {
        CompactionRun {
            run_id,
            started_ms: 0,
            finished_ms: run_id * 1000,
            trigger: "background".to_owned(),
            tier: "quick".to_owned(),
            outcome,
            bytes_before: 0,
            bytes_after: 0,
            messages: 0,
            raw_bytes: 0,
            segments_written: 0,
            segments_replaced: 0,
            detail: String::new(),
        }
    }

    #[test]
    fn each_run_counts_once_and_those_before_the_start_do_not() {
        let runs = CompactionRuns::default();
        let old = run(1, RunOutcome::Failed);
        runs.observe(std::slice::from_ref(&old));
        assert_eq!(runs.by_outcome()["failed"], 0);
        assert_eq!(runs.last_failed_ms(), Some(1000));
        let later = [run(3, RunOutcome::Failed), run(2, RunOutcome::Done), old];
        runs.observe(&later);
        runs.observe(&later);
        let counted = runs.by_outcome();
        assert_eq!(
            (counted["done"], counted["cancelled"], counted["failed"]),
            (1, 0, 1)
        );
        assert_eq!(runs.last_failed_ms(), Some(3000));
    }

    #[test]
    fn runs_after_the_start_count_in_a_store_that_had_none() {
        let runs = CompactionRuns::default();
        runs.observe(&[]);
        runs.observe(&[run(1, RunOutcome::Done)]);
        assert_eq!(runs.by_outcome()["done"], 1);
    }
}
