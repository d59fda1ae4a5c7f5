//! Delivery of what waited, when its daemon is back: one request at a time, in order.

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
    /// What is in force now; a request may have been let in before.
    revoked: Arc<RwLock<Revocations>>,
    metrics: Arc<Metrics>,
    /// One delivery at a time for each machine, also while one tunnel replaces another.
    turns: Mutex<HashMap<MachineId, Weak<tokio::sync::Mutex<()>>>>,
}

/// What came of one delivery.
#[derive(Debug, PartialEq, Eq)]
enum Delivered {
    /// The daemon answered, and that is final.
    Settled(Code),
    /// The daemon could not take it now; it stays first.
    Later,
    /// The daemon failed at it; after several times it counts as failed.
    Failed(Code),
}

/// How often the daemon has failed at the request that is first.
#[derive(Default)]
struct DeliveryAttempts {
    order: u64,
    failed: u32,
}

impl DeliveryAttempts {
    /// Counts a failure; whether there were enough of them.
    fn fail(&mut self, order: u64) -> bool {
        if self.order != order {
            *self = Self { order, failed: 0 };
        }
        self.failed += 1;
        self.failed >= limits::DELIVERY_ATTEMPTS_MAX
    }
}

/// Ends a delivery however it ends: also when its outcome could not be written. Otherwise the request
/// would count as being delivered for ever, and would never become too old. Nothing happens to a request
/// that was settled, as it is no longer in the buffer.
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

    /// Delivers what waits for the tunnel's machine, and what comes to wait, until the tunnel
    /// closes or is left for another one, which may have its turn then.
    pub async fn deliver(&self, tunnel: Arc<Tunnel>) {
        let turn = self.turn_of(tunnel.machine());
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = tunnel.left() => return,
        };
        let (mut in_vain, mut tries) = (0_u32, DeliveryAttempts::default());
        while tunnel.is_open() {
            match self.deliver_one(&tunnel, &mut tries).await {
                Ok(Some(true)) => in_vain = 0,
                Ok(Some(false)) => {
                    in_vain = in_vain.saturating_add(1);
                    let pause = pause_after(in_vain);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = tunnel.left() => return,
                    }
                }
                Ok(None) => tokio::select! {
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

    /// Delivers the first request. `None` when there is none, else whether it is settled.
    async fn deliver_one(
        &self,
        tunnel: &Tunnel,
        tries: &mut DeliveryAttempts,
    ) -> Result<Option<bool>, BufferError> {
        let Some(kept) = self.buffer.take_first(tunnel.machine()).await? else {
            return Ok(None);
        };
        let within = Duration::from_millis(limits::DELIVERY_MS_MAX);
        let ticket = kept.ticket.clone();
        let _put_back = PutBackOnDrop {
            buffer: &*self.buffer,
            ticket: &ticket,
        };
        let delivered = if self.is_revoked(&kept) {
            Delivered::Settled(Code::Unauthenticated)
        } else {
            match self.request(kept) {
                Ok(request) => tokio::time::timeout(within, call(tunnel, request))
                    .await
                    .unwrap_or(Delivered::Failed(Code::DeadlineExceeded)),
                Err(status) => Delivered::Settled(status.code()),
            }
        };
        let code = match delivered {
            Delivered::Settled(code) => code,
            Delivered::Failed(code) if tries.fail(ticket.order) => code,
            Delivered::Failed(_) | Delivered::Later => return Ok(Some(false)),
        };
        if code != Code::Ok {
            let (machine, order) = (&ticket.machine, ticket.order);
            tracing::warn!(%machine, order, ?code, "a request that waited ended with an error");
        }
        self.buffer.settle(&ticket, code).await?;
        self.metrics.delivered(code);
        Ok(Some(true))
    }

    /// Whether the token that a request was sent with, or all of its user's, were revoked since.
    fn is_revoked(&self, kept: &TakenRequest) -> bool {
        let revoked = sync::read(&self.revoked);
        let user = &kept.request.user;
        match &kept.request.token {
            Some(token) => revoked.covers_token(user, &token.id, token.issued_s),
            // Whichever token it was, it was issued before the request was buffered.
            None => {
                let buffered_s = u64::try_from(kept.buffered_ms / 1_000).unwrap_or(0);
                revoked.covers_user(user, buffered_s)
            }
        }
    }

    fn request(&self, kept: TakenRequest) -> Result<Request<TunnelBody>, tonic::Status> {
        let waiting = kept.request;
        let mut headers = HeaderMap::new();
        for (name, value) in &waiting.metadata {
            // They came as headers, so they are.
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
            HeaderValue::from(kept.buffered_ms),
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

fn pause_after(in_vain: u32) -> Duration {
    let backoff = Backoff {
        first: Duration::from_millis(limits::DELIVERY_RETRY_MS_MIN),
        last: Duration::from_millis(limits::DELIVERY_RETRY_MS_MAX),
    };
    // Not at random: one machine's requests go one at a time anyway.
    backoff.bound(in_vain)
}

/// Makes the call and waits for all of its answer, of which only the status counts.
async fn call(tunnel: &Tunnel, request: Request<TunnelBody>) -> Delivered {
    let Some(permit) = tunnel.permit(None) else {
        return Delivered::Later;
    };
    let Ok(response) = tunnel.call(request).await else {
        return Delivered::Later;
    };
    let (head, body) = response.into_parts();
    let bytes_max = usize::try_from(limits::MESSAGE_BYTES_MAX_CEILING).unwrap_or(usize::MAX);
    let status = match tonic::Status::from_header_map(&head.headers) {
        Some(status) => Some(status),
        None => match drain(Limited::new(body, bytes_max)).await {
            Ok(trailers) => trailers.as_ref().and_then(tonic::Status::from_header_map),
            Err(()) => return Delivered::Later,
        },
    };
    drop(permit);
    match status.map_or(Code::Unknown, |status| status.code()) {
        // The daemon is there but cannot take it now: it is told again later, for days if needed.
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled => Delivered::Later,
        code @ (Code::Unknown | Code::Internal | Code::DeadlineExceeded | Code::Aborted) => {
            Delivered::Failed(code)
        }
        code => Delivered::Settled(code),
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
        let pauses = [1, 2, 3, 20, 100].map(|in_vain| pause_after(in_vain).as_millis());
        assert_eq!(pauses, [100, 200, 400, 30_000, 30_000]);
    }
}
