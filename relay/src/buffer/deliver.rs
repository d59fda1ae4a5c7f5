//! Delivery of requests that waited, when their daemon is back: one at a time, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use betcode_schema_tunnel::{MachineId, metadata};
use betcode_service::backoff::Backoff;
use betcode_service::sync;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use tonic::Code;

use super::{Buffer, BufferError, TakenRequest, Ticket};
use crate::auth::Revocations;
use crate::limits;
use crate::metrics::Metrics;
use crate::router::{TunnelBody, set_metadata};
use crate::tunnel::{Tunnel, call_uri};

/// Delivers from a buffer into tunnels.
pub struct Deliverer {
    relay_id: String,
    buffer: Arc<dyn Buffer>,
    /// The revocations in force: a request may have been accepted before them.
    revoked: Arc<RwLock<Revocations>>,
    metrics: Arc<Metrics>,
    /// One delivery at a time for each machine, also while one tunnel replaces another.
    turns: Mutex<HashMap<MachineId, Weak<tokio::sync::Mutex<()>>>>,
}

/// The outcome of one attempt to deliver a request.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    /// The daemon answered, and that is final.
    Settled(Code),
    /// The daemon cannot execute it now: the request stays first, for days if needed.
    RetryLater,
    /// The daemon failed to execute it: tried again a few times, then the request counts as failed.
    Failed(Code),
}

/// What came of delivering the first request.
enum Delivery {
    /// No request waits.
    NoRequest,
    /// It is settled.
    Settled,
    /// It is still first, and is to be tried again after a pause.
    Unsettled,
}

/// How often the daemon has failed to execute the request that is first.
#[derive(Default)]
struct Failures {
    order: u64,
    count: u32,
}

impl Failures {
    /// Counts a failure; whether the request counts as failed now.
    fn add(&mut self, order: u64) -> bool {
        if self.order != order {
            *self = Self { order, count: 0 };
        }
        self.count += 1;
        self.count >= limits::DELIVERY_ATTEMPTS_MAX
    }
}

/// Puts a request back when its delivery ends without being settled, also if its outcome could not be written.
/// Otherwise it would count as being delivered for ever, and would never expire. A request that was settled is no
/// longer in the buffer, and nothing happens to it.
struct PutBackOnDrop<'a> {
    buffer: &'a dyn Buffer,
    ticket: &'a Ticket,
}

impl Drop for PutBackOnDrop<'_> {
    fn drop(&mut self) {
        self.buffer.put_back(self.ticket);
    }
}

impl Deliverer {
    /// A deliverer for this relay.
    #[must_use]
    pub fn new(
        relay_id: String,
        buffer: Arc<dyn Buffer>,
        revoked: Arc<RwLock<Revocations>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let turns = Mutex::default();
        Self {
            relay_id,
            buffer,
            revoked,
            metrics,
            turns,
        }
    }

    /// Delivers the requests that wait for the tunnel's machine, and those that come, until the tunnel is left. A
    /// newer tunnel of the machine delivers from then on.
    pub async fn deliver(&self, tunnel: Arc<Tunnel>) {
        let turn = self.turn_of(tunnel.machine());
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = tunnel.left() => return,
        };
        let (mut unsettled, mut failures) = (0_u32, Failures::default());
        while tunnel.is_open() {
            match self.deliver_one(&tunnel, &mut failures).await {
                Ok(Delivery::Settled) => unsettled = 0,
                Ok(Delivery::Unsettled) => {
                    unsettled = unsettled.saturating_add(1);
                    let pause = pause_after(unsettled);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = tunnel.left() => return,
                    }
                }
                Ok(Delivery::NoRequest) => tokio::select! {
                    () = tunnel.waiting_notified() => {}
                    () = tunnel.left() => return,
                },
                Err(error) => {
                    tracing::error!(machine = %tunnel.machine(), %error, "delivery stands still");
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(limits::DELIVERY_RETRY_MS_MAX)) => {}
                        () = tunnel.left() => return,
                    }
                }
            }
        }
    }

    /// Delivers the machine's first request.
    async fn deliver_one(
        &self,
        tunnel: &Tunnel,
        failures: &mut Failures,
    ) -> Result<Delivery, BufferError> {
        let Some(taken) = self.buffer.take_first(tunnel.machine()).await? else {
            return Ok(Delivery::NoRequest);
        };
        let within = Duration::from_millis(limits::DELIVERY_MS_MAX);
        let ticket = taken.ticket.clone();
        let _put_back = PutBackOnDrop {
            buffer: &*self.buffer,
            ticket: &ticket,
        };
        let attempt = if self.is_revoked(&taken) {
            Attempt::Settled(Code::Unauthenticated)
        } else {
            match self.request(taken) {
                Ok(request) => tokio::time::timeout(within, call(tunnel, request))
                    .await
                    .unwrap_or(Attempt::Failed(Code::DeadlineExceeded)),
                Err(status) => Attempt::Settled(status.code()),
            }
        };
        let code = match attempt {
            Attempt::Settled(code) => code,
            Attempt::Failed(code) if failures.add(ticket.order) => code,
            Attempt::Failed(_) | Attempt::RetryLater => return Ok(Delivery::Unsettled),
        };
        if code != Code::Ok {
            let (machine, order) = (&ticket.machine, ticket.order);
            tracing::warn!(%machine, order, ?code, "a request that waited ended with an error");
        }
        self.buffer.settle(&ticket, code).await?;
        self.metrics.delivered(code);
        Ok(Delivery::Settled)
    }

    /// Whether the token that a request was sent with, or all of its user's, were revoked since.
    fn is_revoked(&self, taken: &TakenRequest) -> bool {
        let revoked = sync::read(&self.revoked);
        let user = &taken.request.user;
        match &taken.request.token {
            Some(token) => revoked.covers_token(user, &token.id, token.issued_s),
            // Whichever token it was sent with, that was issued before the request was buffered.
            None => {
                let buffered_s = u64::try_from(taken.buffered_ms / 1_000).unwrap_or(0);
                revoked.covers_user(user, buffered_s)
            }
        }
    }

    fn request(&self, taken: TakenRequest) -> Result<Request<TunnelBody>, tonic::Status> {
        let waiting = taken.request;
        let mut headers = HeaderMap::new();
        for (name, value) in &waiting.metadata {
            // They came as headers, so they are valid ones.
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        set_metadata(&mut headers, &waiting.user, &self.relay_id)?;
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(
            metadata::BUFFERED_AT_MS,
            HeaderValue::from(taken.buffered_ms),
        );
        let mut request = Request::new(TunnelBody::Complete(Full::new(waiting.body)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = call_uri(&waiting.machine, &waiting.path);
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn turn_of(&self, machine: &MachineId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = sync::lock(&self.turns);
        if let Some(turn) = turns.get(machine).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(machine.clone(), Arc::downgrade(&turn));
        turn
    }
}

fn pause_after(unsettled: u32) -> Duration {
    let backoff = Backoff {
        first: Duration::from_millis(limits::DELIVERY_RETRY_MS_MIN),
        last: Duration::from_millis(limits::DELIVERY_RETRY_MS_MAX),
    };
    // Not at random: one machine's requests go one at a time anyway.
    backoff.bound(unsettled)
}

/// Makes the call and waits for all of its answer, of which only the status counts.
async fn call(tunnel: &Tunnel, request: Request<TunnelBody>) -> Attempt {
    let Some(permit) = tunnel.permit(None) else {
        return Attempt::RetryLater;
    };
    let Ok(response) = tunnel.call(request).await else {
        return Attempt::RetryLater;
    };
    let (head, body) = response.into_parts();
    let bytes_max = usize::try_from(limits::MESSAGE_BYTES_MAX_CEILING).unwrap_or(usize::MAX);
    let status = match tonic::Status::from_header_map(&head.headers) {
        Some(status) => Some(status),
        None => match drain(Limited::new(body, bytes_max)).await {
            Ok(trailers) => trailers.as_ref().and_then(tonic::Status::from_header_map),
            Err(()) => return Attempt::RetryLater,
        },
    };
    drop(permit);
    match status.map_or(Code::Unknown, |status| status.code()) {
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled => Attempt::RetryLater,
        code @ (Code::Unknown | Code::Internal | Code::DeadlineExceeded | Code::Aborted) => {
            Attempt::Failed(code)
        }
        code => Attempt::Settled(code),
    }
}

/// Reads a body to its trailers, keeping nothing else.
async fn drain<B: http_body::Body + Unpin>(mut body: B) -> Result<Option<HeaderMap>, ()> {
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        if let Ok(found) = frame.map_err(|_| ())?.into_trailers() {
            trailers = Some(found);
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let pauses = [1, 2, 3, 20, 100].map(|unsettled| pause_after(unsettled).as_millis());
        assert_eq!(pauses, [100, 200, 400, 30_000, 30_000]);
    }
}
