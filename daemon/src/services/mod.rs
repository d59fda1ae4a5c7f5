//! One file per service: translation between the protocol and the store, and nothing else.

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

use std::pin::Pin;

use betcode_storage::StoreError;
use tokio_stream::Stream;
use tonic::Status;

use crate::reading::{Gone, ReadError};
use crate::status::from_store;

/// Answers of a server stream.
pub(crate) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Why a stream to a client ends.
enum End {
    /// The client went away.
    Gone,
    /// It is told why.
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
