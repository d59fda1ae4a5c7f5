//! Long work of the daemon: it reports its progress, and ends when the call is dropped.

use std::ops::ControlFlow;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::{
    self, BackupReport, BackupRequest, RunCompactionRequest, VerifyReport, VerifyRequest,
    backup_response, run_compaction_response, verify_response,
};
use betcode_storage::{CompactionOutcome, SessionFailure, SessionId, StoreError, Tier};
use tonic::Streaming;

use super::{Daemon, failure};
use crate::error::{Exit, Failure, Result};
use crate::limits;

/// Watches work: how much is done, of how much. Called often, also when nothing is new. `Break` ends the work.
pub type Watch<'a> = &'a mut dyn FnMut(Option<(u64, u64)>) -> ControlFlow<()>;

/// What an answer of a stream is.
enum Step<T> {
    Progress(u64, u64),
    Done(T),
    Unknown,
}

impl Daemon {
    /// Compacts everything, or one session.
    ///
    /// # Errors
    /// What the daemon answers; [`Exit::Interrupted`] when `watch` ended it.
    pub fn compact(
        &self,
        session: Option<&SessionId>,
        tier: Tier,
        watch: Watch<'_>,
    ) -> Result<CompactionOutcome> {
        use run_compaction_response::Event;
        let request = RunCompactionRequest {
            session_id: session.map(ToString::to_string).unwrap_or_default(),
            tier: tier.name().to_owned(),
            ..RunCompactionRequest::default()
        };
        let mut client = self.compaction();
        let answers = self.answer(client.run(request))?;
        let outcome = self.watch(answers, watch, |response| match response.event {
            Some(Event::Progress(at)) => Step::Progress(at.raw_bytes_done, at.raw_bytes),
            Some(Event::Outcome(outcome)) => Step::Done(outcome),
            _ => Step::Unknown,
        })?;
        outcome_of(outcome)
    }

    /// As [`Daemon::compact`], after waiting up to `wait_max` for another run to end: one of the daemon's own, or one
    /// that was just cancelled.
    ///
    /// # Errors
    /// As [`Daemon::compact`]; [`Exit::Busy`] after that wait.
    pub fn compact_in_turn(
        &self,
        session: Option<&SessionId>,
        tier: Tier,
        wait_max: Duration,
        watch: Watch<'_>,
    ) -> Result<CompactionOutcome> {
        let begun = Instant::now();
        loop {
            match self.compact(session, tier, &mut *watch) {
                Err(failure) if failure.exit == Exit::Busy && begun.elapsed() < wait_max => {
                    if watch(None).is_break() {
                        return Err(failure);
                    }
                    std::thread::sleep(Duration::from_millis(limits::COMPACT_POLL_MS));
                }
                other => return other,
            }
        }
    }

    /// Reads everything and checks it.
    ///
    /// # Errors
    /// What the daemon answers; [`Exit::Interrupted`] when `watch` ended it.
    pub fn verify(&self, watch: Watch<'_>) -> Result<VerifyReport> {
        use verify_response::Event;
        let mut client = self.maintenance();
        let answers = self.answer(client.verify(VerifyRequest {}))?;
        self.watch(answers, watch, |response| match response.event {
            Some(Event::Progress(at)) => Step::Progress(at.messages_done, at.messages),
            Some(Event::Report(report)) => Step::Done(report),
            None => Step::Unknown,
        })
    }

    /// Copies the store to `file`, an absolute path, and reads the copy back.
    ///
    /// # Errors
    /// What the daemon answers; [`Exit::Interrupted`] when `watch` ended it.
    pub fn backup(&self, file: &str, watch: Watch<'_>) -> Result<BackupReport> {
        use backup_response::Event;
        debug_assert!(Path::new(file).is_absolute());
        let request = BackupRequest {
            path: file.to_owned(),
        };
        let mut client = self.maintenance();
        let answers = self.answer(client.backup(request))?;
        self.watch(answers, watch, |response| match response.event {
            Some(Event::Progress(at)) => Step::Progress(at.messages_done, at.messages),
            Some(Event::Report(report)) => Step::Done(report),
            None => Step::Unknown,
        })
    }

    /// Follows work to its end. Dropping the stream is what ends it early.
    fn watch<R, T>(
        &self,
        mut answers: Streaming<R>,
        watch: Watch<'_>,
        step: impl Fn(R) -> Step<T>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            loop {
                let Some(message) = unless_stopped(answers.message(), watch).await else {
                    return Err(StoreError::Cancelled.into());
                };
                let response = message.map_err(|status| failure::of_status(&status))?;
                match response.map(&step) {
                    Some(Step::Done(done)) => return Ok(done),
                    Some(Step::Progress(done, all)) => {
                        if watch(Some((done, all))).is_break() {
                            return Err(StoreError::Cancelled.into());
                        }
                    }
                    Some(Step::Unknown) => {}
                    None => {
                        return Err(Failure::new(
                            Exit::Busy,
                            "the daemon ended before the work did",
                        )
                        .hint("what was done stays done; run the same command again"));
                    }
                }
            }
        })
    }
}

/// The outcome of a compaction as the engine's type.
fn outcome_of(answer: history::CompactionOutcome) -> Result<CompactionOutcome> {
    let failures = answer.failures.into_iter().map(|failure| {
        Ok(SessionFailure {
            session: SessionId::new(failure.session_id)?,
            why: failure.why,
        })
    });
    Ok(CompactionOutcome {
        bytes_before: answer.bytes_before,
        bytes_after: answer.bytes_after,
        messages: answer.messages,
        raw_bytes: answer.raw_bytes,
        segments: answer.segments,
        segments_replaced: answer.segments_replaced,
        failures: failures.collect::<Result<_>>()?,
        cancelled: answer.cancelled,
        seconds: answer.seconds,
    })
}

/// Waits for `work`, and often asks `watch` whether to continue; `None` when it says stop.
pub(super) async fn unless_stopped<T>(
    work: impl Future<Output = T>,
    watch: Watch<'_>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut polls = tokio::time::interval(Duration::from_millis(limits::INTERRUPT_POLL_MS));
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            _ = polls.tick() => {
                if watch(None).is_break() {
                    return None;
                }
            }
        }
    }
}
