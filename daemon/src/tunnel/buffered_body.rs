//! Answers that are complete before any of them is sent.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use betcode_service::body::EndingBody;
use betcode_service::status::trailers;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};

use crate::admission::{Limit, LimitGuard};
use crate::limits::{
    IDEMPOTENT_ANSWER_BYTES_MAX, IDEMPOTENT_LARGE_MAX, IDEMPOTENT_LARGE_WAIT_MS_MAX,
    IDEMPOTENT_LARGE_WAITING_MAX, IDEMPOTENT_PIECE_BYTES, IDEMPOTENT_SMALL_BYTES_MAX,
    IDEMPOTENT_UNREAD_MS_MAX,
};
use crate::observe::ms;
use crate::status::with_reason;

/// Why an answer is not complete.
#[derive(Debug)]
pub(super) enum BufferBodyError {
    /// It has more than [`IDEMPOTENT_ANSWER_BYTES_MAX`].
    TooLarge,
    /// It is large, and found no slot.
    NoSlot {
        /// How many there were.
        used: usize,
    },
    /// It broke off.
    Broken,
}

/// The slots of large answers.
#[derive(Debug, Clone)]
pub(super) struct LargeBodySlots {
    slots: Arc<Semaphore>,
    /// For answers that wait for one of those.
    waiting: Arc<Semaphore>,
    /// The slots as metrics show them.
    limit: Arc<Limit>,
    pub(super) timeouts: LargeBodyTimeouts,
}

/// The slot of a large answer.
#[derive(Debug)]
struct LargeBodySlot {
    // Given back first, so that no more are ever counted than there are slots.
    _counted: Option<LimitGuard>,
    _permit: OwnedSemaphorePermit,
}

/// How long a large answer waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct LargeBodyTimeouts {
    /// For a slot.
    pub(super) slot: Duration,
    /// For a reader that takes nothing of it.
    pub(super) unread: Duration,
}

/// The limit of large answers.
pub(crate) fn large_answers() -> Arc<Limit> {
    let hint = "read the answers that were asked for, or ask for less at once";
    Limit::new("large_answers", hint, IDEMPOTENT_LARGE_MAX as u64)
}

impl Default for LargeBodySlots {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(IDEMPOTENT_LARGE_MAX)),
            waiting: Arc::new(Semaphore::new(IDEMPOTENT_LARGE_WAITING_MAX)),
            limit: large_answers(),
            timeouts: LargeBodyTimeouts {
                slot: ms(IDEMPOTENT_LARGE_WAIT_MS_MAX),
                unread: ms(IDEMPOTENT_UNREAD_MS_MAX),
            },
        }
    }
}

impl LargeBodySlots {
    /// Slots that `limit` counts.
    pub(super) fn counted_by(limit: &Arc<Limit>) -> Self {
        Self {
            limit: Arc::clone(limit),
            ..Self::default()
        }
    }

    fn slot_of(&self, permit: OwnedSemaphorePermit) -> LargeBodySlot {
        LargeBodySlot {
            _counted: self.limit.acquire(1).ok(),
            _permit: permit,
        }
    }

    /// A slot, at once or after a while. Meanwhile `execution` is given back, so that others, whose answers are small,
    /// need not wait for those who do not read theirs.
    async fn slot(
        &self,
        execution: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<LargeBodySlot, BufferBodyError> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(self.slot_of(permit));
        }
        let no_slot = || {
            self.limit.note_refused();
            BufferBodyError::NoSlot {
                used: IDEMPOTENT_LARGE_MAX.saturating_sub(self.slots.available_permits()),
            }
        };
        let _waits = self.waiting.try_acquire().map_err(|_| no_slot())?;
        *execution = None;
        let permit = Arc::clone(&self.slots).acquire_owned();
        match timeout(self.timeouts.slot, permit).await {
            Ok(Ok(permit)) => Ok(self.slot_of(permit)),
            _ => Err(no_slot()),
        }
    }
}

/// A complete answer. If it has no messages, its head is its end, as clients expect of an error. A large one whose
/// reader takes nothing for long is given up.
#[derive(Debug)]
pub(super) struct BufferedBody {
    /// The status that it ends with.
    pub(super) status: Option<Status>,
    unsent: EndingBody<Unsent>,
}

/// What has not been sent of an answer.
#[derive(Debug)]
struct Unsent {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Of a large answer, until it is sent or its reader is gone.
    slot: Option<LargeBodySlot>,
    /// When its reader last took some of it; `None` when there is no more.
    taken: watch::Sender<Option<Instant>>,
}

impl BufferedBody {
    fn of(
        data: VecDeque<Bytes>,
        trailers: Option<HeaderMap>,
        slot: Option<LargeBodySlot>,
        unread: Duration,
    ) -> Self {
        let is_large = slot.is_some();
        let (sender, taken) = watch::channel(Some(Instant::now()));
        let status = trailers.as_ref().and_then(Status::from_header_map);
        let unsent = Unsent {
            data,
            trailers,
            slot,
            taken: sender,
        };
        let unsent = match is_large {
            true => EndingBody::until(unsent, given_up(taken, unread)),
            false => EndingBody::whole(unsent),
        };
        Self { status, unsent }
    }
}

/// Returns when nothing of an answer was taken for so long, with the trailers that end it then.
async fn given_up(taken: watch::Receiver<Option<Instant>>, unread: Duration) -> HeaderMap {
    loop {
        let Some(last) = *taken.borrow() else {
            return std::future::pending().await;
        };
        sleep_until(last + unread).await;
        if *taken.borrow() == Some(last) {
            break;
        }
    }
    let text = format!(
        "nothing of its answer was taken for {} s; the rest is given up",
        unread.as_secs()
    );
    trailers(&with_reason(Code::DeadlineExceeded, "TIMEOUT", text))
}

impl Unsent {
    /// The next piece. It is small, so that HTTP/2 holds little for a reader, and it can be seen whether that reads.
    fn piece(&mut self) -> Option<Bytes> {
        let first = self.data.front_mut()?;
        let piece = first.split_to(first.len().min(IDEMPOTENT_PIECE_BYTES));
        if first.is_empty() {
            self.data.pop_front();
        }
        let is_last = self.data.is_empty();
        if is_last {
            self.slot = None;
        }
        self.taken.send_replace((!is_last).then(Instant::now));
        Some(piece)
    }
}

impl Body for Unsent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.piece().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

/// Receives an answer to its end. If it proves to be large, it waits for a slot, and holds little until then.
pub(super) async fn buffer_body<B>(
    body: B,
    large: &LargeBodySlots,
    mut execution: Option<OwnedSemaphorePermit>,
) -> Result<BufferedBody, BufferBodyError>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body.map_err(|_| BufferBodyError::Broken));
    let (mut data, mut trailers, mut slot) = (VecDeque::new(), None, None);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let next = match frame?.into_data() {
            Ok(next) => next,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                break;
            }
        };
        bytes += next.len();
        if bytes > IDEMPOTENT_ANSWER_BYTES_MAX {
            return Err(BufferBodyError::TooLarge);
        }
        if bytes > IDEMPOTENT_SMALL_BYTES_MAX && slot.is_none() {
            slot = Some(large.slot(&mut execution).await?);
        }
        data.push_back(next);
    }
    Ok(BufferedBody::of(
        data,
        trailers,
        slot,
        large.timeouts.unread,
    ))
}

impl Body for BufferedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.unsent).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.unsent.is_end_stream()
    }
}
