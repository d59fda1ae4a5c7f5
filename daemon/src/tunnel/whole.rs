//! Answers that are whole before any of them goes out.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::limits::{
    CARRIED_ANSWER_BYTES_MAX, CARRIED_LARGE_MAX, CARRIED_LARGE_WAIT_MS_MAX,
    CARRIED_LARGE_WAITING_MAX, CARRIED_PIECE_BYTES, CARRIED_SMALL_BYTES_MAX, CARRIED_UNREAD_MS_MAX,
};
use crate::observe::ms;
use crate::status::with_reason;

/// Why an answer is not whole.
#[derive(Debug)]
pub(super) enum NotWhole {
    /// It has more than [`CARRIED_ANSWER_BYTES_MAX`].
    TooLarge,
    /// It is large, and found no place among those that are.
    NoPlace {
        /// How many there were.
        used: usize,
    },
    /// It broke off.
    Broken,
}

/// The places of large answers.
#[derive(Debug, Clone)]
pub(super) struct Large {
    places: Arc<Semaphore>,
    /// Of answers that wait for one of those.
    waiting: Arc<Semaphore>,
    pub(super) patience: Patience,
}

/// How long what is large waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a place.
    pub(super) place: Duration,
    /// For a reader who takes nothing of it.
    pub(super) unread: Duration,
}

impl Default for Large {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(CARRIED_LARGE_MAX)),
            waiting: Arc::new(Semaphore::new(CARRIED_LARGE_WAITING_MAX)),
            patience: Patience {
                place: ms(CARRIED_LARGE_WAIT_MS_MAX),
                unread: ms(CARRIED_UNREAD_MS_MAX),
            },
        }
    }
}

impl Large {
    /// A place, at once or after a while. `carried` is given back meanwhile, so that others, whose
    /// answers are small, need not wait for those who do not read theirs.
    async fn place(
        &self,
        carried: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<OwnedSemaphorePermit, NotWhole> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let no_place = || NotWhole::NoPlace {
            used: CARRIED_LARGE_MAX.saturating_sub(self.places.available_permits()),
        };
        let _waits = self.waiting.try_acquire().map_err(|_| no_place())?;
        *carried = None;
        let placed = Arc::clone(&self.places).acquire_owned();
        match timeout(self.patience.place, placed).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(no_place()),
        }
    }
}

/// A whole answer. One without messages says so at once: its head is then its end, as clients
/// expect of an error. A large one whose reader takes nothing for long is given up.
#[derive(Debug)]
pub(super) struct Whole {
    rest: Arc<Mutex<Rest>>,
    /// Looks whether it is read. HTTP/2 does not ask for the next frame before the client has taken
    /// the last one, so nobody else would.
    _watch: Option<AbortOnDropHandle<()>>,
}

/// What has not been sent of an answer.
#[derive(Debug)]
struct Rest {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Of a large answer, until it is sent or its reader gone.
    place: Option<OwnedSemaphorePermit>,
    /// When its reader last took some of it.
    taken: Instant,
}

impl Whole {
    fn of(
        data: VecDeque<Bytes>,
        trailers: Option<HeaderMap>,
        place: Option<OwnedSemaphorePermit>,
        unread: Duration,
    ) -> Self {
        let is_large = place.is_some();
        let rest = Arc::new(Mutex::new(Rest {
            data,
            trailers,
            place,
            taken: Instant::now(),
        }));
        let watch = watch(Arc::downgrade(&rest), unread);
        Self {
            rest,
            _watch: is_large.then(|| AbortOnDropHandle::new(tokio::spawn(watch))),
        }
    }

    /// The status that it ends with.
    pub(super) fn status(&self) -> Option<Status> {
        lock(&self.rest)
            .trailers
            .as_ref()
            .and_then(Status::from_header_map)
    }
}

// No code panics while it holds the lock, so a poisoned one is still whole.
fn lock(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives an answer up of which nothing was taken for so long.
async fn watch(rest: Weak<Mutex<Rest>>, unread: Duration) {
    loop {
        let Some(taken) = rest.upgrade().map(|rest| lock(&rest).taken) else {
            return;
        };
        sleep_until(taken + unread).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut rest = lock(&rest);
        if rest.taken == taken {
            rest.give_up(unread);
            return;
        }
    }
}

impl Rest {
    fn give_up(&mut self, unread: Duration) {
        if self.data.is_empty() {
            return;
        }
        self.data = VecDeque::new();
        self.place = None;
        let text = format!(
            "nothing of its answer was taken for {} s; the rest is given up",
            unread.as_secs()
        );
        let mut trailers = HeaderMap::new();
        // Only metadata that is no header could make this fail, and it has none.
        let _ = with_reason(Code::DeadlineExceeded, "TIMEOUT", text).add_header(&mut trailers);
        self.trailers = Some(trailers);
    }

    /// The next piece: small, so that what HTTP/2 holds for a reader is little, and how far he is can
    /// be seen.
    fn piece(&mut self) -> Option<Bytes> {
        let first = self.data.front_mut()?;
        let piece = first.split_to(first.len().min(CARRIED_PIECE_BYTES));
        if first.is_empty() {
            self.data.pop_front();
        }
        if self.data.is_empty() {
            self.place = None;
        }
        self.taken = Instant::now();
        Some(piece)
    }
}

/// Takes an answer to its end. It waits for a place among the large ones when it proves to be one, and
/// holds little until then.
pub(super) async fn whole<B>(
    body: B,
    large: &Large,
    mut carried: Option<OwnedSemaphorePermit>,
) -> Result<Whole, NotWhole>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body.map_err(|_| NotWhole::Broken));
    let (mut data, mut trailers, mut place) = (VecDeque::new(), None, None);
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
        if bytes > CARRIED_ANSWER_BYTES_MAX {
            return Err(NotWhole::TooLarge);
        }
        if bytes > CARRIED_SMALL_BYTES_MAX && place.is_none() {
            place = Some(large.place(&mut carried).await?);
        }
        data.push_back(next);
    }
    Ok(Whole::of(data, trailers, place, large.patience.unread))
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut rest = lock(&self.rest);
        let data = rest.piece().map(Frame::data);
        let frame = data.or_else(|| rest.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let rest = lock(&self.rest);
        rest.data.is_empty() && rest.trailers.is_none()
    }
}
