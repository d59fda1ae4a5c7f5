//! Counting once what may come more than once.
//!
//! The relay delivers a request that waited again when it could not learn of the daemon's answer.
//! Such a request carries an idempotency key. The first of a key is carried out to its end, even
//! when the connection breaks under it; a later one waits for that end and gets the same status.
//! So many are carried out at once, and none for ever: a stream that has no end is given up.
//! An answer is whole before any of it goes out; one that is large waits for one of a few places,
//! which it keeps until the last of it is sent, or its reader takes nothing for long.
//! Another request of the same key is refused: told as a repeat, it would count as done.
//! This memory is the process's: over a daemon's restart, what makes a repeat harmless is the
//! request itself (an append names the sequence that it expects).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use betcode_schema_tunnel::metadata;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::whole::{Large, NotWhole, whole};
use crate::limits::{
    CARRIED_ANSWER_BYTES_MAX, CARRIED_BEGIN_MS_MAX, CARRIED_END_MS_MAX, CARRIED_LARGE_MAX,
    CARRIED_MAX, CARRIED_SMALL_BYTES_MAX,
};
use crate::observe::ms;
use crate::status::exhausted;

/// Keys of requests that have ended which are remembered; the oldest give way. Ten times what one machine's buffer holds.
const KEYS_MAX: usize = 10_000;

/// Bytes of a request that may come more than once: what a relay keeps at most.
const REQUEST_BYTES_MAX: usize = 1_000_000;

/// How a request ended: its code and text.
pub(super) type Ended = (Code, String);

/// Remembers requests by key.
#[derive(Clone)]
pub(super) struct Once {
    memory: Arc<Mutex<Memory>>,
    /// Of requests that are carried out: they outlive the calls that brought them.
    places: Arc<Semaphore>,
    /// For large answers, until they are sent.
    large: Large,
    patience: Patience,
}

/// Times after which a request that is carried out is given up.
#[derive(Clone, Copy)]
struct Patience {
    /// Until it begins to answer.
    begin: Duration,
    /// From there until the answer is whole.
    end: Duration,
}

impl Default for Once {
    fn default() -> Self {
        Self {
            memory: Arc::default(),
            places: Arc::new(Semaphore::new(CARRIED_MAX)),
            large: Large::default(),
            patience: Patience {
                begin: ms(CARRIED_BEGIN_MS_MAX),
                end: ms(CARRIED_END_MS_MAX),
            },
        }
    }
}

#[derive(Default)]
struct Memory {
    by_key: HashMap<String, First>,
    /// Of requests that have ended, the one first that ended first. What is under way is never
    /// forgotten, and bounded: by the calls that wait for a place, and by the places.
    ended: VecDeque<String>,
}

/// The first request of a key.
struct First {
    digest: u64,
    ended: watch::Receiver<Option<Ended>>,
}

/// What to do with a request.
pub(super) enum Turn {
    /// It is the first of its key: carry it out and say how it ended.
    First(Done),
    /// It is a repeat: this is how the first one ends.
    Repeat(watch::Receiver<Option<Ended>>),
    /// It is another request of the same key.
    Other,
}

/// Says how the first request of a key ended. When it is dropped without a word, or with an
/// ending that invites another attempt, the key is forgotten.
pub(super) struct Done {
    once: Once,
    key: String,
    told: watch::Sender<Option<Ended>>,
}

impl Once {
    /// The key of a request that may come more than once: one that waited, or that might have.
    pub(super) fn key_of(headers: &HeaderMap) -> Option<String> {
        let waited = headers.contains_key(metadata::BUFFERED_AT_MS);
        let may_wait = headers.get(metadata::MAY_WAIT).is_some_and(|v| v == "true");
        let key = headers.get(metadata::IDEMPOTENCY_KEY)?.to_str().ok()?;
        (waited || may_wait).then(|| key.to_owned())
    }

    /// Answers a request, carrying it out only if it is the first of its key.
    pub(super) async fn answer<I, S, B>(
        &self,
        key: String,
        request: Request<I>,
        service: S,
    ) -> Response<Body>
    where
        I: HttpBody<Data = Bytes> + Send,
        I::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let waited = head.headers.contains_key(metadata::BUFFERED_AT_MS);
        // Whole before its turn, so that a connection that breaks here costs nothing.
        let body = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                let text = format!("a request that may wait has at most {REQUEST_BYTES_MAX} bytes");
                return Status::resource_exhausted(text).into_http();
            }
            Err(_) => return Status::cancelled("the request broke off").into_http(),
        };
        let done = match self.turn(&key, digest(&head, &body)) {
            Turn::First(done) => done,
            Turn::Repeat(first) => {
                let status = repeat(first).await;
                // A relay asks how it ended; a client has to be told that it is a repeat.
                return match waited || status.code() == Code::Unavailable {
                    true => status.into_http(),
                    false => settled(&status).into_http(),
                };
            }
            Turn::Other => {
                let text = "another request has this idempotency key; a repeat must be the same, \
                            byte for byte";
                return Status::already_exists(text).into_http();
            }
        };
        let request = Request::from_parts(head, Body::new(Full::new(body)));
        // A caller that leaves while it waits gives its turn up. Never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let large = self.large.clone();
        // A task of its own: dropping this future must not stop it halfway.
        let carrying = carry_out(request, service, self.patience, place, large, done);
        let carried = tokio::spawn(carrying).await;
        carried.unwrap_or_else(|_| Status::internal("carrying it out failed").into_http())
    }

    pub(super) fn turn(&self, key: &str, digest: u64) -> Turn {
        let mut memory = self.lock();
        if let Some(first) = memory.by_key.get(key) {
            return match first.digest == digest {
                true => Turn::Repeat(first.ended.clone()),
                false => Turn::Other,
            };
        }
        let (told, ended) = watch::channel(None);
        let first = First { digest, ended };
        memory.by_key.insert(key.to_owned(), first);
        Turn::First(Done {
            once: self.clone(),
            key: key.to_owned(),
            told,
        })
    }

    // No code panics while it holds the lock, so a poisoned one is still whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Done {
    pub(super) fn end(self, code: Code, text: &str) {
        // These leave open whether it was carried out: the next attempt is a first one again.
        let again = matches!(
            code,
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Internal
                | Code::Unknown
        );
        if again {
            return;
        }
        self.told.send_replace(Some((code, text.to_owned())));
        let mut memory = self.once.lock();
        memory.ended.push_back(self.key.clone());
        while memory.ended.len() > KEYS_MAX {
            if let Some(oldest) = memory.ended.pop_front() {
                memory.by_key.remove(&oldest);
            }
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.told.borrow().is_none() {
            self.once.lock().by_key.remove(&self.key);
        }
    }
}

async fn carry_out<S, B>(
    request: Request<Body>,
    service: S,
    patience: Patience,
    place: Option<OwnedSemaphorePermit>,
    large: Large,
    done: Done,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(Ok(response)) = timeout(patience.begin, service.oneshot(request)).await else {
        return given_up(patience.begin);
    };
    let (head, body) = response.into_parts();
    let body = match timeout(patience.end, whole(body, &large, place)).await {
        Ok(Ok(body)) => body,
        Ok(Err(NotWhole::TooLarge)) => return too_large(),
        Ok(Err(NotWhole::NoPlace { used })) => return no_place(used),
        Ok(Err(NotWhole::Broken)) => return Status::internal("the answer broke off").into_http(),
        Err(_) => return given_up(patience.end),
    };
    let status = match Status::from_header_map(&head.headers) {
        Some(status) => Some(status),
        None => body.status(),
    };
    if let Some(status) = status {
        done.end(status.code(), status.message());
    }
    Response::from_parts(head, Body::new(body))
}

fn too_large() -> Response<Body> {
    let text = format!(
        "its answer has more than the {CARRIED_ANSWER_BYTES_MAX} bytes that one which may wait has \
         at most; call without `{}`",
        metadata::MAY_WAIT
    );
    Status::out_of_range(text).into_http()
}

fn no_place(used: usize) -> Response<Body> {
    let hint = format!(
        "so many answers of more than {CARRIED_SMALL_BYTES_MAX} bytes are not read to their end, and it may \
         be done in part; read them, or call without `{}`",
        metadata::MAY_WAIT
    );
    let (used, max) = (used as u64, CARRIED_LARGE_MAX as u64);
    exhausted("large_answers", used, max, &hint).into_http()
}

fn given_up(after: Duration) -> Response<Body> {
    let text = format!(
        "its answer was not whole after {} s, and it may be done in part; what has no end soon, as a \
         follower has none, is to be called without `{}`",
        after.as_secs(),
        metadata::MAY_WAIT
    );
    Status::deadline_exceeded(text).into_http()
}

/// What makes two requests of one key the same, as the relay has it: who asks what.
fn digest(head: &http::request::Parts, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let user = head.headers.get(metadata::USER).map(|user| user.as_bytes());
    (user, head.uri.path(), body).hash(&mut hasher);
    hasher.finish()
}

fn settled(ended: &Status) -> Status {
    let code = ended.code();
    let mut status = Status::already_exists(format!(
        "a request of this idempotency key was settled before: {code:?} {}",
        ended.message()
    ));
    let value = MetadataValue::from(code as i32);
    status
        .metadata_mut()
        .insert(metadata::DELIVERED_CODE, value);
    status
}

/// Waits for the first request's end and gives it to a repeat.
pub(super) async fn repeat(mut first: watch::Receiver<Option<Ended>>) -> Status {
    match first.wait_for(Option::is_some).await {
        Ok(ended) => match &*ended {
            Some((code, text)) => Status::new(*code, text.clone()),
            None => Status::unavailable("the first attempt has not ended"),
        },
        Err(_) => Status::unavailable("the first attempt came to nothing; try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CARRIED_PIECE_BYTES;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    #[tokio::test]
    async fn a_repeat_gets_the_end_of_the_first() {
        let once = Once::default();
        let Turn::First(done) = once.turn("k", 1) else {
            panic!()
        };
        let Turn::Repeat(first) = once.turn("k", 1) else {
            panic!()
        };
        done.end(Code::AlreadyExists, "there");
        let status = repeat(first).await;
        assert_eq!(
            (status.code(), status.message()),
            (Code::AlreadyExists, "there")
        );
        assert!(matches!(once.turn("k", 1), Turn::Repeat(_)));
        assert!(matches!(once.turn("k", 2), Turn::Other));
    }

    #[tokio::test]
    async fn what_came_to_nothing_may_be_tried_again() {
        let once = Once::default();
        for code in [None, Some(Code::Unavailable)] {
            let Turn::First(done) = once.turn("k", 1) else {
                panic!()
            };
            let Turn::Repeat(first) = once.turn("k", 1) else {
                panic!()
            };
            match code {
                Some(code) => done.end(code, ""),
                None => drop(done),
            }
            assert_eq!(repeat(first).await.code(), Code::Unavailable);
        }
        assert!(matches!(once.turn("k", 1), Turn::First(_)));
    }

    /// Answers each request with what is sent to it next.
    type Sent = mpsc::Sender<Result<Frame<Bytes>, Status>>;

    /// Sends a request of a key; its answer comes from `body`.
    async fn ask(
        once: &Once,
        key: &str,
        body: Option<mpsc::Receiver<Result<Frame<Bytes>, Status>>>,
    ) -> Code {
        let body = std::sync::Mutex::new(body);
        let service = tower::service_fn(move |_: Request<Body>| {
            let body = body.lock().unwrap().take();
            async move {
                match body {
                    Some(body) => {
                        let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
                        Ok::<_, Infallible>(Response::new(body))
                    }
                    None => std::future::pending().await,
                }
            }
        });
        let request = Request::new(Full::new(Bytes::new()));
        let answered = once.answer(key.to_owned(), request, service).await;
        Status::from_header_map(answered.headers()).map_or(Code::Ok, |status| status.code())
    }

    fn in_a_hurry() -> Once {
        let soon = Duration::from_millis(20);
        Once {
            places: Arc::new(Semaphore::new(1)),
            patience: Patience {
                begin: soon,
                end: soon,
            },
            ..Once::default()
        }
    }

    async fn in_time<T>(work: impl Future<Output = T>) -> T {
        let done = tokio::time::timeout(Duration::from_secs(30), work).await;
        done.expect("it never ends")
    }

    #[tokio::test]
    async fn what_does_not_end_is_given_up_and_may_be_tried_again() {
        let once = in_a_hurry();
        for round in 0..2 {
            let (sent, body): (Sent, _) = mpsc::channel(1);
            let stream = in_time(ask(&once, "stream", Some(body))).await;
            assert_eq!(stream, Code::DeadlineExceeded, "{round}");
            in_time(sent.closed()).await;
            let mute = in_time(ask(&once, "mute", None)).await;
            assert_eq!(mute, Code::DeadlineExceeded, "{round}");
        }
        let (sent, body): (Sent, _) = mpsc::channel(1);
        drop(sent);
        assert_eq!(in_time(ask(&once, "ends", Some(body))).await, Code::Ok);
    }

    #[tokio::test]
    async fn a_stream_whose_caller_has_left_keeps_nothing_for_ever() {
        let once = in_a_hurry();
        let (sent, body): (Sent, _) = mpsc::channel(1);
        let asking = ask(&once, "left", Some(body));
        let left = tokio::time::timeout(Duration::from_millis(1), asking).await;
        assert!(left.is_err());
        in_time(sent.closed()).await;
    }

    #[tokio::test]
    async fn only_so_many_are_carried_out_at_once_and_others_wait_their_turn() {
        let once = Once {
            places: Arc::new(Semaphore::new(1)),
            ..Once::default()
        };
        let (first, body): (Sent, _) = mpsc::channel(1);
        let other = once.clone();
        let slow = tokio::spawn(async move { ask(&other, "slow", Some(body)).await });
        in_time(async {
            while once.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (sent, body): (Sent, _) = mpsc::channel(1);
        drop(sent);
        let mut next = std::pin::pin!(ask(&once, "next", Some(body)));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
        assert!(early.is_err());
        drop(first);
        assert_eq!(in_time(slow).await.unwrap(), Code::Ok);
        assert_eq!(in_time(next).await, Code::Ok);
    }

    /// An answer of so many bytes, as the caller gets it.
    async fn answer_of(once: &Once, key: &str, bytes: usize) -> Response<Body> {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let body = Full::new(Bytes::from(vec![0; bytes]));
            Ok::<_, Infallible>(Response::new(Body::new(body)))
        });
        let request = Request::new(Full::new(Bytes::new()));
        once.answer(key.to_owned(), request, service).await
    }

    #[tokio::test]
    async fn an_error_ends_with_its_head() {
        let once = Once::default();
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Status::not_found("no").into_http::<Body>())
        });
        let request = Request::new(Full::new(Bytes::new()));
        let answered = once.answer("k".to_owned(), request, service).await;
        assert!(answered.body().is_end_stream());
        let some = answer_of(&once, "some", 1).await;
        assert!(!some.body().is_end_stream());
    }

    #[tokio::test]
    async fn only_so_many_large_answers_are_there_until_they_are_taken_and_small_ones_pass() {
        let once = Once::default();
        let mut unread = Vec::new();
        for n in 0..CARRIED_LARGE_MAX {
            unread.push(answer_of(&once, &format!("{n}"), 1 << 20).await);
        }
        let mut next = std::pin::pin!(answer_of(&once, "next", 1 << 20));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
        assert!(early.is_err());
        in_time(answer_of(&once, "small", 1000)).await;
        unread.pop();
        let next = in_time(next).await.into_body().collect().await.unwrap();
        assert_eq!(next.to_bytes().len(), 1 << 20);
    }

    /// With all places of large answers taken by some that nobody reads.
    async fn unread(once: &Once) -> Vec<Response<Body>> {
        let mut unread = Vec::new();
        for n in 0..CARRIED_LARGE_MAX {
            unread.push(in_time(answer_of(once, &format!("unread {n}"), 1 << 20)).await);
        }
        unread
    }

    #[tokio::test]
    async fn a_large_answer_that_nobody_reads_gives_its_place_away_and_says_so() {
        let mut once = Once::default();
        once.large.patience.unread = Duration::from_millis(50);
        let mut unread = unread(&once).await;
        let next = in_time(answer_of(&once, "next", 1 << 20)).await;
        assert_eq!(
            Status::from_header_map(next.headers()).map(|s| s.code()),
            None
        );
        let given_up = unread.remove(0).into_body();
        let given_up = in_time(given_up.collect()).await.unwrap();
        let told = given_up.trailers().and_then(Status::from_header_map);
        assert_eq!(told.unwrap().code(), Code::DeadlineExceeded);
        assert!(given_up.to_bytes().is_empty());
    }

    #[tokio::test]
    async fn what_waits_for_a_place_lets_small_answers_pass() {
        let mut once = Once {
            places: Arc::new(Semaphore::new(1)),
            ..Once::default()
        };
        once.large.patience.unread = Duration::from_secs(600);
        let _unread = unread(&once).await;
        let mut waits = std::pin::pin!(answer_of(&once, "waits", 1 << 20));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
        assert!(early.is_err());
        in_time(answer_of(&once, "small", 1000)).await;
    }

    #[tokio::test]
    async fn what_waits_for_a_place_in_vain_is_told_what_it_waited_for() {
        let mut once = Once::default();
        once.large.patience.place = Duration::from_millis(1);
        let _unread = unread(&once).await;
        let told = in_time(answer_of(&once, "waits", 1 << 20)).await;
        let told = Status::from_header_map(told.headers()).unwrap();
        assert_eq!(told.code(), Code::ResourceExhausted);
        assert!(told.message().contains("large_answers: 4 of 4"), "{told}");
    }

    #[tokio::test]
    async fn a_large_answer_goes_out_in_small_pieces() {
        let mut body = answer_of(&Once::default(), "k", 1 << 20).await.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= CARRIED_PIECE_BYTES);
            bytes += data.len();
        }
        assert_eq!(bytes, 1 << 20);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_says_what_to_do() {
        let told = answer_of(&Once::default(), "k", CARRIED_ANSWER_BYTES_MAX + 1).await;
        let told = Status::from_header_map(told.headers()).unwrap();
        assert_eq!(told.code(), Code::OutOfRange);
        assert!(told.message().contains("call without"), "{told}");
    }

    #[test]
    fn a_request_under_way_is_not_forgotten_however_many_end_meanwhile() {
        let once = Once::default();
        let Turn::First(slow) = once.turn("slow", 1) else {
            panic!()
        };
        for key in 0..KEYS_MAX + 10 {
            if let Turn::First(done) = once.turn(&key.to_string(), 1) {
                done.end(Code::Ok, "");
            }
        }
        assert!(matches!(once.turn("slow", 1), Turn::Repeat(_)));
        slow.end(Code::Ok, "");
        assert!(matches!(once.turn("slow", 1), Turn::Repeat(_)));
    }

    #[test]
    fn keys_are_bounded() {
        let once = Once::default();
        for key in 0..KEYS_MAX + 10 {
            if let Turn::First(done) = once.turn(&key.to_string(), 1) {
                done.end(Code::Ok, "");
            }
        }
        assert_eq!(once.lock().by_key.len(), KEYS_MAX);
    }
}
