//! Idempotency: a request with a key is executed once; repeats get the result of the first.
//!
//! The relay delivers a request that waited again if it did not receive the daemon's answer. Such a request
//! carries an idempotency key.
//!
//! * The first request of a key is executed to its end, even if the connection breaks meanwhile. A repeat waits
//!   for that end and gets the same status. The number of executions at once is bounded, and so is their time: a
//!   stream without an end is given up.
//! * An answer is complete before any of it is sent. A large one waits for one of a few slots, which it keeps until
//!   all of it is sent, or its reader has taken nothing for long.
//! * Another request with the same key is refused. If it were answered as a repeat, its caller would believe that
//!   it was executed.
//! * The keys are remembered in memory only. After a restart of the daemon, the request itself has to make a repeat
//!   harmless (an append names the sequence that it expects).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use betcode_schema_tunnel::metadata;
use betcode_service::sync::lock;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::buffered_body::{BufferBodyError, LargeBodySlots, buffer_body};
use crate::admission::Limit;
use crate::limits::{
    IDEMPOTENCY_KEYS_MAX, IDEMPOTENT_ANSWER_BYTES_MAX, IDEMPOTENT_BEGIN_MS_MAX,
    IDEMPOTENT_END_MS_MAX, IDEMPOTENT_LARGE_MAX, IDEMPOTENT_MAX, IDEMPOTENT_SMALL_BYTES_MAX,
};
use crate::observe::ms;
use crate::status::{exhausted, internal, out_of_range, with_reason};

/// Bytes of a request that may come more than once: what a relay keeps at most.
const REQUEST_BYTES_MAX: usize = 1_000_000;

/// How a request ended: its code and text.
pub(super) type FinalStatus = (Code, String);

/// Remembers requests by key.
#[derive(Clone)]
pub(super) struct IdempotentCalls {
    memory: Arc<Mutex<KnownCalls>>,
    /// For executions, which outlive the calls that brought their requests.
    execution_slots: Arc<Semaphore>,
    /// For large answers, until they are sent.
    large: LargeBodySlots,
    timeouts: CallTimeouts,
}

/// Times after which an execution is given up.
#[derive(Clone, Copy)]
struct CallTimeouts {
    /// Until it begins to answer.
    first_byte: Duration,
    /// From there until the answer is whole.
    whole_response: Duration,
}

impl Default for IdempotentCalls {
    fn default() -> Self {
        Self {
            memory: Arc::default(),
            execution_slots: Arc::new(Semaphore::new(IDEMPOTENT_MAX)),
            large: LargeBodySlots::default(),
            timeouts: CallTimeouts {
                first_byte: ms(IDEMPOTENT_BEGIN_MS_MAX),
                whole_response: ms(IDEMPOTENT_END_MS_MAX),
            },
        }
    }
}

#[derive(Default)]
struct KnownCalls {
    by_key: HashMap<String, KnownCall>,
    /// Of requests that have ended, the one first that ended first. What is under way is never
    /// forgotten, and bounded: by the calls that wait for a slot, and by the slots.
    ended: VecDeque<String>,
}

/// The first request of a key.
struct KnownCall {
    digest: u64,
    ended: watch::Receiver<Option<FinalStatus>>,
}

/// What to do with a request.
pub(super) enum Claim {
    /// It is the first of its key: execute it, and complete it with its status.
    New(Completion),
    /// It is a repeat: it gets the status of the first one.
    Duplicate(watch::Receiver<Option<FinalStatus>>),
    /// It is another request of the same key.
    KeyReused,
}

/// Completes the first request of a key. If it is dropped without that, or completed with a status after
/// which another attempt makes sense, the key is forgotten.
pub(super) struct Completion {
    calls: IdempotentCalls,
    key: String,
    status: watch::Sender<Option<FinalStatus>>,
}

impl IdempotentCalls {
    /// Calls whose large answers `limit` counts.
    pub(super) fn counted_by(limit: &Arc<Limit>) -> Self {
        Self {
            large: LargeBodySlots::counted_by(limit),
            ..Self::default()
        }
    }

    /// The key of a request that may come more than once: one that waited, or that might have.
    pub(super) fn key_of(headers: &HeaderMap) -> Option<String> {
        let waited = headers.contains_key(metadata::BUFFERED_AT_MS);
        let may_wait = headers.get(metadata::MAY_WAIT).is_some_and(|v| v == "true");
        let key = headers.get(metadata::IDEMPOTENCY_KEY)?.to_str().ok()?;
        (waited || may_wait).then(|| key.to_owned())
    }

    /// Answers a request, and executes it only if it is the first of its key.
    pub(super) async fn answer<S>(
        &self,
        key: String,
        request: Request<Body>,
        service: S,
    ) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let (head, body) = request.into_parts();
        let waited = head.headers.contains_key(metadata::BUFFERED_AT_MS);
        // Whole before its turn, so that a connection that breaks here costs nothing.
        let body = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                let text = format!("a request that may wait has at most {REQUEST_BYTES_MAX} bytes");
                return with_reason(Code::ResourceExhausted, "TOO_LARGE", text).into_http();
            }
            Err(_) => {
                let text = "the request broke off";
                return with_reason(Code::Cancelled, "CANCELLED", text).into_http();
            }
        };
        let done = match self.claim(&key, digest(&head, &body)) {
            Claim::New(done) => done,
            Claim::Duplicate(first) => {
                let status = repeat(first).await;
                // A relay asks for the status; a client must learn that its request is a repeat.
                return match waited || status.code() == Code::Unavailable {
                    true => status.into_http(),
                    false => settled(&status).into_http(),
                };
            }
            Claim::KeyReused => {
                let text = "another request has this idempotency key; a repeat must be the same, \
                            byte for byte";
                return with_reason(Code::AlreadyExists, "CONFLICT", text).into_http();
            }
        };
        let request = Request::from_parts(head, Body::new(Full::new(body)));
        // A caller that leaves while it waits gives its turn up. Never closed.
        let slot = Arc::clone(&self.execution_slots).acquire_owned().await.ok();
        let large = self.large.clone();
        // A task of its own: dropping this future must not stop it halfway.
        let execution = execute(request, service, self.timeouts, slot, large, done);
        let executed = tokio::spawn(execution).await;
        executed.unwrap_or_else(|_| internal("carrying it out failed").into_http())
    }

    pub(super) fn claim(&self, key: &str, digest: u64) -> Claim {
        let mut memory = self.lock();
        if let Some(first) = memory.by_key.get(key) {
            return match first.digest == digest {
                true => Claim::Duplicate(first.ended.clone()),
                false => Claim::KeyReused,
            };
        }
        let (status, ended) = watch::channel(None);
        let first = KnownCall { digest, ended };
        memory.by_key.insert(key.to_owned(), first);
        Claim::New(Completion {
            calls: self.clone(),
            key: key.to_owned(),
            status,
        })
    }

    fn lock(&self) -> MutexGuard<'_, KnownCalls> {
        lock(&self.memory)
    }
}

impl Completion {
    pub(super) fn complete(self, code: Code, text: &str) {
        // These leave open whether it was executed: the next attempt is a first one again.
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
        self.status.send_replace(Some((code, text.to_owned())));
        let mut memory = self.calls.lock();
        memory.ended.push_back(self.key.clone());
        while memory.ended.len() > IDEMPOTENCY_KEYS_MAX {
            if let Some(oldest) = memory.ended.pop_front() {
                memory.by_key.remove(&oldest);
            }
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.status.borrow().is_none() {
            self.calls.lock().by_key.remove(&self.key);
        }
    }
}

async fn execute<S>(
    request: Request<Body>,
    service: S,
    timeouts: CallTimeouts,
    slot: Option<OwnedSemaphorePermit>,
    large: LargeBodySlots,
    done: Completion,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Ok(Ok(response)) = timeout(timeouts.first_byte, service.oneshot(request)).await else {
        return given_up("had not begun", timeouts.first_byte);
    };
    let (head, body) = response.into_parts();
    let body = match timeout(timeouts.whole_response, buffer_body(body, &large, slot)).await {
        Ok(Ok(body)) => body,
        Ok(Err(BufferBodyError::TooLarge)) => return too_large(),
        Ok(Err(BufferBodyError::NoSlot { used })) => return no_slot(used),
        Ok(Err(BufferBodyError::Broken)) => return internal("the answer broke off").into_http(),
        Err(_) => return given_up("was not complete", timeouts.whole_response),
    };
    let status = match Status::from_header_map(&head.headers) {
        Some(status) => Some(status),
        None => body.status.clone(),
    };
    if let Some(status) = status {
        done.complete(status.code(), status.message());
    }
    Response::from_parts(head, Body::new(body))
}

fn too_large() -> Response<Body> {
    let text = format!(
        "its answer has more than the {IDEMPOTENT_ANSWER_BYTES_MAX} bytes that one which may wait has \
         at most; call without `{}`",
        metadata::MAY_WAIT
    );
    out_of_range(text).into_http()
}

fn no_slot(used: usize) -> Response<Body> {
    let hint = format!(
        "so many answers of more than {IDEMPOTENT_SMALL_BYTES_MAX} bytes are not read to their end, and it may \
         be done in part; read them, or call without `{}`",
        metadata::MAY_WAIT
    );
    let (used, max) = (used as u64, IDEMPOTENT_LARGE_MAX as u64);
    exhausted("large_answers", used, max, &hint).into_http()
}

/// The answer to a request whose own answer was waited for in vain.
fn given_up(what: &str, after: Duration) -> Response<Body> {
    let text = format!(
        "its answer {what} after {} s, and the request may have been carried out in part; call without `{}` \
         what does not end soon, for example following a session",
        after.as_secs(),
        metadata::MAY_WAIT
    );
    with_reason(Code::DeadlineExceeded, "TIMEOUT", text).into_http()
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
    let text = format!(
        "a request of this idempotency key was settled before: {code:?} {}",
        ended.message()
    );
    let mut status = with_reason(Code::AlreadyExists, "CONFLICT", text);
    let value = MetadataValue::from(code as i32);
    status
        .metadata_mut()
        .insert(metadata::DELIVERED_CODE, value);
    status
}

/// Waits for the first request's end and gives it to a repeat.
#[allow(
    clippy::disallowed_methods,
    reason = "the code and text are the first's"
)]
pub(super) async fn repeat(mut first: watch::Receiver<Option<FinalStatus>>) -> Status {
    match first.wait_for(Option::is_some).await {
        Ok(ended) => match &*ended {
            Some((code, text)) => Status::new(*code, text.clone()),
            None => unavailable("the first attempt has not ended"),
        },
        Err(_) => unavailable("the first attempt came to nothing; try again"),
    }
}

fn unavailable(text: &str) -> Status {
    with_reason(Code::Unavailable, "BUSY", text)
}

#[cfg(test)]
mod tests;
