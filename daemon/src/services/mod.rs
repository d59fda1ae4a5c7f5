//! One file for each service, and one for each stream that has a course of its own.
//!
//! A service translates between the protocol and what is below, and decides nothing about history:
//! * [`history`]: its streams are `append` (batches in order, answers in order), `read` and `follow`;
//! * [`agent`]: its streams are `converse` (a client's side of a conversation) and `resume` (a session's events);
//! * [`capacity`] (`plan` has its reports and plans as messages), [`compaction`], [`maintenance`], [`health`], [`version`].

pub mod agent;
mod append;
pub mod capacity;
pub mod compaction;
mod converse;
mod follow;
pub mod health;
pub mod history;
pub mod maintenance;
mod plan;
mod read;
mod resume;
pub mod version;

use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Instant;

use betcode_storage::StoreError;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::core::Core;
use crate::limits::PROGRESS_INTERVAL_MS;
use crate::observe::ms;
use crate::reading::{Gone, ReadError};
use crate::status::from_store;

/// Answers of a server stream.
pub(crate) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Reports how far a long job is, now and then; ends the job when its caller leaves or the daemon stops.
fn progress_reporter<P, T>(
    core: &Core,
    answers: &mpsc::Sender<Result<T, Status>>,
    event: impl Fn(&P) -> T,
) -> impl FnMut(&P) -> ControlFlow<()> {
    let mut reported: Option<Instant> = None;
    move |progress| {
        if reported.is_none_or(|at| at.elapsed() >= ms(PROGRESS_INTERVAL_MS)) {
            reported = Some(Instant::now());
            // A caller that does not read gets fewer reports; it does not hold the job up.
            let _ = answers.try_send(Ok(event(progress)));
        }
        if answers.is_closed() || core.is_draining() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Why a stream to a client ends.
enum End {
    /// The client went away.
    Gone,
    /// The client gets this status.
    Failed(Status),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Failed(from_store(&error))
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}
