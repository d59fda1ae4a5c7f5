//! How an operator's command asks the running relay: a Unix socket in its state folder, which only the
//! relay's own user and root may enter. Whoever connects gets one answer, and the connection ends.

use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Budget;
use crate::limits;

/// The answer: made by the relay, so that a command of another version shows all of it.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    text: String,
    budget: serde_json::Value,
}

/// The socket of a relay that serves; its file goes with it.
pub(crate) struct BudgetSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl BudgetSocket {
    /// Listens at `path`. A socket that a killed relay left is replaced: the caller holds the state
    /// folder's lock, so nobody listens there.
    ///
    /// # Errors
    /// When there cannot be a socket, as when the path is too long for one.
    pub(crate) fn bind(path: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // The folder keeps others out until the socket has its own mode.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { path, listener })
    }
}

impl Drop for BudgetSocket {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next relay.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers until the relay stops.
pub(crate) async fn serve(
    socket: BudgetSocket,
    budget: Arc<dyn Fn() -> Budget + Send + Sync>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            // One after the other, as for metrics: there is one reader, and it is quick or cut off.
            Ok((mut stream, _)) => {
                let answer = answer(&budget());
                let within = Duration::from_millis(limits::METRICS_MS_MAX);
                let _ = tokio::time::timeout(within, async {
                    stream.write_all(&answer).await?;
                    stream.shutdown().await
                })
                .await;
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn answer(budget: &Budget) -> Vec<u8> {
    // Plain structs with text keys: they always serialise.
    let answer = Answer {
        text: budget.text(),
        budget: serde_json::to_value(budget).unwrap_or_default(),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// Why the running relay could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None serves from the folder.
    #[error(
        "no relay serves from {folder}; start one with `betcode-relay serve`, or name its folder with \
         --state-folder"
    )]
    NotServing {
        /// The state folder.
        folder: PathBuf,
    },
    /// The socket cannot be reached, or does not answer in time.
    #[error(
        "ask the relay at {path}: {source}; run this as the relay's user or as root, and see its log"
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("the relay at {path} gave an answer that cannot be read: {source}")]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Asks the relay that listens at `path`: its budget as JSON or as text.
///
/// # Errors
/// When none does, or it does not answer.
pub fn ask(path: &Path, json: bool) -> Result<String, AskError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::NotServing {
            folder: path.parent().unwrap_or(path).to_owned(),
        },
        _ => AskError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let stream = UnixStream::connect(path).map_err(failed)?;
    let within = Duration::from_millis(limits::BUDGET_ANSWER_MS_MAX);
    stream.set_read_timeout(Some(within)).map_err(failed)?;
    let mut answer = Vec::new();
    let mut bounded = stream.take(limits::BUDGET_ANSWER_BYTES_MAX);
    bounded.read_to_end(&mut answer).map_err(failed)?;
    let malformed = |source| AskError::Malformed {
        path: path.to_owned(),
        source,
    };
    let answer: Answer = serde_json::from_slice(&answer).map_err(malformed)?;
    match json {
        true => serde_json::to_string_pretty(&answer.budget).map_err(malformed),
        false => Ok(answer.text.trim_end().to_owned()),
    }
}
