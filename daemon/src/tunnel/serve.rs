//! Serving calls on a connection whose greeting is done.

use std::convert::Infallible;
use std::sync::Arc;

use betcode_schema_tunnel::metadata::{GO_AWAY, GoAway};
use betcode_schema_tunnel::{CONTROL_PREFIX, FRAME_BYTES_MAX, GO_AWAY_PATH};
use betcode_service::connection::BoxedStream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::TunnelOptions;
use super::idempotency::IdempotentCalls;
use crate::limits::TUNNEL_RESETS_PENDING_MAX;
use crate::status::unimplemented;

/// What answers the calls of a tunnel.
pub(super) type TunnelService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Serves until the connection ends. When the relay tells the daemon to leave the tunnel, `go_away` gets the
/// reason at once, and the calls under way go on.
pub(super) async fn serve(
    stream: BoxedStream,
    service: TunnelService,
    options: &TunnelOptions,
    calls: IdempotentCalls,
    go_away: watch::Sender<Option<GoAway>>,
    leave: CancellationToken,
) -> Result<(), hyper::Error> {
    let go_away = Arc::new(go_away);
    let serving = service_fn(move |request: Request<Incoming>| {
        let (service, calls) = (service.clone(), calls.clone());
        let go_away = Arc::clone(&go_away);
        async move {
            if request.uri().path().starts_with(CONTROL_PREFIX) {
                return Ok(control(&request, &go_away));
            }
            let request = request.map(Body::new);
            match IdempotentCalls::key_of(request.headers()) {
                Some(key) => Ok(calls.answer(key, request, service).await),
                None => service.oneshot(request).await,
            }
        }
    });
    // Streams that nobody reads must never use the connection's window up.
    let window = u64::from(options.stream_window_bytes) * u64::from(options.calls_max);
    let window = u32::try_from(window.min(i32::MAX as u64)).unwrap_or(i32::MAX as u32);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(window)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(options.calls_max)
        .max_pending_accept_reset_streams(TUNNEL_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(TUNNEL_RESETS_PENDING_MAX)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .serve_connection(TokioIo::new(stream), serving);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended,
        () = leave.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Answers calls of the relay's own.
fn control(request: &Request<Incoming>, go_away: &watch::Sender<Option<GoAway>>) -> Response<Body> {
    if request.uri().path() != GO_AWAY_PATH {
        return unimplemented("this daemon does not know that control call").into_http();
    }
    let reason = request.headers().get(GO_AWAY);
    let reason = reason.and_then(|value| value.to_str().ok());
    go_away.send_replace(Some(GoAway::parse(reason.unwrap_or_default())));
    Status::ok("").into_http()
}
