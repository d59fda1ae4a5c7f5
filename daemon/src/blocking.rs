//! Calls into the store, which is synchronous, from tasks, which must not block.
//!
//! Reads take turns: so many at once, in the order in which they asked. A long replay asks again
//! for every page, so that fifty of them share fairly and nobody holds a connection while its
//! client is slow.

use std::sync::Arc;

use betcode_storage::{Result, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{LONG_JOBS_MAX, WARM_REPLAYS_MAX};
use crate::room::Room;
use crate::status;

/// Where blocking calls run.
#[derive(Debug, Clone)]
pub struct Blocking {
    reads: Arc<Semaphore>,
    long_jobs: Arc<Semaphore>,
    warm: Arc<Semaphore>,
    room: Room,
}

impl Blocking {
    /// Lets `reads_max` short reads run at once.
    #[must_use]
    pub fn new(reads_max: usize) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(reads_max)),
            long_jobs: Arc::new(Semaphore::new(LONG_JOBS_MAX)),
            warm: Arc::new(Semaphore::new(WARM_REPLAYS_MAX)),
            room: Room::default(),
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
        // Closed only when the semaphore is, which nobody does; then reading goes on unordered.
        let turn = Arc::clone(&self.reads).acquire_owned().await.ok();
        run(move || {
            let _turn = turn;
            work()
        })
        .await
    }

    /// Waits for a place among the replays that keep a decoded segment.
    pub(crate) async fn warm_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.warm).acquire_owned().await.ok()
    }

    /// How many such places are free.
    pub(crate) fn warm_places_left(&self) -> usize {
        self.warm.available_permits()
    }

    /// Room for long lines.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Runs a write, which the store puts in order itself.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run(work).await
    }

    /// Starts a job that takes long; it goes on until it ends by itself.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many run already.
    pub fn start_long_job(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Status> {
        let place = self.long_job()?;
        tokio::task::spawn_blocking(move || {
            let _place = place;
            work();
        });
        Ok(())
    }

    /// Takes a place among the long jobs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many run already.
    pub(crate) fn long_job(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.long_jobs).try_acquire_owned();
        place.map_err(|_| {
            let max = LONG_JOBS_MAX as u64;
            let hint = "wait for one of the compactions, checks or backups to end";
            status::exhausted("long_jobs", max, max, hint)
        })
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic is a bug of ours, told apart from what the world does; the daemon goes on.
        Err(error) => {
            tracing::error!(%error, "a call into the store ended by a panic");
            Err(StoreError::Closed {
                why: Some("the call ended by an internal error".into()),
            })
        }
    }
}
