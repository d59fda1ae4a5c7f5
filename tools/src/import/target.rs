//! Where an import's lines go: into the file itself, or to the daemon that serves it.

use std::ops::ControlFlow;
use std::time::Duration;

use betcode_storage::{
    Appended, Batch, CompactionRequest, ErrorKind, Store, StoreError, Tier, compaction_threads,
};

use crate::daemon::{AppendError, Appender, Daemon};
use crate::error::{Exit, Failure};
use crate::limits;

/// Why a batch was not recorded.
pub(super) enum NotRecorded {
    /// There is no space: compacting may help.
    NoSpace(Failure),
    /// The session has other messages from the expected sequence on.
    Conflict,
    /// The batch is larger than the daemon accepts.
    TooLarge,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for NotRecorded {
    fn from(failure: Failure) -> Self {
        if failure.exit == Exit::NoSpace {
            Self::NoSpace(failure)
        } else {
            Self::Failed(failure)
        }
    }
}

/// What records the lines of an import.
pub enum ImportTarget<'a> {
    /// The file itself.
    File(&'a Store),
    /// The daemon that serves it.
    Daemon(&'a Daemon, Box<Appender<'a>>),
}

impl<'a> ImportTarget<'a> {
    /// Records through `daemon` when there is one.
    #[must_use]
    pub fn of(store: &'a Store, daemon: Option<&'a Daemon>) -> Self {
        match daemon {
            Some(daemon) => Self::Daemon(daemon, Box::new(daemon.appender())),
            None => Self::File(store),
        }
    }

    pub(super) fn append(&mut self, batch: Batch) -> Result<Appended, NotRecorded> {
        match self {
            Self::File(store) => store.append(batch).map_err(|error| match error {
                StoreError::SequenceConflict { .. } => NotRecorded::Conflict,
                error if error.kind() == ErrorKind::NoSpace => NotRecorded::NoSpace(error.into()),
                error => NotRecorded::Failed(error.into()),
            }),
            Self::Daemon(_, appender) => appender.append(batch).map_err(|error| match error {
                AppendError::Conflict => NotRecorded::Conflict,
                AppendError::TooLarge => NotRecorded::TooLarge,
                AppendError::Failed(failure) => failure.into(),
            }),
        }
    }

    /// Compacts if possible. The import does not depend on it, so a failure (another compaction, damage in another
    /// session) is only logged.
    pub(super) fn compact(&mut self, go_on: &mut dyn FnMut() -> ControlFlow<()>) {
        let done = match self {
            Self::File(store) => {
                let request = CompactionRequest {
                    tier: Tier::Quick,
                    trigger: "import",
                    threads_max: compaction_threads(),
                    ..CompactionRequest::manual()
                };
                let compacted = store.compact(&request, &mut |_| go_on());
                compacted.map(drop).map_err(Failure::from)
            }
            Self::Daemon(daemon, _) => {
                let wait_max = Duration::from_millis(limits::IMPORT_COMPACT_WAIT_MS_MAX);
                daemon
                    .compact_in_turn(None, Tier::Quick, wait_max, &mut |_| go_on())
                    .map(drop)
            }
        };
        if let Err(error) = done {
            tracing::info!(%error, "compaction during the import failed");
        }
    }
}
