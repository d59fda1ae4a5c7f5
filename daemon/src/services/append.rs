//! `HistoryService.Append`: batches read ahead, answered in order.
//!
//! One task reads requests and hands each to the writer's queue; the answers wait in a channel in
//! the order of the requests. What is read ahead is bounded by batches and bytes per stream; then
//! the task stops reading, and HTTP/2 holds the client back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::append_response::Result as BatchResult;
use betcode_schema_grpc::history::{AppendRequest, AppendResponse, Appended};
use betcode_service::grpc_timeout;
use betcode_service::sync::lock;
use betcode_storage::{
    Appended as StoreAppended, Arrival, Batch, QueueDepth, SessionId, StoreError,
};
use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit};
use tokio::sync::{RwLock, Semaphore, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tracing::{Instrument, Span};

use super::ResponseStream;
use crate::admission::{AdmittedSession, LimitGuard};
use crate::convert::{import_mark_from, meta_from};
use crate::core::{Core, session_id};
use crate::limits::{
    APPEND_SESSIONS_REMEMBERED_MAX, BATCHES_AHEAD_MAX, FLIGHT_UNIT_BYTES, MESSAGE_IN_FLIGHT_BYTES,
};
use crate::observe::add;
use crate::status::{deadline_exceeded, draining, invalid, refusal, refusal_of, with_reason};

/// A batch on its way: its request id, and its answer to come.
type PendingReply = (u64, oneshot::Receiver<BatchResult>);

pub(super) fn append(
    core: Arc<Core>,
    request: Request<Streaming<AppendRequest>>,
) -> ResponseStream<AppendResponse> {
    let deadline = grpc_timeout::deadline(request.metadata().as_ref());
    let (pending, receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
    let bytes_max = core
        .settings
        .max_client_in_flight_bytes
        .div_ceil(FLIGHT_UNIT_BYTES);
    let stream = AppendStream {
        core,
        deadline,
        bytes: Arc::new(Semaphore::new(bytes_max)),
        units_max: bytes_max,
        orders: HashMap::new(),
    };
    let (end, ended) = oneshot::channel();
    let work = async move {
        if let Err(status) = stream.run(request.into_inner(), pending).await {
            // The client may have left.
            let _ = end.send(status);
        }
    };
    tokio::spawn(work.instrument(Span::current()));
    // Behind all answers, and not among them: these have room for as many as were asked for.
    let end = tokio_stream::once(ended)
        .then(async |ended| ended.await.ok())
        .filter_map(|status| status.map(Err));
    Box::pin(ReceiverStream::new(receiver).then(answer).chain(end))
}

async fn answer((request_id, answer): PendingReply) -> Result<AppendResponse, Status> {
    // The sender goes without an answer only when its thread ended by a panic.
    let lost = || BatchResult::Refused(refusal(&StoreError::Closed { why: None }));
    let result = Some(answer.await.unwrap_or_else(|_| lost()));
    Ok(AppendResponse { request_id, result })
}

/// Order of one session's batches on one stream.
#[derive(Default)]
struct SessionOrder {
    /// Batches with an expected sequence share it; one without has it alone.
    lock: Arc<RwLock<()>>,
    /// A batch without an expected sequence was refused: what follows it must not take its place.
    had_refusal: Arc<AtomicBool>,
}

/// A batch's part in the order of its session, held from its admission until its answer.
#[allow(dead_code, reason = "held for what their drop gives back")]
enum SessionPermit {
    Shared(OwnedRwLockReadGuard<()>),
    Exclusive(OwnedRwLockWriteGuard<()>),
}

/// What a batch that was let in holds until its answer.
struct Admitted {
    had_refusal: Arc<AtomicBool>,
    /// When nothing of its own stream was before it any more.
    ordered: Instant,
    /// Imported history does not count as use of a session.
    session: Option<AdmittedSession>,
    _order: SessionPermit,
    _stream_bytes: Option<OwnedSemaphorePermit>,
    _daemon_bytes: LimitGuard,
}

/// Answers one batch, and counts what came of it.
struct Reply {
    sender: oneshot::Sender<BatchResult>,
    core: Arc<Core>,
    span: Span,
    received: Instant,
    admitted: Admitted,
    messages: usize,
    bytes: usize,
    expects_sequence: bool,
}

impl Reply {
    /// Answers a batch that the writer has dealt with.
    fn committed(mut self, result: Result<StoreAppended, StoreError>, queued: Instant) {
        let metrics = &self.core.metrics;
        metrics.commit.record(queued.elapsed());
        let answer = match result {
            Ok(done) => {
                if let Some(session) = self.admitted.session.take() {
                    session.recorded();
                }
                let (messages, bytes) = (self.messages, self.bytes);
                let fresh = messages - usize::try_from(done.duplicates).unwrap_or(messages);
                add(&metrics.messages_appended, fresh);
                add(&metrics.bytes_appended, if fresh == 0 { 0 } else { bytes });
                self.span.in_scope(|| {
                    let first = done.first_sequence;
                    tracing::debug!(messages, bytes, first, "committed");
                });
                BatchResult::Appended(Appended {
                    first_sequence: done.first_sequence,
                    last_sequence: done.last_sequence,
                    duplicates: done.duplicates,
                })
            }
            Err(error) => self.refusal(&error),
        };
        metrics.answer.record(self.received.elapsed());
        self.send(answer);
    }

    /// Answers a batch that did not get into the writer's queue.
    fn not_queued(self, error: &StoreError) {
        let answer = self.refusal(error);
        self.send(answer);
    }

    fn refusal(&self, error: &StoreError) -> BatchResult {
        add(&self.core.metrics.batches_refused, 1);
        if matches!(error, StoreError::QueueFull { .. }) {
            self.core.admission.writer_queue.note_refused();
        }
        let had_refusal = &self.admitted.had_refusal;
        had_refusal.fetch_or(!self.expects_sequence, Ordering::Relaxed);
        BatchResult::Refused(refusal(error))
    }

    fn send(self, answer: BatchResult) {
        // Before the answer: a client that has it may send as much again.
        drop(self.admitted);
        // The client may have left; its messages are safe all the same.
        let _ = self.sender.send(answer);
    }
}

struct AppendStream {
    core: Arc<Core>,
    deadline: Option<Instant>,
    /// Bytes of this stream that are not answered yet, in units.
    bytes: Arc<Semaphore>,
    units_max: usize,
    orders: HashMap<SessionId, SessionOrder>,
}

impl AppendStream {
    /// Reads batches until there are no more, or the client is gone.
    ///
    /// # Errors
    /// What ends the stream behind its last answer.
    async fn run(
        mut self,
        mut requests: Streaming<AppendRequest>,
        pending: mpsc::Sender<PendingReply>,
    ) -> Result<(), Status> {
        loop {
            let request = tokio::select! {
                biased;
                () = pending.closed() => return Ok(()),
                ended = self.ended() => return Err(ended),
                // Malformed, oversized, or the client is gone; in the last case nobody gets the status.
                request = requests.message() => request?,
            };
            let Some(request) = request else {
                return Ok(());
            };
            let received = Instant::now();
            let (sender, receiver) = oneshot::channel();
            // A client that does not read its answers keeps the stream here, and no longer than its
            // deadline or the daemon's stop.
            let slot = tokio::select! {
                biased;
                ended = self.ended() => return Err(ended),
                slot = pending.reserve() => slot,
            };
            match slot {
                Ok(slot) => slot.send((request.request_id, receiver)),
                Err(_) => return Ok(()),
            }
            self.enqueue(request, received, sender).await;
            self.evict_idle_sessions()?;
        }
    }

    /// Returns when the stream has to end though its client goes on: at its deadline, or when the
    /// daemon stops.
    async fn ended(&self) -> Status {
        tokio::select! {
            biased;
            () = self.core.drained() => draining(),
            () = passed(self.deadline) => deadline_exceeded(),
        }
    }

    /// Forgets sessions with nothing under way of which no batch was refused.
    ///
    /// # Errors
    /// ABORTED when there are too many of which one was: none of these may be forgotten.
    fn evict_idle_sessions(&mut self) -> Result<(), Status> {
        if self.orders.len() >= APPEND_SESSIONS_REMEMBERED_MAX {
            self.orders.retain(|_, order| {
                Arc::strong_count(&order.lock) > 1 || order.had_refusal.load(Ordering::Relaxed)
            });
        }
        match self.orders.len() < APPEND_SESSIONS_REMEMBERED_MAX {
            true => Ok(()),
            false => Err(too_many_refusals()),
        }
    }

    /// Puts a batch into the writer's queue, and sees to it that it is answered in any case.
    async fn enqueue(
        &mut self,
        request: AppendRequest,
        received: Instant,
        sender: oneshot::Sender<BatchResult>,
    ) {
        let wait = self.wait_max(request.wait_ms_max);
        let (batch, admitted) = match self.admit(request).await {
            Ok(admitted) => admitted,
            Err(status) => {
                add(&self.core.metrics.batches_refused, 1);
                let _ = sender.send(BatchResult::Refused(refusal_of(&status)));
                return;
            }
        };
        let reply = Reply {
            sender,
            core: Arc::clone(&self.core),
            span: Span::current(),
            received,
            admitted,
            messages: batch.payloads.len(),
            bytes: bytes_of(&batch.payloads),
            expects_sequence: batch.expected_sequence.is_some(),
        };
        submit(batch, wait, reply).await;
    }

    /// Makes the batch of a request, and waits until it may go to the queue: in order, within the
    /// limits.
    async fn admit(&mut self, request: AppendRequest) -> Result<(Batch, Admitted), Status> {
        let session = check(&request)?;
        let is_historical = request.historical;
        let expects_sequence = request.expected_sequence.is_some();
        let (had_refusal, order) = self.acquire_order(&session, expects_sequence).await;
        let ordered = Instant::now();
        if !expects_sequence && had_refusal.load(Ordering::Relaxed) {
            return Err(out_of_order());
        }
        // From here on a refusal leaves a gap that no later batch may fill.
        let refused = |status| {
            had_refusal.fetch_or(!expects_sequence, Ordering::Relaxed);
            status
        };
        let admission = &self.core.admission;
        let counted = (!is_historical).then(|| admission.admit_session(&session));
        let counted = counted.transpose().map_err(refused)?;
        // Messages without bytes take memory, too.
        let in_flight =
            bytes_of(&request.payloads) + request.payloads.len() * MESSAGE_IN_FLIGHT_BYTES;
        let stream_bytes = self.acquire_stream_bytes(in_flight).await;
        let daemon_bytes = &self.core.admission.in_flight_bytes;
        let daemon_bytes = daemon_bytes.acquire(in_flight as u64).map_err(refused)?;
        let batch = batch_of(session, request).map_err(refused)?;
        let admitted = Admitted {
            had_refusal,
            ordered,
            session: counted,
            _order: order,
            _stream_bytes: stream_bytes,
            _daemon_bytes: daemon_bytes,
        };
        Ok((batch, admitted))
    }

    /// Waits until the batch may go to the queue without overtaking those before it.
    async fn acquire_order(
        &mut self,
        session: &SessionId,
        expects_sequence: bool,
    ) -> (Arc<AtomicBool>, SessionPermit) {
        let order = self.orders.entry(session.clone()).or_default();
        let (had_refusal, turn) = (Arc::clone(&order.had_refusal), Arc::clone(&order.lock));
        let permit = match expects_sequence {
            true => SessionPermit::Shared(turn.read_owned().await),
            false => SessionPermit::Exclusive(turn.write_owned().await),
        };
        (had_refusal, permit)
    }

    /// Waits until this stream's share of bytes in flight has room.
    async fn acquire_stream_bytes(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(FLIGHT_UNIT_BYTES).clamp(1, self.units_max);
        // Never closed; a number of units that fits usize comes from a request that fits memory.
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.bytes).acquire_many_owned(units).await.ok()
    }

    /// How long the batch may wait in the store's queue: what the request says, within the
    /// call's deadline.
    fn wait_max(&self, wait_ms_max: u32) -> Duration {
        let wait_ms = match wait_ms_max {
            0 => self.core.settings.max_append_wait_ms,
            ms => u64::from(ms).min(self.core.settings.max_append_wait_ms),
        };
        let wait = Duration::from_millis(wait_ms);
        self.deadline.map_or(wait, |deadline| {
            wait.min(deadline.saturating_duration_since(Instant::now()))
        })
    }
}

/// Waits until the deadline, for ever when there is none.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Puts a batch into the writer's queue, which may have to wait for room, and answers it when that
/// fails.
async fn submit(batch: Batch, wait: Duration, reply: Reply) {
    let core = Arc::clone(&reply.core);
    let until = Instant::now() + wait;
    let Some(slot) = core.blocking.append_slot(wait).await else {
        let QueueDepth { requests, bytes } = core.store.queue_depth();
        reply.not_queued(&StoreError::QueueFull {
            waited_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            requests,
            bytes,
        });
        return;
    };
    let ordered = reply.admitted.ordered;
    // The queue takes what answers, and drops it when it is full: the reply is shared for that.
    let reply = Arc::new(Mutex::new(Some(reply)));
    let answering = Arc::clone(&reply);
    let (store, began, queued) = (
        core.store.clone(),
        Instant::now(),
        Arc::new(OnceLock::new()),
    );
    let submitting = move || {
        let _slot = slot;
        let done = {
            let queued = Arc::clone(&queued);
            move |result| {
                // A commit may be faster than the return of the call that asked for it.
                let queued = *queued.get_or_init(|| began);
                if let Some(reply) = take(&answering) {
                    reply.committed(result, queued);
                }
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // To the store, no wait is a wait without a deadline.
            let id = batch.session;
            let waited_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            return Err(StoreError::DeadlineExceeded { id, waited_ms });
        }
        store.append_then(batch, left, done)?;
        let queued = *queued.get_or_init(Instant::now);
        core.metrics
            .accept
            .record(queued.saturating_duration_since(ordered));
        Ok(())
    };
    let submitted = tokio::task::spawn_blocking(submitting).await;
    let submitted = submitted.unwrap_or_else(|_| {
        Err(StoreError::Closed {
            why: Some("an internal error".into()),
        })
    });
    if let Err(error) = submitted
        && let Some(reply) = take(&reply)
    {
        reply.not_queued(&error);
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    lock(slot).take()
}

fn bytes_of(payloads: &[Bytes]) -> usize {
    payloads.iter().map(Bytes::len).sum()
}

/// The batch that a request asks for.
fn batch_of(session: SessionId, request: AppendRequest) -> Result<Batch, Status> {
    Ok(Batch {
        import: request.import_mark.map(import_mark_from).transpose()?,
        arrival: match request.historical {
            true => Arrival::Historical,
            false => Arrival::Live,
        },
        meta: request.meta.map(meta_from).unwrap_or_default(),
        expected_sequence: request.expected_sequence,
        ..Batch::new(session, request.payloads)
    })
}

fn check(request: &AppendRequest) -> Result<SessionId, Status> {
    if request.payloads.is_empty() && request.import_mark.is_none() {
        return Err(invalid("payloads", "a batch has at least one message"));
    }
    session_id(&request.session_id)
}

fn out_of_order() -> Status {
    let message = "an earlier batch of this session on this stream was refused, and this one must \
                   not take its place; send both again on a new stream, or use expected_sequence";
    with_reason(Code::Aborted, "OUT_OF_ORDER", message)
}

fn too_many_refusals() -> Status {
    let message = format!(
        "batches of too many sessions were refused on this stream, which remembers {APPEND_SESSIONS_REMEMBERED_MAX}; send \
         what was refused on a new stream, or use expected_sequence"
    );
    with_reason(Code::Aborted, "OUT_OF_ORDER", message)
}
