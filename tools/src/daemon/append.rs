//! Appending through the daemon: one stream, one batch under way at a time.

use std::time::Duration;

use betcode_schema_grpc::history::append_response::Result as Answer;
use betcode_schema_grpc::history::{self, AppendRequest, AppendResponse};
use betcode_storage::{Appended, Arrival, Batch, ImportMark};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Daemon, failure, slow_answer};
use crate::error::{Exit, Failure};
use crate::limits;

/// Why a batch was not appended.
#[derive(Debug)]
pub enum AppendError {
    /// The session has other messages from the expected sequence on.
    Conflict,
    /// The batch is larger than the daemon accepts.
    TooLarge,
    /// Anything else.
    Failed(Failure),
}

/// An open stream of batches.
pub struct Appender<'a> {
    daemon: &'a Daemon,
    stream: Option<(mpsc::Sender<AppendRequest>, Streaming<AppendResponse>)>,
}

impl Daemon {
    /// Begins to append.
    #[must_use]
    pub fn appender(&self) -> Appender<'_> {
        Appender {
            daemon: self,
            stream: None,
        }
    }
}

impl Appender<'_> {
    /// Appends a batch and waits until it is durable.
    ///
    /// # Errors
    /// When it was refused. Nothing of it was recorded then.
    pub fn append(&mut self, batch: Batch) -> Result<Appended, AppendError> {
        let request = request(batch);
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        let (requests, mut answers) = stream;
        let exchange = async {
            // When the stream has ended the answer says why.
            let _ = requests.send(request).await;
            answers.message().await
        };
        let wait_max = Duration::from_millis(limits::COMMIT_MS_MAX);
        let answered = self
            .daemon
            .runtime
            .block_on(async { tokio::time::timeout(wait_max, exchange).await });
        let response = match answered {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => {
                let failure = Failure::new(Exit::Busy, "the daemon ended the stream")
                    .hint("run the same command again");
                return Err(AppendError::Failed(failure));
            }
            Ok(Err(status)) if status.code() == Code::OutOfRange => {
                return Err(AppendError::TooLarge);
            }
            Ok(Err(status)) => return Err(AppendError::Failed(failure::of_status(&status))),
            Err(_) => {
                let failure = slow_answer(&self.daemon.holder, wait_max);
                return Err(AppendError::Failed(failure));
            }
        };
        // Kept only while every batch got its own answer.
        self.stream = Some((requests, answers));
        match response.result {
            Some(Answer::Appended(done)) => Ok(Appended {
                first_sequence: done.first_sequence,
                last_sequence: done.last_sequence,
                duplicates: done.duplicates,
            }),
            Some(Answer::Refused(refused)) if refused.reason == "CONFLICT" => {
                Err(AppendError::Conflict)
            }
            Some(Answer::Refused(refused)) => {
                Err(AppendError::Failed(failure::of_refused(&refused)))
            }
            None => Err(AppendError::Failed(Failure::new(
                Exit::Unsupported,
                "the daemon's answer says nothing that this version knows",
            ))),
        }
    }

    fn open(
        &self,
    ) -> Result<(mpsc::Sender<AppendRequest>, Streaming<AppendResponse>), AppendError> {
        let (requests, receiver) = mpsc::channel(1);
        let mut client = self.daemon.history();
        let answers = self
            .daemon
            .answer(client.append(ReceiverStream::new(receiver)))
            .map_err(AppendError::Failed)?;
        Ok((requests, answers))
    }
}

fn request(batch: Batch) -> AppendRequest {
    let meta = batch.meta;
    AppendRequest {
        session_id: batch.session.to_string(),
        payloads: batch.payloads,
        expected_sequence: batch.expected_sequence,
        meta: Some(history::SessionMeta {
            name: meta.name,
            model: meta.model,
            working_directory: meta.working_directory,
            worktree_id: meta.worktree_id,
            agent_session_id: meta.agent_session_id,
        }),
        historical: batch.arrival == Arrival::Historical,
        import_mark: batch.import.map(mark),
        ..AppendRequest::default()
    }
}

fn mark(mark: ImportMark) -> history::ImportMark {
    history::ImportMark {
        source_path: mark.source_path.into(),
        relative_path: mark.relative_path.into(),
        taken_bytes: mark.taken_bytes,
        taken_digest: mark.taken_digest.to_be_bytes().to_vec().into(),
        unterminated: mark.unterminated,
        joins: mark.joins,
    }
}
