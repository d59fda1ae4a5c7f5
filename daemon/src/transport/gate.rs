//! Asked before every request: whether its client is let in and the daemon is not stopping. It also opens the
//! request's trace, and ends it at its deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use betcode_service::body::EndingBody;
use betcode_service::status::trailers;
use betcode_service::{grpc_timeout, trace_context};
use tokio::time::{sleep_until, timeout_at};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use super::Client;
use crate::core::Core;
use crate::limits::DEADLINE_LEAD_MS;
use crate::observe::{add, ms};
use crate::server::SERVICES;
use crate::status;

/// Services that answer whatever the state of the daemon.
const ALWAYS: [&str; 4] = [
    "/grpc.health.v1.",
    "/betcode.v1.Health/",
    "/betcode.v1.BetCodeHealth/",
    "/grpc.reflection.",
];

/// Services by which an operator looks at the daemon and makes space. They need no client's slot, so that
/// they answer also when clients have taken all of them. What they begin has limits of its own.
const OPERATOR: [&str; 3] = [
    "betcode.history.v1.CapacityService",
    "betcode.history.v1.CompactionService",
    "betcode.history.v1.MaintenanceService",
];

/// Those of [`ALWAYS`] that tonic implements. Their streams do not end by themselves when the daemon stops.
const NOT_OURS: &str = "/grpc.";

/// Why a service is not there.
const NOT_HERE: &str = "this daemon has no such service; MachineService of betcode.v1 is the relay's, and \
                        TunnelService is not offered; reflection lists what is here";

/// Why a method is not there.
const NO_METHOD: &str = "this service has no such method; reflection lists what is here";

/// Puts a [`Gate`] before all services.
#[derive(Debug, Clone)]
pub struct GateLayer(pub Arc<Core>);

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            core: Arc::clone(&self.0),
            inner,
        }
    }
}

/// Passes requests on, or answers them in the services' place.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    core: Arc<Core>,
    inner: S,
}

impl<S> Gate<S> {
    fn refusal<B>(&self, request: &Request<B>) -> Option<tonic::Status> {
        let path = request.uri().path();
        if ALWAYS.iter().any(|service| path.starts_with(service)) {
            return None;
        }
        let service = path.split('/').nth(1).unwrap_or_default();
        if !SERVICES.contains(&service) {
            return Some(status::unimplemented(NOT_HERE));
        }
        if self.core.is_draining() {
            return Some(status::draining());
        }
        if OPERATOR.contains(&service) {
            return None;
        }
        let extensions = request.extensions();
        let client = extensions.get::<Client>();
        client.and_then(|client| client.admit(&self.core.admission.clients).err())
    }
}

/// Whether a service knows no such method: tonic answers that with a code and no message.
fn is_no_method(response: &Response<Body>) -> bool {
    let headers = response.headers();
    let code = headers.get("grpc-status").map(|code| code.as_bytes());
    code == Some(b"12") && !headers.contains_key("grpc-message")
}

/// In the extensions of a response whose service ends the stream at the deadline itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndsAtDeadline;

fn ends_at_deadline(response: &Response<Body>) -> bool {
    response.extensions().get::<EndsAtDeadline>().is_some()
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        add(&self.core.metrics.requests, 1);
        if let Some(status) = self.refusal(&request) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let trace_id = trace_context::from_headers_or_new(request.headers());
        let method = request.uri().path();
        let span = tracing::info_span!("request", method, trace_id = trace_id.as_str());
        span.in_scope(|| tracing::debug!("begun"));
        let deadline = grpc_timeout::deadline(request.headers());
        let serving = method.starts_with(NOT_OURS).then(|| Arc::clone(&self.core));
        let answer = self.inner.call(request).instrument(span);
        let answer = async move {
            let answer = answer.await.map(|response| match is_no_method(&response) {
                true => status::unimplemented(NO_METHOD).into_http(),
                false => response,
            });
            match serving {
                None => answer,
                Some(core) => answer.map(|response| {
                    // A Watch has sent NOT_SERVING by then.
                    response.map(|answer| {
                        Body::new(EndingBody::until_idle(answer, async move {
                            core.stop_reported().await;
                            trailers(&status::draining())
                        }))
                    })
                }),
            }
        };
        match deadline {
            None => Box::pin(answer),
            Some(deadline) => Box::pin(async move {
                // A little before the transport's own timer, which would answer CANCELLED.
                let at = deadline.checked_sub(ms(DEADLINE_LEAD_MS));
                let at = at.unwrap_or(deadline);
                match timeout_at(at.into(), answer).await {
                    Err(_) => Ok(status::deadline_exceeded().into_http()),
                    Ok(Ok(response)) if !ends_at_deadline(&response) => {
                        Ok(response.map(|answer| {
                            Body::new(EndingBody::until(answer, async move {
                                sleep_until(at.into()).await;
                                trailers(&status::deadline_exceeded())
                            }))
                        }))
                    }
                    Ok(answered) => answered,
                }
            }),
        }
    }
}
