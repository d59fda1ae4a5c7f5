//! One call through one tunnel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_schema_tunnel::metadata;
use betcode_service::body::EndingBody;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::body::{AbortReason, Activity, DaemonBody, RelayBody, StreamedBody, TunnelBody};
use super::join::Joined;
use super::lifetime::CallLifetime;
use super::meter::MessageMeter;
use super::status;
use crate::limits;
use crate::metrics::Metrics;
use crate::tunnel::{CallError, CallPermit, Tunnel, call_uri};

/// What is needed of the relay to pass a call on.
pub(super) struct Context<'a> {
    pub(super) relay_id: &'a str,
    pub(super) user: &'a str,
    pub(super) message_bytes_max: u64,
    /// From when the relay could pass the call on.
    pub(super) since: Instant,
    pub(super) metrics: &'a Metrics,
    /// Cancelled when the relay stops.
    pub(super) stop: &'a CancellationToken,
}

/// What the daemon knows the client's connection by; an extension of the call's head.
#[derive(Clone)]
pub(super) struct ConnectionName(pub(super) HeaderValue);

/// A request's body as the relay has it.
pub(super) enum RequestBody {
    /// Still coming from the client.
    Streamed(Incoming),
    /// All of it, and no message in it is too large.
    Complete(Bytes),
}

/// Passes a call on and returns the daemon's answer as it begins; the rest of both directions
/// flows while the client reads, for as long as `lifetime` lets it. Dropping the future or the answer cancels the call.
pub(super) async fn forward(
    mut head: Parts,
    request_body: RequestBody,
    tunnel: &Tunnel,
    permit: CallPermit,
    lifetime: CallLifetime,
    context: &Context<'_>,
) -> Result<Response<RelayBody>, Status> {
    set_metadata(&mut head.headers, context.user, context.relay_id)?;
    if let Some(ConnectionName(name)) = head.extensions.remove() {
        head.headers.insert(metadata::CONNECTION, name);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = call_uri(tunnel.machine(), path);
    head.extensions = http::Extensions::new();

    let abort_reason = Arc::new(AbortReason::default());
    let activity = Arc::new(Activity::default());
    let abandoned = CancellationToken::new();
    let body = match request_body {
        RequestBody::Streamed(from_client) => TunnelBody::Streamed(StreamedBody {
            from_client: Joined::new(from_client),
            meter: MessageMeter::new(context.message_bytes_max),
            abort_reason: abort_reason.clone(),
            activity: activity.clone(),
            call_over: Some(abandoned.clone()),
            abandoned: Box::pin(abandoned.clone().cancelled_owned()),
        }),
        RequestBody::Complete(body) => TunnelBody::Complete(Full::new(body)),
    };
    let abandon = abandoned.drop_guard();
    context.metrics.routed(context.since.elapsed());
    let answered = tokio::select! {
        answered = tunnel.call(Request::from_parts(head, body)) => answered,
        ended = lifetime.ended() => return Err(ended),
    };
    let stop = context.stop;
    let response = answered.map_err(|error| match (&error, abort_reason.get()) {
        (_, Some(abort_reason)) => abort_reason,
        (CallError::Closed, None) if stop.is_cancelled() => status::draining(),
        (CallError::Closed, None) => status::offline(),
        (CallError::Broken(error), None) => status::of_broken_tunnel(error, stop.is_cancelled()),
    })?;
    if response.headers().contains_key("grpc-status") {
        // Its head is its end, and clients of gRPC's C core take even an empty frame behind it for a
        // broken call.
        return Ok(response.map(|_| RelayBody::Own(tonic::body::Body::empty())));
    }
    Ok(response.map(|from_daemon| {
        let answer = DaemonBody {
            from_daemon: Joined::new(from_daemon),
            abort_reason,
            activity: activity.clone(),
            stop: stop.clone(),
            _abandon: abandon,
            _permit: permit,
        };
        let stop = stop.clone();
        RelayBody::Through(EndingBody::until(answer, async move {
            let ended = tokio::select! {
                ended = lifetime.ended() => ended,
                () = quiet_at_stop(&stop, &activity) => status::draining(),
            };
            status::trailers(&ended)
        }))
    }))
}

/// Returns when the relay stops and nothing passes any more: such a call is one that goes on for as
/// long as its client stays, and would hold up the stop for all of the time that it has.
async fn quiet_at_stop(stop: &CancellationToken, activity: &Activity) {
    stop.cancelled().await;
    let quiet = Duration::from_millis(limits::DRAIN_QUIET_MS);
    activity.quiet_for(quiet).await;
}

/// Takes out what is meant for the relay or may only come from it, and puts in what the daemon
/// may know of the caller. The token stays here: a daemon does not need it.
pub(crate) fn set_metadata(
    headers: &mut HeaderMap,
    user: &str,
    relay_id: &str,
) -> Result<(), Status> {
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::HOST);
    for name in metadata::RELAY_ONLY {
        headers.remove(name);
    }
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| {
            let what = "a name that cannot stand in metadata";
            status::error(Code::Internal, "INTERNAL", what).build()
        })
    };
    headers.insert(metadata::USER, value(user)?);
    headers.insert(metadata::RELAY, value(relay_id)?);
    Ok(())
}
