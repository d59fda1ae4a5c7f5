//! Finds a running daemon of the store, and works through it.
//!
//! Commands that write, or would compete with the daemon, go through it: then its limits apply to everybody, its
//! followers get every message at once, and there is one compaction. Reading commands read the file. Writing the
//! file directly (`--direct`) is safe too: SQLite's lock arbitrates between processes, and a lock allows one
//! compaction at a time.

mod append;
mod connection;
mod failure;
mod jobs;
mod status;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use betcode_schema_grpc::history;
use betcode_schema_grpc::history::compaction_service_client::CompactionServiceClient;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::maintenance_service_client::MaintenanceServiceClient;
use betcode_schema_grpc::locate::{self, Holder, Server};
use betcode_storage::SessionId;
use tokio::runtime::Runtime;
use tonic::{Response, Status};

pub use append::{AppendError, Appender};
pub use jobs::Watch;
pub use status::{DaemonStatus, Level, Memory, Stage, plan_inputs};

use crate::error::{Exit, Failure, Result};
use crate::limits;
use connection::Connection;

/// The authority in requests. It is not used for connecting, which is done by the socket's path.
const ORIGIN: &str = "http://daemon";

/// A daemon that serves the store.
pub struct Daemon {
    holder: Holder,
    // Before the runtime, in which it lives.
    connection: Connection,
    runtime: Runtime,
}

impl Daemon {
    /// The daemon that serves the store at `db`, connected; `None` when none does.
    ///
    /// # Errors
    /// When one holds the store and does not answer.
    pub fn find(db: &Path) -> Result<Option<Self>> {
        Self::find_within(db, Duration::from_millis(limits::ANSWER_MS_MAX))
    }

    /// The same, waiting no longer than `wait_max` in all, even if other daemons take over the store meanwhile.
    fn find_within(db: &Path, wait_max: Duration) -> Result<Option<Self>> {
        let begun = Instant::now();
        let start_wait_max = Duration::from_millis(limits::DAEMON_START_MS_MAX).min(wait_max);
        let may_be_starting = || begun.elapsed() < start_wait_max;
        loop {
            match locate::server_of(db) {
                Server::None => return Ok(None),
                Server::Running(holder) => {
                    let left = wait_max.saturating_sub(begun.elapsed());
                    match Self::connect(holder, left)? {
                        Ok(daemon) => return Ok(Some(daemon)),
                        // It has the lock before it listens; or it ended, and another one takes over.
                        Err(_) if may_be_starting() => {}
                        Err(refused) => return Err(refused),
                    }
                }
                Server::Starting if may_be_starting() => {}
                Server::Starting => return Err(unreachable(None, "it does not say where it is")),
            }
            std::thread::sleep(Duration::from_millis(limits::DAEMON_START_POLL_MS));
        }
    }

    /// Connects to this daemon. The inner error means that its socket refuses connections, as while a daemon is
    /// starting. One that accepts and does not answer within `wait_max` is an outer error.
    fn connect(holder: Holder, wait_max: Duration) -> Result<Result<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| unreachable(Some(&holder), &error.to_string()))?;
        let opening = Connection::open(&holder.socket);
        let opened = runtime.block_on(async { tokio::time::timeout(wait_max, opening).await });
        Ok(match opened {
            Ok(Ok(connection)) => Ok(Self {
                holder,
                connection,
                runtime,
            }),
            Ok(Err(error)) => Err(unreachable(Some(&holder), &crate::error::plain_io(&error))),
            Err(_) => return Err(unreachable(Some(&holder), "it does not answer")),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.pid
    }

    /// Names a session.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn rename(&self, session: &SessionId, name: &str) -> Result<()> {
        let request = history::RenameSessionRequest {
            session_id: session.to_string(),
            name: name.to_owned(),
        };
        let mut client = self.history();
        self.answer(client.rename_session(request)).map(drop)
    }

    /// Deletes a session, and returns whether there was one. That may take long: `watch` is often asked whether to
    /// go on waiting.
    ///
    /// # Errors
    /// What the daemon answers; [`Exit::Interrupted`] when `watch` ended the wait, [`Exit::Busy`] when it
    /// took too long. The daemon continues the deletion in both cases.
    pub fn delete(&self, session: &SessionId, watch: Watch<'_>) -> Result<bool> {
        self.delete_within(Duration::from_millis(limits::DELETE_MS_MAX), session, watch)
    }

    fn delete_within(
        &self,
        wait_max: Duration,
        session: &SessionId,
        watch: Watch<'_>,
    ) -> Result<bool> {
        let request = history::DeleteSessionRequest {
            session_id: session.to_string(),
        };
        let mut client = self.history();
        let call = jobs::unless_stopped(client.delete_session(request), watch);
        let answered = self
            .runtime
            .block_on(async { tokio::time::timeout(wait_max, call).await });
        let stopped = match answered {
            Ok(Some(Ok(response))) => return Ok(response.into_inner().deleted),
            Ok(Some(Err(status))) => return Err(failure::of_status(&status)),
            Ok(None) => Failure::new(Exit::Interrupted, "interrupted")
                .why(format!("the daemon is still deleting session {session}")),
            Err(_) => Failure::new(
                Exit::Busy,
                format!("the daemon is still deleting session {session}"),
            )
            .why(format!("it has not ended within {wait_max:?}")),
        };
        Err(stopped.hint("there is nothing to do: the deletion goes on by itself"))
    }

    fn history(&self) -> HistoryServiceClient<Connection> {
        HistoryServiceClient::with_origin(self.connection.clone(), origin())
    }

    fn compaction(&self) -> CompactionServiceClient<Connection> {
        CompactionServiceClient::with_origin(self.connection.clone(), origin())
    }

    fn maintenance(&self) -> MaintenanceServiceClient<Connection> {
        MaintenanceServiceClient::with_origin(self.connection.clone(), origin())
    }

    /// Waits for the answer to a call.
    fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
        self.answer_within(Duration::from_millis(limits::ANSWER_MS_MAX), call)
    }

    fn answer_within<T>(
        &self,
        wait_max: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        let answered = self
            .runtime
            .block_on(async { tokio::time::timeout(wait_max, call).await });
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(failure::of_status(&status)),
            Err(_) => Err(slow_answer(&self.holder, wait_max)),
        }
    }
}

/// The origin of requests; a constant that parses.
fn origin() -> tonic::codegen::http::Uri {
    tonic::codegen::http::Uri::from_static(ORIGIN)
}

/// The failure of a daemon that holds the store and does not answer.
fn unreachable(holder: Option<&Holder>, why: &str) -> Failure {
    let (what, stop) = match holder {
        Some(holder) => (
            format!(
                "process {} serves this store and cannot be reached at {}",
                holder.pid,
                holder.socket.display()
            ),
            format!("stop it (kill {}) and run the command again", holder.pid),
        ),
        None => (
            "a daemon that is just starting holds this store".to_owned(),
            "run the command again in a moment".to_owned(),
        ),
    };
    Failure::new(Exit::Busy, what).why(why).hint(format!(
        "{stop}, or give --direct: writing the file beside it is safe"
    ))
}

/// The failure of a call that the daemon accepted and did not answer in time. It may still be carried out.
fn slow_answer(holder: &Holder, wait_max: Duration) -> Failure {
    let pid = holder.pid;
    Failure::new(
        Exit::Busy,
        format!("the daemon, process {pid}, has not answered"),
    )
    .why(format!(
        "it took the request {wait_max:?} ago, and is busy or hangs"
    ))
    .hint(
        "run the same command again: what the daemon has done by then is not done twice; if it never \
         answers, `betcode-db doctor` says more, and --direct works without it",
    )
}
