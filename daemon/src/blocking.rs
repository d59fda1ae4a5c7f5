//! Calls into the store, which is synchronous, from tasks, which must not block.
//!
//! Every kind of call has a bound of its own, and together they leave threads free: the probe of the store's health finds
//! one however many appends wait for the writer's queue.
//!
//! Reads take turns: a bounded number at once, first come, first served. A long replay asks again for every page, so
//! fifty of them share fairly, and none holds a connection while its client is slow.

use std::sync::Arc;
use std::time::Duration;

use betcode_storage::{Result, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;

use crate::admission::{Limit, LimitGuard};
use crate::limits::{
    APPENDS_QUEUING_MAX, FILE_CHECKS_MAX, LONG_JOBS_MAX, WARM_REPLAYS_MAX, WRITES_MAX,
};
use crate::long_lines::LongLineBudget;
use crate::status;

/// Where blocking calls run.
#[derive(Debug, Clone)]
pub struct Blocking {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    appends: Arc<Semaphore>,
    files: Arc<Semaphore>,
    long_jobs: Arc<Limit>,
    warm: Arc<Semaphore>,
    long_lines: LongLineBudget,
}

impl Blocking {
    /// Lets `reads_max` short reads run at once.
    #[must_use]
    pub fn new(reads_max: usize) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(reads_max)),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            appends: Arc::new(Semaphore::new(APPENDS_QUEUING_MAX)),
            files: Arc::new(Semaphore::new(FILE_CHECKS_MAX)),
            long_jobs: Limit::new(
                "long_jobs",
                "wait for one of the compactions, checks or backups to end",
                LONG_JOBS_MAX as u64,
            ),
            warm: Arc::new(Semaphore::new(WARM_REPLAYS_MAX)),
            long_lines: LongLineBudget::default(),
        }
    }

    /// Runs a short read when it is its turn.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.reads).acquire_owned().await.ok();
        run(move || {
            let _turn = turn;
            work()
        })
        .await
    }

    /// Waits for a slot among the replays that keep a decoded segment.
    pub(crate) async fn warm_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.warm).acquire_owned().await.ok()
    }

    /// How many such slots are free.
    pub(crate) fn free_warm_slots(&self) -> usize {
        self.warm.available_permits()
    }

    /// The budget of long lines.
    pub(crate) fn long_lines(&self) -> &LongLineBudget {
        &self.long_lines
    }

    /// Runs a write, which the store puts in order itself. It waits while too many run.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let slot = Arc::clone(&self.writes).acquire_owned().await.ok();
        run(move || {
            let _slot = slot;
            work()
        })
        .await
    }

    /// Checks files that clients name. They may be on a network file system, which may hang.
    ///
    /// # Errors
    /// INTERNAL when `work` panics.
    pub(crate) async fn files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::result::Result<T, Status> {
        let slot = Arc::clone(&self.files).acquire_owned().await.ok();
        let checked = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        checked.await.map_err(|error| {
            tracing::error!(%error, "a check of files ended by a panic");
            status::internal("checking a file ended by an internal error")
        })
    }

    /// A slot among the batches that are being put into the writer's queue, each of which takes a
    /// thread while the queue is full; `None` when there was none for `wait_max`.
    pub(crate) async fn append_slot(&self, wait_max: Duration) -> Option<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.appends).acquire_owned();
        timeout(wait_max, slot).await.ok()?.ok()
    }

    /// Starts a job that takes long; it goes on until it ends by itself.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many run already.
    pub fn start_long_job(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Status> {
        let slot = self.long_job()?;
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work();
        });
        Ok(())
    }

    /// Takes a slot among the long jobs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many run already.
    pub(crate) fn long_job(&self) -> std::result::Result<LimitGuard, Status> {
        self.long_jobs.acquire(1)
    }

    /// The limit of the long jobs.
    pub(crate) fn long_jobs(&self) -> &Arc<Limit> {
        &self.long_jobs
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic is a bug; the daemon goes on, and the log has it.
        Err(error) => {
            tracing::error!(%error, "a call into the store ended by a panic");
            Err(StoreError::Closed {
                why: Some("the call ended by an internal error".into()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn appends_that_wait_for_room_leave_threads_for_others() {
        let blocking = Blocking::new(1);
        let mut slots = Vec::new();
        for _ in 0..APPENDS_QUEUING_MAX {
            slots.push(blocking.append_slot(Duration::ZERO).await.unwrap());
        }
        assert!(blocking.append_slot(Duration::ZERO).await.is_none());
        assert_eq!(blocking.write(|| Ok(1)).await.unwrap(), 1);
        slots.pop();
        assert!(blocking.append_slot(Duration::ZERO).await.is_some());
    }
}
