//! `HistoryService.Append`: batches read ahead, answered in order.
//!
//! One task reads requests and hands each to the writer's queue; the answers wait in a channel in
//! the order of the requests. What is read ahead is bounded by batches and bytes per stream; then
//! the task stops reading, and HTTP/2 holds the client back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::append_response::Result as Answer;
use betcode_schema_grpc::history::{AppendRequest, AppendResponse, Appended, Refused};
use betcode_storage::{Arrival, Batch, SessionId, StoreError};
use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit};
use tokio::sync::{RwLock, Semaphore, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tracing::{Instrument, Span};

use super::Answers;
use crate::convert::{import_mark_from, meta_from};
use crate::core::{Core, session_id};
use crate::deadline;
use crate::limits::{BATCHES_AHEAD_MAX, FLIGHT_UNIT_BYTES, MESSAGE_IN_FLIGHT_BYTES};
use crate::observe::add;
use crate::status::{deadline_exceeded, draining, invalid, refusal, refusal_of};

/// Sessions of one stream whose order is remembered. Then idle ones are forgotten; when that makes
/// no room, most have had a batch refused, and the stream ends.
const ORDERS_MAX: usize = 1024;
const _: () = assert!(ORDERS_MAX > 2 * BATCHES_AHEAD_MAX);

/// A batch on its way: its request id, and its answer to come.
type Pending = Result<(u64, oneshot::Receiver<Answer>), Status>;

pub(super) fn append(
    core: Arc<Core>,
    request: Request<Streaming<AppendRequest>>,
) -> Answers<AppendResponse> {
    let deadline = deadline::of(request.metadata().as_ref());
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
    let work = stream
        .run(request.into_inner(), pending)
        .instrument(Span::current());
    tokio::spawn(work);
    Box::pin(ReceiverStream::new(receiver).then(answer))
}

async fn answer(pending: Pending) -> Result<AppendResponse, Status> {
    let (request_id, answer) = pending?;
    // The sender goes without an answer only when its thread ended by a panic.
    let lost = || Answer::Refused(refusal(&StoreError::Closed { why: None }));
    let result = Some(answer.await.unwrap_or_else(|_| lost()));
    Ok(AppendResponse { request_id, result })
}

/// Order of one session's batches on one stream.
#[derive(Default)]
struct Order {
    /// Batches with an expected sequence share it; one without takes it alone.
    turn: Arc<RwLock<()>>,
    /// A batch without an expected sequence was refused: what follows it must not take its place.
    broken: Arc<AtomicBool>,
}

/// Held from the hand-over of a batch until its answer.
#[allow(dead_code, reason = "held for what their drop gives back")]
enum Turn {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

struct AppendStream {
    core: Arc<Core>,
    deadline: Option<Instant>,
    /// Bytes of this stream that are not answered yet, in units.
    bytes: Arc<Semaphore>,
    units_max: usize,
    orders: HashMap<SessionId, Order>,
}

impl AppendStream {
    async fn run(mut self, mut requests: Streaming<AppendRequest>, pending: mpsc::Sender<Pending>) {
        let core = Arc::clone(&self.core);
        loop {
            let request = tokio::select! {
                biased;
                () = pending.closed() => return,
                () = core.drained() => {
                    let _ = pending.send(Err(draining())).await;
                    return;
                }
                () = passed(self.deadline) => {
                    let _ = pending.send(Err(deadline_exceeded())).await;
                    return;
                }
                request = requests.message() => request,
            };
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    // Malformed, oversized, or the client is gone: the last is told nobody.
                    let _ = pending.send(Err(status)).await;
                    return;
                }
            };
            let received = Instant::now();
            let request_id = request.request_id;
            let (sender, receiver) = oneshot::channel();
            if pending.send(Ok((request_id, receiver))).await.is_err() {
                return;
            }
            if let Err((refused, sender)) = self.hand_over(request, received, sender).await {
                add(&self.core.metrics.batches_refused, 1);
                let _ = sender.send(Answer::Refused(refused));
            }
            if let Err(status) = self.forget_idle() {
                let _ = pending.send(Err(status)).await;
                return;
            }
        }
    }

    /// Forgets sessions with nothing under way whose order holds.
    ///
    /// # Errors
    /// ABORTED when there are too many whose order is broken: none of these may be forgotten.
    fn forget_idle(&mut self) -> Result<(), Status> {
        if self.orders.len() >= ORDERS_MAX {
            self.orders.retain(|_, order| {
                Arc::strong_count(&order.turn) > 1 || order.broken.load(Ordering::Relaxed)
            });
        }
        match self.orders.len() < ORDERS_MAX {
            true => Ok(()),
            false => Err(too_many_broken()),
        }
    }

    /// Hands a batch to the writer's queue. When it cannot be, the answer is the caller's to give.
    async fn hand_over(
        &mut self,
        request: AppendRequest,
        received: Instant,
        sender: oneshot::Sender<Answer>,
    ) -> Result<(), (Refused, oneshot::Sender<Answer>)> {
        let session = match check(&request) {
            Ok(session) => session,
            Err(status) => return Err((refusal_of(&status), sender)),
        };
        let bytes: usize = request.payloads.iter().map(Bytes::len).sum();
        let (broken, turn) = self.take_turn(&session, request.expected_sequence).await;
        let refuse = |status: &Status| {
            broken.fetch_or(request.expected_sequence.is_none(), Ordering::Relaxed);
            refusal_of(status)
        };
        if request.expected_sequence.is_none() && broken.load(Ordering::Relaxed) {
            return Err((refusal_of(&out_of_order()), sender));
        }
        if !request.historical
            && let Err(status) = self.core.admission.touch(&session)
        {
            return Err((refuse(&status), sender));
        }
        // Messages without bytes take memory, too.
        let in_flight = bytes + request.payloads.len() * MESSAGE_IN_FLIGHT_BYTES;
        let own = self.take_bytes(in_flight).await;
        let shared = match self.core.admission.in_flight_bytes.take(in_flight as u64) {
            Ok(taken) => taken,
            Err(status) => return Err((refuse(&status), sender)),
        };
        let expects = request.expected_sequence.is_some();
        let wait = self.wait_max(request.wait_ms_max);
        let import = match request.import_mark.map(import_mark_from).transpose() {
            Ok(import) => import,
            Err(status) => return Err((refuse(&status), sender)),
        };
        let batch = Batch {
            import,
            arrival: match request.historical {
                true => Arrival::Historical,
                false => Arrival::Live,
            },
            meta: request.meta.map(meta_from).unwrap_or_default(),
            expected_sequence: request.expected_sequence,
            ..Batch::new(session, request.payloads)
        };
        let messages = batch.payloads.len();
        let (core, span) = (Arc::clone(&self.core), Span::current());
        let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
        let (answering, store) = (Arc::clone(&sender), self.core.store.clone());
        let submitted = Arc::clone(&self.core);
        let broken_by = Arc::clone(&broken);
        let queued = tokio::task::spawn_blocking(move || {
            let queued = Instant::now();
            submitted.metrics.accept.record(received.elapsed());
            store.append_then(batch, wait, move |result| {
                let held = (turn, own, shared);
                core.metrics.commit.record(queued.elapsed());
                let answer = match result {
                    Ok(done) => {
                        let fresh = messages - usize::try_from(done.duplicates).unwrap_or(messages);
                        add(&core.metrics.messages_appended, fresh);
                        add(
                            &core.metrics.bytes_appended,
                            if fresh == 0 { 0 } else { bytes },
                        );
                        span.in_scope(|| {
                            tracing::debug!(
                                messages,
                                bytes,
                                first = done.first_sequence,
                                "committed"
                            );
                        });
                        Answer::Appended(Appended {
                            first_sequence: done.first_sequence,
                            last_sequence: done.last_sequence,
                            duplicates: done.duplicates,
                        })
                    }
                    Err(error) => {
                        add(&core.metrics.batches_refused, 1);
                        broken_by.fetch_or(!expects, Ordering::Relaxed);
                        Answer::Refused(refusal(&error))
                    }
                };
                core.metrics.answer.record(received.elapsed());
                // Before the answer: whoever has it may send as much again.
                drop(held);
                if let Some(sender) = take(&answering) {
                    // The client may have left; its messages are safe all the same.
                    let _ = sender.send(answer);
                }
            })
        })
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::Closed {
                why: Some("an internal error".into()),
            })
        });
        match queued {
            Ok(()) => Ok(()),
            Err(error) => {
                broken.fetch_or(!expects, Ordering::Relaxed);
                match take(&sender) {
                    Some(sender) => Err((refusal(&error), sender)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Waits until the batch may go to the queue without overtaking those before it.
    async fn take_turn(
        &mut self,
        session: &SessionId,
        expected_sequence: Option<u64>,
    ) -> (Arc<AtomicBool>, Turn) {
        let order = self.orders.entry(session.clone()).or_default();
        let (broken, turn) = (Arc::clone(&order.broken), Arc::clone(&order.turn));
        let turn = match expected_sequence {
            Some(_) => Turn::Shared(turn.read_owned().await),
            None => Turn::Alone(turn.write_owned().await),
        };
        (broken, turn)
    }

    /// Waits until this stream's share of bytes in flight has room.
    async fn take_bytes(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
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

fn take<T>(slot: &std::sync::Mutex<Option<T>>) -> Option<T> {
    slot.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take()
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
    Status::new(Code::Aborted, message)
}

fn too_many_broken() -> Status {
    let message = format!(
        "batches of too many sessions were refused on this stream, which remembers {ORDERS_MAX}; send \
         what was refused on a new stream, or use expected_sequence"
    );
    Status::new(Code::Aborted, message)
}
