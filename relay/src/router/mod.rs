//! The way of a call: who calls, which machine, through its tunnel, and back.
//!
//! A call is passed on as it is: method, metadata, messages, trailers. Nothing here knows the services of daemons,
//! so a new one needs no new relay. `Router::handle` tells three kinds of calls apart: those to a machine, those about
//! machines (`machines`), and those to the relay itself (health, reflection).
//!
//! A call to a machine passes `gate` (its caller, and how often that may call), then `forward`. One that may wait is
//! received whole first (`intake`), and goes to the buffer if its machine is away (`wait`). `body` has the bodies of both
//! directions, `join` joins their small frames, `meter` measures their messages, and `lifetime` ends the call at its
//! deadline and with its token. `status` has the relay's own answers.

mod body;
mod forward;
mod gate;
mod intake;
mod join;
mod lifetime;
mod machines;
mod meter;
mod status;
mod wait;

pub(crate) use body::{RelayBody, TunnelBody};
pub(crate) use forward::set_metadata;
pub(crate) use gate::rate_limit_key;
pub use gate::{Access, Gate};
pub use intake::Intake;
pub(crate) use machines::Machines;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use betcode_schema_tunnel::{CONTROL_PREFIX, MachineId, metadata};
use betcode_service::trace_context;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt;

use self::forward::RequestBody;
use self::lifetime::CallLifetime;
use self::wait::MayWait;
use crate::auth::Caller;
use crate::buffer::Buffer;
use crate::metrics::Metrics;
use crate::tunnel::{Table, Tunnel};
use crate::unauthenticated::ConnectionAuth;

/// Takes calls from clients and passes them on.
pub struct Router {
    /// Name of this relay.
    pub relay_id: String,
    /// Open tunnels.
    pub table: Arc<Table>,
    /// Requests that wait for daemons that are away.
    pub buffer: Arc<dyn Buffer>,
    /// Who may call.
    pub gate: Gate,
    /// Slots for calls under way in the whole relay.
    pub calls: Arc<Semaphore>,
    /// Requests that may wait, while they are received.
    pub intake: Intake,
    /// Bytes of one message at most.
    pub message_bytes_max: u64,
    /// Load balancers whose word on a caller's address is taken.
    pub trusted_proxies: Vec<IpAddr>,
    /// Counters that `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// The relay's own services, for calls that name no machine.
    pub services: Routes,
    /// Cancelled when the relay stops.
    pub stop: CancellationToken,
}

impl Router {
    /// Answers one call, if need be with an error.
    pub(crate) async fn handle(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        address: IpAddr,
        connection: &ConnectionAuth,
    ) -> Response<RelayBody> {
        let address = self.address_of(request.headers(), address);
        if !is_grpc(request.headers()) {
            return self.refuse_not_grpc(address);
        }
        let answered = if request.uri().path().starts_with(machines::PATH_PREFIX) {
            let answered = self.answer_about_machines(request, address, connection);
            let count = |status: &Status| self.metrics.refused(status.code());
            answered.await.inspect_err(count)
        } else if request.headers().contains_key(metadata::MACHINE_ID) {
            let arrived = Instant::now();
            let trace_id = trace_context::ensure(request.headers_mut());
            let answered = self.route(request, address, arrived, connection).await;
            match &answered {
                Ok(_) => {
                    self.metrics.passed(arrived.elapsed());
                    tracing::debug!(trace_id, "a call was passed on");
                }
                Err(status) => {
                    self.metrics.refused(status.code());
                    // The code alone: texts may name what callers said.
                    tracing::debug!(trace_id, code = ?status.code(), "a call was answered here");
                }
            }
            answered
        } else {
            self.answer_without_machine(request, address).await
        };
        answered
            .unwrap_or_else(|status| status.into_http::<tonic::body::Body>().map(RelayBody::Own))
    }

    /// Answers a call that is not gRPC, which has no status but HTTP's. It counts as any other.
    fn refuse_not_grpc(&self, address: IpAddr) -> Response<RelayBody> {
        let (code, status) = match self.gate.admit_address(address, Instant::now()) {
            Ok(()) => (Code::Unknown, http::StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Err(refused) => (refused.code(), http::StatusCode::TOO_MANY_REQUESTS),
        };
        self.metrics.refused(code);
        let mut response = Response::new(RelayBody::Own(tonic::body::Body::empty()));
        *response.status_mut() = status;
        response
    }

    /// The caller's address: the connection's, or what a trusted load balancer says last.
    fn address_of(&self, headers: &HeaderMap, connection: IpAddr) -> IpAddr {
        if !self.trusts(connection) {
            return connection;
        }
        let said = headers.get_all("x-forwarded-for").iter().next_back();
        said.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
            .unwrap_or(connection)
    }

    /// Whether a connection comes from a load balancer that is trusted to say where its connections come from.
    pub(crate) fn trusts(&self, connection: IpAddr) -> bool {
        // A listener for both families has IPv4 addresses in their IPv6 form.
        let connection = connection.to_canonical();
        let mut proxies = self.trusted_proxies.iter();
        proxies.any(|proxy| proxy.to_canonical() == connection)
    }

    async fn answer_without_machine(
        &self,
        request: Request<Incoming>,
        address: IpAddr,
    ) -> Result<Response<RelayBody>, Status> {
        self.gate.admit_address(address, Instant::now())?;
        if !is_own(request.uri().path()) {
            self.gate.caller(request.headers(), Instant::now())?;
            let why = "no machine named: send its id as `x-machine-id`";
            return Err(status::invalid(metadata::MACHINE_ID, why));
        }
        Ok(self.call_service(request).await)
    }

    /// Answers a call about the machines that the caller's token names. Which machine the call itself names does not
    /// matter: some clients send that with every call.
    async fn answer_about_machines(
        &self,
        mut request: Request<Incoming>,
        address: IpAddr,
        connection: &ConnectionAuth,
    ) -> Result<Response<RelayBody>, Status> {
        let now = Instant::now();
        self.gate.admit_address(address, now)?;
        let (caller, _token) = self.gate.caller(request.headers(), now)?;
        connection.mark_authenticated();
        request.extensions_mut().insert(caller);
        Ok(self.call_service(request).await)
    }

    async fn call_service(&self, request: Request<Incoming>) -> Response<RelayBody> {
        match self.services.clone().oneshot(request).await {
            Ok(response) => response.map(RelayBody::Own),
            Err(never) => match never {},
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        address: IpAddr,
        arrived: Instant,
        connection: &ConnectionAuth,
    ) -> Result<Response<RelayBody>, Status> {
        self.gate.admit_address(address, arrived)?;
        let (caller, token) = self.gate.caller(request.headers(), arrived)?;
        connection.mark_authenticated();
        let machine = machine_of(request.headers())?;
        if !caller.may_call(&machine) {
            return Err(status::machine_not_allowed());
        }
        if request.uri().path().starts_with(CONTROL_PREFIX) {
            let what = "this method is the relay's own";
            return Err(status::error(Code::PermissionDenied, "METHOD_NOT_ALLOWED", what).build());
        }
        let may_wait = wait::may_wait(request.headers())?;
        let lifetime = CallLifetime::of(request.headers(), token);
        let (mut head, body) = request.into_parts();
        if let Some(name) = connection.name() {
            head.extensions
                .insert(forward::ConnectionName(name.clone()));
        }
        if let Some(may_wait) = may_wait {
            let call = (head, body);
            return self
                .route_waiting(call, may_wait, &caller, machine, lifetime)
                .await;
        }
        let tunnel = self.table.find(&machine).ok_or_else(|| self.no_tunnel())?;
        let slot = self.call_slot()?;
        let call = (head, RequestBody::Streamed(body));
        self.forward(call, &caller, &tunnel, slot, lifetime, arrived)
            .await
    }

    /// Receives a request that may wait, and passes it on or buffers it.
    async fn route_waiting(
        &self,
        (head, body): (Parts, Incoming),
        may_wait: MayWait,
        caller: &Caller,
        machine: MachineId,
        lifetime: CallLifetime,
    ) -> Result<Response<RelayBody>, Status> {
        let slot = self.call_slot()?;
        let received = tokio::select! {
            received = self.intake.receive(body) => received?,
            ended = lifetime.ended() => return Err(ended),
        };
        let whole = Instant::now();
        // Checked here also for delivery later.
        meter::MessageMeter::new(self.message_bytes_max)
            .pass(&received.body)
            .map_err(status::too_big)?;
        // Looked up now: the machine may have come or gone while the request was received.
        if let Some(tunnel) = self.table.find(&machine)
            && !wait::must_queue(&*self.buffer, &machine, &may_wait)
        {
            let call = (head, RequestBody::Complete(received.body.clone()));
            return self
                .forward(call, caller, &tunnel, slot, lifetime, whole)
                .await;
        }
        let (id, buffer) = (machine.clone(), &self.buffer);
        let status = wait::put(
            &head,
            received.body.clone(),
            may_wait,
            caller,
            machine,
            buffer,
        )
        .await;
        if status.metadata().contains_key(metadata::BUFFERED) {
            self.metrics.buffered();
        }
        // The tunnel may have opened while the request was written.
        if let Some(tunnel) = self.table.find(&id) {
            tunnel.notify_waiting();
        }
        Err(status)
    }

    /// A slot among the calls of the relay.
    fn call_slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.calls.clone().try_acquire_owned().map_err(|_| {
            let what = "the relay has as many calls under way as it may";
            status::overloaded("calls_max", what, "try later")
        })
    }

    fn no_tunnel(&self) -> Status {
        match self.stop.is_cancelled() {
            true => status::draining(),
            false => status::offline(),
        }
    }

    async fn forward(
        &self,
        (head, request_body): (Parts, RequestBody),
        caller: &Caller,
        tunnel: &Tunnel,
        slot: OwnedSemaphorePermit,
        lifetime: CallLifetime,
        since: Instant,
    ) -> Result<Response<RelayBody>, Status> {
        let permit = tunnel.permit(Some(slot)).ok_or_else(|| {
            let what = "the machine has as many calls under way as it may";
            status::overloaded("calls_per_tunnel", what, "end some, or try later")
        })?;
        let context = forward::Context {
            relay_id: &self.relay_id,
            user: &caller.user,
            message_bytes_max: self.message_bytes_max,
            since,
            metrics: &self.metrics,
            stop: &self.stop,
        };
        forward::forward(head, request_body, tunnel, permit, lifetime, &context).await
    }

    /// Counts a connection to the tunnel port before anything else is done for it. A load
    /// balancer's is not counted, because it has those of many machines.
    pub(crate) fn admit_tunnel(&self, address: IpAddr) -> Result<(), Status> {
        match self.trusts(address) {
            true => Ok(()),
            false => self.gate.admit_address(address, Instant::now()),
        }
    }
}

fn machine_of(headers: &HeaderMap) -> Result<MachineId, Status> {
    let text = headers
        .get(metadata::MACHINE_ID)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    MachineId::new(text).map_err(|error| status::invalid(metadata::MACHINE_ID, error.to_string()))
}

/// Whether the relay answers calls of this path when they name no machine.
fn is_own(path: &str) -> bool {
    ["/grpc.health.v1.", "/grpc.reflection.", "/betcode.relay."]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
