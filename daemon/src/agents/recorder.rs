//! From an agent's pipes to the store, and from the store to its pipe: recorded first, always.
//!
//! One task reads standard output. While a batch is being committed it reads on, a bounded amount;
//! then it stops, the pipe fills, and the agent waits. So a slow store or a full disk holds the agent
//! up and loses nothing. Another task records each line for the agent and then writes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_storage::{Batch, ErrorKind, SessionId, SessionKey, StoreError};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Moment, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::conversation::InputKind;
use super::inbox::Command;
use super::lines::{OutputLine, Splitter};
use super::mailbox::ReadTimes;
use super::refusal::Refusal;
use super::running::InputLine;
use super::signals::{AgentSignal, signals_in};

use crate::core::Core;
use crate::limits::{
    OUTPUT_AHEAD_BYTES_MAX, OUTPUT_AHEAD_LINES_MAX, OUTPUT_READ_BYTES, OUTPUT_REST_BYTES_MAX,
    OUTPUT_REST_MS, OUTPUT_REST_MS_MAX, RECORD_RETRY_MS_MAX, RECORD_RETRY_MS_MIN,
};
use crate::observe::{add, ms};
use crate::status::from_store;

/// What both tasks need.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    pub(crate) core: Arc<Core>,
    pub(crate) session: SessionId,
    /// What the agent of a deleted session prints does not begin another one.
    pub(crate) key: SessionKey,
    pub(crate) inbox: mpsc::Sender<Command>,
    pub(crate) times: Arc<ReadTimes>,
    /// Cancelled when the session is to go: what cannot be recorded goes with it.
    pub(crate) session_deleted: CancellationToken,
}

/// Whether recording is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryPolicy {
    Never,
    /// Unless the line can never be recorded as it is.
    UnlessInvalid,
    /// What the agent has printed exists once only.
    UntilRecorded,
}

/// Lines read and not yet on disk.
#[derive(Debug, Default)]
struct UncommittedLines {
    lines: VecDeque<(OutputLine, Instant)>,
    bytes: usize,
}

impl UncommittedLines {
    fn is_full(&self, partial_bytes: usize) -> bool {
        // A line under way counts only with others: alone it must be read to its end.
        let bytes = self.bytes
            + if self.lines.is_empty() {
                0
            } else {
                partial_bytes
            };
        bytes >= OUTPUT_AHEAD_BYTES_MAX || self.lines.len() >= OUTPUT_AHEAD_LINES_MAX
    }

    fn take(&mut self) -> Vec<(OutputLine, Instant)> {
        self.bytes = 0;
        self.lines.drain(..).collect()
    }
}

/// Messages that are on disk.
#[derive(Debug, Clone, Copy)]
struct Recorded {
    first_sequence: u64,
    last_sequence: u64,
    /// How many: the first of those that were to be recorded.
    count: usize,
    /// When the writer had committed them.
    committed: Instant,
}

impl Recorder {
    /// Records standard output until it ends. When `ended` says that the agent is gone, what is in
    /// the pipe still is read: something that left the agent's group may hold it open for ever.
    pub(crate) async fn output(self, mut stdout: ChildStdout, mut ended: oneshot::Receiver<()>) {
        let mut splitter = Splitter::new(self.core.settings.max_payload_bytes);
        let (mut ahead, mut fresh) = (UncommittedLines::default(), Vec::new());
        let mut buffer = BytesMut::with_capacity(OUTPUT_READ_BYTES);
        let (mut open, mut rest_until, mut rest_bytes) = (true, None, 0);
        let mut commit = None;
        loop {
            if commit.is_none() && !ahead.lines.is_empty() {
                commit = Some(Box::pin(self.record_lines(ahead.take())));
            }
            let reads = open && !ahead.is_full(splitter.partial_bytes());
            if commit.is_none() && !reads {
                break;
            }
            buffer.clear();
            buffer.reserve(OUTPUT_READ_BYTES);
            // In this order: what is in the pipe is read before any time is up.
            let read = tokio::select! {
                biased;
                recorded = async { commit.as_mut()?.await }, if commit.is_some() => {
                    commit = None;
                    if recorded.is_none() {
                        // The store is shut, or the session is to go.
                        return;
                    }
                    continue;
                }
                _ = &mut ended, if rest_until.is_none() => {
                    rest_until = Some(Moment::now() + ms(OUTPUT_REST_MS_MAX));
                    continue;
                }
                read = stdout.read_buf(&mut buffer), if reads => read,
                () = silence(rest_until), if reads => Ok(0),
            };
            let now = Instant::now();
            match read {
                Ok(count @ 1..) => {
                    splitter.push(&buffer, &mut fresh);
                    rest_bytes += if rest_until.is_some() { count } else { 0 };
                    open = rest_bytes < OUTPUT_REST_BYTES_MAX;
                }
                _ => open = false,
            }
            if !open {
                splitter.end(&mut fresh);
            }
            for line in fresh.drain(..) {
                ahead.bytes += line.bytes.len();
                ahead.lines.push_back((line, now));
            }
        }
    }

    /// Commits lines, in as many batches as they need, and tells the conversation.
    async fn record_lines(&self, lines: Vec<(OutputLine, Instant)>) -> Option<()> {
        let bytes_max = self.core.store.options().payload_bytes_max;
        let mut lines = lines.into_iter().peekable();
        while lines.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < OUTPUT_AHEAD_LINES_MAX
                && let Some(line) = lines.next_if(|(line, _)| {
                    batch.is_empty() || bytes + line.bytes.len() <= OUTPUT_AHEAD_BYTES_MAX
                })
            {
                bytes += line.0.bytes.len();
                batch.push(line);
            }
            let mut rest = batch.as_slice();
            while let Some((_, read)) = rest.first() {
                self.times.begin(*read);
                let payloads: Vec<_> = rest.iter().map(|(line, _)| line.bytes.clone()).collect();
                let retry = RetryPolicy::UntilRecorded;
                let never_given_up = CancellationToken::new();
                let recorded = self.record(&payloads, retry, &never_given_up);
                let done = recorded.await.ok()?;
                self.times.done(done.last_sequence);
                let committed;
                (committed, rest) = rest.split_at(done.count);
                self.tell_recorded(committed, done, bytes_max).await;
            }
        }
        Some(())
    }

    async fn tell_recorded(
        &self,
        batch: &[(OutputLine, Instant)],
        done: Recorded,
        bytes_max: usize,
    ) {
        let mut signals: Vec<(u64, AgentSignal)> = Vec::new();
        let mut pieces = None;
        if let Some((_, read)) = batch.first() {
            let latency = done.committed.saturating_duration_since(*read);
            self.core.metrics.record.record(latency);
        }
        for ((line, _), sequence) in batch.iter().zip(done.first_sequence..) {
            // What stands in a piece of a line may be anything.
            if !line.is_piece {
                signals.extend(
                    signals_in(&line.bytes)
                        .into_iter()
                        .map(|seen| (sequence, seen)),
                );
            }
            if line.goes_on {
                pieces = pieces.or(Some(sequence));
            }
        }
        let metrics = &self.core.metrics;
        add(&metrics.agent_lines, batch.len());
        let bytes = batch.iter().map(|(line, _)| line.bytes.len()).sum();
        add(&metrics.agent_bytes, bytes);
        if let Some(first) = pieces {
            let command = Command::LineSplit { first, bytes_max };
            let _ = self.inbox.send(command).await;
        }
        let command = Command::Recorded {
            last: done.last_sequence,
            signals,
        };
        let _ = self.inbox.send(command).await;
    }

    /// Records each line for the agent, then writes it. Once the agent has `exited`, prompts that came
    /// before are recorded still, so that they stand before its end, and nothing is written.
    pub(crate) async fn input(
        self,
        mut stdin: ChildStdin,
        mut lines: mpsc::UnboundedReceiver<InputLine>,
        exited: CancellationToken,
    ) {
        loop {
            // In this order: what came before the end comes first.
            let line = tokio::select! {
                biased;
                line = lines.recv() => line,
                () = exited.cancelled() => None,
            };
            let Some(InputLine { line, what, heard }) = line else {
                return;
            };
            if what == InputKind::Answer && exited.is_cancelled() {
                continue;
            }
            // An answer is owed to the agent; a prompt is the user's to say again.
            let retry = match what {
                InputKind::Answer => RetryPolicy::UnlessInvalid,
                InputKind::Prompt => RetryPolicy::Never,
            };
            let recorded = self
                .record(std::slice::from_ref(&line), retry, &exited)
                .await;
            let result = recorded.map(|done| done.last_sequence);
            let is_recorded = result.is_ok();
            // Before it is written, so that nothing that the agent says to it comes first.
            let _ = self.inbox.send(Command::InputWritten(what, result)).await;
            if !is_recorded {
                continue;
            }
            let mut line = line.to_vec();
            line.push(b'\n');
            let written = tokio::select! {
                biased;
                () = exited.cancelled() => continue,
                written = stdin.write_all(&line) => written,
            };
            if written.is_err() {
                drop(stdin);
                let _ = self.inbox.send(Command::InputClosed(what)).await;
                return self.refuse(lines).await;
            }
            if let Some(heard) = heard {
                self.core.metrics.permit.record(heard.elapsed());
            }
        }
    }

    /// Says of each line that it does not reach the agent, which is gone or has closed its input.
    async fn refuse(self, mut lines: mpsc::UnboundedReceiver<InputLine>) {
        while let Some(InputLine { what, .. }) = lines.recv().await {
            let message =
                "the agent has closed its input, and another one takes its place; say it again";
            let refusal = Refusal::new("AGENT_EXITED", message);
            let _ = self
                .inbox
                .send(Command::InputWritten(what, Err(refusal)))
                .await;
        }
    }

    /// Appends to the session, all messages or, where a limit has no more room, as many of the first as
    /// fit, at least one. As `retry` says, again and again until it is done, the store is shut or
    /// the session is to go; the clients are told that the agent waits.
    /// Once `given_up`, it is not tried again.
    async fn record(
        &self,
        payloads: &[Bytes],
        retry: RetryPolicy,
        given_up: &CancellationToken,
    ) -> Result<Recorded, Refusal> {
        let mut pause_ms = RECORD_RETRY_MS_MIN;
        let mut stalled_since: Option<Instant> = None;
        let mut offered = payloads;
        loop {
            let error = match self.append(offered.to_vec()).await {
                Ok(done) => {
                    if let Some(since) = stalled_since {
                        let waited_ms = since.elapsed().as_millis();
                        tracing::info!(session = %self.session, waited_ms, "an agent's lines are recorded again");
                        let _ = self.inbox.send(Command::RecordingResumed).await;
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if offered.len() > 1 && error.kind() == ErrorKind::NoSpace {
                offered = fitting(offered, &error);
                continue;
            }
            let refusal = Refusal::from_status(&from_store(&error));
            let gone = matches!(error, StoreError::SessionNotFound { .. });
            if gone && !self.session_deleted.is_cancelled() {
                tracing::warn!(session = %self.session, "deleted by another process: its agent ends");
                let _ = self.inbox.send(Command::SessionDeleted).await;
            }
            let in_vain = match retry {
                RetryPolicy::Never => true,
                RetryPolicy::UnlessInvalid => error.kind() == ErrorKind::Invalid,
                RetryPolicy::UntilRecorded => false,
            };
            let in_vain = in_vain || given_up.is_cancelled();
            if gone || in_vain || error.kind() == ErrorKind::Closed {
                if stalled_since.is_some() && in_vain {
                    // Nothing waits for room any more.
                    let _ = self.inbox.send(Command::RecordingResumed).await;
                }
                return Err(refusal);
            }
            if self.session_deleted.is_cancelled() {
                let lines = payloads.len();
                tracing::warn!(%error, session = %self.session, lines, "not recorded: the session is to go");
                return Err(refusal);
            }
            if stalled_since.is_none() {
                stalled_since = Some(Instant::now());
                tracing::warn!(%error, session = %self.session, "an agent's lines cannot be recorded: it waits");
                let _ = self.inbox.send(Command::RecordingStalled(refusal)).await;
            }
            tokio::select! {
                () = sleep(ms(pause_ms)) => {}
                () = self.session_deleted.cancelled() => {}
                () = given_up.cancelled() => {}
            }
            pause_ms = (pause_ms * 2).min(RECORD_RETRY_MS_MAX);
        }
    }

    async fn append(&self, payloads: Vec<Bytes>) -> Result<Recorded, StoreError> {
        let count = payloads.len();
        let batch = Batch {
            key: Some(self.key),
            ..Batch::new(self.session.clone(), payloads)
        };
        let store = self.core.store.clone();
        let wait = Duration::from_millis(self.core.settings.max_append_wait_ms);
        let (answer, answered) = oneshot::channel();
        // The writer's thread takes the time: this task may be woken later.
        let done = move |result| {
            let _ = answer.send((result, Instant::now()));
        };
        let submit = move || store.append_then(batch, wait, done);
        self.core.blocking.write(submit).await?;
        // The sender goes without an answer only when its thread ended by a panic.
        let closed = StoreError::Closed { why: None };
        let (result, committed) = answered.await.map_err(|_| closed)?;
        result.map(|done| Recorded {
            first_sequence: done.first_sequence,
            last_sequence: done.last_sequence,
            count,
            committed,
        })
    }
}

/// The first of the messages that a limit refused together: as many as it has room for, half of them where
/// that is not known, at least one, and not all.
fn fitting<'p>(payloads: &'p [Bytes], refused: &StoreError) -> &'p [Bytes] {
    let count = match refused.fitting_bytes() {
        Some(mut room_bytes) => payloads
            .iter()
            .take_while(|payload| {
                let left = room_bytes.checked_sub(payload.len() as u64);
                room_bytes = left.unwrap_or(room_bytes);
                left.is_some()
            })
            .count(),
        None => payloads.len() / 2,
    };
    let count = count.clamp(1, payloads.len().saturating_sub(1).max(1));
    payloads.get(..count).unwrap_or(payloads)
}

/// Returns when an agent that is gone has left nothing more to read: for a while, or at the latest
/// at `until`. Never while it is there.
async fn silence(until: Option<Moment>) {
    match until {
        Some(until) => sleep_until(until.min(Moment::now() + ms(OUTPUT_REST_MS))).await,
        None => std::future::pending().await,
    }
}
