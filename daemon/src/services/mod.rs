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

use tokio_stream::Stream;
use tonic::Status;

/// Answers of a server stream.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
